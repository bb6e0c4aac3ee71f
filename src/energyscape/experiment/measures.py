"""What a trained energy is worth: figures with error bars, each with the protocol that made it."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from energyscape.data import Images, Law
from energyscape.evaluation import (
    Judge,
    acceptance,
    auc,
    energy_distance,
    kl,
    mmd,
    mode_masses,
    nearest,
    psnr,
    recognise,
    sliced_wasserstein,
    total_variation,
)
from energyscape.experiment.assembly import Experiment, seeded
from energyscape.experiment.generation import draw_data, generate, restored
from energyscape.noise import noised

SIGMAS = (0.2, 0.4, 0.6)
"""Noise levels of the restoration test, on the [-1, 1] scale."""

MANY = 1_000
"""Samples that are judged."""


class Figure(NamedTuple):
    """One measured number.

    Args:
        name: What was measured.
        value: The number.
        error: Its standard error, or the numerical error's estimate; none where there is none to give.
        protocol: How it was measured, in a line.
    """

    name: str
    value: float
    error: float | None
    protocol: str

    @property
    def shown(self) -> str:
        """The value for people."""
        return f"{self.value:.4g}"

    @property
    def shown_error(self) -> str:
        """The error for people."""
        return "" if self.error is None else f"{self.error:.2g}"


class Restoration(NamedTuple):
    """Noisy images and what was made of them.

    Args:
        sigma: Standard deviation of the noise.
        clean: The images, ``(n, *)``.
        noisy: The images and noise.
        restored: The posterior means.
    """

    sigma: float
    clean: Tensor
    noisy: Tensor
    restored: Tensor

    def gain(self) -> Tensor:
        """Returns the gain in PSNR of each image over the noisy one, in dB."""
        return psnr(self.restored, self.clean) - psnr(self.noisy, self.clean)


def measure(experiment: Experiment, *, seed: int | None = None) -> list[Figure]:
    """Measures what there is to measure.

    Args:
        experiment: With what was learned.
        seed: Of everything random in it; the run's when left out.
    """
    if isinstance(experiment.source, Law):
        return [*against_truth(experiment, experiment.source, seed=seed), acceptance_probe(experiment, seed=seed)]
    samples = generate(experiment, MANY, seed=seed).x
    figures = [*of_samples(experiment, samples, seed=seed), acceptance_probe(experiment, seed=seed)]
    return figures + [of_restoration(restore_held_out(experiment, sigma, seed=seed)) for sigma in SIGMAS]


def against_truth(experiment: Experiment, law: Law, *, seed: int | None = None) -> list[Figure]:
    """Measures an energy in the plane, and samples of it, against the law that they should be.

    Args:
        experiment: With what was learned.
        law: The truth.
        seed: Of the chains; the run's when left out.
    """
    energy, temperature = experiment.energy, experiment.objective.temperature
    divergence = kl(law, energy, temperature=temperature)
    variation = total_variation(law, energy, temperature=temperature)
    quadrature = "Gauss-Legendre quadrature; error: half the nodes"
    figures = [
        Figure("KL(data‖model), nats", divergence.value, divergence.error, quadrature),
        Figure("total variation", variation.value, variation.error, f"between the densities; {quadrature}"),
        Figure(
            "mass at the edge", divergence.edge_mass, None, "of the model, in the box's rim; KL holds where it is small"
        ),
    ]
    if law.modes is not None:
        shares = mode_masses(law, energy, temperature=temperature) / mode_masses(law, lambda x: -law.log_prob(x))
        figures.append(Figure("worst mode", float(shares.min()), None, "its mass over what it should be; 1 is right"))
    return figures + _between(experiment, law, seed)


def _between(experiment: Experiment, law: Law, seed: int | None) -> list[Figure]:
    """Measures samples of the model against draws of the law, unbiased: zero is right."""
    x = generate(experiment, MANY, seed=seed).x
    y = law.sample(MANY, generator=seeded(experiment, seed, "law", device="cpu"))
    how = f"{MANY} samples from noise, {experiment.sampling.steps} steps, and {MANY} of the law; 0: alike"
    slices = sliced_wasserstein(x, y, generator=seeded(experiment, seed, "slices", device="cpu"))
    told = {"MMD²": mmd(x, y), "energy distance": energy_distance(x, y), "sliced Wasserstein²": slices}
    return [Figure(name, each.value, each.error, how) for name, each in told.items()]


def of_samples(experiment: Experiment, samples: Tensor, *, seed: int | None = None) -> list[Figure]:
    """Measures generated images against real ones.

    Args:
        experiment: With what was learned.
        samples: Generated images, ``(n, C, H, W)``.
        seed: Of the choice of images.
    """
    train, held_out = experiment.source, experiment.held_out
    assert isinstance(train, Images)
    assert isinstance(held_out, Images)
    device, n = experiment.training.torch_device, len(samples)
    how = f"{n} samples from noise, {experiment.sampling.steps} steps"
    figures: list[Figure] = []
    if train.labels is not None:
        some = torch.randperm(len(train), generator=seeded(experiment, seed, "judge", device="cpu"))[:6_000]
        judge = Judge(train.floats(some), train.labels[some])
        seen = recognise(judge, samples)
        real = recognise(judge, held_out.floats())
        shares = seen.shares.double()
        entropy = float(-(shares * shares.clamp(min=1e-12).log()).sum()) / math.log(len(shares))
        figures += [
            Figure("recognised", seen.sure, seen.sure_error, f"share with class probability ≥ 0.8 by an SVC; {how}"),
            Figure("recognised, real", real.sure, real.sure_error, "the same of held-out images"),
            Figure(
                "rarest class", float(shares.min()), None, f"its share of the samples; equal: {1 / len(shares):.3g}"
            ),
            Figure("class entropy", entropy, None, "of the samples' classes, over that of equal shares"),
        ]
    images = draw_data(train, min(len(train), 6_000), generator=seeded(experiment, seed, "measure", device="cpu"))
    real_images = held_out.floats(slice(0, 1_000))
    ratio = float(nearest(samples, images).median() / nearest(real_images, images).median())
    figures.append(
        Figure(
            "distance to training", ratio, None, "median nearest-neighbour distance over held-out images'; 0: copies"
        )
    )
    clean = real_images[:n]
    level, stream = experiment.objective.level, seeded(experiment, seed, "auc", device="cpu")
    energy = experiment.energy
    # The energy is that of noised data: samples that were denoised at the end are noised again.
    again = level if experiment.sampling.tweedie else 0.0
    with torch.no_grad():
        e_model = energy(noised(samples, again, generator=stream)[0].to(device)).cpu()
        e_data = energy(noised(clean, level, generator=stream)[0].to(device)).cpu()
    figures.append(
        Figure("AUC of energies", auc(e_model, e_data), None, f"samples above held-out images; 0.5: alike; {how}")
    )
    return figures


def acceptance_probe(experiment: Experiment, *, seed: int | None = None) -> Figure:
    """Measures how often MALA accepts at the sampler's step size: how honest unadjusted chains are.

    Args:
        experiment: With what was learned.
        seed: Of the chains.
    """
    kernel = experiment.sampling.kernel(experiment.energy)
    x = draw_data(experiment.source, 256, generator=seeded(experiment, seed, "probe", device="cpu"))
    x, _ = noised(x, experiment.objective.level, generator=seeded(experiment, seed, "probe noise", device="cpu"))
    step_size = _eta(experiment.recipe.tables["sampler"]["kernel"])
    rate = acceptance(
        experiment.energy,
        x.to(experiment.training.torch_device),
        step_size=step_size,
        temperature=kernel.temperature or experiment.objective.temperature,
        generator=seeded(experiment, seed, "probe chains"),
    )
    return Figure("MALA acceptance", rate, None, f"10 steps of η = {step_size:g} from the data")


def _eta(settings: Mapping[str, Any]) -> float:
    """Returns a kernel's step as one of Langevin, in squared units of ``x``."""
    if "kernel" in settings:  # that of one replica
        return _eta(settings["kernel"])
    step_size: float = settings["step_size"]
    return step_size**2 / 2 if settings["name"] in ("hmc", "underdamped") else step_size


def restore_held_out(experiment: Experiment, sigma: float, *, n: int = 64, seed: int | None = None) -> Restoration:
    """Spoils held-out images with noise and restores them.

    Args:
        experiment: With what was learned.
        sigma: Standard deviation of the noise.
        n: How many images.
        seed: Of the noise and the chains.
    """
    clean = draw_data(experiment.held_out, n, generator=seeded(experiment, seed, "clean", device="cpu"))
    noisy, _ = noised(clean, sigma, generator=seeded(experiment, seed, f"spoil {sigma}", device="cpu"))
    return Restoration(sigma, clean, noisy, restored(experiment, noisy, sigma=sigma, seed=seed))


def of_restoration(restoration: Restoration) -> Figure:
    """Returns the mean gain in PSNR.

    Args:
        restoration: Of images that training did not see.
    """
    gain, n = restoration.gain(), len(restoration.clean)
    error = float(gain.std() / math.sqrt(n))
    how = f"{n} held-out images and N(0, {restoration.sigma:g}²), posterior mean"
    return Figure(f"PSNR gain at σ = {restoration.sigma:g}, dB", float(gain.mean()), error, how)
