"""Tables of numbers in files: NPY and NPZ arrays, and CSV with or without a line of names."""

import csv
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from energyscape.errors import UserError

ARRAYS: Final = (".npy", ".npz", ".csv")


def read_array(path: Path) -> NDArray[Any]:
    """Reads an array of any shape and kind; what it should hold is for the caller to check.

    Args:
        path: An NPY or NPZ array (NPZ: the array named ``x``, or the only one) or a CSV table, whose first line may be
            names.

    Returns:
        The array; float64 ``(rows, columns)`` of a CSV table, without its line of names.

    Raises:
        UserError: If the file is missing, of another kind, or damaged.
    """
    suffix = path.suffix.lower()
    if suffix not in ARRAYS:
        raise UserError(f"{path}: expected one of {', '.join(ARRAYS)}; it is {suffix or 'without a suffix'}")
    return readable(path, _table if suffix == ".csv" else _array)


def readable(path: Path, read: Callable[[Path], NDArray[Any]]) -> NDArray[Any]:
    """Returns what was read from a file, any fault of it said in one line.

    Args:
        path: The file.
        read: Reads it.

    Raises:
        UserError: If there is no such file or it cannot be read.
    """
    try:
        return read(path)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except UserError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, BadZipFile, zlib.error, csv.Error) as error:
        what = " ".join(str(error).split())[:120] if "pickle" not in str(error) else "it holds no plain array"
        raise UserError(f"{path}: cannot be read as {path.suffix.lower()}: {what}") from None


def _table(path: Path) -> NDArray[np.float64]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file)
        rows = [(lines.line_num, row) for row in lines if any(cell.strip() for cell in row)]
    if rows and all(_number(cell) is None for cell in rows[0][1]):
        rows = rows[1:]
    for line, row in rows:
        if len(row) != len(rows[0][1]):
            raise ValueError(f"its rows differ in length: {len(row)} in line {line}, {len(rows[0][1])} before")
        if (wrong := next((cell for cell in row if _number(cell) is None), None)) is not None:
            raise ValueError(f"line {line} holds {wrong[:40]!r}, which is no number: one point a line, commas between")
    return np.array([[float(cell) for cell in row] for _, row in rows], dtype=np.float64)


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _array(path: Path) -> NDArray[Any]:
    # Opened here: NumPy leaves a file that it cannot read open.
    with open(path, "rb") as file:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        name = "x" if "x" in loaded.files else loaded.files[0] if len(loaded.files) == 1 else None
        if name is None:
            raise UserError(f"{path}: expected one array, or one named x; it holds {', '.join(loaded.files) or 'none'}")
        found: NDArray[Any] = loaded[name]
        if not isinstance(found, np.ndarray):
            raise UserError(f"{path}: {name!r} in it is no array")
        return found
