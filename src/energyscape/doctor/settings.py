"""Rules about settings that spoil a run silently: each compares one number of the recipe, or of the data, with a range.

They need no training: `train` applies them before it begins, the doctor afterwards. Adam moves a weight by at most
about its learning rate a step, and weights begin at about 0.1. The learning rate times the number of steps therefore
bounds what can be learned.
"""

import math
from collections.abc import Callable

from energyscape.doctor.finding import CALM, Advice, Finding, Limit, Range, Rule, Setting, kernel, rounded
from energyscape.doctor.probes import Probes
from energyscape.doctor.record import Record, safe_ratio

STILL = 0.01
"""Least relative move of the weights of a run that learns."""


def updates(record: Record) -> float | None:
    """Return the number of steps in the budget."""
    return safe_ratio(record.budget, record.batch_size)


def _travel(record: Record, _: Probes) -> float | None:
    """Return the sum of the learning rates, without a warm-up; none below 100 steps, which another rule covers."""
    steps = updates(record)
    if steps is None or record.learning_rate is None:
        return None
    return record.learning_rate * max(steps, 100.0) * (1.0 if record.decay == "none" else 0.5)


def _scale(record: Record, probes: Probes) -> float | None:
    width = record.reference_std or probes.data_std
    return None if record.scale is None or width is None else record.scale * width**2


def _drift_clip(record: Record, _: Probes) -> float | None:
    return None if record.step_size is None else safe_ratio(record.drift_clip, math.sqrt(2 * record.step_size))


def _lines(record: Record, _: Probes) -> float | None:
    """Return the number of lines of the metrics if the setting gives fewer than usual."""
    return safe_ratio(updates(record), record.log_every) if (record.log_every or 0) > 10 else None


def _limit(
    measure: Callable[[Record, Probes], float | None],
    ends: tuple[float, float],
    evidence: str,
    cause: str,
    advice: Callable[[Record, Probes], Advice],
) -> Limit:
    """Return the limit of a setting: warn outside the ends, act where the number is off by more than a factor of 4."""
    least, most = ends
    sides = [f"at least {least:g}"] * (least > 0) + [f"at most {most:g}"] * (most < math.inf)
    words = f"{evidence}; it should be {' and '.join(sides)}"
    symptom = "the run cannot learn, or its samples are spoiled"
    return Limit(measure, Range(least, most, least / 4, 4 * most), symptom, words, cause, advice)


LIMITS = {
    "tight_bounds": _limit(
        lambda _, p: p.cut,
        (0.0, 0.02),
        "{v:.3g} of the data's coordinates are beyond the bounds of chains",
        "the bounds of chains cut the data",
        lambda r, _: [Setting(f"{r.chains}.kernel.bounds", None)],
    ),
    "far_start": _limit(
        lambda _, p: p.away,
        (0.0, 5.0),
        "chains from noise start {v:.3g} times as far from the data's mean as the data are",
        "the box that chains start in is far away from the data",
        lambda r, _: [
            Setting(f"{r.chains}.start.{'fresh.' * (r.start == 'buffer')}{end}", value)
            for end, value in (("low", -1.0), ("high", 1.0))
        ],
    ),
    "mirrored_data": _limit(
        lambda r, p: p.mirrored if r.flips else None,
        (0.0, 1.15),
        "mirrored images are {v:.3g} times as far from the data as other data are",
        "mirroring makes images that the data do not hold, such as mirrored digits",
        lambda *_: [Setting("train.flips", False)],
    ),
    "strong_noise": _limit(
        lambda r, p: safe_ratio(r.data_noise, p.clean_std),
        (0.0, 1.0),
        "the noise on the data is {v:.3g} times their standard deviation",
        "the noise on the data drowns them: the model learns noise",
        lambda r, p: [
            Setting(f"objective.{'data_noise' if r.objective == 'cd' else 'sigma'}", rounded((p.clean_std or 1) / 2))
        ],
    ),
    "tight_reference": _limit(
        lambda r, p: safe_ratio(r.reference_std, p.narrowest),
        (0.5, math.inf),
        "the reference's standard deviation is {v:.3g} times that of the data's narrowest coordinate",
        "the energy's Gaussian term is narrower than the data, and holds chains at the origin",
        lambda _, p: [Setting("model.reference_std", rounded(p.narrowest or 1))],
    ),
    "wide_reference": _limit(
        lambda r, p: safe_ratio(r.reference_std, p.data_std),
        (0.0, 10.0),
        "the reference's standard deviation is {v:.3g} times that of the data",
        "the energy's Gaussian term is so wide that it holds nothing",
        lambda _, p: [Setting("model.reference_std", rounded(p.data_std or 1))],
    ),
    "output_scale": _limit(
        _scale,
        (0.02, 50.0),
        "the scale of the network's output is {v:.3g} times the inverse variance of the reference",
        "the scale of the network's output does not fit the data",
        lambda r, p: [Setting("model.scale", rounded((r.reference_std or p.data_std or 1) ** -2))],
    ),
    "bounded_slope": _limit(
        lambda r, p: _scale(r, p) if r.spectral_norm else None,
        (0.25, math.inf),
        "the network's slope is bounded (spectral_norm), and its scale {v:.3g} times the inverse variance",
        "energies of temperature 1 are out of the bounded network's reach, and chains stay where the reference is low",
        lambda r, p: [Setting("model.scale", rounded((r.reference_std or p.data_std or 1) ** -2))],
    ),
    "small_network": _limit(
        lambda r, _: None if r.width is None else float(r.width),
        (4.0, math.inf),
        "the network is {v:.3g} units wide",
        "the network is too small to learn anything",
        lambda *_: [Setting("model.network.width", 128)],
    ),
    "tight_drift_clip": _limit(
        _drift_clip,
        (0.35, math.inf),
        "the drift of chains is clipped at {v:.3g} standard deviations of a step's noise",
        "the clip holds the chains' drift below its noise, so that chains are noise",
        lambda r, _: [kernel(r, "drift_clip", CALM * math.sqrt(2 * (r.step_size or 0)))],
    ),
    "fresh_chains": _limit(
        lambda r, _: r.refresh if r.start == "buffer" else None,
        (0.0, 0.3),
        "{v:.3g} of the buffer's chains are restarted each time they are drawn",
        "chains are restarted before they get anywhere",
        lambda *_: [Setting("objective.start.refresh", 0.01)],
    ),
    "large_buffer": _limit(
        lambda r, _: safe_ratio(r.budget, r.capacity),
        (3.0, math.inf),
        "each chain of the buffer is drawn {v:.3g} times in the whole run",
        "the buffer is so large that its chains hardly move from where they started",
        lambda r, _: [Setting("objective.start.capacity", max((r.budget or 0) // 100, 4 * (r.batch_size or 1)))],
    ),
    "high_beta1": _limit(
        lambda r, _: r.beta1,
        (0.0, 0.97),
        "Adam's decay of the gradient's mean is {v:.3g}",
        "the gradient's mean is one of long ago",
        lambda *_: [Setting("train.beta1", 0.0)],
    ),
    "odd_beta2": _limit(
        lambda r, _: r.beta2,
        (0.9, 0.9999),
        "Adam's decay of the gradient's square is {v:.3g}",
        "Adam's steps are of the wrong size: the gradient's square is one of a few steps, or of long ago",
        lambda *_: [Setting("train.beta2", 0.999)],
    ),
    "tight_clip": _limit(
        lambda r, _: r.clip,
        (1e-4, math.inf),
        "the parameters' gradient is clipped at {v:.3g}",
        "the clipped gradient is no larger than the 1e-8 that Adam adds to its root",
        lambda r, _: [Setting("train.clip", rounded(3 * (r.now("grad_norm") or 30), 1))],
    ),
    "low_rate": _limit(
        _travel,
        (0.02, math.inf),
        "the learning rate times half the number of steps is {v:.3g}, and no weight moves farther",
        "the learning rate is too low for this budget",
        lambda *_: [Setting("train.learning_rate", 0.001)],
    ),
    "few_updates": _limit(
        lambda r, _: updates(r),
        (100.0, math.inf),
        "the budget is {v:.3g} steps",
        "the budget is too short for batches of this size",
        lambda r, _: [Setting("train.budget", 1000 * (r.batch_size or 1)), ", or a smaller --train.batch_size"],
    ),
    "few_lines": _limit(
        _lines,
        (20.0, math.inf),
        "the metrics of the whole run are {v:.3g} lines",
        "metrics are written too seldom for anyone to see how the run goes",
        lambda r, _: [Setting("train.log_every", max(1, int(updates(r) or 0) // 100))],
    ),
    "tight_guards": _limit(
        lambda r, _: r.guarded,
        (1.0, math.inf),
        "a limit of the guards is {v:.3g} times the lowest that healthy runs stay below",
        "guards take healthy steps for trouble",
        lambda *_: [
            Setting("guard.gradient_factor", 100),
            Setting("guard.energy_factor", 10000),
            Setting("guard.least_acceptance", 0.02),
        ],
    ),
    "long_warmup": _limit(
        lambda r, _: safe_ratio(r.warmup, r.budget),
        (0.0, 0.99),
        "the warm-up takes {v:.3g} times the budget",
        "the learning rate never reaches its highest: the budget ends within the warm-up",
        lambda r, _: [Setting("train.warmup", (r.budget or 0) // 10), f", or --train.budget {10 * (r.warmup or 0)}"],
    ),
}


def _unlearned(rule: Rule) -> Rule:
    """Return a rule whose finding says so where the weights have hardly moved."""

    def extended(record: Record, probes: Probes) -> Finding | None:
        found, moved = rule(record, probes), probes.moved
        if found is None or moved is None:
            return found
        found = found._replace(numbers=found.numbers | {"moved": moved})
        evidence = f"{found.evidence}; weights have moved by {moved:.2g} of their size"
        return found._replace(symptom="nothing was learned", evidence=evidence) if moved < STILL else found

    return extended


BY_SETTINGS = {name: _unlearned(limit.rule(name)) for name, limit in LIMITS.items()}
"""The rules by name."""
