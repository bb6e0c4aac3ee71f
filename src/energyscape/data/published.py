"""MNIST and its relatives: four idx files each, published on mirrors and kept in a cache."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from energyscape.data.download import DownloadError, Sum, cache_folder, download
from energyscape.data.idx import read_idx
from energyscape.data.images import Images, check_split
from energyscape.errors import UserError


@final
@dataclass(frozen=True, kw_only=True)
class Published:
    """A data set in MNIST's four idx files: its mirrors and the checks of its files.

    Files go by their names without ``-ubyte.gz``; ``folder`` is torchvision's folder, which has them in ``raw``.
    """

    name: str
    mirrors: tuple[str, ...]
    files: Mapping[str, Sum]
    folder: str
    classes: tuple[str, ...]


PUBLISHED = {
    "mnist": Published(
        name="mnist",
        folder="MNIST",
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        files={
            "train-images-idx3": Sum(9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
            "train-labels-idx1": Sum(28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
            "t10k-images-idx3": Sum(1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
            "t10k-labels-idx1": Sum(4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
        },
        classes=tuple("0123456789"),
    ),
    "fashion-mnist": Published(
        name="fashion-mnist",
        folder="FashionMNIST",
        mirrors=(
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        ),
        files={
            "train-images-idx3": Sum(26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
            "train-labels-idx1": Sum(29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
            "t10k-images-idx3": Sum(4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
            "t10k-labels-idx1": Sum(5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
        },
        classes=("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
    "kmnist": Published(
        name="kmnist",
        folder="KMNIST",
        mirrors=("https://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
        files={
            "train-images-idx3": Sum(18_165_135, "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4"),
            "train-labels-idx1": Sum(29_497, "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17"),
            "t10k-images-idx3": Sum(3_041_136, "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5"),
            "t10k-labels-idx1": Sum(5_120, "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c"),
        },
        classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    ),
}


def mnist(*, root: str | None = None, split: str = "train", download: bool = True) -> Images:
    """Return MNIST: 60,000 + 10,000 handwritten digits of 28×28 pixels.

    Args:
        root: Folder that holds the idx files, compressed or not, itself or as torchvision lays them; nothing is ever
            downloaded into it. If None, the cache: ``$ENERGYSCAPE_DATA/mnist``, else ``~/.cache/energyscape/mnist``.
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
    """Return Fashion-MNIST: 60,000 + 10,000 pictures of clothes of 28×28 pixels.

    Args:
        root: Folder that holds the idx files, compressed or not, itself or as torchvision lays them; nothing is ever
            downloaded into it. If None, the cache: ``$ENERGYSCAPE_DATA/fashion-mnist``, else
            ``~/.cache/energyscape/fashion-mnist``.
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
    """Return Kuzushiji-MNIST: 60,000 + 10,000 cursive Japanese characters of 28×28 pixels.

    Args:
        root: Folder that holds the idx files, compressed or not, itself or as torchvision lays them; nothing is ever
            downloaded into it. If None, the cache: ``$ENERGYSCAPE_DATA/kmnist``, else ``~/.cache/energyscape/kmnist``.
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
    found = [_find(published, folder, name) for name in names]
    missing = [name for name, path in zip(names, found, strict=True) if path is None]
    if missing and root is not None:
        raise UserError(_lacks(published, folder, missing, split))
    paths = [path or _fetch(published, name, folder, names, fetch) for name, path in zip(names, found, strict=True)]
    parts = [_read_pair(*pair) for pair in zip(paths[::2], paths[1::2], strict=True)]
    pixels, labels = (torch.cat(each) for each in zip(*parts, strict=True))
    return Images(pixels, labels, name=published.name, classes=published.classes)


def _find(published: Published, folder: Path, name: str) -> Path | None:
    """Return the file under any of its usual names, in the folder or in torchvision's."""
    plain = name.removesuffix(".gz")
    dotted = plain.replace("-idx", ".idx")
    places = (folder, folder / "raw", folder / published.folder / "raw")
    paths = [place / each for place in places for each in (name, plain, dotted, dotted + ".gz")]
    return next((path for path in paths if path.is_file()), None)


def _lacks(published: Published, folder: Path, missing: Sequence[str], split: str) -> str:
    name = published.name
    if not folder.is_dir():
        return f"{name}: root {folder} is not a folder: give the one that holds {' and '.join(missing)}"
    other = {"train": "t10k", "test": "train"}.get(split)
    there = other and all(
        _find(published, folder, f"{other}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1")
    )
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
        return download(name, folder, mirrors=published.mirrors, known=published.files[name.removesuffix("-ubyte.gz")])
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
