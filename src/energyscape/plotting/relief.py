r"""An energy over a rectangle of the plane: from above, and from the side.

Energies are drawn over temperature, :math:`E / T`, in nats, above their minimum, because their constant is arbitrary.
A good energy is often a cliff away from the data, a hundred times higher than its valleys are deep. So heights are
drawn up to a *top* only, and every picture shows that top.
"""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.contour import ContourSet, QuadContourSet
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from energyscape.errors import UserError
from energyscape.plotting.axes import Array, Box, draw_points, inside, numbers, plane, plane_axes

LEVELS = 24
"""Bands of colour from the minimum to the top."""

COLOURS = "viridis"

BAR = 1.2
"""Inches that a bar of colours takes."""

DEEP = 20.0
"""Nats above the minimum beyond which one colour is used: a point there is 2e-9 times as likely as the best."""


class Relief(NamedTuple):
    """Heights above the minimum, on a regular grid from edge to edge of a rectangle.

    Args:
        x1: Positions along the first axis, ``(N,)``.
        x2: Positions along the second, ``(M,)``.
        height: ``(N, M)``, the lowest finite one 0; NaN for a non-finite energy.
        top: Height from which on all share one colour.
    """

    x1: NDArray[Any]
    x2: NDArray[Any]
    height: NDArray[Any]
    top: float

    @classmethod
    def of(cls, energy_grid: Array, box: Box, *, top: float | None = None) -> Self:
        """Return the heights of an energy above its minimum."""
        grid = _grid(energy_grid)
        height = np.maximum(grid - grid[np.isfinite(grid)].min(), 0)
        if top is None:
            finite = height[np.isfinite(height)]
            top = min(float(np.quantile(finite, 0.6)) or float(finite.max()) or 1.0, DEEP)
        if not top > 0:
            raise UserError(f"the top is above the minimum, at 0; it was {top}")
        return cls(np.linspace(*box[0], len(grid)), np.linspace(*box[1], grid.shape[1]), height, top)

    @property
    def capped(self) -> NDArray[Any]:
        """Heights, those above the top a hair above it."""
        return self.height.clip(max=1.001 * self.top)

    @property
    def levels(self) -> NDArray[Any]:
        """Edges of the bands of colour."""
        return np.linspace(0, self.top, LEVELS + 1)

    def thinned(self, points: int) -> Self:
        """Return every second, third, ... height, so that about ``points`` along each side are left, edges included."""
        rows, columns = (
            np.unique(np.linspace(0, n - 1, min(n, points)).round().astype(int)) for n in self.height.shape
        )
        return self._replace(x1=self.x1[rows], x2=self.x2[columns], height=self.height[np.ix_(rows, columns)])


def fill(axes: Axes, relief: Relief) -> QuadContourSet:
    """Draw a relief as filled contours."""
    axes.grid(visible=False)
    return axes.contourf(
        relief.x1, relief.x2, relief.capped.T, levels=relief.levels, cmap=COLOURS, extend="max", zorder=0
    )


def colour_bar(
    figure: Figure, drawn: ContourSet, top: float, *, beside: Axes | None = None, within: Axes | None = None
) -> None:
    """Add a colour bar of heights."""
    orientation, space = ("vertical", "\n") if within is None else ("horizontal", " ")
    label = f"energy above its minimum, in nats{space}(dark = likely)"
    bar = figure.colorbar(drawn, cax=within, ax=beside, label=label, orientation=orientation)
    bar.set_ticks(_ticks(top))
    bar.minorticks_off()


def fill_with_bar(figure: Figure, axes: Axes, relief: Relief) -> None:
    """Draw a relief as filled contours, with a colour bar."""
    colour_bar(figure, fill(axes, relief), relief.top, beside=axes)


def landscape(
    energy_grid: Array, box: Box, samples: Array | None = None, *, top: float | None = None, title: str = ""
) -> Figure:
    """Draw an energy over the plane as filled contours, low in dark colours, and samples upon it.

    The lowest energy is set to zero. The upper two fifths of the plane, often a cliff, share one colour, and so does
    everything more than 20 nats up, which is never visited. This keeps the valleys visible.

    Args:
        energy_grid: Energies over temperature, ``(N, M)``, at points equally spaced from edge to edge; the *first*
            index runs along :math:`x_1`, as in ``torch.cartesian_prod(x1, x2)`` reshaped.
    """
    figure, axes = plane_axes(box, title=title, beside=BAR)
    fill_with_bar(figure, axes, Relief.of(energy_grid, box, top=top))
    if samples is not None:
        draw_points(axes, plane(samples), colour="#FFFFFF")
    return figure


def surface(
    energy_grid: Array, box: Box, samples: Array | None = None, *, top: float | None = None, title: str = ""
) -> Figure:
    """Draw an energy over the plane as a surface seen from above the front, its contours on the floor beneath it.

    Heights above the top are omitted, and the vertical axis says so: a plateau there would hide the valleys behind it
    without being a feature of the energy.
    """
    relief = Relief.of(energy_grid, box, top=top)
    figure = Figure(figsize=(7.6, 6.6), dpi=100)
    axes: Any = figure.add_axes((-0.05, 0.0, 1.0, 1.0), projection="3d")  # matplotlib has no types for these
    mesh, floor = relief.thinned(150), -0.8 * relief.top
    x1, x2 = np.meshgrid(mesh.x1, mesh.x2, indexing="ij")
    colours = {"cmap": COLOURS, "vmin": 0, "vmax": relief.top}
    height = np.where(_around(mesh.height <= relief.top), mesh.height.clip(max=relief.top), np.nan)
    axes.plot_surface(x1, x2, height, **colours, rstride=1, cstride=1, linewidth=0, antialiased=False)
    if np.nanmax(relief.capped) > relief.levels[1]:  # a flat energy has no contours
        axes.contour(relief.x1, relief.x2, relief.capped.T, levels=relief.levels[1::3], **colours, offset=floor)
    if samples is not None:
        points = plane(samples)
        points = points[inside(points, box)]
        axes.scatter(*points.T, floor, s=4, color="#000000", alpha=0.5, depthshade=False)
    cut = f",\ncut off at {relief.top:.3g}" if (relief.height > relief.top).any() else ""
    axes.set(xlim=box[0], ylim=box[1], zlim=(floor, relief.top), xlabel="$x_1$", ylabel="$x_2$")
    axes.set_zticks(_ticks(relief.top))
    axes.set_zlabel(f"energy above its minimum, in nats{cut}", labelpad=14)
    axes.view_init(elev=45, azim=-60)
    axes.set_box_aspect((1, 1, 0.8), zoom=0.88)
    figure.suptitle(title, y=0.97)
    return figure


def one_top(energy_grids: Sequence[Array], box: Box) -> float | None:
    """Return a common top for several pictures: the median of their own tops.

    With the maximum, one diverged landscape, a thousand times as high as the others, would turn them all dark.
    """
    tops = [Relief.of(grid, box).top for grid in energy_grids if np.isfinite(numbers(grid)).any()]
    return statistics.median(tops) if tops else None


def _grid(energy_grid: Any) -> NDArray[Any]:
    grid = numbers(energy_grid).astype(float)
    if grid.ndim != 2 or min(grid.shape) < 2 or not np.isfinite(grid).any():
        raise UserError(f"energies lie on a grid (N, M) with at least 2 finite points a side; it was {grid.shape}")
    return grid


def _ticks(top: float) -> list[float]:
    """Return round heights from the minimum to the top."""
    return [tick for tick in MaxNLocator(5).tick_values(0, top) if 0 <= tick <= top]


def _around(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask of points that are in a mask or next to one of its points."""
    padded = np.pad(mask, 1)
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).any((2, 3)))
