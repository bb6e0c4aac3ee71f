r"""Distances of images from the training set, and separation of two sets by their energies.

.. math::
    d(x) = \min_n \|x - x_n\|_2, \qquad
    \operatorname{AUC} = P(E^- > E^+) + \tfrac12 P(E^- = E^+)
"""

import torch
from torch import Tensor


def nearest(x: Tensor, reference: Tensor) -> Tensor:
    """Return each point's Euclidean distance to the nearest reference point.

    A distance of generated images to the training set far below that of held-out images is memorisation; it does not
    measure quality.

    Examples:
        >>> nearest(torch.tensor([[0.0, 0.0], [3.0, 5.0]]), torch.tensor([[3.0, 4.0], [9.0, 9.0]]))
        tensor([5., 1.])
    """
    if x.shape[1:] != reference.shape[1:] or len(reference) == 0:
        raise ValueError(f"points {tuple(x.shape)} and reference {tuple(reference.shape)} are of one event shape")
    flat, reference = x.flatten(1), reference.flatten(1).to(x)
    # Differences, not the expanded square: that one loses half the digits of a distance near zero.
    exact = "donot_use_mm_for_euclid_dist"
    best = flat.new_full((len(flat),), torch.inf)
    for part in torch.split(reference, 4096):
        best = torch.minimum(best, torch.cdist(flat, part, compute_mode=exact).amin(1))
    return best


def haze(x: Tensor) -> float:
    """Return the share of pixels that are nearly black: between 0.5 and 10 % of the way from black to white.

    Noise that a model leaves on a black background shows here first. Compare it with that of real images.

    Examples:
        >>> haze(torch.tensor([[-1.0, -0.95, -0.9, 0.5]]))
        0.5
    """
    return float(((x > -0.99) & (x < -0.8)).double().mean())


def auc(negative_energies: Tensor, positive_energies: Tensor) -> float:
    r"""Return the probability that a negative has a higher energy than a positive, ties counting half.

    The order matters: negatives, which should be *unlikely*, come first. Between data and the model's own samples the
    goal is 0.5, between data and outliers 1.

    Examples:
        >>> auc(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0, 2.0]))
        0.75
    """
    negative, positive = negative_energies.detach().double().flatten(), positive_energies.detach().double().flatten()
    if not len(negative) or not len(positive) or negative.isnan().any() or positive.isnan().any():
        return float("nan")
    ordered = positive.sort().values
    below = torch.searchsorted(ordered, negative).double()
    not_above = torch.searchsorted(ordered, negative, right=True).double()
    return float((below + not_above).mean() / (2 * len(positive)))
