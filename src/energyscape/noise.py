r"""Noise levels: :math:`\sigma` is the only clock.

A noised point is :math:`y = x + \sigma z` with :math:`z \sim N(0, I)`; for the density :math:`p_\sigma` of noised
points, Tweedie's formula gives the mean of what was there before the noise,

.. math:: E[x \mid y] = y + \sigma^2 \nabla_y \log p_\sigma(y).

A `Grid` is the levels that a solver visits on its way from noise to data. Whatever scales a paper's points have, its
levels are those of :math:`y`: :math:`\sigma = \sqrt{(1 - \bar\alpha) / \bar\alpha}` where its points are
:math:`\sqrt{\bar\alpha}\, y`, and :math:`t / (1 - t)` where they are :math:`(1 - t)\, y`.

References:
    An empirical Bayes approach to statistics (Robbins, 1956); Tweedie's formula and selection bias (Efron, 2011),
    equation 2.8. https://doi.org/10.1198/jasa.2011.tm11181
"""

import functools
import math
from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass
from typing import Literal, final

from torch import Generator, Tensor

from energyscape.calculus import EnergyFn, score
from energyscape.errors import check_count
from energyscape.registry import Registry


def normal_like(x: Tensor, *, generator: Generator | None = None) -> Tensor:
    """Return standard normal numbers of the shape, dtype and device of ``x``."""
    return x.new_empty(x.shape).normal_(generator=generator)  # empty_like would copy the layout, and draw in its order


def uniform_like(x: Tensor, *, generator: Generator | None = None) -> Tensor:
    """Return numbers uniform on [0, 1) of the shape, dtype and device of ``x``."""
    return x.new_empty(x.shape).uniform_(generator=generator)


def noised(x: Tensor, sigma: float, *, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
    r"""Return :math:`y = x + \sigma z` and the noise :math:`z`."""
    z = normal_like(x, generator=generator)
    return x + sigma * z, z


def geometric(low: float, high: float, steps: int) -> list[float]:
    r"""Return noise levels, evenly spaced in logarithm: :math:`\sigma_k = \sigma_0\, (\sigma_n / \sigma_0)^{k / n}`.

    Examples:
        >>> [round(sigma, 9) for sigma in geometric(0.5, 4.0, 3)]
        [0.5, 1.0, 2.0, 4.0]
    """
    if not 0 < low < high < math.inf or steps < 1:
        raise ValueError(f"0 < sigma_min < sigma_max and at least one level; they were {low}, {high} and {steps}")
    return [low * (high / low) ** (k / steps) for k in range(steps)] + [high]


def tweedie(energy: EnergyFn, y: Tensor, sigma: float, *, temperature: float = 1.0) -> Tensor:
    r"""Return the posterior mean :math:`y - \sigma^2\, \nabla E(y) / T` of the point before the noise.

    It is the truth only where :math:`\exp(-E / T)` is the density of data noised at this very :math:`\sigma`.
    """
    return y + sigma**2 / temperature * score(energy, y)


class Grid(ABC):
    """The noise levels between noise and data."""

    @abstractmethod
    def levels(self, steps: int) -> list[float]:
        """Return the levels that steps set out from, falling.

        Args:
            steps: How many, at least one.

        Raises:
            ValueError: If the grid has not so many.
        """

    @final
    def __call__(self, steps: int) -> list[float]:
        """Return ``steps + 1`` levels, falling, the last of them 0."""
        if steps < 1:
            raise ValueError(f"a grid has at least one step; it was {steps}")
        return [*self.levels(steps), 0.0]


@final
@dataclass(frozen=True)
class Karras(Grid):
    r"""EDM's levels: short steps where the noise is low.

    .. math::
        \sigma_i = \Bigl( \sigma_{\max}^{1/\rho}
        + \tfrac{i}{N - 1} \bigl( \sigma_{\min}^{1/\rho} - \sigma_{\max}^{1/\rho} \bigr) \Bigr)^\rho,
        \qquad i < N, \qquad \sigma_N = 0

    Args:
        sigma_min: The lowest level but 0, in units of ``x``; below the data's finest detail.
        sigma_max: The highest; far above the data's size.
        rho: :math:`\rho > 0`; 1 is evenly spaced, and the limit of high ones is geometric.

    Raises:
        ValueError: If the levels do not rise from ``sigma_min`` to ``sigma_max``, or ``rho`` is not positive.

    Examples:
        >>> [round(sigma, 3) for sigma in Karras(sigma_min=0.002, sigma_max=80.0)(5)]
        [80.0, 17.528, 2.515, 0.17, 0.002, 0.0]

    References:
        Elucidating the design space of diffusion-based generative models (Karras et al., 2022), equation 5.
        https://arxiv.org/abs/2206.00364
    """

    _: KW_ONLY
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        geometric(self.sigma_min, self.sigma_max, 1)
        if not 0.1 <= self.rho <= 100:
            raise ValueError(f"rho is from 0.1 to 100; it was {self.rho}")

    def levels(self, steps: int) -> list[float]:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return [(high + i / (steps - 1 or 1) * (low - high)) ** self.rho for i in range(steps)]


@final
@dataclass(frozen=True)
class Geometric(Grid):
    r"""The ladder of noise-conditional score networks: levels with one ratio, and then none.

    .. math::
        \sigma_i = \sigma_{\max} (\sigma_{\min} / \sigma_{\max})^{i / (N - 1)}, \qquad i < N, \qquad \sigma_N = 0

    Args:
        sigma_min: The lowest level but 0, in units of ``x``.
        sigma_max: The highest; about the largest distance between two data points.

    Raises:
        ValueError: If the levels do not rise from ``sigma_min`` to ``sigma_max``.

    Examples:
        >>> [round(sigma, 9) for sigma in Geometric(sigma_min=0.5, sigma_max=4.0)(4)]
        [4.0, 2.0, 1.0, 0.5, 0.0]

    References:
        Generative modeling by estimating gradients of the data distribution (Song & Ermon, 2019), section 4.2.
        https://arxiv.org/abs/1907.05600
    """

    _: KW_ONLY
    sigma_min: float
    sigma_max: float

    def __post_init__(self) -> None:
        geometric(self.sigma_min, self.sigma_max, 1)

    def levels(self, steps: int) -> list[float]:
        if steps == 1:
            return [self.sigma_max]
        return geometric(self.sigma_min, self.sigma_max, steps - 1)[::-1]


@final
@dataclass(frozen=True)
class LinearBeta(Grid):
    r"""Some levels of DDPM's chain, whose :math:`\beta` are evenly spaced.

    .. math::
        \sigma_t = \sqrt{(1 - \bar\alpha_t) / \bar\alpha_t}, \qquad \bar\alpha_t = \prod_{s \le t} (1 - \beta_s),
        \qquad t \in \{0, \dots, T - 1\}

    Which steps :math:`t` of the chain are visited, from the noise's side:

    - ``"trailing"``: :math:`\operatorname{round}(T - i\, T / N) - 1`, from the chain's end;
    - ``"leading"``: :math:`\lfloor T / N \rfloor (N - 1 - i)`, down to its beginning: with few steps it sets out from
      a level far below the one that was trained as pure noise;
    - ``"linspace"``: evenly from the end to the beginning, both included.

    Args:
        beta_min: :math:`\beta` of the first step.
        beta_max: Of the last.
        chain: :math:`T`, steps of the chain.
        spacing: Which of them are visited.

    Raises:
        ValueError: If the settings do not make rising levels.

    Examples:
        >>> [round(sigma, 3) for sigma in LinearBeta()(4)]
        [157.407, 17.247, 3.424, 0.953, 0.0]

    References:
        Denoising diffusion probabilistic models (Ho, Jain & Abbeel, 2020), equation 4 and section 4.
        https://arxiv.org/abs/2006.11239

        Common diffusion noise schedules and sample steps are flawed (Lin et al., 2024), table 2: the spacings.
        https://arxiv.org/abs/2305.08891
    """

    _: KW_ONLY
    beta_min: float = 1e-4
    beta_max: float = 0.02
    chain: int = 1000
    spacing: Literal["trailing", "leading", "linspace"] = "trailing"

    def __post_init__(self) -> None:
        chain_levels(self.beta_min, self.beta_max, self.chain)

    def levels(self, steps: int) -> list[float]:
        if steps > self.chain:
            raise ValueError(f"the chain has {self.chain} levels, which is fewer than {steps}")
        chain = chain_levels(self.beta_min, self.beta_max, self.chain)
        return [chain[t] for t in self.times(steps)]

    def times(self, steps: int) -> list[int]:
        """Return the steps of the chain that are visited, falling.

        Args:
            steps: How many.
        """
        if self.spacing == "trailing":
            return [round(self.chain - i * self.chain / steps) - 1 for i in range(steps)]
        if self.spacing == "leading":
            return [self.chain // steps * i for i in reversed(range(steps))]
        return [round((self.chain - 1) * (i / (steps - 1 or 1))) for i in reversed(range(steps))]


@final
@dataclass(frozen=True)
class Cosine(Grid):
    r"""The levels of the cosine schedule, evenly spaced in its time.

    .. math::
        \sigma(t) = \sqrt{1 / \bar\alpha - 1}, \qquad \sqrt{\bar\alpha} = \frac{\cos \phi(t)}{\cos \phi(0)}, \qquad
        \phi(t) = \frac{\pi}{2} \frac{t + s}{1 + s}, \quad s = 0.008

    At :math:`t = 1` they are infinite: the grid begins where they are ``sigma_max``.

    Args:
        sigma_max: The highest level, in units of ``x``.

    Raises:
        ValueError: If it is not a positive number.

    Examples:
        >>> [round(sigma, 3) for sigma in Cosine(sigma_max=100.0)(4)]
        [100.0, 2.384, 1.002, 0.422, 0.0]

    References:
        Improved denoising diffusion probabilistic models (Nichol & Dhariwal, 2021), equation 17.
        https://arxiv.org/abs/2102.09672
    """

    _: KW_ONLY
    sigma_max: float = 160.0

    def __post_init__(self) -> None:
        _check_highest(self.sigma_max)

    def levels(self, steps: int) -> list[float]:
        offset = 0.008
        lowest = offset / (1 + offset) * math.pi / 2
        highest = math.acos(math.cos(lowest) / math.hypot(1, self.sigma_max))
        angles = [lowest + (highest - lowest) * i / steps for i in range(steps - 1, 0, -1)]
        return [self.sigma_max, *(math.sqrt((math.cos(lowest) / math.cos(each)) ** 2 - 1) for each in angles)]


@final
@dataclass(frozen=True)
class RectifiedFlow(Grid):
    r"""The levels of flow matching, evenly spaced in its time.

    .. math:: \sigma = \frac{t}{1 - t}

    At :math:`t = 1` they are infinite: the grid begins where they are ``sigma_max``. Time runs from data at 0 to noise.

    Args:
        sigma_max: The highest level, in units of ``x``.

    Raises:
        ValueError: If it is not a positive number.

    Examples:
        >>> [round(sigma, 3) for sigma in RectifiedFlow(sigma_max=9.0)(3)]
        [9.0, 1.5, 0.429, 0.0]

    References:
        Flow straight and fast: learning to generate and transfer data with rectified flow (Liu, Gong & Liu, 2023),
        equation 1. https://arxiv.org/abs/2209.03003
    """

    _: KW_ONLY
    sigma_max: float = 100.0

    def __post_init__(self) -> None:
        _check_highest(self.sigma_max)

    def levels(self, steps: int) -> list[float]:
        highest = self.sigma_max / (1 + self.sigma_max)
        times = [highest * i / steps for i in range(steps - 1, 0, -1)]
        return [self.sigma_max, *(t / (1 - t) for t in times)]


GRIDS = Registry(
    "grid",
    {"karras": Karras, "geometric": Geometric, "ddpm": LinearBeta, "cosine": Cosine, "flow": RectifiedFlow},
    kind=Grid,
)


@functools.cache
def chain_levels(beta_min: float, beta_max: float, chain: int) -> tuple[float, ...]:
    r"""Return the levels of DDPM's chain, rising: :math:`\sigma_t^2 = \prod_{s \le t} (1 - \beta_s)^{-1} - 1`."""
    check_count(chain=chain, least=2, most=100_000)
    if not 0 < beta_min <= beta_max < 1:
        raise ValueError(f"0 < beta_min ≤ beta_max < 1; they were {beta_min} and {beta_max}")
    levels, lost = [], 0.0
    for t in range(chain):
        lost -= math.log1p(-(beta_min + t / (chain - 1) * (beta_max - beta_min)))
        levels.append(math.sqrt(math.expm1(lost)))
    return tuple(levels)


def _check_highest(sigma_max: float) -> None:
    if not 0 < sigma_max < math.inf:
        raise ValueError(f"sigma_max is positive and finite; it was {sigma_max}")
