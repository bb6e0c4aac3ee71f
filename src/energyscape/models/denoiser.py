r"""Denoisers: one model for the data at every noise level.

For noised points :math:`y = x + \sigma z` with :math:`z \sim N(0, I)`, the best guess of the clean point is the
posterior mean, and it gives the score of the noised data (Tweedie's formula),

.. math:: D(y, \sigma) = E[x \mid y], \qquad \nabla_y \log p_\sigma(y) = \frac{D(y, \sigma) - y}{\sigma^2}.

Any network may be a `Denoiser`, but its score is in general the gradient of no density. An `EnergyDenoiser` has an
energy by construction: its score is :math:`-\nabla_y E(y, \sigma)`, and at each level it is an ordinary energy, to
sample from, to integrate and to compose.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from energyscape.calculus import score
from energyscape.errors import check_positive
from energyscape.models.energy import Energy

NoiseNetwork = Callable[[Tensor, Tensor], Tensor]
"""Any callable, usually a `torch.nn.Module`, from points ``(B, *)`` and noise ``(B,)`` to ``(B,)`` or ``(B, 1)``."""


class Denoiser(nn.Module, ABC):
    """A function from noised points and their noise level to clean points."""

    classes: int = 0
    """Number of classes that a label may name; 0 without labels."""

    @abstractmethod
    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        r"""Return the posterior mean :math:`D(x, \sigma)`.

        Args:
            x: Noised points, ``(B, *)``.
            sigma: Standard deviation of the noise on each, ``(B,)``, in units of ``x``.
            label: Class of each point, ``(B,)``, for conditional denoisers; -1 is that of none.

        Returns:
            Points, ``(B, *)``.
        """

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor: ...


class EnergyDenoiser(Denoiser, ABC):
    r"""A denoiser whose score is the gradient of an energy.

    .. math:: D(x, \sigma) = x - \sigma^2\, \nabla_x E(x, \sigma)

    Energies at two levels cannot be compared: :math:`E(\cdot, \sigma)` has a free constant at each
    :math:`\sigma`, which no score sees.
    """

    @abstractmethod
    def energy(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        r"""Return the energy :math:`E(x, \sigma)` of points noised at :math:`\sigma`.

        Args:
            x: Noised points, ``(B, *)``.
            sigma: Standard deviation of the noise on each, ``(B,)``, in units of ``x``.
            label: Class of each point, ``(B,)``, for conditional energies.

        Returns:
            Energies, ``(B,)``.
        """

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        # Autograd, if it records, records through the gradient, so D can be trained like any network.
        s = score(lambda y: self.energy(y, sigma, label), x, create_graph=torch.is_grad_enabled())
        return x + column(sigma, x).square() * s

    @final
    def at(self, sigma: float) -> "AtLevel":
        r"""Return the energy at one noise level, over the same parameters.

        It is the law of data noised at :math:`\sigma`, not of clean data.

        Args:
            sigma: :math:`\sigma > 0`, in units of ``x``; one of the levels that it was trained at.

        Raises:
            ValueError: If ``sigma`` is not positive.
        """
        return AtLevel(self, sigma)


@final
class AtLevel(Energy):
    """An energy denoiser at one noise level: an energy that also gives access to the other levels.

    Args:
        denoiser: The energies at all levels.
        sigma: The noise level, in units of ``x``.

    Raises:
        ValueError: If ``sigma`` is not positive.
    """

    def __init__(self, denoiser: EnergyDenoiser, sigma: float) -> None:
        super().__init__()
        if not 0 < sigma < math.inf:
            raise ValueError(f"a noise level is positive; it was {sigma}")
        self.denoiser = denoiser
        self.sigma = sigma
        self.training = denoiser.training

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        return self.denoiser.energy(x, x.new_full(x.shape[:1], self.sigma), label)


@final
class ScalarEnergyDenoiser(EnergyDenoiser):
    r"""An energy at every noise level from one scalar network, preconditioned as EDM's denoisers are.

    .. math:: E(x, \sigma) = \frac{\|x\|^2}{2 (\sigma_d^2 + \sigma^2)} + \frac{\sigma_d}{\tau}\,
              f_\theta\Bigl( \frac{x}{\sqrt{\sigma_d^2 + \sigma^2}}, \tfrac14 \ln \tau \Bigr),
              \qquad \tau = \sqrt{\sigma^2 + \delta^2}

    With :math:`\delta = 0` its denoiser is EDM's,
    :math:`D = c_{\text{skip}}\, x + c_{\text{out}}\, F(c_{\text{in}}\, x, c_{\text{noise}})` with
    :math:`F = -\nabla f`: the network sees points of unit size at every level and its gradient has a target of unit
    size. Without the network it is the exact energy of a Gaussian of deviation :math:`\sigma_d`. Data are taken to have
    mean zero.

    At :math:`\delta = 0` an error of :math:`f` counts :math:`\sigma_d / \sigma` fold. If a low level's noise does not
    reach from one mode to the next, it does not determine their difference in energy: the modes' masses drift. Data
    that are smooth on a length :math:`\delta` have scores of size :math:`1 / \tau`, not :math:`1 / \sigma`, and nearly
    one energy at all levels below :math:`\delta`. With this :math:`\delta` the network carries the masses down from
    higher levels. A :math:`\delta` beyond the data's finest detail makes the lowest levels too alike.

    Args:
        network: Any callable from scaled points ``(B, *)`` and :math:`\tfrac14 \ln \tau`, ``(B,)``, to ``(B,)`` or
            ``(B, 1)``; called with ``(u, noise, label)`` when there is a label.
        data_std: :math:`\sigma_d > 0`, the deviation of each coordinate of the data, in units of ``x``.
        detail: :math:`\delta \ge 0`, the deviation of the data's finest feature, in units of ``x``; 0 is EDM.

    Raises:
        ValueError: If ``data_std`` is not positive or ``detail`` is negative.

    Examples:
        >>> model = ScalarEnergyDenoiser(lambda u, noise: 0 * noise, data_std=3.0)
        >>> model(torch.tensor([[2.0, -10.0]]), torch.tensor([4.0])).detach()
        tensor([[ 0.7200, -3.6000]])
        >>> model.at(4.0)(torch.tensor([[3.0, 4.0]]))
        tensor([0.5000])

    References:
        Elucidating the design space of diffusion-based generative models (Karras et al., 2022), table 1.
        https://arxiv.org/abs/2206.00364

        Should EBMs model the energy or the score? (Salimans & Ho, 2021).
        https://openreview.net/forum?id=9AS-TF2jRNb
    """

    def __init__(self, network: NoiseNetwork, *, data_std: float, detail: float = 0.0) -> None:
        super().__init__()
        check_positive(data_std=data_std)
        self.network: Callable[..., Tensor] = network
        self.classes = int(getattr(network, "classes", 0))  # any callable may be a network
        if not 0 <= detail < math.inf:
            raise ValueError(f"detail is at least 0; it was {detail}")
        self.data_std = data_std
        self.detail = detail

    def energy(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        variance, tau = self.data_std**2 + sigma.square(), (self.detail**2 + sigma.square()).sqrt()
        u, noise = x / column(variance.sqrt(), x), tau.log() / 4
        f = self.network(u, noise) if label is None else self.network(u, noise, label)
        f = f.squeeze(1) if f.shape == (x.shape[0], 1) else f
        return x.flatten(1).square().sum(1) / (2 * variance) + self.data_std / tau * f


@final
class CleanEnergyDenoiser(EnergyDenoiser):
    r"""An energy at every noise level whose network's gradient is the denoiser, for data of low dimension.

    .. math:: E(x, \sigma) = \frac{\|x\|^2}{2 \sigma^2} + \frac{\sigma_d\, c}{\sigma^2}\,
              f_\theta\Bigl( \frac{x}{c}, \tfrac14 \ln \sigma \Bigr), \qquad c = \sqrt{\sigma_d^2 + \sigma^2}

    The denoiser is :math:`D(x, \sigma) = -\sigma_d \nabla f(x / c, \tfrac14 \ln \sigma)`: the network predicts the
    clean point, where that of a `ScalarEnergyDenoiser` predicts mostly the noise at low levels. Without its network all
    data lie at the origin and the energy has the curvature :math:`1 / \sigma^2` in every direction, which is right
    wherever the data have no width. A `ScalarEnergyDenoiser` has to learn that curvature, and cannot if its first layer
    is narrower than the data: it leaves noise in. A network that normalises its input fails too, because it hardly sees
    the brightness of a whole image. In that direction its energy keeps the curvature that it has without the network,
    and if that is less than :math:`1 / \sigma^2`, chains darken from level to level.

    Its energies are integrable if the network grows slower than a quadratic form. Errors of :math:`f` count :math:`1 /
    \sigma^2` fold: for separate modes whose masses matter, use `ScalarEnergyDenoiser`.

    Args:
        network: Any callable from scaled points ``(B, *)`` and :math:`\tfrac14 \ln \sigma`, ``(B,)``, to ``(B,)`` or
            ``(B, 1)``; called with ``(u, noise, label)`` when there is a label.
        data_std: :math:`\sigma_d > 0`, the root mean square of the data's coordinates, in units of ``x``.

    Raises:
        ValueError: If ``data_std`` is not positive.

    Examples:
        >>> model = CleanEnergyDenoiser(lambda u, noise: -u[:, 0] - 2 * u[:, 1], data_std=3.0)
        >>> model(torch.tensor([[2.0, -10.0]]), torch.tensor([4.0])).detach()
        tensor([[3., 6.]])

    References:
        Progressive distillation for fast sampling of diffusion models (Salimans & Ho, 2022), section 4: predicting the
        data instead of the noise. https://arxiv.org/abs/2202.00512

        Learning generative ConvNets via multi-grid modeling and sampling (Gao et al., 2018), equation 2: the reference
        measure. https://arxiv.org/abs/1709.08868
    """

    def __init__(self, network: NoiseNetwork, *, data_std: float) -> None:
        super().__init__()
        check_positive(data_std=data_std)
        self.network: Callable[..., Tensor] = network
        self.classes = int(getattr(network, "classes", 0))  # any callable may be a network
        self.data_std = data_std

    def energy(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        size = (self.data_std**2 + sigma.square()).sqrt()
        u, noise = x / column(size, x), sigma.log() / 4
        f = self.network(u, noise) if label is None else self.network(u, noise, label)
        f = f.squeeze(1) if f.shape == (x.shape[0], 1) else f
        return (x.flatten(1).square().sum(1) / 2 + self.data_std * size * f) / sigma.square()


def column(values: Tensor, x: Tensor) -> Tensor:
    """Return one number a point, ``(B,)``, shaped to broadcast over points ``(B, *)``."""
    return values.reshape(-1, *[1] * (x.ndim - 1))
