r"""Images stored as unsigned bytes.

A pixel :math:`b \in \{0, \ldots, w\}`, with :math:`w` the value of white, becomes a number only in a batch,

.. math:: x = 2 b / w - 1 \in [-1, 1],

so a data set stays four times smaller, also on the device.
"""

import dataclasses
import os
import re
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
import torch
from torch import Tensor

from energyscape.data.dataset import Rows
from energyscape.data.reading import SMALL, opened
from energyscape.errors import UserError, did_you_mean
from energyscape.files import reading
from energyscape.memory import require_memory

if TYPE_CHECKING:
    from PIL.Image import Image

SPLITS = ("train", "test", "all")

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".pgm", ".ppm")
FORMATS: Final = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""Pillow's names of the formats. The content identifies a file; of several frames the first is read."""

LARGEST: Final = 1 << 26
"""Pixels of a picture; four bytes each are allocated."""

DARK: Final = 64
"""Of 255: images that never reach it were probably saved with another white."""


@final
@dataclass(frozen=True, eq=False)
class Images(Rows):
    """A set of images of one size.

    Args:
        pixels: Unsigned bytes, ``(N, C, H, W)``.
        labels: Class of each image, int64 ``(N,)``, or None.
        white: The pixel value that means white, 1 to 255.
        name: Name of the set in records and reports.
        classes: Names of labels 0, 1, …; empty if unknown.

    Raises:
        UserError: If the tensors have another type or do not match.

    Examples:
        >>> images = Images(torch.tensor([0, 16], dtype=torch.uint8).view(1, 1, 1, 2), white=16)
        >>> images.floats()
        tensor([[[[-1., 1.]]]])
    """

    pixels: Tensor
    labels: Tensor | None = None
    white: int = 255
    name: str = "images"
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 4:
            raise UserError(
                f"{self.name}: pixels are uint8 of shape (N, C, H, W); they came as {self.pixels.dtype} "
                f"of shape {tuple(self.pixels.shape)}"
            )
        if not 1 <= self.white <= 255:
            raise UserError(f"{self.name}: white is a pixel value from 1 to 255; it was {self.white}")
        if self.labels is not None and (self.labels.dtype != torch.int64 or self.labels.shape != self.pixels.shape[:1]):
            raise UserError(
                f"{self.name}: labels are int64, one for each of {len(self.pixels)} images; they came as "
                f"{self.labels.dtype} of shape {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image, ``(C, H, W)``."""
        return tuple(self.pixels.shape[1:])

    @property
    def grey_levels(self) -> int:
        return self.white + 1

    def tensors(self) -> list[Tensor]:
        return [self.pixels, *([] if self.labels is None else [self.labels])]

    def facts(self) -> dict[str, Any]:
        return {"classes": self.classes, "extent": self.extent}

    @property
    def extent(self) -> tuple[float, float]:
        """The interval on [-1, 1] that some pixel of 99 % of the images reaches at either end."""
        flat = self.pixels.flatten(1)
        ends = np.quantile(flat.amin(1).cpu(), 0.99), np.quantile(flat.amax(1).cpu(), 0.01)
        return float(2 * ends[0] / self.white - 1), float(2 * ends[1] / self.white - 1)

    def floats(self, index: Tensor | slice | None = None) -> Tensor:
        """Return images as numbers from -1 (black) to 1 (white).

        Args:
            index: Indices of the images; all if None.

        Returns:
            float32, ``(B, C, H, W)``, on the device of the pixels.
        """
        pixels = self.pixels if index is None else self.pixels[index]
        return pixels.float().mul_(2).div_(self.white).sub_(1)  # doubled first: white becomes exactly 1

    def subset(self, index: Tensor | slice) -> "Images":
        """Return the images at some indices."""
        labels = None if self.labels is None else self.labels[index]
        return dataclasses.replace(self, pixels=self.pixels[index], labels=labels)

    def to(self, device: torch.device | str) -> "Images":
        """Return the same images on a device."""
        labels = None if self.labels is None else self.labels.to(device)
        return dataclasses.replace(self, pixels=self.pixels.to(device), labels=labels)


def digits(*, split: str = "train") -> Images:
    """Return scikit-learn's 1,797 handwritten digits of 8×8 pixels; without a download.

    Every sixth image (index 5, 11, …) is a test image. White is 16, not 255.

    Args:
        split: ``"train"`` (1,498 images), ``"test"`` (299) or ``"all"``.

    Raises:
        UserError: If there is no such split.

    Examples:
        >>> images = digits(split="test")
        >>> len(images), images.shape
        (299, (1, 8, 8))

    References:
        Optical Recognition of Handwritten Digits (Alpaydin & Kaynak, 1998). https://doi.org/10.24432/C50P49
    """
    check_split("digits", split)
    from sklearn.datasets import load_digits

    loaded = load_digits()
    pixels = torch.from_numpy(loaded.images.astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(loaded.target.astype(np.int64))
    images = Images(pixels, labels, white=16, name="digits", classes=tuple("0123456789"))
    return _part(images, split, every=6)


def image_folder(*, root: str, size: int, channels: int = 3, split: str = "train") -> Images:
    """Return the images of a folder, cropped to their central square and resized.

    PNG, JPEG, WebP, BMP, TIFF, GIF, PGM and PPM files are read; a warning counts the others. If the folder holds
    sub-folders, each of them (with everything below it) is a class. Classes are in natural order: 1, 2, …, 10. Images
    are sorted by path; every tenth (index 9, 19, …) is a test image. Transparency is laid on white. Links are followed.

    Args:
        root: The folder.
        size: Height and width of the result, in pixels.
        channels: 1 for grey, 3 for colour.
        split: ``"train"``, ``"test"`` or ``"all"``.

    Raises:
        UserError: If a setting is out of range, the folder holds no image (of that split), or one cannot be read.
    """
    folder = Path(os.path.expanduser(root))
    check_split(str(folder), split)
    if channels not in (1, 3) or size < 1:
        raise UserError(f"{folder}: size is positive and channels is 1 or 3; they were {size} and {channels}")
    paths, labels, classes = _listing(folder)
    index = _indices(len(paths), split, every=10)
    if len(index) == 0:
        raise UserError(f"{folder}: split {split!r} needs at least 10 images; the folder holds {len(paths)}: use 'all'")
    require_memory(len(index) * channels * size**2, f"{folder}: {len(index):,} images of {size}×{size} pixels")
    pixels = torch.stack([_square(paths[i], size, channels) for i in index.tolist()])
    if (brightest := int(pixels.max())) < DARK:
        warnings.warn(
            f"{folder}: no pixel of {len(pixels):,} images is brighter than {brightest}, and white is 255, so that all "
            "are nearly black: if their white is another, save them as PNG or JPEG with 255 for white",
            stacklevel=2,
        )
    return Images(pixels, None if labels is None else labels[index], name=folder.resolve().name, classes=classes)


def _listing(folder: Path) -> tuple[list[Path], Tensor | None, tuple[str, ...]]:
    """Return the image files of a folder, their labels and the names of the classes."""
    if not folder.is_dir():
        raise UserError(f"{folder}: expected a folder of PNG, JPEG or other images; there is no such folder")
    with reading(folder, "a folder of images"):
        files, left = _walked(folder)
    if left:
        kinds = ", ".join(f"{kind!r} ({count:,})" for kind, count in left.most_common(9))
        warnings.warn(f"{folder}: left out {kinds}; images are {', '.join(SUFFIXES)}", stacklevel=3)
    parts = sorted(each.relative_to(folder).parts for each in files)
    if not parts:
        raise UserError(f"{folder}: expected PNG, JPEG or other images; it holds none, nor do its sub-folders")
    if len({len(each) > 1 for each in parts}) > 1:
        raise UserError(
            f"{folder}: expected images either beside each other or in one sub-folder a class; it holds both"
        )
    files = [folder.joinpath(*each) for each in parts]
    if len(parts[0]) == 1:
        return files, None, ()
    classes = tuple(sorted({each[0] for each in parts}, key=_natural))
    number = {name: index for index, name in enumerate(classes)}
    return files, torch.tensor([number[each[0]] for each in parts]), classes


def _walked(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Return the images in and below a folder, and the number of other files of each kind.

    Links are followed, but no folder is read twice, so circular links end.
    """
    images, left, seen, pending = list[Path](), Counter[str](), set[Path](), [folder]
    while pending:
        here = pending.pop()
        if here.resolve() in seen:
            left["link to a folder that is read already"] += 1
            continue
        seen.add(here.resolve())
        there = sorted(each for each in here.iterdir() if not each.name.startswith("."))
        pending += [each for each in there if each.is_dir()]
        for each in there:
            if each.suffix.lower() in SUFFIXES and not each.is_dir():
                images.append(each)
            elif not each.is_dir():
                left[each.suffix.lower() or "no suffix"] += 1
        if here.parent == folder and not there:
            left["empty class folder"] += 1
    return images, left


def _natural(name: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Return a sort key that orders numbers in names by value: 2 before 10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(False, int(part), "") if part[0] in "0123456789" else (True, 0, part) for part in parts], name


def open_picture(path: Path, channels: int) -> "Image":
    """Return an image file upright, with 8 bits, its transparency laid on white."""
    import PIL.Image
    import PIL.ImageOps

    with opened(path, "a readable PNG, JPEG or other image") as (file, size):
        if size > SMALL:
            raise UserError(
                f"{path}: expected an image file of at most {SMALL:,} bytes; it has {size:,}: make it smaller"
            )
        with PIL.Image.open(file, formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > LARGEST:
                raise UserError(
                    f"{path}: expected at most {LARGEST:,} pixels; it claims {height:,}×{width:,}: make it smaller"
                )
            return _flat(PIL.ImageOps.exif_transpose(picture), "L" if channels == 1 else "RGB")


def _square(path: Path, size: int, channels: int) -> Tensor:
    """Return the central square of an image file, ``(C, size, size)``."""
    import PIL.Image

    image = open_picture(path, channels)
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    resized = image.resize((size, size), PIL.Image.Resampling.LANCZOS, box=box)
    return torch.from_numpy(np.array(resized, dtype=np.uint8)).reshape(size, size, channels).permute(2, 0, 1)


def _flat(image: "Image", mode: str) -> "Image":
    import PIL.Image

    if image.mode.startswith(("I", "F")):  # Pillow's own conversion would clip at 255
        deep = np.asarray(image)
        low, high = deep.min(), deep.max()
        if image.mode == "F" or low < 0 or high > 0xFFFF:
            raise ValueError(f"its pixels go from {low:.6g} to {high:.6g}, which is no image of 8 or 16 bits")
        if 0 < high < 1 << 12:
            raise ValueError(
                f"its pixels of 16 bits reach {high:,} of 65,535 and would be nearly black; "
                f"multiply data of {int(high).bit_length()} bits by {1 << (16 - int(high).bit_length())}"
            )
        image = PIL.Image.fromarray((deep >> 8).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def check_split(name: str, split: str) -> None:
    """Raise an error unless the split exists."""
    if split not in SPLITS:
        raise UserError(f"{name}: split is one of {', '.join(SPLITS)}; it was {split!r}{did_you_mean(split, SPLITS)}")


def _indices(n: int, split: str, *, every: int) -> Tensor:
    index = torch.arange(n)
    test = index % every == every - 1
    return index if split == "all" else index[test] if split == "test" else index[~test]


def _part(images: Images, split: str, *, every: int) -> Images:
    return images.subset(_indices(len(images), split, every=every))
