r"""Points given by the user, blurred: a mixture of narrow Gaussians.

.. math:: p(x) = \frac{1}{N} \sum_{j=1}^{N} \mathcal{N}(x; x_j, h^2 I)

The mixture *is* the law, not an estimate of the law behind the points. Its density, samples and entropy are exact, and
a model is measured against the points as they are. The sum over all points is too long for a fine grid. Points are
therefore visited by rectangles. Within one, each term of the sum lies between its values at the nearest and the
farthest corner. Terms are left out that together are below :math:`10^{-15}` of the sum.
"""

import math
import os
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, final

import torch
from torch import Generator, Tensor

from energyscape.calculus import Box
from energyscape.data.arrays import read_array
from energyscape.data.distributions.base import Distribution, device_of, normal_rule, positive
from energyscape.data.distributions.mixtures import log_sum
from energyscape.errors import UserError

LEFT_OUT: Final = 35.0
"""Terms whose sum is at most e to minus this of the whole are left out."""

HELD_OUT: Final = 512
"""Points that are left out in turn to choose a blur."""


@final
@dataclass(frozen=True, eq=False)
class Points(Distribution):
    r"""The user's own points in the plane, blurred.

    .. math:: p(x) = \frac{1}{N} \sum_{j=1}^{N} \mathcal{N}(x; x_j, h^2 I)

    By default :math:`h` maximises the leave-one-out likelihood of the points,

    .. math:: \sum_i \log \sum_{j \ne i} \mathcal{N}(x_i; x_j, h^2 I),

    with :math:`i` over at most 512 distinct points, and a point's copies left out with it. Unlike rules of thumb, it
    does not blur modes into each other. But one far outlier widens it, and coordinates in different units share it:
    scale them first. A blur below 1/300 of the points' extent is finer than the usual quadratures resolve.

    Args:
        x: The points, ``(N, 2)``, at least two.
        blur: Standard deviation :math:`h > 0` of the blur, in units of ``x``; chosen from the points if None.

    Raises:
        UserError: If there are not two finite points in the plane, ``blur`` is not positive, or it is None and
            all points are the same.

    Examples:
        >>> law = Points(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), blur=0.1)
        >>> law.log_prob(torch.tensor([[1.0, 0.0]])).exp()
        tensor([7.9577])
        >>> abs(law.entropy - (math.log(2) + 1 + math.log(2 * math.pi * 0.1**2))) < 3e-6
        True

    References:
        A comparison of cross-validation techniques in density estimation (Marron, 1987), section 2: the choice of
        :math:`h`. https://doi.org/10.1214/aos/1176350258
    """

    x: Tensor
    _: KW_ONLY
    blur: float | None = None

    def __post_init__(self) -> None:
        if self.x.ndim != 2 or self.x.shape[1] != 2 or len(self.x) < 2:
            raise UserError(
                f"Points: expected at least two points in the plane, (N, 2); they came as {_shape_of(self.x)}"
            )
        if wrong := int((~self.x.double().float().isfinite()).sum()):
            raise UserError(f"Points: expected finite numbers; {wrong} of {self.x.numel()} are not")
        if self.blur is not None:
            positive(self, "blur")
        elif bool((self.x == self.x[0]).all()):
            raise UserError(f"Points: all {len(self.x)} points are the same, so no blur can be chosen: set blur")

    @cached_property
    def std(self) -> float:
        """Standard deviation of the blur, given or chosen from the points."""
        return chosen_blur(self._means) if self.blur is None else self.blur

    @cached_property
    def _means(self) -> Tensor:
        return self.x.detach().cpu().double()

    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        device = device_of(generator)
        index = torch.randint(len(self.x), (n,), generator=generator, device=device)
        z = torch.randn(n, 2, generator=generator, device=device)
        return (self._means.to(device)[index] + self.std * z.double()).float()

    def log_prob(self, x: Tensor) -> Tensor:
        if len(x) == 0:
            return x.sum(1)
        order, log_sums = _visited(x.double() / self.std, self._means.to(x.device) / self.std)
        return (log_sums[order.argsort()] - math.log(2 * math.pi * self.std**2 * len(self.x))).to(x)

    @cached_property
    def entropy(self) -> float:
        r"""Differential entropy in nats, by quadrature: within 3e-6.

        Equal spacing, :math:`h / 3` in each coordinate, over the plane near the points; or, where that needs fewer
        nodes, over a Gaussian about each point.
        """
        side, step = 27, self.std / 3
        cell = (self._means / (side * step)).round().long().unique(dim=0)
        around = torch.cartesian_prod(*[torch.arange(-1, 2)] * 2)
        cell = (cell.unsqueeze(1) + around).flatten(0, 1).unique(dim=0)
        z, weight = normal_rule(2, step=0.5)
        z, weight = z[weight > 1e-9], weight[weight > 1e-9]
        if len(cell) * side**2 <= len(self.x) * len(z):
            inside = torch.cartesian_prod(*[torch.arange(side) - side // 2] * 2)
            parts = (step * (side * each + inside).double() for each in torch.split(cell.unsqueeze(1), 64))
            log_probs = (self.log_prob(part.flatten(0, 1)) for part in parts)
            return -(step**2) * math.fsum(float((each.exp() * each).sum()) for each in log_probs)
        parts = (each.unsqueeze(1) + self.std * z for each in torch.split(self._means, 256))
        log_probs = (self.log_prob(part.flatten(0, 1)).view(-1, len(z)) for part in parts)
        return -math.fsum(float((each @ weight).sum()) for each in log_probs) / (len(self.x) * float(weight.sum()))

    @property
    def modes(self) -> None:
        return None

    @property
    def box(self) -> Box:
        reach = 7 * self.std
        (x0, y0), (x1, y1) = self._means.amin(0).tolist(), self._means.amax(0).tolist()
        return ((x0 - reach, x1 + reach), (y0 - reach, y1 + reach))


def points_file(*, path: str, blur: float | None = None) -> Points:
    """Return the law of the points in a file.

    Args:
        path: A CSV table of two columns, whose first line may be names; or an NPY or NPZ array ``(N, 2)`` (NPZ: the
            array named ``x``, or the only one).
        blur: Standard deviation of the blur, in units of the points; chosen from the points if None.

    Raises:
        UserError: If the file is missing, damaged or of another kind, or does not hold at least two finite points of
            two coordinates.
    """
    file = Path(os.path.expanduser(path))
    array = read_array(file)
    if array.dtype.kind not in "fiu":
        raise UserError(f"{file}: expected numbers; it holds {array.dtype}: convert it")
    x = torch.from_numpy(array.astype("float64"))
    if x.ndim != 2 or x.shape[1] != 2:
        raise UserError(f"{file}: expected points in the plane, two columns of numbers; it holds {_shape_of(x)}")
    try:
        return Points(x, blur=blur)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def chosen_blur(x: Tensor) -> float:
    r"""Return the blur of highest leave-one-out likelihood.

    With :math:`r_{ij}` the share of point :math:`j \ne i` in the density at :math:`x_i`, the derivative vanishes at

    .. math:: h^2 = \tfrac12 \operatorname{mean}_i \sum_{j \ne i} r_{ij}(h)\, |x_i - x_j|^2,

    so that :math:`\sqrt 2\, h` lies between the root mean square distance to the nearest point and that to all points.
    Bisection between the two ends at a maximum, known to a part in a thousand.
    """
    x, copies = x.unique(dim=0, return_counts=True)
    # The distinct points are sorted by their first coordinate, so that a stride leaves out some of everywhere.
    index = torch.linspace(0, len(x) - 1, min(HELD_OUT, len(x)), dtype=torch.float64).round().long()
    log_copies = copies.double().log()

    def squares(part: Tensor) -> Tensor:
        squared = (x[part, :1] - x[:, 0]).square() + (x[part, 1:] - x[:, 1]).square()
        squared[torch.arange(len(part)), part] = torch.inf  # itself and, in one row, its copies
        return squared

    def expected(part: Tensor, h: float) -> Tensor:
        """Squared distance of each point to the others, by their shares."""
        squared = squares(part)
        share = (log_copies - squared / (2 * h**2)).softmax(1)
        mean: Tensor = (share * squared.nan_to_num(posinf=0.0)).sum(1)
        return mean

    parts = torch.split(index, max(1, (1 << 22) // len(x)))
    low = float(torch.cat([squares(part).amin(1) for part in parts]).mean() / 2) ** 0.5
    high = float(torch.cat([expected(part, 1e100) for part in parts]).mean() / 2) ** 0.5
    while high > 1.001 * low:
        middle = math.sqrt(low * high)
        rises = middle**2 < torch.cat([expected(part, middle) for part in parts]).mean() / 2
        low, high = (middle, high) if rises else (low, middle)
    return math.sqrt(low * high)


def _visited(z: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """Return the order in which points were visited, and the log-sum of the terms at each in that order."""
    order = torch.arange(len(z), device=z.device)
    open_, orders, log_sums = [(order, means)], [], []
    while open_:
        order, means = open_.pop()
        here = z[order]
        near = _near(here.detach(), means)
        if len(order) * len(near) <= 1 << 17 or len(order) <= 32:
            orders.append(order)
            log_sums.append(_log_sum(here, near))
        else:
            # Halved across the longer side.
            along = here.detach()[:, int((here.detach().amax(0) - here.detach().amin(0)).argmax())]
            half = len(order) // 2
            ranked = order[along.argsort(stable=True)]
            open_ += [(ranked[:half], near), (ranked[half:], near)]
    return torch.cat(orders), torch.cat(log_sums)


def _near(z: Tensor, means: Tensor) -> Tensor:
    """Return the means whose terms count anywhere in the rectangle around points."""
    low, high = z.amin(0), z.amax(0)
    centre, half = (low + high) / 2, (high - low) / 2
    away = (means - centre).abs()
    largest = -(away - half).clamp(min=0).square().sum(1) / 2
    least = -(away + half).square().sum(1) / 2
    return means[largest >= least.logsumexp(0) - LEFT_OUT - math.log(len(means))]


def _log_sum(z: Tensor, means: Tensor) -> Tensor:
    # About a centre nearby, the squares of large coordinates do not cancel.
    centre = z.detach().mean(0)
    z, means = z - centre, means - centre
    return log_sum(z, means, -means.square().sum(1) / 2) - z.square().sum(1) / 2


def _shape_of(x: Tensor) -> str:
    return f"{x.shape[0]} of {x.shape[1]} coordinates" if x.ndim == 2 else f"an array of shape {tuple(x.shape)}"
