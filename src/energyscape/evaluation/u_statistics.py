r"""Means of functions of pairs, and their standard errors.

With :math:`\bar k_{xx}`, :math:`\bar k_{yy}` and :math:`\bar k_{xy}` the means of a function of pairs, a point never
paired with itself,

.. math:: D = \bar k_{xx} + \bar k_{yy} - 2 \bar k_{xy}, \qquad
          \operatorname{SE}^2 = V_{\text{jackknife}} - V_2, \qquad
          V_2 = \frac{2 \zeta_{xx}}{(n - 1) (n - 2)} + \frac{2 \zeta_{yy}}{(m - 1) (m - 2)}
          + \frac{4 \zeta_{xy}}{n m},

where :math:`\zeta` is the variance of the interaction, the part of :math:`k` that is no sum of functions of single
points. The jackknife counts that part twice, and :math:`V_2` subtracts it once. At equality only that part is left.

References:
    The jackknife estimate of variance (Efron & Stein, 1981), theorem 2 and section 4.
    https://doi.org/10.1214/aos/1176345462; Partial distance correlation with methods for dissimilarities (Székely &
    Rizzo, 2014), section 3, for unbiased :math:`\zeta`. https://doi.org/10.1214/14-AOS1255
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

ENTRIES = 1 << 22
"""Pairs that are held in memory at a time."""

PairFn = Callable[[Tensor, Tensor], Tensor]
"""Maps points ``(b, d)`` and ``(m, d)`` to one number a pair, ``(b, m)``."""


class Sums(NamedTuple):
    """Sums of a function of pairs; leading dimensions are separate functions.

    Args:
        rows: Sum over the second point, ``(..., N)``.
        columns: Sum over the first point, ``(..., M)``; that of a symmetric function of one set is the other.
        squares: Sum of squares over all pairs, ``(...)``.
    """

    rows: Tensor
    columns: Tensor
    squares: Tensor


def of_one_set(values: Tensor) -> Sums:
    """Return the sums over pairs of different points, from ``(..., N, N)``."""
    values = values - torch.diag_embed(values.diagonal(dim1=-2, dim2=-1))
    return of_two_sets(values)


def of_two_sets(values: Tensor) -> Sums:
    """Return the sums over all pairs, from ``(..., N, M)``."""
    return Sums(values.sum(-1), values.sum(-2), values.square().sum((-2, -1)))


def summed(k: PairFn, x: Tensor, y: Tensor | None = None, signs: Tensor | None = None) -> tuple[Sums, Tensor]:
    """Return the sums over pairs, a few rows at a time, and those with each pair signed by its points."""
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


def u_statistic(within: Sums) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean over pairs of one set, its variance, and its variance without a first-order part."""
    n, total = within.rows.shape[-1], within.rows.sum(-1)
    left_out = (total.unsqueeze(-1) - 2 * within.rows) / ((n - 1) * (n - 2))
    zeta = _interaction(within)
    variance = _jackknife(left_out) - 2 * zeta / ((n - 1) * (n - 2))
    null = 2 * zeta / (n * (n - 1))
    return total / (n * (n - 1)), torch.maximum(variance, null), null


def compared(xx: Sums, yy: Sums, xy: Sums) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean within both sets less twice that between them, its variance and that at equality."""
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
    # The rest is a variance of functions of single points, and so not negative.
    return value, torch.maximum(variance, null), null


def _jackknife(left_out: Tensor) -> Tensor:
    """Return the jackknife variance from a statistic's values without each point in turn, ``(..., N)``."""
    n = left_out.shape[-1]
    return (n - 1) ** 2 / n * left_out.var(-1)


def _interaction(within: Sums) -> Tensor:
    """Return the unbiased variance of the interaction part of a symmetric function of pairs."""
    n, total = within.rows.shape[-1], within.rows.sum(-1)
    centred = within.squares - 2 / (n - 2) * within.rows.square().sum(-1) + total.square() / ((n - 1) * (n - 2))
    return centred.clamp(min=0) / (n * (n - 3))
