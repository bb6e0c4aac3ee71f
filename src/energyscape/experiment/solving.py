"""Samples of a denoiser: down the noise levels, from noise to data."""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from energyscape.calculus import DenoiseFn
from energyscape.errors import UserError
from energyscape.experiment.assembly import Experiment, seeded
from energyscape.experiment.precision import autocast
from energyscape.models import Conditional, Guided
from energyscape.noise import normal_like
from energyscape.samplers import DPMSolver, DPMSolverSDE, Heun, repaint, solve

BATCH = 500
"""Chains at a time."""

RESAMPLINGS = 5
"""How often inpainting goes through each noise level."""


class Generated(NamedTuple):
    """Samples of a trained model: all that were asked for, or one batch of them.

    Args:
        x: The samples, ``(n, *)``.
        path: Where the first chains were after each of ``at`` steps, ``(K, shown, *)``; of later batches ``(1, 0, *)``.
        at: Those steps; the first is 0, where the chains begin.
        diverged: Proposals of chains, or samples of a solver, that were not finite.
    """

    x: Tensor
    path: Tensor
    at: list[int]
    diverged: int


def joined(batches: Iterable[Generated]) -> Generated:
    """Return batches of samples as one."""
    first, *rest = batches
    diverged = sum(each.diverged for each in (first, *rest))
    return first._replace(x=torch.cat([first.x, *(each.x for each in rest)]), diverged=diverged)


def solving(
    experiment: Experiment,
    n: int,
    *,
    steps: int,
    label: int | Tensor | None = None,
    shown: int = 8,
    frames: int = 9,
    seed: int | None = None,
) -> Iterator[Generated]:
    """Draw samples with the recipe's solver; yield them batch by batch."""
    sampling, generator = experiment.solving, seeded(experiment, seed, "solve")
    labels = class_of_each(experiment, n, label)
    like = torch.zeros(1, *experiment.shape, device=experiment.training.torch_device)
    at = sorted({round(k * steps / max(frames - 1, 1)) for k in range(frames)} | {0, steps})
    for first in range(0, n, BATCH):
        part = None if labels is None else labels[first : first + BATCH]
        solver = sampling.descend(denoising(experiment, part), steps)
        x = solver.sigmas[0] * normal_like(like.expand(min(BATCH, n - first), *experiment.shape), generator=generator)
        shown = shown if first == 0 else 0
        path = [x[:shown] / solver.sigmas[0]]
        with torch.no_grad():
            for step, state in enumerate(solve(solver, x, generator=generator), 1):
                if shown and step in at:
                    path.append(_framed(experiment, state.x[:shown], last=step == steps))
        diverged = int((~state.x.isfinite()).flatten(1).any(1).sum())
        yield Generated(_framed(experiment, state.x, last=True).cpu(), torch.stack(path).cpu(), at, diverged)


def denoising(experiment: Experiment, labels: Tensor | None) -> DenoiseFn:
    """Return the denoiser as samplers see it: of points and noise levels alone, classes and guidance closed over."""
    denoiser, sampling = experiment.denoiser, experiment.solving
    if labels is not None:
        if sampling.guidance is not None:
            highest = math.inf if sampling.guided_from is None else sampling.guided_from
            denoiser = Guided(denoiser, weight=sampling.guidance, interval=(0.0, highest))
        denoiser = Conditional(denoiser, labels)
    if sampling.precision == "float32":
        return denoiser

    def denoise(y: Tensor, sigma: Tensor) -> Tensor:
        with autocast(sampling.precision, y.device):
            return denoiser(y, sigma)

    return denoise


def denoised(experiment: Experiment, y: Tensor, *, sigma: float, label: Tensor | None = None) -> Tensor:
    r"""Return the posterior mean :math:`D(y, \sigma)` of clean points; images are kept on their scale."""
    device = experiment.training.torch_device
    parts = []
    with torch.no_grad():
        for first in range(0, len(y), BATCH):
            part = y[first : first + BATCH].to(device)
            labels = None if label is None else label[first : first + BATCH].to(device)
            x = experiment.denoiser(part, torch.full((len(part),), sigma, dtype=part.dtype, device=device), labels)
            parts.append(_framed(experiment, x, last=True).cpu())
    return torch.cat(parts)


def repainted(experiment: Experiment, y: Tensor, missing: Tensor, *, steps: int, generator: torch.Generator) -> Tensor:
    """Return completions of points with missing coordinates; images are kept on their scale."""
    sampling, device = experiment.solving, experiment.training.torch_device
    parts = []
    for first in range(0, len(y), BATCH):
        part, gaps = (each[first : first + BATCH].to(device) for each in (y, missing.broadcast_to(y.shape)))
        solver = sampling.descend(denoising(experiment, None), steps)
        if isinstance(solver, DPMSolver | DPMSolverSDE):
            solver = Heun(solver.denoise, solver.sigmas)
        with torch.no_grad():
            *_, last = repaint(solver, part, gaps, resamplings=RESAMPLINGS, generator=generator)
        parts.append(_framed(experiment, last.x, last=True).cpu())
    return torch.cat(parts)


def class_of_each(experiment: Experiment, n: int, label: int | Tensor | None) -> Tensor | None:
    """Return the class of each of some samples, ``(n,)``, or none where the denoiser knows no classes."""
    classes = known_classes(experiment)
    if not classes:
        if label is not None:
            raise UserError("this run's denoiser knows no classes: leave --label out")
        return None
    device = experiment.training.torch_device
    if label is None:
        return torch.arange(n, device=device) % classes
    labels = torch.as_tensor(label, device=device).expand(n)
    if not bool(((labels >= 0) & (labels < classes)).all()):
        raise UserError(f"classes are 0 to {classes - 1}; {label} was asked for")
    return labels


def known_classes(experiment: Experiment) -> int:
    """Return how many classes the denoiser was trained to tell apart; 0 where it knows none."""
    return experiment.denoiser.classes if experiment.objective.conditional else 0


def _framed(experiment: Experiment, x: Tensor, *, last: bool) -> Tensor:
    """Keep finished images on their scale; points on their way are as they are."""
    return x.clamp(-1, 1) if last and len(experiment.shape) == 3 else x
