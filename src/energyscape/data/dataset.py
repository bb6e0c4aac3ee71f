"""Datasets: points of one shape, with their labels, box and density if known."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import Generator, Tensor

from energyscape.calculus import Box
from energyscape.rng import generator_for

if TYPE_CHECKING:
    from energyscape.data.distributions.base import Distribution

PART: Final = 4_096
"""Rows that are scanned at a time, and draws of an endless dataset that stand for all of it."""


class Space(NamedTuple):
    """The shape and the scale of one point."""

    shape: tuple[int, ...]

    @property
    def is_image(self) -> bool:
        """Whether a point is an image."""
        return len(self.shape) == 3

    @property
    def limits(self) -> tuple[float, float] | None:
        """Lowest and highest value of an element, or None without limits: black and white of an image are -1 and 1."""
        return (-1.0, 1.0) if self.is_image else None

    def clamp(self, x: Tensor) -> Tensor:
        """Return points with every element within the limits."""
        return x if self.limits is None else x.clamp(*self.limits)


class Dataset(ABC):
    """Points that a model learns from.

    A dataset is endless (`size` is None) or has rows. Subclass `Rows` for data that are finite.
    """

    @property
    def name(self) -> str:
        """Name in records and reports."""
        return type(self).__name__

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one point."""

    @property
    def space(self) -> Space:
        """Shape and scale of one point."""
        return Space(self.shape)

    @property
    def size(self) -> int | None:
        """Number of rows; None if every draw is new."""
        return None

    @property
    def labels(self) -> Tensor | None:
        """Class of each row, int64 ``(N,)``, or None."""
        return None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes 0, 1, …; empty if unknown."""
        return ()

    @property
    def grey_levels(self) -> int | None:
        """Values that an element can take, or None if it is continuous."""
        return None

    @property
    def box(self) -> Box | None:
        """A rectangle that holds the data if they lie in the plane, or None."""
        return None

    @property
    def density(self) -> "Distribution | None":
        """The exact density of the data, or None if it is unknown."""
        return None

    @abstractmethod
    def drawing(self, sizes: Sequence[int], *, generator: Generator) -> Iterator[Tensor]:
        """Yield batches of points drawn at random, without replacement as long as rows are left."""

    def draw(self, n: int, *, generator: Generator) -> Tensor:
        """Return ``n`` points drawn at random, ``(n, *)``, without replacement as long as rows are left."""
        return next(self.drawing([n], generator=generator))

    def head(self, n: int) -> Tensor:
        """Return at most ``n`` points that are always the same: the first rows, or one draw."""
        return self.draw(n, generator=generator_for(0, "head"))

    def reach(self) -> tuple[float, float]:
        """Return the lowest and the highest value of an element."""
        low, high = self.draw(PART, generator=generator_for(0, "reach")).aminmax()
        return float(low), float(high)

    def to(self, device: torch.device | str) -> "Dataset":
        """Return the data on a device; an endless dataset draws on the CPU."""
        return self

    def facts(self) -> dict[str, Any]:
        """Return the facts that a run records, to be used later without its data."""
        return {}


class Rows(Dataset):
    """Data with a number of rows."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def floats(self, index: Tensor | slice | None = None) -> Tensor:
        """Return rows as floating-point numbers, ``(B, *)``; all if ``index`` is None."""

    @property
    def size(self) -> int:
        return len(self)

    def drawing(self, sizes: Sequence[int], *, generator: Generator) -> Iterator[Tensor]:
        rounds = -(-sum(sizes) // len(self))
        index = torch.cat([torch.randperm(len(self), generator=generator) for _ in range(rounds)])[: sum(sizes)]
        yield from (self.floats(part) for part in index.split(list(sizes)))

    def tensors(self) -> list[Tensor]:
        """Return the tensors of the rows, which identify the set."""
        return [self.floats(), *([] if self.labels is None else [self.labels])]

    def head(self, n: int) -> Tensor:
        return self.floats(slice(0, n))

    def reach(self) -> tuple[float, float]:
        parts = [self.floats(slice(first, first + PART)).aminmax() for first in range(0, len(self), PART)]
        return min(float(low) for low, _ in parts), max(float(high) for _, high in parts)
