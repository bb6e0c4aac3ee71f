"""Markov kernels: one transition of many chains.

A kernel is split in two so that its step can be compiled. `Kernel.draw` takes all randomness of one step from a
generator, `Kernel.move` is pure tensor code of static shape. A step carries the State and reports the Info.

A proposal whose point, energy or score is not finite is rejected and counted (``Info.diverged``); the chain stays where
it was, and other chains are unaffected.
"""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Generator, Tensor

from energyscape.calculus import EnergyFn, energy_and_score


class ChainState(Protocol):
    """Fields of every state; a kernel's own may carry more, such as a velocity."""

    @property
    def x(self) -> Tensor:
        """Positions, ``(C, *)``."""

    @property
    def energy(self) -> Tensor:
        """Energies there, ``(C,)``."""

    @property
    def score(self) -> Tensor:
        """Minus the energies' gradients there, ``(C, *)``."""


class Point(NamedTuple):
    """Positions with their energies and scores: the state of a kernel that carries no more.

    Args:
        x: Positions, ``(C, *)``.
        energy: Energies there, ``(C,)``.
        score: Minus the energies' gradients there, ``(C, *)``.
    """

    x: Tensor
    energy: Tensor
    score: Tensor


class Info(NamedTuple):
    """Facts about one step, one number a chain, ``(C,)``.

    Args:
        accept_prob: Probability with which the proposal was accepted; 1 or 0 for an unadjusted kernel.
        accepted: Whether it was.
        diverged: Whether it was rejected because something in it was not finite.
        drift: RMS over coordinates of the proposal's deterministic part, in units of ``x``.
        noise: RMS over coordinates of its random part, in units of ``x``.
        energy_error: Minus the logarithm of the Metropolis-Hastings ratio, for leapfrog steps the change of the
            Hamiltonian over the temperature. It is non-finite if the proposal is, and 0 for an unadjusted kernel.
        hamiltonian: Potential and kinetic energy at the start of the step, once its momentum is drawn.
    """

    accept_prob: Tensor
    accepted: Tensor
    diverged: Tensor
    drift: Tensor
    noise: Tensor
    energy_error: Tensor
    hamiltonian: Tensor


State = TypeVar("State", bound=ChainState)


Walls = Literal["reflect", "clamp"]


class Kernel(ABC, Generic[State]):
    """One Markov transition of many chains at once; a frozen value."""

    energy: EnergyFn
    temperature: float
    adjusted: ClassVar[bool] = False
    """Whether a Metropolis test makes the law exact whatever the step."""
    bounds: tuple[float, float] | None = None
    """The box that chains stay in: lowest and highest value of an element of ``x``."""
    walls: Walls = "reflect"
    """Effect of its walls on a step beyond them."""

    @abstractmethod
    def init(self, x: Tensor) -> State:
        """Return the state of chains at positions ``(C, *)``."""

    @abstractmethod
    def draw(self, x: Tensor, *, generator: Generator | None = None) -> tuple[Tensor, ...]:
        """Return all randomness of one step, for positions of the shape, dtype and device of ``x``."""

    @abstractmethod
    def move(self, state: State, randomness: tuple[Tensor, ...]) -> tuple[State, Info]:
        """Return the state after one step, and its facts, from the result of `draw`."""

    def step(self, state: State, *, generator: Generator | None = None) -> tuple[State, Info]:
        """Draw and move."""
        return self.move(state, self.draw(state.x, generator=generator))

    def confined(self, x: Tensor) -> Tensor:
        """Return positions inside the box: mirrored at its walls, or clamped to them."""
        if self.bounds is None:
            return x
        return x.clamp(*self.bounds) if self.walls == "clamp" else folded(x, self.bounds)[0]


KernelFactory = Callable[[EnergyFn], Kernel[Any]]
"""A constructor of kernels from an energy, such as ``partial(Langevin, step_size=0.1)``."""


def evaluate_at(energy: EnergyFn, x: Tensor, bounds: tuple[float, float] | None = None) -> Point:
    """Return the point at ``x``; beyond the walls of a box the energy is its mirror image."""
    if bounds is None:
        return Point(x.detach(), *energy_and_score(energy, x))
    inside, sign = folded(x, bounds)
    e, s = energy_and_score(energy, inside)
    return Point(x.detach(), e, sign * s)


def folded(x: Tensor, bounds: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Return positions mirrored into the box, and -1 where the direction is reversed, else 1."""
    low, high = bounds
    way = (x - low).remainder(2 * (high - low))
    inside = (low + torch.minimum(way, 2 * (high - low) - way)).clamp(low, high)
    return torch.where((x >= low) & (x <= high), x, inside), torch.where(way <= high - low, 1.0, -1.0).to(x.dtype)


def home(point: Point, bounds: tuple[float, float] | None) -> Point:
    """Return a point mirrored into the box, its score reversed with it, to end a step of mirrored energies."""
    if bounds is None:
        return point
    inside, sign = folded(point.x, bounds)
    return Point(inside, point.energy, sign * point.score)


def check_bounds(bounds: tuple[float, float] | None) -> None:
    """Raise a `ValueError` unless bounds are finite and not empty."""
    if bounds is not None and not -math.inf < bounds[0] < bounds[1] < math.inf:
        raise ValueError(f"bounds are finite, (low, high) with low < high; they were {bounds}")


def zero_energy(x: Tensor) -> Tensor:
    """Return energy zero everywhere, to check a kernel's settings before training."""
    return x.flatten(1).sum(1) * 0


def finite(point: ChainState) -> Tensor:
    """Return which chains have a finite position, energy and score, ``(C,)``."""
    return point.x.isfinite().flatten(1).all(1) & point.energy.isfinite() & point.score.isfinite().flatten(1).all(1)


def where(condition: Tensor, yes: ChainState, no: ChainState) -> Point:
    """Return one point or the other for each chain."""
    wide = expand(condition, yes.x)
    return Point(
        torch.where(wide, yes.x, no.x),
        torch.where(condition, yes.energy, no.energy),
        torch.where(wide, yes.score, no.score),
    )


def expand(value: Tensor, like: Tensor) -> Tensor:
    """Return one number a chain, ``(C,)``, shaped to broadcast over ``(C, *)``."""
    return value.reshape(-1, *[1] * (like.ndim - 1))


def rms(x: Tensor) -> Tensor:
    """Return the root mean square over each chain's coordinates, ``(C,)``."""
    return x.flatten(1).square().mean(1).sqrt()


def hamiltonian(point: ChainState, velocity: Tensor) -> Tensor:
    r"""Return :math:`E(x) + \tfrac12 \|v\|^2`, ``(C,)``."""
    return point.energy + velocity.flatten(1).square().sum(1) / 2


def unadjusted(state: ChainState, new: Point, drift: Tensor, noise: Tensor, total: Tensor) -> tuple[Point, Info]:
    """Accept every finite proposal."""
    accepted = finite(new)
    accept_prob = accepted.to(new.x.dtype)
    info = Info(accept_prob, accepted, ~accepted, rms(drift), rms(noise), torch.zeros_like(accept_prob), total)
    return where(accepted, new, state), info


def metropolis(
    state: ChainState, new: Point, log_ratio: Tensor, uniform: Tensor
) -> tuple[Point, Tensor, Tensor, Tensor]:
    r"""Accept with probability :math:`\min(1, e^{r})`, never a proposal that is not finite.

    References:
        Equation of state calculations by fast computing machines (Metropolis et al., 1953).
        https://doi.org/10.1063/1.1699114
    """
    diverged = ~finite(new) | log_ratio.isnan()
    accept_prob = torch.where(diverged, torch.zeros_like(log_ratio), log_ratio.clamp(max=0).exp())
    accepted = uniform < accept_prob
    return where(accepted, new, state), accept_prob, accepted, diverged


def with_step_factor(kernel: Kernel[Any], *, step: float = 1.0) -> Kernel[Any]:
    """Return a kernel with its step size times a factor; unchanged if it has no step size."""
    size = getattr(kernel, "step_size", None)
    return kernel if step == 1 or size is None else dataclasses.replace(kernel, step_size=size * step)  # type: ignore[type-var]
