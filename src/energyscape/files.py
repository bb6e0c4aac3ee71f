"""Files: written atomically, locked, and read within limits.

A file is written beside its place, synced and renamed, so that a kill at any moment leaves the old one. Readers check
sizes against the file and a limit before they allocate memory, and report damage in one line.
"""

import contextlib
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from safetensors import safe_open
from torch import Tensor

from energyscape.errors import UserError
from energyscape.memory import require_memory

LARGEST_TEXT: Final = 16 << 20
"""Bytes of the largest JSON or TOML file that is read."""

PART: Final = re.compile(r"\..+\.([1-9][0-9]*)\.part", re.DOTALL)
"""The name of a file or folder that a process is writing, with its process number."""


# --- writing ----------------------------------------------------------------------------------------------------------


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically; raise a UserError with the reason if that fails."""
    with atomic_write(path) as file:
        file.write(content)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears when the block ends; turn any OSError inside into a UserError."""
    with _beside(path) as part, open(part, "xb") as file:  # exclusive: follows no link that is already there
        lock(file.fileno())
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that gets its name when the block ends; refuse a name that is taken."""
    path = path.absolute()
    check_absent(path)
    with _beside(path) as part:
        part.mkdir()
        with _holding(part):
            yield part
            for each in [*part.rglob("*"), part]:
                sync(each)


def check_file_name(path: Path) -> None:
    """Raise a UserError if a file could not have that name because of a folder or a file there."""
    if path.is_dir() or (path.parent.exists() and not path.parent.is_dir()):
        raise UserError(f"{path}: expected the name of a file in a folder")


def check_absent(path: Path) -> None:
    """Raise a UserError if a file or a folder that is not empty would be overwritten."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path} exists and is not overwritten: give another name, or delete it first")


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Yield a temporary path, renamed when the block ends without an exception, and removed otherwise."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(part)
        yield part
        os.replace(part, path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}. What was written before is intact; make room or choose "
            "another folder, then run the same command again"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            _remove(part)
    with contextlib.suppress(OSError):  # the file is complete; a failure to sync its name is harmless
        sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk; Windows syncs no folders."""
    if sys.platform == "win32" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lock(handle: int) -> bool:
    """Lock an open file until it is closed or its process ends; return whether it was free."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _holding(path: Path) -> Iterator[bool]:
    """Lock a file or folder inside the block, without following a link; yield whether it was free."""
    handle = None
    with contextlib.suppress(OSError):  # Windows opens no folders
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        yield handle is None or lock(handle)
    finally:
        if handle is not None:
            os.close(handle)


def clear_orphans(folder: Path) -> None:
    """Remove the part files and folders below a folder whose processes have ended."""
    for each in [*folder.rglob(".*.part")]:
        if (match := PART.fullmatch(each.name)) and not _lives(int(match[1])):
            with _holding(each) as free, contextlib.suppress(OSError):
                if free:
                    _remove(each)


def _lives(process: int) -> bool:
    """Whether another process of that number exists; a container may give every process the same one."""
    if process == os.getpid():
        return False
    if sys.platform == "win32":  # Windows has no null signal
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _remove(path: Path) -> None:
    """Remove a file, link or folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# --- reading ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def foreign(blame: str) -> Iterator[None]:
    """Turn any exception from foreign bytes into a one-line UserError that begins with the blame."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # parsers of foreign bytes raise anything: KeyError, RecursionError, OverflowError, …
        what = " ".join(str(getattr(error, "strerror", None) or error).split())[:300] or type(error).__name__
        raise UserError(f"{blame}: {what}") from None


@contextlib.contextmanager
def reading(path: Path | str, expected: str) -> Iterator[None]:
    """Turn any exception from a foreign file into a one-line UserError: what was expected, what came."""
    with foreign(f"{path}: expected {expected}, it cannot be read"):
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{path}: there is no such file; expected {expected}") from None


def read_bytes(path: Path, *, limit: int = LARGEST_TEXT) -> bytes:
    """Return the content of a regular file of at most so many bytes, inside a `reading` block."""
    size = _size(path)
    if size > limit:
        raise ValueError(f"it has {size:,} bytes, of at most {limit:,}")
    with open(path, "rb") as file:
        return file.read(size)


def _size(path: Path) -> int:
    """Return the size of a regular file; refuse a device or a pipe, which may never end."""
    size = path.stat().st_size
    if not path.is_file():
        raise ValueError("it is a folder" if path.is_dir() else "it is no regular file")
    return size


def read_json(path: Path, expected: str) -> dict[str, Any]:
    """Return the JSON object in a file, or raise a UserError."""
    with reading(path, expected):
        table = from_json(read_bytes(path))
        if not isinstance(table, dict):
            raise ValueError(f"it holds a {type(table).__name__} and no table")
    return table


def from_json(text: str | bytes) -> Any:
    """Return the value of JSON text; raise an error for whole numbers beyond 64 bits."""
    return json.loads(text, parse_int=_integer)


def _integer(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**64:
        raise ValueError(f"a whole number has more than 64 bits: {text[:20]} …")
    return int(text)


def as_json(thing: Any, *, indent: int | None = None) -> str:
    """Return JSON in which non-finite numbers are null, because it has no NaN."""
    return json.dumps(_finite(thing), indent=indent, allow_nan=False)


def _finite(thing: Any) -> Any:
    if isinstance(thing, dict):
        return {key: _finite(each) for key, each in thing.items()}
    if isinstance(thing, list | tuple):
        return [_finite(each) for each in thing]
    return None if isinstance(thing, float) and not math.isfinite(thing) else thing


def read_tensors(path: Path, expected: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file, or raise a UserError; a pickle is never loaded."""
    with reading(path, expected):
        require_memory(_size(path), f"reading {path}")
        with open(path, "rb") as file:
            if file.read(2) in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK"):
                raise ValueError("it looks like a pickle, which is never loaded: give a .safetensors file")
        with safe_open(path, framework="pt") as kept:  # checks the header against the file's size
            return {name: kept.get_tensor(name) for name in kept.keys()}, kept.metadata() or {}  # noqa: SIM118
