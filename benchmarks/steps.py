"""Measure the speed-up of training steps and descents over the same written plainly, and over diffusers.

Training steps run on the networks of our MNIST recipes, with noise in place of digits. Ours is a step of `fit`,
averages, guards and facts included. "Plain" is the loop of a tutorial on the same network, in float32, with PyTorch's
Adam and without averages and guards. The peer of U-Nets is diffusers' `UNet2DModel` with the same number of parameters
in the plain loop. The peer of descents is diffusers' DPM-Solver++ on the same network from the same noise; the results
must agree to 1e-4 before anything is timed. The clock is CPU time on one thread, in turns; the table shows medians and
ranges of the ratios.

    python benchmarks/steps.py [--quick]
"""

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Callable

import torch
from diffusers import DPMSolverMultistepScheduler, UNet2DModel
from torch import Tensor, nn

from energyscape import DPMSolver, fit
from energyscape.exchange.diffusers import DiffusersUNet
from energyscape.models import Epsilon, NetworkDenoiser
from energyscape.recipe import Experiment, Recipe
from energyscape.rng import global_seed
from energyscape.samplers import solve
from energyscape.schedules import LinearBeta
from energyscape.training.precision import autocast_dtype

BATCH, SHAPE = 64, (1, 28, 28)


def ours(recipe: str, **changes: str) -> Callable[[], object]:
    """Return a step of a recipe's training, on noise."""
    made = Experiment(Recipe.named(recipe, changes), shape=SHAPE)
    learned = [*made.model.parameters(), *made.objective.parameters()]
    run = fit(
        made.model,
        made.objective,
        itertools.repeat(batch()),
        torch.optim.Adam(learned, lr=1e-4, fused=True),
        clip=made.training.clip,
        average=made.average,
        autocast=autocast_dtype(made.training.precision, made.training.torch_device),
    )
    return lambda: next(run)


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(BATCH, *SHAPE, generator=generator) * 2 - 1, torch.arange(BATCH) % 10


def plain(loss: Callable[[Tensor], Tensor], network: nn.Module) -> Callable[[], object]:
    """Return a step as a tutorial writes it."""
    optimiser, (x, _) = torch.optim.Adam(network.parameters(), lr=1e-4), batch()

    def step() -> None:
        optimiser.zero_grad()
        loss(x).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()

    return step


def contrastive(energy: nn.Module, *, steps: int) -> Callable[[Tensor], Tensor]:
    """Persistent contrastive divergence with a list of old samples."""
    memory = torch.rand(2048, *SHAPE) * 2 - 1

    def loss(x: Tensor) -> Tensor:
        chosen = torch.randint(len(memory), (len(x),))
        y = memory[chosen]
        for _ in range(steps):
            y = y.detach().requires_grad_()
            (slope,) = torch.autograd.grad(energy(y).sum(), y)
            y = y - 0.0225 * slope.clamp(-27, 27) + math.sqrt(2 * 0.0225) * torch.randn_like(y)
        memory[chosen] = y = y.detach()
        below, above = energy(x + 0.3 * torch.randn_like(x)), energy(y)
        return below.mean() - above.mean() + 2.5e-5 * (below.mean() + above.mean()).square()

    return loss


def edm(denoise: Callable[[Tensor, Tensor], Tensor], device: str = "cpu") -> Callable[[Tensor], Tensor]:
    """EDM's loss of the raw network, preconditioned by hand."""

    def loss(x: Tensor) -> Tensor:
        sigma = (torch.randn(len(x), device=device) * 1.3 - 0.6).exp().reshape(-1, 1, 1, 1)
        total = (sigma**2 + 0.25).sqrt()
        y = x + sigma * torch.randn_like(x)
        d = 0.25 / total**2 * y + sigma * 0.5 / total * denoise(y / total, sigma.flatten().log() / 4)
        return (((sigma**2 + 0.25) / (sigma * 0.5) ** 2) * (d - x).square()).mean()

    return loss


def ncsn(denoise: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Denoising score matching over a geometric ladder, weighted by the variance."""
    ladder = torch.logspace(math.log10(0.05), math.log10(20.0), 40)

    def loss(x: Tensor) -> Tensor:
        sigma = ladder[torch.randint(40, (len(x),))]
        column = sigma.reshape(-1, 1, 1, 1)
        z = torch.randn_like(x)
        score = denoise((x + column * z) / (column**2 + 0.25).sqrt(), sigma.log() / 4) / column
        return (column * score + z).square().mean()

    return loss


def peer_unet(parameters: int) -> UNet2DModel:
    """Return diffusers' U-Net of three levels whose number of parameters is nearest to another's."""

    def made(width: int) -> UNet2DModel:
        return UNet2DModel(
            sample_size=28,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(width, 2 * width, 2 * width),
            down_block_types=("DownBlock2D",) * 3,
            up_block_types=("UpBlock2D",) * 3,
            norm_num_groups=8,
            add_attention=False,
        )

    return min((made(width) for width in range(16, 72, 8)), key=lambda each: abs(each.num_parameters() - parameters))


def descents() -> tuple[Callable[[], Tensor], Callable[[], Tensor], Callable[[], Tensor]]:
    """Return DPM-Solver++ in 20 steps for 64 images: ours, ours in bfloat16, and diffusers'."""
    network = DiffusersUNet(peer_unet(700_000).eval())
    denoiser = NetworkDenoiser(network, Epsilon())
    noise = torch.randn(64, *SHAPE, generator=torch.Generator().manual_seed(1))
    sigmas, scheduler = LinearBeta()(20), DPMSolverMultistepScheduler(timestep_spacing="trailing")

    def mine() -> Tensor:
        *_, last = solve(DPMSolver(denoiser, sigmas), sigmas[0] * noise)
        return last.x

    def rough() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return mine()

    def theirs() -> Tensor:
        scheduler.set_timesteps(20)
        x = noise * (sigmas[0] / math.sqrt(1 + sigmas[0] ** 2))
        for t in scheduler.timesteps:
            x = scheduler.step(network.unet(x, t).sample, t, x).prev_sample
        return x

    return tuple(torch.no_grad()(each) for each in (mine, rough, theirs))


def row(name: str, ways: dict[str, Callable[[], object]], *, repeats: int) -> None:
    """Print one line: the first way's seconds, and how many times as long the others take."""
    first = next(iter(ways))
    for go in ways.values():
        go()
    times = [{way: seconds(go) for way, go in ways.items()} for _ in range(repeats)]
    cells = [f"{statistics.median(each[first] for each in times) * 1e3:.0f}"]
    for way in list(ways)[1:]:
        ratios = [each[way] / each[first] for each in times]
        cells.append(f"{way} {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})")
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def seconds(go: Callable[[], object]) -> float:
    begun = time.process_time()
    go()
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    repeats = 3 if parser.parse_args().quick else 9
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| step | ours, ms | others: times as long | |\n|---|---|---|---|")
    for steps in (3, 20):
        energy = Experiment(Recipe.named("mnist-pcd"), shape=SHAPE).model
        changes = {"objective.steps": str(steps)}
        ways = {
            "ours": ours("mnist-pcd", **changes),
            "chains compiled": ours("mnist-pcd", **changes, **{"objective.compile": "true"}),
            "in float32": ours("mnist-pcd", **changes, **{"train.precision": "float32"}),
            "plain": plain(contrastive(energy, steps=steps), energy),
        }
        row(f"contrastive divergence, {steps} Langevin steps", ways, repeats=repeats)
    for recipe, written in (("mnist-ncsn", ncsn), ("mnist-edm", edm)):
        network = Experiment(Recipe.named(recipe), shape=SHAPE).model.network
        with global_seed(0):
            peer = peer_unet(sum(each.numel() for each in network.parameters()))
        ways = {
            "ours": ours(recipe),
            "in float32": ours(recipe, **{"train.precision": "float32"}),
            "plain": plain(written(network), network),
            "diffusers' U-Net": plain(written(lambda y, noise, peer=peer: peer(y, noise).sample), peer),
        }
        row(f"{recipe}'s U-Net", ways, repeats=repeats)
    mine, rough, theirs = descents()
    torch.testing.assert_close(mine(), theirs(), atol=1e-4, rtol=1e-4)
    row("DPM-Solver++, 20 steps, 64 images", {"ours": mine, "in bfloat16": rough, "diffusers": theirs}, repeats=repeats)


if __name__ == "__main__":
    main()
