"""Files that appear whole or not at all.

A file is written beside its place, synced and renamed, so that a kill at any moment leaves the old one.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from energyscape.errors import UserError


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file so that it appears whole or not at all.

    Args:
        path: Where.
        content: Its bytes.

    Raises:
        UserError: If the disk is full or the folder cannot be written.
    """
    with whole(path) as file:
        file.write(content)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """Opens a file to write that appears when the block ends, whole, or not at all.

    Args:
        path: Where.

    Raises:
        UserError: If the disk is full or the folder cannot be written; any OSError inside the block is taken for that.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        sync(path.parent)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}. What was written before is intact; make room or choose "
            "another folder, then run the same command again"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk.

    Args:
        path: Of either.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
