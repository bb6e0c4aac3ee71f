"""Findings, and the measurements that rules share."""

import math
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from energyscape.doctor.probes import Probes
from energyscape.doctor.record import Record, autocorrelation, median

Severity = Literal["warn", "act"]

RUNAWAY: Final = 1_000.0
"""Growth of gap plus spread over their smallest that counts as divergence; learned landscapes grow a hundredfold."""

CALM: Final = 2.8
r"""The noise over the drift of a sound step: :math:`\eta = v_{\min} / 4`."""


class Finding(NamedTuple):
    """One thing that is wrong."""

    rule: str  # Its name in `rules.RULES`
    severity: Severity  # ``act``: the run or its samples are lost; ``warn``: they are impaired
    symptom: str  # The visible effect
    evidence: str  # The measurement, in words
    cause: str  # The most likely cause
    remedy: str  # The settings to change, as flags
    numbers: dict[str, float]  # The measurement, as numbers


Rule = Callable[[Record, Probes], Finding | None]
"""Maps a record and probes to a finding, or none; also none if data for the rule are missing."""


def flag(record: Record, setting: str, value: float) -> str:
    """Return a kernel setting as a command-line flag; a step size is given as η."""
    if setting == "step_size" and record.step_size and record.typed:
        value = record.typed[0] * (value / record.step_size) ** record.typed[1]
    return f"--{record.chains}.kernel.{record.inner}{setting} {value:.2g}"


def rate(record: Record, factor: float) -> str:
    """Return the learning rate times a factor as a command-line flag."""
    return f"--train.learning_rate {(record.learning_rate or 1e-3) * factor:.2g}"


def energy_growth(record: Record) -> float | None:
    r"""Return how many times the energies' size exceeds its smallest, or none.

    .. math:: \max_{t \in W} \ell_t / \min_t \operatorname{median}(\ell_{t-4}, \ldots, \ell_t),
              \qquad \ell = |\bar E^- - \bar E^+| + \operatorname{std} E^+
    """
    gaps, spreads = record.columns.get("gap", ()), record.columns.get("spread", ())
    level = [abs(a) + b for a, b in zip(gaps, spreads, strict=False) if math.isfinite(a) and math.isfinite(b)]
    if len(level) < 10:
        return None
    least = min(median(level[t : t + 5]) or math.inf for t in range(len(level) - 4))
    return max(level[-record.window :]) / max(least, 1e-12)


def gradient_spike(record: Record) -> float | None:
    """Return the largest gradient norm among the last lines over their median, or none."""
    norms = record.last("grad_norm")
    usual = median(norms)
    return max(norms) / usual if usual else None


def stopped(record: Record) -> list[str]:
    """Return why guards stopped the run, if they did."""
    return [f"guards stopped it: {each['reason']}" for each in record.interventions if each["verdict"] == "STOP"]


def diverged(record: Record) -> bool:
    """Whether guards stopped the run, or its numbers diverged or ceased to be finite.

    Lines that are not finite are not counted if guards skipped at least as many batches of bad data.
    """
    ended = record.lost() > len(record.answered("data points are not finite"))
    rho = autocorrelation(record.last("gap"))
    shape = record.last("gap")
    drifting = rho is not None and rho > 0.9 and abs(shape[-1]) > 10 * max(abs(shape[0]), 1e-12)
    return (
        bool(stopped(record))
        or ended
        or (energy_growth(record) or 0) > RUNAWAY
        or (gradient_spike(record) or 0) > 100
        or drifting
    )


def calibrated(record: Record) -> bool:
    """Whether the chains' temperature is near one, so that noise over drift measures the step."""
    return record.temperature is None or 0.5 <= record.temperature <= 2
