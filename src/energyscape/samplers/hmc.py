r"""Hamiltonian Monte Carlo.

With :math:`H(x, v) = E(x) + \tfrac12 \|v\|^2`, the law :math:`\exp(-H / T)` has :math:`\exp(-E / T)` as its marginal
and :math:`N(0, T I)` momenta. The leapfrog map is reversible and keeps volume, so its energy error alone decides the
Metropolis test.

Momenta :math:`p \sim N(0, T M)` with a mass :math:`M = (S S^\top)^{-1}` are the same as velocities
:math:`v = S^\top p` and steps of :math:`\epsilon S v`: a preconditioner gives every direction its own
step.
"""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import final

from torch import Generator, Tensor

from energyscape.calculus import EnergyFn
from energyscape.errors import check_count, check_positive
from energyscape.noise import normal_like
from energyscape.samplers.base import (
    Info,
    Kernel,
    Point,
    check_bounds,
    evaluate_at,
    expand,
    hamiltonian,
    home,
    metropolis,
    rms,
)
from energyscape.samplers.scale import check_scale, check_shape, rotates, unwhiten, whitened_score


@final
@dataclass(frozen=True)
class HMC(Kernel[Point]):
    r"""Hamiltonian Monte Carlo with the leapfrog integrator.

    .. math::
        v \leftarrow v + \tfrac{\epsilon}{2} S^\top s(x), \quad x \leftarrow x + \epsilon S v, \quad
        v \leftarrow v + \tfrac{\epsilon}{2} S^\top s(x) \qquad (L \text{ times})

    The step :math:`\epsilon` has the units of ``x``, that of `Langevin` its square: one leapfrog step is a Langevin
    step of :math:`\eta = \epsilon^2 / 2`. A transition evaluates the gradient :math:`L` times, because the last one is
    kept in the state.

    Args:
        energy: Maps ``(C, *)`` to ``(C,)``.
        step_size: :math:`\epsilon > 0`, in units of ``x``; with a ``scale``, in units of that.
        leapfrog_steps: :math:`L \ge 1`.
        temperature: :math:`T > 0`.
        jitter: :math:`0 \le j < 1`; each transition of each chain takes :math:`u\, \epsilon` for its step, with its own
            :math:`u` uniform on :math:`[1 - j, 1]`. Without it a length that is half a period of some coordinate
            only reflects that coordinate back and forth.
        scale: The preconditioner :math:`S`: the standard deviation of each coordinate, of the event's shape
            ``(*)``, or for vectors a lower triangular ``(d, d)``, :math:`S S^\top` the covariance and the inverse mass.
            One by default.
        bounds: Lowest and highest value of an element of ``x``: the box that chains stay in. Trajectories follow the
            energy's mirror image beyond its walls and are mirrored back, which is exact where the scale is no matrix.

    Raises:
        ValueError: If a setting is out of its range, or ``scale`` has not the event's shape or no inverse, or is a
            matrix where there are bounds.

    References:
        MCMC using Hamiltonian dynamics (Neal, 2011), section 5.3.2, and 5.4.2.2 for the jitter and 5.4.2.4 for the
        scale. https://arxiv.org/abs/1206.1901
    """

    adjusted = True
    energy: EnergyFn
    _: KW_ONLY
    step_size: float
    leapfrog_steps: int = 10
    temperature: float = 1.0
    jitter: float = 0.0
    scale: Tensor | None = None
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_positive(step_size=self.step_size, temperature=self.temperature)
        check_count(leapfrog_steps=self.leapfrog_steps, most=1_000)
        if not 0 <= self.jitter < 1:
            raise ValueError(f"jitter is at least 0 and below 1; it was {self.jitter}")
        if self.scale is not None:
            check_scale(self.scale)
        check_bounds(self.bounds)

    def init(self, x: Tensor) -> Point:
        if self.scale is not None:
            check_shape(self.scale, x)
            if self.bounds is not None and rotates(self.scale, x):
                raise ValueError("a scale with correlations has no mirror image at bounds: leave either out")
        return evaluate_at(self.energy, self.confined(x))

    def draw(self, x: Tensor, *, generator: Generator | None = None) -> tuple[Tensor, ...]:
        z, uniform = normal_like(x, generator=generator), x.new_empty(len(x)).uniform_(generator=generator)
        return (z, uniform, x.new_empty(len(x)).uniform_(generator=generator)) if self.jitter else (z, uniform)

    def move(self, state: Point, randomness: tuple[Tensor, ...]) -> tuple[Point, Info]:
        for new, v in self.trajectory(state, randomness):
            end = new, v
        return self.decide(state, *end, randomness)

    def trajectory(self, state: Point, randomness: tuple[Tensor, ...]) -> Iterator[tuple[Point, Tensor]]:
        """Yield the point and the velocity after each leapfrog step."""
        point, step, v = state, self._step(randomness), self.temperature**0.5 * randomness[0]
        score = whitened_score(point.score, self.scale)
        for _ in range(self.leapfrog_steps):
            v = v + step / 2 * score
            point = evaluate_at(self.energy, point.x + step * unwhiten(v, self.scale), self.bounds)
            score = whitened_score(point.score, self.scale)
            v = v + step / 2 * score
            yield point, v

    def log_ratio(self, state: Point, new: Point, v: Tensor, randomness: tuple[Tensor, ...]) -> Tensor:
        r"""Return :math:`-\Delta H / T` of a trajectory, ``(C,)``."""
        v0: Tensor = self.temperature**0.5 * randomness[0]
        # Summed differences: H itself may be large where its change is small.
        change = new.energy - state.energy + ((v - v0) * (v + v0)).flatten(1).sum(1) / 2
        return -change / self.temperature

    def decide(self, state: Point, new: Point, v: Tensor, randomness: tuple[Tensor, ...]) -> tuple[Point, Info]:
        """Return the state after the Metropolis test of a trajectory, and its facts."""
        log_ratio, v0 = self.log_ratio(state, new, v, randomness), self.temperature**0.5 * randomness[0]
        point, accept_prob, accepted, diverged = metropolis(state, new, log_ratio, randomness[1])
        free = self._step(randomness) * self.leapfrog_steps * unwhiten(v0, self.scale)
        drift = rms(new.x - state.x - free).where(~diverged, 0)
        total = hamiltonian(state, v0)
        return home(point, self.bounds), Info(accept_prob, accepted, diverged, drift, rms(free), -log_ratio, total)

    def _step(self, randomness: tuple[Tensor, ...]) -> float | Tensor:
        """Return the length of a leapfrog step, for each chain where these differ."""
        return (
            self.step_size * (1 - self.jitter * expand(randomness[2], randomness[0])) if self.jitter else self.step_size
        )
