r"""Replicas at several temperatures that exchange places.

Of each chain there is one replica at each level :math:`r`, whose law is
:math:`p_r(x) \propto \exp(-E(x) / \tau_r T)`, :math:`1 = \tau_0 < \tau_1 < \dots`. Replicas of neighbouring levels
exchange places with probability

.. math:: \min\bigl(1, e^{(\beta_r - \beta_{r+1})(E_r - E_{r+1}) / T}\bigr), \qquad \beta_r = 1 / \tau_r,

which leaves the product of all levels' laws invariant: hot replicas cross barriers, and hand what they find down.
"""

import math
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, NamedTuple, final

import torch
from torch import Generator, Tensor

from energyscape.calculus import EnergyFn
from energyscape.errors import UserError, check_count
from energyscape.samplers.base import Info, Kernel, KernelFactory, expand, zero_energy


class Replicas(NamedTuple):
    r"""The state of the chains of all levels.

    Args:
        x: Positions of the coldest level, ``(C, *)``.
        energy: Energies there, ``(C,)``.
        score: Minus the energies' gradients there, ``(C, *)``.
        inner: The inner kernel's state of all levels, coldest first, ``(R * C, *)``, in units of
            :math:`\sqrt{\tau_r}`.
        steps: Steps taken, ``()``.
        exchanged: Sums over the exchanges offered of their probabilities, between each level and the next,
            ``(R - 1, C)``.
        offered: Number of exchanges offered, ``(R - 1,)``.
    """

    x: Tensor
    energy: Tensor
    score: Tensor
    inner: Any
    steps: Tensor
    exchanged: Tensor
    offered: Tensor


@final
@dataclass(frozen=True)
class ParallelTempering(Kernel[Replicas]):
    r"""Parallel tempering, or replica exchange: lets any kernel cross barriers.

    All levels take one step of the inner kernel as one batch. After every ``swap_every``-th step neighbours may
    exchange, the pairs (0, 1), (2, 3), … and the pairs (1, 2), (3, 4), … by turns. The law of all levels together is
    left exactly invariant if the inner kernel leaves its own so.

    Level :math:`r` steps in units of :math:`\sqrt{\tau_r}`, that is on :math:`y = x / \sqrt{\tau_r}` with the energy
    :math:`E(\sqrt{\tau_r}\, y) / \tau_r`. On a normal law that is the same problem at every level, so one step size is
    right for all. The inner kernel's clips are in the same units. Other parts of its state than position, energy and
    score stay at their level in an exchange.

    A chain costs as many gradients a step as there are levels. `exchange_rates` shows whether there are enough: below
    about 0.2 anywhere, replicas do not get through. All replicas of a chain start at one place, which is the law of no
    level: allow a burn-in.

    Args:
        energy: Maps ``(C, *)`` to ``(C,)``.
        kernel: The inner kernel of one level; its temperature is :math:`T`.
        temperatures: Factors :math:`\tau_r` on :math:`T`: first 1, then rising.
        swap_every: Steps from one exchange to the next.

    Raises:
        UserError: If the factors do not rise from 1, or the inner kernel is itself one of replicas, or has no
            temperature, or has bounds.

    Examples:
        >>> from functools import partial
        >>> from energyscape.samplers import MALA, run
        >>> kernel = ParallelTempering(lambda x: (x**2).sum(1) / 2, partial(MALA, step_size=0.5), temperatures=(1, 3))
        >>> state, _ = run(kernel, torch.zeros(8, 2), steps=10)
        >>> state.x.shape, kernel.exchange_rates(state).shape
        (torch.Size([8, 2]), torch.Size([1]))

    References:
        Replica Monte Carlo simulation of spin-glasses (Swendsen & Wang, 1986).
        https://doi.org/10.1103/PhysRevLett.57.2607; Non-reversible parallel tempering (Syed et al., 2022), section 3,
        for the alternation. https://arxiv.org/abs/1905.02939
    """

    energy: EnergyFn
    kernel: KernelFactory
    _: KW_ONLY
    temperatures: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    swap_every: int = 1
    temperature: float = field(init=False)

    def __post_init__(self) -> None:
        check_count(swap_every=self.swap_every, most=1_000_000)
        rising = all(a < b < math.inf for a, b in zip(self.temperatures, self.temperatures[1:], strict=False))
        if len(self.temperatures) < 2 or self.temperatures[0] != 1 or not rising:
            raise UserError(f"temperatures are factors that rise from 1, at least two; they were {self.temperatures}")
        inner = self.kernel(zero_energy)
        if isinstance(inner, ParallelTempering) or not inner.temperature > 0:
            raise UserError(f"the inner kernel is one of single chains at a temperature above 0; it was {inner}")
        if inner.bounds is not None:
            raise UserError("replicas step in units of their levels, where a box has other bounds: leave bounds out")
        object.__setattr__(self, "temperature", inner.temperature)

    def init(self, x: Tensor) -> Replicas:
        return self.place(x.expand(len(self.temperatures), *x.shape))

    def place(self, x: Tensor) -> Replicas:
        """Return the state of replicas at different positions ``(R, C, *)``, the coldest level first."""
        rows = x.flatten(0, 1)
        level = self._levels(rows)
        inner = self._inner(level).init(rows / expand(level.sqrt(), rows))
        nothing = x.new_zeros(len(x) - 1)
        still = torch.zeros((), dtype=torch.long, device=x.device)
        return self._coldest(inner, still, nothing.unsqueeze(1).expand(-1, x.shape[1]), nothing)

    def draw(self, x: Tensor, *, generator: Generator | None = None) -> tuple[Tensor, ...]:
        rows = x.repeat(len(self.temperatures), *[1] * (x.ndim - 1))
        uniform = x.new_empty(len(self.temperatures) - 1, len(x)).uniform_(generator=generator)
        return *self._inner(self._levels(rows)).draw(rows, generator=generator), uniform

    def move(self, state: Replicas, randomness: tuple[Tensor, ...]) -> tuple[Replicas, Info]:
        *rest, uniform = randomness
        level, steps, chains = self._levels(state.inner.x), state.steps + 1, uniform.shape[1]
        inner, facts = self._inner(level).move(state.inner, tuple(rest))
        probability, offered = self._exchange(level * inner.energy, steps)
        rows = _rows((uniform < probability) & offered.unsqueeze(1))
        ratio = level[rows] / level
        wide = expand(ratio.sqrt(), inner.x)
        inner = inner._replace(
            x=wide * inner.x[rows], energy=ratio * inner.energy[rows], score=wide * inner.score[rows]
        )
        exchanged = state.exchanged + probability * offered.unsqueeze(1)
        # The info is the coldest level's, but non-finite proposals count at every level.
        info = Info(*(each[:chains] for each in facts))._replace(diverged=facts.diverged.view(-1, chains).any(0))
        return self._coldest(inner, steps, exchanged, state.offered + offered), info

    def exchange_rates(self, state: Replicas) -> Tensor:
        """Return the mean probability of exchanges between each level and the next, ``(R - 1,)``; NaN without any."""
        return state.exchanged.mean(1) / state.offered

    def _levels(self, rows: Tensor) -> Tensor:
        """Return the factor of each row."""
        factors = torch.tensor(self.temperatures, dtype=rows.dtype, device=rows.device)
        return factors.repeat_interleave(len(rows) // len(factors))

    def _inner(self, level: Tensor) -> Kernel[Any]:
        """Return the inner kernel of rows at these levels."""
        energy = self.energy

        def tempered(y: Tensor) -> Tensor:
            return energy(expand(level.sqrt(), y) * y) / level

        return self.kernel(tempered)

    def _exchange(self, energy: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the probabilities of exchange ``(R - 1, C)``, and which pairs are offered one, ``(R - 1,)``."""
        beta = 1 / torch.tensor(self.temperatures, dtype=energy.dtype, device=energy.device).unsqueeze(1)
        e = energy.view(len(beta), -1)
        log_ratio = (beta[:-1] - beta[1:]) * (e[:-1] - e[1:]) / self.temperature
        probability = log_ratio.clamp(max=0).exp().where(~log_ratio.isnan(), 0)
        pair, turn = torch.arange(len(beta) - 1, device=energy.device), steps // self.swap_every
        return probability, ((pair + turn) % 2 == 0) & (steps % self.swap_every == 0)

    def _coldest(self, inner: Any, steps: Tensor, exchanged: Tensor, offered: Tensor) -> Replicas:
        chains = exchanged.shape[1]
        point = inner.x[:chains], inner.energy[:chains], inner.score[:chains]
        return Replicas(*point, inner, steps, exchanged, offered)


def _rows(swap: Tensor) -> Tensor:
    """Return the source row of each row, ``(R * C,)``, where neighbours exchange, ``(R - 1, C)``."""
    chains, none = swap.shape[1], torch.zeros_like(swap[:1])
    up, down = torch.cat([swap, none]), torch.cat([none, swap])
    rows = torch.arange(len(up) * chains, device=swap.device).view(len(up), chains)
    return (rows + chains * (up.long() - down.long())).flatten()
