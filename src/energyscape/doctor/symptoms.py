"""Rules about symptoms, with the likeliest cause in case no rule about causes has found it.

:math:`s_E` is the standard deviation of the energies of data, AUC is :math:`P(E^- > E^+)`: one half while chains keep
up, whatever the energies' scale.
"""

import math
import statistics

from energyscape.doctor.finding import Finding, calibrated, diverged, energy_growth, flag, gradient_spike, rate, stopped
from energyscape.doctor.probes import Probes
from energyscape.doctor.record import Record, autocorrelation, jitter, safe_ratio
from energyscape.doctor.settings import STILL


def nothing_learned(record: Record, probes: Probes) -> Finding | None:
    """Find a model that is as it began.

    Its weights are within `STILL` of their initial values. Or its gap has moved by less than twice its own noise from
    the first lines to the last, with AUC outside [0.05, 0.95].
    """
    before, now, auc = record.began("gap"), record.now("gap"), record.now("auc")
    noise = jitter([each for each in record.columns.get("gap", ()) if math.isfinite(each)])
    words = [f"weights have moved by {probes.moved:.2g} of their size" if (probes.moved or 1) < STILL else ""]
    if before is not None and now is not None and noise is not None and auc is not None and not 0.05 <= auc <= 0.95:
        same = abs(now - before) < 2 * noise
        words += [f"the gap was {before:.3g} and is {now:.3g}, with a noise of {noise:.2g}" if same else ""]
    if not any(words):
        return None
    return Finding(
        "nothing_learned",
        "act",
        "the model is as it was before training",
        "; ".join(each for each in words if each),
        "the weights or the energy do not move",
        "--train.learning_rate 0.001 --train.warmup 0, and a longer --train.budget",
        {"moved": math.nan if probes.moved is None else probes.moved, "gap": math.nan if now is None else now},
    )


def divergence(record: Record, probes: Probes) -> Finding | None:
    """Find energies that diverge, and numbers that are not finite (row 1).

    Act on anything not finite, on gap and spread 1000 times their smallest, on gradient norms 100 times their median,
    or on a drifting gap (autocorrelation above 0.9, tenfold over the window). Warn at gradient norms 10 times their
    median if energies have also grown 100-fold.
    """
    grown, norms, rho = energy_growth(record), gradient_spike(record), autocorrelation(record.last("gap"))
    act = diverged(record) or (probes.sound is not None and probes.sound < 1 and probes.finite == 1)
    if not act and not ((norms or 0) > 10 and (grown or 0) > 100):
        return None
    words = [
        f"{record.lost()} of {record.lines} lines are not finite" if record.lost() else "",
        f"{1 - (probes.sound or 0):.0%} of the data have no finite energy" if (probes.sound or 0) < 1 else "",
        f"gap and spread are {grown:.3g} times their smallest" if grown is not None else "",
        f"gradient norms reach {norms:.3g} times their median" if norms is not None else "",
    ]
    words = stopped(record) + (words if probes.sound is not None else [words[0], *words[2:]])
    return Finding(
        "divergence",
        "act" if act else "warn",
        "energies diverge",
        "; ".join(each for each in words if each),
        "chains no longer follow the energy, and nothing bounds it",
        f"--guard.enabled true {rate(record, 0.3)} --train.clip 100",
        {
            name: value
            for name, value in {"growth": grown, "volley": norms, "autocorrelation": rho}.items()
            if value is not None
        },
    )


def oscillation(record: Record, _: Probes) -> Finding | None:
    """Find energies that swing between expansion and contraction (row 2).

    Warn at a lag-1 autocorrelation of the gap below -0.3, act below -0.5 (healthy: within ±0.15 of 0 once the gap has
    closed).
    """
    rho = autocorrelation(record.last("gap"))
    if rho is None or rho >= -0.3 or len(record.last("gap")) < 20:
        return None
    momentum = " --train.beta1 0" if record.beta1 else ""
    return Finding(
        "oscillation",
        "act" if rho < -0.5 else "warn",
        "the gap oscillates",
        f"its lag-1 autocorrelation is {rho:.2f} over {len(record.last('gap'))} lines",
        "each update is larger than the chains can follow",
        f"{rate(record, 0.5)}{momentum} --train.batch_size {2 * (record.batch_size or 64)}",
        {"autocorrelation": rho},
    )


def easy_negatives(record: Record, _: Probes) -> Finding | None:
    """Find negatives that lie above the data (row 3): AUC above 0.75 over the last lines, act above 0.95."""
    auc = record.now("auc")
    if auc is None or auc <= 0.75:
        return None
    return Finding(
        "easy_negatives",
        "act" if auc > 0.95 else "warn",
        "negatives are easily distinguished from data",
        f"AUC {auc:.3f}: {auc:.0%} of negatives lie above the data",
        "chains do not reach where the energy is low",
        f"--objective.steps {2 * (record.steps or 10)} {rate(record, 0.5)}",
        {"auc": auc},
    )


def contraction(record: Record, _: Probes) -> Finding | None:
    """Find negatives that stay below the data (row 4).

    AUC is below 0.05 over the last lines (act below 0.01) though the median chain has had 40 turns. The gap has not
    shrunk by a fifth since the second quarter of the record. Every run begins this way.
    """
    auc, now, gaps = record.now("auc"), record.now("gap"), record.columns.get("gap", ())
    quarter = [gap for gap in gaps[len(gaps) // 4 : len(gaps) // 2] if math.isfinite(gap)]
    if auc is None or auc >= 0.05 or now is None or not quarter or _young(record):
        return None
    before = statistics.median(quarter)
    if abs(now) < 0.8 * abs(before):
        return None
    return Finding(
        "contraction",
        "act" if auc < 0.01 else "warn",
        "negatives lie below the data, and stay there",
        f"AUC {auc:.3f}; the gap is {now:.3g} and was {before:.3g} in the second quarter of the record",
        "chains are stale, or the data are not noised enough to be within their reach",
        f"--objective.start.refresh 0.1 {rate(record, 0.5)}",
        {"auc": auc, "gap": now},
    )


def _young(record: Record) -> bool:
    """Whether the median persistent chain has had fewer than 40 turns and may still be on its way."""
    ages = record.last("age", window=5)
    return bool(ages) and ages[-1] < 40


def saturation(record: Record, probes: Probes) -> Finding | None:
    """Find negatives that are black, white or at their bounds (row 9).

    Any of these counts: 20 percentage points more coordinates than the data's at the data's extremes, brightness off by
    a quarter of the data's range (2 for images), or more than half of the drift's elements clipped. Without a record,
    chains from noise are measured.
    """
    at_bounds = record.now("saturated") if record.columns else probes.outside
    off = record.now("brightness")
    off = safe_ratio(off, 2.0) if off is not None else (None if record.columns else probes.shift)
    clipped = probes.clipped
    words = [
        f"{100 * at_bounds:.0f} points more of their coordinates are at the data's extremes"
        if at_bounds is not None and at_bounds > 0.2
        else "",
        f"their mean is off by {off:+.2f} of the data's range" if off is not None and abs(off) > 0.25 else "",
        f"{clipped:.0%} of the drift's elements are clipped" if clipped is not None and clipped > 0.5 else "",
    ]
    if not any(words):
        return None
    numbers = {"saturated": at_bounds, "shift": off, "clipped": clipped}
    return Finding(
        "saturation",
        "act" if sum(map(bool, words)) > 1 else "warn",
        "negatives are black, white or at their bounds",
        "; ".join(each for each in words if each),
        "the energy falls without end outside the data, and chains follow it there",
        f"{rate(record, 0.3)} --objective.start.refresh 0.05 --model.reference_std {probes.data_std or 1:.2g}",
        {name: value for name, value in numbers.items() if value is not None},
    )


def cold_gradient(record: Record, probes: Probes) -> Finding | None:
    """Find a sampler that is an optimiser with jitter (row 7).

    :math:`R < 0.2` while the run is stable: chains yield modes instead of samples. Such a run gives no likelihood and
    no annealed importance sampling at :math:`T = 1`.
    """
    r = record.ratio if record.columns else probes.ratio
    if r is None or r >= 0.2 or diverged(record):
        return None
    return Finding(
        "cold_gradient",
        "warn",
        "chains descend instead of diffusing",
        f"a step's noise is {r:.2g} times its drift",
        "the gradient outweighs the noise: a non-convergent sampler",
        f"{flag(record, 'temperature', 1)} {rate(record, 0.3)}, and claim no likelihood until then",
        {"ratio": r},
    )


def long_run(record: Record, probes: Probes) -> Finding | None:
    r"""Find samples that degenerate when chains go on (row 10).

    Ten times the steps change the energy by :math:`\Delta E_{\text{long}} < -1` standard deviations of the data's
    energies; act below -3 (healthy: -0.02 to -0.6). Young persistent chains still fall in every run: they are reported
    only below -3.
    """
    if probes.long is None or probes.long >= (-3 if _young(record) else -1):
        return None
    return Finding(
        "long_run",
        "act" if probes.long < -3 else "warn",
        "images are fine after a few steps and degenerate after many",
        f"ten times the steps lower the chains' energy by {-probes.long:.3g} standard deviations of the data's",
        "the energy is deep where chains have not been: training is non-convergent",
        f"--objective.steps {4 * (record.steps or 10)} {rate(record, 0.3)} --train.decay linear",
        {"long": probes.long},
    )


def unreached_from_noise(record: Record, probes: Probes) -> Finding | None:
    """Find a flow instead of a density: noise and buffer end at different places (row 11).

    Chains from noise end more than 2 standard deviations of energy away from the persistent ones; act beyond 5. Young
    chains are reported only beyond 5.
    """
    if record.start != "buffer" or probes.fresh is None or abs(probes.fresh) <= (5 if _young(record) else 2):
        return None
    return Finding(
        "unreached_from_noise",
        "act" if abs(probes.fresh) > 5 else "warn",
        "samples from the buffer look good, samples from noise do not",
        f"after {record.sampler_steps or 200} steps chains from noise are {probes.fresh:+.3g} standard deviations of "
        "energy away from those of the buffer",
        "chains from noise need more steps than they are given, or are too rare among the negatives",
        f"--sampler.steps {4 * (record.sampler_steps or 200)} --objective.start.refresh "
        f"{min(4 * (record.refresh or 0.01), 0.2):.2g}",
        {"fresh": probes.fresh},
    )


def buffer_collapse(record: Record, probes: Probes) -> Finding | None:
    """Find chains that have collapsed onto each other (row 12).

    Any of these counts: lineages below 5 % of the buffer, more than 5 % of near duplicates, or chains less than 0.3
    times as far apart as data; act below 0.1.
    """
    lineages = safe_ratio(record.now("lineages"), None if record.capacity is None else float(record.capacity))
    words = [
        f"{lineages:.1%} of the buffer's lineages are left" if lineages is not None and lineages < 0.05 else "",
        f"{probes.duplicates:.0%} of the chains are near duplicates" if (probes.duplicates or 0) > 0.05 else "",
        f"chains are {probes.diversity:.2g} times as far apart as data" if (probes.diversity or 1) < 0.3 else "",
    ]
    if not any(words):
        return None
    numbers = {"lineages": lineages, "duplicates": probes.duplicates, "diversity": probes.diversity}
    return Finding(
        "buffer_collapse",
        "act" if (probes.diversity or 1) < 0.1 or (lineages or 1) < 0.01 else "warn",
        "negatives are alike",
        "; ".join(each for each in words if each),
        "a few chains have replaced all others",
        f"--objective.start.refresh {max(0.05, 2 * (record.refresh or 0)):.2g}",
        {name: value for name, value in numbers.items() if value is not None},
    )


def energy_drift(record: Record, _: Probes) -> Finding | None:
    r"""Find a free constant that diverges (row 16), or one that is large and unregularised.

    :math:`|\bar E^+|` is above 100 times the spread of the energies and growing steadily (twice its value at a third of
    the record), while the gap is within ten spreads. Then float32 loses digits. Without a regulariser, also warn above
    20 spreads and 1000 T: an Adam step at a rate of :math:`10^{-3}` moves such energies by T and more.
    """
    energies, spread, gap = record.last("energy_data"), record.now("spread"), record.now("gap")
    whole = record.columns.get("energy_data", ())
    if not energies or spread is None or gap is None or len(whole) < 30 or abs(gap) > 10 * spread:
        return None
    now, before = statistics.median(energies), whole[len(whole) // 3]
    size = abs(now) / max(spread, 1e-12)
    far = (
        record.alpha == 0
        and size > 20
        and abs(now) > 1000 * (1.0 if record.temperature is None else record.temperature)
    )
    if not far and (size <= 100 or abs(now) < 2 * abs(before)):
        return None
    return Finding(
        "energy_drift",
        "warn",
        "energies drift away while their differences are fine",
        f"energies of data are {now:.3g}, {size:.3g} times their spread, {before:.3g} a third of the way",
        "the energy's free constant drifts" + (", and nothing regularises it (α = 0)" if record.alpha == 0 else ""),
        f"--objective.alpha {_holding(spread):.1g} --objective.regulariser mean",
        {"energy": now, "spreads": size},
    )


def _holding(spread: float) -> float:
    r"""Return the :math:`\alpha` at which :math:`2 \alpha (\bar E^+ + \bar E^-)` is 0.03 for means of five spreads."""
    return 0.03 / (2 * 2 * 5 * max(spread, 1e-12))


def blind_to_weights(record: Record, probes: Probes) -> Finding | None:
    """Find modes of the right shape and the wrong mass (row 18): off by more than a factor of 2, act beyond 5."""
    if probes.mode_factor is None or probes.mode_factor <= 2 or diverged(record):
        return None
    return Finding(
        "blind_to_weights",
        "act" if probes.mode_factor > 5 else "warn",
        "some modes have too much of the mass and others too little",
        f"the mass of one mode is off by a factor of {probes.mode_factor:.3g}",
        "scores and short chains see the shape of modes, and not how the mass is shared between them",
        "--objective.name nce-ssm, or a longer --train.budget",
        {"mode_factor": probes.mode_factor},
    )


def memorised(record: Record, probes: Probes) -> Finding | None:
    """Find held-out data above the training data: by more than 2 standard deviations of energy, act beyond 5."""
    if probes.held_out is None or probes.held_out <= 2 or diverged(record):
        return None
    return Finding(
        "memorised",
        "act" if probes.held_out > 5 else "warn",
        "samples resemble single training images",
        f"held-out data lie {probes.held_out:.3g} standard deviations of energy above training data, noised alike",
        "the energy has a well at each training point",
        "a smaller network, a smaller --train.budget, or a larger --objective.data_noise",
        {"held_out": probes.held_out},
    )


def rejecting(record: Record, probes: Probes) -> Finding | None:
    """Find unadjusted chains whose step distorts their law: a Metropolis test would accept less than 0.3 of steps."""
    if probes.accept is None or probes.accept >= 0.3 or not calibrated(record) or diverged(record):
        return None
    return Finding(
        "rejecting",
        "warn",
        "what chains sample depends on their step",
        f"a Metropolis test would accept {probes.accept:.2g} of the steps",
        "the energy is steeper than the step can follow",
        f"{flag(record, 'step_size', (record.step_size or 0.01) / 4)}, or --{record.chains}.kernel.name mala",
        {"accept": probes.accept},
    )
