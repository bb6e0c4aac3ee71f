"""How fast chains are, as ratios: compiled against plain steps, and against a loop as one would write it.

Every row first checks that eager and compiled chains came to the same kind of place (mean energy within five standard
errors), then times all three in turns, several times, in processor time; it prints the median of the ratios and their
range.

    python benchmarks/speed.py [--quick]
"""

import argparse
import functools
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from energyscape import HMC, MLP, ConvEnergyNet, Langevin, NeuralEnergy
from energyscape.rng import global_seed
from energyscape.samplers import Steps

STEP = 0.01


def plain_langevin(energy: Callable[[Tensor], Tensor], x: Tensor, steps: int) -> Tensor:
    """The loop of a tutorial: autograd's gradient, parameters frozen."""
    for _ in range(steps):
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(energy(x).sum(), x)
        x = x - STEP * slope + math.sqrt(2 * STEP) * torch.randn_like(x)
    return x.detach()


def plain_hmc(energy: Callable[[Tensor], Tensor], x: Tensor, steps: int, *, length: float = 0.1) -> Tensor:
    """Ten leapfrog steps and a Metropolis test, as one would write them."""

    def slope(y: Tensor) -> Tensor:
        y = y.detach().requires_grad_()
        return torch.autograd.grad(energy(y).sum(), y)[0]

    for _ in range(steps):
        v = torch.randn_like(x)
        y, w = x, v - length / 2 * slope(x)
        for _ in range(9):
            y = y + length * w
            w = w - length * slope(y)
        y = y + length * w
        w = w - length / 2 * slope(y)
        with torch.no_grad():
            ratio = energy(x) - energy(y) + (v.square() - w.square()).flatten(1).sum(1) / 2
            keep = torch.rand(len(x)).log() < ratio
        x = torch.where(keep.reshape(-1, *[1] * (x.ndim - 1)), y, x)
    return x.detach()


def ours(kernel, x: Tensor, steps: int, *, compile: bool) -> Callable[[], Tensor]:
    """Returns a run of some steps whose compilation is already done."""
    generator, state = torch.Generator().manual_seed(0), kernel.init(x)
    taken = Steps(kernel, steps=10**9, compile=compile)(state, generator=generator)
    next(taken)

    def go() -> Tensor:
        for _ in range(steps):
            state, _ = next(taken)
        return state.x

    return go


def seconds(go: Callable[[], Tensor]) -> float:
    begun = time.process_time()
    go()
    return time.process_time() - begun


def agree(energy: Callable[[Tensor], Tensor], *ends: Tensor) -> None:
    """Raises unless the mean energies are alike within five standard errors."""
    with torch.no_grad():
        told = [energy(x) for x in ends]
    means, errors = [float(e.mean()) for e in told], [float(e.std()) / math.sqrt(len(e)) for e in told]
    if max(means) - min(means) > 5 * math.hypot(*errors):
        raise SystemExit(f"the chains do not agree: mean energies {means} ± {errors}")


def row(name: str, kernel, plain, x: Tensor, *, steps: int, repeats: int) -> None:
    """Prints one line of the table."""
    energy = kernel.energy.requires_grad_(False)
    ways = {
        "plain loop": functools.partial(plain, energy, x, steps),
        "eager": ours(kernel, x, steps, compile=False),
        "compiled": ours(kernel, x, steps, compile=True),
    }
    for go in ways.values():
        go()
    for _ in range(3):  # towards one law, from one start
        ends = [go() for go in ways.values()]
    agree(energy, *(ends[1:]))
    times = [{way: seconds(go) for way, go in ways.items()} for _ in range(repeats)]
    cells = []
    for way in ("eager", "compiled"):
        ratios = [each["plain loop"] / each[way] for each in times]
        cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})")
    print(
        f"| {name} | {statistics.median(each['plain loop'] for each in times):.2f} | {' | '.join(cells)} |", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a fifth of the steps")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with global_seed(0):
        flat = NeuralEnergy(MLP(2, width=128, depth=2), reference_std=3.0)
        image = NeuralEnergy(ConvEnergyNet((1, 28, 28), width=16), reference_std=0.5)
    many, few = (100, 3) if quick else (500, 5)
    print("| chains | plain loop, s | eager, × | compiled, × |\n|---|---|---|---|")
    for chains in (16, 4096):
        x = torch.randn(chains, 2)
        langevin, hmc = Langevin(flat, step_size=STEP), HMC(flat, step_size=0.1, leapfrog_steps=10)
        row(f"Langevin, MLP 2-128-128-1, {chains}", langevin, plain_langevin, x, steps=many, repeats=few)
        row(f"HMC of 10 steps, same energy, {chains}", hmc, plain_hmc, x, steps=many // 10, repeats=few)
    x, langevin = torch.rand(128, 1, 28, 28) * 2 - 1, Langevin(image, step_size=STEP)
    row("Langevin, convolutional, 28×28, 128", langevin, plain_langevin, x, steps=10 if quick else 20, repeats=few)


if __name__ == "__main__":
    main()
