"""Many methods on one page: the data, landscape and samples of each, drawn alike for comparison."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from energyscape.errors import UserError
from energyscape.plotting.axes import (
    OKABE_ITO,
    Array,
    Box,
    draw_points,
    frame,
    inside,
    note,
    numbers,
    panel_size,
    plane,
    unseen,
)
from energyscape.plotting.relief import Relief, colour_bar, fill, one_top

TALL = 6
"""Methods in a block; more make a second one beside it."""

PANEL, GAP, HEAD, LEFT, FOOT = 1.55, 0.1, 0.3, 0.55, 1.05
"""Inches: a panel's width, between panels, a line of text above them, left of a block, beneath all."""

COLUMNS = ("data", "landscape", "samples")


class Multiple(NamedTuple):
    """One method's panels.

    Args:
        title: Its name.
        subtitle: Its result, such as ``"KL 0.004"``.
        data: Its training data, ``(N, 2)``.
        energy_grid: Energies over temperature, ``(K, L)``, as `landscape` takes them; none if it has no energy.
            If nothing is finite, the panel says so.
        samples: Its samples, ``(M, 2)``.
    """

    title: str
    subtitle: str
    data: Array
    energy_grid: Array | None
    samples: Array


def small_multiples(rows: Sequence[Multiple], box: Box, *, top: float | None = None, title: str = "") -> Figure:
    """Draw a row for each method: data, landscape, samples, with the same limits and colours in all rows.

    Heights are above each landscape's own minimum, because energies have an arbitrary constant.

    Args:
        top: Height above the minimum, in nats, from which on all share one colour; none takes the median of
            the landscapes' own tops.
    """
    if not rows:
        raise UserError("small multiples need at least one row; there was none")
    grids = [row.energy_grid for row in rows if row.energy_grid is not None]
    top = one_top(grids, box) if top is None else top
    blocks = 1 if len(rows) <= TALL else 2
    lines = -(-len(rows) // blocks)
    tall = PANEL * float(np.clip(np.divide(*panel_size(box, 1)[::-1]), 0.5, 1.6))
    wide_block = LEFT + 3 * PANEL + 2 * GAP
    above = 2 * HEAD if title else HEAD
    wide, high = blocks * wide_block + 2 * GAP, above + lines * (HEAD + tall) + FOOT
    figure = Figure(figsize=(wide, high), dpi=110)
    if title:
        figure.text(0.5, 1 - 0.2 / high, title, ha="center", va="center", fontsize=13)
    drawn = None
    for index, row in enumerate(rows):
        block, line = divmod(index, lines)
        left, bottom = block * wide_block + LEFT, high - above - (line + 1) * (HEAD + tall)
        panels = [
            figure.add_axes(((left + k * (PANEL + GAP)) / wide, bottom / high, PANEL / wide, tall / high), label=name)
            for k, name in enumerate(COLUMNS)
        ]
        drawn = _row(panels, row, box, top) or drawn
        last = line == lines - 1 or index == len(rows) - 1
        _annotate(panels, row, first=line == 0, last=last)
    if drawn is not None and top is not None:
        place = figure.add_axes((LEFT / wide, 0.45 / high, 3 * PANEL / wide, 0.12 / high), label="energy")
        colour_bar(figure, drawn, top, within=place)
    return figure


def _row(panels: Sequence[Axes], row: Multiple, box: Box, top: float | None) -> QuadContourSet | None:
    """Draw one method's panels; return its landscape, if it has one."""
    left, middle, right = panels
    for axes in panels:
        frame(axes, box)
    for axes, cloud, colour in ((left, row.data, OKABE_ITO[0]), (right, row.samples, OKABE_ITO[1])):
        points = plane(cloud)
        draw_points(axes, points, colour=colour, area=2_000, least=0.6)
        note(axes, unseen(inside(points, box)), size=6)
    if row.energy_grid is None or not np.isfinite(numbers(row.energy_grid)).any():
        why = "no energy" if row.energy_grid is None else "not finite"
        middle.text(0.5, 0.5, why, transform=middle.transAxes, ha="center", va="center", color="#555555")
        return None
    return fill(middle, Relief.of(row.energy_grid, box, top=top).thinned(200))


def _annotate(panels: Sequence[Axes], row: Multiple, *, first: bool, last: bool) -> None:
    """Write a row's name and result above it, column names above the first row, numbers below the last one."""
    left, _, right = panels
    above: Any = {"xycoords": "axes fraction", "textcoords": "offset points"}
    left.annotate(row.title, (0, 1), (0, 4), **above, fontsize=10, fontweight="bold")
    right.annotate(row.subtitle, (1, 1), (0, 4), **above, fontsize=9, ha="right")
    for axes, name in zip(panels, COLUMNS, strict=True):
        axes.tick_params(labelsize=7, length=2, labelbottom=last, labelleft=axes is left)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        if first:
            axes.annotate(name, (0.5, 1), (0, 20), **above, fontsize=9, ha="center", color="#555555")
        if last:
            axes.set_xlabel("$x_1$", fontsize=8, labelpad=1)
    left.set_ylabel("$x_2$", fontsize=8, labelpad=1)
