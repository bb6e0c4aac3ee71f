r"""Endless batches, as a pure function of a seed and a position.

The position :math:`n`, the number of samples drawn so far, is the whole state. A finite set of :math:`N` rows is an
endless stream

.. math:: r_n = \pi_{\lfloor n / N \rfloor}(n \bmod N), \qquad \pi_e = \text{permutation drawn from } h(\text{seed}, e),

which batches cut anywhere: the stream does not depend on the batch size. A law is drawn at each position from
:math:`h(\text{seed}, n)`. So resuming at a stored position gives the same bits as an uninterrupted run.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from energyscape.data.dataset import Dataset, Rows
from energyscape.errors import UserError
from energyscape.rng import generator_for

Source = Dataset | Tensor | tuple[Tensor, Tensor]
"""A dataset, rows ``(N, *)``, or rows with a label each."""


class Batch(NamedTuple):
    """Some samples.

    Args:
        x: ``(B, *)``, floating point.
        label: ``(B,)``, or None if the source has none.
    """

    x: Tensor
    label: Tensor | None


@final
@dataclass(frozen=True, eq=False)
class _TensorRows(Rows):
    """Rows of a tensor."""

    values: Tensor
    labels: Tensor | None = None
    name: str = "tensor"

    def __post_init__(self) -> None:
        if not self.values.is_floating_point() or self.values.ndim < 2:
            raise UserError(
                f"a tensor of data is floating point of shape (N, *); it came as {self.values.dtype} "
                f"of shape {tuple(self.values.shape)}: convert it, or wrap images in Images"
            )
        if self.labels is not None and self.labels.shape != self.values.shape[:1]:
            raise UserError(
                f"labels are one number for each of {len(self.values)} rows; they came as {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.values)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape[1:])

    def floats(self, index: Tensor | slice | None = None) -> Tensor:
        return self.values if index is None else self.values[index]

    def to(self, device: torch.device | str) -> "_TensorRows":
        return _TensorRows(self.values.to(device), None if self.labels is None else self.labels.to(device))


@final
class Batches(Iterator[Batch]):
    """An endless iterator of batches; made by `batches`.

    The stream of a finite source does not depend on ``size``; that of a law does, because each of its batches is drawn
    at once.

    Args:
        source: A law, images, rows ``(N, *)``, or rows with labels.
        size: Samples in a batch.
        seed: The run's seed.
        start: Position to begin at.
        device: Device of the batches; a finite source is moved there once. Random numbers are drawn on the CPU, so
            every device sees the same samples.
        flips: Mirror each image left to right, or not, with equal chances.

    Raises:
        UserError: If ``size`` is not positive, ``start`` is negative, the source is empty or of the wrong kind, or
            flips are set without images.
    """

    def __init__(
        self,
        source: Source,
        size: int,
        *,
        seed: int = 0,
        start: int = 0,
        device: torch.device | str = "cpu",
        flips: bool = False,
    ) -> None:
        if size <= 0:
            raise UserError(f"a batch holds at least one sample; its size was {size}")
        self.flips = flips
        self.source = source
        self.size = size
        self.seed = seed
        self.device = torch.device(device)
        self._from = _opened(source, self.device)
        if flips and not self._from.space.is_image:
            raise UserError(f"images can be flipped; the source was {type(source).__name__}: leave flips out")
        self._order: tuple[int, tuple[Tensor, Tensor]] | None = None
        self.seek(start)

    @property
    def position(self) -> int:
        """Number of samples drawn so far: the clock, and the whole state."""
        return self._position

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self._from.shape

    @property
    def name(self) -> str:
        """Name of the source."""
        return self._from.name

    def seek(self, position: int) -> None:
        """Go to a position, the number of samples drawn before the next one, at no cost; it is not negative."""
        if position < 0:
            raise UserError(f"a position is the number of samples drawn so far; it was {position}")
        self._position = position

    def __next__(self) -> Batch:
        if not isinstance(self._from, Rows):
            generator = generator_for(self.seed, "batch", self._position)
            batch = Batch(self._from.draw(self.size, generator=generator).to(self.device), None)
        else:
            rows, mirrored = self._next(len(self._from))
            x, labels = self._from.floats(rows), self._from.labels
            if self.flips:
                x = torch.where(mirrored.reshape(-1, 1, 1, 1), x.flip(-1), x)
            batch = Batch(x, None if labels is None else labels[rows])
        self._position += self.size
        return batch

    def _next(self, n: int) -> tuple[Tensor, Tensor]:
        """Return the rows of the next batch, and which of them to mirror."""
        parts, position, end = [], self._position, self._position + self.size
        while position < end:
            epoch, offset = divmod(position, n)
            parts.append([each[offset : offset + end - position] for each in self._epoch(epoch, n)])
            position += len(parts[-1][0])
        rows, mirrored = map(torch.cat, zip(*parts, strict=True))
        return rows, mirrored

    def _epoch(self, epoch: int, n: int) -> tuple[Tensor, Tensor]:
        if self._order is None or self._order[0] != epoch:
            rows = torch.randperm(n, generator=generator_for(self.seed, "epoch", epoch))
            mirrored = torch.rand(n, generator=generator_for(self.seed, "flips", epoch)) < 0.5
            self._order = epoch, (rows.to(self.device), mirrored.to(self.device))
        return self._order[1]


def batches(
    source: Source,
    size: int,
    *,
    seed: int = 0,
    start: int = 0,
    device: torch.device | str = "cpu",
    flips: bool = False,
) -> Batches:
    """Return an endless iterator of batches.

    Args:
        source: A law, images, rows ``(N, *)`` of floating point, or a pair of such rows and their labels ``(N,)``.
        size: Samples in a batch; may exceed those of a finite source.
        seed: The run's seed.
        start: Position to begin at, in samples.
        device: Device of the batches.
        flips: Mirror each image left to right, or not, with equal chances.

    Returns:
        The iterator; its ``position`` and ``seek`` resume it.

    Raises:
        UserError: If ``size`` is not positive, ``start`` is negative, or the source is empty or of the wrong kind.

    Examples:
        >>> stream = batches(torch.arange(5.0).view(5, 1), 5)
        >>> sorted(next(stream).x.flatten().tolist()), stream.position
        ([0.0, 1.0, 2.0, 3.0, 4.0], 5)
    """
    return Batches(source, size, seed=seed, start=start, device=device, flips=flips)


def _opened(source: Source, device: torch.device) -> Dataset:
    match source:
        case Dataset():
            data = source
        case Tensor():
            data = _TensorRows(source)
        case (Tensor() as values, Tensor() as labels):
            data = _TensorRows(values, labels)
        case _:
            raise UserError(
                f"batches are drawn from a Dataset, a tensor or a pair (tensor, labels); it was {type(source).__name__}"
            )
    if data.size == 0:
        raise UserError(f"{data.name}: expected at least one sample to draw from; the source is empty")
    return data.to(device)
