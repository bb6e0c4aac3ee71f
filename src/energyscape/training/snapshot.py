"""Snapshots: everything a run is, saved, restored and rolled back as one.

On disk a snapshot is one safetensors file: the tensors, and in the header's metadata a JSON skeleton of where each
belongs. Nothing is ever unpickled. The file appears whole or not at all (`energyscape.files`), so that a kill at any
moment leaves the last good one.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from energyscape.errors import UserError
from energyscape.files import write_whole

DAMAGED: Final = "its header is damaged: delete it to go on from an earlier checkpoint"

FORMAT: Final = "energyscape-snapshot-1"


@dataclass(frozen=True)
class Snapshot:
    """A tree of dictionaries, lists, tuples, plain values and tensors, detached from whatever goes on training.

    Args:
        tree: What was kept; its tensors are copies.
    """

    tree: dict[str, Any]

    @staticmethod
    def of(tree: dict[str, Any]) -> "Snapshot":
        """Returns a snapshot with every tensor copied.

        Args:
            tree: Live state.
        """
        return Snapshot(_mapped(tree))

    @property
    def samples(self) -> int:
        """Samples that the run had seen."""
        return int(self.tree["clock"]["samples"])

    def copy(self) -> dict[str, Any]:
        """Returns the tree with every tensor copied once more, for code that keeps what it loads."""
        copied: dict[str, Any] = _mapped(self.tree)
        return copied

    def broken(self) -> str:
        """Returns where the first number is that is not finite, or an empty string."""
        tensors: dict[str, Tensor] = {}
        _skeleton(self.tree, "", tensors)
        bad = (name for name, each in tensors.items() if each.is_floating_point() and not each.isfinite().all())
        return next(bad, "")

    def save(self, path: Path) -> None:
        """Writes the snapshot; the file appears whole or not at all.

        Args:
            path: Where.

        Raises:
            UserError: If the disk is full or the folder cannot be written.
        """
        tensors: dict[str, Tensor] = {}
        skeleton = _skeleton(self.tree, "", tensors)
        # One entry only: safetensors writes several in any order, and equal snapshots are to be equal files.
        whole = to_bytes(tensors, metadata={FORMAT: json.dumps(skeleton)})
        write_whole(path, whole)

    @staticmethod
    def load(path: Path) -> "Snapshot":
        """Reads a snapshot.

        Args:
            path: Where it was saved.

        Raises:
            UserError: If the file is missing, truncated, or not a snapshot; a pickle is recognised and never loaded.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            raise UserError(f"{path}: there is no such file; expected a snapshot (.safetensors)") from None
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: {_diagnosed(path, error)}") from None
        if FORMAT not in metadata:
            raise UserError(f"{path}: a safetensors file, but not a snapshot of a run (no {FORMAT!r} in its header)")
        try:
            tree: dict[str, Any] = _filled(json.loads(metadata[FORMAT]), tensors)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{path}: {DAMAGED}") from None
        if not isinstance(tree, dict):
            raise UserError(f"{path}: {DAMAGED}")
        return Snapshot(tree)


class Refuge(NamedTuple):
    """Where rollbacks go.

    Args:
        good: The last snapshot that was worth keeping.
        earlier: The one before it, where there is one.
        doubtful: Whether a rollback has been to ``good`` already.
    """

    good: Snapshot
    earlier: Snapshot | None = None
    doubtful: bool = False

    def kept(self, snapshot: Snapshot) -> "Refuge":
        """Returns the refuge once there is a newer snapshot.

        Args:
            snapshot: That one.
        """
        return Refuge(snapshot, self.good)

    def returned(self) -> "Refuge":
        """Returns the refuge of a rollback, which goes to its ``good``.

        Where trouble comes again, the snapshot was near it already, and is given up for the one before.
        """
        if self.doubtful and self.earlier is not None:
            return Refuge(self.earlier, doubtful=True)
        return self._replace(doubtful=True)


def _diagnosed(path: Path, error: Exception) -> str:
    if path.is_dir():
        return "expected a snapshot file, it is a folder"
    with open(path, "rb") as file:
        start = file.read(4)
    if start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK"):
        return "expected a safetensors file, it looks like a pickle, which is never loaded: give a .safetensors file"
    size = path.stat().st_size
    return (
        f"expected a whole safetensors file, it is truncated or damaged ({size:,} bytes; {error}): "
        "delete it to go on from an earlier one"
    )


def _mapped(thing: Any) -> Any:
    if isinstance(thing, Tensor):
        return thing.detach().clone()
    if isinstance(thing, dict):
        return {key: _mapped(each) for key, each in thing.items()}
    if isinstance(thing, list | tuple):
        return type(thing)(_mapped(each) for each in thing)
    return thing


def _skeleton(thing: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """Moves a tree's tensors into a dictionary; returns the rest as JSON that keeps the types of keys and tuples."""
    if isinstance(thing, Tensor):
        while place in tensors:  # keys may read alike, such as 0 and "0", or "a.b" and "b" inside "a"
            place += "'"
        tensors[place] = thing.detach().contiguous().cpu()
        return {"tensor": place}
    if isinstance(thing, dict):
        return {"dict": [[key, _skeleton(each, f"{place}.{key}".strip("."), tensors)] for key, each in thing.items()]}
    if isinstance(thing, list | tuple):
        kind = "tuple" if isinstance(thing, tuple) else "list"
        return {kind: [_skeleton(each, f"{place}.{i}", tensors) for i, each in enumerate(thing)]}
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    raise TypeError(f"a snapshot holds tensors and plain values; at {place!r} there is a {type(thing).__name__}")


def _filled(skeleton: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(skeleton, dict):
        return skeleton
    ((kind, content),) = skeleton.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _filled(each, tensors) for key, each in content}
    items = [_filled(each, tensors) for each in content]
    return tuple(items) if kind == "tuple" else items
