"""Measure the speed-up of our compiled chains over uncompiled ones, a plain loop, and peers.

The peers are TorchEBM 0.8.9 and blackjax 1.7.1, if installed, with the same weights and the same start. Every row first
checks that all of them reach the same mean energy within five standard errors. Then it times them in turns, several
times, without compilation, and prints medians and ranges of the ratios.

One thread is timed in CPU time, which other processes hardly disturb. Several threads are timed by the wall clock,
because waiting counts as work; this needs an idle machine. So is a GPU. There "recorded" is what ``compile="auto"``
does with short runs, and blackjax is left out.

    python benchmarks/speed.py [--quick] [--threads 2] [--device cuda]
"""

import argparse
import functools
import importlib.util
import itertools
import math
import os
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from energyscape import HMC, MLP, ConvEnergyNet, Langevin, NeuralEnergy
from energyscape.rng import global_seed
from energyscape.samplers import Steps
from energyscape.samplers.compiled import Compile

STEP = 0.01
"""Langevin's."""

LENGTH, LEAPS = 0.1, 10
"""Length and number of the leapfrog steps."""


def plain_langevin(energy: Callable[[Tensor], Tensor], x: Tensor, steps: int) -> Tensor:
    """Run the loop of a tutorial: autograd's gradient, parameters frozen."""
    for _ in range(steps):
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(energy(x).sum(), x)
        x = x - STEP * slope + math.sqrt(2 * STEP) * torch.randn_like(x)
    return x.detach()


def plain_hmc(energy: Callable[[Tensor], Tensor], x: Tensor, steps: int) -> Tensor:
    """Ten leapfrog steps and a Metropolis test, as one would write them."""

    def slope(y: Tensor) -> Tensor:
        y = y.detach().requires_grad_()
        return torch.autograd.grad(energy(y).sum(), y)[0]

    for _ in range(steps):
        v = torch.randn_like(x)
        y, w = x, v - LENGTH / 2 * slope(x)
        for _ in range(LEAPS - 1):
            y = y + LENGTH * w
            w = w - LENGTH * slope(y)
        y = y + LENGTH * w
        w = w - LENGTH / 2 * slope(y)
        with torch.no_grad():
            ratio = energy(x) - energy(y) + (v.square() - w.square()).flatten(1).sum(1) / 2
            keep = torch.rand(len(x), device=x.device).log() < ratio
        x = torch.where(keep.reshape(-1, *[1] * (x.ndim - 1)), y, x)
    return x.detach()


def ours(kernel, x: Tensor, steps: int, *, compile: Compile, rough: bool = False) -> Callable[[], Tensor]:
    """Return a run of some steps, as `energyscape.sample` takes them; rough ones convolve in bfloat16."""
    generator, taken = torch.Generator(x.device).manual_seed(1), Steps(kernel, steps=steps, compile=compile)

    def go() -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=rough):
            for state, _ in taken(kernel.init(x), generator=generator):
                end = state.x
        return end

    return go


def stacked() -> nn.Module:
    """Return a convolutional energy of 28×28 pixels as one would write it, weights in PyTorch's own order."""
    widths = 16, 32, 64, 128
    layers = [nn.Conv2d(1, widths[0], 3, padding=1), nn.SiLU()]
    for inside, outside in itertools.pairwise(widths):
        layers += [nn.Conv2d(inside, outside, 4, stride=2, padding=1), nn.SiLU()]
    with global_seed(0):
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(9 * widths[-1], 1), nn.Flatten(0))


def seconds(go: Callable[[], Tensor]) -> float:
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_initialized()
    clock = time.process_time if alone else time.perf_counter
    waited()
    begun = clock()
    go()
    waited()
    return clock() - begun


def waited() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def agree(energy: Callable[[Tensor], Tensor], *ends: Tensor) -> None:
    """Raise unless the mean energies are alike within five standard errors."""
    with torch.no_grad():
        energies = [energy(x) for x in ends]
    means, errors = [float(e.mean()) for e in energies], [float(e.std()) / math.sqrt(len(e)) for e in energies]
    if max(means) - min(means) > 5 * math.hypot(*errors):
        raise SystemExit(f"the chains do not agree: mean energies {means} ± {errors}")


def torchebm_ways(energy: Callable[[Tensor], Tensor], x: Tensor, steps: int) -> dict[str, Callable[[], Tensor]]:
    """Return TorchEBM's samplers of an energy, as its documentation makes them."""
    from torchebm.core import BaseModel
    from torchebm.samplers import HamiltonianMonteCarlo, LangevinDynamics

    class Wrapped(BaseModel):
        def forward(self, x: Tensor) -> Tensor:
            return energy(x)

    langevin = LangevinDynamics(model=Wrapped(device=x.device), step_size=STEP, noise_scale=1.0, device=x.device)
    hmc = HamiltonianMonteCarlo(
        model=Wrapped(device=x.device), step_size=LENGTH, n_leapfrog_steps=LEAPS, device=x.device
    )
    return {
        "Langevin": lambda: langevin.sample(x=x.clone(), n_steps=steps),
        "HMC": lambda: hmc.sample(x=x.clone(), n_steps=steps),
    }


def blackjax_ways(energy: NeuralEnergy, x: Tensor, steps: int) -> dict[str, Callable[[], Tensor]]:
    """Return blackjax's jitted samplers of the same perceptron, its weights handed over."""
    import blackjax
    import jax
    import jax.numpy as jnp

    weights = [jnp.asarray(each.detach().numpy()) for each in energy.parameters()]
    *hidden, last = weights

    def log_density(y):
        h = y
        for matrix, bias in zip(hidden[::2], hidden[1::2], strict=True):
            h = jax.nn.silu(h @ matrix.T + bias)
        return -(energy.scale * (h @ last.T)[..., 0] + (y**2).sum(-1) / (2 * energy.reference_std**2))

    begin, expected = jnp.asarray(x.numpy()), energy(x[:8]).detach()
    torch.testing.assert_close(torch.tensor(-log_density(begin[:8])), expected, atol=1e-4, rtol=1e-4)
    sgld = blackjax.sgld(lambda y, _: jax.grad(lambda z: log_density(z).sum())(y))
    hmc = blackjax.hmc(log_density, step_size=LENGTH, inverse_mass_matrix=jnp.ones(2), num_integration_steps=LEAPS)

    @jax.jit
    def langevin(key):
        return jax.lax.scan(lambda y, k: (sgld.step(k, y, None, STEP), None), begin, jax.random.split(key, steps))[0]

    @jax.jit
    def hamiltonian(key):
        def step(states, k):
            return jax.vmap(hmc.step)(jax.random.split(k, len(begin)), states)[0], None

        return jax.lax.scan(step, jax.vmap(hmc.init)(begin), jax.random.split(key, steps))[0].position

    key = jax.random.key(0)
    return {
        "Langevin": lambda: torch.tensor(langevin(key).block_until_ready()),
        "HMC": lambda: torch.tensor(hamiltonian(key).block_until_ready()),
    }


PEERS = {"torchebm": torchebm_ways, "blackjax": blackjax_ways}


def row(name: str, kernel, plain, x: Tensor, *, steps: int, repeats: int) -> None:
    """Print one line of the table."""
    energy = kernel.energy.requires_grad_(False)
    ways = {
        "compiled": ours(kernel, x, steps, compile=True),
        "recorded": ours(kernel, x, steps, compile="auto"),
        "eager": ours(kernel, x, steps, compile=False),
        "plain": functools.partial(plain, energy, x, steps),
        "eager in bfloat16": ours(kernel, x, steps, compile=False, rough=True),
        "compiled in bfloat16": ours(kernel, x, steps, compile=True, rough=True),
    }
    if x.ndim == 2:
        del ways["eager in bfloat16"], ways["compiled in bfloat16"]
    for peer, made in PEERS.items():
        # blackjax needs the network written in JAX, which is done for the perceptron on a processor only.
        if importlib.util.find_spec(peer) and (peer != "blackjax" or (x.ndim == 2 and not x.is_cuda)):
            ways[peer] = made(energy, x, steps)[type(kernel).__name__]
    if not x.is_cuda:
        del ways["recorded"]
    agree(energy, *(go() for go in ways.values()))
    for way, go in ways.items():
        if way.startswith("compiled"):
            go()  # warm up what the check restarted
    times = [{way: seconds(go) for way, go in ways.items()} for _ in range(repeats)]
    cells = [f"{statistics.median(each['compiled'] for each in times):.3f}"]
    for way in ("recorded", "eager", "eager in bfloat16", "compiled in bfloat16", "plain", *PEERS):
        ratios = [each[way] / each["compiled"] for each in times if way in each]
        cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})" if ratios else "")
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a fifth of the steps")
    parser.add_argument("--threads", type=int, default=1, help="how many; more than one are timed by the wall clock")
    parser.add_argument("--device", default="cpu", help="where the chains are: cpu or cuda")
    args = parser.parse_args()
    quick, device = args.quick, torch.device(args.device)
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= args.threads <= len(cores):
        parser.error(f"threads are 1 to {len(cores)} on this machine; they were {args.threads}")
    if device.type == "cpu":
        os.sched_setaffinity(0, cores[-args.threads :])  # which JAX counts its threads by
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    with global_seed(0):
        flat = NeuralEnergy(MLP(2, width=128, depth=2), reference_std=3.0).to(device)
        image = NeuralEnergy(ConvEnergyNet((1, 28, 28), width=16), reference_std=0.5).to(device)
    many, few = (100, 3) if quick else (500, 5)
    some = many if device.type == "cuda" else 10 if quick else 20
    rough = "eager in bfloat16, × | compiled in bfloat16, ×"
    others = f"recorded, × | eager, × | {rough} | plain loop, × | TorchEBM, × | blackjax, ×"
    print(f"| chains | compiled, s | against {others} |\n|---|---|---|---|---|---|---|---|---|")
    for chains in (16, 4096) if device.type == "cpu" else (16, 1024, 65_536):
        x = torch.randn(chains, 2).to(device)
        langevin, hmc = Langevin(flat, step_size=STEP), HMC(flat, step_size=LENGTH, leapfrog_steps=LEAPS)
        row(f"Langevin, MLP 2-128-128-1, {chains}", langevin, plain_langevin, x, steps=many, repeats=few)
        row(f"HMC of 10 steps, same energy, {chains}", hmc, plain_hmc, x, steps=many // 10, repeats=few)
    x, langevin = (torch.rand(128, 1, 28, 28) * 2 - 1).to(device), Langevin(image, step_size=STEP)
    row("Langevin, convolutional, 28×28, 128", langevin, plain_langevin, x, steps=some, repeats=few)
    written = Langevin(stacked().to(device), step_size=STEP)
    row("the same as one would write it", written, plain_langevin, x, steps=some, repeats=few)


if __name__ == "__main__":
    main()
