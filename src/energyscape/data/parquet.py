"""Images in Parquet files, as on the Hugging Face Hub: a row an image, its PNG file in a column of bytes.

A split is one file or several, ``train-00000-of-00002.parquet`` and ``train-00001-of-00002.parquet``. Each name holds
the number of files, so a missing one is noticed. Older names have sixteen hexadecimal digits behind the number.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from energyscape.data.reading import check_content, opened
from energyscape.errors import UserError, require
from energyscape.files import reading

SHARD: Final = re.compile(r"(?P<split>\w+)-(?P<number>\d{5})-of-(?P<count>\d{5})(-[0-9a-f]{16})?\.parquet")
POINTER: Final = b"version https://git-lfs"
ROWS: Final = 1000
"""Images decoded at once."""


class Shards(NamedTuple):
    """The files of a split in order, and the names of missing ones."""

    paths: list[Path]
    missing: list[str]


def shards(folder: Path, split: str) -> Shards:
    """Find the files of a split; raise an error if they do not belong together."""
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
    """Read colour images ``(N, 3 side²)``, red, green and blue after each other, and labels ``(N,)`` of a file.

    The images are in ``img`` or ``image``, a structure whose ``bytes`` is a PNG file, the labels in ``label``. Other
    columns, such as the original path of an image, are ignored.
    """
    require("pyarrow.parquet", "parquet")
    arrow = require("pyarrow", "parquet")
    pixels, labels = list[NDArray[np.uint8]](), list[int]()
    with opened(path, "an intact Parquet file") as (file, size):
        for image, label in _rows(arrow, file, size, path, 3 * side**2):
            pixels.append(_planes(image, side, f"{path}, row {len(labels)}"))
            labels.append(label)
        if not pixels:
            raise UserError(f"{path}: expected at least one image; it holds none")
        return np.stack(pixels), np.array(labels, np.int64)


def _rows(arrow: Any, file: BinaryIO, size: int, path: Path, pixels: int) -> Iterator[tuple[bytes, int]]:
    """Yield each row's PNG file and label."""
    if file.read(len(POINTER)) == POINTER:
        raise UserError(f"{path}: expected a Parquet file; it is a pointer to one: fetch it with 'git lfs pull'")
    with arrow.parquet.ParquetFile(file) as shard:
        image = _image_column(arrow, path, shard.schema_arrow)
    # Keep dictionaries encoded: a file of a kilobyte may repeat one value in any number of rows.
    as_they_are: Any = {"read_dictionary": [f"{image}.bytes"], "page_checksum_verification": True}
    with arrow.parquet.ParquetFile(file, **as_they_are) as shard:
        groups = [shard.metadata.row_group(i) for i in range(shard.num_row_groups)]
        check_content(sum(group.total_byte_size + group.num_rows * pixels for group in groups), size, path)
        columns = [f"{image}.bytes", "label"]
        for i in range(len(groups)):
            for batch in shard.iter_batches(ROWS, row_groups=[i], columns=columns, use_threads=False):
                yield from _values(batch.column(image).flatten()[0], batch.column("label"), path)


def _values(images: Any, labels: Any, path: Path) -> Iterator[tuple[bytes, int]]:
    values = images.dictionary.to_pylist()
    for index, label in zip(images.indices.to_pylist(), labels.to_pylist(), strict=True):
        if index is None or label is None:
            raise UserError(f"{path}: expected an image and a label in every row; there is one without")
        yield values[index], label


def _image_column(arrow: Any, path: Path, schema: Any) -> str:
    """Return the name of the column of images."""
    types = arrow.types
    kinds = {name: schema.field(name).type for name in schema.names if schema.names.count(name) == 1}
    for name in ("img", "image"):
        kind = kinds.get(name)
        if kind is None or "label" not in kinds or not types.is_integer(kinds["label"]) or not types.is_struct(kind):
            continue
        inner = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
        if "bytes" in inner and (types.is_binary(inner["bytes"]) or types.is_large_binary(inner["bytes"])):
            return name
    there = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())[:300]
    raise UserError(
        f"{path}: expected columns img or image, a struct with bytes, and label, whole numbers; it holds {there}: "
        "is it another data set?"
    )


def _planes(content: bytes, side: int, name: str) -> NDArray[np.uint8]:
    """Return the pixels of a PNG file, ``(3 side²,)``; decode it only if its size is right."""
    import PIL.Image

    with reading(name, "a PNG image"), PIL.Image.open(io.BytesIO(content), formats=("PNG",)) as image:
        if image.size != (side, side) or image.mode != "RGB":
            width, height = image.size
            raise UserError(
                f"{name}: expected an image of {side}×{side} pixels, RGB; it is {height}×{width}, {image.mode}: "
                "is it another data set?"
            )
        return np.asarray(image).transpose(2, 0, 1).reshape(-1)
