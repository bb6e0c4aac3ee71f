r"""Rules about the chains' kernel: the length of its step, its noise and its bounds.

The data alone determine the step size. If data noised at :math:`\sigma` have a coordinate of variance :math:`v`, a true
energy's curvature in it is at least :math:`1 / v`, and a Langevin step of :math:`\eta` keeps

.. math:: R = \frac{\text{noise}}{\text{drift}} = \frac{\sqrt{2 \eta}}{\eta / \sqrt{v}} = \sqrt{2 v / \eta}

at :math:`T = 1`: unstable at :math:`R \le 1`. :math:`K` steps without drift reach :math:`\sqrt{2 \eta K}`. Neither
needs the model, which may have diverged long ago.
"""

import math
from typing import NamedTuple

from energyscape.doctor.finding import CALM, Advice, Finding, Limit, Setting, above, below, finding, kernel, table
from energyscape.doctor.probes import Probes
from energyscape.doctor.record import Record, safe_ratio


def long_step(record: Record, probes: Probes) -> Finding | None:
    """Find a step that is too long (row 6): rejected, unstable on these data, or climbing without noise."""
    eta = record.step_size
    step = None if eta is None else (_rejected if record.adjusted else _overshooting)(record, probes)
    if eta is None or step is None:
        return None
    words = [step.evidence]
    if probes.accept is not None and not record.adjusted:
        words += [f"a Metropolis test would accept {probes.accept:.0%} of such steps"]
    if (probes.quenched or 0) > 1 and "climb" not in step.numbers:
        words += [f"descent without noise climbs by {probes.quenched:.3g} s.d. of energy"]
    if (probes.outside or 0) > 0.2:
        words += [
            f"{100 * (probes.outside or 0):.0f} points more of their coordinates than of the data's are at the edge"
        ]
    quiet = record.temperature == 0
    return finding(
        "long_step",
        step.bad,
        "chains overshoot: images go black, white or to noise, and energies diverge",
        words,
        f"the chains' step (η = {eta:g}) is too large" + " and there is no noise" * quiet,
        advice=[kernel(record, "step_size", eta * step.factor), *([kernel(record, "temperature", 1)] if quiet else [])],
        numbers=step.numbers,
    )


class _Step(NamedTuple):
    """A step: whether it is bad, the factor that corrects it, and the evidence."""

    bad: bool
    factor: float
    evidence: str
    numbers: dict[str, float]


def _rejected(record: Record, probes: Probes) -> _Step | None:
    accept = record.now("accept_prob") if record.columns else probes.accept
    if accept is None or accept >= 0.3:
        return None
    bad = accept < 0.1
    return _Step(bad, 1 / (16 if bad else 4), f"{accept:.2g} of the proposals are accepted", {"accept": accept})


def _overshooting(record: Record, probes: Probes) -> _Step | None:
    blurred = (probes.degenerate or 0) <= 0.02 or bool(record.data_noise)
    longest = math.sqrt(2 / record.step_size) if record.step_size and blurred else None
    possible = longest * probes.narrowest if longest and probes.narrowest else None
    if possible is not None and possible < 1.5:
        evidence = (
            f"noise over drift can be at most {possible:.2g} on these data (their narrowest coordinate varies by "
            f"{probes.narrowest:.3g}); 1 is unstable"
        )
        return _Step(possible <= 1, (possible / CALM) ** 2, evidence, {"possible": possible})
    if record.diverged:
        return None
    r = record.ratio if record.columns or probes.moved is not None else probes.ratio_data
    if r is not None and r < 1.25 and record.calibrated:
        evidence = f"a step's noise is {r:.2g} times its drift; 1 is unstable"
        return _Step(r < 1, max(r / CALM, 0.1) ** 2, evidence, {"ratio": r})
    if (probes.quenched or 0) <= 1:
        return None
    climb = probes.quenched or 0.0
    evidence = f"descent without noise climbs by {climb:.3g} s.d. of energy in {record.steps or 20} steps"
    # Climbing begins at R = 1; how far beyond it the step is, is unknown: assume half of that.
    return _Step(True, (0.5 / CALM) ** 2, evidence, {"climb": climb})


def short_step(record: Record, probes: Probes) -> Finding | None:
    """Find steps that are too short or too few for chains to move, whatever the model (row 5)."""
    eta, k = record.step_size, record.steps if record.chains == "objective" else record.sampler_steps
    width = probes.data_std or record.began("data_std")
    if eta is None or k is None or width is None or record.kernel not in ("langevin", "mala"):
        return None
    reach = math.sqrt(2 * eta * k) / width
    least, lost = (0.3, 0.05) if record.chains == "objective" else (0.7, 0.35)
    if reach >= least or (record.now("accept_prob") or 1) < 0.9:
        return None
    moved = safe_ratio(record.began("move"), record.began("data_std"))
    sound = (probes.narrowest or 0) ** 2 / 4
    eta_new = sound if sound > eta else eta * min((0.5 / reach) ** 2, 100)
    few = sound <= 2 * eta
    words = f"{k} steps' noise reaches {reach:.2g} of the data's standard deviation"
    words += "" if moved is None else f", and at the beginning chains moved by {moved:.2g} of it"
    longer = "" if probes.long is None else f"ten times as many steps lower their energy by {-probes.long:.2g} s.d."
    steps = Setting(f"{record.chains}.steps", math.ceil(k * (2 * least / reach) ** 2))
    return finding(
        "short_step",
        reach < lost or (probes.long or 0) < -3 or record.diverged,
        "chains hardly move, and stay where the energy was low earlier",
        [words, longer],
        "the chains' steps are too few" if few else f"the chains' step (η = {eta:g}) is too small",
        advice=[steps if few else kernel(record, "step_size", eta_new)],
        numbers={"reach": reach, "long": probes.long},
    )


def _cooled(record: Record, probes: Probes) -> Advice:
    """Return a temperature of 1, and the larger step that a sampler's cooled chains need to be carried far enough."""
    eta, k, width = record.step_size, record.sampler_steps, probes.data_std
    sound, cooled = (probes.narrowest or 0) ** 2 / 4, kernel(record, "temperature", 1)
    if record.chains != "sampler" or eta is None or k is None or width is None or math.sqrt(2 * eta * k) > width:
        return [cooled]
    return [cooled, kernel(record, "step_size", sound)] if sound > eta else [cooled]


def _warmth(record: Record, probes: Probes) -> list[str]:
    """Return further evidence of chains that are too hot."""
    r, share = record.ratio if record.columns else (probes.ratio_data or probes.ratio), _noise_share(record) or 1.0
    return [
        f"{r:.3g} times its drift, which at T = 1 would be {r / share:.3g}" if r else "",
        f"chains rise by {probes.long:.3g} s.d. of energy above the data" if (probes.long or 0) > 1 else "",
    ]


def _alike(record: Record, probes: Probes) -> list[str]:
    known = probes.diversity is not None and bool(record.columns)
    return [f"chains are {probes.diversity:.2g} times as far apart as data"] if known else []


def _heat(record: Record, _: Probes) -> float | None:
    r"""Return the temperature :math:`\nu^2 / 2 \eta` that a step's noise has."""
    share = _noise_share(record)
    return None if share is None else share**2


def _noise_share(record: Record) -> float | None:
    r"""Return :math:`\nu / \sqrt{2 \eta}` from the setting, or as measured at the chains."""
    if record.temperature is not None:
        return math.sqrt(record.temperature)
    noise = record.began("noise")
    return None if noise is None or record.step_size is None else noise / math.sqrt(2 * record.step_size)


def unbounded_drift(record: Record, probes: Probes) -> Finding | None:
    """Find chains from noise of an unadjusted kernel whose drift nothing bounds."""
    clip, eta = record.drift_clip, record.step_size
    if record.kernel != "langevin" or record.chains != "objective" or eta is None or record.objective is None:
        return None
    unit = math.sqrt(2 * eta)
    if (clip is not None and clip < 10 * unit) or probes.steepest is None or probes.steepest < CALM:
        return None
    clipped = record.clip is not None
    return finding(
        "unbounded_drift",
        record.diverged,
        "occasional steps throw chains far away, and the next gradients explode",
        [f"on the way from noise the drift reaches {probes.steepest:.3g} standard deviations of the noise"],
        "nothing clips the chains' drift" + ", nor the parameters' gradient" * (not clipped),
        advice=[kernel(record, "drift_clip", CALM * unit), *([] if clipped else [Setting("train.clip", 100)])],
        numbers={"steepest": probes.steepest},
    )


LIMITS = {
    # Less noise than the step needs (row 7c): gap and autocorrelation look perfect, chains sit in the deepest places.
    "cold_chains": Limit(
        _heat,
        below(0.64, act=0.25),
        "the gap looks healthy, but samples are few, sharp and alike",
        "a step's noise is that of T = {v:.2g}",
        "chains are colder than T = 1: they seek the lowest energies and do not sample exp(−E)",
        lambda r, _: [kernel(r, "temperature", 1), ", or scale the energy by 1/T and report it"],
        _alike,
        key="temperature",
    ),
    # More noise than the step needs (row 7b): at T = 1.56 a quadratic energy is sampled 1.25 times too wide.
    "hot_chains": Limit(
        _heat,
        above(1.5625, act=4),
        "samples are noise",
        "a step's noise is that of T = {v:.3g}",
        "the noise drowns the energy: chains are hotter than T = 1",
        _cooled,
        _warmth,
        key="temperature",
    ),
}

RULES = table((long_step, short_step, unbounded_drift), LIMITS)
"""The rules by name."""
