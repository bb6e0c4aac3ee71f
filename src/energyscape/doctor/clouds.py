"""Statistics of points: width, similarity, share at the edges."""

import math

import torch
from torch import Tensor


def rms_radius(x: Tensor) -> float:
    """Return the root mean square distance of points from their mean."""
    flat = x.flatten(1).double()
    return float((flat - flat.mean(0)).square().sum(1).mean().sqrt())


def nearest_other(x: Tensor) -> Tensor:
    """Return the distance of each point to the nearest other one, ``(B,)``."""
    return torch.cdist(x, x).fill_diagonal_(math.inf).amin(1)


def duplicates(x: Tensor, data: Tensor) -> float:
    """Return the share of points whose nearest other is ten times nearer than data are to each other."""
    usual = nearest_other(data.flatten(1)).median()
    return share(nearest_other(x.flatten(1)) < usual / 10)


def at_edges(x: Tensor, edges: tuple[float, float]) -> float:
    """Return the share of coordinates at two edges or beyond them."""
    return share((x <= edges[0]) | (x >= edges[1]))


def share(condition: Tensor) -> float:
    """Return the share of true values."""
    return float(condition.double().mean())
