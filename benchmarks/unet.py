"""Measure the training speed of a large U-Net on a GPU: milliseconds a step, images a second, utilisation.

A step is that of a recipe with averages, guards and facts; random images stand for CIFAR-10. The baselines are the same
written plainly under autocast, on our network and on diffusers' `UNet2DModel` of about as many parameters. Operations
are those of products and convolutions, counted by PyTorch's formulas, forward and backward. The machine's rate is that
of a product of two matrices of 8192 × 8192. Wall-clock time, in turns, medians.

    python benchmarks/unet.py [--recipe cifar10-edm] [--batch 512] [--device cuda]
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import torch
from diffusers import UNet2DModel
from efficiency import efficiency
from steps import edm
from torch import Tensor, nn

from energyscape.data import Images
from energyscape.recipe import Experiment, Recipe
from energyscape.training.precision import autocast_dtype

SHAPE = (3, 32, 32)
STEPS, REPEATS = 10, 5


def ours(recipe: str, batch: int, device: str, compile: str) -> tuple[Experiment, Callable[[], object]]:
    """Return a recipe's objects, and some steps of its training."""
    settings = {"train.batch_size": str(batch), "train.device": f'"{device}"', "train.compile": compile}
    experiment = Experiment(Recipe.named(recipe, {**settings, "train.budget": "1000M"}), shape=SHAPE)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (4 * batch, *SHAPE), dtype=torch.uint8, generator=generator)
    experiment.source = Images(pixels, torch.arange(4 * batch) % 10)
    run = experiment.fit()
    return experiment, lambda: list(itertools.islice(run, STEPS))


def plain(loss: Callable[[Tensor], Tensor], network: nn.Module, batch: int, device: str) -> Callable[[], object]:
    """Return some steps as a tutorial writes them."""
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4)
    x = torch.rand(batch, *SHAPE, device=device) * 2 - 1
    lower = autocast_dtype("auto", torch.device(device))

    def steps() -> None:
        for _ in range(STEPS):
            with torch.autocast(device, lower, enabled=lower is not None):
                value = loss(x)
            optimiser.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()

    return steps


def peer(like: nn.Module) -> UNet2DModel:
    """Return diffusers' U-Net of three levels whose number of parameters is nearest to another's."""

    def made(width: int) -> UNet2DModel:
        return UNet2DModel(
            sample_size=SHAPE[1],
            in_channels=SHAPE[0],
            out_channels=SHAPE[0],
            layers_per_block=2,
            block_out_channels=(width, 2 * width, 2 * width),
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        )

    wanted = sum(each.numel() for each in like.parameters())
    return min((made(width) for width in (64, 96, 128)), key=lambda each: abs(each.num_parameters() - wanted))


def seconds(go: Callable[[], object], device: str) -> float:
    begun = time.perf_counter()
    go()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begun) / STEPS


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", default="cifar10-edm")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    batch, device = args.batch, args.device
    experiment, compiled = ours(args.recipe, batch, device, "true")
    _, eager = ours(args.recipe, batch, device, "false")
    with torch.device(device):
        other = peer(experiment.model)
    network = Experiment(experiment.recipe, shape=SHAPE).model.network
    ways = {
        "ours, compiled": compiled,
        "ours, uncompiled": eager,
        "plain": plain(edm(network, device), network, batch, device),
        "diffusers' U-Net, plain": plain(edm(lambda y, noise: other(y, noise).sample, device), other, batch, device),
    }
    for go in ways.values():
        go()
    times = [{way: seconds(go, device) for way, go in ways.items()} for _ in range(REPEATS)]
    print("| step | ms | images/s | times as long as the first |\n|---|---|---|---|")
    for way in ways:
        ratio = statistics.median(each[way] / each["ours, compiled"] for each in times)
        took = statistics.median(each[way] for each in times)
        print(f"| {way} | {took * 1e3:.1f} | {batch / took:,.0f} | {ratio:.2f} |")
    counts = (sum(each.numel() for each in net.parameters()) / 1e6 for net in (network, other))
    print("parameters in millions: {:.1f} and {:.1f}".format(*counts))
    took = statistics.median(each["ours, compiled"] for each in times)
    print(f"compiled: {efficiency(experiment, speed=batch / took)}")


if __name__ == "__main__":
    main()
