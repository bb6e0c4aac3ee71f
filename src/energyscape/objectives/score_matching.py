r"""Score matching without noise.

Fisher's divergence :math:`\tfrac12 E \| s_\theta(x) - \nabla_x \log p_{\text{data}}(x) \|^2` contains the data's own
score; integrated by parts it is, up to a constant,

.. math:: J(\theta) = E\bigl[ \operatorname{tr} \nabla_x s_\theta(x) + \tfrac12 \| s_\theta(x) \|^2 \bigr],
          \qquad s_\theta = -\nabla_x E_\theta .

The trace costs a backward pass for each coordinate. A random probe :math:`v` with :math:`E[v v^\top] = I` over *all*
coordinates of the event needs one, as :math:`E[v^\top \nabla s\, v] = \operatorname{tr} \nabla s` and
:math:`E[(v^\top s)^2] = \| s \|^2`. Each objective here estimates the trace and the square in its own way.
For points instead of a density, :math:`J` has no lower bound: the energy digs a well at each.
"""

import math
from typing import Literal, final, get_args

import torch
from torch import Generator, Tensor

from energyscape.calculus import leaf, score
from energyscape.errors import check_count, check_positive
from energyscape.models.energy import Energy
from energyscape.noise import normal_like
from energyscape.objectives.base import Loss, Objective
from energyscape.objectives.facts import Facts

Projection = Literal["rademacher", "gaussian", "sphere"]


@final
class ScoreMatching(Objective):
    r"""Exact score matching, for few dimensions.

    .. math:: L(\theta) = E\bigl[ \operatorname{tr} \nabla_x s_\theta(x) + \tfrac12 \| s_\theta(x) \|^2 \bigr]

    A step costs as many backward passes, and their memory, as the event has coordinates. The loss is negative where the
    model is good, :math:`-\tfrac12 E \| s \|^2` at the truth. The Laplacian of a ReLU network is zero, so only a smooth
    network has a trace to learn from.

    References:
        Estimation of non-normalized statistical models by score matching (Hyvärinen, 2005), equation 4.
        https://www.jmlr.org/papers/v6/hyvarinen05a.html
    """

    def forward(
        self, model: Energy, x: Tensor, label: Tensor | None = None, *, generator: Generator | None = None
    ) -> Loss:
        x = leaf(x)
        s = score(model, x, create_graph=True)
        diagonal = [_gradient(s.flatten(1)[:, i], x).flatten(1)[:, i] for i in range(x[0].numel())]
        return _loss(torch.stack(diagonal, 1).sum(1), s.flatten(1).square().sum(1))


@final
class SlicedScoreMatching(Objective):
    r"""Score matching along random directions.

    .. math:: L(\theta) = E\bigl[ v^\top \nabla_x s_\theta(x)\, v + \tfrac12 (v^\top s_\theta(x))^2 \bigr],
              \qquad E[v v^\top] = I

    A direction runs through the whole event, not through each of its rows. One on the sphere has length :math:`\sqrt
    d`, because a unit vector would shrink :math:`J` by :math:`d`.

    Args:
        projections: Directions for each point; each costs one more backward pass.
        projection: Distribution of a direction: signs, which have the least variance, normal, or uniform on the sphere
            of radius :math:`\sqrt d`.

    Raises:
        ValueError: If ``projections`` is not positive or ``projection`` is unknown.

    References:
        Sliced score matching: a scalable approach to density and score estimation (Song et al., 2019), equation 7.
        https://arxiv.org/abs/1905.07088
    """

    def __init__(self, *, projections: int = 1, projection: Projection = "rademacher") -> None:
        super().__init__()
        _check(projections, projection)
        self.projections, self.projection = projections, projection

    def forward(
        self, model: Energy, x: Tensor, label: Tensor | None = None, *, generator: Generator | None = None
    ) -> Loss:
        x = leaf(x)
        s = score(model, x, create_graph=True)
        probes = [probe(x, self.projection, generator=generator) for _ in range(self.projections)]
        traces = [_dot(v, _gradient(_dot(v, s), x)) for v in probes]
        squares = [_dot(v, s).square() for v in probes]
        return _loss(torch.stack(traces).mean(0), torch.stack(squares).mean(0))


@final
class SlicedScoreMatchingVR(Objective):
    r"""Sliced score matching of reduced variance: only the trace is projected.

    .. math:: L(\theta) = E\bigl[ v^\top \nabla_x s_\theta(x)\, v + \tfrac12 \| s_\theta(x) \|^2 \bigr],
              \qquad E[v v^\top] = I

    The norm comes with the score, at no cost. Unlike in the plain form, only :math:`E[v v^\top] = I` balances the two
    terms: unit vectors would move the minimiser itself. With signs and a diagonal Hessian
    the projection adds no variance. With other directions, or strong correlations, the plain form's two terms partly
    cancel and its variance may be lower.

    Args:
        projections: Directions for each point; each costs one more backward pass.
        projection: Distribution of a direction, as in `SlicedScoreMatching`.

    Raises:
        ValueError: If ``projections`` is not positive or ``projection`` is unknown.

    References:
        Sliced score matching: a scalable approach to density and score estimation (Song et al., 2019), section 3.
        https://arxiv.org/abs/1905.07088
    """

    def __init__(self, *, projections: int = 1, projection: Projection = "rademacher") -> None:
        super().__init__()
        _check(projections, projection)
        self.projections, self.projection = projections, projection

    def forward(
        self, model: Energy, x: Tensor, label: Tensor | None = None, *, generator: Generator | None = None
    ) -> Loss:
        x = leaf(x)
        s = score(model, x, create_graph=True)
        probes = [probe(x, self.projection, generator=generator) for _ in range(self.projections)]
        traces = [_dot(v, _gradient(_dot(v, s), x)) for v in probes]
        return _loss(torch.stack(traces).mean(0), s.flatten(1).square().sum(1))


@final
class FiniteDifferenceScoreMatching(Objective):
    r"""Sliced score matching from three energies, with no score.

    .. math:: L(\theta) = \frac{d}{\epsilon^2} E\Bigl[ 2 E_\theta(x) - E_\theta(x + v) - E_\theta(x - v)
              + \tfrac18 \bigl( E_\theta(x + v) - E_\theta(x - v) \bigr)^2 \Bigr]

    with :math:`v` uniform on the sphere of radius :math:`\epsilon`. By Taylor, for :math:`v = \epsilon u`, the second
    difference is :math:`-\epsilon^2 u^\top \nabla s\, u + O(\epsilon^4)` and half the first one is
    :math:`-\epsilon\, u^\top s + O(\epsilon^3)`; as :math:`E[u u^\top] = I / d`, the loss is
    :math:`J + O(\epsilon^2)`, and exact where the energy is quadratic.

    A smaller :math:`\epsilon` is not always better: the second difference of energies of size :math:`|E|` is rounded by
    about :math:`10^{-7} |E|` in float32, which :math:`d / \epsilon^2` magnifies. Keep :math:`\epsilon` above a
    hundredth of the length over which the energy bends, and below that length.

    Args:
        epsilon: :math:`\epsilon > 0`, the length of the whole step through the event, in units of ``x``.

    Raises:
        ValueError: If ``epsilon`` is not positive.

    References:
        Efficient learning of generative models via finite-difference score matching (Pang et al., 2020), section 4.
        https://arxiv.org/abs/2007.03317
    """

    def __init__(self, *, epsilon: float = 0.05) -> None:
        super().__init__()
        check_positive(epsilon=epsilon)
        self.epsilon = epsilon

    def forward(
        self, model: Energy, x: Tensor, label: Tensor | None = None, *, generator: Generator | None = None
    ) -> Loss:
        x = x.detach()
        scale = x[0].numel() / self.epsilon**2
        v = probe(x, "sphere", generator=generator) / math.sqrt(scale)
        above, below, here = model(torch.cat([x + v, x - v, x])).chunk(3)
        return _loss(scale * (2 * here - above - below), scale * ((above - below) / 2).square())


def probe(x: Tensor, projection: Projection, *, generator: Generator | None = None) -> Tensor:
    r"""Return a random direction :math:`v` for each point, with :math:`E[v v^\top] = I` over the flattened event."""
    if projection == "rademacher":
        return 2 * x.new_empty(x.shape).bernoulli_(0.5, generator=generator) - 1
    v = normal_like(x, generator=generator)
    if projection == "gaussian":
        return v
    radius = math.sqrt(x[0].numel())
    return radius * torch.nn.functional.normalize(v.flatten(1)).reshape(x.shape)


def _check(projections: int, projection: str) -> None:
    check_count(projections=projections, most=1_000)
    if projection not in get_args(Projection):
        raise ValueError(f"projection is rademacher, gaussian or sphere; it was {projection!r}")


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def _gradient(values: Tensor, x: Tensor) -> Tensor:
    # The score of a piecewise linear energy does not depend on x: return zero, not an error.
    return torch.autograd.grad(values.sum(), x, create_graph=True, materialize_grads=True)[0]


def _loss(trace: Tensor, square: Tensor) -> Loss:
    """Combine each point's trace and square into J."""
    facts: Facts[Tensor] = {
        "trace": trace.mean(),
        # At the truth the trace and the square cancel, whatever the law (Stein's identity).
        "stein": (trace + square).mean(),
        "score_rms": square.mean().sqrt(),
    }
    return Loss((trace + square / 2).mean(), {name: value.detach() for name, value in facts.items()})
