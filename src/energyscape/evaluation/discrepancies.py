r"""How far apart two sets of draws are, or a set of draws and an energy, each value with its standard error.

All are unbiased: at equality their expectation is exactly zero, so that values just below zero are as good as values
just above. They are averages over pairs, :math:`U`-statistics, of independent draws (a chain's are not: thin it).

With :math:`\bar k_{xx}`, :math:`\bar k_{yy}` and :math:`\bar k_{xy}` the means of a function of pairs, a point never
paired with itself,

.. math:: D = \bar k_{xx} + \bar k_{yy} - 2 \bar k_{xy}, \qquad
          \operatorname{SE}^2 = V_{\text{jackknife}} - V_2, \qquad
          V_2 = \frac{2 \zeta_{xx}}{(n - 1) (n - 2)} + \frac{2 \zeta_{yy}}{(m - 1) (m - 2)}
          + \frac{4 \zeta_{xy}}{n m},

where :math:`\zeta` is the variance of what of :math:`k` is not a sum of a function of one point and of the other: the
jackknife counts that part twice, and this takes it off once. That part alone is what is left at equality, and is given
as ``null_error``: to ask whether two laws differ, divide by that one. The quotient's law then leans to the right: it is
above 3 in up to 2 % of cases. ``error``, never smaller, is for the size of a difference; at equality it is about a
fourth too large.

References:
    The jackknife estimate of variance (Efron & Stein, 1981), theorem 2 and section 4.
    https://doi.org/10.1214/aos/1176345462; Partial distance correlation with methods for dissimilarities (Székely &
    Rizzo, 2014), section 3, for unbiased :math:`\zeta`. https://doi.org/10.1214/14-AOS1255
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from energyscape.calculus import EnergyFn, score
from energyscape.errors import UserError
from energyscape.noise import normal_like

ENTRIES = 1 << 22
"""Pairs that are held in memory at a time."""

SAMPLE = 1000
"""Points whose distances the median is taken of."""

PairFn = Callable[[Tensor, Tensor], Tensor]
"""Maps points ``(b, d)`` and ``(m, d)`` to one number a pair, ``(b, m)``."""


class Discrepancy(NamedTuple):
    """An unbiased estimate of a discrepancy.

    Args:
        value: The estimate; its mean is zero if there is no difference.
        error: Its standard error.
        null_error: The standard error that it would have if there were no difference.
    """

    value: float
    error: float
    null_error: float


class SteinDiscrepancy(NamedTuple):
    """An unbiased estimate of a kernel Stein discrepancy.

    Args:
        value: The estimate of its *square*.
        error: Its standard error.
        null_error: The standard error that it would have if the draws were of the energy's own law.
        p_value: How often draws of the energy's own law would reach the value, by the wild bootstrap.
    """

    value: float
    error: float
    null_error: float
    p_value: float


def mmd(x: Tensor, y: Tensor, *, bandwidth: float | None = None) -> Discrepancy:
    r"""Returns the *squared* maximum mean discrepancy with a Gaussian kernel.

    .. math:: \operatorname{MMD}^2 = E\, k(X, X') + E\, k(Y, Y') - 2 E\, k(X, Y), \qquad
              k(x, y) = e^{-\|x - y\|^2 / 2 \ell^2}

    It sees what differs at the scale of the bandwidth: much finer structure is smeared out, and of two far modes it
    only sees the masses. In many dimensions all distances are alike, and it sees little but the spread. A bandwidth
    taken from the data makes values of different pairs of sets incomparable.

    Args:
        x: Draws, ``(N, *)``, at least four.
        y: Draws, ``(M, *)``, at least four.
        bandwidth: :math:`\ell > 0`, in units of ``x``; the median distance of at most 1000 pooled points if left out.

    Raises:
        UserError: If there are too few draws, their events differ or the bandwidth is not positive.

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
    r"""Returns the energy distance, in units of ``x``.

    .. math:: D = 2 E \|X - Y\| - E \|X - X'\| - E \|Y - Y'\|

    It needs no bandwidth and is zero for equal laws only, but its scale is that of the largest distances: what differs
    inside a narrow mode of a wide law weighs little. (SciPy's is the square root of this, and biased.)

    Args:
        x: Draws, ``(N, *)``, at least four.
        y: Draws, ``(M, *)``, at least four.

    Raises:
        UserError: If there are too few draws or their events differ.

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
    r"""Returns the *squared* sliced 2-Wasserstein distance, in squared units of ``x``, without its bias.

    .. math:: \operatorname{SW}_2^2 = E_\theta \int_0^1 \bigl( F_{\theta \cdot X}^{-1}(t)
              - F_{\theta \cdot Y}^{-1}(t) \bigr)^2 dt, \qquad \theta \text{ uniform on the sphere}

    Between finite samples this is positive even at equality, by a floor that depends on their size. So both sets are
    cut at random into blocks of one size, and with :math:`\bar W` the mean over pairs of blocks,

    .. math:: D = \bar W_{xy} - \tfrac12 (\bar W_{xx} + \bar W_{yy}),

    whose expectation is exactly zero at equality; the last two terms are the floor. Away from equality a bias is left
    that is as small as the floor is beside the spread of the law: for :math:`N(0, a^2)` and :math:`N(0, b^2)` it is
    :math:`-(a - b)^2` times half the floor of :math:`N(0, 1)`.

    A difference in one direction of :math:`d` counts for :math:`1 / d` of its square. The sets may be of any sizes,
    best a hundred draws a block or more; less than a block of each is left out.

    Args:
        x: Draws, ``(N, *)``, at least two a block.
        y: Draws, ``(M, *)``, at least two a block.
        projections: Directions; that they are not all counts in the error.
        blocks: Of the smaller set, at least four; more of them know the error better and have a higher floor.
        generator: The stream to draw from.

    Raises:
        UserError: If there are too few draws, directions or blocks, or the events differ.

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
    values, variances, _ = _compared(_of_one_set(xx), _of_one_set(yy), _of_two_sets(xy))
    value, variance, null = _compared(_of_one_set(xx.mean(0)), _of_one_set(yy.mean(0)), _of_two_sets(xy.mean(0)))
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
    r"""Returns the *squared* kernel Stein discrepancy of draws from :math:`e^{-E / T} / Z`, without its :math:`Z`.

    .. math::
        u(x, y) = s(x) \cdot s(y)\, k + s(x) \cdot \nabla_y k + s(y) \cdot \nabla_x k + \nabla_x \cdot \nabla_y k, \quad
        s = -\nabla E / T, \quad k = (1 + \|x - y\|^2 / \ell^2)^{-1/2}

    It is blind to the weights of separated modes, as everything is that knows the score alone: draws from one of ten
    modes pass. With the inverse multiquadric kernel it does see draws that escape to infinity, which a Gaussian kernel
    does not. It has a unit, that of a squared score, so that values for different energies are incomparable. Its
    p-value is for independent draws; those of a chain need thinning.

    Args:
        energy: Maps ``(N, *)`` to ``(N,)``.
        x: Draws, ``(N, *)``, at least four.
        temperature: :math:`T > 0` of the energy.
        bandwidth: :math:`\ell > 0`, in units of ``x``; the median distance of at most 1000 points if left out.
        bootstraps: Signs that are drawn for the p-value.
        generator: The stream to draw from.

    Raises:
        UserError: If there are too few draws or a setting is out of its range.

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
    sums, signed = _summed(_stein_kernel(_bandwidth(x, bandwidth)), torch.cat([x, s], 1), signs=signs)
    value, variance, null = _u_statistic(sums)
    p_value = (1 + int((signed >= sums.rows.sum()).sum())) / (1 + bootstraps)
    return SteinDiscrepancy(*_discrepancy(value, variance, null), p_value)


class Sums(NamedTuple):
    """What is kept of a function of pairs; leading dimensions are separate functions.

    Args:
        rows: Sum over the second point, ``(..., N)``.
        columns: Sum over the first point, ``(..., M)``; that of a symmetric function of one set is the other.
        squares: Sum of squares over all pairs, ``(...)``.
    """

    rows: Tensor
    columns: Tensor
    squares: Tensor


def _of_one_set(values: Tensor) -> Sums:
    """Returns the sums over pairs of different points, from ``(..., N, N)``."""
    values = values - torch.diag_embed(values.diagonal(dim1=-2, dim2=-1))
    return _of_two_sets(values)


def _of_two_sets(values: Tensor) -> Sums:
    """Returns the sums over all pairs, from ``(..., N, M)``."""
    return Sums(values.sum(-1), values.sum(-2), values.square().sum((-2, -1)))


def _summed(k: PairFn, x: Tensor, y: Tensor | None = None, signs: Tensor | None = None) -> tuple[Sums, Tensor]:
    """Returns the sums over pairs, a few rows at a time, and those in which each pair has the sign of its points.

    Args:
        k: The function.
        x: First points, ``(N, d)``.
        y: Second points, ``(M, d)``; those of the first set, each with all but itself, if left out.
        signs: Of one set's points, ``(N, R)``.
    """
    other = x if y is None else y
    signs = x.new_zeros(len(x), 0) if signs is None else signs
    rows, columns, squares, signed = [], x.new_zeros(len(other)), x.new_zeros(()), signs.new_zeros(signs.shape[1])
    step = max(1, ENTRIES // len(other))
    for start in range(0, len(x), step):
        values = k(x[start : start + step], other)
        if y is None:
            values.diagonal(start).zero_()
        rows.append(values.sum(1))
        columns, squares = columns + values.sum(0), squares + values.square().sum()
        if signs.shape[1]:
            signed += (signs[start : start + step] * (values @ signs)).sum(0)
    return Sums(torch.cat(rows), columns, squares), signed


def two_sample(x: Tensor, y: Tensor, k: PairFn) -> Discrepancy:
    """Returns the mean within both sets less twice that between them, and its errors.

    Args:
        x: First points, ``(N, d)``, at least four.
        y: Second points, ``(M, d)``, at least four.
        k: The function of pairs.
    """
    return _discrepancy(*_compared(_summed(k, x)[0], _summed(k, y)[0], _summed(k, x, y)[0]))


def _discrepancy(value: Tensor, variance: Tensor, null: Tensor) -> Discrepancy:
    return Discrepancy(float(value), float(variance.sqrt()), float(null.sqrt()))


def _u_statistic(within: Sums) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the mean over pairs of one set, its variance and what that would be without a first-order part."""
    n, total = within.rows.shape[-1], within.rows.sum(-1)
    left_out = (total.unsqueeze(-1) - 2 * within.rows) / ((n - 1) * (n - 2))
    zeta = _interaction(within)
    variance = _jackknife(left_out) - 2 * zeta / ((n - 1) * (n - 2))
    null = 2 * zeta / (n * (n - 1))
    return total / (n * (n - 1)), torch.maximum(variance, null), null


def _compared(xx: Sums, yy: Sums, xy: Sums) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the mean within both sets less twice that between them, its variance and that at equality."""
    n, m = xy.rows.shape[-1], xy.columns.shape[-1]
    total = xy.rows.sum(-1)
    value = -2 * total / (n * m)
    between = xy.squares - xy.rows.square().sum(-1) / m - xy.columns.square().sum(-1) / n + total.square() / (n * m)
    null = 4 * between.clamp(min=0) / ((n - 1) * (m - 1) * n * m)
    variance = -null
    for within, across, a, b in ((xx, xy.rows, n, m), (yy, xy.columns, m, n)):
        inner = within.rows.sum(-1)
        value = value + inner / (a * (a - 1))
        left_out = (inner.unsqueeze(-1) - 2 * within.rows) / ((a - 1) * (a - 2))
        left_out = left_out - 2 * (total.unsqueeze(-1) - across) / ((a - 1) * b)
        zeta = _interaction(within)
        variance = variance + _jackknife(left_out) - 2 * zeta / ((a - 1) * (a - 2))
        null = null + 2 * zeta / (a * (a - 1))
    # What is left is a variance of functions of single points, and so not negative.
    return value, torch.maximum(variance, null), null


def _jackknife(left_out: Tensor) -> Tensor:
    """Returns the variance that a statistic's values without each point in turn, ``(..., N)``, tell of."""
    n = left_out.shape[-1]
    return (n - 1) ** 2 / n * left_out.var(-1)


def _interaction(within: Sums) -> Tensor:
    """Returns the unbiased variance of what of a symmetric function of pairs is no sum over its points."""
    n, total = within.rows.shape[-1], within.rows.sum(-1)
    centred = within.squares - 2 / (n - 2) * within.rows.square().sum(-1) + total.square() / ((n - 1) * (n - 2))
    return centred.clamp(min=0) / (n * (n - 3))


def _pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Returns two sets of points as vectors in float64 about their common mean, which keeps digits of distances."""
    if x.shape[1:] != y.shape[1:] or min(len(x), len(y)) < 4:
        raise UserError(
            f"two sets of at least 4 draws of one event shape; they were {tuple(x.shape)}, {tuple(y.shape)}"
        )
    x, y = (each.detach().flatten(1).double() for each in (x, y.to(x.device)))
    mean = (x.mean(0) + y.mean(0)) / 2
    return x - mean, y - mean


def _bandwidth(points: Tensor, bandwidth: float | None) -> float:
    """Returns the bandwidth that was given, or the median distance of points at equal steps through the set."""
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
    """Returns the squared distances of points ``(b, d)`` and ``(m, d)``."""
    squares = a.square().sum(1, keepdim=True) + b.square().sum(1)
    return torch.addmm(squares, a, b.mT, alpha=-2).clamp_(min=0)


def _sorted_blocks(projected: Tensor, size: int, generator: Generator | None) -> Tensor:
    """Returns order statistics of random blocks, ``(directions, blocks, size)``, from ``(N, directions)``."""
    count = len(projected) // size
    order = torch.randperm(len(projected), generator=generator, device=projected.device)[: count * size]
    return projected[order].view(count, size, -1).sort(1).values.permute(2, 0, 1)


def _stein_kernel(bandwidth: float) -> PairFn:
    """Returns u of `kernel_stein` as a function of points with their scores beside them, ``(b, 2 d)``."""

    def u(a: Tensor, b: Tensor) -> Tensor:
        (x, sx), (y, sy) = a.chunk(2, 1), b.chunk(2, 1)
        square = _squared(x, y) / bandwidth**2
        q = 1 / (1 + square)
        # (s(x) - s(y)) . (x - y)
        apart = (x * sx).sum(1, keepdim=True) - sx @ y.mT - x @ sy.mT + (y * sy).sum(1)
        return q.sqrt() * (sx @ sy.mT + q / bandwidth**2 * (apart + x.shape[1] - 3 * square * q))

    return u
