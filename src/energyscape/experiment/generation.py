"""What one does with a trained energy: generate, restore what noise has spoiled, complete what is missing."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from energyscape.calculus import Box
from energyscape.data import Distribution, Images
from energyscape.errors import UserError
from energyscape.evaluation import inpaint, restore
from energyscape.experiment.assembly import Experiment, seeded
from energyscape.experiment.precision import autocast
from energyscape.experiment.solving import BATCH, Generated, denoised, joined, repainted, solving
from energyscape.memory import require_memory
from energyscape.noise import tweedie
from energyscape.objectives import DataInit, NoiseInit, ReplayBuffer
from energyscape.samplers import Kernel, Steps
from energyscape.samplers.base import zero_energy

StartName = Literal["noise", "data", "buffer"]

GRID = 400
"""Points along each side of a landscape."""


def generate(
    experiment: Experiment,
    n: int,
    *,
    start: StartName = "noise",
    steps: int | None = None,
    label: int | Tensor | None = None,
    shown: int = 8,
    frames: int = 9,
    seed: int | None = None,
) -> Generated:
    """Draws samples with the recipe's sampler.

    Args:
        experiment: With what was learned.
        n: How many samples.
        start: Where chains begin: the recipe's noise, the training data, or the replay buffer.
        steps: Transitions; the recipe's when left out.
        label: Class of all samples, or of each, ``(n,)``; for denoisers that know classes.
        shown: Chains whose path is kept.
        frames: Points of the path, spread evenly in the logarithm of the step.
        seed: Of the chains; the run's when left out.

    Raises:
        UserError: If ``n`` or ``steps`` is not positive, or the run has no buffer.
    """
    return joined(
        generating(experiment, n, start=start, steps=steps, label=label, shown=shown, frames=frames, seed=seed)
    )


def generating(
    experiment: Experiment,
    n: int,
    *,
    start: StartName = "noise",
    steps: int | None = None,
    label: int | Tensor | None = None,
    shown: int = 8,
    frames: int = 9,
    seed: int | None = None,
) -> Iterator[Generated]:
    """Draws samples with the recipe's sampler; yields them batch by batch, so that any number fits into memory."""
    steps = experiment.sampling.steps if steps is None else steps
    if n < 1 or steps < 1:
        raise UserError(f"the numbers of samples and of steps are at least 1; they were {n} and {steps}")
    require_memory(16 * n * math.prod(experiment.shape), f"{n:,} samples")
    if experiment.has_chains:
        if label is not None:
            raise UserError("this run's energy knows no classes: leave --label out")
        return _chains(experiment, n, start=start, steps=steps, shown=shown, frames=frames, seed=seed)
    if start != "noise":
        raise UserError(f"a solver begins at noise, not at {start}: leave --start out")
    return solving(experiment, n, steps=steps, label=label, shown=shown, frames=frames, seed=seed)


def _chains(
    experiment: Experiment, n: int, *, start: StartName, steps: int, shown: int, frames: int, seed: int | None
) -> Iterator[Generated]:
    generator = seeded(experiment, seed, f"generate {start}")
    starts, kernel = _starts(experiment, start, n, generator=generator, seed=seed), _kernel(experiment, start, steps)
    full = min(n, BATCH)
    compiled, plain = (Steps(kernel, steps=steps, compile=each) for each in (experiment.chains.compile, False))
    at = sorted({0, *(round(steps ** (k / max(frames - 2, 1))) for k in range(frames - 1)), steps})
    for number, x in enumerate(starts):
        shown = shown if number == 0 else 0
        path, diverged = [x[:shown]], torch.zeros((), dtype=torch.int64, device=x.device)
        taken = compiled if len(x) == full else plain  # what is left over is not worth a graph of its own
        with autocast(experiment.chains.precision, x.device):
            for step, (state, info) in enumerate(taken(kernel.init(x), generator=generator), 1):
                diverged += info.diverged.sum()
                if shown and step in at and step < steps:
                    path.append(state.x[:shown])
        path += [_finished(experiment, state.x[:shown])] if shown else []
        yield Generated(_finished(experiment, state.x).cpu(), torch.stack(path).cpu(), at, int(diverged))


def _kernel(experiment: Experiment, start: StartName, steps: int) -> Kernel[Any]:
    """Returns the transition; chains that begin at the lowest noise level have none to descend."""
    sampling = experiment.chains
    if sampling.descent is not None and start == "noise":
        return sampling.descend(experiment.energy, steps)
    return sampling.kernel(experiment.energy)


def _finished(experiment: Experiment, x: Tensor) -> Tensor:
    """Takes the noise away that the model has learned along with the data, and keeps images on their scale."""
    level = experiment.level
    if experiment.chains.tweedie and level > 0:
        x = tweedie(experiment.energy, x, level, temperature=experiment.objective.temperature)
    return x.clamp(-1, 1) if len(experiment.shape) == 3 else x


def _starts(
    experiment: Experiment, start: StartName, n: int, *, generator: torch.Generator, seed: int | None
) -> Iterator[Tensor]:
    """Yields the points that chains start at, batch by batch."""
    device, sizes = experiment.training.torch_device, [min(BATCH, n - first) for first in range(0, n, BATCH)]
    if start == "data" or (start == "noise" and isinstance(experiment.chains.start, DataInit)):
        drawing = drawing_data(experiment.source, sizes, generator=seeded(experiment, seed, "data", device="cpu"))
        yield from (x.to(device) for x in drawing)
    elif start == "noise":
        like = torch.zeros(1, *experiment.shape, device=device)
        for many in sizes:
            yield experiment.chains.start.draw(many, like=like, generator=generator)[0]
    else:
        yield from _in_buffer(experiment, n, seed).split(BATCH)


def _in_buffer(experiment: Experiment, n: int, seed: int | None) -> Tensor:
    """Returns some of the replay buffer's chains."""
    device = experiment.training.torch_device
    for module in experiment.objective.modules():
        if isinstance(module, ReplayBuffer) and module.chains.numel():
            if n > module.capacity:
                raise UserError(f"the replay buffer keeps {module.capacity} chains; {n} were asked for: lower --n")
            order = torch.randperm(module.capacity, generator=seeded(experiment, seed, "slots", device="cpu"))
            return module.positions(order[:n].to(device), generator=seeded(experiment, seed, "within bins"))
    raise UserError("this run keeps no replay buffer: start from noise or data")


def draw_data(source: Distribution | Images, n: int, *, generator: torch.Generator) -> Tensor:
    """Returns data drawn at random, without replacement as far as there are any."""
    return next(drawing_data(source, [n], generator=generator))


def drawing_data(
    source: Distribution | Images, sizes: Sequence[int], *, generator: torch.Generator
) -> Iterator[Tensor]:
    """Yields data drawn at random, without replacement as far as there are any."""
    if isinstance(source, Distribution):
        yield from (source.sample(many, generator=generator) for many in sizes)
        return
    rounds = -(-sum(sizes) // len(source))
    index = torch.cat([torch.randperm(len(source), generator=generator) for _ in range(rounds)])[: sum(sizes)]
    yield from (source.floats(part) for part in index.split(list(sizes)))


def energies_on_grid(experiment: Experiment, box: Box, *, side: int = GRID) -> Tensor:
    """Returns the energy over temperature on a regular grid, ``(side, side)``; the first index is the first coordinate.

    Args:
        experiment: With what was learned.
        box: The rectangle.
        side: Points along each side.
    """
    points = torch.cartesian_prod(*(torch.linspace(low, high, side) for low, high in box))
    points = points.to(experiment.training.torch_device)
    with torch.no_grad():
        energy = torch.cat([experiment.energy(part) for part in points.split(20_000)]).cpu()
    return ((energy - energy.min()) / experiment.objective.temperature).reshape(side, side)


def restored(experiment: Experiment, y: Tensor, *, sigma: float, steps: int = 300, seed: int | None = None) -> Tensor:
    """Returns the posterior mean of clean points, given noisy ones; images are kept on their scale.

    Args:
        experiment: With what was learned.
        y: Noisy points, ``(n, *)``.
        sigma: Standard deviation of their noise, in units of ``y``.
        steps: Steps of the posterior's chains.
        seed: Of the chains; the run's when left out.

    Raises:
        UserError: If ``sigma`` or ``steps`` is not positive.
    """
    if not sigma > 0 or steps < 2:
        raise UserError(f"sigma is positive and steps at least 2; they were {sigma} and {steps}")
    objective, device = experiment.objective, experiment.training.torch_device
    if not experiment.has_chains:
        return denoised(experiment, y, sigma=sigma)
    x = restore(
        experiment.energy,
        y.to(device),
        sigma=sigma,
        level=experiment.level,
        temperature=objective.temperature,
        steps=steps,
        burn_in=steps // 4,
        bounds=experiment.chains.kernel(experiment.energy).bounds,
        generator=seeded(experiment, seed, "restore"),
    ).cpu()
    return x.clamp(-1, 1) if len(experiment.shape) == 3 else x


def completed(
    experiment: Experiment,
    y: Tensor,
    missing: Tensor,
    *,
    n: int = 8,
    steps: int | None = None,
    seed: int | None = None,
) -> Tensor:
    """Returns completions of images with missing pixels, drawn with the recipe's sampler; they stay on their scale.

    Args:
        experiment: With what was learned.
        y: Images without noise, ``(B, *)``.
        missing: Which pixels are missing, truth values of the shape of ``y`` or one that broadcasts to it.
        n: Draws for each image.
        steps: Steps of each chain; those of the recipe's sampler when left out.
        seed: Of the chains; the run's when left out.

    Returns:
        ``(n, B, *)``.

    Raises:
        UserError: If ``n`` or ``steps`` is too small, or no pixel is missing.
    """
    steps = experiment.sampling.steps if steps is None else steps
    if n < 1 or steps < 2:
        raise UserError(f"at least one draw and two steps; they were {n} and {steps}")
    if not missing.any():
        raise UserError("no pixel is missing: nothing is there to complete")
    require_memory(16 * n * y.numel(), f"{n:,} completions")
    objective, device = experiment.objective, experiment.training.torch_device
    copies = y.to(device).repeat(n, *[1] * (y.ndim - 1))
    generator = seeded(experiment, seed, "inpaint")
    if not experiment.has_chains:
        gaps = missing.broadcast_to(y.shape).repeat(n, *[1] * (y.ndim - 1))
        x = repainted(experiment, copies, gaps, steps=steps, generator=generator)
        return x.reshape(n, *y.shape)
    kernel, (start, _) = experiment.chains.kernel, NoiseInit().draw(len(copies), like=copies, generator=generator)
    x = inpaint(
        experiment.energy,
        copies,
        missing.to(device).broadcast_to(y.shape).repeat(n, *[1] * (y.ndim - 1)),
        level=experiment.level,
        temperature=kernel(zero_energy).temperature or objective.temperature,  # that of the sampler's law
        steps=steps,
        kernel=kernel,
        start=start,
        generator=generator,
    ).cpu()
    x = x.clamp(-1, 1) if len(experiment.shape) == 3 else x
    return x.reshape(n, *y.shape)
