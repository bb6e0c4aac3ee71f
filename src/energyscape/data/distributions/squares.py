r"""Uniform laws on squares: a density that jumps.

The score is zero inside and the energy infinite outside, so methods that need a smooth density can only approximate
these laws. The jumps lie where the four-by-four panels of `energyscape.evaluation.kl` meet, which keeps its quadrature
as exact here as on smooth laws.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Generator, Tensor

from energyscape.calculus import Box
from energyscape.data.distributions.base import Distribution, device_of, positive
from energyscape.errors import UserError


@final
@dataclass(frozen=True)
class Checkerboard(Distribution):
    r"""Uniform on the eight dark squares of a four-by-four board on :math:`[-4, 4)^2`.

    .. math:: p(x) = \tfrac{1}{32} \left[\lfloor x_1 / 2 \rfloor + \lfloor x_2 / 2 \rfloor \text{ even}\right]

    Examples:
        >>> Checkerboard().log_prob(torch.tensor([[1.0, 1.0], [1.0, -1.0]])).exp()
        tensor([0.0312, 0.0000])

    References:
        FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models
        (Grathwohl et al., 2019), section 4.1. https://arxiv.org/abs/1810.01367
    """

    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        device = device_of(generator)
        corner = self.modes.to(device) - 1
        square = torch.randint(8, (n,), generator=generator, device=device)
        # Midpoints of a 2^-20 grid are exact in float32; torch.rand would now and then round onto the next square.
        cell = torch.randint(1 << 20, (n, 2), generator=generator, device=device)
        return corner[square] + (cell + 0.5) / (1 << 19)

    def log_prob(self, x: Tensor) -> Tensor:
        dark = (x / 2).floor().sum(1) % 2 == 0
        inside = ((x >= -4) & (x < 4)).all(1)
        return torch.where(dark & inside, x.new_tensor(-self.entropy), -torch.inf)

    @property
    def entropy(self) -> float:
        return math.log(len(self.modes) * 2 * 2)

    @property
    def modes(self) -> Tensor:
        """Centres of the dark squares, ``(8, 2)``; the density is flat around each."""
        centre = torch.tensor([-3.0, -1.0, 1.0, 3.0])
        board = torch.cartesian_prod(centre, centre)
        return board[(board.sum(1) % 4) == 2]

    @property
    def box(self) -> Box:
        return ((-4.0, 4.0), (-4.0, 4.0))


@final
@dataclass(frozen=True, kw_only=True)
class FourSquares(Distribution):
    r"""Uniform on each of four squares at the corners of a larger one.

    .. math:: p(x) = \frac{w_k}{a^2} \left[ |x_1|, |x_2| \in [a, 2 a) \right]

    The gap between neighbours is twice their side, and no density is in it: no local kernel
    shows how much mass a model puts on each square.

    Args:
        side: Side :math:`a > 0` of each square.
        shares: Mass :math:`w_k > 0` of the square at the lower left, upper left, lower right and upper right.

    Raises:
        UserError: If the side or a share is not positive, or the shares do not sum to 1.

    Examples:
        >>> FourSquares().log_prob(torch.tensor([[1.5, -1.5], [1.5, 0.0]])).exp()
        tensor([0.2500, 0.0000])
    """

    side: float = 1.0
    shares: tuple[float, float, float, float] = (0.25, 0.25, 0.25, 0.25)

    def __post_init__(self) -> None:
        positive(self, "side")
        if not min(self.shares) > 0 or abs(sum(self.shares) - 1) > 1e-6:
            raise UserError(f"FourSquares: shares are four positive numbers that sum to 1; they were {self.shares}")

    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        device = device_of(generator)
        steps = torch.tensor(self.shares, device=device).cumsum(0)[:-1]
        square = torch.bucketize(torch.rand(n, generator=generator, device=device), steps, right=True)
        sign = self.modes.to(device).sign()[square]
        # Midpoints of a 2^-20 grid, as above: half a cell is twice the spacing of float32, no rounding leaves a square.
        cell = torch.randint(1 << 20, (n, 2), generator=generator, device=device)
        return sign * (self.side * (1 + (cell + 0.5) / (1 << 20)))

    def log_prob(self, x: Tensor) -> Tensor:
        distance = x.abs() / self.side
        inside = ((distance >= 1) & (distance < 2)).all(1)
        square = 2 * (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
        density = x.new_tensor(self.shares)[square] / self.side**2
        return torch.where(inside, density.log(), -torch.inf)

    @property
    def entropy(self) -> float:
        return 2 * math.log(self.side) - sum(share * math.log(share) for share in self.shares)

    @property
    def modes(self) -> Tensor:
        """Centres of the squares, ``(4, 2)``; the density is flat around each."""
        centre = torch.tensor([-1.5, 1.5]) * self.side
        return torch.cartesian_prod(centre, centre)

    @property
    def box(self) -> Box:
        return ((-2 * self.side, 2 * self.side), (-2 * self.side, 2 * self.side))
