"""Starting points of negative chains, and the storage of persistent ones.

A start gives positions (`ChainInit.draw`) and takes them back after the kernel has moved them (`ChainInit.commit`).
Persistent chains continue in the slot they came from. Writing results to other slots would let lineages die out, like
alleles in a finite population.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple, final

import torch
from torch import Generator, Tensor, nn

from energyscape.errors import UserError, check_count
from energyscape.memory import require_memory
from energyscape.objectives.base import lazily_shaped
from energyscape.objectives.facts import Facts


class ChainInit(nn.Module, ABC):
    """Starting points of negative chains."""

    @abstractmethod
    def draw(self, n: int, *, like: Tensor, generator: Generator | None = None) -> tuple[Tensor, Any]:
        """Return starting positions, and a handle for `commit`.

        Args:
            n: Number of chains.
            like: A batch of data: its event shape, dtype and device, and for `DataInit` its points.
            generator: The stream to draw from.
        """

    def commit(self, handle: Any, x: Tensor) -> None:
        """Take the chains of a handle back at their final positions, ``(n, *)``."""

    def restart_diverged(self, lost: Callable[[Tensor], Tensor], *, generator: Generator | None = None) -> int:
        """Restart lost persistent chains; return their number.

        Args:
            lost: Maps positions ``(n, *)`` to whether they are lost, ``(n,)``.
            generator: The stream to draw from.
        """
        return 0

    def facts(self) -> Facts[Tensor]:
        """Return facts about the chains' history, as 0-d tensors by name."""
        return {}


def _check_bounds(low: float, high: float) -> None:
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"low is below high; they were {low} and {high}")


@final
class DataInit(ChainInit):
    """Chains start at the data, as in CD-k.

    References:
        Training products of experts by minimizing contrastive divergence (Hinton, 2002), section 3.
        https://doi.org/10.1162/089976602760128018
    """

    def draw(self, n: int, *, like: Tensor, generator: Generator | None = None) -> tuple[Tensor, None]:
        if n > len(like):
            raise UserError(f"{n} chains cannot start at {len(like)} points of data: draw at most the batch size")
        return like[:n].detach(), None


@final
class NoiseInit(ChainInit):
    """Chains start at noise, uniform in a box, as in short-run MCMC.

    Args:
        low: Lowest value of a coordinate.
        high: Highest value of a coordinate.

    Raises:
        ValueError: If ``low`` is not below ``high``.

    References:
        Learning non-convergent non-persistent short-run MCMC toward energy-based model (Nijkamp et al., 2019),
        section 2.2. https://arxiv.org/abs/1904.09770
    """

    def __init__(self, *, low: float = -1.0, high: float = 1.0) -> None:
        super().__init__()
        _check_bounds(low, high)
        self.low, self.high = low, high

    def draw(self, n: int, *, like: Tensor, generator: Generator | None = None) -> tuple[Tensor, None]:
        return like.new_empty(n, *like.shape[1:]).uniform_(self.low, self.high, generator=generator), None


@final
class ConstantInit(ChainInit):
    """Chains start at points whose coordinates are all one number, drawn uniformly: grey images of every level.

    Chains from noise miss these, so an energy trained with those alone may keep a valley at blank images. Mix these
    chains into a buffer's restarts to reach it. Keep them to levels near the data's: chains far from all data have
    energies that outweigh all others.

    Args:
        low: Lowest level.
        high: Highest level.

    Raises:
        ValueError: If ``low`` is not below ``high``.
    """

    def __init__(self, *, low: float = -1.0, high: float = 1.0) -> None:
        super().__init__()
        _check_bounds(low, high)
        self.low, self.high = low, high

    def draw(self, n: int, *, like: Tensor, generator: Generator | None = None) -> tuple[Tensor, None]:
        level = like.new_empty(n, *[1] * (like.ndim - 1)).uniform_(self.low, self.high, generator=generator)
        return level.expand(n, *like.shape[1:]).clone(), None


class Slots(NamedTuple):
    """The chains drawn from a buffer.

    Args:
        slot: Their slots, ``(n,)``, each at most once.
        fresh: Whether each was restarted, ``(n,)``.
    """

    slot: Tensor
    fresh: Tensor


Stored = Literal["float", "byte"]

PART: Final = 256
"""Chains to process at a time."""


@final
class ReplayBuffer(ChainInit):
    r"""Persistent chains that live in slots, as in persistent contrastive divergence.

    Each drawn chain is restarted from ``fresh`` with probability ``refresh`` and goes back into its own slot. A restart
    begins a new lineage; ``age`` counts the updates since.

    Bytes take a quarter of the memory. Between ``low`` and ``high`` there are 256 bins; a chain is kept as
    the numbers of its bins and drawn somewhere in them, with fresh noise :math:`u`,

    .. math:: b = \min\bigl(255, \max(0, \lfloor (x - \text{low}) / \Delta \rfloor)\bigr), \qquad
              x' = \text{low} + (b + u)\, \Delta, \qquad u \sim U[0, 1), \quad
              \Delta = (\text{high} - \text{low}) / 256,

    which keeps the law of :math:`x` up to its shape within a bin and adds no variance. A chain that does not move keeps
    its bytes. Chains of noised data exceed the data's range, and values beyond ``low`` and ``high`` go to the outermost
    bin: choose these some three standard deviations of the noise beyond the data.

    Args:
        capacity: Number of chains; at least the batch size.
        refresh: Probability in [0, 1] that a drawn chain is restarted.
        fresh: Starting points of new chains; uniform noise on [-1, 1] by default.
        stored: Storage format of the chains.
        low: Lowest value of a coordinate that bytes can keep.
        high: Highest value of a coordinate that bytes can keep.

    Raises:
        ValueError: If ``capacity`` is not positive, ``refresh`` is no probability or ``low`` is not below ``high``.

    Examples:
        >>> buffer = ReplayBuffer(100)
        >>> x, handle = buffer.draw(8, like=torch.zeros(8, 2))
        >>> buffer.commit(handle, x + 1)
        >>> int(buffer.facts()["lineages"])
        100

    References:
        Training restricted Boltzmann machines using approximations to the likelihood gradient (Tieleman, 2008).
        https://doi.org/10.1145/1390156.1390290
        Implicit generation and modeling with energy-based models (Du & Mordatch, 2019), section 3.1.
        https://arxiv.org/abs/1903.08689
    """

    chains: Tensor
    lineage: Tensor
    age: Tensor
    born: Tensor

    def __init__(
        self,
        capacity: int = 10_000,
        *,
        refresh: float = 0.05,
        fresh: ChainInit | None = None,
        stored: Stored = "float",
        low: float = -2.0,
        high: float = 2.0,
    ) -> None:
        super().__init__()
        check_count(capacity=capacity, most=10**9)
        require_memory(32 * capacity, f"a replay buffer of {capacity:,} chains")
        if not 0 <= refresh <= 1:
            raise ValueError(f"refresh is a probability in [0, 1]; it was {refresh}")
        _check_bounds(low, high)
        self.capacity, self.refresh = capacity, refresh
        self.stored, self.low, self.high = stored, low, high
        self.fresh: ChainInit = fresh or NoiseInit()
        self.register_buffer("chains", torch.empty(0))
        self.register_buffer("lineage", torch.arange(capacity))
        self.register_buffer("age", torch.zeros(capacity, dtype=torch.int64))
        self.register_buffer("born", torch.tensor(capacity))
        lazily_shaped(self, "chains")

    def check(self, n: int) -> None:
        """Refuse to draw more chains at once than there are.

        Raises:
            UserError: If ``n`` is above the capacity.
        """
        if n > self.capacity:
            raise UserError(
                f"a replay buffer of {self.capacity} slots cannot give {n} chains at once: "
                "raise its capacity or lower the batch size"
            )

    def draw(self, n: int, *, like: Tensor, generator: Generator | None = None) -> tuple[Tensor, Slots]:
        self.check(n)
        if self.chains.numel() == 0:
            self.chains = self._filled(like, generator=generator)
        device = like.device
        index = torch.randperm(self.capacity, generator=generator, device=device)[:n]
        fresh = torch.empty(n, device=device).uniform_(generator=generator) < self.refresh
        new, _ = self.fresh.draw(n, like=like, generator=generator)
        old = self.positions(index, generator=generator).to(like.dtype)
        x = torch.where(fresh.reshape(-1, *[1] * (like.ndim - 1)), new, old)
        return x, Slots(index, fresh)

    def positions(self, index: Tensor, *, generator: Generator | None = None) -> Tensor:
        """Return the positions ``(n, *)`` of the chains in slots ``(n,)`` without drawing them."""
        kept = self.chains[index]
        if self.stored == "float":
            return kept
        # Kept off the edges, so that rounding cannot move a chain into the next bin.
        u = torch.empty(kept.shape, device=kept.device).uniform_(5e-4, 1 - 5e-4, generator=generator)
        return self.low + (kept + u) * ((self.high - self.low) / 256)

    def _filled(self, like: Tensor, *, generator: Generator | None) -> Tensor:
        """Return new chains in all slots; make bytes in parts, to limit the memory of floats."""
        slots = torch.arange(self.capacity, device=like.device)
        parts = slots.split(PART if self.stored == "byte" else self.capacity)
        new = (self.fresh.draw(len(part), like=like[part % len(like)], generator=generator)[0] for part in parts)
        return torch.cat([self._packed(x) for x in new])

    def _packed(self, x: Tensor) -> Tensor:
        if self.stored == "float":
            return x
        bins = ((x - self.low) * (256 / (self.high - self.low))).floor()
        # Clamped before the cast, which would wrap around; NaN becomes the middle.
        return bins.nan_to_num(127.0).clamp(0, 255).to(torch.uint8)

    def commit(self, handle: Slots, x: Tensor) -> None:
        index, fresh = handle
        self.chains[index] = self._packed(x.detach())
        newborn = self.born + fresh.cumsum(0) - 1
        self.lineage[index] = torch.where(fresh, newborn, self.lineage[index])
        self.age[index] = torch.where(fresh, 1, self.age[index] + 1)
        self.born += fresh.sum()

    def restart_diverged(self, lost: Callable[[Tensor], Tensor], *, generator: Generator | None = None) -> int:
        if self.chains.numel() == 0:
            return 0
        purged = 0
        for index in torch.arange(len(self.chains), device=self.chains.device).split(PART):
            like = self.positions(index, generator=generator)
            gone = index[lost(like)]
            if len(gone):
                new, _ = self.fresh.draw(len(gone), like=like, generator=generator)
                self.commit(Slots(gone, torch.ones_like(gone, dtype=torch.bool)), new)
                purged += len(gone)
        return purged

    def facts(self) -> Facts[Tensor]:
        there = self.lineage.sort().values  # counted on the device, without a host sync
        return {"lineages": (there[1:] != there[:-1]).sum() + 1, "age": self.age.median()}


@final
class MixtureInit(ChainInit):
    """Starts each chain at one of two starts, chosen at random.

    Args:
        first: Chosen with probability ``share``.
        second: Chosen otherwise.
        share: Probability in [0, 1].

    Raises:
        ValueError: If ``share`` is no probability.
    """

    def __init__(self, first: ChainInit, second: ChainInit, *, share: float = 0.5) -> None:
        super().__init__()
        if not 0 <= share <= 1:
            raise ValueError(f"share is a probability in [0, 1]; it was {share}")
        self.first, self.second, self.share = first, second, share

    def draw(self, n: int, *, like: Tensor, generator: Generator | None = None) -> tuple[Tensor, tuple[int, Any, Any]]:
        coins = torch.empty(n, device=like.device).uniform_(generator=generator)
        here = int((coins < self.share).sum())
        x, handle = self.first.draw(here, like=like, generator=generator)
        y, other = self.second.draw(n - here, like=like, generator=generator)
        return torch.cat([x, y]), (here, handle, other)

    def commit(self, handle: tuple[int, Any, Any], x: Tensor) -> None:
        here, first, second = handle
        self.first.commit(first, x[:here])
        self.second.commit(second, x[here:])

    def restart_diverged(self, lost: Callable[[Tensor], Tensor], *, generator: Generator | None = None) -> int:
        return self.first.restart_diverged(lost, generator=generator) + self.second.restart_diverged(
            lost, generator=generator
        )

    def facts(self) -> Facts[Tensor]:
        return {**self.second.facts(), **self.first.facts()}


def persistent_chains(objective: nn.Module) -> ReplayBuffer | None:
    """Return the replay buffer of an objective if it holds chains, or None."""
    buffers = (each for each in objective.modules() if isinstance(each, ReplayBuffer) and each.chains.numel())
    return next(buffers, None)
