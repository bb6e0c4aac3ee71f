r"""Curves blurred by Gaussian noise.

A curve :math:`c(t)` with :math:`t \sim w` and noise of deviation :math:`\sigma` make a mixture of Gaussians with a
continuum of means, which a Gauss-Legendre rule :math:`(t_i, h_i)` turns into a finite one:

.. math:: p(x) = \int w(t)\, \mathcal{N}(x; c(t), \sigma^2 I)\, dt
          \approx \sum_i h_i w(t_i)\, \mathcal{N}(x; c(t_i), \sigma^2 I).

The nodes follow from the noise: 24 on every piece of ten deviations or one radian, whichever is shorter. The error of
:math:`\log p` is below 1e-9 where the density is above :math:`e^{-30}` of its maximum and below 3e-8 as far down as
:math:`e^{-200}`, compared with sums of 20,000 terms. A circle needs no nodes: its integral is a Bessel function.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
import torch
from torch import Generator, Tensor

from energyscape.calculus import Box
from energyscape.data.distributions.base import Distribution, device_of, piecewise, positive
from energyscape.data.distributions.mixtures import log_sum

Rule = tuple[Tensor, Tensor]
"""Means ``(K, 2)`` and log-weights ``(K,)`` of the finite mixture that approximates a blurred curve, in float64."""


@final
@dataclass(frozen=True, kw_only=True)
class Rings(Distribution):
    r"""Concentric circles, blurred, with equal mass on each.

    .. math:: p(x) = \frac{1}{n} \sum_{k=1}^{n} \frac{1}{2 \pi \sigma^2}
              \exp\left( -\frac{|x|^2 + r_k^2}{2 \sigma^2} \right) I_0\left( \frac{|x|\, r_k}{\sigma^2} \right),
              \qquad r_k = a k

    The mass is equal, so the inner rings are denser than the outer ones: the density falls as :math:`1 / r_k`.

    Args:
        rings: Number of rings, :math:`n \ge 1`.
        spacing: Radius of the first ring and distance between neighbours, :math:`a > 0`.
        noise: Standard deviation :math:`\sigma > 0` of the blur.

    Raises:
        UserError: If one of them is not positive.

    Examples:
        >>> round(Rings().entropy, 3)
        2.623

    References:
        FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models
        (Grathwohl et al., 2019), the ``rings`` of its code. https://arxiv.org/abs/1810.01367
    """

    rings: int = 4
    spacing: float = 0.75
    noise: float = 0.08

    def __post_init__(self) -> None:
        positive(self, "rings", "spacing", "noise")

    @cached_property
    def _radii(self) -> Tensor:
        return self.spacing * torch.arange(1, self.rings + 1, dtype=torch.float64)

    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        device = device_of(generator)
        ring = torch.randint(1, self.rings + 1, (n,), generator=generator, device=device)
        angle = 2 * math.pi * torch.rand(n, generator=generator, device=device)
        z = torch.randn(n, 2, generator=generator, device=device)
        return _polar(self.spacing * ring, angle) + self.noise * z

    def log_prob(self, x: Tensor) -> Tensor:
        return self._along(x.norm(dim=1)) - math.log(2 * math.pi * self.noise**2)

    def _along(self, radius: Tensor) -> Tensor:
        """Log-density at a distance from the centre, up to its constant."""
        r, ring = radius.unsqueeze(1) / self.noise, self._radii.to(radius) / self.noise
        # The scaled function e^-z I_0(z) leaves the square of the difference, which neither overflows nor cancels.
        log_each: Tensor = torch.special.i0e(r * ring).log() - (r - ring).square() / 2
        return log_each.logsumexp(1) - math.log(self.rings)

    @cached_property
    def entropy(self) -> float:
        outer = self.spacing * self.rings + 9 * self.noise
        r, weight = piecewise(torch.linspace(0, outer, 1 + math.ceil(outer / self.noise), dtype=torch.float64), 16)
        log_prob = self._along(r) - math.log(2 * math.pi * self.noise**2)
        return -float((weight * 2 * math.pi * r * log_prob.exp() * log_prob).sum())

    @property
    def modes(self) -> None:
        return None

    @property
    def box(self) -> Box:
        reach = self.spacing * self.rings + 7 * self.noise
        return ((-reach, reach), (-reach, reach))


@final
@dataclass(frozen=True, kw_only=True)
class TwoMoons(Distribution):
    r"""Two interleaved half circles, blurred; the geometry of scikit-learn's ``make_moons``.

    .. math:: c_\text{up}(t) = (\cos t, \sin t), \quad c_\text{low}(t) = (1 - \cos t, \tfrac12 - \sin t), \quad
              x = c(t) + \sigma z, \quad t \sim U[0, \pi]

    The arc of every sample is an independent coin toss; scikit-learn puts exactly half of them on each.

    Args:
        noise: Standard deviation :math:`\sigma > 0` of the blur.

    Raises:
        UserError: If it is not positive.

    Examples:
        >>> round(TwoMoons(noise=0.1).entropy, 2)
        1.01
    """

    noise: float = 0.1

    def __post_init__(self) -> None:
        positive(self, "noise")

    @cached_property
    def _rule(self) -> Rule:
        upper, log_weight = blurred_curve(_circle, (0.0, math.pi), self.noise)
        return torch.cat([upper, self._reflected(upper)]), log_weight.repeat(2) - math.log(2)

    @staticmethod
    def _reflected(x: Tensor) -> Tensor:
        """Rotate by 180 degrees about (1/2, 1/4), which exchanges the two moons."""
        return x.new_tensor([1.0, 0.5]) - x

    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        device = device_of(generator)
        t = math.pi * torch.rand(n, generator=generator, device=device)
        lower = torch.rand(n, 1, generator=generator, device=device) < 0.5
        z = torch.randn(n, 2, generator=generator, device=device)
        upper = _circle(t)
        return torch.where(lower, self._reflected(upper), upper) + self.noise * z

    def log_prob(self, x: Tensor) -> Tensor:
        return blurred_log_prob(x, self._rule, self.noise)

    @cached_property
    def entropy(self) -> float:
        return blurred_entropy(self._rule, self.noise)

    @property
    def modes(self) -> None:
        return None

    @property
    def box(self) -> Box:
        reach = 7 * self.noise
        return ((-1 - reach, 2 + reach), (-0.5 - reach, 1 + reach))


@final
@dataclass(frozen=True, kw_only=True)
class TwoSpirals(Distribution):
    r"""Two spirals of one and a half turns, each the other's half-turn, blurred.

    .. math:: x = \pm \tfrac{t}{3}\, (-\cos t, \sin t) + \sigma z, \quad t = 3 \pi \sqrt{u}, \quad u \sim U[0, 1]

    The square root makes the mass nearly even along the arms. FFJORD's spirals, otherwise the same, are shifted by a
    uniform jitter of at most 1/6 before the noise: entropies of the two differ.

    Args:
        noise: Standard deviation :math:`\sigma > 0` of the blur.

    Raises:
        UserError: If it is not positive.

    References:
        FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models
        (Grathwohl et al., 2019), the ``2spirals`` of its code. https://arxiv.org/abs/1810.01367
    """

    noise: float = 0.1

    def __post_init__(self) -> None:
        positive(self, "noise")

    @staticmethod
    def _arm(t: Tensor) -> Tensor:
        return _polar(t / 3, math.pi - t)

    @cached_property
    def _rule(self) -> Rule:
        end = 3 * math.pi
        # t is drawn as the square root of a uniform variable: its density is 2 t / end^2.
        arm, log_weight = blurred_curve(self._arm, (0.0, end), self.noise, density=lambda t: 2 * t / end**2)
        return torch.cat([arm, -arm]), log_weight.repeat(2) - math.log(2)

    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        device = device_of(generator)
        t = 3 * math.pi * torch.rand(n, generator=generator, device=device).sqrt()
        sign = torch.randint(2, (n, 1), generator=generator, device=device) * 2 - 1
        z = torch.randn(n, 2, generator=generator, device=device)
        return sign * self._arm(t) + self.noise * z

    def log_prob(self, x: Tensor) -> Tensor:
        return blurred_log_prob(x, self._rule, self.noise)

    @cached_property
    def entropy(self) -> float:
        return blurred_entropy(self._rule, self.noise)

    @property
    def modes(self) -> None:
        return None

    @property
    def box(self) -> Box:
        reach = math.pi + 7 * self.noise
        return ((-reach, reach), (-reach, reach))


@final
@dataclass(frozen=True, kw_only=True)
class SwissRoll(Distribution):
    r"""A spiral of one and a half turns, blurred; scikit-learn's ``make_swiss_roll`` seen from the side, over 5.

    .. math:: x = \tfrac{t}{5}\, (\cos t, \sin t) + \sigma z, \quad t \sim U[\tfrac32 \pi, \tfrac92 \pi]

    The angle is uniform, not the length: the inner end is three times as dense as the outer one.

    Args:
        noise: Standard deviation :math:`\sigma > 0` of the blur; a fifth of scikit-learn's.

    Raises:
        UserError: If it is not positive.

    References:
        FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models
        (Grathwohl et al., 2019), the ``swissroll`` of its code. https://arxiv.org/abs/1810.01367
    """

    noise: float = 0.2

    def __post_init__(self) -> None:
        positive(self, "noise")

    @staticmethod
    def _roll(t: Tensor) -> Tensor:
        return _polar(t / 5, t)

    @cached_property
    def _rule(self) -> Rule:
        return blurred_curve(self._roll, (1.5 * math.pi, 4.5 * math.pi), self.noise)

    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        device = device_of(generator)
        t = 1.5 * math.pi * (1 + 2 * torch.rand(n, generator=generator, device=device))
        z = torch.randn(n, 2, generator=generator, device=device)
        return self._roll(t) + self.noise * z

    def log_prob(self, x: Tensor) -> Tensor:
        return blurred_log_prob(x, self._rule, self.noise)

    @cached_property
    def entropy(self) -> float:
        return blurred_entropy(self._rule, self.noise)

    @property
    def modes(self) -> None:
        return None

    @property
    def box(self) -> Box:
        reach = 0.9 * math.pi + 7 * self.noise
        return ((-reach, reach), (-reach, reach))


def blurred_curve(
    curve: Callable[[Tensor], Tensor],
    ends: tuple[float, float],
    noise: float,
    *,
    density: Callable[[Tensor], Tensor] | None = None,
) -> Rule:
    """Return the finite mixture that approximates a blurred curve."""
    t = torch.linspace(*ends, 4097, dtype=torch.float64)
    pieces = torch.maximum(curve(t).diff(dim=0).norm(dim=1) / (10 * noise), t.diff()).cumsum(0)
    pieces = torch.cat([pieces.new_zeros(1), pieces])
    count = math.ceil(float(pieces[-1]))
    # Seen from afar, the density is that of the nearer end, where the integrand falls steeply: shorter pieces there.
    marks = np.array([0, 0.25, *range(1, count), count - 0.25, count]) / count
    edges = np.interp(marks * float(pieces[-1]), pieces.numpy(), t.numpy())
    t, weight = piecewise(torch.from_numpy(edges), 24)
    return curve(t), (weight / (ends[1] - ends[0]) if density is None else weight * density(t)).log()


def blurred_log_prob(x: Tensor, rule: Rule, noise: float) -> Tensor:
    """Return the log-density of a blurred curve."""
    # |x - c|^2 = |x|^2 - 2 x c + |c|^2 is one product of matrices, and double precision bears the cancellation.
    z, means = x.double() / noise, rule[0].to(x.device) / noise
    constant = rule[1].to(x.device) - means.square().sum(1) / 2
    # In chunks that fit the cache, because every point meets every node.
    parts = torch.split(z, max(1, (1 << 16) // len(means)))
    log_sums = torch.cat([log_sum(part, means, constant) for part in parts]) - z.square().sum(1) / 2
    return (log_sums - math.log(2 * math.pi * noise**2)).to(x)


def blurred_entropy(rule: Rule, noise: float) -> float:
    r"""Return the entropy of a blurred curve.

    Equal spacing over the plane, :math:`\sigma / 3` in each coordinate, is exact to 1e-7; only points within some 8
    deviations of the curve are visited.
    """
    step, reach = noise / 3, 27
    near = (rule[0][::4] / step).round().long()
    corner, width = near.amin(0) - reach, int(near[:, 1].amax() - near[:, 1].amin()) + 2 * reach + 1
    around = torch.cartesian_prod(*[torch.arange(2 * reach + 1)] * 2)
    row, column = (near - near.amin(0)).unsqueeze(1).add(around).flatten(0, 1).unbind(1)
    cell = (row * width + column).unique()
    points = step * (corner + torch.stack([cell // width, cell % width], 1)).to(rule[0])
    log_prob = blurred_log_prob(points, rule, noise)
    return -float((log_prob.exp() * log_prob).sum()) * step**2


def _polar(radius: Tensor, angle: Tensor) -> Tensor:
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1)


def _circle(t: Tensor) -> Tensor:
    return torch.stack([t.cos(), t.sin()], 1)
