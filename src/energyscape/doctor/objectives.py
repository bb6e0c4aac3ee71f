"""Rules about the limits of objectives: easy noise, a single noise level, methods blind to weights."""

from energyscape.doctor.finding import Advice, Finding, Limit, Setting, above, finding, rate, rounded, table
from energyscape.doctor.probes import Probes
from energyscape.doctor.record import Record, safe_ratio


def easy_noise(record: Record, _: Probes) -> Finding | None:
    """Find noise that is easily distinguished from data (row 19): accuracy above 0.99 or loss below 0.02."""
    if record.objective not in ("nce", "ranking-nce"):
        return None
    accuracy, loss = record.now("accuracy"), record.now("loss")
    if (accuracy or 0) <= 0.99 and (loss is None or loss >= 0.02):
        return None
    return finding(
        "easy_noise",
        False,
        "the loss is nearly zero, and the energy is uninformative between noise and data",
        [
            ", ".join(
                f"{name} {each:.4g}" for name, each in (("accuracy", accuracy), ("loss", loss)) if each is not None
            )
        ],
        "the noise distribution is too far from the data",
        advice=[Setting("objective.name", "ed"), ", or noise nearer to the data"],
        numbers={"accuracy": accuracy, "loss": loss},
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
    return finding(
        "one_noise_level",
        True,
        "samples are noise, though noise at the learned level is removed well",
        words,
        "the score was learned at one noise level only and is arbitrary away from data with that noise; "
        "use a continuous schedule of levels and a network that is conditioned on the level",
        advice=all_levels(record, probes),
        numbers={"near": near, "far": probes.far, "arrived": probes.arrived, "noisy": share},
    )


def all_levels(record: Record, probes: Probes) -> Advice:
    """Return the settings that train a denoiser at all noise levels, conditioned on the level.

    The levels run from a fiftieth of the data's deviation, where noise is invisible, to three times their root mean
    square norm. Beyond that, data look like a point at the origin.
    """
    width, size = probes.clean_std or 0.5, probes.size or 80.0 / 3
    network = "unet" if record.network in ("conv", "residual") else "mlp"
    levels = {"sigma_min": rounded(width / 50), "sigma_max": rounded(3 * size)}
    settings: dict[str, str | float] = {
        "model.name": "denoiser",
        "model.network.name": network,
        "model.preconditioning.name": "edm",
        "model.preconditioning.data_std": rounded(width),
        "objective.name": "denoising",
        "objective.levels.name": "log-uniform",
        **{f"objective.levels.{name}": value for name, value in levels.items()},
        "objective.weight.name": "edm",
        "objective.weight.data_std": rounded(width),
        "sampler.solver.name": "heun",
        "sampler.grid.name": "karras",
        **{f"sampler.grid.{name}": value for name, value in levels.items()},
        "sampler.steps": 18,
    }
    return [Setting(name, value) for name, value in settings.items()]


def noise_kept(record: Record, probes: Probes) -> Finding | None:
    """Find samples that carry the noise that was learned with the data, and no final denoising step."""
    asked, level = probes.sound is not None, record.data_noise or 0.0
    share = probes.noisy if asked else safe_ratio(level**2, (probes.data_std or 0) ** 2)
    if share is None or share <= 0.04 or record.tweedie or one_noise_level(record, probes) is not None:
        return None
    return finding(
        "noise_kept",
        False,
        "samples are right but noisy",
        [f"{share:.0%} of their variance is noise" + " by the score's own account" * asked],
        f"the model learned the law of noised data (σ = {level:g}), and no final step removes the noise",
        advice=[Setting("sampler.tweedie", True)],
        numbers={"noisy": share},
    )


LIMITS = {
    # Islands that the noise does not bridge, for a method that learns slopes only; see `Probes.parted`.
    "parted_islands": Limit(
        lambda r, p: p.parted if r.objective in ("sm", "ssm", "ssm-vr", "fd-ssm", "dsm") else None,
        above(5),
        "the mass of each island of the data is arbitrary",
        "the gap between islands is {v:.2g} times the steps between neighbours within them",
        "score matching learns slopes, and between islands there are no data to learn one from",
        lambda *_: [Setting("objective.name", "nce-ssm")],
        lambda r, _: [f"noise of σ = {r.data_noise:g} does not bridge it" if r.data_noise else "no noise bridges it"],
        key="parted",
    ),
    # E‖σ s + z‖² / d, where 1 is a score of zero (row 17).
    "no_signal": Limit(
        lambda r, p: _relative(r, p) if r.chains == "sampler" and r.objective in (None, "dsm", "msdsm") else None,
        above(0.98, act=0.98),
        "the loss stays at its initial value",
        "the relative loss is {v:.3f}; a score of zero has 1",
        "the noise is too low or the rate too small for anything to be learned",
        lambda r, _: [rate(r, 3), ", a larger noise level, or --objective.name msdsm"],
        key="relative",
    ),
}


def _relative(record: Record, probes: Probes) -> float | None:
    relative = record.now("relative")
    return probes.near if relative is None else relative


RULES = table((easy_noise, one_noise_level, noise_kept), LIMITS)
"""The rules by name."""
