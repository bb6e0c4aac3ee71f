r"""Solvers that run Langevin dynamics at the noise levels.

The score of data noised at :math:`\sigma` is :math:`s = (D - y) / \sigma^2`, and steps that suit the level are of size
:math:`a \sigma^2`,

.. math:: y' = y + a \sigma^2 s + \sqrt{2 a}\, \sigma z = y + a\, (D - y) + \sqrt{2 a}\, \sigma z,

so that the share :math:`a` of the noise that a step removes is the same at every level.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import final

import torch
from torch import Generator, Tensor

from energyscape.calculus import DenoiseFn
from energyscape.errors import check_count, check_positive
from energyscape.noise import normal_like
from energyscape.samplers.diffusion import Solution, Solver, check_levels


@final
@dataclass(frozen=True)
class NoiseAnnealedLangevin(Solver):
    r"""Annealed Langevin dynamics, the sampler of noise-conditional score networks.

    .. math:: y \leftarrow y + a\, (D - y) + \sqrt{2 a}\, \sigma z \quad \text{(several times at each level)},
              \qquad y' = D \quad \text{at the end}

    The papers' :math:`\epsilon` is of the lowest level, :math:`\sigma_L`. It is :math:`a \sigma_L^2` in the second
    paper, where points move by :math:`\epsilon s`, and :math:`2 a \sigma_L^2` in the first, where they move by
    :math:`\tfrac{\epsilon}{2} s`. Step :math:`i` of the solver is all steps at level :math:`i`, the last also denoises.

    Chains lag behind the levels, and so end too wide and with masses of an earlier level: the error falls with
    levels × steps each × :math:`a`. Unadjusted steps widen too, at a level where normal data
    have the variance :math:`s^2`, to :math:`(s^2 + \sigma^2) / (1 - a \sigma^2 / 2 (s^2 + \sigma^2))`, but of that
    little is left at the end. All noise of a level is drawn before it: memory for ``steps_each`` times the chains.

    Args:
        denoise: Maps ``(C, *)`` and levels ``(C,)`` to ``(C, *)``.
        sigmas: Falling levels, the last of them 0; those that a network was trained at.
        steps_each: Langevin steps at each level, :math:`T \ge 1`.
        step_size: :math:`a > 0`, in units of the squared level; by default that of `balanced_step`, the second
            paper's choice.

    Raises:
        ValueError: If the levels do not fall to 0, or a setting is out of its range.

    References:
        Generative modeling by estimating gradients of the data distribution (Song & Ermon, 2019), algorithm 1:
        :math:`T = 100`, :math:`a = 0.1`. https://arxiv.org/abs/1907.05600

        Improved techniques for training score-based generative models (Song & Ermon, 2020), algorithm 1 and
        section 3.4. https://arxiv.org/abs/2006.09011
    """

    denoise: DenoiseFn
    sigmas: Sequence[float]
    _: KW_ONLY
    steps_each: int = 5
    step_size: float | None = None

    def __post_init__(self) -> None:
        check_levels(self.sigmas)
        check_positive(share=self.share)
        check_count(steps_each=self.steps_each)

    @property
    def share(self) -> float:
        """The step size, chosen or given."""
        return balanced_step(self.sigmas, self.steps_each) if self.step_size is None else self.step_size

    @property
    def nfe(self) -> int:
        return self.steps * self.steps_each + 1

    def draw(self, state: Solution, *, generator: Generator | None = None) -> tuple[Tensor, ...]:
        return tuple(normal_like(state.x, generator=generator) for _ in range(self.steps_each))

    def move(self, state: Solution, randomness: tuple[Tensor, ...]) -> Solution:
        (sigma, below), x, d = self.interval(state), state.x, state.denoised
        a = self.share
        for z in randomness:
            d = self.clean(x, sigma)
            x = x + a * (d - x) + math.sqrt(2 * a) * sigma * z
        if not below:
            x = d = self.clean(x, sigma)
        return Solution(x, d, state.steps + 1)


@final
@dataclass(frozen=True)
class ConsistentAnnealedLangevin(Solver):
    r"""Annealed Langevin dynamics whose noise is always that of the level: one step leads to the next.

    .. math::
        y' = y + a\, (D - y) + \sqrt{\sigma'^2 - (1 - a)^2 \sigma^2}\, z, \qquad y' = D \quad \text{at the end}

    Of the noise on :math:`y` the share :math:`1 - a` is left, and fresh noise fills up what is missing to
    :math:`\sigma'`. So the levels must not fall faster than the noise: :math:`\sigma' \ge (1 - a)\, \sigma`.

    It is right for data that are one point, and narrows others: normal data of variance :math:`s^2` come out with about
    :math:`(1 - a / 2)\, s^2` where the ladder is fine. Small :math:`a` and many levels go together.

    Args:
        denoise: Maps ``(C, *)`` and levels ``(C,)`` to ``(C, *)``.
        sigmas: Falling levels, the last of them 0.
        step_size: :math:`a` in (0, 1], in units of the squared level.

    Raises:
        ValueError: If the levels do not fall to 0, fall too fast, or ``step_size`` is out of its range.

    References:
        Adversarial score matching and improved sampling for image generation (Jolicoeur-Martineau et al., 2021),
        algorithm 2. https://arxiv.org/abs/2009.05475
    """

    denoise: DenoiseFn
    sigmas: Sequence[float]
    _: KW_ONLY
    step_size: float

    def __post_init__(self) -> None:
        check_levels(self.sigmas)
        if not 0 < self.step_size <= 1:
            raise ValueError(f"step_size is in (0, 1]; it was {self.step_size}")
        fastest = max((1 - low / high for high, low in itertools.pairwise(self.sigmas[:-1])), default=0.0)
        if self.step_size < fastest:
            raise ValueError(
                f"from one level to the next the noise falls by the share {fastest:.3g}, more than a step of "
                f"{self.step_size} removes: take a larger step_size or more levels"
            )

    @property
    def nfe(self) -> int:
        return self.steps

    def draw(self, state: Solution, *, generator: Generator | None = None) -> tuple[Tensor, ...]:
        return (normal_like(state.x, generator=generator),)

    def move(self, state: Solution, randomness: tuple[Tensor, ...]) -> Solution:
        (z,), (sigma, below) = randomness, self.interval(state)
        d = self.clean(state.x, sigma)
        kept = 1 - self.step_size
        fresh = math.sqrt(max(below**2 - (kept * sigma) ** 2, 0.0))
        return Solution(d + kept * (state.x - d) + fresh * z if below else d, d, state.steps + 1)


@final
@dataclass(frozen=True)
class PredictorCorrector(Solver):
    r"""A step of the reversed diffusion, then Langevin steps at the level where it arrives.

    .. math::
        y' = y + (\sigma^2 - \sigma'^2)\, s(y, \sigma) + \sqrt{\sigma^2 - \sigma'^2}\, z, \qquad
        y' \leftarrow y' + \epsilon\, g + \sqrt{2 \epsilon}\, z', \qquad
        g = s(y', \sigma'), \qquad \epsilon = 2 \Bigl( \frac{r \|z'\|}{\|g\|} \Bigr)^2

    The last step is the prediction without its noise, which is :math:`D`. The norms are means over all chains, as in
    the paper: of one chain alone the score may be nearly zero, and its step without bounds. It is the one thing that
    chains here share; those that are not finite are left out of it.

    Args:
        denoise: Maps ``(C, *)`` and levels ``(C,)`` to ``(C, *)``.
        sigmas: Falling levels, the last of them 0.
        snr: :math:`r > 0`, signal to noise of a correction.
        corrections: Langevin steps at each level, at least 0.

    Raises:
        ValueError: If the levels do not fall to 0, or a setting is out of its range.

    References:
        Score-based generative modeling through stochastic differential equations (Song et al., 2021), algorithms 2
        and 4. https://arxiv.org/abs/2011.13456
    """

    denoise: DenoiseFn
    sigmas: Sequence[float]
    _: KW_ONLY
    snr: float = 0.16
    corrections: int = 1

    def __post_init__(self) -> None:
        check_levels(self.sigmas)
        check_positive(snr=self.snr)
        check_count(corrections=self.corrections, least=0, most=1_000)

    @property
    def nfe(self) -> int:
        return self.steps + (self.steps - 1) * self.corrections

    def draw(self, state: Solution, *, generator: Generator | None = None) -> tuple[Tensor, ...]:
        return tuple(normal_like(state.x, generator=generator) for _ in range(1 + self.corrections))

    def move(self, state: Solution, randomness: tuple[Tensor, ...]) -> Solution:
        (first, *others), (sigma, below) = randomness, self.interval(state)
        d = self.clean(state.x, sigma)
        if not below:
            return Solution(d, d, state.steps + 1)
        x = state.x + (1 - (below / sigma) ** 2) * (d - state.x) + math.sqrt(sigma**2 - below**2) * first
        for z in others:
            d = self.clean(x, below)
            g = (d - x) / below**2
            epsilon = 2 * (self.snr * mean_norm(z) / mean_norm(g)).square()
            x = x + epsilon * g + (2 * epsilon).sqrt() * z
        return Solution(x, d, state.steps + 1)


def mean_norm(x: Tensor) -> Tensor:
    """Return the mean Euclidean norm of the finite chains, ``()``."""
    norm = x.flatten(1).norm(dim=1)
    return torch.where(norm.isfinite(), norm, torch.nan).nanmean()


def balanced_step(sigmas: Sequence[float], steps_each: int) -> float:
    r"""Return the step size that best keeps annealed Langevin dynamics at the noise of its levels.

    Data that are one point have the score :math:`-y / \sigma^2`. Points that arrive with the noise of the level above,
    :math:`\gamma` times larger, have after :math:`T` steps a variance of

    .. math:: (1 - a)^{2 T} \Bigl( \gamma^2 - \frac{1}{1 - a / 2} \Bigr) + \frac{1}{1 - a / 2}

    in units of :math:`\sigma^2`, which is always above 1. The returned step size minimises it.

    Examples:
        >>> from energyscape.schedules import Geometric
        >>> round(balanced_step(Geometric(sigma_min=0.01, sigma_max=50.0)(232), 5), 3)  # the paper: 6.2e-6 / 0.01²
        0.062

    References:
        Improved techniques for training score-based generative models (Song & Ermon, 2020), proposition 3 and
        technique 4. https://arxiv.org/abs/2006.09011
    """
    if len(sigmas) < 3:
        raise ValueError("one level alone has no step size that suits it: give step_size")
    ratio = max(high / low for high, low in itertools.pairwise(sigmas[:-1]))

    def variance(a: float) -> float:
        settled = 1 / (1 - a / 2)
        return (1 - a) ** (2 * steps_each) * (ratio**2 - settled) + settled

    return min((10 ** (-k / 500) for k in range(1, 2500)), key=variance)
