"""The record of a run as plain numbers: columns of metrics, the guards' interventions and the settings.

Rules look at the last :math:`W` lines, because a healthy run may have begun badly, and at the first lines to see how it
began.
"""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, final

from energyscape.objectives.facts import Column

WINDOW: Final = 50
"""Lines of the metrics that count as now."""

MIN_FINITE: Final = 5
"""Finite numbers that a window needs."""


RUNAWAY: Final = 1_000.0
"""Growth of gap plus spread over their smallest that counts as divergence; learned landscapes grow a hundredfold."""


@final
@dataclass(frozen=True, kw_only=True)
class Record:
    """Metrics and interventions of a run, and the settings that rules need; unknown ones are none.

    Settings are the recipe's; changes by guards are in ``interventions``. Lengths are in units of ``x``.
    """

    columns: Mapping[str, Sequence[float]] = field(default_factory=dict)  # metrics by name, one number a line, or NaN
    interventions: Sequence[Mapping[str, Any]] = ()  # of guards, in order: step, samples, verdict, reason, action
    objective: str | None = None
    kernel: str | None = None
    chains: str = "objective"  # the recipe's section of the kernel, or "sampler"
    inner: str = ""  # "kernel." if the kernel is inside another one
    adjusted: bool = False  # whether the kernel has a Metropolis test
    step_size: float | None = None  # η of Langevin steps, in squared units of x
    typed: tuple[float, float] | None = None  # the step in the recipe, and its power of η
    temperature: float | None = None
    drift_clip: float | None = None
    steps: int | None = None  # transitions of a chain in a training step
    sampler_steps: int | None = None  # transitions of a chain when generating
    start: str | None = None  # buffer, noise or data
    capacity: int | None = None  # chains in the buffer
    refresh: float | None = None
    data_noise: float | None = None
    tweedie: bool | None = None
    reference_std: float | None = None
    scale: float | None = None  # of the network's output
    alpha: float | None = None
    regulariser: str | None = None
    budget: int | None = None  # samples; none for a budget of time
    batch_size: int | None = None
    flips: bool | None = None
    learning_rate: float | None = None  # at its highest
    warmup: int | None = None
    decay: str | None = None
    beta1: float | None = None
    beta2: float | None = None
    clip: float | None = None
    network: str | None = None
    width: int | None = None
    activation: str | None = None
    spectral_norm: bool | None = None
    log_every: int | None = None
    guarded: float | None = None  # the guards' limits over the least sensible ones, the lowest; none without guards

    @property
    def lines(self) -> int:
        """Number of lines of metrics."""
        return max((len(column) for column in self.columns.values()), default=0)

    @property
    def window(self) -> int:
        """Lines that count as now: the last half of the record, at most `WINDOW`."""
        return max(MIN_FINITE, min(WINDOW, self.lines // 2))

    def column(self, name: Column) -> Sequence[float]:
        """Return a column; empty if the run has not written it."""
        return self.columns.get(name, ())

    def last(self, name: Column, *, window: int | None = None) -> list[float]:
        """Return the finite numbers among a column's last lines; fewer than `MIN_FINITE` are none."""
        return _finite(self.column(name)[-(window or self.window) :])

    def first(self, name: Column, *, window: int = 10) -> list[float]:
        """Return the finite numbers among a column's first lines; fewer than `MIN_FINITE` are none."""
        return _finite(self.column(name)[:window])

    def now(self, name: Column) -> float | None:
        """Return the median of a column's last lines, or none."""
        return median(self.last(name))

    def began(self, name: Column) -> float | None:
        """Return the median of a column's first lines, or none."""
        return median(self.first(name))

    @property
    def ratio(self) -> float | None:
        """Noise over drift of the chains' steps now, :math:`R`; none if either is unknown or zero."""
        return safe_ratio(self.now("noise"), self.now("drift"))

    def lost(self, name: Column = "loss") -> int:
        """Return the number of lines of a column that are not finite."""
        return sum(not math.isfinite(value) for value in self.column(name))

    def answered(self, *words: str) -> list[Mapping[str, Any]]:
        """Return the interventions whose reason or action contains any of some words."""
        texts = [(each, f"{each.get('reason', '')} {each.get('action', '')}") for each in self.interventions]
        return [each for each, text in texts if any(word in text for word in words)]

    @property
    def stopped(self) -> list[str]:
        """Reasons for which guards stopped the run."""
        return [f"guards stopped it: {each['reason']}" for each in self.interventions if each["verdict"] == "STOP"]

    @property
    def growth(self) -> float | None:
        r"""Size of the energies over its smallest, or none.

        .. math:: \max_{t \in W} \ell_t / \min_t \operatorname{median}(\ell_{t-4}, \ldots, \ell_t),
                  \qquad \ell = |\bar E^- - \bar E^+| + \operatorname{std} E^+
        """
        pairs = zip(self.column("gap"), self.column("spread"), strict=False)
        level = [abs(a) + b for a, b in pairs if math.isfinite(a) and math.isfinite(b)]
        if len(level) < 10:
            return None
        least = min(median(level[t : t + 5]) or math.inf for t in range(len(level) - 4))
        return max(level[-self.window :]) / max(least, 1e-12)

    @property
    def spike(self) -> float | None:
        """The largest gradient norm among the last lines over their median, or none."""
        norms = self.last("grad_norm")
        usual = median(norms)
        return max(norms) / usual if usual else None

    @property
    def diverged(self) -> bool:
        """Whether guards stopped the run, or its numbers diverged or ceased to be finite.

        Lines that are not finite are not counted if guards skipped at least as many batches of bad data.
        """
        ended = self.lost() > len(self.answered("data points are not finite"))
        gaps = self.last("gap")
        drifting = (autocorrelation(gaps) or 0) > 0.9 and abs(gaps[-1]) > 10 * max(abs(gaps[0]), 1e-12)
        return bool(self.stopped) or ended or (self.growth or 0) > RUNAWAY or (self.spike or 0) > 100 or drifting

    @property
    def calibrated(self) -> bool:
        """Whether the chains' temperature is near one, so that noise over drift measures the step."""
        return self.temperature is None or 0.5 <= self.temperature <= 2


def _finite(values: Sequence[float]) -> list[float]:
    finite = [value for value in values if math.isfinite(value)]
    return finite if len(finite) >= MIN_FINITE else []


def median(values: Sequence[float]) -> float | None:
    """Return the median, or none for no values."""
    return statistics.median(values) if values else None


def safe_ratio(numerator: float | None, denominator: float | None) -> float | None:
    """Return a ratio; none if a part is missing or the denominator is not positive."""
    known = numerator is not None and denominator is not None and denominator > 0
    return numerator / denominator if known else None  # type: ignore[operator]


def autocorrelation(values: Sequence[float], lag: int = 1) -> float | None:
    r"""Return :math:`\rho_k = \sum_t (v_t - \bar v)(v_{t+k} - \bar v) / \sum_t (v_t - \bar v)^2`, or none.

    Near 0 the numbers are noise about a level, near 1 they drift, below 0 they swing to and fro.

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
    r"""Return the standard deviation of the noise on a slowly changing series, or none.

    .. math:: \hat s = 1.4826\, \operatorname{median}_t |v_{t+1} - v_t| / \sqrt 2

    Differences of neighbours do not see a trend, the median does not see a few spikes.
    """
    if len(values) < MIN_FINITE:
        return None
    steps = [abs(b - a) for a, b in itertools.pairwise(values)]
    return 1.4826 * statistics.median(steps) / math.sqrt(2)
