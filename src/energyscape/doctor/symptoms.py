"""Rules about symptoms, with the likeliest cause in case no rule about causes has found it.

:math:`s_E` is the standard deviation of the energies of data, AUC is :math:`P(E^- > E^+)`: one half while chains keep
up, whatever the energies' scale.
"""

import math
import statistics

from energyscape.doctor.finding import (
    Finding,
    Limit,
    Range,
    Setting,
    above,
    below,
    finding,
    kernel,
    rate,
    rounded,
    table,
)
from energyscape.doctor.probes import Probes
from energyscape.doctor.record import Record, autocorrelation, jitter, median, safe_ratio
from energyscape.doctor.settings import STILL


def nothing_learned(record: Record, probes: Probes) -> Finding | None:
    """Find weights, or a gap, that are as they began."""
    before, now, auc = record.began("gap"), record.now("gap"), record.now("auc")
    noise = jitter([each for each in record.column("gap") if math.isfinite(each)])
    words = [f"weights have moved by {probes.moved:.2g} of their size" if (probes.moved or 1) < STILL else ""]
    if before is not None and now is not None and noise is not None and auc is not None and not 0.05 <= auc <= 0.95:
        same = abs(now - before) < 2 * noise
        words += [f"the gap was {before:.3g} and is {now:.3g}, with a noise of {noise:.2g}" if same else ""]
    return finding(
        "nothing_learned",
        True,
        "the model is as it was before training",
        words,
        "the weights or the energy do not move",
        advice=[Setting("train.learning_rate", 0.001), Setting("train.warmup", 0), ", and a longer --train.budget"],
        numbers={"moved": math.nan if probes.moved is None else probes.moved, "gap": math.nan if now is None else now},
    )


def divergence(record: Record, probes: Probes) -> Finding | None:
    """Find energies that diverge, and numbers that are not finite (row 1)."""
    grown, norms, rho = record.growth, record.spike, autocorrelation(record.last("gap"))
    act = record.diverged or (probes.sound is not None and probes.sound < 1 and probes.finite == 1)
    if not act and not ((norms or 0) > 10 and (grown or 0) > 100):
        return None
    words = [
        *record.stopped,
        f"{record.lost()} of {record.lines} lines are not finite" if record.lost() else "",
        "" if probes.sound in (None, 1) else f"{1 - (probes.sound or 0):.0%} of the data have no finite energy",
        "" if grown is None else f"gap and spread are {grown:.3g} times their smallest",
        "" if norms is None else f"gradient norms reach {norms:.3g} times their median",
    ]
    return finding(
        "divergence",
        act,
        "energies diverge",
        words,
        "chains no longer follow the energy, and nothing bounds it",
        advice=[Setting("guard.enabled", True), rate(record, 0.3), Setting("train.clip", 100)],
        numbers={"growth": grown, "volley": norms, "autocorrelation": rho},
    )


def contraction(record: Record, _: Probes) -> Finding | None:
    """Find negatives that stay below the data (row 4); every run begins this way."""
    auc, now, gaps = record.now("auc"), record.now("gap"), record.column("gap")
    before = median([gap for gap in gaps[len(gaps) // 4 : len(gaps) // 2] if math.isfinite(gap)])
    if auc is None or auc >= 0.05 or now is None or before is None or _young(record) or abs(now) < 0.8 * abs(before):
        return None
    return finding(
        "contraction",
        auc < 0.01,
        "negatives lie below the data, and stay there",
        [f"AUC {auc:.3f}; the gap is {now:.3g} and was {before:.3g} in the second quarter of the record"],
        "chains are stale, or the data are not noised enough to be within their reach",
        advice=[Setting("objective.start.refresh", 0.1), rate(record, 0.5)],
        numbers={"auc": auc, "gap": now},
    )


def _young(record: Record) -> bool:
    """Whether the median persistent chain has had fewer than 40 turns and may still be on its way."""
    ages = record.last("age", window=5)
    return bool(ages) and ages[-1] < 40


def saturation(record: Record, probes: Probes) -> Finding | None:
    """Find negatives that are black, white or at their bounds (row 9); images have a range of 2."""
    at_bounds = record.now("saturated") if record.columns else probes.outside
    off = safe_ratio(record.now("brightness"), 2.0) if record.columns else probes.shift
    clipped = probes.clipped
    words = [
        f"{100 * (at_bounds or 0):.0f} points more of their coordinates are at the data's extremes"
        if (at_bounds or 0) > 0.2
        else "",
        f"their mean is off by {off:+.2f} of the data's range" if off is not None and abs(off) > 0.25 else "",
        f"{clipped:.0%} of the drift's elements are clipped" if clipped is not None and clipped > 0.5 else "",
    ]
    return finding(
        "saturation",
        sum(map(bool, words)) > 1,
        "negatives are black, white or at their bounds",
        words,
        "the energy falls without end outside the data, and chains follow it there",
        advice=[
            rate(record, 0.3),
            Setting("objective.start.refresh", 0.05),
            Setting("model.reference_std", rounded(probes.data_std or 1)),
        ],
        numbers={"saturated": at_bounds, "shift": off, "clipped": clipped},
    )


def buffer_collapse(record: Record, probes: Probes) -> Finding | None:
    """Find chains that have collapsed onto each other (row 12)."""
    lineages = safe_ratio(record.now("lineages"), None if record.capacity is None else float(record.capacity))
    words = [
        f"{lineages:.1%} of the buffer's lineages are left" if lineages is not None and lineages < 0.05 else "",
        f"{probes.duplicates:.0%} of the chains are near duplicates" if (probes.duplicates or 0) > 0.05 else "",
        f"chains are {probes.diversity:.2g} times as far apart as data" if (probes.diversity or 1) < 0.3 else "",
    ]
    return finding(
        "buffer_collapse",
        (probes.diversity or 1) < 0.1 or (lineages or 1) < 0.01,
        "negatives are alike",
        words,
        "a few chains have replaced all others",
        advice=[Setting("objective.start.refresh", rounded(max(0.05, 2 * (record.refresh or 0))))],
        numbers={"lineages": lineages, "duplicates": probes.duplicates, "diversity": probes.diversity},
    )


def energy_drift(record: Record, _: Probes) -> Finding | None:
    r"""Find a free constant that diverges (row 16), or one that is large and unregularised.

    :math:`|\bar E^+|` is above 100 times the spread of the energies and growing steadily (twice its value at a third of
    the record), while the gap is within ten spreads. Then float32 loses digits. Without a regulariser, also warn above
    20 spreads and 1000 T: an Adam step at a rate of :math:`10^{-3}` moves such energies by T and more. The remedy makes
    :math:`2 \alpha (\bar E^+ + \bar E^-)` 0.03 for means of five spreads.
    """
    energies, spread, gap = record.last("energy_data"), record.now("spread"), record.now("gap")
    whole = record.column("energy_data")
    if not energies or spread is None or gap is None or len(whole) < 30 or abs(gap) > 10 * spread:
        return None
    now, before = statistics.median(energies), whole[len(whole) // 3]
    size, held = abs(now) / max(spread, 1e-12), record.alpha != 0
    far = not held and size > 20 and abs(now) > 1000 * (1.0 if record.temperature is None else record.temperature)
    if not far and (size <= 100 or abs(now) < 2 * abs(before)):
        return None
    alpha = rounded(0.03 / (2 * 2 * 5 * max(spread, 1e-12)), 1)
    return finding(
        "energy_drift",
        False,
        "energies drift away while their differences are fine",
        [f"energies of data are {now:.3g}, {size:.3g} times their spread, {before:.3g} a third of the way"],
        "the energy's free constant drifts" + ("" if held else ", and nothing regularises it (α = 0)"),
        advice=[Setting("objective.alpha", alpha), Setting("objective.regulariser", "mean")],
        numbers={"energy": now, "spreads": size},
    )


LIMITS = {
    # Healthy: within ±0.15 of 0 once the gap has closed.
    "oscillation": Limit(
        lambda r, _: None if len(r.last("gap")) < 20 else autocorrelation(r.last("gap")),
        below(-0.3, act=-0.5),
        "the gap oscillates",
        "its lag-1 autocorrelation is {v:.2f} over {r.window} lines",
        "each update is larger than the chains can follow",
        lambda r, _: [
            rate(r, 0.5),
            *([Setting("train.beta1", 0)] if r.beta1 else []),
            Setting("train.batch_size", 2 * (r.batch_size or 64)),
        ],
        key="autocorrelation",
    ),
    "easy_negatives": Limit(
        lambda r, _: r.now("auc"),
        above(0.75, act=0.95),
        "negatives are easily distinguished from data",
        "AUC {v:.3f}: {v:.0%} of negatives lie above the data",
        "chains do not reach where the energy is low",
        lambda r, _: [Setting("objective.steps", 2 * (r.steps or 10)), rate(r, 0.5)],
        key="auc",
    ),
    # Such a run gives no likelihood and no annealed importance sampling at T = 1.
    "cold_gradient": Limit(
        lambda r, p: None if r.diverged else r.ratio if r.columns else p.ratio,
        below(0.2),
        "chains descend instead of diffusing",
        "a step's noise is {v:.2g} times its drift",
        "the gradient outweighs the noise: a non-convergent sampler",
        lambda r, _: [kernel(r, "temperature", 1), rate(r, 0.3), ", and claim no likelihood until then"],
        key="ratio",
    ),
    # Healthy: -0.02 to -0.6 after ten times the steps. Young persistent chains still fall in every run.
    "long_run": Limit(
        lambda r, p: None if _young(r) and (p.long or 0) >= -3 else p.long,
        below(-1, act=-3),
        "images are fine after a few steps and degenerate after many",
        "ten times the steps change the chains' energy by {v:.3g} standard deviations of the data's",
        "the energy is deep where chains have not been: training is non-convergent",
        lambda r, _: [Setting("objective.steps", 4 * (r.steps or 10)), rate(r, 0.3), Setting("train.decay", "linear")],
        key="long",
    ),
    # A flow instead of a density: noise and buffer end at different places. Young chains may yet meet.
    "unreached_from_noise": Limit(
        lambda r, p: None if r.start != "buffer" or (_young(r) and abs(p.fresh or 0) <= 5) else p.fresh,
        Range(-2, 2, -5, 5),
        "samples from the buffer look good, samples from noise do not",
        "after {r.sampler_steps} steps chains from noise are {v:+.3g} standard deviations of energy away from those of "
        "the buffer",
        "chains from noise need more steps than they are given, or are too rare among the negatives",
        lambda r, _: [
            Setting("sampler.steps", 4 * (r.sampler_steps or 200)),
            Setting("objective.start.refresh", rounded(min(4 * (r.refresh or 0.01), 0.2))),
        ],
        key="fresh",
    ),
    "blind_to_weights": Limit(
        lambda r, p: None if r.diverged else p.mode_factor,
        above(2, act=5),
        "some modes have too much of the mass and others too little",
        "the mass of one mode is off by a factor of {v:.3g}",
        "scores and short chains see the shape of modes, and not how the mass is shared between them",
        lambda *_: [Setting("objective.name", "nce-ssm"), ", or a longer --train.budget"],
        key="mode_factor",
    ),
    "memorised": Limit(
        lambda r, p: None if r.diverged else p.held_out,
        above(2, act=5),
        "samples resemble single training images",
        "held-out data lie {v:.3g} standard deviations of energy above training data, noised alike",
        "the energy has a well at each training point",
        lambda *_: ["a smaller network, a smaller --train.budget, or a larger --objective.data_noise"],
        key="held_out",
    ),
    # Unadjusted chains whose step distorts their law.
    "rejecting": Limit(
        lambda r, p: p.accept if r.calibrated and not r.diverged else None,
        below(0.3),
        "what chains sample depends on their step",
        "a Metropolis test would accept {v:.2g} of the steps",
        "the energy is steeper than the step can follow",
        lambda r, _: [kernel(r, "step_size", (r.step_size or 0.01) / 4), f", or --{r.chains}.kernel.name mala"],
        key="accept",
    ),
}

RULES = table((nothing_learned, divergence, contraction, saturation, buffer_collapse, energy_drift), LIMITS)
"""The rules by name."""
