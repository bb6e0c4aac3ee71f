r"""What a run left behind, as plain numbers: columns of metrics, the guards' interventions, and the settings.

A rule that looks for trouble looks at the last :math:`W` lines of the record, because a run that is well now may have
begun badly; and at the first ones where what it began with is the question.
"""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, final

WINDOW: Final = 50
"""Lines of the metrics that count as now."""

ENOUGH: Final = 5
"""Finite numbers in a window below which it says nothing."""


@final
@dataclass(frozen=True, kw_only=True)
class Record:
    r"""What a run wrote down, and the settings that rules need; whatever is not known is none.

    Settings are those of the recipe. What guards changed on the way is told by ``interventions``, not here.

    Args:
        columns: Metrics by name, one number a line; NaN where there was none.
        interventions: What guards did, in order: ``step``, ``samples``, ``verdict``, ``reason``, ``action``.
        objective: Name of the objective.
        kernel: Name of the transition that makes negatives; of the sampler's, where training has no chains.
        chains: Section of the recipe that the kernel stands in, ``objective`` or ``sampler``.
        step_size: :math:`\eta` of the kernel, in squared units of ``x``.
        temperature: :math:`T` of the kernel.
        drift_clip: Largest element of a drift, in units of ``x``.
        bounds: Lowest and highest value of an element of ``x``.
        steps: Transitions of a chain in a training step.
        sampler_steps: Transitions of a chain when generating.
        start: Name of the start: ``buffer``, ``noise``, ``data``.
        capacity: Chains in the buffer.
        refresh: Probability that a drawn chain is restarted.
        data_noise: Standard deviation of the noise on the data, in units of ``x``.
        tweedie: Whether a denoising step ends the sampler's chains.
        reference_std: Of the energy's Gaussian term, in units of ``x``.
        alpha: Weight of the energy regulariser.
        regulariser: Its kind, ``squared`` or ``mean``.
        batch_size: Data points a step.
        learning_rate: At its highest.
        beta1: Adam's decay of the gradient's mean.
        clip: Largest norm of the parameters' gradient.
        ema_half_life: Of the averaged weights, in samples.
        network: Its name.
        activation: Of the network.
        spectral_norm: Whether the network's layers are normalised.
        log_every: Steps between two lines of the metrics.
        selected_by: What chose the checkpoint, where something did.
    """

    columns: Mapping[str, Sequence[float]] = field(default_factory=dict)
    interventions: Sequence[Mapping[str, Any]] = ()
    objective: str | None = None
    kernel: str | None = None
    chains: str = "objective"
    step_size: float | None = None
    temperature: float | None = None
    drift_clip: float | None = None
    bounds: tuple[float, float] | None = None
    steps: int | None = None
    sampler_steps: int | None = None
    start: str | None = None
    capacity: int | None = None
    refresh: float | None = None
    data_noise: float | None = None
    tweedie: bool | None = None
    reference_std: float | None = None
    alpha: float | None = None
    regulariser: str | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    beta1: float | None = None
    clip: float | None = None
    ema_half_life: float | None = None
    network: str | None = None
    activation: str | None = None
    spectral_norm: bool | None = None
    log_every: int | None = None
    selected_by: str | None = None

    @property
    def lines(self) -> int:
        """How many lines of metrics there are."""
        return max((len(column) for column in self.columns.values()), default=0)

    @property
    def window(self) -> int:
        """Lines that count as now: the last half of the record, at most `WINDOW`."""
        return max(ENOUGH, min(WINDOW, self.lines // 2))

    def last(self, name: str, *, window: int | None = None) -> list[float]:
        """Returns the finite numbers among a column's last lines; fewer than `ENOUGH` are none.

        Args:
            name: Of the column.
            window: How many lines; those that count as now when left out.
        """
        return _told(self.columns.get(name, ())[-(window or self.window) :])

    def first(self, name: str, *, window: int = 10) -> list[float]:
        """Returns the finite numbers among a column's first lines; fewer than `ENOUGH` are none.

        Args:
            name: Of the column.
            window: How many lines.
        """
        return _told(self.columns.get(name, ())[:window])

    def now(self, name: str) -> float | None:
        """Returns the median of a column's last lines, or none.

        Args:
            name: Of the column.
        """
        return median(self.last(name))

    def began(self, name: str) -> float | None:
        """Returns the median of a column's first lines, or none.

        Args:
            name: Of the column.
        """
        return median(self.first(name))

    @property
    def ratio(self) -> float | None:
        r"""Noise over drift of the chains' steps now, :math:`R`; none where either is not told or zero."""
        return over(self.now("noise"), self.now("drift"))

    def lost(self, name: str = "loss") -> int:
        """Returns how many lines of a column are not finite.

        Args:
            name: Of the column.
        """
        return sum(not math.isfinite(value) for value in self.columns.get(name, ()))

    def answered(self, *words: str) -> list[Mapping[str, Any]]:
        """Returns the interventions whose reason or action says any of some words.

        Args:
            words: To look for.
        """
        said = [(each, f"{each.get('reason', '')} {each.get('action', '')}") for each in self.interventions]
        return [each for each, text in said if any(word in text for word in words)]


def _told(values: Sequence[float]) -> list[float]:
    finite = [value for value in values if math.isfinite(value)]
    return finite if len(finite) >= ENOUGH else []


def median(values: Sequence[float]) -> float | None:
    """Returns the median, or none of nothing.

    Args:
        values: The numbers.
    """
    return statistics.median(values) if values else None


def over(numerator: float | None, denominator: float | None) -> float | None:
    """Returns a ratio, or none where a part of it is missing or the denominator is not positive.

    Args:
        numerator: What is divided.
        denominator: By what.
    """
    known = numerator is not None and denominator is not None and denominator > 0
    return numerator / denominator if known else None  # type: ignore[operator]


def autocorrelation(values: Sequence[float], lag: int = 1) -> float | None:
    r"""Returns :math:`\rho_k = \sum_t (v_t - \bar v)(v_{t+k} - \bar v) / \sum_t (v_t - \bar v)^2`, or none.

    Near 0 the numbers are noise about a level, near 1 they drift, below 0 they swing to and fro.

    Args:
        values: The numbers, in order.
        lag: :math:`k`.

    Examples:
        >>> round(autocorrelation([1.0, -1.0] * 50), 2)
        -0.99
    """
    if len(values) < 2 * lag + 2:
        return None
    mean = statistics.fmean(values)
    away = [value - mean for value in values]
    total = sum(each * each for each in away)
    return sum(a * b for a, b in zip(away, away[lag:], strict=False)) / total if total > 0 else None


def jitter(values: Sequence[float]) -> float | None:
    r"""Returns the standard deviation of the noise on a slowly changing series, or none.

    .. math:: \hat s = 1.4826\, \operatorname{median}_t |v_{t+1} - v_t| / \sqrt 2

    Differences of neighbours do not see a trend, the median does not see a few spikes.

    Args:
        values: The numbers, in order.
    """
    if len(values) < ENOUGH:
        return None
    steps = [abs(b - a) for a, b in itertools.pairwise(values)]
    return 1.4826 * statistics.median(steps) / math.sqrt(2)
