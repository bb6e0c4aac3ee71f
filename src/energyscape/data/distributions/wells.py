r"""A Boltzmann law given by its energy.

.. math:: p(x) = \frac{1}{Z} e^{-E(x)}, \qquad
          E(x) = b \left( \frac{x_1^2}{c^2} - 1 \right)^2 + \frac{x_2^2}{2 \sigma^2}

The coordinates are independent. With :math:`u = x_1 / c`,

.. math:: (u^2 - 1)^2 = (|u| - 1)^2 (|u| + 1)^2 \ge (|u| - 1)^2,

so that two half Gaussians of variance :math:`1 / 2b` at :math:`u = \pm 1` lie above the first factor everywhere, and
rejection from them is exact.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Generator, Tensor

from energyscape.calculus import Box
from energyscape.data.distributions.base import Distribution, device_of, piecewise, positive


@final
@dataclass(frozen=True, kw_only=True)
class DoubleWell(Distribution):
    r"""Two wells with a barrier between them.

    .. math:: p(x) \propto \exp\left( -b \left( \frac{x_1^2}{c^2} - 1 \right)^2 - \frac{x_2^2}{2 \sigma^2} \right)

    The wells are narrower than the barrier is wide: their deviation along :math:`x_1` is :math:`c / \sqrt{8 b}`.

    Args:
        barrier: Energy :math:`b > 0` of the top between the wells above their bottoms, in units of the temperature.
        position: The bottoms lie at :math:`x_1 = \pm c`, :math:`c > 0`.
        std: Standard deviation :math:`\sigma > 0` of :math:`x_2`.

    Raises:
        UserError: If one of them is not positive.

    Examples:
        >>> law = DoubleWell()
        >>> bottom, top = law.log_prob(torch.tensor([[1.5, 0.0], [0.0, 0.0]]))
        >>> round(float(bottom - top), 4)
        4.0
    """

    barrier: float = 4.0
    position: float = 1.5
    std: float = 0.5

    def __post_init__(self) -> None:
        positive(self, "barrier", "position", "std")

    def _energy(self, u: Tensor) -> Tensor:
        return self.barrier * (u.square() - 1).square()

    @cached_property
    def _half(self) -> tuple[Tensor, Tensor]:
        """Points and weights along the right well, on the scale where its bottom is at 1."""
        # Beyond, the energy exceeds 50 and the omitted mass is below 1e-20; inside, 16 * 24 nodes on a single bump.
        spread = math.sqrt(50 / self.barrier)
        edges = torch.linspace(math.sqrt(max(0.0, 1 - spread)), math.sqrt(1 + spread), 17, dtype=torch.float64)
        return piecewise(edges, 24)

    @cached_property
    def _log_z(self) -> float:
        u, weight = self._half
        along = 2 * self.position * float((weight * (-self._energy(u)).exp()).sum())
        return math.log(along * self.std * math.sqrt(2 * math.pi))

    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        device = device_of(generator)
        kept: list[Tensor] = []
        while (missing := n - sum(map(len, kept))) > 0:
            # About half is accepted; a round or two more gives the rest.
            z = torch.randn(2 * missing + 16, generator=generator, device=device)
            u = 1 + z / math.sqrt(2 * self.barrier)
            accept_prob = (self.barrier * (u - 1).square() - self._energy(u)).exp()
            accepted = torch.rand(len(u), generator=generator, device=device) < accept_prob
            kept.append(u[accepted & (u > 0)][:missing])
        u = torch.cat([torch.empty(0, device=device), *kept])
        sign = torch.randint(2, (n,), generator=generator, device=device) * 2 - 1
        z = torch.randn(n, generator=generator, device=device)
        return torch.stack([self.position * sign * u, self.std * z], 1)

    def log_prob(self, x: Tensor) -> Tensor:
        u, v = (x / x.new_tensor([self.position, self.std])).unbind(1)
        return -self._energy(u) - v.square() / 2 - self._log_z

    @cached_property
    def entropy(self) -> float:
        # log Z + E[E(x)]; the Gaussian coordinate contributes one half.
        u, weight = self._half
        e = self._energy(u)
        share = weight * (-e).exp()
        return self._log_z + float((share * e).sum() / share.sum()) + 0.5

    @property
    def modes(self) -> Tensor:
        return torch.tensor([[-self.position, 0.0], [self.position, 0.0]])

    @property
    def box(self) -> Box:
        # Where the energy reaches 25: beyond lies less than 1e-11 of the mass.
        x = self.position * math.sqrt(1 + math.sqrt(25 / self.barrier))
        return ((-x, x), (-7 * self.std, 7 * self.std))
