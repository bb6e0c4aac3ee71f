r"""Adaptation of a kernel's settings from many chains together.

* The step :math:`\epsilon` by dual averaging: with :math:`a_t` the mean over chains of the acceptance probability and
  :math:`\delta` its target,

  .. math:: \log \epsilon_{t+1} = \mu - \frac{\sqrt{t}}{\gamma\,(t + t_0)} \sum_{i \le t} (\delta - a_i),

  and the result is a weighted average of these logarithms.
* The scale: the standard deviation of each coordinate over all chains and draws of a window. For vectors whose
correlations repay a product of matrices it is the Cholesky factor of their covariance. * The length of a trajectory:
where the expected squared change of the distance from the mean is largest,

  .. math:: \operatorname{ChEES}(l) = \tfrac14\, E\, a_l \bigl( \|x_l - E x_l\|^2 - \|x_0 - E x_0\|^2 \bigr)^2 .

References:
    The no-U-turn sampler (Hoffman & Gelman, 2014), section 3.2.1 and algorithm 4. https://arxiv.org/abs/1111.4246;
    An adaptive-MCMC scheme for setting trajectory lengths in Hamiltonian Monte Carlo (Hoffman, Radul & Sountsov, 2021),
    equation 4. https://proceedings.mlr.press/v130/hoffman21a.html
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Generator, Tensor

from energyscape.errors import UserError
from energyscape.samplers.base import Info, Kernel, Point, expand, finite
from energyscape.samplers.hmc import HMC
from energyscape.samplers.langevin import MALA
from energyscape.samplers.scale import whiten

WINDOWS = (0.04, 0.04, 0.04, 0.04, 0.04, 0.04, 0.08, 0.16, 0.25)
"""Shares of the steps after which scale and length are updated; the rest adapts the step size alone."""

LONGEST = 1024
"""Most leapfrog steps of a trajectory."""

JITTER = 0.9
"""Default jitter: trajectories of every length, for a law of many periods."""

GENTLE = 0.3
"""Default jitter for a law of hardly more than one period, where all lengths may be near the best."""

SHORT = 4
"""Leapfrog steps up to which the best trajectory is that of such a law; longer ones follow faster directions too."""

WIDEST = 512
"""Most dimensions for a covariance."""

DRAWS_PER_DIMENSION = 10
"""Draws for each dimension from which on their correlations are trusted."""

RIDGE = 0.01
"""Draws for each dimension as which the uncorrelated prior counts."""

OBLIQUE = 10.0
"""Condition number of the correlations from which on a scale is a matrix: trajectories get shorter by its root."""


class Adapted(NamedTuple):
    """The result of a warm-up.

    Args:
        kernel: The kernel with its new settings.
        x: Final positions, ``(C, *)``: start there.
        step_size: The step.
        leapfrog_steps: Leapfrog steps of a trajectory; 1 for `MALA`.
        scale: Standard deviation of each coordinate, ``(*)``, or a factor of the covariance, ``(d, d)``; none for
            `MALA`.
        accept_prob: Mean acceptance probability of the second half of the last window.
    """

    kernel: Kernel[Point]
    x: Tensor
    step_size: float
    leapfrog_steps: int
    scale: Tensor | None
    accept_prob: float


def warmup(
    kernel: MALA | HMC,
    x: Tensor,
    *,
    steps: int,
    target_accept: float | None = None,
    dense: bool | None = None,
    generator: Generator | None = None,
) -> Adapted:
    r"""Run chains until they have converged, and adapt the kernel on the way.

    For `MALA` this is the step size; for `HMC` also the ``scale`` and the number of leapfrog steps. A window's
    trajectories are twice as long as the last window found best, and ChEES is taken at every point along them. The
    length is the shortest that reaches 95 % of the largest value, and can double from window to window. A climb along
    the criterion's gradient with a fixed rate, as published, can stop short unnoticed.

    The resulting kernel is fixed, so its chains are exact; the warm-up's own draws are biased and discarded. An `HMC`
    without jitter gets a jitter of 0.9, because a single length resonates with some coordinate of every large problem.
    It gets 0.3 if the scale has made the law so round that few leapfrog steps are best. The mean over chains is
    arithmetic: the published harmonic mean is zero if one chain in a hundred never accepts, and its step then shrinks
    until every chain does.

    Args:
        kernel: `MALA` or `HMC`; its step size starts the search.
        x: Starting positions, ``(C, *)``. All chains adapt together: dozens are better than four.
        steps: Transitions in all, at least 100; a few hundred for a hard problem.
        target_accept: :math:`0 < \delta < 1`; by default 0.574 for `MALA` and 0.8 for `HMC`.
        dense: Whether the scale of vectors is a matrix; by default, if their correlations make it pay and the
            draws are many enough to show it.
        generator: The stream to draw from.

    Raises:
        UserError: If the kernel is neither `MALA` nor `HMC` or accepts everything, a matrix is impossible, chains are
            too few or have no finite energy, or a setting is out of its range.

    Examples:
        >>> draws = torch.Generator().manual_seed(0)
        >>> spread = torch.tensor([0.01, 1.0])
        >>> kernel = HMC(lambda x: (x / spread).square().sum(1) / 2, step_size=1.0)
        >>> found = warmup(kernel, torch.ones(64, 2), steps=200, generator=draws)
        >>> 50 < float(found.scale[1] / found.scale[0]) < 200, found.kernel.leapfrog_steps < 10
        (True, True)
    """
    if not isinstance(kernel, MALA | HMC):
        raise UserError(
            f"warmup sets kernels by their acceptance, MALA and HMC; {type(kernel).__name__} has none of its own"
        )
    target = (0.574 if isinstance(kernel, MALA) else 0.8) if target_accept is None else target_accept
    few = 4 if isinstance(kernel, HMC) else 1
    if steps < 100 or not 0 < target < 1 or len(x) < few:
        raise UserError(
            f"steps ≥ 100, 0 < target_accept < 1 and at least {few} chains; they were {steps}, {target} and {len(x)}"
        )
    if dense and (not isinstance(kernel, HMC) or x.ndim != 2 or x.shape[1] > WIDEST):
        raise UserError(
            f"a scale that is a matrix is for HMC on vectors of at most {WIDEST} dimensions; "
            f"it was {type(kernel).__name__} on points of shape {tuple(x.shape[1:])}: leave dense out"
        )
    dense = dense if kernel.bounds is None else False  # mirrored trajectories need a diagonal scale
    state = kernel.init(x)
    if not bool(finite(state).any()):
        raise UserError("no chain starts where energy and score are finite: start elsewhere")
    if isinstance(kernel, HMC):
        return _travelled(kernel, state, steps, target=target, dense=dense, generator=generator)
    tuned, state, accept_prob = _tuned(kernel, state, steps, target=target, generator=generator)
    return Adapted(tuned, state.x, tuned.step_size, 1, None, accept_prob)


Tunable = TypeVar("Tunable", bound=MALA | HMC)
Step = Callable[[Any, Point], tuple[Point, Info]]


def _tuned(
    kernel: Tunable,
    state: Point,
    steps: int,
    *,
    target: float,
    generator: Generator | None,
    step: Step | None = None,
) -> tuple[Tunable, Point, float]:
    """Run chains while the step size adapts; return the kernel, the chains and their mean acceptance."""
    search = DualAveraging(_plausible(kernel, state, generator), target=target)
    accepted, alive = [], finite(state)
    for _ in range(steps):
        trial = dataclasses.replace(kernel, step_size=search.step_size)
        state, info = trial.step(state, generator=generator) if step is None else step(trial, state)
        accepted.append(float(info.accept_prob[alive].mean()))
        search.learn(accepted[-1])
    late = accepted[len(accepted) // 2 :]
    return dataclasses.replace(kernel, step_size=search.settled), state, sum(late) / len(late)


def _plausible(kernel: Tunable, state: Point, generator: Generator | None) -> float:
    """Return a step size at which about half of single leapfrog steps are accepted, found by doubling or halving."""
    short = dataclasses.replace(kernel, leapfrog_steps=1) if isinstance(kernel, HMC) else kernel
    alive, direction, step_size = finite(state), 0, kernel.step_size
    for _ in range(100):
        _, info = dataclasses.replace(short, step_size=step_size).step(state, generator=generator)
        now = 1 if float(info.accept_prob[alive].mean()) > 0.5 else -1
        if direction == -now:
            return step_size
        direction, step_size = now, step_size * 2.0**now
    return kernel.step_size  # without a slope, or without a neighbour, no step is better than another


class DualAveraging:
    r"""The search for a step size; see the head of this file.

    Args:
        step_size: Start of the search, to which the iterates are drawn back: :math:`e^\mu`.
        target: The acceptance that is sought.
    """

    def __init__(self, step_size: float, *, target: float) -> None:
        self.step_size, self.settled, self.target = step_size, step_size, target
        self._mu, self._log_settled, self._shortfall, self._t = math.log(step_size), 0.0, 0.0, 0

    def learn(self, accept_prob: float) -> None:
        r"""Update the iterates with one acceptance.

        The constants :math:`t_0 = 10` and :math:`\kappa = 0.75` are the published ones. :math:`\gamma` is 0.15; the
        published 0.05 suits one chain, whose acceptance is noisy. The mean of many chains would make its step oscillate
        about the edge where acceptance falls. It would settle at too high an acceptance (0.77 instead of 0.7 in three
        dimensions).
        """
        self._t += 1
        self._shortfall += self.target - accept_prob
        move = -math.sqrt(self._t) / 0.15 * self._shortfall / (self._t + 10)
        # Bound the step to finite numbers: 30 is thirteen orders of magnitude.
        log_step = self._mu + max(-30.0, min(30.0, move))
        weight = self._t**-0.75
        self._log_settled = weight * log_step + (1 - weight) * self._log_settled
        self.step_size, self.settled = math.exp(log_step), math.exp(self._log_settled)


def _travelled(
    kernel: HMC, state: Point, steps: int, *, target: float, dense: bool | None, generator: Generator | None
) -> Adapted:
    """Set scale and length window by window, then the step size alone in the remaining steps."""
    given = kernel.jitter
    for share in WINDOWS:
        jitter = given or (GENTLE if kernel.leapfrog_steps <= 2 * SHORT else JITTER)
        kernel = dataclasses.replace(kernel, jitter=jitter)
        kernel, state = _surveyed(kernel, state, int(share * steps), target=target, dense=dense, generator=generator)
    left = steps - sum(int(share * steps) for share in WINDOWS)
    best = kernel.leapfrog_steps / 2
    length, kernel = best * kernel.step_size, dataclasses.replace(kernel, leapfrog_steps=math.ceil(best))
    kernel, state, accept_prob = _tuned(kernel, state, left, target=target, generator=generator)
    leapfrog_steps = min(max(round(length / kernel.step_size), 1), LONGEST)
    kernel = dataclasses.replace(kernel, leapfrog_steps=leapfrog_steps)
    return Adapted(kernel, state.x, kernel.step_size, leapfrog_steps, kernel.scale, accept_prob)


def _surveyed(
    kernel: HMC, state: Point, steps: int, *, target: float, dense: bool | None, generator: Generator | None
) -> tuple[HMC, Point]:
    """Run a window; return the kernel with a new step, scale and length, and the chains."""
    survey = AdaptationWindow(state, kernel, skip=steps // 2, dense=dense, generator=generator)
    kernel, state, _ = _tuned(kernel, state, steps, target=target, generator=generator, step=survey.step)
    twice = min(2 * survey.length(), LONGEST)
    return dataclasses.replace(kernel, leapfrog_steps=twice, scale=survey.scale()), state


class AdaptationWindow:
    """Statistics of chains over one window: their spread, and the best length of trajectories.

    Args:
        state: The chains.
        kernel: The kernel of their trajectories.
        skip: Steps before the first that counts: the step size is not yet right.
        dense: Whether the scale is to be a matrix, if that is not left to the chains.
        generator: The stream to draw from.
    """

    def __init__(
        self, state: Point, kernel: HMC, *, skip: int, dense: bool | None, generator: Generator | None
    ) -> None:
        self._generator, self._skip, self._alive, self._dense = generator, skip, finite(state), dense
        self._unit = torch.ones_like(state.x[0]) if kernel.scale is None else kernel.scale.to(state.x)
        self._curve = torch.zeros(kernel.leapfrog_steps, dtype=torch.float64, device=state.x.device)
        self._centre = state.x[self._alive].double().mean(0)
        self._n, self._sum = 0, torch.zeros_like(self._centre)
        self._paired = self._centre.ndim == 1 and len(self._centre) <= WIDEST and dense is not False
        self._squares = torch.zeros_like(self._centre.outer(self._centre) if self._paired else self._centre)

    def step(self, kernel: HMC, state: Point) -> tuple[Point, Info]:
        """Take a step, and look at every point of its trajectories."""
        self._skip -= 1
        randomness = kernel.draw(state.x, generator=self._generator)
        for l, (new, v) in enumerate(kernel.trajectory(state, randomness)):
            if self._skip < 0:
                accept_prob = kernel.log_ratio(state, new, v, randomness).clamp(max=0).exp()
                self._curve[l] += self._chees(state.x, new.x, accept_prob)
            end = new, v
        state, info = kernel.decide(state, *end, randomness)
        if self._skip < 0:
            apart = state.x[self._alive].double() - self._centre
            self._n, self._sum = self._n + len(apart), self._sum + apart.sum(0)
            self._squares = self._squares + (apart.mT @ apart if self._paired else apart.square().sum(0))
        return state, info

    def _chees(self, x0: Tensor, x: Tensor, accept_prob: Tensor) -> Tensor:
        """Return the criterion over the living chains, in units of the scale."""
        moved = self._alive & (accept_prob > 0)
        a, x0, x = (each[moved].double() for each in (accept_prob, *(whiten(y, self._unit) for y in (x0, x))))
        if not len(a):
            return a.sum()
        mean = (expand(a, x) * x).sum(0) / a.sum()
        change = (x - mean).flatten(1).square().sum(1) - (x0 - x0.mean(0)).flatten(1).square().sum(1)
        return (a * change.square()).sum() / (4 * self._alive.sum())

    def length(self) -> int:
        """Return the shortest length whose criterion is within 5 % of the best: the curve is flat there."""
        return int((self._curve >= 0.95 * self._curve.max()).double().argmax()) + 1

    def scale(self) -> Tensor:
        """Return the deviations or the covariance factor of the draws; the old scale if they have none."""
        mean, squares = self._sum / self._n, self._squares / self._n
        variance = (squares.diagonal() if self._paired else squares) - mean.square()
        std = variance.clamp(min=0).sqrt()
        std = std.clamp(min=1e-6 * float(std.max()))
        if not bool(((std > 0) & std.isfinite()).all()):
            return self._unit
        correlation = self._correlation(squares, mean, std) if self._paired else None
        root = std if correlation is None else std[:, None] * torch.linalg.cholesky(correlation)
        return root.to(self._unit)

    def _correlation(self, squares: Tensor, mean: Tensor, std: Tensor) -> Tensor | None:
        """Return the correlations of the draws; none if the draws are too few or the correlations too weak to pay."""
        d = len(std)
        if self._dense is None and self._n < DRAWS_PER_DIMENSION * d:
            return None
        correlation = (squares - torch.outer(mean, mean)) / torch.outer(std, std)
        # Keep directions open that the draws happen to miss.
        trust = self._n / (self._n + RIDGE * d)
        correlation = trust * correlation + (1 - trust) * torch.eye(d).to(correlation)
        lengths = torch.linalg.eigvalsh(correlation)
        oblique = bool(lengths[0] > 0) and bool(lengths[-1] > OBLIQUE * lengths[0])
        return correlation if self._dense or oblique else None
