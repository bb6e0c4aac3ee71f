r"""The interface of a law in the plane, and two rules of quadrature for entropies.

Analytic functions are integrated piece by piece with a Gauss-Legendre rule. Averages over a Gaussian, whose integrand
vanishes on all sides, use equal spacing :math:`h`, with an error of only :math:`e^{-2 \pi a / h}`. Here :math:`a` is
the distance of the integrand's nearest singularity from the real axis.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Generator, Tensor

from energyscape.calculus import Box
from energyscape.data.dataset import Dataset
from energyscape.errors import UserError


class Distribution(Dataset):
    """A distribution in the plane with a known density."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return (2,)

    @property
    def density(self) -> "Distribution":
        return self

    def drawing(self, sizes: Sequence[int], *, generator: Generator) -> Iterator[Tensor]:
        yield from (self.sample(n, generator=generator) for n in sizes)

    @abstractmethod
    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        """Draw independent samples.

        Args:
            n: Number of samples.
            generator: Source of randomness; the samples lie on its device.

        Returns:
            Samples ``(n, 2)`` in float32.
        """

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        r"""Return the exact, normalised log-density :math:`\log p(x)`.

        Args:
            x: Points, ``(B, 2)``.

        Returns:
            ``(B,)`` in the dtype of ``x``; minus infinity outside the support.
        """

    @property
    @abstractmethod
    def entropy(self) -> float:
        r"""Differential entropy :math:`-\int p \log p`, in nats, computed from the density on first use."""

    @property
    @abstractmethod
    def modes(self) -> Tensor | None:
        """Centres of the ``M`` modes, ``(M, 2)`` in float32; None if the law has no isolated ones."""

    @property
    @abstractmethod
    def box(self) -> Box:
        """A rectangle ``((x0, x1), (y0, y1))`` that holds all but 1e-9 of the mass."""


def piecewise(edges: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    r"""Return the points and weights of Gauss-Legendre rules on neighbouring intervals.

    Examples:
        >>> t, weight = piecewise(torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64), 4)
        >>> round(float((weight * t**3).sum()), 12)
        20.25
    """
    node, weight = map(torch.from_numpy, np.polynomial.legendre.leggauss(nodes))
    left, half = edges[:-1].unsqueeze(1), edges.diff().unsqueeze(1) / 2
    return (left + half * (node + 1)).flatten(), (half * weight).flatten()


def normal_rule(dimension: int, *, step: float = 0.1) -> tuple[Tensor, Tensor]:
    r"""Return the points and weights of averages over a standard Gaussian.

    .. math:: \mathbb{E}\, f(z) \approx \sum_i w_i f(z_i), \qquad z \sim \mathcal{N}(0, I)

    Examples:
        >>> z, weight = normal_rule(2)
        >>> round(float((weight * z[:, 0] ** 2 * z[:, 1] ** 4).sum()), 12)
        3.0
    """
    axis = torch.arange(-9, 9 + step / 2, step, dtype=torch.float64)
    z = torch.cartesian_prod(*[axis] * dimension).view(-1, dimension)
    return z, (-z.square().sum(1) / 2).softmax(0)


def device_of(generator: Generator | None) -> torch.device:
    """Return the device of a generator."""
    return torch.device("cpu") if generator is None else generator.device


def positive(law: Distribution, *names: str, least: float = 1e-9) -> None:
    """Refuse settings that are not positive numbers within the range of the quadrature."""
    for name in names:
        value, most = getattr(law, name), 1_000 if name in ("side", "rings", "arms") else 1e9
        if not least <= value <= most:
            limits = f"{least:g} to {most:g}"
            raise UserError(f"{type(law).__name__}: {name} is a positive number, {limits}; it was {value:g}")
