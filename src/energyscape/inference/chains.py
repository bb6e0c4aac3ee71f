"""Samples by Markov chains on a trained energy."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Generator, Tensor

from energyscape.calculus import EnergyFn
from energyscape.errors import check_count, refused
from energyscape.evaluation import calibrated_denoiser, inpaint, restore
from energyscape.inference.sampler import BATCH, Generated, Sampler, StartName
from energyscape.inference.trained import Trained
from energyscape.noise import tweedie
from energyscape.objectives import ChainInit, DataInit, NoiseInit
from energyscape.objectives.base import unconfined
from energyscape.samplers import DescentFactory, Kernel, KernelFactory, Steps
from energyscape.samplers.base import zero_energy
from energyscape.training.precision import Precision, autocast


@final
@dataclass(frozen=True, kw_only=True)
class Chains(Sampler):
    """The ``[sampler]`` section: how to generate from the trained model.

    Args:
        kernel: The transition.
        start: Start of the chains.
        steps: Transitions of each chain.
        descent: Kernel that takes chains from noise down the levels of a model that has learned many; none lets the
            kernel find its way at the lowest.
        tweedie: End with one denoising step, where the model has learned noised data. For images it is fitted on some
            training images.
        precision: Precision of the network's products and convolutions in chains that generate, as in training; the
            energies of bfloat16 are too rough for a Metropolis test.
        compile: Whether to compile the steps of chains that generate, which takes half a minute the first time; those
            that come down noise levels go on uncompiled, and say so.
    """

    kernel: KernelFactory
    start: ChainInit
    steps: int = 200
    descent: DescentFactory | None = None
    tweedie: bool = False
    precision: Precision = "float32"
    compile: bool = False

    not_finite = "proposals were not finite and were rejected"

    def __post_init__(self) -> None:
        check_count(steps=self.steps, most=1_000_000)
        self.kernel(zero_energy)  # refuse wrong settings before training
        if self.descent is not None:
            self.descend(zero_energy)

    def descend(self, energy: EnergyFn, steps: int | None = None) -> Kernel[Any]:
        """Return the transition that comes down the noise levels in so many steps, the recipe's by default."""
        assert self.descent is not None
        with refused("[sampler]: descent"):
            return self.descent(energy, steps=self.steps if steps is None else steps)

    @property
    def confined(self) -> Callable[[Tensor], Tensor]:
        kernel = self.kernel(zero_energy)
        return kernel.confined if kernel.bounds else unconfined

    def check(self, trained: Trained) -> None:
        if self.descent is not None:
            self.descend(trained.require_energy())

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
        generator = trained.stream(f"generate {start}", seed=seed)
        starts = self._starts(trained, start, n, generator=generator, seed=seed)
        kernel, full, last_step = self._transition(trained, start, steps), min(n, BATCH), self._last_step(trained)
        compiled, plain = (Steps(kernel, steps=steps, compile=each) for each in (self.compile, False))
        at = sorted({0, *(round(steps ** (k / max(frames - 2, 1))) for k in range(frames - 1)), steps})
        for number, x in enumerate(starts):
            shown = shown if number == 0 else 0
            path, diverged = [x[:shown]], torch.zeros((), dtype=torch.int64, device=x.device)
            taken = compiled if len(x) == full else plain  # a remainder does not repay a graph of its own
            with autocast(self.precision, x.device):
                for step, (state, info) in enumerate(taken(kernel.init(x), generator=generator), 1):
                    diverged += info.diverged.sum()
                    if shown and step in at and step < steps:
                        path.append(state.x[:shown])
            path += [last_step(state.x[:shown])] if shown else []
            yield Generated(last_step(state.x).cpu(), torch.stack(path).cpu(), at, int(diverged))

    def _transition(self, trained: Trained, start: StartName, steps: int) -> Kernel[Any]:
        """Return the transition; chains that begin at the lowest noise level have none to descend."""
        energy = trained.require_energy()
        if self.descent is not None and start == "noise":
            return self.descend(energy, steps)
        return self.kernel(energy)

    def _last_step(self, trained: Trained) -> Callable[[Tensor], Tensor]:
        """Return the map that removes the noise learned along with the data, and keeps images on their scale."""
        if not (self.tweedie and trained.level > 0):
            return trained.space.clamp
        energy, level = trained.require_energy(), trained.level
        if not trained.space.is_image:
            return lambda x: tweedie(energy, x, level, temperature=trained.temperature)
        noise, confined = trained.stream("noise of the last step"), trained.objective.confined
        images = trained.reference().to(trained.device)
        return calibrated_denoiser(energy, images, level=level, confined=confined, generator=noise)

    def _starts(
        self, trained: Trained, start: StartName, n: int, *, generator: Generator, seed: int | None
    ) -> Iterator[Tensor]:
        """Yield the points that chains start at, batch by batch."""
        sizes = [min(BATCH, n - first) for first in range(0, n, BATCH)]
        if start == "data" or (start == "noise" and isinstance(self.start, DataInit)):
            drawing = trained.data().drawing(sizes, generator=trained.stream("data", seed=seed, device="cpu"))
            yield from (x.to(trained.device) for x in drawing)
        elif start == "noise":
            like = torch.zeros(1, *trained.space.shape, device=trained.device)
            for many in sizes:
                yield self.start.draw(many, like=like, generator=generator)[0]
        else:
            yield from trained.chains_in_buffer(n, seed=seed).split(BATCH)

    def restore(self, trained: Trained, y: Tensor, *, sigma: float, steps: int, seed: int | None) -> Tensor:
        energy = trained.require_energy()
        return restore(
            energy,
            y.to(trained.device),
            sigma=sigma,
            level=trained.level,
            temperature=trained.temperature,
            steps=steps,
            burn_in=steps // 4,
            bounds=self.kernel(energy).bounds,
            generator=trained.stream("restore", seed=seed),
        ).cpu()

    def inpaint(self, trained: Trained, y: Tensor, missing: Tensor, *, steps: int, generator: Generator) -> Tensor:
        start, _ = NoiseInit().draw(len(y), like=y, generator=generator)
        return inpaint(
            trained.require_energy(),
            y,
            missing,
            level=trained.level,
            temperature=self.kernel(zero_energy).temperature or trained.temperature,  # of the sampler's distribution
            steps=steps,
            kernel=self.kernel,
            start=start,
            generator=generator,
        ).cpu()

    def describe(self, trained: Trained, n: int, steps: int | None = None) -> str:
        denoised = ", denoised at the end" if self.tweedie and trained.level > 0 else ""
        weights = "averaged weights" if trained.averaged else "last weights"
        return f"{n:,} samples from noise, {steps or self.steps} steps, {weights}{denoised}"
