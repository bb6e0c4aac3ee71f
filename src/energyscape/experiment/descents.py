"""What a denoiser is worth beyond its samples: likelihood, classes as asked for, quality for its cost."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from energyscape.data import Distribution, Images
from energyscape.evaluation import Classifier, ProbabilityFlow, frechet_distance, image_likelihood
from energyscape.experiment.assembly import Experiment, seeded
from energyscape.experiment.figure import Figure
from energyscape.experiment.generation import draw_data, generate
from energyscape.experiment.solving import class_of_each, known_classes
from energyscape.noise import noised
from energyscape.schedules import geometric

LOWEST = 0.002
"""Noise at which likelihoods end, on the data's scale: a quarter of the distance between two grey levels."""

JUDGED = 64
"""Images whose likelihood is measured."""


def likelihood_figures(experiment: Experiment, *, seed: int | None = None) -> list[Figure]:
    """Measure the likelihood of data that training did not see, by the probability-flow ODE."""
    if isinstance(experiment.source, Distribution):
        return _of_law(experiment, experiment.source, seed)
    held_out = experiment.held_out
    assert isinstance(held_out, Images)
    x = draw_data(held_out, JUDGED, generator=seeded(experiment, seed, "likelihood", device="cpu"))
    told = image_likelihood(
        flow_of(experiment, x, steps=24),
        x.to(experiment.training.torch_device),
        levels=held_out.white + 1,
        probes=1,
        generator=seeded(experiment, seed, "probes"),
    )
    return [Figure("bits/dim", told.bits, told.bits_error, f"{JUDGED} held-out images, no class told; {told.protocol}")]


def _of_law(experiment: Experiment, law: Distribution, seed: int | None) -> list[Figure]:
    x = law.sample(2_000, generator=seeded(experiment, seed, "likelihood", device="cpu"))
    flow = flow_of(experiment, x, steps=48).log_prob(x.to(experiment.training.torch_device)).cpu()
    # Against the law's own log-density of the same points: what the choice of points adds to both drops out.
    told = {"KL(data‖model), nats": law.log_prob(x).double() - flow, "log-likelihood, nats": flow}
    how = f"{len(x):,} draws of the law, densities by the probability-flow ODE"
    return [Figure(name, float(each.mean()), float(each.std() / math.sqrt(len(x))), how) for name, each in told.items()]


def flow_of(experiment: Experiment, x: Tensor, *, steps: int) -> ProbabilityFlow:
    """Return the law that a run's denoiser makes of noise."""
    sampling = experiment.solving
    size = float(x.square().mean().sqrt())
    levels = sampling.levels()
    lowest = min(LOWEST, levels[-2]) if len(experiment.shape) == 3 else levels[-2]
    return ProbabilityFlow(experiment.denoiser, sigma_min=lowest, sigma_max=levels[0], data_std=size, steps=steps)


def class_figures(experiment: Experiment, samples: Tensor, judge: Classifier) -> list[Figure]:
    """Measure whether samples are of the classes that were asked for, and as diverse within them as held-out images."""
    held_out = experiment.held_out
    assert isinstance(held_out, Images)
    if not known_classes(experiment) or held_out.labels is None:
        return []
    asked = class_of_each(experiment, len(samples), None)
    assert asked is not None
    right = (judge.probabilities(samples)[:, : known_classes(experiment)].argmax(1).cpu() == asked.cpu()).double()
    n = len(right)
    error = float((right.mean() * (1 - right.mean()) / n).sqrt())
    x, real, classes = judge.features(samples).double(), judge.features(held_out.floats()).double(), asked.cpu()
    spreads = torch.stack(
        [_spread(x[classes == k]) / _spread(real[held_out.labels == k]) for k in classes.unique().tolist()]
    )
    return [
        Figure("class as asked", float(right.mean()), error, f"{n:,} samples, each class in turn, by a network"),
        Figure(
            "diversity within a class",
            float(spreads.mean()),
            float(spreads.std() / math.sqrt(len(spreads))),
            f"mean distance of two samples over that of two held-out images, on {x.shape[1]} features; "
            f"smallest {float(spreads.min()):.3g}",
        ),
    ]


def _spread(x: Tensor) -> Tensor:
    """Return the mean distance between two of some points."""
    return torch.pdist(x[:500]).mean()


class Cost(NamedTuple):
    """What a number of evaluations of the denoiser buys.

    Args:
        solver: Its name.
        nfe: Evaluations a sample.
        distance: Fréchet distance of the samples to held-out images.
    """

    solver: str
    nfe: int
    distance: float


def costs(
    experiment: Experiment,
    judge: Classifier,
    *,
    solvers: tuple[str, ...] = ("euler", "heun", "dpm++"),
    evaluations: tuple[int, ...] = (10, 20, 36),
    n: int = 250,
    seed: int | None = None,
) -> list[Cost]:
    """Measure quality against the number of evaluations, for several solvers from the same noise."""
    held_out = experiment.held_out
    assert isinstance(held_out, Images)
    real, found = judge.features(held_out.floats()), []
    for name in solvers:
        changed = experiment.with_sampler({"sampler.solver.name": name})
        sampling = changed.solving
        for most in evaluations:
            steps = max((k for k in range(1, most + 1) if sampling.evaluations(k) <= most), default=1)
            x = generate(changed, n, steps=steps, shown=1, frames=2, seed=seed).x
            distance = frechet_distance(judge.features(x), real).value
            found.append(Cost(name, sampling.evaluations(steps), distance))
    return found


class Levelled(NamedTuple):
    r"""How well a denoiser does at some noise levels, on data that training did not see.

    Args:
        sigma: The levels, rising.
        error: :math:`E \|D - x\|^2 / d \sigma^2`, the share of the noise's variance that is left.
        norm: :math:`E \|y - D\|^2 / d \sigma^2`, the squared norm of :math:`\sigma` times the score.
    """

    sigma: list[float]
    error: list[float]
    norm: list[float]

    @property
    def imbalance(self) -> list[float]:
        r"""How far the score's squared norm is from what the error makes of it.

        The posterior mean is orthogonal to its error, so that ``norm`` is ``1 - error`` for the right one, and for no
        other: less is a score that is too small.
        """
        return [norm - (1 - error) for norm, error in zip(self.norm, self.error, strict=True)]


def by_level(experiment: Experiment, *, many: int = 16, n: int = 256, seed: int | None = None) -> Levelled:
    """Measure a denoiser at the levels that its solver goes down."""
    sampling, device = experiment.solving, experiment.training.torch_device
    high, *_, low, _ = sampling.levels()
    sigmas = geometric(low, high, many - 1)
    clean = draw_data(experiment.held_out, n, generator=seeded(experiment, seed, "clean", device="cpu")).to(device)
    generator = seeded(experiment, seed, "noise by level")
    error, norm = [], []
    with torch.no_grad():
        for sigma in sigmas:
            y, _ = noised(clean, sigma, generator=generator)
            d = experiment.denoiser(y, y.new_full((n,), sigma))
            error.append(float((d - clean).square().mean()) / sigma**2)
            norm.append(float((y - d).square().mean()) / sigma**2)
    return Levelled(sigmas, error, norm)
