"""Discrepancies between two sets of draws, or draws and an energy, each with its standard error.

All are unbiased: at equality their expectation is exactly zero, so values just below zero are as good as values just
above. They are averages over pairs, :math:`U`-statistics, of independent draws (thin a chain's).

`u_statistics` defines the standard error and the one at equality (``null_error``). To ask whether two laws differ,
divide by the latter; the quotient is skewed to the right, and above 3 in up to 2 % of cases. ``error``, never smaller,
is for the size of a difference; at equality it is about a fourth too large.
"""

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from energyscape.calculus import EnergyFn, score
from energyscape.errors import UserError
from energyscape.evaluation.u_statistics import (
    PairFn,
    compared,
    of_one_set,
    of_two_sets,
    summed,
    u_statistic,
)
from energyscape.noise import normal_like

SAMPLE = 1000
"""Points for the median distance."""


class Discrepancy(NamedTuple):
    """An unbiased estimate of a discrepancy.

    Args:
        value: The estimate; its mean is zero if there is no difference.
        error: Its standard error.
        null_error: Its standard error under equality.
    """

    value: float
    error: float
    null_error: float


class SteinDiscrepancy(NamedTuple):
    """An unbiased estimate of a kernel Stein discrepancy.

    Args:
        value: The estimate of its *square*.
        error: Its standard error.
        null_error: Its standard error for draws of the energy's own law.
        p_value: Probability that draws of the energy's own law reach the value, by the wild bootstrap.
    """

    value: float
    error: float
    null_error: float
    p_value: float


def mmd(x: Tensor, y: Tensor, *, bandwidth: float | None = None) -> Discrepancy:
    r"""Return the *squared* maximum mean discrepancy with a Gaussian kernel.

    .. math:: \operatorname{MMD}^2 = E\, k(X, X') + E\, k(Y, Y') - 2 E\, k(X, Y), \qquad
              k(x, y) = e^{-\|x - y\|^2 / 2 \ell^2}

    It sees differences at the scale of the bandwidth: it smears out much finer structure, and sees only the masses of
    distant modes. In many dimensions all distances are alike, and it sees little but the spread. A bandwidth taken
    from the data makes values of different pairs of sets incomparable.

    Args:
        bandwidth: :math:`\ell > 0`, in units of ``x``; by default the median distance of at most 1000 pooled points.

    Examples:
        >>> draws = torch.Generator().manual_seed(0)
        >>> x, y = (torch.randn(500, 2, generator=draws) for _ in range(2))
        >>> same = mmd(x, y)
        >>> abs(same.value) < 5 * same.null_error < mmd(x, y + 1).value
        True

    References:
        A kernel two-sample test (Gretton et al., 2012), equation 3 and section 8. https://jmlr.org/papers/v13/gretton12a
    """
    x, y = _pair(x, y)
    squared = 2 * _bandwidth(torch.cat([x, y]), bandwidth) ** 2
    return two_sample(x, y, lambda a, b: (-_squared(a, b) / squared).exp())


def energy_distance(x: Tensor, y: Tensor) -> Discrepancy:
    r"""Return the energy distance, in units of ``x``.

    .. math:: D = 2 E \|X - Y\| - E \|X - X'\| - E \|Y - Y'\|

    It needs no bandwidth and is zero for equal laws only, but its scale is that of the largest distances. Differences
    inside a narrow mode of a wide law weigh little. (SciPy's is the square root of this, and biased.)

    Examples:
        >>> draws = torch.Generator().manual_seed(0)
        >>> x, y = (torch.randn(500, 1, generator=draws) for _ in range(2))
        >>> apart = energy_distance(x, y + 10)
        >>> abs(apart.value - (20 - 4 / math.pi**0.5)) < 5 * apart.error
        True

    References:
        Energy statistics: a class of statistics based on distances (Székely & Rizzo, 2013), equation 2.
        https://doi.org/10.1016/j.jspi.2013.03.018
    """
    return two_sample(*_pair(x, y), lambda a, b: -_squared(a, b).sqrt())


def sliced_wasserstein(
    x: Tensor, y: Tensor, *, projections: int = 100, blocks: int = 20, generator: Generator | None = None
) -> Discrepancy:
    r"""Return the *squared* sliced 2-Wasserstein distance, in squared units of ``x``, without its bias.

    .. math:: \operatorname{SW}_2^2 = E_\theta \int_0^1 \bigl( F_{\theta \cdot X}^{-1}(t)
              - F_{\theta \cdot Y}^{-1}(t) \bigr)^2 dt, \qquad \theta \text{ uniform on the sphere}

    Between finite samples this is positive even at equality, by a floor that depends on their size. So both sets are
    cut at random into blocks of one size, and with :math:`\bar W` the mean over pairs of blocks,

    .. math:: D = \bar W_{xy} - \tfrac12 (\bar W_{xx} + \bar W_{yy}),

    whose expectation is exactly zero at equality; the last two terms are the floor. Away from equality a small bias is
    left, of the relative size of the floor. For :math:`N(0, a^2)` and :math:`N(0, b^2)` it is :math:`-(a - b)^2` times
    half the floor of :math:`N(0, 1)`.

    A difference in one direction of :math:`d` counts for :math:`1 / d` of its square. The sets may be of any sizes,
    best a hundred draws a block or more; a remainder below a block is ignored.

    Args:
        projections: Number of directions; the error includes their variance.
        blocks: Blocks of the smaller set, at least four; more of them estimate the error better and raise the floor.

    Examples:
        >>> draws = torch.Generator().manual_seed(0)
        >>> x, y = (torch.randn(1000, 2, generator=draws) for _ in range(2))
        >>> apart = sliced_wasserstein(x, y + 3, generator=draws)
        >>> abs(apart.value - (3**2 + 3**2) / 2) < 5 * apart.error
        True

    References:
        Sliced and Radon Wasserstein barycenters of measures (Bonneel et al., 2015), section 3.
        https://doi.org/10.1007/s10851-014-0506-3
    """
    x, y = _pair(x, y)
    size = min(len(x), len(y)) // max(blocks, 1)
    if blocks < 4 or projections < 2 or size < 2:
        raise UserError(
            f"at least 4 blocks of at least 2 draws and 2 projections; there were {blocks} blocks of {size} and "
            f"{projections} projections"
        )
    theta = normal_like(x.new_empty(x.shape[1], projections), generator=generator)
    theta = theta / theta.norm(dim=0)
    bx, by = (_sorted_blocks(each @ theta, size, generator) for each in (x, y))
    # One matrix a direction, of the squared distances between the blocks' order statistics.
    xx, yy, xy = (-torch.cdist(a, b).square() / size for a, b in ((bx, bx), (by, by), (bx, by)))
    values, variances, _ = compared(of_one_set(xx), of_one_set(yy), of_two_sets(xy))
    value, variance, null = compared(of_one_set(xx.mean(0)), of_one_set(yy.mean(0)), of_two_sets(xy.mean(0)))
    # The spread between directions is that of their truths and that of their noise, less what noise they share.
    truths = values.var() - (variances.mean() - variance) * projections / (projections - 1)
    return _discrepancy(value / 2, (variance + truths.clamp(min=0) / projections) / 4, null / 4)


def kernel_stein(
    energy: EnergyFn,
    x: Tensor,
    *,
    temperature: float = 1.0,
    bandwidth: float | None = None,
    bootstraps: int = 500,
    generator: Generator | None = None,
) -> SteinDiscrepancy:
    r"""Return the *squared* kernel Stein discrepancy of draws from :math:`e^{-E / T} / Z`, without its :math:`Z`.

    .. math::
        u(x, y) = s(x) \cdot s(y)\, k + s(x) \cdot \nabla_y k + s(y) \cdot \nabla_x k + \nabla_x \cdot \nabla_y k, \quad
        s = -\nabla E / T, \quad k = (1 + \|x - y\|^2 / \ell^2)^{-1/2}

    It is blind to the weights of separated modes, like every measure of the score alone: draws from one of ten
    modes pass. With the inverse multiquadric kernel it does see draws that escape to infinity, which a Gaussian kernel
    does not. Its unit is a squared score, so values for different energies are incomparable. Its
    p-value is for independent draws; those of a chain need thinning.

    Args:
        bandwidth: :math:`\ell > 0`, in units of ``x``; by default the median distance of at most 1000 points.

    Examples:
        >>> draws = torch.Generator().manual_seed(0)
        >>> x = torch.randn(500, 2, generator=draws)
        >>> [kernel_stein(lambda x: (x - m).square().sum(1) / 2, x, generator=draws).p_value < 0.01 for m in (0, 1)]
        [False, True]

    References:
        A kernelized Stein discrepancy for goodness-of-fit tests (Liu, Lee & Jordan, 2016), theorem 3.6 and equation 14;
        https://arxiv.org/abs/1602.03253; Measuring sample quality with kernels (Gorham & Mackey, 2017), theorem 8.
        https://arxiv.org/abs/1703.01717; A kernel test of goodness of fit (Chwialkowski, Strathmann & Gretton, 2016),
        section 3. https://arxiv.org/abs/1602.02964
    """
    if not (math.isfinite(temperature) and temperature > 0) or bootstraps < 1 or len(x) < 4:
        raise UserError(
            f"a positive temperature, at least 1 bootstrap and 4 draws; they were {temperature}, {bootstraps} and "
            f"{len(x)}"
        )
    s = score(energy, x).flatten(1).double() / temperature
    x = x.detach().flatten(1).double()
    x = x - x.mean(0)
    signs = 2 * torch.randint(2, (len(x), bootstraps), generator=generator, device=x.device).double() - 1
    sums, signed = summed(_stein_kernel(_bandwidth(x, bandwidth)), torch.cat([x, s], 1), signs=signs)
    value, variance, null = u_statistic(sums)
    p_value = (1 + int((signed >= sums.rows.sum()).sum())) / (1 + bootstraps)
    return SteinDiscrepancy(*_discrepancy(value, variance, null), p_value)


def two_sample(x: Tensor, y: Tensor, k: PairFn) -> Discrepancy:
    """Return the mean within both sets less twice that between them, and its errors."""
    return _discrepancy(*compared(summed(k, x)[0], summed(k, y)[0], summed(k, x, y)[0]))


def _discrepancy(value: Tensor, variance: Tensor, null: Tensor) -> Discrepancy:
    return Discrepancy(float(value), float(variance.sqrt()), float(null.sqrt()))


def _pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return two sets of points as vectors in float64 about their common mean, for precise distances."""
    if x.shape[1:] != y.shape[1:] or x.ndim < 2 or min(len(x), len(y)) < 4:
        raise UserError(
            f"two sets (N, *) of at least 4 draws of one event shape; they were {tuple(x.shape)}, {tuple(y.shape)}"
        )
    x, y = (each.detach().flatten(1).double() for each in (x, y.to(x.device)))
    mean = (x.mean(0) + y.mean(0)) / 2
    return x - mean, y - mean


def _bandwidth(points: Tensor, bandwidth: float | None) -> float:
    """Return the bandwidth that was given, or the median distance of points at equal steps through the set."""
    if bandwidth is not None:
        if not (math.isfinite(bandwidth) and bandwidth > 0):
            raise UserError(f"bandwidth is a positive number; it was {bandwidth}")
        return bandwidth
    some = torch.linspace(0, len(points) - 1, min(len(points), SAMPLE), device=points.device).long()
    median = float(torch.nn.functional.pdist(points[some]).median())
    if median == 0:
        raise UserError("most points are the same, so that their median distance is no bandwidth: give one")
    return median


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared distances of points ``(b, d)`` and ``(m, d)``."""
    squares = a.square().sum(1, keepdim=True) + b.square().sum(1)
    return torch.addmm(squares, a, b.mT, alpha=-2).clamp_(min=0)


def _sorted_blocks(projected: Tensor, size: int, generator: Generator | None) -> Tensor:
    """Return order statistics of random blocks, ``(directions, blocks, size)``, from ``(N, directions)``."""
    count = len(projected) // size
    order = torch.randperm(len(projected), generator=generator, device=projected.device)[: count * size]
    return projected[order].view(count, size, -1).sort(1).values.permute(2, 0, 1)


def _stein_kernel(bandwidth: float) -> PairFn:
    """Return u of `kernel_stein` as a function of points with their scores beside them, ``(b, 2 d)``."""

    def u(a: Tensor, b: Tensor) -> Tensor:
        (x, sx), (y, sy) = a.chunk(2, 1), b.chunk(2, 1)
        square = _squared(x, y) / bandwidth**2
        q = 1 / (1 + square)
        # (s(x) - s(y)) . (x - y)
        apart = (x * sx).sum(1, keepdim=True) - sx @ y.mT - x @ sy.mT + (y * sy).sum(1)
        return q.sqrt() * (sx @ sy.mT + q / bandwidth**2 * (apart + x.shape[1] - 3 * square * q))

    return u
