"""Snapshots: the complete state of a run, saved, restored and rolled back as one.

On disk a snapshot is one safetensors file of tensors. The header's metadata holds a digest of all other bytes and a
JSON skeleton that places each tensor. Nothing is ever unpickled. The file is written atomically (`energyscape.files`):
a kill at any moment leaves the last good one, and no digest without its file.
"""

import functools
import hashlib
import json
import logging
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from safetensors.torch import save as to_bytes
from torch import Tensor

from energyscape.errors import UserError
from energyscape.files import atomic_write, foreign, from_json, read_tensors

FORMAT: Final = "energyscape-snapshot-2"
UNSEALED: Final = "energyscape-snapshot-1"
"""The format without a digest."""

DIGEST: Final = 64
"""Characters of the SHA-256 digest, which come before the skeleton."""


@dataclass(frozen=True)
class Snapshot:
    """A tree of dictionaries, lists, tuples, plain values and tensors, detached from the running training.

    Args:
        tree: The saved state; its tensors are copies.
    """

    tree: dict[str, Any]

    @staticmethod
    def of(tree: dict[str, Any]) -> "Snapshot":
        """Return a snapshot of live state, with every tensor copied."""
        return Snapshot(_mapped(tree))

    @property
    def samples(self) -> int:
        """Number of samples that the run had seen."""
        return int(self.tree["clock"]["samples"])

    def copy(self) -> dict[str, Any]:
        """Return the tree with every tensor copied once more, for code that keeps its arguments."""
        copied: dict[str, Any] = _mapped(self.tree)
        return copied

    def broken(self) -> str:
        """Return the place of the first number that is not finite, or an empty string."""
        tensors: dict[str, Tensor] = {}
        _skeleton(self.tree, "", tensors)
        bad = (name for name, each in tensors.items() if each.is_floating_point() and not each.isfinite().all())
        return next(bad, "")

    def check(self, like: "Snapshot") -> None:
        """Raise an error if a value has another type than in a snapshot from the beginning of the same run."""
        _check_kinds(self.tree, like.tree, "")

    def save(self, path: Path) -> None:
        """Write the snapshot; the file appears whole or not at all.

        Args:
            path: The file.

        Raises:
            UserError: If the disk is full or the folder cannot be written.
        """
        tensors: dict[str, Tensor] = {}
        skeleton = json.dumps(_skeleton(self.tree, "", tensors))
        # One entry only: safetensors writes several in any order, and equal snapshots are to be equal files.
        content = to_bytes(tensors, metadata={FORMAT: "0" * DIGEST + skeleton})
        digest = _digest(memoryview(content))
        with atomic_write(path) as file:
            file.write(content)
            file.seek(_start(memoryview(content)))
            file.write(digest)

    @staticmethod
    def load(path: Path) -> "Snapshot":
        """Read a snapshot.

        Args:
            path: The file.

        Raises:
            UserError: If the file is missing, damaged in any bit, or not a snapshot; a pickle is recognised and never
                loaded.
        """
        tensors, metadata = read_tensors(path, "a whole snapshot (.safetensors)")
        with foreign(f"{path}: expected a whole snapshot, it is damaged"):
            skeleton = metadata.get(FORMAT, "")
            if skeleton:
                with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    if _digest(memoryview(content)) != skeleton[:DIGEST].encode():
                        raise ValueError("its digest is that of other bytes")
            elif UNSEALED in metadata:
                note(f"{path.parent}: checkpoints of an earlier version have no digest; damage cannot be detected")
            else:
                raise UserError(
                    f"{path}: a safetensors file, but not a snapshot of a run (no {FORMAT!r} in its header)"
                )
            tree = _filled(from_json(skeleton[DIGEST:] or metadata[UNSEALED]), tensors)
            if not isinstance(tree, dict):
                raise ValueError("its header holds no table")
        return Snapshot(tree)


@functools.cache
def note(text: str) -> None:
    """Log a line once; without a handler, Python writes it to stderr."""
    logging.getLogger("energyscape").warning("energyscape: %s", text)


def _start(content: memoryview) -> int:
    """Return the position of the digest in a file."""
    header = bytes(content[: 8 + int.from_bytes(content[:8], "little")])
    return header.index(b'"%s":"' % FORMAT.encode()) + len(FORMAT) + 4


def _digest(content: memoryview) -> bytes:
    """Return the digest of all bytes but its own."""
    start = _start(content)
    with content, content[:start] as before, content[start + DIGEST :] as after:
        digest = hashlib.sha256(before)
        digest.update(after)
    return digest.hexdigest().encode()


class RollbackPoints(NamedTuple):
    """The snapshots to roll back to.

    Args:
        good: The last good snapshot.
        earlier: The one before it, if any.
        doubtful: Whether a rollback has already gone to ``good``.
    """

    good: Snapshot
    earlier: Snapshot | None = None
    doubtful: bool = False

    def kept(self, snapshot: Snapshot) -> "RollbackPoints":
        """Return the points with a newer snapshot in front."""
        return RollbackPoints(snapshot, self.good)

    def returned(self) -> "RollbackPoints":
        """Return the points after a rollback to ``good``.

        If a second rollback follows, that snapshot was already close to failure, and the one before it takes its place.
        """
        if self.doubtful and self.earlier is not None:
            return RollbackPoints(self.earlier, doubtful=True)
        return self._replace(doubtful=True)


def _check_kinds(here: Any, there: Any, place: str) -> None:
    """Raise an error unless both trees hold values of the same types; None matches any."""
    if here is None or there is None:
        return
    kind = next(each for each in (dict, list | tuple, Tensor, int | float, str) if isinstance(there, each))
    if not isinstance(here, kind):
        raise TypeError(f"{place.strip('.')} is a {type(here).__name__}")
    if isinstance(here, dict):
        for key, each in here.items():
            _check_kinds(each, there.get(key, each), f"{place}.{key}")
    elif isinstance(here, list | tuple):
        for index, each in enumerate(here):
            _check_kinds(each, there[index] if index < len(there) else here[0], f"{place}.{index}")


def _mapped(thing: Any) -> Any:
    if isinstance(thing, Tensor):
        return thing.detach().clone()
    if isinstance(thing, dict):
        return {key: _mapped(each) for key, each in thing.items()}
    if isinstance(thing, list | tuple):
        return type(thing)(_mapped(each) for each in thing)
    return thing


def _skeleton(thing: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """Move a tree's tensors into a dictionary; return the rest as JSON that keeps the types of keys and tuples."""
    if isinstance(thing, Tensor):
        while place in tensors:  # keys may look equal, such as 0 and "0", or "a.b" and "b" inside "a"
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
