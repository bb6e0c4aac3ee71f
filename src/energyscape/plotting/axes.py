"""Shared parts of figures: conversion of arrays, axes, points."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from energyscape.errors import UserError

Array = NDArray[Any] | Tensor | Sequence[float]
"""Numbers: a NumPy array, a tensor on any device, or a plain list."""

Box = tuple[tuple[float, float], tuple[float, float]]
"""A rectangle ``((x0, x1), (y0, y1))``."""

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""Line colours, in the order in which they are used."""

LONGEST = 4.0
"""Ratio of a box's sides up to which both axes have one scale; a longer one would be a sliver."""


def numbers(x: Any) -> NDArray[Any]:
    """Return the array of any object that holds numbers."""
    return np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x)


def plane(x: Any) -> NDArray[Any]:
    """Return points in the plane, ``(N, 2)``."""
    points = numbers(x).astype(float)
    if points.ndim != 2 or points.shape[1] != 2:
        raise UserError(f"points in the plane are (N, 2); the array was {points.shape}")
    return points


def inside(points: NDArray[Any], box: Box) -> NDArray[np.bool_]:
    """Return which points lie in the box; one that is not finite does not."""
    low, high = np.array(box).T
    return np.asarray(((points >= low) & (points <= high)).all(-1))


def new_axes(size: tuple[float, float], *, title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """Return a figure with one pair of axes on a faint grid."""
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def plane_axes(box: Box, *, title: str, beside: float = 0.0, below: float = 0.0) -> tuple[Figure, Axes]:
    """Return a figure with one pair of axes for a rectangle of the plane, sized to fit."""
    wide, high = panel_size(box, 4.3)
    figure, axes = new_axes((wide + 0.8 + beside, high + 0.9 + below), title=title, xlabel="$x_1$", ylabel="$x_2$")
    frame(axes, box)
    return figure, axes


def panel_size(box: Box, side: float) -> tuple[float, float]:
    """Return the width and height in inches of axes that show a rectangle of the plane."""
    ratio = _ratio(box) or 1.0
    return side * min(1.0, max(ratio, 0.5)), side * min(1.0, max(1 / ratio, 0.5))


def frame(axes: Axes, box: Box) -> None:
    """Limit axes to a rectangle, with equal units on both axes unless that makes a sliver."""
    axes.set(xlim=box[0], ylim=box[1], aspect="equal" if _ratio(box) else "auto")


def draw_points(
    axes: Axes,
    points: NDArray[Any],
    *,
    colour: str,
    area: float = 8_000,
    least: float = 1.5,
    rim: str = "#000000",
    label: str = "",
) -> PathCollection:
    """Draw points, smaller if there are more."""
    size = float(np.clip(area / max(len(points), 1), least, 16))
    return axes.scatter(
        points[:, 0],
        points[:, 1],
        s=size,
        color=colour,
        edgecolors=rim,
        linewidths=0.2 if rim == "#000000" else 0.6,
        alpha=0.7,
        label=label,
    )


def unseen(seen: NDArray[np.bool_]) -> str:
    """Return the number of objects outside the picture, such as ``"2 of 30 outside"``; empty if none.

    Examples:
        >>> unseen(np.array([True, False, True])), unseen(np.array([True]))
        ('1 of 3 outside', '')
    """
    lost = seen.size - int(seen.sum())
    return f"{lost:,} of {seen.size:,} outside" if lost else ""


def note(axes: Axes, text: str, *, size: float = 9.0) -> None:
    """Write text into the lower left corner."""
    if text:
        ground = {"facecolor": "#FFFFFF", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}
        axes.annotate(text, (0.02, 0.02), xycoords="axes fraction", fontsize=size, bbox=ground, zorder=9)


def _ratio(box: Box) -> float | None:
    """Return a rectangle's width over its height; none for a sliver, which is drawn as a square."""
    (x0, x1), (y0, y1) = box
    ratio = (x1 - x0) / (y1 - y0)
    return ratio if 1 / LONGEST <= ratio <= LONGEST else None
