"""Metrics of a denoiser beyond its samples: likelihood, conditional classes, quality by cost."""

from typing import Any, Final, NamedTuple, final

import torch
from torch import Tensor

from energyscape.evaluation import ProbabilityFlow, frechet_distance, image_likelihood
from energyscape.inference import Descent
from energyscape.metrics.evidence import Evidence, numbers
from energyscape.metrics.images import OfClassifier, classifier, everything
from energyscape.metrics.metric import Measure, Metric, mean_and_error
from energyscape.noise import noised
from energyscape.schedules import geometric

LOWEST: Final = 0.002
"""Noise at which likelihoods end, on the data's scale: a quarter of the distance between two grey levels."""

JUDGED: Final = 64
"""Images whose likelihood is measured."""

SOLVERS: Final = ("euler", "heun", "dpm++")
EVALUATIONS: Final = (10, 20, 36)
COST_SAMPLES: Final = 250
"""Solvers, evaluations and samples of the table of costs."""


@final
class Likelihood(Measure):
    """Likelihood of held-out data by the probability-flow ODE."""

    def applies(self, evidence: Evidence) -> bool:
        exact = evidence.source.density is not None and evidence.trained.energy is not None
        return evidence.descent is not None and not exact

    def measure(self, evidence: Evidence) -> list[Metric]:
        return self._of_images(evidence) if evidence.source.space.is_image else self._of_points(evidence)

    def _of_images(self, evidence: Evidence) -> list[Metric]:
        held_out, device = evidence.held_out, evidence.trained.device
        x = held_out.draw(JUDGED, generator=evidence.stream("likelihood"))
        found = image_likelihood(
            flow_of(evidence, x, steps=24),
            x.to(device),
            levels=held_out.grey_levels or 256,
            probes=1,
            generator=evidence.stream("probes", device=device),
        )
        protocol = f"{JUDGED} held-out images, unconditional; {found.protocol}"
        return [Metric("bits/dim", found.bits, found.bits_error, protocol, better="lower")]

    def _of_points(self, evidence: Evidence) -> list[Metric]:
        x = evidence.held_out.draw(2_000, generator=evidence.stream("likelihood"))
        flow = flow_of(evidence, x, steps=48).log_prob(x.to(evidence.trained.device)).cpu()
        protocol = f"{len(x):,} held-out points, densities by the probability-flow ODE"
        density, metrics = evidence.source.density, []
        if density is not None:
            # Against the true log-density of the same points: what the choice of points adds to both drops out.
            lost = density.log_prob(x).double() - flow
            metrics.append(Metric("KL(data‖model)", *mean_and_error(lost), protocol, unit="nats", better="lower"))
        return [*metrics, Metric("log-likelihood", *mean_and_error(flow), protocol, unit="nats", better="higher")]


def descent(evidence: Evidence) -> Descent:
    """Return the sampler, which comes down noise levels."""
    assert evidence.descent is not None
    return evidence.descent


def flow_of(evidence: Evidence, x: Tensor, *, steps: int) -> ProbabilityFlow:
    """Return the distribution that a run's denoiser makes of noise."""
    levels = descent(evidence).levels()
    lowest = min(LOWEST, levels[-2]) if evidence.source.space.is_image else levels[-2]
    return ProbabilityFlow(
        evidence.trained.require_denoiser(),
        sigma_min=lowest,
        sigma_max=levels[0],
        data_std=float(x.square().mean().sqrt()),
        steps=steps,
    )


@final
class Classes(OfClassifier):
    """Agreement of samples with their requested classes, and their diversity within these beside held-out images."""

    def applies(self, evidence: Evidence) -> bool:
        return super().applies(evidence) and evidence.trained.classes > 0 and evidence.held_out.labels is not None

    def measure(self, evidence: Evidence) -> list[Metric]:
        judge, held_out, samples = classifier(evidence), evidence.held_out, evidence.generated.x
        asked, labels = evidence.trained.class_of_each(len(samples), None), held_out.labels
        assert asked is not None
        assert labels is not None
        asked = asked.cpu()
        named = judge.probabilities(samples)[:, : evidence.trained.classes].argmax(1).cpu()
        right = (named == asked).double()
        n = len(right)
        error = float((right.mean() * (1 - right.mean()) / n).sqrt())
        x, real = (judge.features(each).double() for each in (samples, everything(held_out)))
        labels = labels[: len(real)].cpu()
        spreads = torch.stack([_spread(x[asked == k]) / _spread(real[labels == k]) for k in asked.unique().tolist()])
        mean, spread_error = mean_and_error(spreads)
        protocol = f"mean distance of two samples over that of two held-out images, on {x.shape[1]} features; "
        return [
            Metric(
                "class as asked",
                float(right.mean()),
                error,
                f"{n:,} samples, each class in turn, by a network",
                better="higher",
            ),
            Metric(
                "diversity within a class",
                mean,
                spread_error,
                f"{protocol}smallest {float(spreads.min()):.3g}",
                better="near 1",
            ),
        ]


def _spread(x: Tensor) -> Tensor:
    """Return the mean distance between two of some points."""
    return torch.pdist(x[:500]).mean()


class Cost(NamedTuple):
    """The quality of samples at a number of evaluations of the denoiser.

    Args:
        solver: Its name.
        nfe: Evaluations a sample.
        distance: Fréchet distance of the samples to held-out images.
    """

    solver: str
    nfe: int
    distance: float


def costs(evidence: Evidence) -> list[Cost]:
    """Measure quality against the number of evaluations, for several solvers from the same noise."""

    def draw() -> tuple[dict[str, Tensor], dict[str, Any]]:
        judge = classifier(evidence)
        real, found = judge.features(everything(evidence.held_out)), []
        for name in SOLVERS:
            trained = evidence.experiment.with_sampler({"sampler.solver.name": name}).trained
            sampler = trained.sampler
            assert isinstance(sampler, Descent)
            for most in EVALUATIONS:
                steps = max((k for k in range(1, most + 1) if sampler.evaluations(k) <= most), default=1)
                x = trained.sample(COST_SAMPLES, steps=steps, shown=1, frames=2, seed=evidence.seed).x
                distance = frechet_distance(judge.features(x), real).value
                found.append(Cost(name, sampler.evaluations(steps), distance))
        return {}, {"costs": found}

    _, facts = evidence.kept("costs", draw)
    return [Cost(name, nfe, *numbers([distance])) for name, nfe, distance in facts["costs"]]


class Levelled(NamedTuple):
    r"""The errors of a denoiser at some noise levels, on held-out data.

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
        """Difference of the score's squared norm from its value for the posterior mean.

        The posterior mean is orthogonal to its error, so ``norm`` is ``1 - error`` for it and for no other denoiser. A
        smaller norm is a score that is too small.
        """
        return [norm - (1 - error) for norm, error in zip(self.norm, self.error, strict=True)]


def by_level(evidence: Evidence, *, many: int = 16, n: int = 256) -> Levelled:
    """Measure a denoiser at the levels that its solver goes down."""
    trained, (high, *_, low, _) = evidence.trained, descent(evidence).levels()
    denoiser, sigmas = trained.require_denoiser(), geometric(low, high, many - 1)
    clean = evidence.held_out.draw(n, generator=evidence.stream("clean")).to(trained.device)
    generator = evidence.stream("noise by level", device=trained.device)
    error, norm = [], []
    with torch.no_grad():
        for sigma in sigmas:
            y, _ = noised(clean, sigma, generator=generator)
            d = denoiser(y, y.new_full((n,), sigma))
            error.append(float((d - clean).square().mean()) / sigma**2)
            norm.append(float((y - d).square().mean()) / sigma**2)
    return Levelled(sigmas, error, norm)
