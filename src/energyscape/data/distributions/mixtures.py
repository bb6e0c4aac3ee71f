r"""Mixtures of isotropic Gaussians.

.. math:: p(x) = \sum_k w_k\, \mathcal{N}(x; \mu_k, \sigma_k^2 I)

Where a symmetry exchanges equal components :math:`p_k`, the entropy :math:`-\int p \log p` is
:math:`-\int p_1 \log p`: an integral around one component only. Where the density is a product, the entropy is a sum.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Generator, Tensor

from energyscape.calculus import Box, gauss_legendre
from energyscape.data.distributions.base import Distribution, device_of, normal_rule, positive


@final
@dataclass(frozen=True, kw_only=True)
class EightGaussians(Distribution):
    r"""Eight equal Gaussians on a circle.

    .. math:: p(x) = \frac{1}{8} \sum_{k=0}^{7} \mathcal{N}\left(x; r\,(\cos \tfrac{\pi k}{4},
              \sin \tfrac{\pi k}{4}), \sigma^2 I\right)

    The defaults are the scale of FFJORD (radius 4, deviation 0.5, both divided by 1.414). Other papers use other
    scales, and log-likelihoods on different scales cannot be compared.

    Args:
        radius: Radius :math:`r > 0` of the circle of means.
        std: Standard deviation :math:`\sigma > 0` of each Gaussian.

    Raises:
        UserError: If either is not positive.

    Examples:
        >>> round(EightGaussians().entropy, 3)
        2.834

    References:
        FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models
        (Grathwohl et al., 2019), section 4.1. https://arxiv.org/abs/1810.01367
    """

    radius: float = 2.83
    std: float = 0.354

    def __post_init__(self) -> None:
        positive(self, "radius", "std")

    @cached_property
    def _means(self) -> Tensor:
        angle = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
        return self.radius * torch.stack([angle.cos(), angle.sin()], 1)

    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        device = device_of(generator)
        component = torch.randint(8, (n,), generator=generator, device=device)
        z = torch.randn(n, 2, generator=generator, device=device)
        return self._means.to(z)[component] + self.std * z

    def log_prob(self, x: Tensor) -> Tensor:
        return mixture_log_prob(x, self._means, self.std)

    @cached_property
    def entropy(self) -> float:
        # Rotation by 45 degrees exchanges the components: integrate around the first one.
        reach = 9 * self.std
        points, weights = gauss_legendre(((self.radius - reach, self.radius + reach), (-reach, reach)), 160)
        component = mixture_log_prob(points, self._means[:1], self.std).exp()
        return -float((weights * component * self.log_prob(points)).sum())

    @property
    def modes(self) -> Tensor:
        return self._means.float()

    @property
    def box(self) -> Box:
        reach = self.radius + 7 * self.std
        return ((-reach, reach), (-reach, reach))


@final
@dataclass(frozen=True, kw_only=True)
class GaussianGrid(Distribution):
    r"""Equal Gaussians on a square grid about the origin; 25 of them by default.

    .. math:: p(x) = q(x_1)\, q(x_2), \qquad q(u) = \frac{1}{n} \sum_{k=0}^{n-1}
              \mathcal{N}\left(u; a\,(k - \tfrac{n-1}{2}), \sigma^2\right)

    At the defaults the Gaussians lie 40 deviations apart, and no local kernel crosses from one to the next: modes
    missing in its samples are no fault of the energy.

    Args:
        side: Number of Gaussians along each side, :math:`n \ge 1`.
        spacing: Distance :math:`a > 0` between neighbouring means.
        std: Standard deviation :math:`\sigma > 0` of each Gaussian.

    Raises:
        UserError: If one of them is not positive.

    Examples:
        >>> GaussianGrid().modes.shape, round(GaussianGrid().entropy, 3)
        (torch.Size([25, 2]), 0.065)

    References:
        PacGAN: The power of two samples in generative adversarial networks (Lin et al., 2018), section 4.1.
        https://arxiv.org/abs/1712.04086
    """

    side: int = 5
    spacing: float = 2.0
    std: float = 0.05

    def __post_init__(self) -> None:
        positive(self, "side", "spacing", "std")

    @cached_property
    def _means(self) -> Tensor:
        """Means along one side, ``(side, 1)``."""
        return self.spacing * (torch.arange(self.side, dtype=torch.float64) - (self.side - 1) / 2).unsqueeze(1)

    def _along(self, u: Tensor) -> Tensor:
        """Log-density of one coordinate, ``(B,)``."""
        return mixture_log_prob(u.unsqueeze(1), self._means, self.std)

    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        device = device_of(generator)
        component = torch.randint(self.side, (n, 2), generator=generator, device=device)
        z = torch.randn(n, 2, generator=generator, device=device)
        return self._means.to(z).flatten()[component] + self.std * z

    def log_prob(self, x: Tensor) -> Tensor:
        return self._along(x[:, 0]) + self._along(x[:, 1])

    @cached_property
    def entropy(self) -> float:
        z, weight = normal_rule(1, step=0.05)
        around = (self._means + self.std * z.T).flatten()
        return -2 * float(self._along(around).view(self.side, -1).mean(0) @ weight)

    @property
    def modes(self) -> Tensor:
        means = self._means.flatten()
        return torch.cartesian_prod(means, means).view(-1, 2).float()

    @property
    def box(self) -> Box:
        reach = self.spacing * (self.side - 1) / 2 + 7 * self.std
        return ((-reach, reach), (-reach, reach))


def mixture_log_prob(x: Tensor, means: Tensor, std: Tensor | float, weights: Tensor | None = None) -> Tensor:
    r"""Return the log-density of a mixture of isotropic Gaussians.

    .. math:: \log p(x) = \log \sum_k w_k\, \mathcal{N}(x; \mu_k, \sigma_k^2 I)

    Examples:
        >>> mixture_log_prob(torch.zeros(1, 2), torch.zeros(1, 2), 1.0).exp()
        tensor([0.1592])
    """
    means = means.to(x)
    std = torch.as_tensor(std, dtype=x.dtype, device=x.device)
    count, dimension = len(means), means[0].numel()
    squared = (x.unsqueeze(1) - means).square().flatten(2).sum(2)
    log_weights = -math.log(count) if weights is None else weights.to(x).log()
    log_normal = -squared / (2 * std.square()) - dimension * (std.log() + 0.5 * math.log(2 * math.pi))
    return (log_weights + log_normal).logsumexp(1)


def log_sum(x: Tensor, slopes: Tensor, constants: Tensor) -> Tensor:
    r"""Return the logarithm of a sum of exponentials of affine functions.

    .. math:: \log \sum_k e^{a_k \cdot x + b_k}
    """
    log_each = torch.addmm(constants, x, slopes.T)
    largest = log_each.detach().amax(1, keepdim=True)
    # Terms so much smaller do not matter, but subnormal numbers would take ten times as long.
    return (log_each - largest).clamp(min=-600).exp().sum(1).log() + largest.squeeze(1)
