r"""Sampling down a ladder of noise levels, with a Markov kernel at each.

Let :math:`\sigma_0 > \sigma_1 > \dots > \sigma_L` and :math:`E(\cdot, \sigma_i)` be energies of which neighbours differ
little. Chains begin at the highest level, where the law is nearly normal, and take some steps of a Markov kernel at
each that leaves :math:`e^{-E(x, \sigma_i)}` invariant.

The laws of the levels need not be those of noised data, as a solver or a recovery chain presumes. Composed energies
need this, and any other energy can be sampled so as well.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Generator, Tensor

from energyscape.calculus import EnergyFn
from energyscape.errors import UserError
from energyscape.samplers.base import Info, KernelFactory
from energyscape.samplers.driver import simulate
from energyscape.samplers.recovery import LevelledEnergy


class Rested(NamedTuple):
    """The state of chains on a rung.

    Args:
        x: Positions, ``(C, *)``.
        sigma: The level that they are on.
        info: Facts of their last step, lengths in units of ``x``.
    """

    x: Tensor
    sigma: float
    info: Info


def descend(
    levels: LevelledEnergy,
    x: Tensor,
    *,
    sigmas: Sequence[float],
    kernel: KernelFactory,
    steps: int,
    detail: float = 0.0,
    generator: Generator | None = None,
) -> Iterator[Rested]:
    r"""Sample energies level by level; yield the chains after every step.

    A kernel runs on :math:`u = x / r_i` with :math:`r_i = \sqrt{\sigma_i^2 + \delta^2}`, the least width that data
    noised at :math:`\sigma_i` have, so that one step size is right for all levels.

    At the lowest level the chains are exact in the limit of many steps there, and nearly so after few if each level's
    law is like the next one's. The limit is the odds between modes: they are those of the levels at which chains still
    crossed, and no step at a lower level corrects them. Take more steps, or more levels, above that.

    Args:
        levels: Energies of points and levels, such as `ComposedLevels` or an energy denoiser's ``energy``.
        x: Starting positions, ``(C, *)``: near the law of the highest level, such as normal with deviation
            :math:`\sigma_0`, or :math:`\sigma_0 / \sqrt n` for a product of n laws.
        sigmas: :math:`\sigma_0 > \dots > \sigma_L > 0`, in units of ``x``.
        kernel: The transition, its lengths in units of :math:`r_i`; `HMC` or `MALA`, because unadjusted ones are
            biased. A product of n laws is narrower by up to :math:`\sqrt n`.
        steps: Steps of the kernel at each level.
        detail: :math:`\delta \ge 0`, the least width of clean data, in units of ``x``.
        generator: The stream to draw from.

    Raises:
        UserError: If the levels do not fall or reach 0, or a setting is out of its range.

    Examples:
        >>> import torch
        >>> from functools import partial
        >>> from energyscape.samplers import HMC
        >>> hmc = partial(HMC, step_size=0.5, leapfrog_steps=4)
        >>> flat_data = lambda x, sigma: x.square().sum(1) / (2 * (1 + sigma**2))
        >>> *_, last = descend(flat_data, 9 * torch.randn(8, 2), sigmas=[9.0, 3.0, 1.0, 0.3], kernel=hmc, steps=5)
        >>> last.sigma, last.x.shape
        (0.3, torch.Size([8, 2]))

    References:
        Reduce, reuse, recycle: compositional generation with energy-based diffusion models and MCMC (Du et al., 2023),
        algorithm 1. https://arxiv.org/abs/2302.11552
    """
    if not sigmas or sigmas[-1] <= 0 or any(high <= low for high, low in itertools.pairwise(sigmas)):
        raise UserError(f"levels fall and stay above 0, where an energy denoiser has none; they were {list(sigmas)}")
    if steps < 1 or not detail >= 0:
        raise UserError(f"steps is at least 1 and detail at least 0; they were {steps} and {detail}")
    for sigma in sigmas:
        unit = math.hypot(sigma, detail)
        rung = kernel(_level(levels, sigma, unit))
        for state, info in itertools.islice(simulate(rung, x / unit, generator=generator), steps):
            x = unit * state.x
            yield Rested(x, sigma, info._replace(drift=unit * info.drift, noise=unit * info.noise))


def _level(levels: LevelledEnergy, sigma: float, unit: float) -> EnergyFn:
    """Return the energy at one level, of points in its unit of length."""

    def energy(u: Tensor) -> Tensor:
        return levels(unit * u, u.new_full((len(u),), sigma))

    return energy
