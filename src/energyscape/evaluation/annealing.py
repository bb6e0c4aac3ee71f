r"""The path of annealed importance sampling, and the pilot that finds it.

Between a base :math:`p_0 = e^{-E_0} / Z_0` and an energy at its temperature the path is geometric,

.. math:: E_\beta = \beta E / T + (1 - \beta) E_0, \qquad 0 \le \beta \le 1,

and for a given number of levels the variance of the log weights is least where the standard deviation of
:math:`E / T - E_0` under :math:`e^{-E_\beta}`, times the step of :math:`\beta`, is the same at every level.

References:
    Annealed importance sampling (Neal, 2001), equation 3. https://arxiv.org/abs/physics/9803008; Simulating normalizing
    constants: from importance sampling to bridge sampling to path sampling (Gelman & Meng, 1998), section 4.3.
    https://doi.org/10.1214/ss/1028905934
"""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, Protocol, final

import numpy as np
import torch
from torch import Generator, Tensor

from energyscape.calculus import EnergyFn
from energyscape.errors import UserError
from energyscape.samplers import MALA, Kernel
from energyscape.samplers.recovery import check_temperature

TARGET = 0.65
"""Target acceptance probability of the pilot: between the best of MALA, 0.574, and of long HMC trajectories."""

ROUGH = 64
"""Levels of the pilot's first walk, which locates steep parts of the path."""

CHAINS = 128
"""Chains of the pilot."""


class Base(Protocol):
    """A normalised law to start from, such as `models.Gaussian` or `models.GaussianMixture`; its temperature is 1."""

    @property
    def log_z(self) -> float:
        r""":math:`\log Z_0 = \log \int e^{-E_0(x)}\, dx`, in nats."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return the energy of each point, ``(B, *) -> (B,)``."""

    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        """Return exact draws, ``(n, *)``."""


@final
@dataclass(frozen=True)
class Path:
    r"""The path from a base to an energy, fixed before the weighted walks.

    Make one with `pilot`. A path that depended on the chains that walk it would bias their weights.

    Args:
        energy: Maps ``(C, *)`` to ``(C,)``.
        base: The law to start from.
        temperature: :math:`T > 0` of the energy.
        betas: :math:`\beta_0, \dots, \beta_K`, rising from 0 to 1.
        step_sizes: Step size of the kernel at each level; those of the two ends are not used.
        kernel: Makes the transition of a level from its energy and ``step_size=``: `MALA`, or a partial of `HMC`
            with a ``jitter``, without which trajectories of half a period return.
        moves: Transitions at each level.
    """

    energy: EnergyFn
    base: Base
    _: KW_ONLY
    temperature: float
    betas: tuple[float, ...]
    step_sizes: tuple[float, ...]
    kernel: Callable[..., Kernel[Any]] = MALA
    moves: int = 1

    def __post_init__(self) -> None:
        rising = all(low < high for low, high in zip(self.betas, self.betas[1:], strict=False))
        if len(self.betas) < 2 or self.betas[0] != 0 or self.betas[-1] != 1 or not rising:
            raise UserError(f"betas rise from 0 to 1; they were {self.betas}")
        if len(self.step_sizes) != len(self.betas) or self.moves < 1:
            raise UserError(
                f"a step size for each of {len(self.betas)} levels and at least 1 move; there were "
                f"{len(self.step_sizes)} and {self.moves}"
            )
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise UserError(f"temperature is a positive number; it was {self.temperature}")
        check_temperature(partial(self.kernel, step_size=self.step_sizes[0]))

    def at(self, level: int) -> Kernel[Any]:
        """Return the transition of a level."""
        return self.kernel(self.tempered(self.betas[level]), step_size=self.step_sizes[level])

    def tempered(self, beta: float) -> EnergyFn:
        r"""Return :math:`\beta E / T + (1 - \beta) E_0` as a function, whose values are in float64."""
        energy, base, hot = self.energy, self.base, beta / self.temperature

        def between(x: Tensor) -> Tensor:
            # At the ends one of them is ignored, even if infinite. Sums of float32 would lose small weights.
            if beta == 0:
                return base(x).double()
            return hot * energy(x).double() + (1 - beta) * base(x).double() if beta < 1 else hot * energy(x).double()

        return between


def pilot(
    energy: EnergyFn,
    base: Base,
    *,
    temperature: float = 1.0,
    levels: int = 500,
    kernel: Callable[..., Kernel[Any]] = MALA,
    moves: int = 1,
    generator: Generator | None = None,
) -> Path:
    r"""Return a path whose levels and step sizes suit an energy, found with chains that are discarded.

    Two walks down the path set the step size of each level by the acceptance of 128 chains. They place the levels so
    that the spread of :math:`E / T - E_0` between the chains, times the step of :math:`\beta`, is the same everywhere.
    This is the spacing of least variance for a given number of levels. Chains that lag behind the path make weights
    worse, never biased.

    Args:
        base: The law to start from. Wider than the energy is safe; narrower is not.
        kernel: Makes a transition from an energy and ``step_size=``; it must leave its law exactly invariant.
    """
    if levels < 1 or moves < 1:
        raise UserError(f"levels and moves are at least 1; they were {levels} and {moves}")
    # Quadratic: many levels near the base, where a landscape is steepest.
    betas = tuple((k / ROUGH) ** 2 for k in range(ROUGH + 1))
    path = Path(energy, base, temperature=temperature, betas=betas, step_sizes=(1.0,) * (ROUGH + 1), kernel=kernel)
    for count in (ROUGH, levels):
        steps, spread = _explored(path, generator)
        betas = _spaced(path.betas, spread, count)
        sizes = _interpolated(betas, path.betas, steps)
        path = Path(energy, base, temperature=temperature, betas=betas, step_sizes=sizes, kernel=kernel, moves=moves)
    return path


def _explored(path: Path, generator: Generator | None) -> tuple[list[float], list[float]]:
    """Walk a path while adapting to it; return each level's step size and the spread of E / T - E0 there."""
    x = path.base.sample(CHAINS, generator=generator)
    correction, steps, spread = 0.0, [], [_spread(path, x)]
    for level in range(1, len(path.betas)):
        energy = path.tempered(path.betas[level])
        for _ in range(40 if level == 1 else max(path.moves, -(-100 // len(path.betas)))):
            kernel = path.kernel(energy, step_size=path.step_sizes[level] * math.exp(correction))
            state, info = kernel.step(kernel.init(x), generator=generator)
            x = state.x
            # Robbins-Monro with a constant gain, because the target moves from level to level.
            correction += (float(info.accept_prob.mean()) - TARGET) / 2
            correction = max(-30.0, min(30.0, correction))
        steps.append(path.step_sizes[level] * math.exp(correction))
        spread.append(_spread(path, x))
    return [steps[0], *steps], spread


def _spread(path: Path, x: Tensor) -> float:
    """Return half the width of the central 68 % of E / T - E0: a standard deviation robust to tails."""
    with torch.no_grad():
        difference = path.tempered(1)(x) - path.tempered(0)(x)
    difference = difference[difference.isfinite()]
    if len(difference) < 2:
        return 0.0
    low, high = difference.quantile(difference.new_tensor([0.16, 0.84]))
    return float(high - low) / 2


def _spaced(betas: tuple[float, ...], spread: list[float], count: int) -> tuple[float, ...]:
    """Return levels between which the integral of the spread over beta is the same."""
    beta, density = np.array(betas), np.array(spread)
    area = np.diff(beta) * (density[1:] + density[:-1]) / 2
    # A twentieth of the mean everywhere leaves no gap where lagging chains show no spread.
    area += np.diff(beta) * (0.05 * area.sum() or 1.0)
    length = np.concatenate([[0.0], np.cumsum(area)])
    inside = np.interp(length[-1] * np.arange(1, count) / count, length, beta)
    return (0.0, *map(float, inside), 1.0)


def _interpolated(at: tuple[float, ...], betas: tuple[float, ...], steps: list[float]) -> tuple[float, ...]:
    """Return step sizes at other levels, their logarithms interpolated."""
    return tuple(map(float, np.exp(np.interp(at, betas, np.log(steps)))))
