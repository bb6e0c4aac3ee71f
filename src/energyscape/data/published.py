"""MNIST and its relatives: four idx files each, published on mirrors and kept in a cache."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from energyscape.data.download import DownloadError, cache_folder, download
from energyscape.data.idx import read_idx
from energyscape.data.images import Images, check_split
from energyscape.errors import UserError


@final
@dataclass(frozen=True, kw_only=True)
class Published:
    """A data set in MNIST's four idx files: where it is published, and the MD5 sums of its files.

    Args:
        name: Its name here and in the cache.
        mirrors: Addresses that a file's name is appended to.
        md5: File name to MD5 sum.
        classes: What label 0, …, 9 is called.
    """

    name: str
    mirrors: tuple[str, ...]
    md5: Mapping[str, str]
    classes: tuple[str, ...]


PUBLISHED = {
    "mnist": Published(
        name="mnist",
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        md5={
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
        classes=tuple("0123456789"),
    ),
    "fashion-mnist": Published(
        name="fashion-mnist",
        mirrors=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        md5={
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
        classes=("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
    "kmnist": Published(
        name="kmnist",
        mirrors=("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
        md5={
            "train-images-idx3-ubyte.gz": "bdb82020997e1d708af4cf47b453dcf7",
            "train-labels-idx1-ubyte.gz": "e144d726b3acfaa3e44228e80efcd344",
            "t10k-images-idx3-ubyte.gz": "5c965bf0a639b31b8f53240b1b52f4d7",
            "t10k-labels-idx1-ubyte.gz": "7320c461ea6c1c855c0b718fb2a4b134",
        },
        classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    ),
}


def mnist(*, root: str | None = None, split: str = "train", download: bool = True) -> Images:
    """Returns MNIST: 60,000 + 10,000 handwritten digits of 28×28 pixels.

    Args:
        root: Folder that holds the idx files, compressed or not; nothing is ever downloaded into it. If None, the
            cache: ``$ENERGYSCAPE_DATA/mnist``, else ``~/.cache/energyscape/mnist``.
        split: ``"train"``, ``"test"`` or ``"all"``.
        download: Whether to fetch what the cache lacks.

    Raises:
        UserError: If there is no such split, or the files are missing, unobtainable or damaged.

    References:
        Gradient-based learning applied to document recognition (LeCun et al., 1998).
        https://doi.org/10.1109/5.726791
    """
    return _published(PUBLISHED["mnist"], root, split, download)


def fashion_mnist(*, root: str | None = None, split: str = "train", download: bool = True) -> Images:
    """Returns Fashion-MNIST: 60,000 + 10,000 pictures of clothes of 28×28 pixels.

    Args:
        root: Folder that holds the idx files, compressed or not; nothing is ever downloaded into it. If None, the
            cache: ``$ENERGYSCAPE_DATA/fashion-mnist``, else ``~/.cache/energyscape/fashion-mnist``.
        split: ``"train"``, ``"test"`` or ``"all"``.
        download: Whether to fetch what the cache lacks.

    Raises:
        UserError: If there is no such split, or the files are missing, unobtainable or damaged.

    References:
        Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms
        (Xiao, Rasul & Vollgraf, 2017). https://arxiv.org/abs/1708.07747
    """
    return _published(PUBLISHED["fashion-mnist"], root, split, download)


def kmnist(*, root: str | None = None, split: str = "train", download: bool = True) -> Images:
    """Returns Kuzushiji-MNIST: 60,000 + 10,000 cursive Japanese characters of 28×28 pixels.

    Args:
        root: Folder that holds the idx files, compressed or not; nothing is ever downloaded into it. If None, the
            cache: ``$ENERGYSCAPE_DATA/kmnist``, else ``~/.cache/energyscape/kmnist``.
        split: ``"train"``, ``"test"`` or ``"all"``.
        download: Whether to fetch what the cache lacks.

    Raises:
        UserError: If there is no such split, or the files are missing, unobtainable or damaged.

    References:
        Deep Learning for Classical Japanese Literature (Clanuwat et al., 2018). https://arxiv.org/abs/1812.01718
    """
    return _published(PUBLISHED["kmnist"], root, split, download)


def _published(published: Published, root: str | None, split: str, fetch: bool) -> Images:
    check_split(published.name, split)
    folder = cache_folder(published.name) if root is None else Path(os.path.expanduser(root))
    halves = ("train", "t10k") if split == "all" else ("train",) if split == "train" else ("t10k",)
    names = [f"{half}-{kind}-ubyte.gz" for half in halves for kind in ("images-idx3", "labels-idx1")]
    found = [_find(folder, name) for name in names]
    missing = [name for name, path in zip(names, found, strict=True) if path is None]
    if missing and root is not None:
        raise UserError(_lacks(published.name, folder, missing, split))
    paths = [path or _fetch(published, name, folder, names, fetch) for name, path in zip(names, found, strict=True)]
    parts = [_read_pair(*pair) for pair in zip(paths[::2], paths[1::2], strict=True)]
    pixels, labels = (torch.cat(each) for each in zip(*parts, strict=True))
    return Images(pixels, labels, name=published.name, classes=published.classes)


def _find(folder: Path, name: str) -> Path | None:
    """Returns the file under any of the names that it is handed around by."""
    plain = name.removesuffix(".gz")
    dotted = plain.replace("-idx", ".idx")
    paths = [folder / each for each in (name, plain, dotted, dotted + ".gz")]
    return next((path for path in paths if path.is_file()), None)


def _lacks(name: str, folder: Path, missing: Sequence[str], split: str) -> str:
    if not folder.is_dir():
        return f"{name}: root {folder} is not a folder: give the one that holds {' and '.join(missing)}"
    other = {"train": "t10k", "test": "train"}.get(split)
    there = other and all(_find(folder, f"{other}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
    hint = f" It does hold split {'test' if split == 'train' else 'train'!r}." if there else ""
    return (
        f"{name}: root {folder} lacks {' and '.join(missing)} (plain or .gz) for split {split!r}: put them there.{hint}"
    )


def _fetch(published: Published, name: str, folder: Path, names: Sequence[str], fetch: bool) -> Path:
    lacks = f"{published.name}: the cache {folder} lacks {name}"
    remedy = f"give root=FOLDER that holds {', '.join(names)}"
    if not fetch:
        raise UserError(f"{lacks} and download is off: turn it on, or {remedy}")
    try:
        return download(name, folder, mirrors=published.mirrors, md5=published.md5[name])
    except DownloadError as error:
        raise UserError(f"{lacks} and downloading it failed ({error}): check the network, or {remedy}") from error


def _read_pair(images: Path, labels: Path) -> tuple[Tensor, Tensor]:
    pixels, classes = read_idx(images, dimensions=3), read_idx(labels, dimensions=1)
    if pixels.shape[1:] != (28, 28):
        raise UserError(f"{images}: expected images of 28×28 pixels; they are {pixels.shape[1]}×{pixels.shape[2]}")
    if len(pixels) != len(classes):
        raise UserError(f"{labels}: expected {len(pixels)} labels, one for each image; it holds {len(classes)}")
    if int(classes.max()) > 9:
        raise UserError(f"{labels}: expected labels from 0 to 9; it holds {int(classes.max())}")
    return pixels.unsqueeze(1), classes.long()
