r"""Comparison of a landscape in the plane with a law, by quadrature and without a sampler.

.. math::
    Z = \int e^{-E(x) / T}\, dx, \quad q(x) = \frac{e^{-E(x) / T}}{Z}, \quad
    \operatorname{KL}(p \,\|\, q) = \int p \log \frac{p}{q}\, dx, \quad
    \operatorname{TV}(p, q) = \frac12 \int |p - q|\, dx = \int_{p > q} (p - q)\, dx

A box is cut into :math:`4 \times 4` panels with a Gauss-Legendre rule on each. A density that jumps where panels meet,
such as a checkerboard's, is integrated as well as a smooth one. Rings of panels around it, each twice as wide as the
last, reach 32 times as far for the price of a few boxes. Two numbers guard every value. ``error`` is its difference to
the value with half the nodes, ``edge_mass`` the share of the model's mass in the outer 2 % rim of the box. A box that
is too small shows in the second, a landscape too rough for the nodes in the first. A spike between the nodes, which lie
wider apart farther out, shows in neither.
"""

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from energyscape.calculus import Box, EnergyFn, gauss_legendre, modules_of
from energyscape.data.distributions import Distribution
from energyscape.errors import UserError

PANELS = 4
"""Panels along each side of the requested box."""

RINGS = 6
"""Most rings of panels around the box: with 0, 1, … 6 it is 1, 1.5, 2.5, 4.5, 8.5, 16.5 and 32.5 times as wide."""

BATCH = 1 << 11
"""Points at a time: a network's hidden layer of so many still fits the cache of a core (2.0 times as fast as 2^14)."""

RIM = 0.02
"""Width of the rim on each side, in units of the side."""

MAX_RIM_MASS = 1e-6
"""Largest mass in the rim of a box that is wide enough, and outside it."""


class LogZ(NamedTuple):
    r"""A log normalising constant.

    Args:
        value: :math:`\log Z` over the box, in nats.
        error: Absolute difference to the value with half the nodes along each side.
        edge_mass: Share of the mass in the outer 2 % rim of the box; near zero if the box holds all of it.
    """

    value: float
    error: float
    edge_mass: float


class Divergence(NamedTuple):
    r"""A divergence of a model from a law.

    Args:
        value: :math:`\operatorname{KL}(\text{law} \,\|\, \text{model})` in nats, or the total variation, from 0 to 1.
        error: Absolute difference to the value with half the nodes along each side.
        edge_mass: Share of the *model's* mass in the outer 2 % rim of its box; above 1e-4 the value is too low,
            because the model has mass outside every box.
    """

    value: float
    error: float
    edge_mass: float


def log_z(energy: EnergyFn, box: Box, *, temperature: float = 1.0, nodes: int = 400) -> LogZ:
    r"""Return :math:`\log \int_{\text{box}} e^{-E(x) / T}\, dx`.

    It is the constant of the box, not of the plane: check ``edge_mass``.

    Examples:
        >>> result = log_z(lambda x: (x**2).sum(1) / 2, ((-9.0, 9.0), (-9.0, 9.0)))
        >>> abs(result.value - math.log(2 * math.pi)) < 1e-9
        True
    """
    _check(temperature, nodes)
    fine, half = (_sheet(energy, box, temperature, n) for n in (nodes, nodes // 2))
    return LogZ(fine.log_z(), abs(fine.log_z() - half.log_z()), fine.edge_mass())


def kl(
    law: Distribution, energy: EnergyFn, box: Box | None = None, *, temperature: float = 1.0, nodes: int = 400
) -> Divergence:
    r"""Return :math:`\operatorname{KL}(\text{law} \,\|\, e^{-E / T} / Z)`, in nats.

    It equals the model's negative log-likelihood less the law's entropy. The first integral runs over the law's box,
    :math:`\log Z` over one that is widened, up to 32.5 times, until less than 1e-6 of the widest box's mass lies in its
    rim or beyond. A model that has hardly been trained may be much wider than the law.

    Args:
        box: Box for the integral of :math:`e^{-E / T}`; none widens the law's box as far as needed.
        nodes: Nodes along each side of the law's box, at least 16; a panel outside has half as many as one inside.

    Examples:
        >>> from energyscape.data.distributions import EightGaussians
        >>> law = EightGaussians()
        >>> abs(kl(law, lambda x: -law.log_prob(x), nodes=160).value) < 1e-8
        True
    """
    _check(temperature, nodes)
    fine, half = _fine_and_half(law, energy, box, temperature, nodes)
    value, coarse = (_cross(law, each.board) + each.whole.log_z() for each in (fine, half))
    return Divergence(value, abs(value - coarse), fine.whole.edge_mass())


def total_variation(
    law: Distribution, energy: EnergyFn, box: Box | None = None, *, temperature: float = 1.0, nodes: int = 400
) -> Divergence:
    r"""Return :math:`\operatorname{TV} = \tfrac12 \int |p - e^{-E / T} / Z|`, the misplaced mass.

    It is the largest error of the model about the probability of any event. Unlike the divergence it is
    insensitive to the tails. Its integrand has a kink where the densities cross, so the rule converges slowly: its
    error is about 1e-4 with 400 nodes where that of the divergence is 1e-9.

    Examples:
        >>> from energyscape.data.distributions import Checkerboard
        >>> law = Checkerboard()
        >>> uniform = total_variation(law, lambda x: 0 * x[:, 0], law.box, nodes=32)
        >>> round(uniform.value, 12)
        0.5
    """
    _check(temperature, nodes)
    fine, half = _fine_and_half(law, energy, box, temperature, nodes)
    value, coarse = (_excess(law, each.board, each.whole.log_z()) for each in (fine, half))
    return Divergence(value, abs(value - coarse), fine.whole.edge_mass())


def mode_masses(
    law: Distribution, energy: EnergyFn, box: Box | None = None, *, temperature: float = 1.0, nodes: int = 400
) -> Tensor:
    """Return the share of the model's mass that is nearest to each mode of a law.

    A point belongs to the mode at the smallest Euclidean distance, however far: mass between modes is assigned too,
    so equal masses alone do not prove a good model. Compare with the law's own masses in the same cells,
    ``mode_masses(law, lambda x: -law.log_prob(x))``, which differ if modes overlap or weigh differently. The ratio of
    the two is one for every mode of a perfect model.

    Examples:
        >>> from energyscape.data.distributions import GaussianGrid
        >>> law = GaussianGrid(side=2)
        >>> own = mode_masses(law, lambda x: -law.log_prob(x))
        >>> model = mode_masses(law, lambda x: -law.log_prob(x) + (x[:, 0] > 0) * math.log(3))
        >>> (model / own).round(decimals=3)
        tensor([1.5000, 1.5000, 0.5000, 0.5000], dtype=torch.float64)
    """
    _check(temperature, nodes)
    if law.modes is None:
        raise UserError(f"{type(law).__name__} has no isolated modes, so there are no masses around them")
    points, share = _model(law, energy, box, temperature, nodes).shares()
    modes = law.modes.to(points)
    cell = torch.cat([torch.cdist(part, modes).argmin(1) for part in torch.split(points, 1 << 16)])
    return torch.bincount(cell, weights=share, minlength=len(modes))


class Sheet(NamedTuple):
    """An energy at the nodes of a box and of rings of panels around it, from the inside out."""

    box: Box
    points: Tensor
    weights: Tensor
    reduced: Tensor

    def log_mass(self) -> Tensor:
        """Return the logarithm of each node's unnormalised mass."""
        return self.weights.log() - self.reduced

    def log_z(self) -> float:
        """Return the log normalising constant of the box."""
        return float(self.log_mass().logsumexp(0))

    def shares(self) -> tuple[Tensor, Tensor]:
        """Return the nodes and each one's share of the mass."""
        return self.points, self.log_mass().softmax(0)

    def edge_mass(self) -> float:
        """Return the share of the mass in the rim."""
        points, share = self.shares()
        return float(share[_reach(points, self.box) > 1 - 2 * RIM].sum())

    def within(self, box: Box) -> "Sheet":
        """Return the part of the sheet that lies in a box between whose panels and the others no node lies."""
        inside = _reach(self.points, box) < 1
        return Sheet(box, self.points[inside], self.weights[inside], self.reduced[inside])


class Sheets(NamedTuple):
    """A model at the nodes of one rule."""

    board: Sheet
    whole: Sheet


def _fine_and_half(
    law: Distribution, energy: EnergyFn, box: Box | None, temperature: float, nodes: int
) -> tuple[Sheets, Sheets]:
    """Return a model at all nodes and at half as many along each side."""
    if box is None:
        # The widest box has been computed with half the nodes already.
        widest = _sheet(energy, law.box, temperature, nodes // 2, RINGS)
        rings = _rings(widest, law.box)
        whole = _sheet(energy, law.box, temperature, nodes, rings), widest.within(_widened(law.box, rings))
        board = [each.within(law.box) for each in whole]
    else:
        whole = _sheet(energy, box, temperature, nodes), _sheet(energy, box, temperature, nodes // 2)
        board = [_sheet(energy, law.box, temperature, n) for n in (nodes, nodes // 2)]
    return Sheets(board[0], whole[0]), Sheets(board[1], whole[1])


def _model(law: Distribution, energy: EnergyFn, box: Box | None, temperature: float, nodes: int) -> Sheet:
    """Return a model in the requested box, or in one that is wide enough."""
    if box is not None:
        return _sheet(energy, box, temperature, nodes)
    rings = _rings(_sheet(energy, law.box, temperature, nodes // 2, RINGS), law.box)
    return _sheet(energy, law.box, temperature, nodes, rings)


def _rings(widest: Sheet, box: Box) -> int:
    """Return the fewest rings around a box that hold the mass of the widest sheet.

    Widening until the rim is empty would fail: a mode far outside the law's box has an empty rim before it.
    """
    points, share = widest.shares()
    reaches = (_reach(points, _widened(box, rings)) for rings in range(RINGS))
    return next(
        (rings for rings, reach in enumerate(reaches) if share[reach > 1 - 2 * RIM].sum() < MAX_RIM_MASS), RINGS
    )


def _cross(law: Distribution, board: Sheet) -> float:
    """Return the integral of p (log p + E / T) over the law's box, where p log p = 0 if p = 0."""
    log_p = law.log_prob(board.points)
    inside = log_p > -torch.inf
    difference = log_p[inside] + board.reduced[inside]
    return float((board.weights[inside] * log_p[inside].exp() * difference).sum())


def _excess(law: Distribution, board: Sheet, log_z: float) -> float:
    """Return the integral of p - q where p > q, which is only in the law's box; exactly zero at p = q."""
    p, q = law.log_prob(board.points).exp(), (-board.reduced - log_z).exp()
    # Not `clamp`: where q is NaN, so is the integral.
    return float((board.weights * torch.where(p < q, 0, p - q)).sum())


def _sheet(energy: EnergyFn, box: Box, temperature: float, nodes: int, rings: int = 0) -> Sheet:
    """Return an energy at ``nodes`` nodes along each side of a box, and in rings around it."""
    parts = [_ring(box, ring, nodes) for ring in range(rings + 1)]
    points, weights = (torch.cat(each) for each in zip(*parts, strict=True))
    return Sheet(_widened(box, rings), points, weights, _reduced(energy, points, temperature))


def _ring(box: Box, ring: int, nodes: int) -> tuple[Tensor, Tensor]:
    """Return points and weights of Gauss-Legendre rules on the panels of one ring; ring 0 is the box."""
    unit, weights = gauss_legendre(((0.0, 1.0), (0.0, 1.0)), nodes // PANELS if ring == 0 else max(2, nodes // 8))
    edges = torch.stack([_edges(low, high, ring) for low, high in box])
    last = PANELS + 2 * ring - 1
    pairs = itertools.product(range(last + 1), repeat=2)
    index = torch.tensor([pair for pair in pairs if ring == 0 or {0, last} & set(pair)])
    corner, size = (torch.stack([each[0, index[:, 0]], each[1, index[:, 1]]], 1) for each in (edges, edges.diff()))
    points = corner.unsqueeze(1) + size.unsqueeze(1) * unit
    return points.flatten(0, 1), (size.prod(1, keepdim=True) * weights).flatten()


def _edges(low: float, high: float, rings: int) -> Tensor:
    """Return the panel edges along one side: 4 equal panels, and at both ends one a ring, doubling in width."""
    out = (high - low) / PANELS * (2 ** torch.arange(1, rings + 1, dtype=torch.float64) - 1)
    return torch.cat([low - out.flip(0), torch.linspace(low, high, PANELS + 1, dtype=torch.float64), high + out])


def _widened(box: Box, rings: int) -> Box:
    """Return the box with so many rings of panels around it."""
    (x0, x1), (y0, y1) = box
    dx, dy = ((high - low) / PANELS * (2**rings - 1) for low, high in box)
    return ((x0 - dx, x1 + dx), (y0 - dy, y1 + dy))


def _reach(points: Tensor, box: Box) -> Tensor:
    """Return the distances of points from a box's centre, in units of the distance to its border."""
    low, high = torch.tensor(box, dtype=points.dtype).unbind(1)
    return ((2 * points - low - high) / (high - low)).abs().amax(1)


def _reduced(energy: EnergyFn, points: Tensor, temperature: float) -> Tensor:
    """Return E / T in float64, computed batch by batch in the precision and on the device of the energy."""
    tensors = (each for module in modules_of(energy) for each in [*module.parameters(), *module.buffers()])
    like = next((each for each in tensors if each.is_floating_point()), points)
    with torch.no_grad():
        e = torch.cat([energy(part.to(like)).to(points) for part in torch.split(points, BATCH)])
    return e / temperature


def _check(temperature: float, nodes: int) -> None:
    if not (math.isfinite(temperature) and temperature > 0):
        raise UserError(f"temperature is a positive number; it was {temperature}")
    if nodes < 16:
        raise UserError(f"nodes along a side are at least 16; there were {nodes}")
