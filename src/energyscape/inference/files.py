"""Points and images in files: PNG and JPEG pictures, NPY and NPZ arrays, CSV tables of points."""

import itertools
import math
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from energyscape.data import Space
from energyscape.data.arrays import ARRAYS, read_array
from energyscape.data.images import SUFFIXES, open_picture
from energyscape.errors import UserError
from energyscape.files import atomic_write, check_file_name
from energyscape.memory import require_memory
from energyscape.plotting import box_around, grid_array, scatter

PICTURES: Final = (".png", ".jpg", ".jpeg")


def read_points(
    path: Path, shape: tuple[int, ...], *, extent: tuple[float, float] | None = None, sigma: float = 0.0
) -> Tensor:
    """Return points or images, in the units of the model: images on [-1, 1].

    Pixels of pictures and of arrays of bytes are scaled from 0 … 255; arrays of floats are taken as they are. Images
    on another scale are refused; where they may be on another, a warning says so.

    ``extent`` is that of the images that the model was trained on, ``sigma`` the noise that the file's are to have.
    """
    array, is_image = _raw(path, shape), Space(shape).is_image
    if is_image and array.dtype == np.uint8:
        array = (np.arange(256) / 127.5 - 1).astype(np.float32)[array]
    elif array.dtype.kind != "f" and (is_image or array.dtype.kind not in "iu"):
        kinds = "floats on [-1, 1] or bytes" if is_image else "numbers"
        raise UserError(f"{path}: expected {kinds}; it holds {str(array.dtype)[:40]}: convert it")
    x = _floats(array, path)
    n = x.numel() // math.prod(shape)
    # One point may come without its batch dimension, grey images without their channel.
    fits = x.shape in {(n, *shape), shape} or (shape[0] == 1 and x.shape in {(n, *shape[1:]), shape[1:]})
    if n == 0 or not fits:
        raise UserError(f"{path}: this run's points have shape {shape}, alone or many; the file holds {tuple(x.shape)}")
    if is_image:
        _check_scale(path, x, extent, sigma)
    return x.reshape(n, *shape)


def read_mask(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Return which pixels a mask marks as missing, ``(1, 1, H, W)``: the white ones, in any of its channels.

    White is above the middle of the mask's scale. The scale is -1 to 1 for negative values, else the first of 0 to 1
    (truth values too), 0 to 255 and 0 to 65,535 that holds all values.
    """
    x = _floats(_raw(path, shape), path)
    if x.shape[-2:] != shape[1:] or x.numel() not in {math.prod(shape[1:]), math.prod(shape)}:
        raise UserError(f"{path}: expected one mask of {shape[1]}×{shape[2]} pixels; it has shape {tuple(x.shape)}")
    low, high = float(x.min()), float(x.max())
    white = next((each for each in (1.0, 255.0, 65535.0) if max(-low, high) <= each), 0.0)
    if not white or (low < 0 and white > 1):
        raise UserError(
            f"{path}: expected a mask of truth values, 0 and 1, -1 and 1, or 0 and 255; its values range from "
            f"{low:.6g} to {high:.6g}: convert it"
        )
    middle = 0.0 if low < 0 else white / 2
    return (x > middle).reshape(1, -1, *shape[1:]).any(1, keepdim=True)


def _raw(path: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES + ARRAYS:
        raise UserError(f"{path}: expected one of {', '.join(SUFFIXES + ARRAYS)}; it is {suffix or 'without a suffix'}")
    return _picture(path, shape) if suffix in SUFFIXES else read_array(path)


def _floats(array: NDArray[Any], path: Path) -> Tensor:
    if array.dtype.kind not in "bfiu":
        raise UserError(f"{path}: expected numbers; it holds {str(array.dtype)[:40]}: convert it")
    require_memory(4 * array.size, str(path))
    with np.errstate(over="ignore"):
        x = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    if not x.isfinite().all():
        raise UserError(f"{path}: expected finite numbers; {int((~x.isfinite()).sum())} of {x.numel()} are not")
    return x


def _check_scale(path: Path, x: Tensor, extent: tuple[float, float] | None, sigma: float) -> None:
    """Refuse images that are surely on another scale than [-1, 1]; warn of those that may be."""
    low, high, noise = float(x.min()), float(x.max()), 6 * max(sigma, 0.0) + 0.01
    came = f"{path}: expected images on [-1, 1]; its values range from {low:.6g} to {high:.6g}"
    if low >= 0 and high > 1 + noise:
        white = next((each for each in (16, 255, 65535) if high <= each), round(high))
        raise UserError(f"{came}: where white is {white}, convert them with 2 * x / {white} - 1")
    if low < -1 - noise or high > 1 + noise:
        warnings.warn(f"{came}, beyond that: scale them, unless they are meant so", stacklevel=3)
    elif extent is not None and (low > extent[0] + 0.25 or high < extent[1] - 0.25):
        warnings.warn(
            f"{came}, and 99 % of the training images reach down to {extent[0]:.3g} and up to {extent[1]:.3g}: if they "
            "are on a scale of 0 … white, convert them with 2 * x / white - 1",
            stacklevel=3,
        )


def check_writable(path: Path, shape: tuple[int, ...]) -> None:
    """Raise an error before any work is done if points of a shape could not be written there."""
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".npz", ".png", *([".csv"] if len(shape) == 1 else PICTURES)):
        raise UserError(f"{path}: expected a name ending in .png, .npy, .npz (or .csv for points)")
    check_file_name(path)


def write_points(path: Path, x: Tensor) -> None:
    """Write points or images, ``(n, *)``; the file appears whole or not at all."""
    write_batches(path, [x], shape=tuple(x.shape))


def write_batches(path: Path, batches: Iterable[Tensor], *, shape: tuple[int, ...]) -> None:
    """Write points or images, all of a shape ``(n, *)``; the file appears whole or not at all.

    Arrays and tables are written as the batches come, of which one at a time is kept; a picture needs all of them.
    """
    check_writable(path, shape[1:])
    suffix, points = path.suffix.lower(), len(shape) == 2
    batches = iter(batches)
    batches = itertools.chain(iter([next(batches)]), batches)  # what is wrong with them comes before the file
    with atomic_write(path) as file:
        if suffix in PICTURES and len(shape) == 4:
            image = Image.fromarray(grid_array(torch.cat(list(batches))))
            image.save(file, format="PNG" if suffix == ".png" else "JPEG", quality=95)
        elif suffix == ".png" and points:
            x = torch.cat(list(batches))
            scatter(x, box=box_around(x)).savefig(file, format="png", dpi=110)
        elif suffix == ".npy":
            _write_npy(file, batches, shape)
        elif suffix == ".npz":
            with (
                zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
                archive.open("x.npy", "w", force_zip64=True) as entry,
            ):
                _write_npy(entry, batches, shape)
        elif suffix == ".csv" and points:
            for x in batches:
                np.savetxt(file, x.numpy(), delimiter=",", fmt="%.8g")
        else:
            raise UserError(f"{path}: expected a name ending in .png, .npy, .npz (or .csv for points)")


def _write_npy(file: IO[bytes], batches: Iterable[Tensor], shape: tuple[int, ...]) -> None:
    """Write batches as one NumPy array of their dtype."""
    for number, x in enumerate(batches):
        array = np.ascontiguousarray(x.numpy())
        if number == 0:
            header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
        file.write(array.tobytes())


def _picture(path: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    if not Space(shape).is_image:
        raise UserError(f"{path}: this run's points have shape {shape}; a picture holds none: give .npy, .npz or .csv")
    pixels = np.asarray(open_picture(path, shape[0]))
    if pixels.shape[:2] != shape[1:]:
        raise UserError(
            f"{path}: this run's images are {shape[1]}×{shape[2]}; the picture is {pixels.shape[0]}×{pixels.shape[1]}"
        )
    return pixels[None] if shape[0] == 1 else pixels.transpose(2, 0, 1)
