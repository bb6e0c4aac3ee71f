"""A trained model, ready for use: samples, restorations, completions."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Generator, Tensor

from energyscape.data import Dataset, Space
from energyscape.errors import UserError
from energyscape.inference.sampler import Generated, Sampler, StartName, joined
from energyscape.memory import require_memory
from energyscape.models import Denoiser, Energy, EnergyDenoiser
from energyscape.objectives import Objective
from energyscape.objectives.chain_init import persistent_chains
from energyscape.rng import generator_for


@final
@dataclass(frozen=True)
class Trained:
    """A trained model with its sampler.

    Args:
        model: With averaged weights if the run kept an average.
        objective: The objective that trained it: temperature, noise level, box and chains.
        sampler: Draws from it.
        space: Shape and scale of one point.
        data: Returns the training data, which chains may start at.
        reference: Returns some training data, which the last denoising step of images is fitted on.
        seed: Default seed of every random stream.
        device: Device of the model.
        averaged: Whether the weights are averages.
    """

    model: Energy | Denoiser
    objective: Objective
    sampler: Sampler
    space: Space
    data: Callable[[], Dataset]
    reference: Callable[[], Tensor]
    seed: int
    device: torch.device
    averaged: bool = False

    @property
    def temperature(self) -> float:
        """Temperature of the distribution that the model learned."""
        return self.objective.temperature

    @property
    def level(self) -> float:
        """Noise level at which the model is nearest to the data; 0 if it learned data without noise."""
        return self.objective.level or self.sampler.lowest_level

    @cached_property
    def energy(self) -> Energy | None:
        """The energy at the lowest noise level, or None if the model is a denoiser without energy."""
        if isinstance(self.model, EnergyDenoiser):
            return self.model.at(self.level)
        return self.model if isinstance(self.model, Energy) else None

    @property
    def denoiser(self) -> Denoiser | None:
        """The denoiser, or None if the model is an energy at one noise level."""
        return self.model if isinstance(self.model, Denoiser) else None

    def require_energy(self) -> Energy:
        """Return the energy; refuse a model without one."""
        if self.energy is None:
            raise UserError(
                f"this run's model is a denoiser ({type(self.model).__name__}), which has no energy: train one with "
                "--model.name energy-denoiser for energies and likelihoods"
            )
        return self.energy

    def require_denoiser(self) -> Denoiser:
        """Return the denoiser; refuse a model that is none."""
        if self.denoiser is None:
            raise UserError(
                f"this run's model is an energy ({type(self.model).__name__}) at one noise level, and no denoiser"
            )
        return self.denoiser

    @property
    def classes(self) -> int:
        """Number of classes that the denoiser was trained to tell apart; 0 for an unconditional model."""
        return self.denoiser.classes if self.denoiser is not None and self.objective.conditional else 0

    def stream(self, role: str, *, seed: int | None = None, device: torch.device | str | None = None) -> Generator:
        """Return the random stream of a role, on the model's device unless another is given."""
        return generator_for(self.seed if seed is None else seed, role, device=device or self.device)

    def class_of_each(self, n: int, label: int | Tensor | None) -> Tensor | None:
        """Return the class of each of ``n`` samples, ``(n,)``, in turn without ``label``; None for no classes."""
        if not self.classes:
            if label is not None:
                raise UserError("this run's model knows no classes: leave --label out")
            return None
        if label is None:
            return torch.arange(n, device=self.device) % self.classes
        labels = torch.as_tensor(label, device=self.device).expand(n)
        if not bool(((labels >= 0) & (labels < self.classes)).all()):
            raise UserError(f"classes are 0 to {self.classes - 1}; {label} was asked for")
        return labels

    def chains_in_buffer(self, n: int, *, seed: int | None = None) -> Tensor:
        """Return some of the replay buffer's chains; refuse a run without a buffer, or with fewer chains."""
        buffer = persistent_chains(self.objective)
        if buffer is None:
            raise UserError("this run keeps no replay buffer: start from noise or data")
        if n > buffer.capacity:
            raise UserError(f"the replay buffer keeps {buffer.capacity} chains; {n} were asked for: lower --n")
        order = torch.randperm(buffer.capacity, generator=self.stream("slots", seed=seed, device="cpu"))
        return buffer.positions(order[:n].to(self.device), generator=self.stream("within bins", seed=seed))

    def sample(
        self,
        n: int,
        *,
        start: StartName = "noise",
        steps: int | None = None,
        label: int | Tensor | None = None,
        shown: int = 8,
        frames: int = 9,
        seed: int | None = None,
    ) -> Generated:
        """Draw samples; see `sampling`."""
        return joined(self.sampling(n, start=start, steps=steps, label=label, shown=shown, frames=frames, seed=seed))

    def sampling(
        self,
        n: int,
        *,
        start: StartName = "noise",
        steps: int | None = None,
        label: int | Tensor | None = None,
        shown: int = 8,
        frames: int = 9,
        seed: int | None = None,
    ) -> Iterator[Generated]:
        """Draw samples batch by batch, so that any number fits into memory.

        Args:
            n: Number of samples.
            start: Start of the chains: the sampler's noise, the training data, or the replay buffer.
            steps: Transitions; the sampler's by default.
            label: Class of all samples, or of each, ``(n,)``; for denoisers that know classes.
            shown: Number of chains whose path is kept.
            frames: Points of the path.
            seed: Seed of the chains; the run's by default.

        Raises:
            UserError: If ``n`` or ``steps`` is not positive, or the sampler cannot start there.
        """
        steps = self.sampler.steps if steps is None else steps
        if n < 1 or steps < 1:
            raise UserError(f"the numbers of samples and of steps are at least 1; they were {n} and {steps}")
        require_memory(16 * n * torch.Size(self.space.shape).numel(), f"{n:,} samples")
        labels = self.class_of_each(n, label)
        return self.sampler.draw(
            self, n, start=start, steps=steps, labels=labels, shown=shown, frames=frames, seed=seed
        )

    def restore(self, y: Tensor, *, sigma: float, steps: int = 300, seed: int | None = None) -> Tensor:
        r"""Return the posterior mean of clean points given noisy ones, :math:`\mathbb{E}[x_0 \mid x_0 + \sigma z = y]`.

        Args:
            y: Noisy points, ``(n, *)``.
            sigma: Standard deviation of their noise, in units of ``y``.
            steps: Steps of the posterior's chains, if the sampler runs chains.
            seed: Seed of the chains; the run's by default.

        Raises:
            UserError: If ``sigma`` or ``steps`` is not positive.
        """
        if not sigma > 0 or steps < 2:
            raise UserError(f"sigma is positive and steps at least 2; they were {sigma} and {steps}")
        return self.space.clamp(self.sampler.restore(self, y, sigma=sigma, steps=steps, seed=seed))

    def inpaint(
        self, y: Tensor, missing: Tensor, *, n: int = 8, steps: int | None = None, seed: int | None = None
    ) -> Tensor:
        """Return completions of points with missing elements, ``(n, B, *)``.

        Args:
            y: Points without noise, ``(B, *)``.
            missing: True where an element is missing; broadcasts to the shape of ``y``.
            n: Draws for each point.
            steps: Steps of each chain; the sampler's by default.
            seed: Seed of the chains; the run's by default.

        Raises:
            UserError: If ``n`` or ``steps`` is too small, or nothing is missing.
        """
        steps = self.sampler.steps if steps is None else steps
        if n < 1 or steps < 2:
            raise UserError(f"at least one draw and two steps; they were {n} and {steps}")
        if not missing.any():
            raise UserError("no pixel is missing: nothing is there to complete")
        require_memory(16 * n * y.numel(), f"{n:,} completions")
        copies = y.to(self.device).repeat(n, *[1] * (y.ndim - 1))
        gaps = missing.to(self.device).broadcast_to(y.shape).repeat(n, *[1] * (y.ndim - 1))
        x = self.sampler.inpaint(self, copies, gaps, steps=steps, generator=self.stream("inpaint", seed=seed))
        return self.space.clamp(x).reshape(n, *y.shape)
