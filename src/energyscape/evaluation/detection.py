r"""Detection of images of another kind by a score, and trivial scores as baselines.

A score is high for unlikely images, such as an energy. Of scores :math:`s^+` inside and :math:`s^-` outside,

.. math::
    \operatorname{AUROC} = P(s^- > s^+) + \tfrac12 P(s^- = s^+), \qquad
    \operatorname{FPR95} = P(s^- \le t), \quad t = \min \{t : P(s^+ \le t) \ge 0.95\}.

Compare an energy with untrained baselines: the size of the compressed image, the mean and variance of its pixels, and
the distance to the nearest training image.

References:
    A baseline for detecting misclassified and out-of-distribution examples in neural networks (Hendrycks & Gimpel,
    2017). https://arxiv.org/abs/1610.02136; Enhancing the reliability of out-of-distribution image detection in neural
    networks (Liang, Li & Srikant, 2018), section 4.3, for FPR95. https://arxiv.org/abs/1706.02690; Input complexity and
    out-of-distribution detection with likelihood-based generative models (Serrà et al., 2020), for compressed sizes.
    https://arxiv.org/abs/1909.11480
"""

import math
import zlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, final

import torch
from torch import Tensor

from energyscape.errors import UserError
from energyscape.evaluation.distances import auc, nearest

Score = Callable[[Tensor], Tensor]
"""Maps images ``(B, *)`` to one number each, ``(B,)``; the higher, the less likely."""


class Detection(NamedTuple):
    """Measures of how well a score detects outliers.

    Args:
        auroc: Probability that an outlier scores above an inlier; below 0.5, *low* scores indicate outliers.
        error: Its standard error.
        aupr: Average precision with outliers as the positives; chance is their share of all images.
        fpr95: Share of outliers under the threshold that keeps 95 % of the inliers.
        inside: Number of inliers.
        outside: Number of outliers.
    """

    auroc: float
    error: float
    aupr: float
    fpr95: float
    inside: int
    outside: int

    @staticmethod
    def of(outside: Tensor, inside: Tensor) -> "Detection":
        """Return the measures for given scores of outliers and inliers.

        The order is that of `auc`: the set that should score high comes first.

        Examples:
            >>> Detection.of(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0])).auroc
            1.0
        """
        outside, inside = (each.detach().cpu().double().flatten() for each in (outside, inside))
        error = _auc_error(outside, inside)
        return Detection(
            auc(outside, inside), error, aupr(outside, inside), fpr_at(outside, inside), len(inside), len(outside)
        )


def outliers(score: Score, inside: Tensor, outside: Tensor) -> Detection:
    """Return the measures of a score for images outside and inside."""
    return Detection.of(score(outside), score(inside))


def aupr(outside: Tensor, inside: Tensor) -> float:
    r"""Return the average precision :math:`\sum_i (R_i - R_{i-1}) P_i` of finding outliers by high scores.

    It depends on the ratio of outliers to inliers: compare only sets of like sizes.

    Examples:
        >>> aupr(torch.tensor([3.0]), torch.tensor([1.0, 4.0]))
        0.5
    """
    from sklearn.metrics import average_precision_score

    if _unusable(outside, inside):
        return math.nan
    scores = torch.cat([outside, inside]).detach().cpu().double()
    # scikit-learn refuses infinities; only the order counts.
    ranks = torch.unique(scores, return_inverse=True)[1]
    truth = torch.cat([torch.ones(len(outside)), torch.zeros(len(inside))])
    return float(average_precision_score(truth.numpy(), ranks.numpy()))


def fpr_at(outside: Tensor, inside: Tensor, tpr: float = 0.95) -> float:
    r"""Return the share of outliers that pass for inliers at the threshold that keeps a share of the inliers.

    The inliers are the positives here, as in most of the literature; with the outliers as positives it is another
    number.

    Examples:
        >>> fpr_at(torch.tensor([0.5, 5.0]), torch.arange(100.0), tpr=0.02)
        0.5
    """
    if not 0 < tpr <= 1:
        raise UserError(f"tpr is a share in (0, 1]; it was {tpr}")
    if _unusable(outside, inside):
        return math.nan
    kept = math.ceil(round(tpr * len(inside), 9))
    threshold = inside.sort().values[kept - 1]
    return float((outside <= threshold).double().mean())


def overlap(x: Tensor, y: Tensor, *, bins: int | None = None) -> float:
    r"""Return the overlap of two laws, :math:`\int \min(p, q)`, from draws of both.

    The densities are histograms over quantiles of the pooled draws, so neither outliers nor a change of scale matter.
    For equal laws, finite sets overlap by about :math:`\sqrt{B / \pi n}` less than one, with :math:`B` bins.

    Args:
        bins: Number of histogram bins; by default the cubic root of the smaller set's size.

    Examples:
        >>> overlap(torch.arange(8.0), torch.arange(8.0) + 100), overlap(torch.ones(5), torch.ones(3))
        (0.0, 1.0)
    """
    if bins is not None and bins < 1:
        raise UserError(f"bins are at least 1; they were {bins}")
    if _unusable(x, y):
        return math.nan
    x, y = (each.detach().cpu().double().flatten() for each in (x, y))
    count = bins or max(2, round(min(len(x), len(y)) ** (1 / 3)))
    # Weight both sets equally, whatever their sizes, in a quantile of the pool.
    pooled, order = torch.cat([x, y]).sort()
    weight = torch.cat([torch.full_like(x, 0.5 / len(x)), torch.full_like(y, 0.5 / len(y))])[order].cumsum(0)
    inner = torch.arange(1, count, dtype=torch.float64) / count
    edges = pooled[torch.searchsorted(weight, inner - 1e-12).clamp(max=len(pooled) - 1)].unique()
    shares = [torch.bincount(torch.searchsorted(edges, each), minlength=count) / len(each) for each in (x, y)]
    return float(torch.minimum(*shares).sum())


@final
class DensityOfStates:
    r"""The rarity of the values of several statistics, whether high or low.

    .. math:: s(x) = -\sum_i \log \frac1N \sum_n k\Bigl(\frac{T_i(x) - T_i(x_n)}{h_i}\Bigr), \qquad
              k(z) \propto (1 + z^2 / 3)^{-2}, \qquad h_i = N^{-1/5} \operatorname{IQR}(T_i) / 1.35

    A density is highest where no sample is ever found, and simple images have low energies. So an energy that is *too*
    low also indicates an outlier. The kernel has Student's tails, which keep an order far away.

    Args:
        known: Statistics of images like those of the training, ``(N, S)``.

    Examples:
        >>> rare = DensityOfStates(torch.linspace(-1, 1, 101).view(-1, 1))
        >>> rare(torch.tensor([[0.0], [-3.0], [9.0]])).argsort()
        tensor([0, 1, 2])

    References:
        Density of states estimation for out-of-distribution detection (Morningstar et al., 2021), section 3.
        https://arxiv.org/abs/2006.09273
    """

    def __init__(self, known: Tensor) -> None:
        if known.ndim != 2 or len(known) < 2:
            raise UserError(f"statistics are (N, S) of at least 2 images; they were {tuple(known.shape)}")
        self.known = known.double()
        low, high = self.known.quantile(torch.tensor([0.25, 0.75], dtype=torch.float64), dim=0)
        self.bandwidth = ((high - low) / 1.35 * len(known) ** -0.2).clamp(min=1e-12)

    def __call__(self, statistics: Tensor) -> Tensor:
        """Return the rarity of each row."""
        rarity = torch.zeros(len(statistics), dtype=torch.float64)
        for known, width, values in zip(self.known.mT, self.bandwidth, statistics.double().mT, strict=True):
            z = (values.unsqueeze(1) - known) / width
            rarity -= (1 + z.square() / 3).pow(-2).mean(1).log()
        return rarity


def compressed_size(x: Tensor) -> Tensor:
    """Return the bytes that each image takes when compressed (zlib, level 9): plain ones are small, busy ones large."""
    pixels = ((x.detach().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return torch.tensor([float(len(zlib.compress(each.numpy().tobytes(), 9))) for each in pixels])


def pixel_mean(x: Tensor) -> Tensor:
    """Return the mean of each image's pixels."""
    return x.flatten(1).mean(1)


def pixel_variance(x: Tensor) -> Tensor:
    """Return the variance of each image's pixels."""
    return x.flatten(1).var(1, correction=0)


def trivial_scores(train: Tensor) -> dict[str, Score]:
    """Return the baseline scores, which have learned nothing, by name."""
    return {
        "compressed size": compressed_size,
        "pixel mean": pixel_mean,
        "pixel variance": pixel_variance,
        "nearest neighbour": partial(nearest, reference=train),
    }


def _unusable(x: Tensor, y: Tensor) -> bool:
    return not len(x) or not len(y) or bool(x.isnan().any()) or bool(y.isnan().any())


def _auc_error(outside: Tensor, inside: Tensor) -> float:
    """Return the standard error of an AUROC: the variance of its two means over points (DeLong et al., 1988)."""
    if _unusable(outside, inside) or min(len(outside), len(inside)) < 2:
        return math.nan
    variance = 0.0
    for one, other in ((outside, inside), (inside, outside)):
        ordered = other.sort().values
        below, not_above = (torch.searchsorted(ordered, one, right=right).double() for right in (False, True))
        variance += float(((below + not_above) / (2 * len(other))).var()) / len(one)
    return math.sqrt(variance)
