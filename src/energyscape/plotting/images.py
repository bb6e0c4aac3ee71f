r"""Grids of images, labelled rows of images, chains of images.

Pixels :math:`x \in [\text{low}, \text{high}]` become bytes :math:`\operatorname{round}(255\,(x - \text{low}) /
(\text{high} - \text{low}))`, clamped to 0 and 255.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from energyscape.errors import UserError
from energyscape.plotting.axes import Array, numbers

SEPARATOR = 150
"""Grey level of the line between two images: seen beside black and beside white."""


def grid_array(
    x: Array, *, columns: int | None = None, low: float = -1.0, high: float = 1.0, scale: int | None = None
) -> NDArray[np.uint8]:
    """Return images as one picture, row by row, with a thin grey line around each.

    The line is a quarter of an image's pixel wide, and at least one pixel of the picture.

    Args:
        scale: Picture pixels a side for each image pixel; none takes the least that makes images 32 pixels high and
            wide.

    Examples:
        >>> grid_array(np.array([-1.0, 1.0]).reshape(2, 1, 1, 1), scale=1)
        array([[150, 150, 150, 150, 150],
               [150,   0, 150, 255, 150],
               [150, 150, 150, 150, 150]], dtype=uint8)
    """
    images = _images(x)
    count, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(count)) if columns is None else columns
    scale = math.ceil(32 / min(height, width)) if scale is None else scale
    if columns < 1 or scale < 1 or not low < high:
        raise UserError(f"columns and scale are positive and low < high; they were {columns}, {scale}, {low}, {high}")
    level = np.nan_to_num((images - low) / (high - low), nan=0.0, posinf=0.0, neginf=0.0)
    pixels = np.rint(255 * level.clip(0, 1)).astype(np.uint8).repeat(scale, 2).repeat(scale, 3)
    line, rows = max(1, scale * min(height, width) // 8), math.ceil(count / columns)
    tall, wide = scale * height + line, scale * width + line
    canvas = np.full((rows * tall + line, columns * wide + line, channels), SEPARATOR, np.uint8)
    for index, image in enumerate(pixels):
        top, left = index // columns * tall + line, index % columns * wide + line
        canvas[top : top + scale * height, left : left + scale * width] = image.transpose(1, 2, 0)
    return canvas[:, :, 0] if channels == 1 else canvas


def save_grid(
    path: str | Path,
    x: Array,
    *,
    columns: int | None = None,
    low: float = -1.0,
    high: float = 1.0,
    scale: int | None = None,
) -> None:
    """Write images as one PNG file."""
    Image.fromarray(grid_array(x, columns=columns, low=low, high=high, scale=scale)).save(path, format="PNG")


def image_grid(
    x: Array, *, columns: int | None = None, low: float = -1.0, high: float = 1.0, scale: int | None = None
) -> Figure:
    """Draw images in a grid, pixel for pixel, at 100 dots an inch."""
    images = _images(x)
    columns = math.ceil(math.sqrt(len(images))) if columns is None else columns
    scale = _scale(images, columns) if scale is None else scale
    canvas = grid_array(images, columns=columns, low=low, high=high, scale=scale)
    figure = Figure(figsize=(canvas.shape[1] / 100, canvas.shape[0] / 100), dpi=100)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    _show(axes, canvas)
    return figure


def side_by_side(rows: Mapping[str, Array], *, low: float = -1.0, high: float = 1.0) -> Figure:
    """Draw rows of images under each other, each with its name: original, noised, restored."""
    arrays = {name: _images(x) for name, x in rows.items()}
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) != 1:
        raise UserError(f"rows are at least one, of one shape; they were { {n: a.shape for n, a in arrays.items()} }")
    return _table(np.concatenate(list(arrays.values())), list(arrays), low=low, high=high)


def evolution(chain: Array, steps: Sequence[int], *, low: float = -1.0, high: float = 1.0) -> Figure:
    """Draw how chains of images move: a row for each chain, a column for each kept step."""
    array = numbers(chain)
    if array.ndim != 5 or len(array) != len(steps):
        raise UserError(f"a chain is (K, B, C, H, W) with K step numbers; it was {array.shape} with {len(steps)}")
    rows = [f"chain {index + 1}" for index in range(array.shape[1])]
    images = _images(array.swapaxes(0, 1).reshape(-1, *array.shape[2:]))
    return _table(images, rows, low=low, high=high, columns=[f"{step:,}" for step in steps], xlabel="step")


def _images(x: Any) -> NDArray[Any]:
    array = numbers(x).astype(float)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or array.size == 0:
        raise UserError(f"images are (B, C, H, W) with one or three channels; the array was {array.shape}")
    return array


def _scale(images: NDArray[Any], columns: int) -> int:
    """Return the factor that makes images about 64 pixels wide and ``columns`` of them at most 900."""
    side: int = images.shape[3]
    return max(1, min(math.ceil(64 / side), (900 // max(columns, 1) - 2) // side))


def _show(axes: Axes, canvas: NDArray[np.uint8]) -> None:
    axes.imshow(canvas, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="equal")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _table(
    images: NDArray[Any],
    rows: Sequence[str],
    *,
    low: float,
    high: float,
    columns: Sequence[str] = (),
    xlabel: str = "",
) -> Figure:
    """Draw images in rows of equal length, each row and perhaps each column with its name."""
    count = len(images) // len(rows)
    canvas = grid_array(images, columns=count, low=low, high=high, scale=_scale(images, count + 1))
    high_px, wide_px = canvas.shape[:2]
    label = 0.3 + 0.09 * max(map(len, rows))
    figure = Figure(
        figsize=(wide_px / 100 + label, high_px / 100 + (0.6 if columns else 0.1)), dpi=100, layout="constrained"
    )
    axes = figure.add_subplot()
    _show(axes, canvas)
    tall, wide = high_px / len(rows), wide_px / count
    axes.set_yticks([(index + 0.5) * tall for index in range(len(rows))], rows)
    if columns:
        axes.set_xticks([(index + 0.5) * wide for index in range(count)], columns)
        axes.set_xlabel(xlabel)
    axes.tick_params(length=0)
    axes.set_anchor("E")  # the rest of the width is for names
    return figure
