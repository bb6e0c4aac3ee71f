"""Samples of a denoiser: down the noise levels, from noise to data."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Generator, Tensor

from energyscape.calculus import DenoiseFn
from energyscape.errors import UserError, check_count, refused
from energyscape.inference.sampler import BATCH, Generated, Sampler, StartName
from energyscape.inference.trained import Trained
from energyscape.models import Conditional, Guided
from energyscape.noise import normal_like
from energyscape.samplers import Heun, Solver, SolverFactory, repaint, solve
from energyscape.schedules import Grid
from energyscape.training.precision import Precision, autocast

RESAMPLINGS = 5
"""Passes of inpainting through each noise level."""


@final
@dataclass(frozen=True, kw_only=True)
class Descent(Sampler):
    """The ``[sampler]`` section of a denoiser: how to come down the noise levels, from noise to data.

    Args:
        solver: The step from one level to the next.
        grid: The levels.
        steps: Steps of the solver; some evaluate the denoiser more than once in each.
        guidance: Distance beyond the conditional denoiser, away from the unconditional one, at which samples of a class
            are taken. 1 is the conditional denoiser as it is, none the same at half the cost.
        guided_from: Noise level above which there is no guidance, in units of ``x``; none guides all levels.
        precision: Precision of the network's products and convolutions in sampling, as in training; likelihoods are
            always in float32.
    """

    solver: SolverFactory
    grid: Grid
    steps: int = 18
    guidance: float | None = None
    guided_from: float | None = None
    precision: Precision = "float32"

    not_finite = "samples are not finite"

    def __post_init__(self) -> None:
        check_count(steps=self.steps, most=100_000)
        for name, value in (("guidance", self.guidance), ("guided_from", self.guided_from)):
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} is at least 0; it was {value}")
        self.descend(_nothing)  # refuse wrong settings before training

    def levels(self, steps: int | None = None) -> list[float]:
        """Return the noise levels, falling, the last one 0."""
        return self.grid(self.steps if steps is None else steps)

    @property
    def lowest_level(self) -> float:
        return self.levels()[-2]

    def evaluations(self, steps: int | None = None) -> int:
        """Return the number of denoiser evaluations for a sample."""
        return self.descend(_nothing, steps).nfe

    def descend(self, denoise: DenoiseFn, steps: int | None = None) -> Solver:
        """Return the solver of so many steps, the recipe's by default."""
        with refused(f"[sampler]: {self.steps if steps is None else steps} steps"):
            return self.solver(denoise=denoise, sigmas=self.levels(steps))

    def draw(
        self,
        trained: Trained,
        n: int,
        *,
        start: StartName,
        steps: int,
        labels: Tensor | None,
        shown: int,
        frames: int,
        seed: int | None,
    ) -> Iterator[Generated]:
        if start != "noise":
            raise UserError(f"a solver begins at noise, not at {start}: leave --start out")
        generator = trained.stream("solve", seed=seed)
        shape = trained.space.shape
        like = torch.zeros(1, *shape, device=trained.device)
        at = sorted({round(k * steps / max(frames - 1, 1)) for k in range(frames)} | {0, steps})
        for first in range(0, n, BATCH):
            part = None if labels is None else labels[first : first + BATCH]
            solver = self.descend(self.denoise_fn(trained, part), steps)
            x = solver.sigmas[0] * normal_like(like.expand(min(BATCH, n - first), *shape), generator=generator)
            shown = shown if first == 0 else 0
            path = [x[:shown] / solver.sigmas[0]]
            with torch.no_grad():
                for step, state in enumerate(solve(solver, x, generator=generator), 1):
                    if shown and step in at:
                        path.append(trained.space.clamp(state.x[:shown]) if step == steps else state.x[:shown])
            diverged = int((~state.x.isfinite()).flatten(1).any(1).sum())
            yield Generated(trained.space.clamp(state.x).cpu(), torch.stack(path).cpu(), at, diverged)

    def denoise_fn(self, trained: Trained, labels: Tensor | None) -> DenoiseFn:
        """Return the denoiser as a function of points and noise levels, with classes and guidance closed over."""
        denoiser = trained.require_denoiser()
        if labels is not None:
            if self.guidance is not None:
                highest = math.inf if self.guided_from is None else self.guided_from
                denoiser = Guided(denoiser, weight=self.guidance, interval=(0.0, highest))
            denoiser = Conditional(denoiser, labels)
        if self.precision == "float32":
            return denoiser

        def denoise(y: Tensor, sigma: Tensor) -> Tensor:
            with autocast(self.precision, y.device):
                return denoiser(y, sigma)

        return denoise

    def restore(self, trained: Trained, y: Tensor, *, sigma: float, steps: int, seed: int | None) -> Tensor:
        denoiser = trained.require_denoiser()
        with torch.no_grad():
            parts = [part.to(trained.device) for part in y.split(BATCH)]
            return torch.cat([denoiser(part, part.new_full((len(part),), sigma)).cpu() for part in parts])

    def inpaint(self, trained: Trained, y: Tensor, missing: Tensor, *, steps: int, generator: Generator) -> Tensor:
        parts = []
        for part, gaps in zip(y.split(BATCH), missing.split(BATCH), strict=True):
            solver = self.descend(self.denoise_fn(trained, None), steps)
            if solver.multistep:
                solver = Heun(solver.denoise, solver.sigmas)
            with torch.no_grad():
                *_, last = repaint(solver, part, gaps, resamplings=RESAMPLINGS, generator=generator)
            parts.append(last.x.cpu())
        return torch.cat(parts)

    def describe(self, trained: Trained, n: int, steps: int | None = None) -> str:
        weights = "averaged weights" if trained.averaged else "last weights"
        return f"{n:,} samples from noise, {steps or self.steps} steps, {weights}"


def _nothing(x: Tensor, _: Tensor) -> Tensor:
    return x * 0
