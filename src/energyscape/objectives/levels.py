r"""Which noise levels training sees, and how much each of them counts.

A law of levels is its quantile function :math:`\sigma(u)`, so that evenly spread :math:`u` give evenly spread levels.
A weight :math:`\lambda(\sigma)` multiplies the denoiser's squared error; that under which a network's own squared error
is minimised is :math:`1 / c_{\text{out}}^2` of its preconditioning, and has the same name.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass
from typing import final

import torch
from torch import Tensor

from energyscape.errors import check_count, check_positive
from energyscape.noise import chain_levels, geometric


class SigmaDistribution(ABC):
    """A law of noise levels."""

    @abstractmethod
    def __call__(self, u: Tensor) -> Tensor:
        r"""Return the quantiles :math:`\sigma(u)`, ``(B,)``."""


@final
@dataclass(frozen=True)
class LogNormal(SigmaDistribution):
    r"""EDM's levels.

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

    def __call__(self, u: Tensor) -> Tensor:
        # No further out than what a float32 can tell from 0 and 1.
        z: Tensor = torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6))
        return (self.mean + self.std * z).exp()


@final
@dataclass(frozen=True)
class LogUniform(SigmaDistribution):
    r"""All levels between two, evenly in logarithm.

    .. math:: \ln \sigma \sim U[\ln \sigma_{\min}, \ln \sigma_{\max}]

    Args:
        sigma_min: :math:`\sigma_{\min} > 0`, in units of ``x``.
        sigma_max: :math:`\sigma_{\max} > \sigma_{\min}`.

    Raises:
        ValueError: If the levels are not positive and rising.
    """

    _: KW_ONLY
    sigma_min: float
    sigma_max: float

    def __post_init__(self) -> None:
        geometric(self.sigma_min, self.sigma_max, 1)

    def __call__(self, u: Tensor) -> Tensor:
        return self.sigma_min * (u * math.log(self.sigma_max / self.sigma_min)).exp()


@final
@dataclass(frozen=True)
class GeometricSchedule(SigmaDistribution):
    r"""The levels of noise-conditional score networks: a few, evenly in logarithm, each as often.

    .. math:: \sigma \in \{\sigma_1, \ldots, \sigma_L\}, \qquad \sigma_i / \sigma_{i+1} \text{ constant}

    Annealed Langevin dynamics has to go down the same ladder: a network knows nothing of levels between.

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

    def __call__(self, u: Tensor) -> Tensor:
        share = (u * self.rungs).floor().clamp(max=self.rungs - 1) / (self.rungs - 1)
        return self.sigma_min * (share * math.log(self.sigma_max / self.sigma_min)).exp()


@final
@dataclass(frozen=True)
class ChainLevels(SigmaDistribution):
    r"""The levels of DDPM's chain, each as often.

    .. math:: \sigma_t^2 = \frac{1 - \bar\alpha_t}{\bar\alpha_t}, \qquad \bar\alpha_t = \prod_{s \le t} (1 - \beta_s),
              \qquad t \in \{0, \ldots, T - 1\}

    Args:
        beta_min: :math:`\beta` of the first step.
        beta_max: Of the last; those between are evenly spaced.
        chain: :math:`T`, steps.

    Raises:
        ValueError: If the settings do not make rising levels.

    References:
        Denoising diffusion probabilistic models (Ho, Jain & Abbeel, 2020), equation 4 and section 4.
        https://arxiv.org/abs/2006.11239
    """

    _: KW_ONLY
    beta_min: float = 1e-4
    beta_max: float = 0.02
    chain: int = 1000

    def __post_init__(self) -> None:
        chain_levels(self.beta_min, self.beta_max, self.chain)

    def __call__(self, u: Tensor) -> Tensor:
        sigma = torch.tensor(chain_levels(self.beta_min, self.beta_max, self.chain), dtype=u.dtype)
        sigma = sigma.to(u.device, non_blocking=True)
        return sigma[(u * self.chain).long().clamp(max=self.chain - 1)]


@final
@dataclass(frozen=True)
class CosineLevels(SigmaDistribution):
    r"""The levels of the cosine schedule, at every time of :math:`[0, 1)`.

    .. math:: \sigma = \tan \phi, \qquad \cos \phi = \frac{\cos \phi_u}{\cos \phi_0}, \qquad
              \phi_u = \frac{\pi}{2} \frac{u + s}{1 + s}, \quad s = 0.008

    They end at ``sigma_max``, where the schedule goes to infinity.

    Args:
        sigma_max: The highest level, in units of ``x``.

    Raises:
        ValueError: If it is not positive.

    References:
        Improved denoising diffusion probabilistic models (Nichol & Dhariwal, 2021), equation 17.
        https://arxiv.org/abs/2102.09672
    """

    _: KW_ONLY
    sigma_max: float = 160.0

    def __post_init__(self) -> None:
        check_positive(sigma_max=self.sigma_max)

    def __call__(self, u: Tensor) -> Tensor:
        s = 0.008
        angle = (u.double() + s) / (1 + s) * math.pi / 2
        kept = (angle.cos() / math.cos(s / (1 + s) * math.pi / 2)).square()
        return ((1 - kept).clamp(min=1e-8) / kept.clamp(min=1e-12)).sqrt().clamp(max=self.sigma_max).to(u)


@final
@dataclass(frozen=True)
class FlowLevels(SigmaDistribution):
    r"""The levels of flow matching, its time uniform.

    .. math:: \sigma = \frac{t}{1 - t}, \qquad t \sim U(0, t_{\max})

    Args:
        sigma_max: :math:`t_{\max} / (1 - t_{\max})`, in units of ``x``.

    Raises:
        ValueError: If it is not positive.

    References:
        Flow matching for generative modeling (Lipman et al., 2023), section 4. https://arxiv.org/abs/2210.02747
    """

    _: KW_ONLY
    sigma_max: float = 100.0

    def __post_init__(self) -> None:
        check_positive(sigma_max=self.sigma_max)

    def __call__(self, u: Tensor) -> Tensor:
        # Half a millionth is the least that float32 tells from nothing here.
        t = u.clamp(min=5e-7) * (self.sigma_max / (1 + self.sigma_max))
        return t / (1 - t)


class Weight(ABC):
    """How much the squared error of a denoiser counts at each level."""

    @abstractmethod
    def __call__(self, sigma: Tensor) -> Tensor:
        r"""Return :math:`\lambda(\sigma)`, ``(B,)``."""


@final
@dataclass(frozen=True)
class EDMWeight(Weight):
    r"""EDM's weight: the network's target has variance one, whatever the level.

    .. math:: \lambda = \frac{\sigma^2 + \sigma_d^2}{(\sigma \sigma_d)^2}

    Args:
        data_std: :math:`\sigma_d > 0`, that of the preconditioning.

    Raises:
        ValueError: If it is not positive.

    References:
        Elucidating the design space of diffusion-based generative models (Karras et al., 2022), table 1.
        https://arxiv.org/abs/2206.00364
    """

    _: KW_ONLY
    data_std: float = 0.5

    def __post_init__(self) -> None:
        check_positive(data_std=self.data_std)

    def __call__(self, sigma: Tensor) -> Tensor:
        return (sigma.square() + self.data_std**2) / (sigma * self.data_std).square()


@final
@dataclass(frozen=True)
class NoiseWeight(Weight):
    r"""The squared error of the predicted noise, which is that of :math:`\sigma` times the score.

    .. math:: \lambda = \frac{1}{\sigma^2}, \qquad
              \|\hat\varepsilon - \varepsilon\|^2 = \Bigl\| \sigma s + \varepsilon \Bigr\|^2
              = \frac{\|D - x_0\|^2}{\sigma^2}

    It is DDPM's simple loss and the weight of noise-conditional score networks.

    References:
        Denoising diffusion probabilistic models (Ho, Jain & Abbeel, 2020), equation 14.
        https://arxiv.org/abs/2006.11239

        Generative modeling by estimating gradients of the data distribution (Song & Ermon, 2019), equation 6.
        https://arxiv.org/abs/1907.05600
    """

    def __call__(self, sigma: Tensor) -> Tensor:
        return 1 / sigma.square()


@final
@dataclass(frozen=True)
class VelocityWeight(Weight):
    r"""The squared error of the predicted velocity.

    .. math:: \lambda = \frac{1 + \sigma^2}{\sigma^2}

    References:
        Progressive distillation for fast sampling of diffusion models (Salimans & Ho, 2022), section 4: SNR + 1.
        https://arxiv.org/abs/2202.00512
    """

    def __call__(self, sigma: Tensor) -> Tensor:
        return (1 + sigma.square()) / sigma.square()


@final
@dataclass(frozen=True)
class CleanWeight(Weight):
    r"""The squared error of the predicted clean point: :math:`\lambda = 1`. Low levels count for little."""

    def __call__(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma)


@final
@dataclass(frozen=True)
class FlowWeight(Weight):
    r"""The squared error of the velocity of straight paths.

    .. math:: \lambda = \frac{(1 + \sigma)^2}{\sigma^2}

    References:
        Flow matching for generative modeling (Lipman et al., 2023), equation 23. https://arxiv.org/abs/2210.02747
    """

    def __call__(self, sigma: Tensor) -> Tensor:
        return ((1 + sigma) / sigma).square()


@final
@dataclass(frozen=True)
class MinSNRWeight(Weight):
    r"""The signal-to-noise ratio, cut off where it is large.

    .. math:: \lambda = \min(\sigma^{-2}, \gamma)

    Args:
        gamma: :math:`\gamma > 0`.

    Raises:
        ValueError: If it is not positive.

    References:
        Efficient diffusion training via Min-SNR weighting strategy (Hang et al., 2023), section 3.4.
        https://arxiv.org/abs/2303.09556
    """

    _: KW_ONLY
    gamma: float = 5.0

    def __post_init__(self) -> None:
        check_positive(gamma=self.gamma)

    def __call__(self, sigma: Tensor) -> Tensor:
        return (1 / sigma.square()).clamp(max=self.gamma)
