r"""Kernels that follow the overdamped Langevin diffusion :math:`dx = s(x)\, dt + \sqrt{2 T}\, dW`.

Its stationary law is :math:`p(x) \propto \exp(-E(x) / T)`. One Euler-Maruyama step of size :math:`\eta` is

.. math:: x' = x + \eta\, s(x) + \sqrt{2 \eta T}\, z, \qquad s = -\nabla E, \quad z \sim N(0, I),

which is a leapfrog step of length :math:`\sqrt{2 \eta}` whose momentum is :math:`\sqrt{T}\, z`.

The literature's pair (step :math:`\eta`, noise standard deviation :math:`\nu`) is this with :math:`T = \nu^2 / 2\eta`.
"""

import math
from dataclasses import KW_ONLY, dataclass, field
from typing import final

import torch
from torch import Generator, Tensor

from energyscape.calculus import EnergyFn
from energyscape.errors import check_positive
from energyscape.noise import normal_like
from energyscape.samplers.base import (
    Info,
    Kernel,
    Point,
    Walls,
    check_bounds,
    evaluate_at,
    hamiltonian,
    home,
    metropolis,
    rms,
    unadjusted,
)


@final
@dataclass(frozen=True)
class Langevin(Kernel[Point]):
    r"""Unadjusted Langevin algorithm (ULA), the negative phase of most energy-based models (there called SGLD).

    .. math:: x' = \operatorname{reflect}\bigl(x + \operatorname{clip}(\eta\, s(x)) + \sqrt{2 \eta T}\, z\bigr)

    It samples a *biased* law: on :math:`N(0, v)` at :math:`T = 1` its stationary variance is
    :math:`v / (1 - \eta / 2v)`, and it is unstable where :math:`\eta \ge 2v`. Clips and clamps bias it further; `MALA`
    has no bias.

    Args:
        energy: Maps ``(C, *)`` to ``(C,)``.
        step_size: :math:`\eta > 0`, in squared units of ``x``.
        temperature: :math:`T \ge 0`; 0 is gradient descent.
        drift_clip: Largest absolute value of one element of the drift :math:`\eta\, s`, in units of ``x``.
        bounds: Lowest and highest value of an element of ``x``: the box that chains stay in.
        walls: Steps beyond the box are reflected at its walls, which leaves a law on the box as it is, or clamped to
            them, which gathers chains on the walls.

    Raises:
        ValueError: If a setting is out of its range.

    Examples:
        >>> import torch
        >>> kernel = Langevin(lambda x: (x**2).sum(1) / 2, step_size=0.1)
        >>> state, info = kernel.step(kernel.init(torch.zeros(4, 2)))
        >>> state.x.shape
        torch.Size([4, 2])

    References:
        Exponential convergence of Langevin distributions and their discrete approximations
        (Roberts & Tweedie, 1996), section 1.4.1. https://doi.org/10.2307/3318418
    """

    energy: EnergyFn
    _: KW_ONLY
    step_size: float
    temperature: float = 1.0
    drift_clip: float | None = None
    bounds: tuple[float, float] | None = None
    walls: Walls = "reflect"

    def __post_init__(self) -> None:
        check_positive(step_size=self.step_size)
        check_limits(self.drift_clip, self.bounds)
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature is at least 0; it was {self.temperature}")

    def init(self, x: Tensor) -> Point:
        return evaluate_at(self.energy, self.confined(x))

    def draw(self, x: Tensor, *, generator: Generator | None = None) -> tuple[Tensor]:
        return (normal_like(x, generator=generator),)

    def move(self, state: Point, randomness: tuple[Tensor, ...]) -> tuple[Point, Info]:
        (z,) = randomness
        drift = clipped(self.step_size * state.score, self.drift_clip)
        noise = (2 * self.step_size * self.temperature) ** 0.5 * z
        new = evaluate_at(self.energy, self.confined(state.x + drift + noise))
        return unadjusted(state, new, drift, noise, hamiltonian(state, self.temperature**0.5 * z))


@final
@dataclass(frozen=True)
class MALA(Kernel[Point]):
    r"""Metropolis-adjusted Langevin algorithm.

    Proposes :math:`x' = x + \eta\, s(x) + \sqrt{2 \eta T}\, z` and accepts with the Metropolis-Hastings ratio, so that
    :math:`\exp(-E / T)` is left exactly invariant whatever the step size.

    The step size is :math:`\eta`, not the :math:`\epsilon` of :math:`\eta = \epsilon^2 / 2`.

    Args:
        energy: Maps ``(C, *)`` to ``(C,)``.
        step_size: :math:`\eta > 0`, in squared units of ``x``.
        temperature: :math:`T > 0`.
        bounds: Lowest and highest value of an element of ``x``: the box that chains stay in.

    Raises:
        ValueError: If a setting is out of its range.

    References:
        Exponential convergence of Langevin distributions and their discrete approximations
        (Roberts & Tweedie, 1996), section 1.4.2. https://doi.org/10.2307/3318418
    """

    adjusted = True
    energy: EnergyFn
    _: KW_ONLY
    step_size: float
    temperature: float = 1.0
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_positive(step_size=self.step_size, temperature=self.temperature)
        check_bounds(self.bounds)

    def init(self, x: Tensor) -> Point:
        return evaluate_at(self.energy, self.confined(x))

    def draw(self, x: Tensor, *, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        return normal_like(x, generator=generator), x.new_empty(len(x)).uniform_(generator=generator)

    def move(self, state: Point, randomness: tuple[Tensor, ...]) -> tuple[Point, Info]:
        z, uniform = randomness
        drift = self.step_size * state.score
        noise = (2 * self.step_size * self.temperature) ** 0.5 * z
        new = evaluate_at(self.energy, state.x + drift + noise, self.bounds)
        log_ratio = (state.energy - new.energy) / self.temperature + self._log_q(new, state) - self._log_q(state, new)
        point, accept_prob, accepted, diverged = metropolis(state, new, log_ratio, uniform)
        total = hamiltonian(state, self.temperature**0.5 * z)
        return home(point, self.bounds), Info(
            accept_prob, accepted, diverged, rms(drift), rms(noise), -log_ratio, total
        )

    def _log_q(self, here: Point, there: Point) -> Tensor:
        """Return the log density of proposing ``there`` from ``here``, up to a constant."""
        residual = there.x - here.x - self.step_size * here.score
        return -residual.flatten(1).square().sum(1) / (4 * self.step_size * self.temperature)


@final
@dataclass(frozen=True)
class GradientDescent(Kernel[Point]):
    r"""Gradient descent on the energy: `Langevin` without its noise.

    .. math:: x' = \operatorname{clamp}\bigl(x + \operatorname{clip}(\eta\, s(x))\bigr)

    It samples nothing: chains end in the minima, or go round them where :math:`\eta \ge 2v` for a curvature
    :math:`1/v`. From noised data it leads to the energy's own
    estimate of clean ones.

    Args:
        energy: Maps ``(C, *)`` to ``(C,)``.
        step_size: :math:`\eta > 0`, in squared units of ``x`` (the energy has none).
        drift_clip: Largest absolute value of one element of a step :math:`\eta\, s`, in units of ``x``.
        bounds: Lowest and highest value of an element of ``x``, clamped after each step.

    Raises:
        ValueError: If a setting is out of its range.

    Examples:
        >>> import torch
        >>> from energyscape.samplers import run
        >>> end, _ = run(GradientDescent(lambda x: (x - 3).square().sum(1), step_size=0.25), torch.zeros(1, 2), steps=9)
        >>> end.energy < 1e-4
        tensor([True])
    """

    energy: EnergyFn
    _: KW_ONLY
    step_size: float
    drift_clip: float | None = None
    bounds: tuple[float, float] | None = None
    walls: Walls = field(default="clamp", init=False)
    temperature: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        check_positive(step_size=self.step_size)
        check_limits(self.drift_clip, self.bounds)

    def init(self, x: Tensor) -> Point:
        return evaluate_at(self.energy, self.confined(x))

    def draw(self, x: Tensor, *, generator: Generator | None = None) -> tuple[Tensor, ...]:
        return ()

    def move(self, state: Point, randomness: tuple[Tensor, ...]) -> tuple[Point, Info]:
        drift = clipped(self.step_size * state.score, self.drift_clip)
        new = evaluate_at(self.energy, self.confined(state.x + drift))
        return unadjusted(state, new, drift, torch.zeros_like(drift), state.energy)


def clipped(drift: Tensor, limit: float | None) -> Tensor:
    """Return a drift with its elements clipped to an absolute value, if any."""
    return drift if limit is None else drift.clamp(-limit, limit)


def check_limits(drift_clip: float | None, bounds: tuple[float, float] | None) -> None:
    """Raise a `ValueError` unless a clip is positive and bounds are not empty."""
    if drift_clip is not None:
        check_positive(drift_clip=drift_clip)
    check_bounds(bounds)
