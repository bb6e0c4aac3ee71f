r"""Solvers: down the noise levels, from noise to data.

With a denoiser :math:`D(y, \sigma) = E[x \mid y]` of points :math:`y = x + \sigma z`, noise becomes data along

.. math::
    dy = \frac{y - D(y, \sigma)}{\sigma}\, d\sigma
    \qquad \text{or} \qquad
    dy = 2\, \frac{y - D(y, \sigma)}{\sigma}\, d\sigma + \sqrt{2 \sigma}\, dW,

an ordinary and a stochastic differential equation whose laws at every level are those of noised data. Below,
:math:`\sigma` is the level at the start of a step, :math:`\sigma' < \sigma` the one at its end, and
:math:`y`, :math:`D` are there at :math:`\sigma`. The papers' points are often :math:`y / \sqrt{1 + \sigma^2}`; their
steps are here in the coordinates of :math:`y`, where some that look different are the same.

As with kernels, `Solver.draw` takes all randomness of a step from a generator and `Solver.move` is pure tensor code.
Chains are independent unless a solver's documentation says otherwise. One that becomes non-finite stays so and shows
in the result, because there is no rejection.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, NamedTuple, Protocol, final

import torch
from torch import Generator, Tensor

from energyscape.calculus import DenoiseFn
from energyscape.noise import normal_like


class Solution(NamedTuple):
    """The state of chains on their way down.

    Args:
        x: Positions, ``(C, *)``.
        denoised: The last output of the denoiser, ``(C, *)``; the start before the first.
        steps: Steps taken, the index of the current level.
    """

    x: Tensor
    denoised: Tensor
    steps: int


class Solver(ABC):
    """A way down the noise levels, of many chains at once; a frozen value."""

    denoise: DenoiseFn
    sigmas: Sequence[float]
    multistep: ClassVar[bool] = False
    """Whether a step uses earlier ones, so that it cannot follow a jump back to a higher level."""

    @property
    @abstractmethod
    def nfe(self) -> int:
        """Number of evaluations of the denoiser on the whole way."""

    @abstractmethod
    def draw(self, state: Solution, *, generator: Generator | None = None) -> tuple[Tensor, ...]:
        """Return all randomness of one step."""

    @abstractmethod
    def move(self, state: Solution, randomness: tuple[Tensor, ...]) -> Solution:
        """Return the state after one step, from the result of `draw`."""

    @final
    @property
    def steps(self) -> int:
        """Number of steps on the whole way."""
        return len(self.sigmas) - 1

    @final
    def start(self, noise: Tensor) -> Tensor:
        r"""Return points at the highest level, :math:`\sigma_{\max} z`, from standard normal :math:`z`, ``(C, *)``.

        They lack the data's own mean and variance, an error of their size over :math:`\sigma_{\max}`.
        """
        return self.sigmas[0] * noise

    @final
    def init(self, x: Tensor) -> Solution:
        """Return the state of chains at positions ``(C, *)`` of the highest level."""
        return Solution(x, x, 0)

    @final
    def step(self, state: Solution, *, generator: Generator | None = None) -> Solution:
        """Draw and move."""
        return self.move(state, self.draw(state, generator=generator))

    @final
    def interval(self, state: Solution) -> tuple[float, float]:
        r"""Return the levels :math:`\sigma` and :math:`\sigma'` of the next step."""
        return self.sigmas[state.steps], self.sigmas[state.steps + 1]

    @final
    def clean(self, x: Tensor, sigma: float) -> Tensor:
        r"""Return :math:`D(x, \sigma)` of positions ``(C, *)`` without recording a graph."""
        with torch.no_grad():
            clean = self.denoise(x, x.new_full((len(x),), sigma))
        if clean.shape != x.shape:
            raise ValueError(f"a denoiser maps points {tuple(x.shape)} to as many; it returned {tuple(clean.shape)}")
        return clean


class SolverFactory(Protocol):
    """A constructor of solvers from a denoiser and levels."""

    def __call__(self, denoise: DenoiseFn, sigmas: Sequence[float]) -> Solver:
        """Return the solver."""


def solve(solver: Solver, x: Tensor, *, generator: Generator | None = None) -> Iterator[Solution]:
    """Go all the way down; yield the state after every step.

    Args:
        solver: The way.
        x: Positions at the highest level, ``(C, *)``; see `Solver.start`.
        generator: The stream to draw from.

    Examples:
        >>> from energyscape.schedules import Karras
        >>> solver = Euler(lambda y, sigma: y / (1 + sigma**2).unsqueeze(1), Karras()(20))
        >>> *_, last = solve(solver, solver.start(torch.randn(8, 2)))
        >>> last.steps, last.x.shape
        (20, torch.Size([8, 2]))
    """
    state = solver.init(x)
    while state.steps < solver.steps:
        state = solver.step(state, generator=generator)
        yield state


@final
@dataclass(frozen=True)
class Euler(Solver):
    r"""Euler's method for the ordinary differential equation; order 1.

    .. math:: y' = y + (\sigma' - \sigma)\, \frac{y - D}{\sigma} = D + \frac{\sigma'}{\sigma}\, (y - D)

    In these coordinates it is DDIM without noise, and also the first-order DPM-Solver++.

    Args:
        denoise: Maps ``(C, *)`` and levels ``(C,)`` to ``(C, *)``.
        sigmas: Falling levels, the last of them 0.

    Raises:
        ValueError: If the levels do not fall to 0.

    References:
        Denoising diffusion implicit models (Song, Meng & Ermon, 2021), equation 13. https://arxiv.org/abs/2010.02502
    """

    denoise: DenoiseFn
    sigmas: Sequence[float]

    def __post_init__(self) -> None:
        check_levels(self.sigmas)

    @property
    def nfe(self) -> int:
        return self.steps

    def draw(self, state: Solution, *, generator: Generator | None = None) -> tuple[Tensor, ...]:
        return ()

    def move(self, state: Solution, randomness: tuple[Tensor, ...]) -> Solution:
        sigma, below = self.interval(state)
        d = self.clean(state.x, sigma)
        return Solution(d + below / sigma * (state.x - d), d, state.steps + 1)


@final
@dataclass(frozen=True)
class DDIM(Solver):
    r"""Denoising diffusion implicit models, between the ordinary and the stochastic equation; order 1.

    .. math::
        y' = D + \sqrt{\sigma'^2 - \tau^2}\, \frac{y - D}{\sigma} + \tau z, \qquad
        \tau = \eta\, \sigma' \sqrt{1 - \sigma'^2 / \sigma^2}

    :math:`\eta = 0` is `Euler`, :math:`\eta = 1` is `DDPM` with its smaller variance.

    Args:
        denoise: Maps ``(C, *)`` and levels ``(C,)`` to ``(C, *)``.
        sigmas: Falling levels, the last of them 0.
        eta: :math:`\eta` in [0, 1], the share of fresh noise.

    Raises:
        ValueError: If the levels do not fall to 0, or ``eta`` is out of its range.

    References:
        Denoising diffusion implicit models (Song, Meng & Ermon, 2021), equations 12 and 16.
        https://arxiv.org/abs/2010.02502
    """

    denoise: DenoiseFn
    sigmas: Sequence[float]
    _: KW_ONLY
    eta: float = 0.0

    def __post_init__(self) -> None:
        check_levels(self.sigmas)
        check_share(eta=self.eta)

    @property
    def nfe(self) -> int:
        return self.steps

    def draw(self, state: Solution, *, generator: Generator | None = None) -> tuple[Tensor, ...]:
        return (normal_like(state.x, generator=generator),) if self.eta else ()

    def move(self, state: Solution, randomness: tuple[Tensor, ...]) -> Solution:
        sigma, below = self.interval(state)
        d = self.clean(state.x, sigma)
        tau = self.eta * below * math.sqrt(1 - (below / sigma) ** 2)
        x = d + math.sqrt(below**2 - tau**2) / sigma * (state.x - d)
        return Solution(x + sum(tau * z for z in randomness), d, state.steps + 1)


@final
@dataclass(frozen=True)
class DDPM(Solver):
    r"""DDPM's reversed chain: ancestral sampling; order 1.

    .. math::
        y' = D + \frac{\sigma'^2}{\sigma^2} (y - D) + \tau z, \qquad
        \tau^2 = \Bigl( \frac{\sigma'^2}{\sigma^2} \Bigr)^{1 - v} \Bigl( \frac{1 + \sigma'^2}{1 + \sigma^2} \Bigr)^v
        (\sigma^2 - \sigma'^2)

    At :math:`v = 0` the variance is the paper's :math:`\tilde\beta`, right where the data are one point, at
    :math:`v = 1` its :math:`\beta`, right where they are standard normal. The last step adds no noise.

    A step of the paper's chain is one between neighbouring levels of it; a grid of fewer levels is its respacing.

    Args:
        denoise: Maps ``(C, *)`` and levels ``(C,)`` to ``(C, *)``.
        sigmas: Falling levels, the last of them 0.
        upper: :math:`v` in [0, 1], on the way, in logarithm, from the lower to the upper variance.

    Raises:
        ValueError: If the levels do not fall to 0, or ``upper`` is out of its range.

    References:
        Denoising diffusion probabilistic models (Ho, Jain & Abbeel, 2020), algorithm 2, equation 7 and section 3.2.
        https://arxiv.org/abs/2006.11239

        Improved denoising diffusion probabilistic models (Nichol & Dhariwal, 2021), equation 15.
        https://arxiv.org/abs/2102.09672
    """

    denoise: DenoiseFn
    sigmas: Sequence[float]
    _: KW_ONLY
    upper: float = 0.0

    def __post_init__(self) -> None:
        check_levels(self.sigmas)
        check_share(upper=self.upper)

    @property
    def nfe(self) -> int:
        return self.steps

    def draw(self, state: Solution, *, generator: Generator | None = None) -> tuple[Tensor, ...]:
        return (normal_like(state.x, generator=generator),)

    def move(self, state: Solution, randomness: tuple[Tensor, ...]) -> Solution:
        (z,), (sigma, below) = randomness, self.interval(state)
        d = self.clean(state.x, sigma)
        kept = (below / sigma) ** 2
        largest = (1 + below**2) / (1 + sigma**2)
        tau = math.sqrt(kept ** (1 - self.upper) * largest**self.upper * (sigma**2 - below**2)) if below else 0.0
        return Solution(d + kept * (state.x - d) + tau * z, d, state.steps + 1)


def check_levels(sigmas: Sequence[float]) -> None:
    """Raise a clear error unless levels fall to 0."""
    falling = all(high > low for high, low in itertools.pairwise(sigmas))
    if len(sigmas) < 2 or not falling or sigmas[-1] != 0 or not sigmas[0] < math.inf:
        raise ValueError(f"noise levels fall, from a finite one to 0; they were {list(sigmas)}")


def check_share(**settings: float) -> None:
    """Raise a clear error unless every setting is in [0, 1]."""
    for name, value in settings.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is in [0, 1]; it was {value}")
