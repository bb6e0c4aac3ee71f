"""Curves over a run, and distributions of numbers."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from energyscape.errors import UserError
from energyscape.plotting.axes import OKABE_ITO, Array, new_axes, numbers

WIDTH = 9.0
"""Inches of a full-width figure; 900 pixels at 100 dots an inch."""


def curves(
    step: Array,
    series: Mapping[str, Array],
    *,
    title: str,
    ylabel: str,
    xlabel: str = "samples seen",
    marks: Sequence[tuple[float, str]] = (),
    log: bool = False,
    smooth: int | None = None,
) -> Figure:
    """Draw metrics over a run: every value faint, their running median bold."""
    x = numbers(step).astype(float)
    figure, axes = new_axes((WIDTH, 3.6), title=title, xlabel=xlabel, ylabel=ylabel)
    window = max(1, len(x) // 40) if smooth is None else smooth
    for index, (name, values) in enumerate(series.items()):
        y = numbers(values).astype(float)
        if x.ndim != 1 or y.shape != x.shape:
            raise UserError(f"series {name!r} has shape {y.shape}; the steps have {x.shape}")
        y = np.where(np.isfinite(y) & (y > 0 if log else True), y, np.nan)
        colour = OKABE_ITO[index % len(OKABE_ITO)]
        if window > 1:
            axes.plot(x, y, color=colour, alpha=0.25, linewidth=0.8)
        lone = "o" if len(x) == 1 else None
        axes.plot(x, _running_median(y, window), color=colour, linewidth=2, label=name, marker=lone)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    if log:
        axes.set_yscale("log")
    else:
        _keep_spikes_out(axes, [numbers(values).astype(float) for values in series.values()])
    _mark(axes, marks, float(np.ptp(x)))
    if len(series) > 1:
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def histogram(series: Mapping[str, Array], xlabel: str, *, title: str = "", bins: int = 60) -> Figure:
    """Draw densities of several sets of numbers over the same bins."""
    arrays = {name: numbers(values).astype(float).ravel() for name, values in series.items()}
    finite = {name: values[np.isfinite(values)] for name, values in arrays.items()}
    pooled = np.concatenate([np.empty(0), *finite.values()])
    if not len(pooled):
        raise UserError("a histogram needs at least one finite number; there was none")
    edges = np.histogram_bin_edges(pooled, bins)
    figure, axes = new_axes((WIDTH, 3.6), title=title, xlabel=xlabel, ylabel="density")
    for index, (name, values) in enumerate(finite.items()):
        lost = len(arrays[name]) - len(values)
        label = f"{name} ({lost:,} not finite)" if lost else name
        density = np.histogram(values, edges)[0] / (max(len(values), 1) * np.diff(edges))
        colour = OKABE_ITO[index % len(OKABE_ITO)]
        axes.stairs(density, edges, fill=True, color=colour, alpha=0.2)
        axes.stairs(density, edges, color=colour, linewidth=1.8, label=label)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _mark(axes: Axes, marks: Sequence[tuple[float, str]], width: float) -> None:
    """Draw vertical lines with labels; crowded marks share the first one's label."""
    labelled = -math.inf
    for where, what in marks:
        axes.axvline(where, color="#555555", linestyle=":", linewidth=1.2)
        if where - labelled > 0.03 * width:
            labelled = where
            axes.text(
                where + 0.005 * width,
                0.98,
                what,
                transform=axes.get_xaxis_transform(),
                rotation=90,
                va="top",
                fontsize=8,
                color="#555555",
            )


def _keep_spikes_out(axes: Axes, series: list[NDArray[Any]]) -> None:
    """Limit the vertical axis to nearly all values if a few outliers would flatten them, and say so."""
    values = np.concatenate([np.empty(0), *series])
    values = values[np.isfinite(values)]
    if len(values) < 50:
        return
    low, high = np.quantile(values, (0.01, 0.99))
    margin = 0.25 * max(high - low, 1e-12)
    outside = int(((values < low - margin) | (values > high + margin)).sum())
    if np.ptp(values) > 4 * (high - low) > 0:
        axes.set_ylim(low - margin, high + margin)
        axes.text(
            1, 1.01, f"{outside:,} of {len(values):,} values outside", transform=axes.transAxes, ha="right", fontsize=8
        )


def _running_median(y: NDArray[Any], window: int) -> NDArray[Any]:
    """Return medians over windows truncated at both ends; NaNs are ignored."""
    if window <= 1:
        return y
    padded = np.pad(y, (window // 2, window - 1 - window // 2), constant_values=np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a window without numbers has no median, as intended
        return np.asarray(np.nanmedian(np.lib.stride_tricks.sliding_window_view(padded, window), axis=1))
