"""What a trained energy is worth: figures with error bars, each with the protocol that made it."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from energyscape.data import Distribution, Images
from energyscape.errors import UserError
from energyscape.evaluation import (
    Classifier,
    Inception,
    Judge,
    acceptance,
    auc,
    classifier_for,
    energy_distance,
    frechet_distance,
    kernel_distance,
    kl,
    mmd,
    mode_masses,
    nearest,
    overlap,
    read_inception,
    recognise,
    sliced_wasserstein,
    total_variation,
)
from energyscape.experiment.assembly import Experiment, seeded
from energyscape.experiment.descents import class_figures, likelihood_figures
from energyscape.experiment.figure import Figure
from energyscape.experiment.generation import draw_data, generate
from energyscape.experiment.outliers import OODResult, survey
from energyscape.experiment.restorations import restorations
from energyscape.noise import noised

REPORT_SAMPLES = 1_000
"""Samples that are judged."""

MIN_CLASSIFIER_IMAGES = 5_000
"""Labelled images from which on a network judges samples, and not a support vector machine."""


def measure(
    experiment: Experiment,
    *,
    n: int = REPORT_SAMPLES,
    steps: int | None = None,
    inception_weights: Path | None = None,
    seed: int | None = None,
) -> list[Figure]:
    """Measures what there is to measure.

    Args:
        experiment: With what was learned.
        n: Samples that are judged.
        steps: Of the chains that make them; the recipe's when left out.
        inception_weights: Of the network that published distances use, to compare images on its features too.
        seed: Of everything random in it; the run's when left out.

    Raises:
        UserError: If there are fewer than four samples, or the weights cannot be used.
    """
    if n < 4:
        raise UserError(f"at least 4 samples are judged; {n} were asked for")
    if isinstance(experiment.source, Distribution):
        if inception_weights is not None:
            raise UserError("Inception's features are of images; this run's data are points in the plane")
        told = against_truth(experiment, experiment.source, n=n, steps=steps, seed=seed)
        return told + ([acceptance_probe(experiment, seed=seed)] if experiment.has_chains else [])
    network = None if inception_weights is None else read_inception(inception_weights)
    samples = generate(experiment, n, steps=steps, seed=seed).x
    figures = of_samples(experiment, samples, steps=steps, seed=seed)
    if network is not None:
        figures += of_features(experiment, samples, network, steps=steps, seed=seed)
    figures += (
        [acceptance_probe(experiment, seed=seed)]
        if experiment.has_chains
        else likelihood_figures(experiment, seed=seed)
    )
    figures += [figure for each in restorations(experiment, seed=seed) for figure in each.figures()]
    return figures + (of_outliers(survey(experiment, samples=samples, seed=seed)) if experiment.has_chains else [])


def against_truth(
    experiment: Experiment,
    law: Distribution,
    *,
    n: int = REPORT_SAMPLES,
    steps: int | None = None,
    seed: int | None = None,
) -> list[Figure]:
    """Measures an energy in the plane, and samples of it, against the law that they should be.

    Args:
        experiment: With what was learned.
        law: The truth.
        n: Samples, and draws of the law.
        steps: Of the chains; the recipe's when left out.
        seed: Of the chains; the run's when left out.
    """
    if not experiment.has_energy:
        return [*likelihood_figures(experiment, seed=seed), *_between(experiment, law, n, steps, seed)]
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
    return figures + _between(experiment, law, n, steps, seed)


def _between(experiment: Experiment, law: Distribution, n: int, steps: int | None, seed: int | None) -> list[Figure]:
    """Measures samples of the model against draws of the law, unbiased: zero is right."""
    x = generate(experiment, n, steps=steps, seed=seed).x
    y = law.sample(n, generator=seeded(experiment, seed, "law", device="cpu"))
    how = f"{made(experiment, n, steps)}, and {n:,} of the law; 0: alike"
    slices = sliced_wasserstein(x, y, generator=seeded(experiment, seed, "slices", device="cpu"))
    told = {"MMD²": mmd(x, y), "energy distance": energy_distance(x, y), "sliced Wasserstein²": slices}
    return [Figure(name, each.value, each.error, how) for name, each in told.items()]


def of_samples(
    experiment: Experiment, samples: Tensor, *, steps: int | None = None, seed: int | None = None
) -> list[Figure]:
    """Measures generated images against real ones.

    Args:
        experiment: With what was learned.
        samples: Generated images, ``(n, C, H, W)``.
        steps: Of the chains that made them; the recipe's when left out.
        seed: Of the choice of images.
    """
    train, held_out = experiment.source, experiment.held_out
    assert isinstance(train, Images)
    assert isinstance(held_out, Images)
    how = made(experiment, len(samples), steps)
    figures: list[Figure] = []
    if train.labels is not None:
        judge = classifier_for(train) if len(train) >= MIN_CLASSIFIER_IMAGES else _judge(experiment, train, seed)
        figures += _of_classes(judge, samples, held_out.floats(), how)
        if isinstance(judge, Classifier):
            figures += of_features(experiment, samples, judge, steps=steps, seed=seed)
            figures += [] if experiment.has_chains else class_figures(experiment, samples, judge)
    images = draw_data(train, min(len(train), 6_000), generator=seeded(experiment, seed, "measure", device="cpu"))
    real_images = held_out.floats(slice(0, 1_000))
    ratio = float(nearest(samples, images).median() / nearest(real_images, images).median())
    figures.append(
        Figure(
            "distance to training", ratio, None, "median nearest-neighbour distance over held-out images'; 0: copies"
        )
    )
    clean = real_images[: len(samples)]
    return figures + ([_energies_alike(experiment, samples, clean, how, seed)] if experiment.has_chains else [])


def _energies_alike(experiment: Experiment, samples: Tensor, clean: Tensor, how: str, seed: int | None) -> Figure:
    """Measures whether samples have the energies of held-out images."""
    device = experiment.training.torch_device
    level, stream = experiment.level, seeded(experiment, seed, "auc", device="cpu")
    energy, confined = experiment.energy, experiment.objective.confined
    # The energy is that of noised data: samples that were denoised at the end are noised again.
    again = level if experiment.chains.tweedie else 0.0
    with torch.no_grad():
        e_model = energy(confined(noised(samples, again, generator=stream)[0]).to(device)).cpu()
        e_data = energy(confined(noised(clean, level, generator=stream)[0]).to(device)).cpu()
    return Figure("AUC of energies", auc(e_model, e_data), None, f"samples above held-out images; 0.5: alike; {how}")


def made(experiment: Experiment, n: int, steps: int | None) -> str:
    """Returns how samples were made, in words.

    Args:
        experiment: That made them.
        n: How many.
        steps: The recipe's when left out.
    """
    weights = "averaged weights" if experiment.average is not None else "last weights"
    tweedie = experiment.has_chains and experiment.chains.tweedie
    denoised = ", denoised at the end" if tweedie and experiment.level > 0 else ""
    return f"{n:,} samples from noise, {steps or experiment.sampling.steps} steps, {weights}{denoised}"


def _judge(experiment: Experiment, train: Images, seed: int | None) -> Judge:
    assert train.labels is not None
    some = torch.randperm(len(train), generator=seeded(experiment, seed, "judge", device="cpu"))[:6_000]
    return Judge(train.floats(some), train.labels[some])


def _of_classes(judge: Judge | Classifier, samples: Tensor, real: Tensor, how: str) -> list[Figure]:
    """Measures whether samples are recognised, and as how many classes."""
    threshold, by = (0.9, "a network") if isinstance(judge, Classifier) else (0.8, "an SVC")
    seen, known = recognise(judge, samples, threshold), recognise(judge, real, threshold)
    shares = seen.shares.double()
    entropy = float(-(shares * shares.clamp(min=1e-12).log()).sum()) / math.log(len(shares))
    sure = f"share with class probability ≥ {threshold:g} by {by} that knows the training images; {how}"
    rarest, equal = int(shares.argmin()), 1 / len(shares)
    return [
        Figure("recognised", seen.sure, seen.sure_error, sure),
        Figure("recognised, real", known.sure, known.sure_error, "the same of held-out images"),
        Figure(
            "rarest class",
            float(shares[rarest]),
            float(seen.share_errors[rarest]),
            f"class {rarest}'s share of the recognised; equal: {equal:.3g}",
        ),
        Figure("class entropy", entropy, None, "of the recognised samples' classes, over that of equal shares"),
    ]


def of_features(
    experiment: Experiment,
    samples: Tensor,
    network: Classifier | Inception,
    *,
    steps: int | None = None,
    seed: int | None = None,
) -> list[Figure]:
    """Measures samples against held-out images on the features of a network, and training images the same way.

    Args:
        experiment: With what was learned.
        samples: Generated images, ``(n, C, H, W)``.
        network: That gives the features.
        steps: Of the chains that made the samples; the recipe's when left out.
        seed: Of the choice of images.
    """
    held_out = experiment.held_out
    assert isinstance(held_out, Images)
    n = min(len(samples), len(held_out))
    train = draw_data(experiment.source, n, generator=seeded(experiment, seed, "floor", device="cpu"))
    real = draw_data(held_out, n, generator=seeded(experiment, seed, "held out", device="cpu"))
    x, floor, y = (network.features(each.to(real)) for each in (samples[:n], train, real))
    whose, mark = ("Inception's of 2015", ", Inception") if isinstance(network, Inception) else ("a classifier's", "")
    how = f"{x.shape[1]:,} features, {whose}; {n:,} held-out images and {made(experiment, n, steps)}"
    same = "the same of training images: the floor at this size"
    figures = []
    for name, apart, least in (
        ("Fréchet distance", frechet_distance(x, y), frechet_distance(floor, y)),
        ("kernel distance", kernel_distance(x, y), kernel_distance(floor, y)),
    ):
        figures += [
            Figure(f"{name}{mark}", apart.value, apart.error, how),
            Figure(f"{name}{mark}, real", least.value, least.error, same),
        ]
    return figures


def of_outliers(told: OODResult) -> list[Figure]:
    """Returns how well the energy and trivial scores tell outliers, and how alike energies are where they should be.

    Args:
        told: By energies and scores.
    """
    figures = []
    for name, scores in told.detections.items():
        for each, found in scores.items():
            how = f"AUPR {found.aupr:.3f}, FPR95 {found.fpr95:.3f}; {found.outside:,} against {told.protocol}"
            figures.append(Figure(f"AUROC {name}, {each}", found.auroc, found.error, how))
    for name in told.energies:
        if name in told.detections or name == "held-out":
            continue
        common = overlap(told.energies[name], told.energies["held-out"])
        figures.append(Figure(f"energy overlap, {name}", common, None, "with held-out images; 1: alike"))
    return figures


def acceptance_probe(experiment: Experiment, *, seed: int | None = None) -> Figure:
    """Measures how often MALA accepts at the sampler's step size: how honest unadjusted chains are.

    Args:
        experiment: With what was learned.
        seed: Of the chains.
    """
    kernel = experiment.chains.kernel(experiment.energy)
    x = draw_data(experiment.source, 256, generator=seeded(experiment, seed, "probe", device="cpu"))
    x, _ = noised(x, experiment.level, generator=seeded(experiment, seed, "probe noise", device="cpu"))
    step_size = _eta(experiment.recipe.tables["sampler"]["kernel"])
    rate = acceptance(
        experiment.energy,
        experiment.objective.confined(x).to(experiment.training.torch_device),
        step_size=step_size,
        bounds=kernel.bounds,
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
