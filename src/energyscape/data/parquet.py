"""Images in Parquet files, as the Hugging Face Hub keeps them: a row an image, its PNG file in a column of bytes.

A split is one file or several, ``train-00000-of-00002.parquet`` and ``train-00001-of-00002.parquet``: each name says
how many there are, so that a missing one is noticed. Older ones have sixteen hexadecimal digits behind the number.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from energyscape.errors import UserError, needed

SHARD: Final = re.compile(r"(?P<split>\w+)-(?P<number>\d{5})-of-(?P<count>\d{5})(-[0-9a-f]{16})?\.parquet")
POINTER: Final = b"version https://git-lfs"
ROWS: Final = 1000
"""Images decoded at once."""


class Shards(NamedTuple):
    """The files of a split.

    Args:
        paths: Those that are there, in order.
        missing: The names of those that are not.
    """

    paths: list[Path]
    missing: list[str]


def shards(folder: Path, split: str) -> Shards:
    """Looks for the files of a split.

    Args:
        folder: Where they lie.
        split: What their names begin with.

    Raises:
        UserError: If they do not belong together: two have one number, or they disagree how many there are.
    """
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    matches = [match for match in map(SHARD.fullmatch, names) if match and match["split"] == split]
    numbered = {int(match["number"]): folder / match.string for match in matches}
    counts = {int(match["count"]) for match in matches} or {1}
    count = max(counts)
    if len(counts) > 1 or len(numbered) < len(matches) or any(number >= count for number in numbered):
        raise UserError(
            f"{folder}: expected the {split} files of one data set, numbered from 0; it holds "
            f"{' and '.join(match.string for match in matches)}: remove those of another"
        )
    missing = [f"{split}-{i:05d}-of-{count:05d}.parquet" for i in range(count) if i not in numbered]
    return Shards([path for _, path in sorted(numbered.items())], missing)


def read_shard(path: Path, *, side: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Reads colour images and labels of a file.

    The images are in ``img`` or ``image``, a structure whose ``bytes`` is a PNG file, the labels in ``label``. What
    else there is, such as the path that an image once had, is not looked at.

    Args:
        path: The file.
        side: Height and width that each image must have, in pixels.

    Returns:
        Pixels ``(N, 3 side²)``, red, green and blue after each other, row by row, and labels ``(N,)``.

    Raises:
        UserError: If it is something else or damaged, or pyarrow is not installed.
    """
    needed("pyarrow.parquet", "parquet")
    arrow = needed("pyarrow", "parquet")
    pixels, labels = list[NDArray[np.uint8]](), list[int]()
    try:
        for image, label in _rows(arrow, path):
            pixels.append(_planes(image, side, f"{path}, row {len(labels)}"))
            labels.append(label)
    except (arrow.lib.ArrowException, OSError) as error:
        reason = "; ".join(str(error).splitlines()) or type(error).__name__
        raise UserError(
            f"{path}: expected an intact Parquet file; it cannot be read ({reason}): fetch it again"
        ) from error
    if not pixels:
        raise UserError(f"{path}: expected at least one image; it holds none")
    return np.stack(pixels), np.array(labels, np.int64)


def _rows(arrow: Any, path: Path) -> Iterator[tuple[bytes, int]]:
    """Yields each row's PNG file and label."""
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise UserError(f"{path}: expected a Parquet file; it is a pointer to one: fetch it with 'git lfs pull'")
    with arrow.parquet.ParquetFile(path, page_checksum_verification=True) as shard:
        image = _image_column(arrow, path, shard.schema_arrow)
        for batch in shard.iter_batches(ROWS, columns=[f"{image}.bytes", "label"], use_threads=False):
            images, labels = (batch.column(name).to_pylist() for name in (image, "label"))
            for each, label in zip(images, labels, strict=True):
                if each is None or each["bytes"] is None or label is None:
                    raise UserError(f"{path}: expected an image and a label in every row; there is one without")
                yield each["bytes"], label


def _image_column(arrow: Any, path: Path, schema: Any) -> str:
    """Returns the name of the column of images."""
    types = arrow.types
    kinds = {name: schema.field(name).type for name in schema.names if schema.names.count(name) == 1}
    for name in ("img", "image"):
        kind = kinds.get(name)
        if kind is None or "label" not in kinds or not types.is_integer(kinds["label"]) or not types.is_struct(kind):
            continue
        inner = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
        if "bytes" in inner and (types.is_binary(inner["bytes"]) or types.is_large_binary(inner["bytes"])):
            return name
    raise UserError(
        f"{path}: expected columns img or image, a struct with bytes, and label, whole numbers; it holds "
        f"{', '.join(f'{name} ({kind})' for name, kind in kinds.items())}: is it another data set?"
    )


def _planes(content: bytes, side: int, name: str) -> NDArray[np.uint8]:
    """Returns the pixels of a PNG file, ``(3 side²,)``; what is in it is decoded only if its size is the right one."""
    import PIL.Image

    try:
        with PIL.Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            if image.size != (side, side) or image.mode != "RGB":
                width, height = image.size
                raise UserError(
                    f"{name}: expected an image of {side}×{side} pixels, RGB; it is {height}×{width}, {image.mode}: "
                    "is it another data set?"
                )
            return np.asarray(image).transpose(2, 0, 1).reshape(-1)
    except UserError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, PIL.Image.DecompressionBombError):
        raise UserError(
            f"{name}: expected a PNG image; it is another kind of file, or damaged: fetch it again"
        ) from None
