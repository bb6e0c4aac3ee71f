r"""Scores on a landscape, and the chains that follow them.

A score's length spans many orders of magnitude, from a saddle to a cliff. An arrow's length is compressed,

.. math:: \ell(s) = \ell_\infty \, \frac{|s|}{|s| + m},

:math:`m` being about half the median of :math:`|s|`: the typical arrow is two thirds as long as the longest, and
lengths are compared by the key only. Directions are true.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke
from matplotlib.quiver import Quiver
from numpy.typing import NDArray

from energyscape.errors import UserError
from energyscape.plotting.axes import OKABE_ITO, Array, Box, inside, note, numbers, plane, plane_axes, unseen
from energyscape.plotting.relief import BAR, Relief, fill_with_bar

KEY = (0.5, 2.0, 8.0)
"""Scores in the key, in units of :math:`m`."""


def score_field(
    points: Array,
    score: Array,
    box: Box,
    energy_grid: Array | None = None,
    *,
    top: float | None = None,
    title: str = "",
) -> Figure:
    """Draw the score as arrows that begin at its points, optionally on the landscape that it descends."""
    x, s = plane(points), plane(score)
    if len(x) != len(s):
        raise UserError(f"every point has one score; there were {len(x)} points and {len(s)} scores")
    figure, axes = plane_axes(box, title=title, beside=BAR if energy_grid is not None else 0.0, below=0.6)
    if energy_grid is not None:
        fill_with_bar(figure, axes, Relief.of(energy_grid, box, top=top))
    shown = inside(x, box) & np.isfinite(s).all(1)
    note(axes, unseen(shown))
    _arrows(figure, axes, x[shown], s[shown], box, dark=energy_grid is not None)
    return figure


def _arrows(figure: Figure, axes: Axes, x: NDArray[Any], s: NDArray[Any], box: Box, *, dark: bool) -> None:
    """Draw arrows of compressed length that begin at ``x``, with a key to their lengths under the axes."""
    size, sides = np.linalg.norm(s, axis=1), np.ptp(box, axis=1)
    if not len(x):
        return
    middle = float(f"{np.median(size) / 2:.1g}") or 1.0
    # With different scales on the axes, measure lengths as they appear.
    unit = np.ones(2) if axes.get_aspect() == 1 else sides / np.sqrt(sides.prod())
    longest = 1.1 * np.sqrt(sides.prod() / len(x))
    length = longest * size / (size + middle)
    arrow = s * (length / np.maximum(np.linalg.norm(s / unit, axis=1), 1e-300))[:, None]
    axes.update_datalim(np.transpose(box))  # measure directions with steps in proportion to the drawn ones
    drawn = axes.quiver(
        *x.T,
        *arrow.T,
        angles="xy",
        scale_units="xy",
        scale=1,
        pivot="tail",
        width=0.004,
        headwidth=3.5,
        headlength=4,
        headaxislength=3.5,
        color="#FFFFFF" if dark else OKABE_ITO[0],
        edgecolor="#000000",
        linewidth=0.4 if dark else 0,
        zorder=3,
    )
    _key(figure, axes, drawn, longest * unit[0], middle)


def _key(figure: Figure, axes: Axes, arrows: Quiver, longest: float, middle: float) -> None:
    """Draw a key with the arrows of a few scores under the axes."""
    inch = 1 / figure.get_figheight()
    figure.set_layout_engine("constrained", rect=(0, 0.5 * inch, 1, 1 - 0.5 * inch))
    rule = f"length ∝ |s| / (|s| + {_shown(middle)}), s in nats per unit of x"
    figure.text(0.5, 0.4 * inch, rule, ha="center", va="center", fontsize=9)
    for place, times in zip((0.14, 0.42, 0.7), KEY, strict=True):
        axes.quiverkey(
            arrows,
            place,
            0.15 * inch,
            longest * times / (times + 1),
            f"|s| = {_shown(times * middle)}",
            coordinates="figure",
            labelpos="E",
            fontproperties={"size": 9},
        )


def trajectories(
    path: Array, energy_grid: Array, box: Box, *, chains: int = 5, top: float | None = None, title: str = ""
) -> Figure:
    """Draw the paths of the first few chains on a landscape: circles at the start, squares at the end.

    Straight lines join kept positions; if not every step was kept, the chain left these lines.
    """
    kept = path_in_plane(path)[:, : max(chains, 0)]
    if not kept.shape[1]:
        raise UserError(f"at least one chain is drawn; it was {chains}")
    figure, axes = plane_axes(box, title=title, beside=BAR, below=0.3)
    fill_with_bar(figure, axes, Relief.of(energy_grid, box, top=top))
    for index, chain in enumerate(kept.swapaxes(0, 1)):
        colour, finite = OKABE_ITO[index % len(OKABE_ITO)], chain[np.isfinite(chain).all(1)]
        # A white rim separates a dark line from a dark valley.
        rim = [Stroke(linewidth=3.2, foreground="#FFFFFF"), Normal()]
        axes.plot(*chain.T, color=colour, linewidth=1.4, path_effects=rim, zorder=3)
        for place, marker in ((finite[:1], "o"), (finite[-1:], "s")):
            axes.plot(
                *place.T, marker, color=colour, markersize=8, markeredgecolor="#FFFFFF", markeredgewidth=1.4, zorder=4
            )
    note(axes, unseen(inside(kept, box)))
    handles = [
        Line2D([], [], marker=m, color="#555555", linestyle="", label=name)
        for m, name in (("o", "start"), ("s", "end"))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def path_in_plane(path: Any) -> NDArray[Any]:
    """Return the kept positions of chains in the plane, ``(K, C, 2)``."""
    kept = numbers(path).astype(float)
    if kept.ndim != 3 or kept.shape[2] != 2 or 0 in kept.shape:
        raise UserError(f"a path in the plane is (K, C, 2); it was {kept.shape}")
    return kept


def _shown(value: float) -> str:
    return f"{float(f'{value:.2g}'):,g}"
