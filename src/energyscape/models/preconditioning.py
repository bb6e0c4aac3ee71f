r"""Prediction targets of networks, scaled to one size at every noise level.

A network :math:`F` becomes a denoiser by three coefficients and a number that encodes the level,

.. math:: D(x, \sigma) = c_{\text{skip}}\, x + c_{\text{out}}\, F(c_{\text{in}}\, x, c_{\text{noise}}).

Predicting the noise, the clean point, the velocity or the score are rows of this table, in the coordinates :math:`x =
x_0 + \sigma \varepsilon`. Those of the variance-preserving papers are :math:`x_{\text{vp}} = x / \sqrt{1 + \sigma^2} =
\alpha x_0 + \sqrt{1 - \alpha^2}\, \varepsilon`, those of flow matching :math:`x_t = x / (1 + \sigma) = (1 - t)\, x_0 +
t\, \varepsilon`. The squared error of :math:`F` against its target is :math:`\|D - x_0\|^2 / c_{\text{out}}^2`.

References:
    Elucidating the design space of diffusion-based generative models (Karras et al., 2022), equation 7 and table 1.
    https://arxiv.org/abs/2206.00364
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from energyscape.errors import check_positive
from energyscape.models.denoiser import Denoiser, column
from energyscape.schedules import chain_levels

DenoisingNetwork = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Any callable, usually a `torch.nn.Module`, from scaled points ``(B, *)``, the encoded noise level ``(B,)`` and
classes ``(B,)`` or none, to ``(B, *)``."""


class Coefficients(NamedTuple):
    r"""The coefficients that make a network a denoiser at some noise levels, each ``(B,)``.

    Args:
        skip: :math:`c_{\text{skip}}`, the share of the noised point in the result.
        out: :math:`c_{\text{out}}`, the factor on the network's output.
        inside: :math:`c_{\text{in}}`, the factor on the network's input.
        noise: :math:`c_{\text{noise}}`, the encoded level.
    """

    skip: Tensor
    out: Tensor
    inside: Tensor
    noise: Tensor


class Preconditioning(ABC):
    """A row of the table."""

    @abstractmethod
    def __call__(self, sigma: Tensor) -> Coefficients:
        """Return the coefficients."""


@final
@dataclass(frozen=True)
class EDM(Preconditioning):
    r"""Inputs and targets of variance one at every level.

    .. math::
        c_{\text{skip}} = \frac{\sigma_d^2}{\sigma^2 + \sigma_d^2}, \quad
        c_{\text{out}} = \frac{\sigma \sigma_d}{\sqrt{\sigma^2 + \sigma_d^2}}, \quad
        c_{\text{in}} = \frac{1}{\sqrt{\sigma^2 + \sigma_d^2}}, \quad
        c_{\text{noise}} = \tfrac14 \ln \sigma

    Args:
        data_std: :math:`\sigma_d > 0`, the deviation of each coordinate of the data, in units of ``x``.

    Raises:
        ValueError: If ``data_std`` is not positive.

    References:
        Elucidating the design space of diffusion-based generative models (Karras et al., 2022), table 1.
        https://arxiv.org/abs/2206.00364
    """

    _: KW_ONLY
    data_std: float = 0.5

    def __post_init__(self) -> None:
        check_positive(data_std=self.data_std)

    def __call__(self, sigma: Tensor) -> Coefficients:
        size = (sigma.square() + self.data_std**2).sqrt()
        return Coefficients((self.data_std / size).square(), sigma * self.data_std / size, 1 / size, sigma.log() / 4)


@final
@dataclass(frozen=True)
class Epsilon(Preconditioning):
    r"""The network predicts the noise :math:`\varepsilon`, as in DDPM, and sees variance-preserving points.

    .. math:: c_{\text{skip}} = 1, \quad c_{\text{out}} = -\sigma, \quad
              c_{\text{in}} = \frac{1}{\sqrt{1 + \sigma^2}}, \quad c_{\text{noise}} = t(\sigma)

    with :math:`t \in [0, T - 1]` the step of DDPM's chain at which
    :math:`\sigma_t^2 = (1 - \bar\alpha_t) / \bar\alpha_t`, :math:`\bar\alpha_t = \prod_{s \le t} (1 - \beta_s)` with
    :math:`\beta` evenly spaced; between two steps it is interpolated in :math:`\ln \sigma`.

    At high noise its error is multiplied by :math:`\sigma`: a guess of the clean point is the difference of two large
    numbers.

    Args:
        beta_min: :math:`\beta` of the first step.
        beta_max: :math:`\beta` of the last step.
        chain: :math:`T`, steps of the chain.

    Raises:
        ValueError: If the settings do not make rising levels.

    References:
        Denoising diffusion probabilistic models (Ho, Jain & Abbeel, 2020), equations 4 and 14, section 4.
        https://arxiv.org/abs/2006.11239
    """

    _: KW_ONLY
    beta_min: float = 1e-4
    beta_max: float = 0.02
    chain: int = 1000

    def __post_init__(self) -> None:
        chain_levels(self.beta_min, self.beta_max, self.chain)

    def __call__(self, sigma: Tensor) -> Coefficients:
        inside = (1 + sigma.square()).rsqrt()
        return Coefficients(torch.ones_like(sigma), -sigma, inside, self.time(sigma))

    def time(self, sigma: Tensor) -> Tensor:
        r"""Return the step :math:`t(\sigma)` of noise levels ``(B,)``, a real number each."""
        return step_of(chain_levels(self.beta_min, self.beta_max, self.chain), sigma)


@final
@dataclass(frozen=True)
class Velocity(Preconditioning):
    r"""The network predicts :math:`v = \alpha \varepsilon - \sqrt{1 - \alpha^2}\, x_0`.

    .. math:: c_{\text{skip}} = \frac{1}{1 + \sigma^2}, \quad
              c_{\text{out}} = -\frac{\sigma}{\sqrt{1 + \sigma^2}}, \quad
              c_{\text{in}} = \frac{1}{\sqrt{1 + \sigma^2}}, \quad c_{\text{noise}} = \tfrac14 \ln \sigma

    It is EDM's row with :math:`\sigma_d = 1` and the opposite sign.

    References:
        Progressive distillation for fast sampling of diffusion models (Salimans & Ho, 2022), section 4 and appendix D.
        https://arxiv.org/abs/2202.00512
    """

    def __call__(self, sigma: Tensor) -> Coefficients:
        inside = (1 + sigma.square()).rsqrt()
        return Coefficients(inside.square(), -sigma * inside, inside, sigma.log() / 4)


@final
@dataclass(frozen=True)
class Clean(Preconditioning):
    r"""The network predicts the clean point :math:`x_0`, and sees points of unit variance.

    .. math:: c_{\text{skip}} = 0, \quad c_{\text{out}} = 1, \quad
              c_{\text{in}} = \frac{1}{\sqrt{\sigma^2 + \sigma_d^2}}, \quad c_{\text{noise}} = \tfrac14 \ln \sigma

    At low noise it has to copy its input, which networks do poorly.

    Args:
        data_std: :math:`\sigma_d > 0`, the deviation of each coordinate of the data, in units of ``x``.

    Raises:
        ValueError: If ``data_std`` is not positive.

    References:
        Progressive distillation for fast sampling of diffusion models (Salimans & Ho, 2022), section 4.
        https://arxiv.org/abs/2202.00512
    """

    _: KW_ONLY
    data_std: float = 0.5

    def __post_init__(self) -> None:
        check_positive(data_std=self.data_std)

    def __call__(self, sigma: Tensor) -> Coefficients:
        inside = (sigma.square() + self.data_std**2).rsqrt()
        return Coefficients(torch.zeros_like(sigma), torch.ones_like(sigma), inside, sigma.log() / 4)


@final
@dataclass(frozen=True)
class Score(Preconditioning):
    r"""The network predicts :math:`\sigma` times the score, as noise-conditional score networks do.

    .. math:: c_{\text{skip}} = 1, \quad c_{\text{out}} = \sigma, \quad
              c_{\text{in}} = 1, \quad c_{\text{noise}} = \tfrac14 \ln \sigma

    so that :math:`s(x, \sigma) = F(x, \cdot) / \sigma`. The network sees the noised points unscaled:
    it needs normalisation inside.

    References:
        Improved techniques for training score-based generative models (Song & Ermon, 2020), technique 3.
        https://arxiv.org/abs/2006.09011
    """

    def __call__(self, sigma: Tensor) -> Coefficients:
        one = torch.ones_like(sigma)
        return Coefficients(one, sigma, one, sigma.log() / 4)


@final
@dataclass(frozen=True)
class Flow(Preconditioning):
    r"""The network predicts the velocity :math:`\varepsilon - x_0` of straight paths from data to noise.

    .. math:: c_{\text{skip}} = \frac{1}{1 + \sigma}, \quad c_{\text{out}} = -\frac{\sigma}{1 + \sigma}, \quad
              c_{\text{in}} = \frac{1}{1 + \sigma}, \quad c_{\text{noise}} = t = \frac{\sigma}{1 + \sigma}

    Time runs from data at :math:`t = 0` to noise at :math:`t = 1`; some papers reverse it.

    References:
        Flow matching for generative modeling (Lipman et al., 2023), equation 23, with no noise on the data.
        https://arxiv.org/abs/2210.02747
    """

    def __call__(self, sigma: Tensor) -> Coefficients:
        inside = 1 / (1 + sigma)
        return Coefficients(inside, -sigma * inside, inside, sigma * inside)


def step_of(levels: Sequence[float], sigma: Tensor) -> Tensor:
    r"""Return the step of a chain at some noise levels, a real number.

    Between two steps it is interpolated in :math:`\ln \sigma`, beyond the chain it is that of the nearest end.
    """
    level = torch.tensor(levels, dtype=sigma.dtype, device=sigma.device).log()
    above = torch.searchsorted(level, sigma.log()).clamp(1, len(level) - 1)
    low, high = level[above - 1], level[above]
    return (above - 1 + (sigma.log() - low) / (high - low)).clamp(0, len(level) - 1)


@final
class NetworkDenoiser(Denoiser):
    r"""A denoiser from any network that maps points to points.

    .. math:: D(x, \sigma) = c_{\text{skip}}\, x + c_{\text{out}}\, F(c_{\text{in}}\, x, c_{\text{noise}})

    Its score is in general the gradient of no density; an `EnergyDenoiser`'s is.

    Args:
        network: :math:`F`.
        preconditioning: The coefficients.

    Examples:
        >>> model = NetworkDenoiser(lambda u, noise, label: torch.zeros_like(u), EDM(data_std=3.0))
        >>> model(torch.tensor([[2.0, -10.0]]), torch.tensor([4.0]))
        tensor([[ 0.7200, -3.6000]])
    """

    def __init__(self, network: DenoisingNetwork, preconditioning: Preconditioning) -> None:
        super().__init__()
        self.network: DenoisingNetwork = network
        self.preconditioning = preconditioning
        self.classes = int(getattr(network, "classes", 0))  # any callable may be a network

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        skip, out, inside, noise = self.preconditioning(sigma)
        return column(skip, x) * x + column(out, x) * self.network(column(inside, x) * x, noise, label)
