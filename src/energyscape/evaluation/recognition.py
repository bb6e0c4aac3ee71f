r"""Recognition of generated images by a classifier that was trained on real labelled images only.

A classifier gives each class :math:`k` a probability :math:`p_k(x)`. An image is recognised if
:math:`\max_k p_k(x)` reaches a threshold.

A classifier of real classes alone must call everything one of them. So it also learns a class of debris made from the
real images (pixels shuffled, noise added, noise alone, flat grey), which is never an answer.

The share of such images, :math:`c` of :math:`n`, has the error

.. math:: \sqrt{\tilde p\, (1 - \tilde p) / (n + 4)}, \qquad \tilde p = \frac{c + 2}{n + 4},

which stays positive at shares of zero and one.

References:
    Approximate is better than "exact" for interval estimation of binomial proportions (Agresti & Coull, 1998).
    https://doi.org/10.2307/2685469
"""

from typing import NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from energyscape.errors import UserError
from energyscape.noise import normal_like, uniform_like


class Recogniser(Protocol):
    """A classifier of images."""

    classes: int

    def confidence(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the likeliest class of each image and its probability."""


def corruptions(flat: Tensor, n: int, *, generator: Generator | None = None) -> Tensor:
    """Return debris made from real images: pixels shuffled, noise added, noise alone, flat grey."""
    one, other = (flat[torch.randint(len(flat), (n,), generator=generator)] for _ in range(2))
    shuffled = one.gather(1, uniform_like(one, generator=generator).argsort(1))
    noised = other + normal_like(one, generator=generator)
    noise = 2 * uniform_like(one, generator=generator) - 1
    grey = 2 * uniform_like(one[:, :1], generator=generator) - 1
    return torch.cat([shuffled, noised, noise, grey + 0.1 * normal_like(one, generator=generator)])


class Recognition(NamedTuple):
    """The share of a set of images that a judge recognises, and their classes.

    Args:
        sure: Share of images whose likeliest class reaches the threshold.
        sure_error: Its standard error.
        shares: Share of each class among the sure images, ``(classes,)``; zeros if none is sure.
        share_errors: Their standard errors, ``(classes,)``.
        judged: Number of images.
    """

    sure: float
    sure_error: float
    shares: Tensor
    share_errors: Tensor
    judged: int


def recognise(judge: Recogniser, x: Tensor, threshold: float = 0.8) -> Recognition:
    """Return the share of images that a judge is sure of, and their classes.

    Report it beside the same number for held-out real images, which is the goal instead of one. The standard errors
    assume independent images; draws of one chain count for fewer.
    """
    if not 0 < threshold <= 1 or len(x) == 0:
        raise UserError(f"a threshold in (0, 1] and at least one image; there were {threshold} and {len(x)}")
    label, probability = judge.confidence(x)
    sure = probability >= threshold
    count = torch.bincount(label[sure], minlength=judge.classes).double()
    total = int(sure.sum())
    return Recognition(
        total / len(x),
        float(_error(torch.tensor(float(total)), len(x))),
        count / max(total, 1),
        _error(count, total),
        len(x),
    )


def _error(count: Tensor, n: int) -> Tensor:
    share = (count + 2) / (n + 4)
    return (share * (1 - share) / (n + 4)).sqrt()
