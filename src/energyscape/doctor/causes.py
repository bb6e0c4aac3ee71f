r"""Rules about causes: data that spoil, and settings that are out of line.

What a step size should be is told by the data alone. Where data noised at :math:`\sigma` have a coordinate of variance
:math:`v`, a true energy's curvature in it is at least :math:`1 / v`, and a Langevin step of :math:`\eta` keeps

.. math:: R = \frac{\text{noise}}{\text{drift}} = \frac{\sqrt{2 \eta}}{\eta / \sqrt{v}} = \sqrt{2 v / \eta}

at :math:`T = 1`: unstable at :math:`R \le 1`. :math:`K` steps without any drift reach :math:`\sqrt{2 \eta K}`. Neither
needs the model, which may long be lost.
"""

import math

from energyscape.doctor.finding import (
    CALM,
    Finding,
    adjusted,
    calibrated,
    diverged,
    flag,
    growth,
    rate,
    volley,
)
from energyscape.doctor.probes import Probes
from energyscape.doctor.record import Record, autocorrelation, jitter, median, over


def spoiled_data(record: Record, probes: Probes) -> Finding | None:
    r"""Data that are not finite.

    Told by the data themselves, by guards that skipped such batches, or by a record whose numbers end from one line to
    the next: calm (gradient norm within 10 times its median, energies within 10 times their smallest in the last
    window), then not finite.
    """
    skipped = record.answered("data points are not finite")
    bad = 0.0 if probes.finite is None else 1 - probes.finite
    if not bad and not skipped and not _ended_suddenly(record):
        return None
    if skipped:
        evidence = f"{len(skipped)} batches held data that are not finite: {skipped[0].get('reason', '')}"
    elif bad:
        evidence = f"{bad:.2%} of the data looked at are not finite"
    else:
        evidence = f"{record.lost()} of {record.lines} lines are not finite, and the lines before them were calm"
    return Finding(
        "spoiled_data",
        "act",
        "numbers end from one step to the next",
        evidence,
        "there are data points that are not finite (NaN or infinite), and one of them is enough",
        "mend the data: leave out the points that are not finite (torch.isfinite); "
        "until then --guard.enabled true skips their batches",
        {"not_finite": bad, "batches": float(len(skipped)), "lines": float(record.lost())},
    )


def _ended_suddenly(record: Record) -> bool:
    columns = record.columns.get("loss", ())
    end = next((i for i, value in enumerate(columns) if not math.isfinite(value)), None)
    if end is None or end < 5 or any(math.isfinite(value) for value in columns[end:]):
        return False
    before = Record(columns={name: column[:end] for name, column in record.columns.items()})
    return (growth(before) or 1) < 100 and (volley(before) or 1) < 10


def strong_regulariser(record: Record, probes: Probes) -> Finding | None:
    r"""An energy regulariser that outweighs the data (row 15).

    With :math:`\alpha \overline{E^2}` in the loss, the gradient of a point's energy is :math:`1 + 2 \alpha E` where it
    should be 1. Warn at :math:`2 \alpha\, \operatorname{rms}(E) > 0.3`, act above 1. Also
    :math:`|\bar{\text{gap}}| / \operatorname{std} > 3` with spread under 0.3 T, where :math:`\alpha > 0`.
    """
    alpha = record.alpha or 0.0
    energy, spread = record.now("energy_data"), record.now("spread") or probes.spread
    if alpha == 0 or record.regulariser == "mean" or spread is None:
        return None
    weight = 2 * alpha * math.hypot(max(abs(energy or 0), abs(record.now("energy_model") or 0)), spread)
    temperature = record.temperature or 1.0
    gaps, flat = record.last("gap"), spread < 0.3 * temperature
    z = over(abs(sum(gaps) / len(gaps)), _deviation(gaps)) if gaps else None
    if weight <= 0.3 and not (flat and (z or 0) > 3):
        return None
    target = 0.03 / max(weight, 1e-12) * alpha if weight > 0.3 else alpha / 10
    return Finding(
        "strong_regulariser",
        "act" if weight > 1 or flat else "warn",
        "the energy stays flat and its gap does not close",
        f"2 α rms(E) = {weight:.3g} beside the likelihood's 1; energies of data spread by {spread:.3g} at T = "
        f"{temperature:g}",
        f"the energy regulariser (α = {alpha:g}) outweighs the data",
        f"--objective.alpha {target:.1g}, or --objective.regulariser mean, which holds the free constant alone",
        {"weight": weight, "spread": spread, "alpha": alpha},
    )


def _deviation(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))


def degenerate_data(record: Record, probes: Probes) -> Finding | None:
    r"""Directions in which the data hardly vary (row 8).

    Share of the coordinates whose standard deviation is below one step's noise :math:`\sqrt{2 \eta}` and a quarter of
    the others'; warn above 2 %, act above 10 %.

    References:
        On the anatomy of MCMC-based maximum likelihood learning of energy-based models (Nijkamp et al., 2020),
        section 3.4. https://arxiv.org/abs/1903.12370
    """
    told = probes.degenerate
    if told is None and (record.batch_size or 0) >= 64:
        told = record.began("degenerate")
    if told is None or told <= 0.02 or record.step_size is None:
        return None
    noise = math.sqrt(2 * record.step_size)
    level = max(math.sqrt(2) * noise, record.data_noise or 0)
    if record.reference_std is not None and record.reference_std < (probes.data_std or math.inf):
        level = record.reference_std
    return Finding(
        "degenerate_data",
        "act" if told > 0.1 else "warn",
        "the gap falls without end, and a few coordinates make all of it",
        f"{told:.0%} of the coordinates vary by less than one step's noise of {noise:.3g}"
        + ("" if probes.narrowest is None else f"; the narrowest by {probes.narrowest:.3g}")
        + ("; guards have noised the data" if record.answered("data noised at") else ""),
        "the data have directions in which they hardly vary, such as black borders, and no noise is added to them",
        f"--objective.data_noise {level:.2g}",
        {"degenerate": told, "noise": noise},
    )


def long_step(record: Record, probes: Probes) -> Finding | None:
    r"""A step that is too long (row 6).

    :math:`R = \sqrt{2 v_{\min} / \eta}` of the data: act at 1 (unstable), warn below 1.5. Kernels with a Metropolis
    test: acceptance below 0.3, act below 0.1. Else the chains' own :math:`R` below 1.25 at :math:`T \approx 1` while
    energies have not run away, act below 1.
    """
    eta = record.step_size
    if eta is None:
        return None
    accept = record.now("accept_prob") if record.columns else probes.accept
    blurred = (probes.degenerate or 0) <= 0.02 or bool(record.data_noise)
    possible = math.sqrt(2 / eta) * probes.narrowest if probes.narrowest and blurred else None
    r = record.ratio if record.columns else probes.ratio_data
    if adjusted(record):
        if accept is None or accept >= 0.3:
            return None
        evidence, bad = f"{accept:.2g} of the proposals are accepted", accept < 0.1
        eta_new = eta / (16 if bad else 4)
    elif possible is not None and possible < 1.5:
        bad, eta_new = possible <= 1, eta * (possible / CALM) ** 2
        evidence = (
            f"noise over drift can be at most {possible:.2g} on these data (their narrowest coordinate varies by "
            f"{probes.narrowest:.3g}); 1 is unstable"
        )
    elif r is not None and r < 1.25 and calibrated(record) and not diverged(record):
        bad, eta_new = r < 1, eta * max(r / CALM, 0.1) ** 2
        evidence = f"a step's noise is {r:.2g} times its drift; 1 is unstable"
    else:
        return None
    if probes.accept is not None and not adjusted(record):
        evidence += f"; a Metropolis test would accept {probes.accept:.0%} of such steps"
    quiet = " and there is no noise" if record.temperature == 0 else ""
    return Finding(
        "long_step",
        "act" if bad else "warn",
        "chains overshoot: images go black, white or to noise, and energies run away",
        evidence,
        f"the chains' step (η = {eta:g}) is too large{quiet}",
        flag(record, "step_size", eta_new) + (f" {flag(record, 'temperature', 1)}" if quiet else ""),
        {k: v for k, v in {"possible": possible, "ratio": r, "accept": accept}.items() if v is not None},
    )


def short_step(record: Record, probes: Probes) -> Finding | None:
    r"""A step that is too short for chains to get anywhere (row 5).

    In a training step's :math:`K` transitions noise alone carries a chain by :math:`\sqrt{2 \eta K}`, whatever the
    model; warn below 0.1 of the data's standard deviation, act below 0.05, where also
    :math:`\Delta E_{\text{long}} < -3`, or where the run has diverged.
    """
    eta, k = record.step_size, record.steps if record.chains == "objective" else record.sampler_steps
    width = probes.data_std or record.began("data_std")
    if eta is None or k is None or width is None or record.kernel not in ("langevin", "mala"):
        return None
    reach = math.sqrt(2 * eta * k) / width
    if reach >= 0.1 or (record.now("accept_prob") or 1) < 0.9:
        return None
    moved = over(record.began("move"), record.began("data_std"))
    sound = (probes.narrowest or 0) ** 2 / 4
    eta_new = sound if sound > eta else eta * min((0.5 / reach) ** 2, 100)
    evidence = f"{k} steps' noise reaches {reach:.2g} of the data's standard deviation"
    evidence += "" if moved is None else f", and at the beginning chains moved by {moved:.2g} of it"
    evidence += (
        "" if probes.long is None else f"; ten times as many steps lower their energy by {-probes.long:.2g} s.d."
    )
    return Finding(
        "short_step",
        "act" if reach < 0.05 or (probes.long or 0) < -3 or diverged(record) else "warn",
        "chains hardly move, and lie where the energy was low some time ago",
        evidence,
        f"the chains' step (η = {eta:g}) is too small",
        flag(record, "step_size", eta_new),
        {"reach": reach} | ({} if probes.long is None else {"long": probes.long}),
    )


def cold_chains(record: Record, probes: Probes) -> Finding | None:
    r"""Less noise than the step asks for (row 7c).

    :math:`\nu / \sqrt{2 \eta} < 0.8`, that is :math:`T = \nu^2 / 2 \eta < 0.64`: gap and autocorrelation look perfect
    while chains sit in the deepest places. Act below 0.5, that is :math:`T < 0.25`.
    """
    share = _noise_share(record)
    if share is None or share >= 0.8:
        return None
    t = share**2
    diversity = "" if probes.diversity is None else f"; chains are {probes.diversity:.2g} times as far apart as data"
    return Finding(
        "cold_chains",
        "act" if share < 0.5 else "warn",
        "the gap looks well, and samples are few, sharp and alike",
        f"a step's noise is {share:.2g} times √(2η), which is T = {t:.2g}{diversity}",
        "chains are colder than T = 1: they seek the lowest energies and do not sample exp(−E)",
        f"{flag(record, 'temperature', 1)}, or scale the energy by 1/T and say so",
        {"noise_share": share, "temperature": t},
    )


def hot_chains(record: Record, probes: Probes) -> Finding | None:
    r"""Noise far above the drift (row 7b).

    :math:`\nu / \sqrt{2 \eta} > 1.25`, or at :math:`T \approx 1` noise over drift :math:`R > 30` at the chains (healthy
    2.5 to 3.4). Act at :math:`R > 30`.
    """
    share = _noise_share(record)
    r = record.ratio if record.columns else (probes.ratio_data or probes.ratio)
    hot, drowned = (share or 1) > 1.25, (r or 0) > 30
    if record.step_size is None or diverged(record) or not (hot or drowned):
        return None
    told = [f"a step's noise is {r:.3g} times its drift" if r else "", f"T = {share**2:.3g}" if hot and share else ""]
    told += [f"energies of data spread by {probes.spread:.2g}" if drowned and not hot and probes.spread else ""]
    cause = "the noise drowns the energy: chains are hotter than T = 1" if hot else "the noise drowns a flat energy"
    remedy = flag(record, "temperature", 1) if hot else f"{rate(record, 3)} --objective.alpha 0, or a larger network"
    return Finding(
        "hot_chains",
        "act" if drowned else "warn",
        "samples are noise",
        ", ".join(each for each in told if each),
        cause,
        remedy,
        {"ratio": r or math.nan, "noise_share": share or math.nan},
    )


def _noise_share(record: Record) -> float | None:
    r"""Returns :math:`\nu / \sqrt{2 \eta}`: what the setting says, else what the chains told."""
    if record.temperature is not None:
        return math.sqrt(record.temperature)
    noise = record.began("noise")
    return None if noise is None or record.step_size is None else noise / math.sqrt(2 * record.step_size)


def small_batch(record: Record, _: Probes) -> Finding | None:
    r"""A batch so small that its gradient is mostly noise.

    The gap of a batch of :math:`B` is off by :math:`\sqrt{(s_+^2 + s_-^2) / B}`. Warn where from line to line it
    jitters by more than 0.2 of :math:`\sqrt{s_+^2 + s_-^2}` and :math:`B \le 16`, over the last half of the record; act
    where the run has diverged.
    """
    b = record.batch_size
    half = max(record.window, record.lines // 2)
    noise = jitter(record.last("gap", window=half))
    plus, minus = (median(record.last(name, window=half)) for name in ("spread", "spread_model"))
    if b is None or b > 16 or noise is None or plus is None:
        return None
    share = noise / max(math.hypot(plus, plus if minus is None else minus), 1e-12)
    if share <= 0.2:
        return None
    return Finding(
        "small_batch",
        "act" if diverged(record) else "warn",
        "loss and gradients jump about, and the energy drifts away",
        f"the gap jitters by {share:.2g} of the energies' own spread; a batch of {b} explains {b**-0.5:.2g}, 128 would "
        "leave 0.09",
        f"the batch ({b}) is too small: each gradient is mostly sampling noise",
        f"--train.batch_size {max(64, 8 * b)}",
        {"jitter": share, "batch_size": float(b)},
    )


def stale_chains(record: Record, probes: Probes) -> Finding | None:
    r"""Persistent chains that are never restarted, or too seldom (row 14).

    With refresh probability :math:`r` the median age settles at :math:`\ln 2 / r` draws. Warn where no chain has been
    restarted (:math:`r = 0` and the age is 0.8 of all draws, at least 20), or the median age exceeds 1000 draws; act
    where chains from noise also end 2 standard deviations away in energy.
    """
    ages, samples = record.last("age", window=5), record.last("samples", window=5)
    if not ages or not samples or not record.capacity:
        return None
    age, draws = ages[-1], samples[-1] / record.capacity
    never = record.refresh == 0 and draws >= 20 and age >= 0.8 * draws
    if not never and age <= 1000:
        return None
    away = "" if probes.fresh is None else f"; chains from noise end {probes.fresh:+.2g} s.d. of energy away from them"
    return Finding(
        "stale_chains",
        "act" if abs(probes.fresh or 0) > 2 else "warn",
        "chains and energy know each other: what starts from noise was never taught",
        f"the median chain is {age:.0f} draws old, of {draws:.0f}{away}",
        "the buffer is never refreshed" if never else "the buffer is refreshed too seldom",
        "--objective.start.refresh 0.01",
        {"age": age, "draws": draws} | ({} if probes.fresh is None else {"fresh": probes.fresh}),
    )


def straight_pieces(record: Record, probes: Probes) -> Finding | None:
    r"""A network of straight pieces, whose gradient jumps.

    The exact second derivative of :math:`E` is the same at all points (its spread below :math:`10^{-4}` of its size),
    and yet the score changes over one step's noise by more than :math:`10^{-3}` beyond what it says: units such as ReLU
    without curvature between their kinks.
    """
    if probes.kinks is None or probes.bends is None or probes.kinks > 1e-4 or probes.bends < 1e-3:
        return None
    return Finding(
        "straight_pieces",
        "warn",
        "the score is constant in pieces and jumps between them; training by derivatives of it learns nothing there",
        f"the curvature varies by {probes.kinks:.1g} of itself from point to point, but over one step's noise the "
        f"score turns by {probes.bends:.2g} more than it says",
        f"the network is made of straight pieces ({record.activation or 'units such as ReLU'}), without normalisation",
        "--model.network.activation silu"
        + (" --model.network.spectral_norm true" if record.spectral_norm is False else ""),
        {"kinks": probes.kinks, "bends": probes.bends},
    )


def unbounded_drift(record: Record, probes: Probes) -> Finding | None:
    r"""Chains from noise that nothing holds.

    An unadjusted kernel without clip, whose drift on the way from noise reaches :math:`2.8` standard deviations
    :math:`\sqrt{2 \eta}` of its noise in some element; act where the run has diverged.
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
        "now and then chains are thrown far away, and the next gradients with them",
        f"on the way from noise an element of the drift reaches {probes.steepest:.3g} standard deviations of the noise",
        "nothing clips the chains' drift" + ("" if record.clip is not None else ", nor the parameters' gradient"),
        flag(record, "drift_clip", CALM * unit) + ("" if record.clip is not None else " --train.clip 100"),
        {"steepest": probes.steepest},
    )


def high_rate(record: Record, _: Probes) -> Finding | None:
    r"""A learning rate that chains cannot follow (rows 1 and 2).

    Energies ran away (1000 times their smallest), gradient norms exploded (100 times their median), numbers ended, the
    gap swings (autocorrelation below -0.5), or guards lowered the rate; and no setting of the chains is to blame, whose
    rules come first.
    """
    lowered = record.answered("learning rate ×")
    rho = autocorrelation(record.last("gap"))
    swings = rho is not None and rho < -0.5
    if not (lowered or swings or diverged(record)) or record.learning_rate is None:
        return None
    told = {"growth": growth(record), "volley": volley(record), "autocorrelation": rho}
    words = [
        f"energies grew {told['growth']:.2g}-fold" if (told["growth"] or 0) > RATE_GROWTH else "",
        f"gradient norms reach {told['volley']:.2g} times their median" if (told["volley"] or 0) > 10 else "",
        f"the gap's lag-1 autocorrelation is {rho:.2f}" if rho is not None and (swings or rho > 0.7) else "",
        f"{record.lost()} lines are not finite" if record.lost() else "",
        f"guards lowered the rate {len(lowered)} times: {lowered[0].get('reason', '')}" if lowered else "",
    ]
    return Finding(
        "high_rate",
        "act" if diverged(record) or len(lowered) > 1 else "warn",
        "energies change faster than chains can follow",
        "; ".join(each for each in words if each) or "the record ends in trouble",
        f"the learning rate ({record.learning_rate:g}) is too high for these chains",
        rate(record, 0.1 if diverged(record) or len(lowered) > 1 else 0.3),
        {name: value for name, value in told.items() if value is not None} | {"lowered": float(len(lowered))},
    )


RATE_GROWTH = 100.0
"""How many times their smallest energies are worth a word."""
