"""Langevin steps at a falling temperature."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple, final

import torch
from torch import Generator, Tensor

from energyscape.calculus import EnergyFn
from energyscape.errors import check_count, check_positive
from energyscape.noise import normal_like
from energyscape.samplers.base import Info, Kernel, Walls, evaluate_at, hamiltonian, unadjusted
from energyscape.samplers.langevin import check_limits, clipped


class Cooling(NamedTuple):
    """The state of chains and of their cooling.

    Args:
        x: Positions, ``(C, *)``.
        energy: Energies there, ``(C,)``.
        score: Minus the energies' gradients there, ``(C, *)``.
        steps: Steps taken since the start, one number for all chains, ``()``.
    """

    x: Tensor
    energy: Tensor
    score: Tensor
    steps: Tensor


@final
@dataclass(frozen=True)
class AnnealedLangevin(Kernel[Cooling]):
    r"""Unadjusted Langevin steps at a temperature that falls geometrically, and then stays.

    .. math::
        x_{k+1} = \operatorname{reflect}\bigl(x_k + \operatorname{clip}(\eta\, s(x_k)) + \sqrt{2 \eta T_k}\, z\bigr),
        \qquad T_k = T_0 (T / T_0)^{\min(k / n, 1)}

    It finds low regions from far away; it does not weigh them. Once all :math:`n` steps of the fall are done the kernel
    is `Langevin` at :math:`T` with that kernel's *biased* law. Once chains no longer cross between modes, the modes'
    weights stay those of the temperature at which they last did. `ParallelTempering` has the right ones.

    Every start begins at :math:`T_0` again: give ``anneal_steps`` fewer than the steps that you take.

    Args:
        energy: Maps ``(C, *)`` to ``(C,)``.
        step_size: :math:`\eta > 0`, in squared units of ``x``.
        hottest: :math:`T_0 \ge T`, of the first step.
        anneal_steps: Steps :math:`n \ge 1` of the fall.
        temperature: :math:`T > 0`, of step :math:`n` and of all after it.
        drift_clip: Largest absolute value of one element of the drift :math:`\eta\, s`, in units of ``x``.
        bounds: Lowest and highest value of an element of ``x``: the box that chains stay in.
        walls: Steps beyond the box are reflected at its walls, which leaves a law on the box as it is, or clamped to
            them, which gathers chains on the walls.

    Raises:
        ValueError: If a setting is out of its range.

    References:
        Optimization by simulated annealing (Kirkpatrick, Gelatt & Vecchi, 1983).
        https://doi.org/10.1126/science.220.4598.671
    """

    energy: EnergyFn
    _: KW_ONLY
    step_size: float
    hottest: float
    anneal_steps: int
    temperature: float = 1.0
    drift_clip: float | None = None
    bounds: tuple[float, float] | None = None
    walls: Walls = "reflect"

    def __post_init__(self) -> None:
        check_positive(step_size=self.step_size, temperature=self.temperature)
        check_count(anneal_steps=self.anneal_steps, most=1_000_000)
        check_limits(self.drift_clip, self.bounds)
        if not self.temperature <= self.hottest < math.inf:
            raise ValueError(
                f"hottest is finite and at least the temperature {self.temperature}; it was {self.hottest}"
            )

    def init(self, x: Tensor) -> Cooling:
        return Cooling(
            *evaluate_at(self.energy, self.confined(x)), steps=torch.zeros((), dtype=torch.long, device=x.device)
        )

    def draw(self, x: Tensor, *, generator: Generator | None = None) -> tuple[Tensor]:
        return (normal_like(x, generator=generator),)

    def move(self, state: Cooling, randomness: tuple[Tensor, ...]) -> tuple[Cooling, Info]:
        (z,) = randomness
        fallen = state.steps.clamp(max=self.anneal_steps).to(z.dtype) / self.anneal_steps
        temperature = self.hottest * (self.temperature / self.hottest) ** fallen
        drift = clipped(self.step_size * state.score, self.drift_clip)
        noise = (2 * self.step_size * temperature) ** 0.5 * z
        new = evaluate_at(self.energy, self.confined(state.x + drift + noise))
        point, info = unadjusted(state, new, drift, noise, hamiltonian(state, temperature**0.5 * z))
        return Cooling(*point, steps=state.steps + 1), info
