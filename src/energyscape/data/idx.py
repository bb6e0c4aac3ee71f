r"""The idx format of MNIST and its relatives.

A file is a header and then its values, last index fastest, all numbers big-endian:

    0  0  type  d        four bytes; the type is 8 for unsigned bytes, d the number of dimensions
    n_1 ... n_d          d unsigned 32-bit integers
    values               n_1 n_2 ... n_d bytes, and nothing after them

The file may be compressed with gzip, recognised by its first two bytes and not by its name.

References:
    The MNIST database of handwritten digits (LeCun, Cortes & Burges), "File formats".
    http://yann.lecun.com/exdb/mnist/
"""

import gzip
import math
import struct
from pathlib import Path
from typing import BinaryIO, cast

import torch
from torch import Tensor

from energyscape.data.reading import check_content, opened
from energyscape.errors import UserError

CHUNK = 1 << 20


def read_idx(path: str | Path, *, dimensions: int) -> Tensor:
    """Read and check an idx file of unsigned bytes.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "labels")
        ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 0, 9]))
        ...     read_idx(path, dimensions=1)
        tensor([7, 0, 9], dtype=torch.uint8)
    """
    path = Path(path)
    with opened(path, "an intact idx file") as (file, size):
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        return _parse(cast("BinaryIO", gzip.GzipFile(fileobj=file)) if packed else file, size, path, dimensions)


def _parse(file: BinaryIO, size: int, path: Path, dimensions: int) -> Tensor:
    magic, expected = file.read(4), bytes([0, 0, 8, dimensions])
    if magic != expected:
        raise UserError(
            f"{path}: expected the idx magic number {expected.hex()} (unsigned bytes, {dimensions} dimensions); "
            f"it begins with {magic.hex() or 'nothing'}: is it another file?"
        )
    header = file.read(4 * dimensions)
    if len(header) < 4 * dimensions:
        raise UserError(
            f"{path}: expected {4 * dimensions} bytes of sizes; it ends after {len(header)}: fetch it again"
        )
    sizes = struct.unpack(f">{dimensions}I", header)
    count = math.prod(sizes)
    if count == 0:
        raise UserError(f"{path}: expected at least one value; its sizes are {_times(sizes)}")
    check_content(count, size, path)
    # In chunks, and never past one byte too many: the file may hold less than it claims, or more.
    values = bytearray()
    while len(values) <= count and (chunk := file.read(CHUNK)):
        values += chunk
    if len(values) != count:
        came = f"only {len(values):,}" if len(values) < count else "more"
        raise UserError(
            f"{path}: expected {count:,} bytes of values ({_times(sizes)}); it holds {came}: fetch it again"
        )
    return torch.frombuffer(values, dtype=torch.uint8).reshape(sizes)


def _times(sizes: tuple[int, ...]) -> str:
    return "×".join(map(str, sizes))
