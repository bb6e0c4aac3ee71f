"""How well a trained energy denoises and completes images that it has not seen, beside what needs no learning."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from energyscape import plotting
from energyscape.data import Images
from energyscape.evaluation import median_filtered, psnr, ssim
from energyscape.experiment.assembly import Experiment, seeded
from energyscape.experiment.figure import Figure
from energyscape.experiment.generation import completed, draw_data, restored
from energyscape.noise import noised, tweedie
from energyscape.report import Section

SIGMAS = (0.2, 0.6, 1.0)
"""Standard deviations of the noise on [-1, 1]: 0.1, 0.3 and 0.5 of the range from black to white."""

SHOWN = 12
"""Images in a row."""


class Denoised(NamedTuple):
    """Held-out images, noise on them, and what each way makes of it.

    Args:
        sigma: Standard deviation of the noise, on [-1, 1].
        clean: The images, ``(n, C, H, W)``.
        ways: Name to images, ``(n, C, H, W)``; among them "noisy", "restored", "one step" and "median".
        size: Side of the median filter's window, 3 or 5: whichever does better.
    """

    sigma: float
    clean: Tensor
    ways: dict[str, Tensor]
    size: int

    def rows(self) -> list[tuple[object, ...]]:
        """Return a row for each way: noise on [0, 1], way, mean PSNR with its standard error, mean SSIM."""
        rows: list[tuple[object, ...]] = []
        for name, x in self.ways.items():
            decibels, alike = psnr(x, self.clean), ssim(x, self.clean)
            error = float(decibels.std() / math.sqrt(len(decibels)))
            named = f"median {self.size}×{self.size}" if name == "median" else name
            rows.append((self.sigma / 2, named, float(decibels.mean()), error, float(alike.mean())))
        return rows

    def gain(self, over: str) -> Tensor:
        """Return each restored image's PSNR minus that of another way, in dB, ``(n,)``."""
        return psnr(self.ways["restored"], self.clean) - psnr(self.ways[over], self.clean)

    def figures(self) -> list[Figure]:
        """Return PSNR and SSIM of the restored images, and their gain over the noisy ones and the median filter."""
        n, sigma = len(self.clean), f"σ = {self.sigma:g}"
        how = f"{n} held-out images + N(0, {self.sigma:g}²) on [-1, 1], posterior mean"
        told = {
            f"PSNR at {sigma}, dB": psnr(self.ways["restored"], self.clean),
            f"PSNR over noisy at {sigma}, dB": self.gain("noisy"),
            f"PSNR over median filter at {sigma}, dB": self.gain("median"),
            f"SSIM at {sigma}": ssim(self.ways["restored"], self.clean),
        }
        return [Figure(name, float(each.mean()), float(each.std() / math.sqrt(n)), how) for name, each in told.items()]


def denoised(experiment: Experiment, sigma: float, *, n: int = 64, seed: int | None = None) -> Denoised:
    """Add noise to held-out images and restore them in every available way.

    All are kept on [-1, 1], the noisy ones too: brightness beyond white helps nobody.
    """
    clean = draw_data(experiment.held_out, n, generator=seeded(experiment, seed, "clean", device="cpu"))
    noisy, _ = noised(clean, sigma, generator=seeded(experiment, seed, f"spoil {sigma}", device="cpu"))
    medians = {size: median_filtered(noisy, size=size).clamp(-1, 1) for size in (3, 5)}
    best = max(medians, key=lambda size: float(psnr(medians[size], clean).mean()))
    ways = {
        "noisy": noisy.clamp(-1, 1),
        "restored": restored(experiment, noisy, sigma=sigma, seed=seed),
    }
    if experiment.has_chains:
        device, temperature = experiment.training.torch_device, experiment.objective.temperature
        step = tweedie(experiment.energy, noisy.to(device), sigma, temperature=temperature).cpu()
        ways["one step"] = step.clamp(-1, 1)
    ways["median"] = medians[best]
    return Denoised(sigma, clean, ways, best)


def restorations(experiment: Experiment, *, seed: int | None = None) -> list[Denoised]:
    """Denoise held-out images at each level of `SIGMAS`: the protocol of every command."""
    return [denoised(experiment, sigma, seed=seed) for sigma in SIGMAS]


def denoising_section(experiment: Experiment, each: list[Denoised]) -> Section:
    """Return the part of a report that shows denoising at several levels."""
    table: list[tuple[object, ...]] = [("noise", "way", "PSNR, dB", "± s.e.", "SSIM")]
    table += [row for told in each for row in told.rows()]
    pictures = []
    for told in each:
        rows = {"original": told.clean[:SHOWN], **{name: x[:SHOWN] for name, x in told.ways.items()}}
        gain = float(told.gain("median").mean())
        caption = f"Noise of {told.sigma / 2:g} of the range: restored is {gain:+.1f} dB over the median filter"
        pictures.append((plotting.side_by_side(rows), caption))
    level = experiment.level
    chains = (
        f", and where the noise is at most the {level / 2:g} that the model has learned along with the data, a step "
        "along the score whose length the noise itself tells. One step: x − σ²∇E/T"
    )
    text = (
        f"{len(each[0].clean)} held-out images with noise; the table gives its standard deviation with black at 0 and "
        "white at 1. "
        f"Restored: the posterior mean{chains if experiment.has_chains else ', by the denoiser itself'}. "
        "Median: of 3×3 or 5×5 pixels, whichever does better. All are kept between black and white."
    )
    return Section("Denoising", text, tuple(pictures), table)


def masks(shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Return what may be missing of an image: the lower half, the middle, the right half."""
    _, height, width = shape
    row, column = torch.arange(height).view(-1, 1), torch.arange(width).view(1, -1)
    lower = (row >= height // 2).expand(height, width)
    right = (column >= width // 2).expand(height, width)
    middle = ((row - (height - 1) / 2).abs() < height / 5) & ((column - (width - 1) / 2).abs() < width / 5)
    return {
        name: each.unsqueeze(0) for name, each in (("lower half", lower), ("middle", middle), ("right half", right))
    }


def inpainting_section(experiment: Experiment, *, draws: int = 4, seed: int | None = None) -> Section:
    """Return the part of a report that shows images completed."""
    held_out = experiment.held_out
    assert isinstance(held_out, Images)
    clean = draw_data(held_out, SHOWN, generator=seeded(experiment, seed, "clean", device="cpu"))
    pictures = []
    for name, missing in masks(experiment.shape).items():
        drawn = completed(experiment, clean, missing, n=draws, seed=seed)
        rows = {"original": clean, "masked": clean.masked_fill(missing, 0.0)}
        rows |= {f"draw {number}": x for number, x in enumerate(drawn, 1)}
        pictures.append((plotting.side_by_side(rows), f"The {name} is missing (grey), and {draws} completions"))
    text = (
        f"Held-out images of which a part is missing, and draws of what may have been there: "
        f"{experiment.sampling.steps} steps of the recipe's sampler on the missing pixels, from noise"
        f"{'' if experiment.has_chains else ', each level gone through several times (RePaint)'}. Draws of one "
        "image should agree where it leaves no choice, and differ where it does."
    )
    return Section("Inpainting", text, tuple(pictures))
