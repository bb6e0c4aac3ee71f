r"""Gaussians bent by a change of variables.

If :math:`x = T(z)` is one to one and :math:`z` has the density :math:`q`, then

.. math:: p(x) = q(T^{-1}(x)) \left| \det \frac{\partial T^{-1}}{\partial x} \right|, \qquad
          -\int p \log p = -\int q \log q + \mathbb{E} \log \left| \det \frac{\partial T}{\partial z} \right|.

Boxes follow from :math:`T` too: outside the disc :math:`|z| \le 6.5` a standard Gaussian in the plane has the mass
:math:`e^{-6.5^2 / 2} = 7 \cdot 10^{-10}`, so the image of the disc suffices.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Generator, Tensor

from energyscape.calculus import Box
from energyscape.data.distributions.base import Distribution, device_of, normal_rule, positive

DISC = 6.5
"""Radius of the disc that holds all but 7e-10 of a standard Gaussian in the plane."""


@final
@dataclass(frozen=True, kw_only=True)
class Pinwheel(Distribution):
    r"""Gaussian arms around the origin, twisted more with growing radius.

    .. math:: x = s\, R_{-\phi_k - \tau \exp |f|}\, f, \qquad f = (1 + \rho z_1, \theta z_2), \qquad
              \phi_k = \frac{2 \pi k}{n}

    with the rotation :math:`R` by an angle. The twist depends on the radius :math:`|f|` alone, so it keeps areas and
    the density is exact. In the code of Johnson et al. and FFJORD it depends on :math:`f_1`, which is nearly the same
    but not one to one.

    Args:
        arms: Number of arms, :math:`n \ge 1`.
        radial_std: Standard deviation :math:`\rho > 0` along an arm, before scaling.
        tangential_std: Standard deviation :math:`\theta > 0` across an arm, before scaling.
        twist: Strength of the twist, :math:`\tau > 0`.
        scale: Factor :math:`s > 0` on all lengths.

    Raises:
        UserError: If one of them is not positive.

    References:
        Composing graphical models with neural networks for structured representations and fast inference
        (Johnson et al., 2016), figure 1. https://arxiv.org/abs/1603.06277
    """

    arms: int = 5
    radial_std: float = 0.3
    tangential_std: float = 0.1
    twist: float = 0.25
    scale: float = 2.0

    def __post_init__(self) -> None:
        positive(self, "arms", "radial_std", "tangential_std", "twist", "scale")

    def _feature(self, z: Tensor) -> Tensor:
        return z * z.new_tensor([self.radial_std, self.tangential_std]) + z.new_tensor([1.0, 0.0])

    def _angle(self, arm: Tensor, radius: Tensor) -> Tensor:
        # Far outside the law the exponential is clamped so that its cosine stays finite.
        return 2 * math.pi / self.arms * arm + self.twist * radius.clamp(max=40).exp()

    def _placed(self, feature: Tensor, arm: Tensor) -> Tensor:
        return self.scale * _rotated(feature, -self._angle(arm, feature.norm(dim=1)))

    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        device = device_of(generator)
        arm = torch.randint(self.arms, (n,), generator=generator, device=device)
        return self._placed(self._feature(torch.randn(n, 2, generator=generator, device=device)), arm)

    def log_prob(self, x: Tensor) -> Tensor:
        x = (x / self.scale).unsqueeze(1)
        arm = torch.arange(self.arms, dtype=x.dtype, device=x.device)
        feature = _rotated(x, self._angle(arm, x.norm(dim=2)))
        z = (feature - self._feature(x.new_zeros(2))) / x.new_tensor([self.radial_std, self.tangential_std])
        area = 2 * math.pi * self.radial_std * self.tangential_std * self.scale**2
        return (-z.square().sum(2) / 2).logsumexp(1) - math.log(self.arms * area)

    @cached_property
    def entropy(self) -> float:
        # Rotation exchanges the arms: integrate around the first one.
        z, weight = normal_rule(2)
        return -float(weight @ self.log_prob(self._placed(self._feature(z), torch.zeros(len(z)).to(z))))

    @property
    def modes(self) -> Tensor:
        """Centres of the arms, ``(arms, 2)``; each is the mode of its Gaussian."""
        centre = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(self.arms, 2)
        return self._placed(centre, torch.arange(self.arms)).float()

    @property
    def box(self) -> Box:
        reach = self.scale * math.hypot(1 + 7 * self.radial_std, 7 * self.tangential_std)
        return ((-reach, reach), (-reach, reach))


@final
@dataclass(frozen=True, kw_only=True)
class Funnel(Distribution):
    r"""Neal's funnel in the plane: the first coordinate is the log-variance of the second.

    .. math:: x_1 = \tau z_1, \qquad x_2 = e^{x_1 / 2} z_2

    A step that is right for the mouth is far too long for the neck. Neal has :math:`\tau = 3`, for which the box that
    holds the mass is 43,000 wide; no quadrature would see the neck in it.

    Args:
        std: Standard deviation :math:`\tau > 0` of the first coordinate.

    Raises:
        UserError: If it is not positive.

    Examples:
        >>> law = Funnel(std=2.0)
        >>> law.entropy == 1 + math.log(2 * math.pi * 2.0)
        True

    References:
        Slice sampling (Neal, 2003), section 8. https://doi.org/10.1214/aos/1056562461
    """

    std: float = 1.0

    def __post_init__(self) -> None:
        positive(self, "std")

    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        z = torch.randn(n, 2, generator=generator, device=device_of(generator))
        v = self.std * z[:, 0]
        return torch.stack([v, (v / 2).exp() * z[:, 1]], 1)

    def log_prob(self, x: Tensor) -> Tensor:
        v, z = x[:, 0], x[:, 1] * (-x[:, 0] / 2).exp()
        return -((v / self.std).square() + z.square() + v) / 2 - math.log(2 * math.pi * self.std)

    @property
    def entropy(self) -> float:
        # The Jacobian is std * exp(x1 / 2), whose logarithm is log std on average.
        return 1 + math.log(2 * math.pi * self.std)

    @property
    def modes(self) -> Tensor:
        return torch.tensor([[-(self.std**2) / 2, 0.0]])

    @property
    def box(self) -> Box:
        # The largest cos(a) exp(b sin(a)) on the disc's rim is where b sin(a)^2 + sin(a) = b.
        b = DISC * self.std / 2
        sine = 2 * b / (1 + math.sqrt(1 + 4 * b**2))
        reach = DISC * math.sqrt(1 - sine**2) * math.exp(b * sine)
        return ((-DISC * self.std, DISC * self.std), (-reach, reach))


@final
@dataclass(frozen=True, kw_only=True)
class Banana(Distribution):
    r"""A Gaussian bent along a parabola, as the level sets of Rosenbrock's function are.

    .. math:: x_1 = s z_1, \qquad x_2 = \sigma z_2 + b\, (x_1^2 - s^2)

    Bending keeps areas: whatever the bend, the entropy is that of the straight Gaussian, and the mean is 0.

    Args:
        scale: Standard deviation :math:`s > 0` of the first coordinate.
        bend: Curvature :math:`b > 0` of the parabola.
        std: Standard deviation :math:`\sigma > 0` across it.

    Raises:
        UserError: If one of them is not positive.

    Examples:
        >>> Banana(bend=0.1).entropy == Banana(bend=3.0).entropy
        True

    References:
        Adaptive proposal distribution for random walk Metropolis algorithm (Haario et al., 1999).
        https://doi.org/10.1007/s001800050022
    """

    scale: float = 1.0
    bend: float = 0.5
    std: float = 0.25

    def __post_init__(self) -> None:
        positive(self, "scale", "bend", "std")

    def _parabola(self, x1: Tensor) -> Tensor:
        return self.bend * (x1.square() - self.scale**2)

    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        z = torch.randn(n, 2, generator=generator, device=device_of(generator))
        x1 = self.scale * z[:, 0]
        return torch.stack([x1, self.std * z[:, 1] + self._parabola(x1)], 1)

    def log_prob(self, x: Tensor) -> Tensor:
        z1, z2 = x[:, 0] / self.scale, (x[:, 1] - self._parabola(x[:, 0])) / self.std
        return -(z1.square() + z2.square()) / 2 - math.log(2 * math.pi * self.scale * self.std)

    @property
    def entropy(self) -> float:
        return 1 + math.log(2 * math.pi * self.scale * self.std)

    @property
    def modes(self) -> Tensor:
        return torch.tensor([[0.0, -self.bend * self.scale**2]])

    @property
    def box(self) -> Box:
        height = self.bend * self.scale**2
        side, up = DISC * self.scale, DISC * self.std
        return ((-side, side), (-up - height, up + height * (DISC**2 - 1)))


def _rotated(x: Tensor, angle: Tensor) -> Tensor:
    """Turn points ``(..., 2)`` counter-clockwise by angles ``(...)``."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([x[..., 0] * cos - x[..., 1] * sin, x[..., 0] * sin + x[..., 1] * cos], -1)
