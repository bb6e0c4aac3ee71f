"""Denoising and completion of held-out images by a trained model, beside baselines without learning."""

from typing import Any, Final, NamedTuple, final

import torch
from torch import Tensor

from energyscape.evaluation import median_filtered, psnr, ssim
from energyscape.metrics.evidence import Evidence
from energyscape.metrics.metric import Measure, Metric, mean_and_error
from energyscape.noise import noised, tweedie

SIGMAS: Final = (0.2, 0.6, 1.0)
"""Standard deviations of the noise on [-1, 1]: 0.1, 0.3 and 0.5 of the range from black to white."""

IMAGES: Final = 64
"""Images that are restored at each level."""

COMPLETED: Final = 12
DRAWS: Final = 4
"""Images of which a part is missing, and completions of each."""


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
            named = f"median {self.size}×{self.size}" if name == "median" else name
            rows.append((self.sigma / 2, named, *mean_and_error(decibels), float(alike.mean())))
        return rows

    def gain(self, over: str) -> Tensor:
        """Return each restored image's PSNR minus that of another way, in dB, ``(n,)``."""
        return psnr(self.ways["restored"], self.clean) - psnr(self.ways[over], self.clean)

    def metrics(self) -> list[Metric]:
        """Return PSNR and SSIM of the restored images, and their gain over the noisy ones and the median filter."""
        n, sigma = len(self.clean), f"σ = {self.sigma:g}"
        protocol = f"{n} held-out images + N(0, {self.sigma:g}²) on [-1, 1], posterior mean"
        values = [
            (f"PSNR at {sigma}", "dB", psnr(self.ways["restored"], self.clean)),
            (f"PSNR over noisy at {sigma}", "dB", self.gain("noisy")),
            (f"PSNR over median filter at {sigma}", "dB", self.gain("median")),
            (f"SSIM at {sigma}", "", ssim(self.ways["restored"], self.clean)),
        ]
        return [
            Metric(name, *mean_and_error(each), protocol, unit=unit, better="higher") for name, unit, each in values
        ]


@final
class Restoration(Measure):
    """PSNR and SSIM of held-out images that were noised and restored."""

    def applies(self, evidence: Evidence) -> bool:
        return evidence.source.space.is_image

    def measure(self, evidence: Evidence) -> list[Metric]:
        return [metric for each in restorations(evidence) for metric in each.metrics()]


def restorations(evidence: Evidence) -> list[Denoised]:
    """Return held-out images restored in every available way at each level of `SIGMAS`."""
    return [_denoised(evidence, sigma) for sigma in SIGMAS]


def _denoised(evidence: Evidence, sigma: float) -> Denoised:
    """Add noise to held-out images and restore them; all are kept on [-1, 1], the noisy ones too."""
    clean = evidence.held_out.draw(IMAGES, generator=evidence.stream("clean"))
    noisy, _ = noised(clean, sigma, generator=evidence.stream(f"spoil {sigma}"))
    medians = {size: median_filtered(noisy, size=size).clamp(-1, 1) for size in (3, 5)}
    best = max(medians, key=lambda size: float(psnr(medians[size], clean).mean()))

    def draw() -> tuple[dict[str, Tensor], dict[str, Any]]:
        trained = evidence.trained
        ways = {"restored": trained.restore(noisy, sigma=sigma, seed=evidence.seed)}
        if evidence.chains is not None:
            y, energy = noisy.to(trained.device), trained.require_energy()
            ways["one step"] = tweedie(energy, y, sigma, temperature=trained.temperature).cpu().clamp(-1, 1)
        return ways, {}

    ways, _ = evidence.kept(f"restored-{sigma:g}", draw)
    learned = {name: ways[name] for name in sorted(ways, reverse=True)}  # restored before one step
    return Denoised(sigma, clean, {"noisy": noisy.clamp(-1, 1), **learned, "median": medians[best]}, best)


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


class Completed(NamedTuple):
    """Held-out images, a part of which is missing, and completions.

    Args:
        clean: The images, ``(B, C, H, W)``.
        draws: Completions by what is missing, ``(n, B, C, H, W)``.
    """

    clean: Tensor
    draws: dict[str, Tensor]


def completions(evidence: Evidence) -> Completed:
    """Return completions of held-out images for each of `masks`."""
    clean = evidence.held_out.draw(COMPLETED, generator=evidence.stream("clean"))

    def draw() -> tuple[dict[str, Tensor], dict[str, Any]]:
        missing = masks(evidence.source.shape)
        return {
            name: evidence.trained.inpaint(clean, each, n=DRAWS, seed=evidence.seed) for name, each in missing.items()
        }, {}

    draws, _ = evidence.kept("completions", draw)
    return Completed(clean, {name: draws[name] for name in masks(evidence.source.shape)})
