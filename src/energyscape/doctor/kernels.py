r"""Rules about the chains' kernel: the length of its step, its noise and its bounds.

The data alone determine the step size. If data noised at :math:`\sigma` have a coordinate of variance :math:`v`, a true
energy's curvature in it is at least :math:`1 / v`, and a Langevin step of :math:`\eta` keeps

.. math:: R = \frac{\text{noise}}{\text{drift}} = \frac{\sqrt{2 \eta}}{\eta / \sqrt{v}} = \sqrt{2 v / \eta}

at :math:`T = 1`: unstable at :math:`R \le 1`. :math:`K` steps without drift reach :math:`\sqrt{2 \eta K}`. Neither
needs the model, which may have diverged long ago.
"""

import math
from typing import NamedTuple

from energyscape.doctor.finding import CALM, Finding, calibrated, diverged, flag
from energyscape.doctor.probes import Probes
from energyscape.doctor.record import Record, safe_ratio


def long_step(record: Record, probes: Probes) -> Finding | None:
    r"""Find a step that is too long (row 6).

    Kernels with a Metropolis test: warn at an acceptance below 0.3, act below 0.1. Others: compute :math:`R = \sqrt{2
    v_{\min} / \eta}` from the data, warn below 1.5, act at 1 (unstable). If energies have not diverged, the chains' own
    :math:`R` counts too: warn below 1.25 at :math:`T \approx 1`, act below 1. Also act if steps without noise climb by
    more than :math:`s_E`. Below twice the inverse of the largest curvature, descent cannot climb, clipped or not.
    """
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
    quiet = " and there is no noise" if record.temperature == 0 else ""
    return Finding(
        "long_step",
        "act" if step.bad else "warn",
        "chains overshoot: images go black, white or to noise, and energies diverge",
        "; ".join(words),
        f"the chains' step (η = {eta:g}) is too large{quiet}",
        flag(record, "step_size", eta * step.factor) + (f" {flag(record, 'temperature', 1)}" if quiet else ""),
        step.numbers,
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
    if diverged(record):
        return None
    r = record.ratio if record.columns or probes.moved is not None else probes.ratio_data
    if r is not None and r < 1.25 and calibrated(record):
        evidence = f"a step's noise is {r:.2g} times its drift; 1 is unstable"
        return _Step(r < 1, max(r / CALM, 0.1) ** 2, evidence, {"ratio": r})
    if (probes.quenched or 0) <= 1:
        return None
    climb = probes.quenched or 0.0
    evidence = f"descent without noise climbs by {climb:.3g} s.d. of energy in {record.steps or 20} steps"
    # Climbing begins at R = 1; how far beyond it the step is, is unknown: assume half of that.
    return _Step(True, (0.5 / CALM) ** 2, evidence, {"climb": climb})


def short_step(record: Record, probes: Probes) -> Finding | None:
    r"""Find steps that are too short or too few for chains to move (row 5).

    Noise alone carries a chain by :math:`\sqrt{2 \eta K}` in :math:`K` transitions, whatever the model. In training,
    warn below 0.3 of the data's standard deviation, in generation, which begins at noise, below 0.7. Act below 0.05 and
    0.35, if :math:`\Delta E_{\text{long}} < -3` too, or if the run has diverged.
    """
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
    few = f"--{record.chains}.steps {math.ceil(k * (2 * least / reach) ** 2)}" if sound <= 2 * eta else ""
    evidence = f"{k} steps' noise reaches {reach:.2g} of the data's standard deviation"
    evidence += "" if moved is None else f", and at the beginning chains moved by {moved:.2g} of it"
    evidence += (
        "" if probes.long is None else f"; ten times as many steps lower their energy by {-probes.long:.2g} s.d."
    )
    return Finding(
        "short_step",
        "act" if reach < lost or (probes.long or 0) < -3 or diverged(record) else "warn",
        "chains hardly move, and stay where the energy was low earlier",
        evidence,
        "the chains' steps are too few" if few else f"the chains' step (η = {eta:g}) is too small",
        few or flag(record, "step_size", eta_new),
        {"reach": reach} | ({} if probes.long is None else {"long": probes.long}),
    )


def cold_chains(record: Record, probes: Probes) -> Finding | None:
    r"""Find chains with less noise than their step needs (row 7c).

    :math:`\nu / \sqrt{2 \eta} < 0.8`, that is :math:`T = \nu^2 / 2 \eta < 0.64`: gap and autocorrelation look perfect
    while chains sit in the deepest places. Act below 0.5, that is :math:`T < 0.25`.
    """
    share = _noise_share(record)
    if share is None or share >= 0.8:
        return None
    t = share**2
    diversity = (
        ""
        if probes.diversity is None or not record.columns
        else f"; chains are {probes.diversity:.2g} times as far apart as data"
    )
    return Finding(
        "cold_chains",
        "act" if share < 0.5 else "warn",
        "the gap looks healthy, but samples are few, sharp and alike",
        f"a step's noise is {share:.2g} times √(2η), which is T = {t:.2g}{diversity}",
        "chains are colder than T = 1: they seek the lowest energies and do not sample exp(−E)",
        f"{flag(record, 'temperature', 1)}, or scale the energy by 1/T and report it",
        {"noise_share": share, "temperature": t},
    )


def hot_chains(record: Record, probes: Probes) -> Finding | None:
    r"""Find chains with more noise than their step needs (row 7b).

    :math:`\nu / \sqrt{2 \eta} > 1.25`, that is :math:`T > 1.56`: a quadratic energy is sampled too wide by that factor.
    Act above 2, that is :math:`T > 4`.
    """
    share = _noise_share(record)
    if share is None or share <= 1.25:
        return None
    r = record.ratio if record.columns else (probes.ratio_data or probes.ratio)
    words = [f"a step's noise is {share:.3g} times √(2η), which is T = {share**2:.3g}"]
    words += [f"{r:.3g} times its drift, which at T = 1 would be {r / share:.3g}" if r else ""]
    words += [f"chains rise by {probes.long:.3g} s.d. of energy above the data" if (probes.long or 0) > 1 else ""]
    return Finding(
        "hot_chains",
        "act" if share > 2 else "warn",
        "samples are noise",
        "; ".join(each for each in words if each),
        "the noise drowns the energy: chains are hotter than T = 1",
        flag(record, "temperature", 1) + _within_reach(record, probes),
        {"noise_share": share, "temperature": share**2} | ({} if r is None else {"ratio": r}),
    )


def _within_reach(record: Record, probes: Probes) -> str:
    """Return the larger step that a sampler's cooled chains need, if their own would not carry them far enough."""
    eta, k, width = record.step_size, record.sampler_steps, probes.data_std
    if record.chains != "sampler" or eta is None or k is None or width is None or math.sqrt(2 * eta * k) > width:
        return ""
    sound = (probes.narrowest or 0) ** 2 / 4
    return f" {flag(record, 'step_size', sound)}" if sound > eta else ""


def _noise_share(record: Record) -> float | None:
    r"""Return :math:`\nu / \sqrt{2 \eta}` from the setting, or as measured at the chains."""
    if record.temperature is not None:
        return math.sqrt(record.temperature)
    noise = record.began("noise")
    return None if noise is None or record.step_size is None else noise / math.sqrt(2 * record.step_size)


def unbounded_drift(record: Record, probes: Probes) -> Finding | None:
    r"""Find chains from noise whose drift nothing bounds.

    The kernel is unadjusted and has no clip, and its drift on the way from noise reaches :math:`2.8` standard
    deviations :math:`\sqrt{2 \eta}` of its noise in some element. Act if the run has diverged.
    """
    clip, eta = record.drift_clip, record.step_size
    if record.kernel != "langevin" or record.chains != "objective" or eta is None or record.objective is None:
        return None
    unit = math.sqrt(2 * eta)
    if (clip is not None and clip < 10 * unit) or probes.steepest is None or probes.steepest < CALM:
        return None
    return Finding(
        "unbounded_drift",
        "act" if diverged(record) else "warn",
        "occasional steps throw chains far away, and the next gradients explode",
        f"on the way from noise an element of the drift reaches {probes.steepest:.3g} standard deviations of the noise",
        "nothing clips the chains' drift" + ("" if record.clip is not None else ", nor the parameters' gradient"),
        flag(record, "drift_clip", CALM * unit) + ("" if record.clip is not None else " --train.clip 100"),
        {"steepest": probes.steepest},
    )
