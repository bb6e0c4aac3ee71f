"""Folders that appear whole or not at all, and what is read out of those of others."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from energyscape.atomic import sync
from energyscape.errors import UserError


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Gives a place to write to, which gets its name when the block ends without an exception, and is gone otherwise.

    Args:
        path: The file or folder that is to be; it does not exist yet, or is an empty folder.

    Raises:
        UserError: If something is there, or it cannot be written.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path} exists, and is not written over: give another name, or delete it first")
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        for each in [beside, *beside.rglob("*")]:
            sync(each)
        os.replace(beside, path)
        sync(path.parent)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; nothing was left behind") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        with contextlib.suppress(OSError):
            beside.unlink()


def table_in(path: Path, *, what: str) -> dict[str, Any]:
    """Returns the JSON object in a file.

    Args:
        path: The file.
        what: What is expected, for the message.

    Raises:
        UserError: If it is missing or is something else.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: there is no such file; expected {what}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected {what}, it cannot be read ({error})") from None
    if not isinstance(table, dict):
        raise UserError(f"{path}: expected {what}, it holds a {type(table).__name__} and no table")
    return table
