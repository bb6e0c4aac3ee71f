r"""Points in the plane, alone and beside the data.

A shaded square of width :math:`h` that holds :math:`n` of :math:`N` points shows the density :math:`n / (N h_1 h_2)`.
Points outside the box count in :math:`N`, so that two panels with one colour bar can be compared.
"""

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from energyscape.errors import UserError
from energyscape.plotting.axes import (
    OKABE_ITO,
    Array,
    Box,
    draw_points,
    frame,
    inside,
    note,
    panel_size,
    plane,
    plane_axes,
    unseen,
)


def box_around(*clouds: Tensor) -> Box:
    """Return the rectangle that holds clouds of points in the plane, with a margin."""
    low, high = torch.cat(clouds).nan_to_num().aminmax(dim=0)
    margin = (0.05 * (high - low)).clamp(min=1e-3)
    (x0, y0), (x1, y1) = (low - margin).tolist(), (high + margin).tolist()
    return (x0, x1), (y0, y1)


def scatter(x: Array, *, box: Box, title: str = "") -> Figure:
    """Draw points in the plane."""
    points = plane(x)
    figure, axes = plane_axes(box, title=title)
    draw_points(axes, points, colour=OKABE_ITO[0])
    note(axes, unseen(inside(points, box)))
    return figure


def real_and_generated(real: Array, generated: Array, box: Box, *, bins: int | None = None, title: str = "") -> Figure:
    """Draw data and samples side by side, with the same limits, and the same colours if shaded.

    The eye compares clouds of unequal size poorly: pass as many samples as data, or shade.
    """
    clouds = {"data": plane(real), "samples": plane(generated)}
    if bins is not None and bins < 1:
        raise UserError(f"bins are at least 1; they were {bins}")
    wide, high = panel_size(box, 4.1)
    size = 2 * wide + 0.8 + (0.9 if bins else 0), high + 0.9 + (0.4 if title else 0)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    panels = list(figure.subplots(1, 2, sharex=True, sharey=True))
    if title:
        figure.suptitle(title)
    for axes, (name, points), colour in zip(panels, clouds.items(), OKABE_ITO, strict=False):
        frame(axes, box)
        axes.set(title=f"{name} ({len(points):,})", xlabel="$x_1$")
        axes.label_outer()
        note(axes, unseen(inside(points, box)))
        if bins is None:
            axes.grid(visible=True, color="#DDDDDD", linewidth=0.6)
            axes.set_axisbelow(True)
            draw_points(axes, points, colour=colour, area=20_000)
    panels[0].set_ylabel("$x_2$")
    if bins is not None:
        _shade(figure, panels, list(clouds.values()), box, bins)
    return figure


def _shade(figure: Figure, panels: list[Axes], clouds: list[NDArray[Any]], box: Box, bins: int) -> None:
    """Shade panels by the density of their points, with one scale of colours for all."""
    edges = [np.linspace(*side, bins + 1) for side in box]
    square = float(np.diff(edges[0])[0] * np.diff(edges[1])[0])
    counts = [np.histogramdd(points[inside(points, box)], edges)[0] for points in clouds]
    densities = [count / (max(len(points), 1) * square) for count, points in zip(counts, clouds, strict=True)]
    norm = Normalize(0, max(float(density.max()) for density in densities) or 1.0)
    for axes, density in zip(panels, densities, strict=True):
        shaded = axes.pcolormesh(*edges, density.T, norm=norm, cmap="viridis")
    figure.colorbar(shaded, ax=panels, label="density, per unit of area")
