r"""Laws moved and scaled to one size, so that a recipe fits all of them.

For :math:`y = a\,(x - m)` in the plane, :math:`\log p_y(y) = \log p_x(m + y / a) - 2 \log a` and the entropy grows by
:math:`2 \log a`, while Kullback-Leibler divergences do not change at all.
"""

import math
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import final

import torch
from torch import Generator, Tensor

from energyscape.calculus import Box
from energyscape.data.distributions.base import Distribution, piecewise, positive
from energyscape.data.distributions.points import Points


@final
@dataclass(frozen=True)
class Rescaled(Distribution):
    r"""A law with its mean at the origin and a given size.

    .. math:: y = a\,(x - m), \qquad m = \mathbb{E}\, x, \qquad a = \sigma \Big/ \sqrt{\tfrac12 \mathbb{E}\, |x - m|^2}

    The scale is the same in both coordinates, and the law keeps its shape: :math:`\sigma` is the root mean square of
    the two coordinates' deviations, not the deviation of each. Mean and size are those of the density, by quadrature or
    exactly, never of a draw: the same law is moved in the same way, whatever the seed.

    Args:
        law: The original law.
        std: Its new size :math:`\sigma > 0`.

    Raises:
        UserError: If ``std`` is not positive.

    Examples:
        >>> from energyscape.data.distributions import EightGaussians, TwoMoons
        >>> moons = Rescaled(TwoMoons(), std=2.0)
        >>> round(moons.entropy - TwoMoons().entropy - 2 * math.log(moons.scale), 9)
        0.0
        >>> round(float(Rescaled(EightGaussians(), std=4.0).modes[0].norm()), 2)
        5.57
    """

    law: Distribution
    _: KW_ONLY
    std: float

    def __post_init__(self) -> None:
        positive(self, "std")

    @cached_property
    def mean(self) -> Tensor:
        """The mean :math:`m` of the original law, ``(2,)`` in float64."""
        return self._moments[0]

    @cached_property
    def scale(self) -> float:
        """The factor :math:`a` on lengths."""
        return self.std / self._moments[1]

    @cached_property
    def _moments(self) -> tuple[Tensor, float]:
        return moments(self.law)

    def _there(self, x: Tensor) -> Tensor:
        """Map points of the original law to those of this law."""
        return ((x.double() - self.mean.to(x.device)) * self.scale).to(x)

    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        return self._there(self.law.sample(n, generator=generator))

    def log_prob(self, x: Tensor) -> Tensor:
        # Back in double precision and rounded once: a sample near the edge of a square must not leave it.
        back = (self.mean.to(x.device) + x.double() / self.scale).to(x)
        return self.law.log_prob(back) - 2 * math.log(self.scale)

    @cached_property
    def entropy(self) -> float:
        return self.law.entropy + 2 * math.log(self.scale)

    @property
    def modes(self) -> Tensor | None:
        return None if self.law.modes is None else self._there(self.law.modes)

    @property
    def box(self) -> Box:
        (x0, x1), (y0, y1) = (self._there(torch.tensor(self.law.box, dtype=torch.float64).T)).T.tolist()
        return (x0, x1), (y0, y1)


def moments(law: Distribution) -> tuple[Tensor, float]:
    r"""Return the mean :math:`m` of a law and its size :math:`\sqrt{\tfrac12 \mathbb{E}\, |x - m|^2}`."""
    if isinstance(law, Points):
        x = law.x.detach().cpu().double()
        mean = x.mean(0)
        return mean, math.sqrt(float((x - mean).square().mean()) + law.std**2)
    sides = [torch.linspace(*side, 5, dtype=torch.float64) for side in law.box]
    (xs, x_weight), (ys, y_weight) = (piecewise(side, 100) for side in sides)
    x = torch.cartesian_prod(xs, ys)
    share = torch.outer(x_weight, y_weight).flatten() * law.log_prob(x).exp()
    share /= share.sum()
    mean = share @ x
    return mean, math.sqrt(float(share @ (x - mean).square().sum(1)) / 2)
