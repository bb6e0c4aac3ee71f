"""Samplers of trained models: chains on an energy, or a descent of the noise levels."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import torch
from torch import Generator, Tensor

from energyscape.objectives.base import unconfined

if TYPE_CHECKING:
    from energyscape.inference.trained import Trained

StartName = Literal["noise", "data", "buffer"]

BATCH: Final = 500
"""Chains at a time."""


class Generated(NamedTuple):
    """Samples of a trained model, or one batch of them.

    Args:
        x: The samples, ``(n, *)``.
        path: Positions of the first chains after each of ``at`` steps, ``(K, shown, *)``; of later batches
            ``(1, 0, *)``.
        at: Those steps; the first is 0, where the chains begin.
        diverged: Number of proposals of chains, or of samples of a solver, that were not finite.
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


class Sampler(ABC):
    """Draw from a trained model: the ``[sampler]`` section of a recipe."""

    steps: int
    not_finite: str
    """End of the warning about steps that were not finite."""

    @property
    def lowest_level(self) -> float:
        """Lowest noise level at which samples are drawn; 0 if the model alone decides."""
        return 0.0

    @property
    def confined(self) -> Callable[[Tensor], Tensor]:
        """Brings points into the box that samples stay in."""
        return unconfined

    def check(self, trained: "Trained") -> None:
        """Refuse a model that the sampler cannot draw from."""

    @abstractmethod
    def draw(
        self,
        trained: "Trained",
        n: int,
        *,
        start: StartName,
        steps: int,
        labels: Tensor | None,
        shown: int,
        frames: int,
        seed: int | None,
    ) -> Iterator[Generated]:
        """Yield samples batch by batch."""

    @abstractmethod
    def restore(self, trained: "Trained", y: Tensor, *, sigma: float, steps: int, seed: int | None) -> Tensor:
        """Return the posterior mean of clean points given noisy ones, on the CPU."""

    @abstractmethod
    def inpaint(self, trained: "Trained", y: Tensor, missing: Tensor, *, steps: int, generator: Generator) -> Tensor:
        """Return completions of points with missing elements, on the CPU."""

    @abstractmethod
    def describe(self, trained: "Trained", n: int, steps: int | None = None) -> str:
        """Return the protocol of ``n`` samples in words."""
