"""CIFAR-10, 32×32 colour images: in the binary or the pickled layout, unpacked or in its archive, or as Parquet files.

A record of the binary layout is one byte for the label and 3,072 for the pixels, red, green and blue after each other,
row by row. A batch of the other layout is a pickled dictionary of the same numbers. A pickle is a program, and this one
is not run (see `pickles`). The Hub's files hold an image as a PNG file (see `parquet`).
"""

import gzip
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from energyscape.data.download import DownloadError, Sum, cache_folder, download
from energyscape.data.images import Images, check_split
from energyscape.data.parquet import Shards, read_shard, shards
from energyscape.data.pickles import Array, unpickled, word
from energyscape.data.reading import opened
from energyscape.errors import UserError
from energyscape.files import reading

CLASSES: Final = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

PIXELS: Final = 3 * 32 * 32
RECORD: Final = 1 + PIXELS
CHUNK: Final = 1 << 20
LARGEST: Final = 1 << 26
"""Bytes of a batch; a published one has 31,000,000."""
ARCHIVE: Final = 1 << 28
"""Bytes of an unpacked archive; a published one has 186,000,000."""

MIRRORS: tuple[str, ...] = ("https://www.cs.toronto.edu/~kriz/",)

Records = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Pixels ``(N, 3072)`` and labels ``(N,)``."""


class Layout(NamedTuple):
    """One of the two published forms of the set: its batches, and their reader."""

    folder: str
    archive: str
    known: Sum
    suffix: str
    parse: Callable[[bytes, str], Records]

    def names(self, split: str) -> list[str]:
        """Return the names of the batches of a split."""
        train = [f"data_batch_{number}{self.suffix}" for number in range(1, 6)]
        test = [f"test_batch{self.suffix}"]
        return {"train": train, "test": test, "all": train + test}[split]


def cifar10(*, root: str | None = None, split: str = "train", download: bool = True) -> Images:
    """Return CIFAR-10: 50,000 + 10,000 photographs of ten kinds of things, 32×32 pixels in colour.

    Batches may hold fewer images than the published ones, but none may be missing.

    Args:
        root: Folder that is or holds ``cifar-10-batches-bin`` or ``cifar-10-batches-py``, or holds
            ``cifar-10-binary.tar.gz`` or ``cifar-10-python.tar.gz``. It may also hold the Hub's
            ``train-00000-of-00001.parquet`` and the like, itself or in ``plain_text`` or ``data`` (these need
            ``energyscape[parquet]``). Nothing is ever downloaded into it. If None, the cache:
            ``$ENERGYSCAPE_DATA/cifar10``, else ``~/.cache/energyscape/cifar10``.
        split: ``"train"``, ``"test"`` or ``"all"``.
        download: Whether to fetch what the cache lacks (162 MB).

    Raises:
        UserError: If there is no such split, or the files are missing, unobtainable or damaged.

    References:
        Learning Multiple Layers of Features from Tiny Images (Krizhevsky, 2009), chapter 3.
        https://www.cs.toronto.edu/~kriz/cifar.html
    """
    check_split("cifar10", split)
    folder = cache_folder("cifar10") if root is None else Path(os.path.expanduser(root))
    batches = _found(folder, split)
    if batches is None and root is not None:
        raise UserError(_lacks(folder, split))
    if batches is None:
        archive = _fetch(folder, download)
        batches = _from_archive(archive, LAYOUTS[0], split)
    pixels = torch.from_numpy(np.concatenate([pixels for pixels, _ in batches])).view(-1, 3, 32, 32)
    labels: Tensor = torch.from_numpy(np.concatenate([labels for _, labels in batches]))
    return Images(pixels, labels, name="cifar10", classes=CLASSES)


def binary_batch(content: bytes, name: str) -> Records:
    """Read a batch of the binary layout."""
    if not content or len(content) % RECORD:
        raise UserError(
            f"{name}: expected records of {RECORD:,} bytes, at least one; it holds {len(content):,} bytes, which is "
            f"{len(content) / RECORD:.2f} of them: fetch it again"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    return records[:, 1:], _labels(records[:, 0], len(records), name)


def pickled_batch(content: bytes, name: str) -> Records:
    """Read a batch of the pickled layout without running it."""
    batch = unpickled(content, name)
    fields = {word(key): value for key, value in batch.items()} if isinstance(batch, dict) else {}
    data, labels = fields.get("data"), fields.get("labels")
    pixels = data.array if isinstance(data, Array) else None
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != PIXELS or not len(pixels):
        there = ", ".join(sorted(fields))[:120] or type(batch).__name__
        raise UserError(
            f"{name}: expected a dictionary with 'data', bytes of shape (N, {PIXELS}), and 'labels'; "
            f"it holds {there}: is it another file?"
        )
    values = labels.array if isinstance(labels, Array) else labels
    whole = isinstance(values, np.ndarray) or (isinstance(values, list) and all(type(each) is int for each in values))
    if not whole:
        raise UserError(f"{name}: expected labels, a list of whole numbers; it holds {type(labels).__name__}")
    return pixels, _labels(values, len(pixels), name)


def hub_batch(path: Path) -> Records:
    """Read a file of the Hub's layout."""
    pixels, labels = read_shard(path, side=32)
    return pixels, _labels(labels, len(pixels), str(path))


def _labels(values: Any, n: int, name: str) -> NDArray[np.int64]:
    if len(values) != n:
        raise UserError(f"{name}: expected {n} labels, one for each image; it holds {len(values)}")
    if min(values) < 0 or max(values) > 9:
        raise UserError(f"{name}: expected labels from 0 to 9; they go from {min(values)} to {max(values)}")
    return np.asarray(values).astype(np.int64)


# In order of preference: the binary layout cannot hold anything but numbers.
LAYOUTS: Final = (
    Layout(
        "cifar-10-batches-bin",
        "cifar-10-binary.tar.gz",
        Sum(170_052_171, "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"),
        ".bin",
        binary_batch,
    ),
    Layout(
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz",
        Sum(170_498_071, "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"),
        "",
        pickled_batch,
    ),
)


# Folder of the batches


def _found(folder: Path, split: str) -> list[Records] | None:
    """Return the batches of the first complete layout, or none."""
    for layout in LAYOUTS:
        for place in (folder / layout.folder, folder):
            paths = [place / name for name in layout.names(split)]
            if all(path.is_file() for path in paths):
                return [_parsed(layout, _read(path), str(path)) for path in paths]
    for layout in LAYOUTS:
        if (folder / layout.archive).is_file():
            return _from_archive(folder / layout.archive, layout, split)
    for place in _hub_places(folder):
        found = _hub_shards(place, split)
        if not found.missing:
            return [hub_batch(path) for path in found.paths]
    return None


def _hub_places(folder: Path) -> tuple[Path, ...]:
    return folder / "plain_text", folder / "data", folder


def _hub_shards(place: Path, split: str) -> Shards:
    parts = [shards(place, part) for part in (("train", "test") if split == "all" else (split,))]
    return Shards([path for part in parts for path in part.paths], [name for part in parts for name in part.missing])


def _parsed(layout: Layout, content: bytes, name: str) -> Records:
    with reading(name, "an intact batch of CIFAR-10"):
        return layout.parse(content, name)


def _read(path: Path) -> bytes:
    with opened(path, "a batch of CIFAR-10") as (file, size):
        if size > LARGEST:
            raise UserError(f"{path}: expected a batch of at most {LARGEST:,} bytes; it has {size:,}: is it another?")
        return file.read()


class _Unpacked:
    """A gzip file to read sequentially, limited to the size of the published archives."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.left = gzip.GzipFile(fileobj=file), ARCHIVE

    def read(self, size: int) -> bytes:
        content = self.file.read(size)
        self.left -= len(content)
        if self.left < 0:
            raise ValueError(f"it unpacks to more than {ARCHIVE:,} bytes")
        return content


def _from_archive(path: Path, layout: Layout, split: str) -> list[Records]:
    """Read the batches of a split from the archive, without unpacking it to disk."""
    names, contents = layout.names(split), dict[str, bytes]()
    with opened(path, "an intact tar.gz archive") as (packed, _):
        unpacked = _Unpacked(packed)
        with tarfile.open(fileobj=cast("BinaryIO", unpacked), mode="r|") as archive:
            for member in archive:
                name = member.name.rsplit("/", 1)[-1]
                file = archive.extractfile(member) if member.isfile() and name in names else None
                if file is not None:
                    contents[name] = file.read(LARGEST)
        while unpacked.read(CHUNK):  # to its end, where the checksum is
            pass
    if missing := [name for name in names if name not in contents]:
        raise UserError(f"{path}: expected an archive with the split {split!r}; it lacks {' and '.join(missing)}")
    return [_parsed(layout, contents[name], f"{path}, {name}") for name in names]


def _lacks(folder: Path, split: str) -> str:
    wanted = " or ".join(layout.folder for layout in LAYOUTS)
    archives = " or ".join(layout.archive for layout in LAYOUTS)
    if not folder.is_dir():
        return f"cifar10: root {folder} is not a folder: give the one that holds {wanted}, or {archives}"
    for layout in LAYOUTS:
        for place in (folder / layout.folder, folder):
            missing = [name for name in layout.names(split) if not (place / name).is_file()]
            if place.is_dir() and any((place / name).is_file() for name in layout.names("all")):
                return f"cifar10: {place} lacks {' and '.join(missing)} for split {split!r}: put them there"
    for place in _hub_places(folder):
        if _hub_shards(place, "all").paths:
            missing = _hub_shards(place, split).missing
            return f"cifar10: {place} lacks {' and '.join(missing)} for split {split!r}: put them there"
    hub = "plain_text/train-00000-of-00001.parquet and the like"
    return f"cifar10: root {folder} holds neither {wanted}, nor {archives}, nor {hub}: put one of them there"


def _fetch(folder: Path, fetch: bool) -> Path:
    layout = LAYOUTS[0]
    lacks, remedy = (
        f"cifar10: the cache {folder} lacks {layout.archive}",
        f"give root=FOLDER that holds {layout.folder}",
    )
    if not fetch:
        raise UserError(f"{lacks} and download is off: turn it on, or {remedy}")
    try:
        return download(layout.archive, folder, mirrors=MIRRORS, known=layout.known)
    except DownloadError as error:
        raise UserError(f"{lacks} and downloading it failed ({error}): check the network, or {remedy}") from error
