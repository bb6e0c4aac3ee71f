r"""Rules about what an objective can learn: from noise, from one noise level, from two losses at once."""

import math

from energyscape.doctor.finding import Finding, rate
from energyscape.doctor.probes import Probes
from energyscape.doctor.record import Record


def hybrid_conflict(record: Record, _: Probes) -> Finding | None:
    r"""A classifier and a generator in one network that pull apart (row 20).

    Accuracy fell by one point from the first to the second half of the last lines, and the gradient of
    :math:`\log p(x)` is more than 3 times that of :math:`\log p(y \mid x)` (column ``grad_ratio``).
    """
    accuracy, balance = record.last("accuracy"), record.now("grad_ratio")
    if len(accuracy) < 10 or balance is None:
        return None
    half = len(accuracy) // 2
    fell = sum(accuracy[:half]) / half - sum(accuracy[half:]) / (len(accuracy) - half)
    if fell < 0.01 or balance <= 3:
        return None
    return Finding(
        "hybrid_conflict",
        "warn",
        "the classifier gets worse while the generator learns",
        f"accuracy fell by {100 * fell:.1f} points; the generator's gradient is {balance:.2g} times the classifier's",
        "log p(x) outweighs log p(y | x)",
        f"weigh log p(x) by {1 / balance:.2g}, leave augmentation out of it, {rate(record, 0.3)}",
        {"fell": fell, "grad_ratio": balance},
    )


def easy_noise(record: Record, _: Probes) -> Finding | None:
    """Noise that is too easy to tell from data (row 19): accuracy above 0.99 or loss below 0.02 over the last lines."""
    if record.objective not in ("nce", "ranking-nce"):
        return None
    accuracy, loss = record.now("accuracy"), record.now("loss")
    if (accuracy or 0) <= 0.99 and (loss is None or loss >= 0.02):
        return None
    told = f"accuracy {accuracy:.4f}" if accuracy is not None else ""
    return Finding(
        "easy_noise",
        "warn",
        "the loss is nearly zero, and the energy says little between noise and data",
        ", ".join(each for each in (told, f"loss {loss:.3g}" if loss is not None else "") if each),
        "the noise distribution is too far from the data",
        "--objective.name ed, or noise nearer to the data",
        {"accuracy": accuracy or math.nan, "loss": loss or math.nan},
    )


def one_noise_level(record: Record, probes: Probes) -> Finding | None:
    r"""A score that is right at one noise level and says nothing away from it.

    At its own level :math:`E\|\sigma s + z\|^2 / d < 0.9`, where 1 is a score of zero; at noise as wide as where chains
    start it is above 0.98, and chains from there end more than 2 times as far from the data as data do.
    """
    if record.chains != "sampler" or probes.near is None or probes.far is None or probes.arrived is None:
        return None
    if probes.near >= 0.9 or probes.far <= 0.98 or probes.arrived <= 2:
        return None
    return Finding(
        "one_noise_level",
        "act",
        "samples from noise stay noise, though noise at the learned level is removed well",
        f"relative error {probes.near:.2f} at the learned noise level and {probes.far:.3g} where chains start (1: a "
        f"score of zero); chains from noise end {probes.arrived:.2g} times as far from the data as data do",
        "the score was learned at one noise level only, and says nothing away from it",
        "--objective.name msdsm --model.name energy-denoiser, or start chains near the data",
        {"near": probes.near, "far": probes.far, "arrived": probes.arrived},
    )


def no_signal(record: Record, probes: Probes) -> Finding | None:
    r"""Denoising that has learned nothing (row 17).

    :math:`E\|\sigma s + z\|^2 / d > 0.98`, where 1 is a score of zero.
    """
    if record.chains != "sampler" or record.objective not in (None, "dsm", "msdsm"):
        return None
    told = record.now("relative")
    told = probes.near if told is None else told
    if told is None or told <= 0.98:
        return None
    return Finding(
        "no_signal",
        "act",
        "the loss stays where it began",
        f"the relative loss is {told:.3f}; a score of zero has 1",
        "the noise is too low or the rate too small for anything to be learned",
        f"{rate(record, 3)}, a larger noise level, or --objective.name msdsm",
        {"relative": told},
    )
