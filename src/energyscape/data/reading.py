"""Reading data files: any fault is one line, and no memory is allocated for a size that a file only claims.

Content may have `SMALL` bytes, or be `RATIO` times as large as its file.
"""

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from energyscape.errors import UserError
from energyscape.files import reading
from energyscape.memory import require_memory

SMALL: Final = 1 << 28
"""Bytes that the content of any file may have."""

RATIO: Final = 20
"""Largest ratio of content to file size, for larger content; deflate makes images about five times smaller."""


@contextmanager
def opened(path: Path, what: str) -> Iterator[tuple[BinaryIO, int]]:
    """Open a regular file for parsers that may raise or warn anything; yield it and its size."""
    # Without O_NONBLOCK a pipe would wait for its writer.
    with (
        reading(path, what),
        open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{path}: expected {what}; it is a folder, a pipe or a device: give a file")
        require_memory(found.st_size, str(path))
        yield file, found.st_size


def check_content(claimed: int, size: int, name: object) -> None:
    """Raise an error if ``claimed`` bytes are out of proportion to the file's ``size``, or to the memory."""
    limit = max(SMALL, RATIO * size)
    if claimed > limit:
        raise UserError(
            f"{name}: expected content of at most {limit:,} bytes in a file of {size:,}; it claims {claimed:,}: "
            "replace it if it is damaged, else split it"
        )
    require_memory(2 * claimed, str(name))
