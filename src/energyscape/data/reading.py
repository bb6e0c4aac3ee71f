"""Foreign bytes: the one place where a fault of a file becomes one line, and where the size it claims is checked.

Parsers of other projects answer damaged bytes with any exception there is. Here all of them run inside `reading`, and
nothing is allocated for a size that a file only claims: content may be `SMALL`, or `RATIO` times as large as its file.
"""

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from energyscape.errors import UserError
from energyscape.memory import require_memory

SMALL: Final = 1 << 28
"""Bytes that the content of any file may have."""

RATIO: Final = 20
"""How many times as large as its file larger content may be; deflate makes images about five times smaller."""


@contextmanager
def reading(name: object, what: str) -> Iterator[None]:
    """Turn whatever a parser raises inside the block into one line.

    Args:
        name: The file, or what lies in it.
        what: What was expected there, such as ``"an intact gzip file"``.

    Raises:
        UserError: For every exception of the block.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{name}: there is no such file; expected {what}") from None
    except Exception as error:  # damaged bytes fail in any way that a parser can
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise UserError(
            f"{name}: expected {what}; it cannot be read ({' '.join(reason.split())[:160]}): replace it"
        ) from error


@contextmanager
def opened(path: Path, what: str) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file inside `reading`; yield it and its size. Folders, pipes and devices are refused."""
    # Without O_NONBLOCK a pipe would wait for its writer.
    with (
        reading(path, what),
        open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file,
    ):
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{path}: expected {what}; it is a folder, a pipe or a device: give a file")
        require_memory(found.st_size, str(path))
        yield file, found.st_size


def check_content(claimed: int, size: int, name: object) -> None:
    """Raise an error if content of ``claimed`` bytes is out of proportion to its file's ``size``, or to the memory."""
    limit = max(SMALL, RATIO * size)
    if claimed > limit:
        raise UserError(
            f"{name}: expected content of at most {limit:,} bytes in a file of {size:,}; it claims {claimed:,}: "
            "replace it if it is damaged, else split it"
        )
    require_memory(2 * claimed, str(name))
