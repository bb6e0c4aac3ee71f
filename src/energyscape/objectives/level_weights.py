r"""Weights of the noise levels in training.

A weight :math:`\lambda(\sigma)` multiplies the denoiser's squared error. To minimise a network's own squared error, use
:math:`1 / c_{\text{out}}^2` of its preconditioning, the weight of the same name.
"""

from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass
from typing import final

import torch
from torch import Tensor

from energyscape.errors import check_positive


class Weight(ABC):
    """The weight of a denoiser's squared error at each level."""

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
