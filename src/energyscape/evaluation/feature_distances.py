r"""Distances between two sets of images in a network's features.

With means :math:`\mu` and covariances :math:`\Sigma` of the features of both sets, the Fréchet distance is the squared
2-Wasserstein distance of two Gaussians,

.. math::
    d^2 = \|\mu_x - \mu_y\|^2 + \operatorname{tr} \bigl(\Sigma_x + \Sigma_y
          - 2 (\Sigma_x^{1/2} \Sigma_y \Sigma_x^{1/2})^{1/2}\bigr),

and with :math:`k(a, b) = (a \cdot b / d + 1)^3` the kernel distance is

.. math:: E\, k(x, x') + E\, k(y, y') - 2 E\, k(x, y).

Always name the network of the features, and for the first number the sizes of the sets: it is too large by about
:math:`1 / n`. Report the same number for two sets of real images beside it.

References:
    GANs trained by a two time-scale update rule converge to a local Nash equilibrium (Heusel et al., 2017), equation 6;
    https://arxiv.org/abs/1706.08500; Demystifying MMD GANs (Bińkowski et al., 2018), section 3.
    https://arxiv.org/abs/1801.01401; Fréchet distance of normals: The Fréchet distance between multivariate normal
    distributions (Dowson & Landau, 1982). https://doi.org/10.1016/0047-259X(82)90077-X
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from energyscape.errors import UserError
from energyscape.evaluation.discrepancies import Discrepancy, two_sample

TINY = 1e-12
"""Of a covariance's largest eigenvalue: the share below which another one is zero."""


class Frechet(NamedTuple):
    """A Fréchet distance.

    Args:
        value: Its plug-in estimate, *squared* as the literature gives it; too large by about one over the sets' sizes.
        error: Its standard error, to first order.
    """

    value: float
    error: float


def frechet_distance(x: Tensor, y: Tensor) -> Frechet:
    r"""Return the Fréchet distance of two sets of features.

    It sees means and covariances alone. With fewer images than features it is mostly bias.

    The error is that of the distance's first-order expansion, a mean over the points of each set of

    .. math:: 2 (\mu_x - \mu_y) \cdot u + u \cdot (1 - T) u, \qquad u = x - \mu_x,

    with :math:`T` the linear map that transports one Gaussian to the other. For equal laws it vanishes, and the
    error is small beside the bias.

    Examples:
        >>> x = torch.tensor([[-1.0], [1.0]])
        >>> round(frechet_distance(x, 2 * x + 3).value, 6)  # 3² + (√2 - √8)²
        11.0
    """
    x, y = _pair(x, y, least=2)
    if not (x.isfinite().all() and y.isfinite().all()):
        return Frechet(math.nan, math.nan)
    gap, (u, v) = x.mean(0) - y.mean(0), (each - each.mean(0) for each in (x, y))
    (root_x, white_x), (root_y, white_y) = (_root(each) for each in (u, v))
    left, singular, right = torch.linalg.svd(root_x @ root_y)
    value = gap.square().sum() + root_x.square().sum() + root_y.square().sum() - 2 * singular.sum()
    variance = torch.zeros((), dtype=torch.float64)
    for points, white, basis, way in ((u, white_x, left, gap), (v, white_y, right.mT, -gap)):
        # u T u = w (Σx^{1/2} Σy Σx^{1/2})^{1/2} w with w = Σx^{-1/2} u.
        transported = (points @ white @ basis).square() @ singular
        pull = 2 * points @ way + points.square().sum(1) - transported
        variance = variance + pull.var() / len(points)
    return Frechet(max(float(value), 0.0), float(variance.sqrt()))


def kernel_distance(x: Tensor, y: Tensor) -> Discrepancy:
    r"""Return the kernel distance of two sets of features: a squared maximum mean discrepancy.

    Unlike the Fréchet distance it is unbiased: at equality its expectation is zero, whatever the sizes. It is the mean
    over all pairs, not over random subsets, and its error is that of the images, not of the choice of subsets.
    """
    x, y = _pair(x, y, least=4)
    return two_sample(x, y, lambda a, b: (a @ b.mT / a.shape[1] + 1) ** 3)


def _pair(x: Tensor, y: Tensor, least: int) -> tuple[Tensor, Tensor]:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < least:
        raise UserError(
            f"two sets of at least {least} rows of as many features; they were {tuple(x.shape)} and {tuple(y.shape)}"
        )
    return x.detach().cpu().double(), y.detach().cpu().double()


def _root(u: Tensor) -> tuple[Tensor, Tensor]:
    """Return the square root of the covariance of centred points, and its pseudo-inverse."""
    values, vectors = torch.linalg.eigh(u.mT @ u / (len(u) - 1))
    values = values.clamp(min=0)
    inverse = torch.where(values > TINY * values[-1], values, torch.inf).rsqrt()
    return vectors * values.sqrt() @ vectors.mT, vectors * inverse @ vectors.mT
