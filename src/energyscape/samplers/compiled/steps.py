"""Steps of chains, several at once: compiled, recorded as CUDA graphs, or as they are.

A kernel's step is its equation. Each small operation is a call of its own, which makes it slow, so several steps are
compiled together, the energy's gradient inside, with all of their noise drawn beforehand from the chain's own stream:
compiled and eager chains see the same numbers and differ by rounding only.
"""

import dataclasses
import functools
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, final

import torch
from torch import Generator, Tensor

from energyscape.samplers.base import Info, Kernel, Point
from energyscape.samplers.compiled.cuda_graph import CudaGraph
from energyscape.samplers.hmc import HMC

Compile = bool | Literal["auto"]
"""Whether to compile: yes, no, or only where it pays for itself."""

GRADIENTS: Final = 10
"""Evaluations of the score in one graph: twice as many are hardly faster, and take twice as long to compile."""

SMALL_BATCH: Final = 256
"""Chains up to which a graph holds twice as many: to ask for a graph takes as long as some of their steps."""

IMAGES: Final = 2
"""Evaluations in a graph of images on a CPU: to ask for it takes no time, and to compile a deep network much."""

CHAINS: Final = 4096
"""Chains that take their steps together, if there are more: what passes between the layers of many is in no cache."""

MIN_COMPILE_SECONDS: Final = 60.0
"""Seconds of eager steps still to come from which on compiling pays: it may take as long."""

MIN_GRAPH_GRADIENTS: Final = 100
"""Evaluations of the score from which on steps are recorded on a GPU, which costs the time of thirty."""


@final
class Steps:
    """The steps of some chains, compiled if requested and possible.

    Args:
        kernel: The transition; its energy is anything that PyTorch can trace.
        steps: Number of steps.
        compile: Whether to compile. ``"auto"`` times the first steps and compiles if a minute of them is left, so the
            last bits of the chains depend on the machine's speed. On a GPU, steps are also recorded as CUDA graphs
            unless it is ``False``; with ``"auto"``, if they evaluate the score a hundred times.
    """

    def __init__(self, kernel: Kernel[Any], *, steps: int, compile: Compile = "auto") -> None:
        self.kernel, self.steps, self.compile = kernel, steps, compile
        self._graphs: dict[object, Callable[..., Any]] = {}

    def __call__(self, state: Any, *, generator: Generator | None = None) -> Iterator[tuple[Any, Info]]:
        """Yield the state and the information of each step."""
        for moved in self.together(state, generator=generator):
            yield from moved

    def end(self, x: Tensor, *, generator: Generator | None = None) -> tuple[Any, Info]:
        """Return the final state, and each chain's sums of its steps' facts; see `run`."""
        total: Info | None = None
        for moved in self.together(self.kernel.init(x), generator=generator):
            state, total = moved[-1][0], added(total, *(info for _, info in moved))
        assert total is not None
        return state, total

    def together(self, state: Any, *, generator: Generator | None = None) -> Iterator[list[tuple[Any, Info]]]:
        """Yield the same as `__call__`, in lists of the steps taken at once."""
        left, blocks, block = self.steps, 0, self._block(state.x)
        while left:
            many = min(left, block)
            noise = [self.kernel.draw(state.x, generator=generator) for _ in range(many)]
            blocks = blocks or self._blocks(state, noise[0])
            begun, left = time.perf_counter(), left - many
            take = self._moves if many < block else self._tried
            moved = _joined([take(*each) for each in _shares(state, noise, blocks)])
            if self.compile == "auto" and (time.perf_counter() - begun) * left / many > MIN_COMPILE_SECONDS:
                self.compile = True
            state = moved[-1][0]
            yield moved

    def _gradients(self, x: Tensor) -> int:
        """Return the number of score evaluations in one graph."""
        return IMAGES if x.ndim > 2 and not x.is_cuda else GRADIENTS * (2 if len(x) <= SMALL_BATCH else 1)

    def _block(self, x: Tensor) -> int:
        """Return the number of steps taken at once, one that divides the total if possible."""
        if self.compile is False:
            return 1
        most = min(self.steps, max(1, self._gradients(x) // getattr(self.kernel, "leapfrog_steps", 1)))
        return next((each for each in range(most, (most - 1) // 2, -1) if self.steps % each == 0), most)

    def _blocks(self, state: Any, noise: tuple[Tensor, ...]) -> int:
        """Return the number of blocks of chains: several, if their state is one row a chain, energies included."""
        many = len(state.x)
        apart = isinstance(state, tuple) and all(
            isinstance(each, Tensor) and each.shape[:1] == (many,) for each in (*state, *noise)
        )
        if many <= CHAINS or not apart or state.x.is_cuda:
            return 1
        try:  # an energy may hold something of each chain, such as its label, and be at a loss with fewer
            alone = self.kernel.energy(state.x[-CHAINS:]).detach()
            same = torch.allclose(alone, state.energy[-CHAINS:], rtol=1e-4, atol=1e-4, equal_nan=True)
        except Exception:  # of whatever kind: that it can be asked of all chains is known, and so they stay together
            return 1
        return -(-many // CHAINS) if same else 1

    def _tried(self, state: Any, noise: list[tuple[Tensor, ...]]) -> list[tuple[Any, Info]]:
        gradients = self.steps * getattr(self.kernel, "leapfrog_steps", 1)
        recorded = self.compile == "auto" and state.x.is_cuda and gradients >= MIN_GRAPH_GRADIENTS
        if self.compile is not True and not recorded:
            return self._moves(state, noise)
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the compiler's own are nothing that a user can mend
                longest = min(GRADIENTS, self._gradients(state.x))
                if self.compile is True and isinstance(self.kernel, HMC) and self.kernel.leapfrog_steps > longest:
                    return [self._travelled(self.kernel, state, *noise, longest=longest)]
                moved: list[tuple[Any, Info]] = self._fast(self.compile, self._moves, state.x)(state, noise)
                return moved
        except Exception as error:  # whatever a compiler may raise
            self.compile = False
            moved = self._moves(state, noise)  # what is no fault of the compiler's comes again, and is raised
            first = (str(error) or type(error).__name__).splitlines()[0]
            warnings.warn(f"the steps could not be compiled and go on uncompiled: {first}", stacklevel=4)
            return moved

    def _travelled(
        self, kernel: HMC, state: Point, randomness: tuple[Tensor, ...], *, longest: int
    ) -> tuple[Point, Info]:
        """Take a step whose trajectory is too long for one graph; each piece starts with the last one's velocity."""
        heat, (z, *rest), left, point = kernel.temperature**0.5, randomness, kernel.leapfrog_steps, state
        while left:
            many = min(left, longest)
            piece = functools.partial(_end, dataclasses.replace(kernel, leapfrog_steps=many))
            point, v = self._fast(("piece", many), piece, point.x)(point, (z, *rest))
            z, left = v / heat, left - many
        return kernel.decide(state, point, v, randomness)

    def _fast(self, key: object, function: Callable[..., Any], x: Tensor) -> Callable[..., Any]:
        """Return a function compiled and recorded, each if requested and possible; one for each key."""
        if key not in self._graphs:
            if self.compile is True:
                from energyscape.samplers.compiled.passes import compiled  # importing the compiler takes seconds

                # Graphs of points are called from C++, where calls are expensive; a GPU's are recorded.
                function = compiled(function, cpp=x.ndim == 2 and not x.is_cuda)
            self._graphs[key] = CudaGraph(function) if x.is_cuda else function
        return self._graphs[key]

    def _moves(self, state: Any, noise: list[tuple[Tensor, ...]]) -> list[tuple[Any, Info]]:
        moved = []
        for each in noise:
            state, info = self.kernel.move(state, each)
            moved.append((state, info))
        return moved


def _shares(state: Any, noise: list[tuple[Tensor, ...]], blocks: int) -> Iterator[tuple[Any, list[tuple[Tensor, ...]]]]:
    """Yield each block's state and its noise of every step."""
    if blocks == 1:
        yield state, noise
        return
    states = zip(*(each.tensor_split(blocks) for each in state), strict=True)
    noises = [zip(*(each.tensor_split(blocks) for each in one), strict=True) for one in noise]
    for one, *rest in zip(states, *noises, strict=True):
        yield type(state)(*one), rest


def _joined(moved: list[list[tuple[Any, Info]]]) -> list[tuple[Any, Info]]:
    """Return the steps of all chains from those of the blocks."""
    if len(moved) == 1:
        return moved[0]
    together = []
    for steps in zip(*moved, strict=True):
        parts = zip(*steps, strict=True)
        state, info = (type(each[0])(*map(torch.cat, zip(*each, strict=True))) for each in parts)
        together.append((state, info))
    return together


def _end(kernel: HMC, state: Point, randomness: tuple[Tensor, ...]) -> tuple[Point, Tensor]:
    *_, end = kernel.trajectory(state, randomness)
    return end


def added(total: Info | None, *infos: Info) -> Info:
    """Return the sum of the steps' facts; truth values become counts."""
    if len(infos) == 1:
        sums = infos[0]._replace(accepted=infos[0].accepted.long(), diverged=infos[0].diverged.long())
    else:
        sums = Info(*(torch.stack(each).sum(0) for each in zip(*infos, strict=True)))
    return sums if total is None else Info(*(a + b for a, b in zip(total, sums, strict=True)))
