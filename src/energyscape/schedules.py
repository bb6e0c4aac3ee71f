r"""Schedules of noise levels, for the steps of a solver and for the draws of training.

A `SigmaDistribution` is its quantile function :math:`\sigma(u)`, so that evenly spread :math:`u` give evenly spread
levels. A `Grid` also has the levels that a solver visits from noise to data. Papers scale points differently, but the
levels here are always those of :math:`y = x + \sigma z`: :math:`\sigma = \sqrt{(1 - \bar\alpha) / \bar\alpha}` for
points :math:`\sqrt{\bar\alpha}\, y`, and :math:`t / (1 - t)` for points :math:`(1 - t)\, y`.
"""

import functools
import math
from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass
from typing import Literal, final

import torch
from torch import Tensor

from energyscape.errors import check_count, check_positive
from energyscape.registry import Registry


def geometric(low: float, high: float, steps: int) -> list[float]:
    r"""Return noise levels, evenly spaced in logarithm: :math:`\sigma_k = \sigma_0\, (\sigma_n / \sigma_0)^{k / n}`.

    Examples:
        >>> [round(sigma, 9) for sigma in geometric(0.5, 4.0, 3)]
        [0.5, 1.0, 2.0, 4.0]
    """
    if not 0 < low < high < math.inf or steps < 1:
        raise ValueError(f"0 < sigma_min < sigma_max and at least one level; they were {low}, {high} and {steps}")
    return [low * (high / low) ** (k / steps) for k in range(steps)] + [high]


class SigmaDistribution(ABC):
    """A distribution of the noise levels of training."""

    @abstractmethod
    def quantile(self, u: Tensor) -> Tensor:
        r"""Return the levels :math:`\sigma(u)`, ``(B,)``, positive and rising."""


class Grid(SigmaDistribution):
    """A schedule: the noise levels between noise and data, and their distribution, with all levels equally likely."""

    @abstractmethod
    def levels(self, steps: int) -> list[float]:
        """Return the starting levels of so many steps, at least one, falling."""

    @final
    def __call__(self, steps: int) -> list[float]:
        """Return ``steps + 1`` levels, falling, the last of them 0."""
        if steps < 1:
            raise ValueError(f"a grid has at least one step; it was {steps}")
        return [*self.levels(steps), 0.0]


@final
@dataclass(frozen=True)
class Karras(Grid):
    r"""EDM's grid: short steps where the noise is low.

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

    def quantile(self, u: Tensor) -> Tensor:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        sigma: Tensor = (low + u * (high - low)) ** self.rho
        return sigma

    def levels(self, steps: int) -> list[float]:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return [(high + i / (steps - 1 or 1) * (low - high)) ** self.rho for i in range(steps)]


@final
@dataclass(frozen=True)
class Geometric(Grid):
    r"""Levels evenly spaced in logarithm, as those of noise-conditional score networks; the law is log-uniform.

    .. math::
        \sigma_i = \sigma_{\max} (\sigma_{\min} / \sigma_{\max})^{i / (N - 1)}, \qquad i < N, \qquad \sigma_N = 0,
        \qquad \ln \sigma(u) \sim U[\ln \sigma_{\min}, \ln \sigma_{\max}]

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

    def quantile(self, u: Tensor) -> Tensor:
        return self.sigma_min * (u * math.log(self.sigma_max / self.sigma_min)).exp()

    def levels(self, steps: int) -> list[float]:
        if steps == 1:
            return [self.sigma_max]
        return geometric(self.sigma_min, self.sigma_max, steps - 1)[::-1]


@final
@dataclass(frozen=True)
class LinearBeta(Grid):
    r"""DDPM's chain, whose :math:`\beta` are evenly spaced; a grid visits some of its levels, training sees all.

    .. math::
        \sigma_t = \sqrt{(1 - \bar\alpha_t) / \bar\alpha_t}, \qquad \bar\alpha_t = \prod_{s \le t} (1 - \beta_s),
        \qquad t \in \{0, \dots, T - 1\}

    Which steps :math:`t` of the chain a grid visits, from the noise's side:

    - ``"trailing"``: :math:`\operatorname{round}(T - i\, T / N) - 1`, from the chain's end;
    - ``"leading"``: :math:`\lfloor T / N \rfloor (N - 1 - i)`, down to its beginning: with few steps it starts
      far below the level that was trained as pure noise;
    - ``"linspace"``: evenly from the end to the beginning, both included.

    Args:
        beta_min: :math:`\beta` of the first step.
        beta_max: :math:`\beta` of the last step.
        chain: :math:`T`, steps of the chain.
        spacing: The steps that a grid visits.

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

    def quantile(self, u: Tensor) -> Tensor:
        sigma = torch.tensor(chain_levels(self.beta_min, self.beta_max, self.chain), dtype=u.dtype)
        return sigma.to(u.device, non_blocking=True)[(u * self.chain).long().clamp(max=self.chain - 1)]

    def levels(self, steps: int) -> list[float]:
        if steps > self.chain:
            raise ValueError(f"the chain has {self.chain} levels, which is fewer than {steps}")
        chain = chain_levels(self.beta_min, self.beta_max, self.chain)
        return [chain[t] for t in self.times(steps)]

    def times(self, steps: int) -> list[int]:
        """Return the visited steps of the chain, falling."""
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

    They are infinite at :math:`t = 1`: the grid begins, and the law ends, at ``sigma_max``.

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
        check_positive(sigma_max=self.sigma_max)

    def quantile(self, u: Tensor) -> Tensor:
        s = 0.008
        lowest = s / (1 + s) * math.pi / 2
        highest = math.acos(math.cos(lowest) / math.hypot(1, self.sigma_max))
        kept = ((lowest + (highest - lowest) * u.double()).cos() / math.cos(lowest)).square()
        return ((1 - kept).clamp(min=1e-8) / kept).sqrt().to(u)

    def levels(self, steps: int) -> list[float]:
        return _evenly(self, steps)


@final
@dataclass(frozen=True)
class RectifiedFlow(Grid):
    r"""The levels of flow matching, evenly spaced in its time.

    .. math:: \sigma = \frac{t}{1 - t}

    They are infinite at :math:`t = 1`: the grid begins, and the law ends, at ``sigma_max``. Time runs from
    data at 0 to noise.

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
        check_positive(sigma_max=self.sigma_max)

    def quantile(self, u: Tensor) -> Tensor:
        # Half a millionth is the least that float32 resolves here.
        t = u.clamp(min=5e-7) * (self.sigma_max / (1 + self.sigma_max))
        return t / (1 - t)

    def levels(self, steps: int) -> list[float]:
        return _evenly(self, steps)


@final
@dataclass(frozen=True)
class LogNormal(SigmaDistribution):
    r"""EDM's training levels.

    .. math:: \ln \sigma \sim N(m, s^2)

    Most of training goes to the middle levels, where images take shape; the lowest and the highest are easy.

    Args:
        mean: :math:`m`.
        std: :math:`s > 0`.

    Raises:
        ValueError: If ``std`` is not positive.

    References:
        Elucidating the design space of diffusion-based generative models (Karras et al., 2022), table 1.
        https://arxiv.org/abs/2206.00364
    """

    _: KW_ONLY
    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        check_positive(std=self.std)

    def quantile(self, u: Tensor) -> Tensor:
        # Limited to the range that float32 resolves from 0 and 1.
        z: Tensor = torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6))
        return (self.mean + self.std * z).exp()


@final
@dataclass(frozen=True)
class GeometricSchedule(SigmaDistribution):
    r"""The levels of noise-conditional score networks: a few, evenly in logarithm, each as often.

    .. math:: \sigma \in \{\sigma_1, \ldots, \sigma_L\}, \qquad \sigma_i / \sigma_{i+1} \text{ constant}

    Annealed Langevin dynamics must use the same ladder: the network is not trained between its levels.

    Args:
        sigma_min: The lowest, in units of ``x``.
        sigma_max: The highest; about the largest distance between two data points.
        rungs: :math:`L \ge 2`.

    Raises:
        ValueError: If the levels are not positive and rising, or fewer than two.

    References:
        Generative modeling by estimating gradients of the data distribution (Song & Ermon, 2019), section 4.2.
        https://arxiv.org/abs/1907.05600

        Improved techniques for training score-based generative models (Song & Ermon, 2020), techniques 1 and 2: how
        high, and how many. https://arxiv.org/abs/2006.09011
    """

    _: KW_ONLY
    sigma_min: float
    sigma_max: float
    rungs: int = 10

    def __post_init__(self) -> None:
        geometric(self.sigma_min, self.sigma_max, 1)
        check_count(rungs=self.rungs, least=2)

    def quantile(self, u: Tensor) -> Tensor:
        share = (u * self.rungs).floor().clamp(max=self.rungs - 1) / (self.rungs - 1)
        return Geometric(sigma_min=self.sigma_min, sigma_max=self.sigma_max).quantile(share)


GRIDS = Registry(
    "grid",
    {"karras": Karras, "geometric": Geometric, "ddpm": LinearBeta, "cosine": Cosine, "flow": RectifiedFlow},
    kind=Grid,
)
LEVELS = Registry(
    "law of noise levels",
    {
        "log-normal": LogNormal,
        "log-uniform": Geometric,
        "ladder": GeometricSchedule,
        "karras": Karras,
        "chain": LinearBeta,
        "cosine": Cosine,
        "flow": RectifiedFlow,
    },
    kind=SigmaDistribution,
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


def _evenly(schedule: SigmaDistribution, steps: int) -> list[float]:
    """Return levels evenly spaced in a schedule's time, falling from the highest."""
    levels: list[float] = schedule.quantile(torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1]).tolist()
    return levels
