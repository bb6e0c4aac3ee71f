r"""Solvers of second order: their error falls with the square of the step.

Heun's method evaluates the denoiser at both ends of a step. The multistep solvers reuse its output at the previous
level: in the time :math:`\lambda = -\ln \sigma` the ordinary equation is

.. math:: \frac{dy}{d\lambda} = D - y, \qquad
          y' = \frac{\sigma'}{\sigma}\, y + \sigma' \int_\lambda^{\lambda'} e^\mu\, D\, d\mu,

of which all but :math:`D` is integrated exactly, and :math:`D` is extrapolated linearly in :math:`\lambda`.

References:
    DPM-Solver++: fast solver for guided sampling of diffusion probabilistic models (Lu et al., 2022), equation 8.
    https://arxiv.org/abs/2211.01095
"""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, final

from torch import Generator, Tensor

from energyscape.calculus import DenoiseFn
from energyscape.errors import check_positive
from energyscape.noise import normal_like
from energyscape.samplers.diffusion import Solution, Solver, check_levels


@final
@dataclass(frozen=True)
class Heun(Solver):
    r"""EDM's sampler: Heun's method for the ordinary differential equation, with or without churn; order 2.

    .. math::
        \hat\sigma &= (1 + \gamma)\, \sigma, \qquad
        \hat y = y + \sqrt{\hat\sigma^2 - \sigma^2}\, S_{\text{noise}}\, z, \qquad
        g = \frac{\hat y - D(\hat y, \hat\sigma)}{\hat\sigma} \\
        \tilde y &= \hat y + (\sigma' - \hat\sigma)\, g, \qquad
        g' = \frac{\tilde y - D(\tilde y, \sigma')}{\sigma'}, \qquad
        y' = \hat y + (\sigma' - \hat\sigma)\, \frac{g + g'}{2}

    with :math:`\gamma = \min(S_{\text{churn}} / N, \sqrt 2 - 1)` where
    :math:`S_{\text{tmin}} \le \sigma \le S_{\text{tmax}}`, and 0 elsewhere. The step to :math:`\sigma' = 0` is an
    Euler step, because the equation is singular there. Other steps cost two evaluations.

    Churn corrects errors of the denoiser by adding fresh noise; an exact one gains nothing.

    Args:
        denoise: Maps ``(C, *)`` and levels ``(C,)`` to ``(C, *)``.
        sigmas: Falling levels, the last of them 0.
        churn: :math:`S_{\text{churn}} \ge 0`.
        churn_from: :math:`S_{\text{tmin}}`, the lowest level that is churned, in units of ``x``.
        churn_to: :math:`S_{\text{tmax}}`, the highest.
        churn_noise: :math:`S_{\text{noise}}`, a little above 1 where the denoiser removes too much.

    Raises:
        ValueError: If the levels do not fall to 0, or a setting is out of its range.

    References:
        Elucidating the design space of diffusion-based generative models (Karras et al., 2022), algorithm 2.
        https://arxiv.org/abs/2206.00364
    """

    denoise: DenoiseFn
    sigmas: Sequence[float]
    _: KW_ONLY
    churn: float = 0.0
    churn_from: float = 0.0
    churn_to: float = math.inf
    churn_noise: float = 1.0

    def __post_init__(self) -> None:
        check_levels(self.sigmas)
        check_positive(churn_noise=self.churn_noise)
        if not 0 <= self.churn < math.inf or not 0 <= self.churn_from <= self.churn_to:
            raise ValueError(
                "churn ≥ 0 and 0 ≤ churn_from ≤ churn_to; they were "
                f"{self.churn}, {self.churn_from} and {self.churn_to}"
            )

    @property
    def nfe(self) -> int:
        return 2 * self.steps - 1

    def draw(self, state: Solution, *, generator: Generator | None = None) -> tuple[Tensor, ...]:
        return (normal_like(state.x, generator=generator),) if self.churn else ()

    def move(self, state: Solution, randomness: tuple[Tensor, ...]) -> Solution:
        sigma, below = self.interval(state)
        churned = self.churn_from <= sigma <= self.churn_to
        high = sigma * (1 + min(self.churn / self.steps, math.sqrt(2) - 1) * churned)
        x = state.x + sum(math.sqrt(high**2 - sigma**2) * self.churn_noise * z for z in randomness)
        d = self.clean(x, high)
        slope = (x - d) / high
        new = x + (below - high) * slope
        if below:
            d = self.clean(new, below)
            new = x + (below - high) * (slope + (new - d) / below) / 2
        return Solution(new, d, state.steps + 1)


@final
@dataclass(frozen=True)
class DPMSolver(Solver):
    r"""DPM-Solver++(2M): a multistep solver of the ordinary equation in the time :math:`-\ln \sigma`; order 2.

    .. math::
        y' = \frac{\sigma'}{\sigma}\, y + \Bigl( 1 - \frac{\sigma'}{\sigma} \Bigr)
        \Bigl( D + \frac{D - D_-}{2 r} \Bigr), \qquad
        r = \frac{\ln (\sigma_- / \sigma)}{\ln (\sigma / \sigma')}

    where :math:`D_-` is the output at the previous level :math:`\sigma_-`. A step costs one evaluation. The first step,
    which has no previous level, and the last, which has no logarithm, are of order 1.

    Args:
        denoise: Maps ``(C, *)`` and levels ``(C,)`` to ``(C, *)``.
        sigmas: Falling levels, the last of them 0.

    Raises:
        ValueError: If the levels do not fall to 0.

    References:
        DPM-Solver++: fast solver for guided sampling of diffusion probabilistic models (Lu et al., 2022), algorithm 2.
        https://arxiv.org/abs/2211.01095
    """

    multistep: ClassVar[bool] = True
    denoise: DenoiseFn
    sigmas: Sequence[float]

    def __post_init__(self) -> None:
        check_levels(self.sigmas)

    @property
    def nfe(self) -> int:
        return self.steps

    def draw(self, state: Solution, *, generator: Generator | None = None) -> tuple[Tensor, ...]:
        return ()

    def move(self, state: Solution, randomness: tuple[Tensor, ...]) -> Solution:
        sigma, below = self.interval(state)
        d = self.clean(state.x, sigma)
        target = extrapolated(self.sigmas, state, d)
        return Solution(target + below / sigma * (state.x - target), d, state.steps + 1)


@final
@dataclass(frozen=True)
class DPMSolverSDE(Solver):
    r"""SDE-DPM-Solver++(2M): the multistep solver of the stochastic equation.

    .. math::
        y' = \frac{\sigma'^2}{\sigma^2}\, y + \Bigl( 1 - \frac{\sigma'^2}{\sigma^2} \Bigr)
        \Bigl( D + \frac{D - D_-}{2 r} \Bigr) + \sigma' \sqrt{1 - \sigma'^2 / \sigma^2}\, z

    with :math:`D_-` and :math:`r` as for `DPMSolver`. Without :math:`D_-` it is `DDPM` with its smaller variance.

    Args:
        denoise: Maps ``(C, *)`` and levels ``(C,)`` to ``(C, *)``.
        sigmas: Falling levels, the last of them 0.

    Raises:
        ValueError: If the levels do not fall to 0.

    References:
        DPM-Solver++: fast solver for guided sampling of diffusion probabilistic models (Lu et al., 2022), SDE form.
        https://arxiv.org/abs/2211.01095
    """

    multistep: ClassVar[bool] = True
    denoise: DenoiseFn
    sigmas: Sequence[float]

    def __post_init__(self) -> None:
        check_levels(self.sigmas)

    @property
    def nfe(self) -> int:
        return self.steps

    def draw(self, state: Solution, *, generator: Generator | None = None) -> tuple[Tensor, ...]:
        return (normal_like(state.x, generator=generator),)

    def move(self, state: Solution, randomness: tuple[Tensor, ...]) -> Solution:
        (z,), (sigma, below) = randomness, self.interval(state)
        d = self.clean(state.x, sigma)
        target, kept = extrapolated(self.sigmas, state, d), (below / sigma) ** 2
        x = target + kept * (state.x - target) + below * math.sqrt(1 - kept) * z
        return Solution(x, d, state.steps + 1)


def extrapolated(sigmas: Sequence[float], state: Solution, d: Tensor) -> Tensor:
    """Return :math:`D + (D - D_-) / 2 r`, the extrapolated output of the denoiser half-way through a step."""
    i = state.steps
    if i == 0 or not sigmas[i + 1]:
        return d
    r = math.log(sigmas[i - 1] / sigmas[i]) / math.log(sigmas[i] / sigmas[i + 1])
    return d + (d - state.denoised) / (2 * r)
