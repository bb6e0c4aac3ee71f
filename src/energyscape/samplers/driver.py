"""The loops that drive kernels."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Generator, Tensor

from energyscape.samplers.base import Info, Kernel
from energyscape.samplers.compiled import Compile, Steps, added


class Chain(NamedTuple):
    """The kept positions and statistics of a simulation.

    Args:
        x: Kept positions, ``(K, C, *)``.
        energy: Energies there, ``(K, C)``.
        energy_error: Energy error of the steps that led there, ``(K, C)``; see `Info`.
        hamiltonian: Hamiltonian at the start of those steps, ``(K, C)``; see `Info`.
        accept_prob: Mean acceptance probability of each chain over all steps, ``(C,)``.
        diverged: Number of non-finite proposals of each chain over all steps, ``(C,)``.
        drift: Mean RMS of the deterministic part of a step, ``(C,)``.
        noise: Mean RMS of the random part of a step, ``(C,)``.
        state: The final state of the kernel.
    """

    x: Tensor
    energy: Tensor
    energy_error: Tensor
    hamiltonian: Tensor
    accept_prob: Tensor
    diverged: Tensor
    drift: Tensor
    noise: Tensor
    state: Any


def simulate(kernel: Kernel[Any], x: Tensor, *, generator: Generator | None = None) -> Iterator[tuple[Any, Info]]:
    """Run chains without end; yield the state and the info of every step.

    Args:
        kernel: The transition.
        x: Starting positions, ``(C, *)``.
        generator: The stream to draw from.
    """
    state = kernel.init(x)
    while True:
        state, info = kernel.step(state, generator=generator)
        yield state, info


def run(
    kernel: Kernel[Any],
    x: Tensor,
    *,
    steps: int,
    compile: Compile = False,
    generator: Generator | None = None,
) -> tuple[Any, Info]:
    """Run chains and keep only the final state.

    Args:
        kernel: The transition.
        x: Starting positions, ``(C, *)``.
        steps: Number of steps, at least one.
        compile: Whether to compile the steps; see `Steps`.
        generator: The stream to draw from.

    Returns:
        The last state, and each chain's sums of its steps' facts.

    Raises:
        ValueError: If ``steps`` is not positive.
    """
    if steps < 1:
        raise ValueError(f"steps is at least 1; it was {steps}")
    return Steps(kernel, steps=steps, compile=compile).end(x, generator=generator)


def sample(
    kernel: Kernel[Any],
    x: Tensor,
    *,
    steps: int,
    burn_in: int = 0,
    thin: int = 1,
    compile: Compile = False,
    generator: Generator | None = None,
) -> Chain:
    """Run chains and keep every ``thin``-th position after ``burn_in`` steps.

    Args:
        kernel: The transition.
        x: Starting positions, ``(C, *)``.
        steps: Steps in all, burn-in included.
        burn_in: Steps that are not kept.
        thin: Keep one position in so many.
        compile: Whether to compile the steps; see `Steps`.
        generator: The stream to draw from.

    Returns:
        The kept positions, each chain's averages over all steps, and the last state.

    Raises:
        ValueError: If nothing would be kept.

    Examples:
        >>> import torch
        >>> from energyscape.samplers import Langevin
        >>> kernel = Langevin(lambda x: (x**2).sum(1) / 2, step_size=0.1)
        >>> sample(kernel, torch.zeros(8, 2), steps=20, burn_in=10).x.shape
        torch.Size([10, 8, 2])
    """
    if burn_in < 0 or thin < 1 or steps < burn_in + thin:
        raise ValueError(f"steps ≥ burn_in + thin, thin ≥ 1 and burn_in ≥ 0; they were {steps}, {burn_in} and {thin}")
    kept = range(burn_in + thin, steps + 1, thin)
    xs = x.new_empty(len(kept), *x.shape)
    energy, error, total = (x.new_empty(len(kept), len(x)) for _ in range(3))
    sums: Info | None = None
    taken = Steps(kernel, steps=steps, compile=compile).together(kernel.init(x), generator=generator)
    before = 0
    for moved in taken:
        end, sums = moved[-1][0], added(sums, *(info for _, info in moved))
        for step, (state, info) in enumerate(moved, before + 1):
            if step in kept:
                k = kept.index(step)
                xs[k], energy[k], error[k], total[k] = state.x, state.energy, info.energy_error, info.hamiltonian
        before += len(moved)
    assert sums is not None
    means = sums.accept_prob / steps, sums.diverged, sums.drift / steps, sums.noise / steps
    return Chain(xs, energy, error, total, *means, state=end)
