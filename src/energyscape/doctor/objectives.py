"""Rules about the limits of objectives: easy noise, a single noise level, methods blind to weights."""

import math

from energyscape.doctor.finding import Finding, rate
from energyscape.doctor.probes import Probes
from energyscape.doctor.record import Record, safe_ratio


def easy_noise(record: Record, _: Probes) -> Finding | None:
    """Find noise that is easily distinguished from data (row 19): accuracy above 0.99 or loss below 0.02."""
    if record.objective not in ("nce", "ranking-nce"):
        return None
    accuracy, loss = record.now("accuracy"), record.now("loss")
    if (accuracy or 0) <= 0.99 and (loss is None or loss >= 0.02):
        return None
    certain = f"accuracy {accuracy:.4f}" if accuracy is not None else ""
    return Finding(
        "easy_noise",
        "warn",
        "the loss is nearly zero, and the energy is uninformative between noise and data",
        ", ".join(each for each in (certain, f"loss {loss:.3g}" if loss is not None else "") if each),
        "the noise distribution is too far from the data",
        "--objective.name ed, or noise nearer to the data",
        {"accuracy": accuracy or math.nan, "loss": loss or math.nan},
    )


def parted_islands(record: Record, probes: Probes) -> Finding | None:
    """Find islands that the noise does not bridge, for a method that learns slopes only; see `Probes.parted`."""
    if record.objective not in ("sm", "ssm", "ssm-vr", "fd-ssm", "dsm") or (probes.parted or 0) <= 5:
        return None
    noise = f"noise of σ = {record.data_noise:g} does not bridge it" if record.data_noise else "no noise bridges it"
    return Finding(
        "parted_islands",
        "warn",
        "the mass of each island of the data is arbitrary",
        f"the gap between islands is {probes.parted:.2g} times the steps between neighbours within them, and {noise}",
        "score matching learns slopes, and between islands there are no data to learn one from",
        "--objective.name nce-ssm",
        {"parted": probes.parted or math.nan},
    )


def one_noise_level(record: Record, probes: Probes) -> Finding | None:
    r"""Find a score that is right at one noise level only.

    At its own level :math:`E\|\sigma s + z\|^2 / d < 0.9`, where 1 is a score of zero. In the first case, chains from
    noise stay away. At noise as wide as their start that error is above 0.98, and they end more than twice as far from
    the data as data do. In the second, they arrive but samples are noisy, because data *noised at* :math:`\sigma` were
    learned and no step removes the noise. The score then attributes more than 0.2 of the variance to noise (a deviation
    of more than half of the signal's).
    """
    near, share = probes.near, probes.noisy
    if record.chains != "sampler" or near is None or near >= 0.9:
        return None
    away = (probes.far or 0) > 0.98 and (probes.arrived or 0) > 2
    noisy = (share or 0) > 0.2 and not record.tweedie
    if not away and not noisy:
        return None
    level = "the learned noise level" if not record.data_noise else f"the learned noise level σ = {record.data_noise:g}"
    words = [f"relative error {near:.2f} at {level} (a score of zero: 1)"]
    words += [f"{probes.far:.3g} at noise as wide as where chains start" if probes.far is not None else ""]
    words += [f"chains end {probes.arrived:.2g} times as far from the data as noised data do" if probes.arrived else ""]
    words += [f"{share:.0%} of their variance is noise according to the score" if share is not None else ""]
    measured = {"near": near, "far": probes.far, "arrived": probes.arrived, "noisy": share}
    return Finding(
        "one_noise_level",
        "act",
        "samples are noise, though noise at the learned level is removed well",
        "; ".join(each for each in words if each),
        "the score was learned at one noise level only and is arbitrary away from data with that noise; "
        "use a continuous schedule of levels and a network that is conditioned on the level",
        all_levels(record, probes),
        {name: value for name, value in measured.items() if value is not None},
    )


def all_levels(record: Record, probes: Probes) -> str:
    """Return the flags that train a denoiser at all noise levels, conditioned on the level.

    The levels run from a fiftieth of the data's deviation, where noise is invisible, to three times their root mean
    square norm. Beyond that, data look like a point at the origin.
    """
    width, size = probes.clean_std or 0.5, probes.size or 80.0 / 3
    network = "unet" if record.network in ("conv", "residual") else "mlp"
    levels = {"sigma_min": f"{width / 50:.2g}", "sigma_max": f"{3 * size:.2g}"}
    settings = {
        "model.name": "denoiser",
        "model.network.name": network,
        "model.preconditioning.name": "edm",
        "model.preconditioning.data_std": f"{width:.2g}",
        "objective.name": "denoising",
        "objective.levels.name": "log-uniform",
        **{f"objective.levels.{name}": value for name, value in levels.items()},
        "objective.weight.name": "edm",
        "objective.weight.data_std": f"{width:.2g}",
        "sampler.solver.name": "heun",
        "sampler.grid.name": "karras",
        **{f"sampler.grid.{name}": value for name, value in levels.items()},
        "sampler.steps": "18",
    }
    return " ".join(f"--{name} {value}" for name, value in settings.items())


def noise_kept(record: Record, probes: Probes) -> Finding | None:
    """Find samples that carry the noise that was learned with the data.

    The score attributes more than 0.04 of their variance to noise (a fifth of the signal's deviation, 14 dB), and no
    denoising step ends the chains.
    """
    asked, level = probes.sound is not None, record.data_noise or 0.0
    share = probes.noisy if asked else safe_ratio(level**2, (probes.data_std or 0) ** 2)
    if share is None or share <= 0.04 or record.tweedie or one_noise_level(record, probes) is not None:
        return None
    return Finding(
        "noise_kept",
        "warn",
        "samples are right but noisy",
        f"{share:.0%} of their variance is noise" + " by the score's own account" * asked,
        f"the model learned the law of noised data (σ = {level:g}), and no final step removes the noise",
        "--sampler.tweedie true",
        {"noisy": share},
    )


def no_signal(record: Record, probes: Probes) -> Finding | None:
    r"""Find denoising that has learned nothing (row 17).

    :math:`E\|\sigma s + z\|^2 / d > 0.98`, where 1 is a score of zero.
    """
    if record.chains != "sampler" or record.objective not in (None, "dsm", "msdsm"):
        return None
    relative = record.now("relative")
    relative = probes.near if relative is None else relative
    if relative is None or relative <= 0.98:
        return None
    return Finding(
        "no_signal",
        "act",
        "the loss stays at its initial value",
        f"the relative loss is {relative:.3f}; a score of zero has 1",
        "the noise is too low or the rate too small for anything to be learned",
        f"{rate(record, 3)}, a larger noise level, or --objective.name msdsm",
        {"relative": relative},
    )
