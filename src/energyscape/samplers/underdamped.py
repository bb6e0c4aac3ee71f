r"""Kernels that follow the underdamped Langevin diffusion, where chains have a velocity.

.. math:: dx = v\, dt, \qquad dv = s(x)\, dt - \gamma v\, dt + \sqrt{2 \gamma T}\, dW

Its stationary law is :math:`\exp(-E(x) / T)` for positions and, independently, :math:`N(0, T I)` for velocities. Of its
three parts, the drift of :math:`x` (A), the kick of :math:`v` (B) and the Ornstein-Uhlenbeck process of :math:`v` (O),
each alone is solved exactly. An integrator is the order in which they follow one another.
"""

import math
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple, final

import torch
from torch import Generator, Tensor

from energyscape.calculus import EnergyFn
from energyscape.errors import check_positive
from energyscape.noise import normal_like
from energyscape.samplers.base import (
    Info,
    Kernel,
    check_bounds,
    evaluate_at,
    expand,
    finite,
    folded,
    hamiltonian,
    rms,
    where,
)


class Moving(NamedTuple):
    """The state of chains with a velocity.

    Args:
        x: Positions, ``(C, *)``.
        energy: Energies there, ``(C,)``.
        score: Minus the energies' gradients there, ``(C, *)``.
        velocity: Velocity of each chain, ``(C, *)``.
    """

    x: Tensor
    energy: Tensor
    score: Tensor
    velocity: Tensor


@final
@dataclass(frozen=True)
class UnderdampedLangevin(Kernel[Moving]):
    r"""Underdamped Langevin dynamics, unadjusted, by the BAOAB splitting.

    .. math::
        v \leftarrow v + \tfrac{h}{2} s(x), \quad x \leftarrow x + \tfrac{h}{2} v, \quad
        v \leftarrow c\, v + \sqrt{(1 - c^2)\, T}\, z, \quad x \leftarrow x + \tfrac{h}{2} v, \quad
        v \leftarrow v + \tfrac{h}{2} s(x), \qquad c = e^{-\gamma h}

    It samples a *biased* law, of second order in :math:`h`, but on :math:`N(0, v)` that of the positions is exact at
    every stable :math:`h < 2 \sqrt{v}`; the velocities' variance is there :math:`T (1 - h^2 / 4 v)`. `HMC` has no bias.

    A step costs one gradient, because the last one is kept in the state. Chains start with velocity zero, so the first
    :math:`1 / \gamma h` steps are colder than the rest. A proposal that is not finite is rejected and the velocity
    reversed, as a reversible flow requires. With its old velocity the chain would meet the same wall again.

    Args:
        energy: Maps ``(C, *)`` to ``(C,)``.
        step_size: :math:`h > 0`, in units of ``x``, as that of `HMC`.
        friction: :math:`\gamma > 0`, in inverse units of ``step_size``; a velocity is forgotten after
            :math:`1 / \gamma`. Large friction is `Langevin` of :math:`\eta = h^2 / 2` with the mean of two successive
            :math:`z` for its noise.
        temperature: :math:`T \ge 0`; 0 is descent with momentum.
        bounds: Lowest and highest value of an element of ``x``: the box that chains stay in, whose walls reflect them.

    Raises:
        ValueError: If a setting is out of its range.

    References:
        Rational construction of stochastic numerical methods for molecular sampling (Leimkuhler & Matthews, 2013),
        sections 2 and 4. https://arxiv.org/abs/1203.5428; Generalized hybrid Monte Carlo (Horowitz, 1991), for the
        reversal. https://doi.org/10.1016/0370-2693(91)90812-5
    """

    energy: EnergyFn
    _: KW_ONLY
    step_size: float
    friction: float = 1.0
    temperature: float = 1.0
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_positive(step_size=self.step_size, friction=self.friction)
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature is at least 0; it was {self.temperature}")
        check_bounds(self.bounds)

    def init(self, x: Tensor) -> Moving:
        return Moving(*evaluate_at(self.energy, self.confined(x)), velocity=torch.zeros_like(x))

    def draw(self, x: Tensor, *, generator: Generator | None = None) -> tuple[Tensor]:
        return (normal_like(x, generator=generator),)

    def move(self, state: Moving, randomness: tuple[Tensor, ...]) -> tuple[Moving, Info]:
        (z,) = randomness
        half, c = self.step_size / 2, math.exp(-self.friction * self.step_size)
        kick = ((1 - c**2) * self.temperature) ** 0.5 * z
        v = state.velocity + half * state.score
        x = state.x + half * v
        v = c * v + kick
        new = evaluate_at(self.energy, x + half * v, self.bounds)
        v = v + half * new.score
        accepted = finite(new) & v.isfinite().flatten(1).all(1)
        end = Moving(*where(accepted, new, state), torch.where(expand(accepted, v), v, -state.velocity))
        if self.bounds is not None:
            inside, sign = folded(end.x, self.bounds)
            end = Moving(inside, end.energy, sign * end.score, sign * end.velocity)
        noise = half * kick
        drift = rms(new.x - state.x - noise).where(accepted, 0)
        accept_prob = accepted.to(x.dtype)
        total = hamiltonian(state, state.velocity)
        return end, Info(accept_prob, accepted, ~accepted, drift, rms(noise), torch.zeros_like(accept_prob), total)
