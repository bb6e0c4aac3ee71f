"""Rules about settings that spoil a run silently: each compares one number of the recipe, or of the data, with a range.

They need no training: `train` applies them before it begins, the doctor afterwards. Adam moves a weight by at most
about its learning rate a step, and weights begin at about 0.1. The learning rate times the number of steps therefore
bounds what can be learned.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from energyscape.doctor.finding import CALM, Finding, Rule, flag
from energyscape.doctor.probes import Probes
from energyscape.doctor.record import Record, safe_ratio


class Limit(NamedTuple):
    """A number that must stay in a range."""

    measure: Callable[[Record, Probes], float | None]  # The number, or none if unknown
    range: tuple[float, float]  # Lowest and highest value
    evidence: str  # Description of the number, with ``{}`` for its value
    cause: str  # The fault of the setting
    remedy: Callable[[Record, Probes], str]  # The better setting

    def rule(self, name: str) -> Rule:
        """Return the rule: warn outside the range, act where the number is off by more than a factor of 4."""

        def rule(record: Record, probes: Probes) -> Finding | None:
            value, (least, most) = self.measure(record, probes), self.range
            if value is None or least <= value <= most:
                return None
            act = value < least / 4 or value > 4 * most
            limit = f"at least {least:g}" if value < least else f"at most {most:g}"
            still = probes.moved is not None and probes.moved < STILL
            moved = f"; weights have moved by {probes.moved:.2g} of their size" if still else ""
            return Finding(
                name,
                "act" if act else "warn",
                "nothing was learned" if still else "the run cannot learn, or its samples are spoiled",
                f"{self.evidence.format(f'{value:.3g}')}; it should be {limit}{moved}",
                self.cause,
                self.remedy(record, probes),
                {"value": value} | ({} if probes.moved is None else {"moved": probes.moved}),
            )

        rule.__name__ = name
        return rule


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


LIMITS = {
    "tight_bounds": Limit(
        lambda _, p: p.cut,
        (0.0, 0.02),
        "{} of the data's coordinates are beyond the bounds of chains",
        "the bounds of chains cut the data",
        lambda r, _: f"--{r.chains}.kernel.bounds none",
    ),
    "far_start": Limit(
        lambda _, p: p.away,
        (0.0, 5.0),
        "chains from noise start {} times as far from the data's mean as the data are",
        "the box that chains start in is far away from the data",
        lambda r, _: (
            f"--{r.chains}.start.{'fresh.' * (r.start == 'buffer')}low -1.0 "
            f"--{r.chains}.start.{'fresh.' * (r.start == 'buffer')}high 1.0"
        ),
    ),
    "mirrored_data": Limit(
        lambda r, p: p.mirrored if r.flips else None,
        (0.0, 1.15),
        "mirrored images are {} times as far from the data as other data are",
        "mirroring makes images that the data do not hold, such as mirrored digits",
        lambda *_: "--train.flips false",
    ),
    "strong_noise": Limit(
        lambda r, p: safe_ratio(r.data_noise, p.clean_std),
        (0.0, 1.0),
        "the noise on the data is {} times their standard deviation",
        "the noise on the data drowns them: the model learns noise",
        lambda r, p: f"--objective.{'data_noise' if r.objective == 'cd' else 'sigma'} {(p.clean_std or 1) / 2:.2g}",
    ),
    "tight_reference": Limit(
        lambda r, p: safe_ratio(r.reference_std, p.narrowest),
        (0.5, math.inf),
        "the reference's standard deviation is {} times that of the data's narrowest coordinate",
        "the energy's Gaussian term is narrower than the data, and holds chains at the origin",
        lambda _, p: f"--model.reference_std {p.narrowest:.2g}",
    ),
    "wide_reference": Limit(
        lambda r, p: safe_ratio(r.reference_std, p.data_std),
        (0.0, 10.0),
        "the reference's standard deviation is {} times that of the data",
        "the energy's Gaussian term is so wide that it holds nothing",
        lambda _, p: f"--model.reference_std {p.data_std:.2g}",
    ),
    "output_scale": Limit(
        _scale,
        (0.02, 50.0),
        "the scale of the network's output is {} times the inverse variance of the reference",
        "the scale of the network's output does not fit the data",
        lambda r, p: f"--model.scale {1 / (r.reference_std or p.data_std or 1) ** 2:.2g}",
    ),
    "bounded_slope": Limit(
        lambda r, p: _scale(r, p) if r.spectral_norm else None,
        (0.25, math.inf),
        "the network's slope is bounded (spectral_norm), and its scale {} times the inverse variance of the reference",
        "energies of temperature 1 are out of the bounded network's reach, and chains stay where the reference is low",
        lambda r, p: f"--model.scale {1 / (r.reference_std or p.data_std or 1) ** 2:.2g}",
    ),
    "small_network": Limit(
        lambda r, _: None if r.width is None else float(r.width),
        (4.0, math.inf),
        "the network is {} units wide",
        "the network is too small to learn anything",
        lambda *_: "--model.network.width 128",
    ),
    "tight_drift_clip": Limit(
        _drift_clip,
        (0.35, math.inf),
        "the drift of chains is clipped at {} standard deviations of a step's noise",
        "the clip holds the chains' drift below its noise, so that chains are noise",
        lambda r, _: flag(r, "drift_clip", CALM * math.sqrt(2 * (r.step_size or 0))),
    ),
    "fresh_chains": Limit(
        lambda r, _: r.refresh if r.start == "buffer" else None,
        (0.0, 0.3),
        "{} of the buffer's chains are restarted each time they are drawn",
        "chains are restarted before they get anywhere",
        lambda *_: "--objective.start.refresh 0.01",
    ),
    "large_buffer": Limit(
        lambda r, _: safe_ratio(r.budget, r.capacity),
        (3.0, math.inf),
        "each chain of the buffer is drawn {} times in the whole run",
        "the buffer is so large that its chains hardly move from where they started",
        lambda r, _: f"--objective.start.capacity {max((r.budget or 0) // 100, 4 * (r.batch_size or 1))}",
    ),
    "high_beta1": Limit(
        lambda r, _: r.beta1,
        (0.0, 0.97),
        "Adam's decay of the gradient's mean is {}",
        "the gradient's mean is one of long ago",
        lambda *_: "--train.beta1 0.0",
    ),
    "odd_beta2": Limit(
        lambda r, _: r.beta2,
        (0.9, 0.9999),
        "Adam's decay of the gradient's square is {}",
        "Adam's steps are of the wrong size: the gradient's square is one of a few steps, or of long ago",
        lambda *_: "--train.beta2 0.999",
    ),
    "tight_clip": Limit(
        lambda r, _: r.clip,
        (1e-4, math.inf),
        "the parameters' gradient is clipped at {}",
        "the clipped gradient is no larger than the 1e-8 that Adam adds to its root",
        lambda r, _: f"--train.clip {3 * (r.now('grad_norm') or 30):.1g}",
    ),
    "low_rate": Limit(
        _travel,
        (0.02, math.inf),
        "the learning rate times half the number of steps is {}, and no weight moves farther",
        "the learning rate is too low for this budget",
        lambda *_: "--train.learning_rate 0.001",
    ),
    "few_updates": Limit(
        lambda r, _: updates(r),
        (100.0, math.inf),
        "the budget is {} steps",
        "the budget is too short for batches of this size",
        lambda r, _: f"--train.budget {1000 * (r.batch_size or 1)}, or a smaller --train.batch_size",
    ),
    "few_lines": Limit(
        _lines,
        (20.0, math.inf),
        "the metrics of the whole run are {} lines",
        "metrics are written too seldom for anyone to see how the run goes",
        lambda r, _: f"--train.log_every {max(1, int(updates(r) or 0) // 100)}",
    ),
    "tight_guards": Limit(
        lambda r, _: r.guarded,
        (1.0, math.inf),
        "a limit of the guards is {} times the lowest that healthy runs stay below",
        "guards take healthy steps for trouble",
        lambda *_: "--guard.gradient_factor 100 --guard.energy_factor 10000 --guard.least_acceptance 0.02",
    ),
    "long_warmup": Limit(
        lambda r, _: safe_ratio(r.warmup, r.budget),
        (0.0, 0.99),
        "the warm-up takes {} times the budget",
        "the learning rate never reaches its highest: the budget ends within the warm-up",
        lambda r, _: f"--train.warmup {(r.budget or 0) // 10}, or --train.budget {10 * (r.warmup or 0)}",
    ),
}

BY_SETTINGS = {name: limit.rule(name) for name, limit in LIMITS.items()}
"""The rules by name."""
