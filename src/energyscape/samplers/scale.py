r"""Units for chains: a number for each coordinate, or a matrix that also rotates them.

A scale :math:`S` approximates a factor of the law's covariance, :math:`\Sigma \approx S S^\top`. It is the standard
deviation of each coordinate, of the event's shape, or for vectors a lower triangular matrix ``(d, d)``. In units
:math:`u = S^{-1} x` the law is rounder, and its scores are :math:`S^\top \nabla \log p(x)`.
"""

import torch
from torch import Tensor


def unwhiten(u: Tensor, scale: Tensor | None) -> Tensor:
    """Return :math:`S u`."""
    if scale is None:
        return u
    return u @ scale.to(u).mT if rotates(scale, u) else scale.to(u) * u


def whitened_score(score: Tensor, scale: Tensor | None) -> Tensor:
    r"""Return :math:`S^\top s`, the score in units of the scale."""
    if scale is None:
        return score
    return score @ scale.to(score) if rotates(scale, score) else scale.to(score) * score


def whiten(x: Tensor, scale: Tensor | None) -> Tensor:
    r"""Return :math:`S^{-1} x`."""
    if scale is None:
        return x
    if rotates(scale, x):
        solved: Tensor = torch.linalg.solve_triangular(scale.to(x), x.mT, upper=False)
        return solved.mT
    return x / scale.to(x)


def rotates(scale: Tensor, x: Tensor) -> bool:
    """Return whether a scale is a matrix, for these points."""
    return scale.ndim == x.ndim


def check_scale(scale: Tensor, events: int | None = None) -> None:
    """Raise a clear error unless a scale is invertible, for events of so many dimensions if given."""
    triangle = scale.ndim == 2 and torch.equal(scale, scale.tril()) and events in (None, 1)
    square = scale.ndim == 2 and scale.shape[0] == scale.shape[1]
    if not bool(scale.isfinite().all() and ((scale.diagonal() if triangle and square else scale) > 0).all()):
        raise ValueError(
            "scale is a standard deviation a coordinate, or for vectors a lower triangle with such a diagonal: finite "
            "positive numbers; some were not"
        )


def check_shape(scale: Tensor, x: Tensor) -> None:
    """Raise a clear error unless a scale suits points ``(C, *)``: of the event's shape, or a matrix for vectors."""
    event = tuple(x.shape[1:])
    if tuple(scale.shape) != (event * 2 if len(event) == 1 and rotates(scale, x) else event):
        raise ValueError(f"scale is of the event's shape {event}; it was {tuple(scale.shape)}")
    check_scale(scale, len(event))
