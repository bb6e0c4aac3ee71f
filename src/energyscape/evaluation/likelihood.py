r"""Bounds of the constant that turns an energy into a likelihood, from both sides.

Annealed importance sampling (AIS) goes from a base :math:`p_0 = e^{-E_0} / Z_0`, whose constant is known, to the
energy :math:`E / T` along :math:`E_k = \beta_k E / T + (1 - \beta_k) E_0`, with
:math:`0 = \beta_0 < \dots < \beta_K = 1`. At each level it takes the weight *first* and then a step that leaves
:math:`e^{-E_k}` invariant,

.. math:: \log w = \sum_{k=1}^{K} \bigl( E_{k-1}(x_{k-1}) - E_k(x_{k-1}) \bigr), \qquad E[w] = Z / Z_0.

The same walk backwards from exact draws of the energy has :math:`E[w] = Z_0 / Z`. By Jensen's inequality the first
estimate of :math:`\log Z` is too low on average and the second too high, and by Markov's

.. math:: P\bigl( \log \hat Z_{\text{forward}} > \log Z + b \bigr) \le e^{-b}, \qquad
          P\bigl( \log \hat Z_{\text{reverse}} < \log Z - b \bigr) \le e^{-b},

however badly the chains mix. The forward estimate alone silently flatters a model: modes that the base does not
reach are missing from :math:`Z`.

References:
    Annealed importance sampling (Neal, 2001), sections 2 and 4. https://arxiv.org/abs/physics/9803008;
    Accurate and conservative estimates of MRF log-likelihood using reverse annealing (Burda, Grosse & Salakhutdinov,
    2015), section 3. https://arxiv.org/abs/1412.8566; Sandwiching the marginal likelihood using bidirectional Monte
    Carlo (Grosse, Ghahramani & Adams, 2015), sections 2.2 and 3. https://arxiv.org/abs/1511.02543
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from energyscape.calculus import EnergyFn
from energyscape.errors import UserError
from energyscape.evaluation.annealing import Base, Path, pilot
from energyscape.samplers import MALA, Kernel

TRUSTED = 16.0
"""Least effective number of weights with a meaningful standard error."""


class Annealed(NamedTuple):
    r"""An estimate of :math:`\log Z` from one direction.

    Args:
        log_z: :math:`\log \hat Z` in nats: low on average if forward, high on average if reverse.
        error: Its standard error by the delta method, from independent chains; a lower limit where ``ess`` is small.
        ess: Effective number of chains, :math:`(\sum w)^2 / \sum w^2`.
        log_weights: :math:`\log w` of each chain as the walk made it, ``(C,)`` in float64; the mean of :math:`w` is
            :math:`Z / Z_0` forward, :math:`Z_0 / Z` in reverse.
        accept_prob: Least mean acceptance probability of all levels.
    """

    log_z: float
    error: float
    ess: float
    log_weights: Tensor
    accept_prob: float


class Bracket(NamedTuple):
    r""":math:`\log Z` from both sides, or the reason why it is unknown.

    Args:
        value: :math:`\log Z = \log \int e^{-E(x) / T}\, dx` in nats by Bennett's estimate from both directions; NaN if
            the bracket does not close.
        error: The larger of its standard error and half the gap between the directions; NaN likewise.
        lower: Forward estimate less so many standard errors.
        upper: Reverse estimate and so many standard errors.
        reason: The reason for a missing value, with numbers; empty otherwise.
        forward: From the base.
        reverse: From the exact draws.
    """

    value: float
    error: float
    lower: float
    upper: float
    reason: str
    forward: Annealed
    reverse: Annealed


def forward_ais(path: Path, chains: int = 1000, *, generator: Generator | None = None) -> Annealed:
    r"""Return annealed importance sampling's estimate of :math:`\log Z`: a stochastic *lower* bound.

    Its standard error ignores modes that no chain has found. With exact draws, use `bracket`.

    Examples:
        >>> from energyscape.models import Gaussian, GaussianMixture
        >>> draws = torch.Generator().manual_seed(0)
        >>> energy = GaussianMixture(torch.tensor([[2.0, 0.0], [-1.0, 1.0]]), std=0.5)
        >>> path = pilot(energy, Gaussian(torch.zeros(2), 4 * torch.eye(2)), levels=50, generator=draws)
        >>> estimate = forward_ais(path, 500, generator=draws)
        >>> abs(estimate.log_z - energy.log_z) < 5 * estimate.error < 0.25
        True
    """
    if chains < 2:
        raise UserError(f"at least 2 chains, or there is no error; there were {chains}")
    x = path.base.sample(chains, generator=generator)
    log_weights, accept_prob = _walked(path, x, range(len(path.betas)), generator)
    mean, error, ess = _log_mean(log_weights)
    return Annealed(path.base.log_z + mean, error, ess, log_weights, accept_prob)


def reverse_ais(path: Path, exact_draws: Tensor, *, generator: Generator | None = None) -> Annealed:
    r"""Return the estimate of :math:`\log Z` by walking from exact draws to the base: a stochastic *upper* bound.

    It is a bound only if the draws are independent ones of :math:`e^{-E / T} / Z` itself. Data qualify only if the
    model is the law of the data; the end of a chain qualifies only if the chain has mixed.
    """
    if len(exact_draws) < 2:
        raise UserError(f"at least 2 exact draws, or there is no error; there were {len(exact_draws)}")
    log_weights, accept_prob = _walked(path, exact_draws, range(len(path.betas) - 1, -1, -1), generator)
    mean, error, ess = _log_mean(log_weights)
    return Annealed(path.base.log_z - mean, error, ess, log_weights, accept_prob)


def bracket(
    energy: EnergyFn,
    base: Base,
    exact_draws: Tensor,
    *,
    temperature: float = 1.0,
    levels: int = 500,
    kernel: Callable[..., Kernel[Any]] = MALA,
    moves: int = 1,
    tolerance: float = 0.5,
    sigmas: float = 3.0,
    generator: Generator | None = None,
) -> Bracket:
    r"""Return :math:`\log Z` between a lower and an upper bound, and no value if they do not meet.

    The bracket closes if forward estimate less ``sigmas`` standard errors and reverse estimate plus as many are at most
    ``tolerance`` apart and have not crossed, and both directions have an effective number of weights of at least 16.
    The value is Bennett's, which weighs both by their overlap.

    Given exact draws, a closed bracket guarantees that :math:`\log Z` is within :math:`b` of the two estimates with
    probability at least :math:`1 - 2 e^{-b}`, whatever the chains did. If the weights are not heavy-tailed, the error
    is accurate. Without exact draws it guarantees nothing. If the draws lack a mode that the base does not reach
    either, both directions err alike, and the bracket closes on the :math:`\log Z` of the rest. The same holds for data
    in place of draws if the model has mass away from the data. An exact sample of :math:`n` misses a mode of share
    :math:`s` with probability :math:`(1 - s)^n` only.

    Args:
        exact_draws: Independent draws of :math:`e^{-E / T} / Z`, ``(C, *)``; as many walks go forward.
        kernel: Makes a transition from an energy and ``step_size=``: `MALA`, or a partial of `HMC` with a
            ``jitter``.
        tolerance: Widest bracket that counts as closed, in nats.
        sigmas: Standard errors that are added at both ends.

    Examples:
        >>> from energyscape.models import Gaussian
        >>> draws = torch.Generator().manual_seed(0)
        >>> energy = Gaussian(torch.ones(2), 0.25 * torch.eye(2))
        >>> base = Gaussian(torch.zeros(2), torch.eye(2))
        >>> found = bracket(energy, base, energy.sample(500, generator=draws), levels=50, generator=draws)
        >>> abs(found.value - energy.log_z) < 5 * found.error
        True
        >>> few = bracket(energy, base, energy.sample(10, generator=draws), levels=1, generator=draws)
        >>> few.value, few.reason
        (nan, 'forward weights are worth ... of 10 chains, fewer than 16; ...')

    References:
        Efficient estimation of free energy differences from Monte Carlo data (Bennett, 1976), equation 12.
        https://doi.org/10.1016/0021-9991(76)90078-4; Equilibrium free energies from nonequilibrium measurements using
        maximum-likelihood methods (Shirts et al., 2003), equations 8 and 10.
        https://doi.org/10.1103/PhysRevLett.91.140601
    """
    if not (tolerance > 0 and sigmas >= 0):
        raise UserError(f"tolerance is positive and sigmas at least 0; they were {tolerance} and {sigmas}")
    path = pilot(energy, base, temperature=temperature, levels=levels, kernel=kernel, moves=moves, generator=generator)
    forward = forward_ais(path, len(exact_draws), generator=generator)
    reverse = reverse_ais(path, exact_draws, generator=generator)
    lower, upper = forward.log_z - sigmas * forward.error, reverse.log_z + sigmas * reverse.error
    reason = _doubt(forward, reverse, tolerance, sigmas)
    if reason:
        return Bracket(math.nan, math.nan, lower, upper, reason, forward, reverse)
    value, error = bennett(forward.log_weights, reverse.log_weights)
    gap = abs(reverse.log_z - forward.log_z)
    return Bracket(base.log_z + value, max(error, gap / 2), lower, upper, "", forward, reverse)


def bennett(forward: Tensor, reverse: Tensor) -> tuple[float, float]:
    r"""Return the maximum-likelihood log ratio of constants from both directions' weights, and its standard error.

    .. math::
        \sum_{\text{forward}} \operatorname{sigm}(\log w - \Delta + M)
        = \sum_{\text{reverse}} \operatorname{sigm}(\log w + \Delta - M), \qquad M = \log\frac{m}{n}

    Densities of forward :math:`\log w` and of reverse :math:`-\log w` are in the ratio :math:`e^{\Delta - \log w}`, so
    this is a logistic regression of the direction on its intercept only.
    """
    n, m = len(forward), len(reverse)
    prior, work = math.log(m / n), torch.cat([forward, -reverse])
    among, margin = work[work.isfinite()], abs(prior) + math.log(n + m) + 1
    low, high = float(among.min()) - margin, float(among.max()) + margin
    while low < (middle := (low + high) / 2) < high:
        # Match the number of reverse weights.
        surplus = float((work - middle + prior).sigmoid().sum()) - m
        low, high = (middle, high) if surplus > 0 else (low, middle)
    p = (work - middle + prior).sigmoid()
    return middle, math.sqrt(max(0.0, 1 / float((p * (1 - p)).sum()) - 1 / n - 1 / m))


def _doubt(forward: Annealed, reverse: Annealed, tolerance: float, sigmas: float) -> str:
    """Return the reason to reject a bracket, empty if there is none."""
    reasons = [
        f"{name} weights are worth {each.ess:.2g} of {len(each.log_weights)} chains, fewer than {TRUSTED:g}"
        for name, each in (("forward", forward), ("reverse", reverse))
        if not each.ess >= TRUSTED
    ]
    gap = reverse.log_z - forward.log_z
    width = gap + sigmas * (forward.error + reverse.error)
    # The rounding error of energies in single precision.
    if -gap > max(sigmas, 3) * math.hypot(forward.error, reverse.error) + 1e-3:
        reasons.append(f"the lower bound is {-gap:.3g} nats above the upper one: the draws are not exact")
    if not width <= tolerance:
        reasons.append(
            f"the bracket is {width:.3g} nats wide, more than {tolerance:g}: a gap of {gap:.3g} and errors of "
            f"{forward.error:.2g} and {reverse.error:.2g}"
        )
    return "; ".join(reasons)


def _walked(path: Path, x: Tensor, levels: range, generator: Generator | None) -> tuple[Tensor, float]:
    """Return the log weights of walks from draws at the first level to the last, and the least acceptance."""
    with torch.no_grad():
        here = path.tempered(path.betas[levels[0]])(x)
    log_weights, least = torch.zeros_like(here), torch.ones_like(here[0])
    for level in levels[1:]:
        kernel = path.at(level)
        state = kernel.init(x)
        log_weights = log_weights + (here - state.energy)
        # A point where the energy is infinite has no weight, and gains none later.
        log_weights = torch.where(log_weights.isnan(), -torch.inf, log_weights)
        if level == levels[-1]:
            break
        for _ in range(path.moves):
            state, info = kernel.step(state, generator=generator)
            least = torch.minimum(least, info.accept_prob.mean())
        x, here = state.x, state.energy
    return log_weights, float(least)


def _log_mean(log_weights: Tensor) -> tuple[float, float, float]:
    """Return the logarithm of the mean weight, its standard error and the effective number of weights."""
    n = len(log_weights)
    mean = log_weights.logsumexp(0) - math.log(n)
    w = (log_weights - mean).exp()
    return float(mean), float(w.std() / math.sqrt(n)), float(w.sum().square() / w.square().sum())
