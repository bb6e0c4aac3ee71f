"""Tables of numbers in files: NPY and NPZ arrays, and CSV with or without a line of names."""

import csv
import math
from array import array
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any, BinaryIO, Final
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from energyscape.data.reading import check_content, opened
from energyscape.errors import UserError

ARRAYS: Final = (".npy", ".npz", ".csv")

LINE: Final = 1 << 24
"""Characters that a line of a table may have."""


def read_array(path: Path) -> NDArray[Any]:
    """Return the array of an NPY or NPZ file (named ``x``, or the only one), or the numbers of a CSV table, float64.

    A table's first line may be names. The caller checks the shape.
    """
    suffix = path.suffix.lower()
    if suffix not in ARRAYS:
        raise UserError(f"{path}: expected one of {', '.join(ARRAYS)}; it is {suffix or 'without a suffix'}")
    with opened(path, "a table of numbers" if suffix == ".csv" else "an array of numbers") as (file, size):
        return _table(file) if suffix == ".csv" else _array(file, size, path)


def _table(file: BinaryIO) -> NDArray[np.float64]:
    numbers, width, named = array("d"), 0, False
    with TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        for number, line in enumerate(iter(lambda: text.readline(LINE), ""), 1):
            if len(line) == LINE:
                raise ValueError(f"line {number} has more than {LINE:,} characters")
            cells = next(csv.reader([line]), [])
            values = [_number(cell) for cell in cells]
            if not any(cell.strip() for cell in cells):
                continue
            if not width and not named and all(value is None for value in values):
                named = True
                continue
            if None in values:
                wrong = cells[values.index(None)][:40]
                raise ValueError(f"line {number} holds {wrong!r}, which is no number: one point a line, commas between")
            if width and len(values) != width:
                raise ValueError(f"its rows differ in length: {len(values)} in line {number}, {width} before")
            width = len(values)
            numbers.extend(value for value in values if value is not None)
    return np.array(numbers).reshape(len(numbers) // max(width, 1), width)


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _array(file: BinaryIO, size: int, path: Path) -> NDArray[Any]:
    if file.read(2) != b"PK":
        return _plain(file, size)
    with ZipFile(file) as archive:
        entries = {each.filename.removesuffix(".npy"): each for each in archive.infolist()}
        if "x" not in entries and len(entries) != 1:
            there = ", ".join(map(repr, [*entries][:9])) or "none"
            raise UserError(f"{path}: expected one array, or one named x; it holds {there}")
        entry = entries.get("x") or entries.popitem()[1]
        check_content(entry.file_size, size, path)
        with archive.open(entry) as content:
            return _plain(content, entry.file_size)


def _plain(file: IO[bytes], size: int) -> NDArray[Any]:
    """Return a NumPy array; compare its header with the size of its file before allocating memory."""
    file.seek(0)
    old = np.lib.format.read_magic(file) == (1, 0)
    shape, _, dtype = (np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0)(file)
    if (claimed := file.tell() + math.prod(shape) * dtype.itemsize) > size:
        raise ValueError(f"it claims {claimed:,} bytes and has {size:,}")
    file.seek(0)
    array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array
