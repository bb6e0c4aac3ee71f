r"""The recovery chain: down the noise levels, each from the one above.

Let :math:`\sigma_0 < \sigma_1 < \dots < \sigma_L` and :math:`E(\cdot, \sigma_i)` be the energy of the data noised at
:math:`\sigma_i`. Noise of deviation :math:`\tau_i`, :math:`\tau_i^2 = \sigma_{i+1}^2 - \sigma_i^2`, takes a point
:math:`x` of level :math:`i` to one of the next, :math:`\tilde x = x + \tau_i z`, and by Bayes' rule

.. math:: p(x \mid \tilde x) \propto \exp\Bigl( -E(x, \sigma_i) - \frac{\|\tilde x - x\|^2}{2 \tau_i^2} \Bigr).

However many modes the law of level :math:`i` has, this one is nearly normal if the levels are dense. Its deviation is
:math:`s_i = \sigma_i \tau_i / \sigma_{i+1}` for data without width, and :math:`\tau_i` for wide data. So chains run on
:math:`u = (x - \tilde x) / s_i`, in which every direction of every level has a deviation between 1 and
:math:`\sigma_{i+1} / \sigma_i`, and one step size is right for all.

References:
    Learning energy-based models by diffusion recovery likelihood (Gao et al., 2021), equations 3 and 4 and algorithm 2,
    there with variance-preserving noise. https://arxiv.org/abs/2012.08125
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, NamedTuple, Protocol, final

import torch
from torch import Generator, Tensor

from energyscape.calculus import EnergyFn
from energyscape.errors import UserError, check_count, check_positive
from energyscape.models.denoiser import AtLevel
from energyscape.noise import normal_like
from energyscape.samplers.base import Info, Kernel, KernelFactory, Point, evaluate_at, expand, zero_energy
from energyscape.schedules import geometric

LevelledEnergy = Callable[[Tensor, Tensor], Tensor]
"""Maps points ``(B, *)`` and their noise levels ``(B,)`` to energies ``(B,)``."""


class DescentFactory(Protocol):
    """A constructor of kernels that descend the noise levels, from an energy and a number of steps."""

    def __call__(self, energy: EnergyFn, *, steps: int) -> Kernel[Any]:
        """Return the kernel."""


class NoiseLevel(NamedTuple):
    r"""A noise level and the way up to the next.

    Args:
        sigma: :math:`\sigma_i`.
        noise: :math:`\tau_i`, the deviation of the noise between the two levels.
        unit: :math:`s_i`, the length in which chains run.
    """

    sigma: Tensor
    noise: Tensor
    unit: Tensor

    def of(self, index: Tensor) -> "NoiseLevel":
        """Return the levels at some indices."""
        return NoiseLevel(*(each[index] for each in self))


def rungs(sigmas: list[float], *, like: Tensor) -> NoiseLevel:
    """Return the noise levels of a ladder, each field ``(L,)``, lowest first."""
    sigma = torch.tensor(sigmas, dtype=like.dtype, device=like.device)
    noise = (sigma[1:].square() - sigma[:-1].square()).sqrt()
    return NoiseLevel(sigma[:-1], noise, sigma[:-1] * noise / sigma[1:])


def conditional(energy: LevelledEnergy, anchor: Tensor, rung: NoiseLevel) -> EnergyFn:
    r"""Return the energy of :math:`u` given the noised point :math:`\tilde x`, where :math:`x = \tilde x + s_i u`.

    .. math:: U(u) = E(\tilde x + s_i u, \sigma_i) + \frac{s_i^2 \|u\|^2}{2 \tau_i^2}
    """
    unit, pull = expand(rung.unit, anchor), (rung.unit / rung.noise).square() / 2

    def recovered(u: Tensor) -> Tensor:
        return energy(anchor + unit * u, rung.sigma) + pull * u.flatten(1).square().sum(1)

    return recovered


def check_temperature(kernel: KernelFactory) -> None:
    """Raise a clear error unless a kernel has temperature 1, that of its target laws."""
    temperature = kernel(zero_energy).temperature
    if temperature != 1:
        raise ValueError(f"the kernel's temperature is 1 here, that of its law; it was {temperature}: leave it out")


class Descending(NamedTuple):
    """The state of chains on their way down.

    Args:
        x: Positions, ``(C, *)``.
        energy: Energies there at the level that they are on, ``(C,)``.
        score: Minus those energies' gradients, ``(C, *)``.
        anchor: The points of the level above that they recover from, ``(C, *)``.
        steps: Steps taken since the start, one number for all chains, ``()``.
    """

    x: Tensor
    energy: Tensor
    score: Tensor
    anchor: Tensor
    steps: Tensor


@final
@dataclass(frozen=True)
class RecoveryDescent(Kernel[Descending]):
    r"""Samples from noise, by one conditional chain a level.

    .. math::
        x_L = x + \sigma_L z, \qquad
        x_i \sim p(x_i \mid x_{i+1}) \propto
        \exp\Bigl( -E(x_i, \sigma_i) - \frac{\|x_{i+1} - x_i\|^2}{2 (\sigma_{i+1}^2 - \sigma_i^2)} \Bigr),
        \qquad i = L - 1, \ldots, 0

    Chains need neither cross between modes nor be long: each level only undoes one level's noise, beginning at the
    noised point itself. The ladder must be the one that the energies were trained on. :math:`\sigma_L` must exceed the
    data's size, because only its noise hides where chains begin: they are exact if they begin at data, and nearly so
    anywhere among them.

    The levels share the steps evenly. Once down, chains are noised up to :math:`\sigma_1` and recovered by turns, which
    leaves the law of the lowest level invariant. That law is of data noised at :math:`\sigma_0`.

    Args:
        energy: The energy denoiser at the lowest level, :math:`\sigma_0`.
        kernel: The transition of the conditional chains. It carries nothing but its position, its lengths are in units
            of :math:`s_i = \sigma_i \tau_i / \sigma_{i+1}`, and it leaves its law invariant if samples are to be exact.
        sigma_max: :math:`\sigma_L > \sigma_0`, in units of ``x``.
        levels: Number of levels below it, :math:`L`; they are spaced geometrically.
        steps: Steps of the whole way, at least one a level.

    Raises:
        UserError: If the energy is no energy denoiser's, or there are fewer steps than levels.
        ValueError: If ``sigma_max`` or ``levels`` is out of its range, or the kernel's temperature is not 1.

    Examples:
        >>> from functools import partial
        >>> from energyscape.models import ScalarEnergyDenoiser
        >>> from energyscape.samplers import HMC, run
        >>> model = ScalarEnergyDenoiser(lambda u, noise: 0 * noise, data_std=1.0)
        >>> kernel = partial(HMC, step_size=0.5, leapfrog_steps=4)
        >>> descent = RecoveryDescent(model.at(0.1), kernel, sigma_max=3.2, levels=5, steps=15)
        >>> run(descent, torch.zeros(8, 2), steps=15)[0].x.shape
        torch.Size([8, 2])

    References:
        Learning energy-based models by diffusion recovery likelihood (Gao et al., 2021), algorithm 2.
        https://arxiv.org/abs/2012.08125

        Structured logconcave sampling with a restricted Gaussian oracle (Lee, Shen & Tian, 2021), section 1.2: the
        turns. https://arxiv.org/abs/2010.03106
    """

    energy: EnergyFn
    kernel: KernelFactory
    _: KW_ONLY
    sigma_max: float
    levels: int = 6
    steps: int
    temperature: float = field(default=1.0, init=False)

    def __post_init__(self) -> None:
        check_count(levels=self.levels, most=1_000)
        check_positive(sigma_max=self.sigma_max)
        if self.steps < self.levels:
            raise UserError(f"{self.levels} noise levels need at least as many steps; there were {self.steps}")
        if self.energy is not zero_energy:
            geometric(self._bottom.sigma, self.sigma_max, self.levels)
        check_temperature(self.kernel)

    def init(self, x: Tensor) -> Descending:
        top = self._rungs(x).of(torch.tensor(self.levels - 1)).sigma
        point = evaluate_at(lambda y: self._bottom.denoiser.energy(y, top.expand(len(y))), x)
        return Descending(*point, anchor=point.x, steps=torch.zeros((), dtype=torch.long, device=x.device))

    def draw(self, x: Tensor, *, generator: Generator | None = None) -> tuple[Tensor, ...]:
        return *self.kernel(zero_energy).draw(x, generator=generator), normal_like(x, generator=generator)

    def move(self, state: Descending, randomness: tuple[Tensor, ...]) -> tuple[Descending, Info]:
        *rest, z = randomness
        rung, arrived, noise = self._whereabouts(state)
        anchor = torch.where(arrived, state.x + noise * z, state.anchor)
        each = NoiseLevel(*(value.expand(len(anchor)) for value in rung))
        kernel = self.kernel(conditional(self._bottom.denoiser.energy, anchor, each))
        start = kernel.init(torch.where(arrived, 0, (state.x - anchor) / rung.unit))
        if not isinstance(start, Point):
            raise UserError(f"the conditional chains' kernel carries its position only; it was {kernel}")
        inner, info = kernel.move(start, tuple(rest))
        u, pull = inner.x, (rung.unit / rung.noise).square()
        energy = inner.energy - pull * u.flatten(1).square().sum(1) / 2
        score = (inner.score + pull * u) / rung.unit
        info = info._replace(drift=info.drift * rung.unit, noise=info.noise * rung.unit)
        return Descending(anchor + rung.unit * u, energy, score, anchor, state.steps + 1), info

    @property
    def _bottom(self) -> AtLevel:
        if not isinstance(self.energy, AtLevel):
            raise UserError(
                "a descent goes down the noise levels of an energy denoiser, which it is given at the lowest of them "
                f"(model.at(sigma)); it was given {type(self.energy).__name__}, which has no levels"
            )
        return self.energy

    def _rungs(self, like: Tensor) -> NoiseLevel:
        return rungs(geometric(self._bottom.sigma, self.sigma_max, self.levels), like=like)

    def _whereabouts(self, state: Descending) -> tuple[NoiseLevel, Tensor, Tensor]:
        """Return the rung of the next step, whether it is the first there, and the noise that begins it."""
        k, each = state.steps, self.steps // self.levels
        down = k >= self.steps
        turn = (k * self.levels // self.steps).clamp(max=self.levels - 1)
        last = ((k - 1) * self.levels).div(self.steps, rounding_mode="floor")
        arrived = torch.where(down, (k - self.steps) % each == 0, turn != last)
        rung = self._rungs(state.x).of(self.levels - 1 - turn)
        noise = torch.where(down, rung.noise, torch.where(k == 0, self.sigma_max, 0))
        return rung, arrived, noise.to(state.x.dtype)
