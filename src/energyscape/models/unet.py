r"""A U-Net that is conditioned on the noise level, from images to images of the same size.

Skips restore the detail that the halvings lose: each block of the way up adds the output of its mirror image on the way
down, :math:`h \leftarrow (h + s) / \sqrt 2`. Concatenated skips would double the channels that the way up reads, and
take three quarters of the network's time.
"""

import itertools
from typing import TYPE_CHECKING, final

from torch import Tensor, nn

from energyscape.errors import check_count
from energyscape.models.conditioning import (
    Attention,
    Block,
    Conditioning,
    group_norm,
    into_patches,
    linear,
    out_of_patches,
    silu,
    zeroed,
)
from energyscape.models.networks import image_shape


@final
class UNet(nn.Module):
    r"""A U-Net over images, their noise level and their class.

    The defaults are for small grey images on a CPU: with ``patch`` 2 it reads squares of 2×2 pixels as one, at a
    quarter of the cost. For photographs use ``patch`` 1, ``width`` 96 to 128, two ``blocks`` and attention at 16. This
    takes half the work of the usual network of that width, which concatenates its skips.

    It returns zero at initialisation. All of it is smooth and has second derivatives, so it can define an energy.

    Args:
        shape: Channels, height and width of one image, from 8×8 to 64×64.
        width: Channels at the first level.
        multipliers: Channels of each level, in widths; from one to the next the image is halved, odd sizes rounded up.
        blocks: Residual blocks at each level, on the way down and again on the way up.
        attention: Heights of the levels with self-attention; for 28×28 images with ``patch`` 2 they
            are 14, 7 and 4.
        patch: Height and width in pixels of the squares that the first layer reads as one.
        classes: Number of classes that a label may name; 0 for a network that takes no label.
        dropout: Probability that a unit is left out in training.

    Raises:
        ValueError: If the image is smaller than 8×8 or larger than 64×64, a number is out of its range, or no level has
            one of the heights in ``attention``.

    Examples:
        >>> import torch
        >>> net = UNet((1, 28, 28), width=8, attention=(7,), classes=10)
        >>> net(torch.zeros(3, 1, 28, 28), torch.zeros(3), torch.tensor([0, 9, -1])).shape
        torch.Size([3, 1, 28, 28])

    References:
        U-Net: convolutional networks for biomedical image segmentation (Ronneberger et al., 2015).
        https://arxiv.org/abs/1505.04597

        Denoising diffusion probabilistic models (Ho et al., 2020), appendix B. https://arxiv.org/abs/2006.11239

        Photorealistic text-to-image diffusion models with deep language understanding (Saharia et al., 2022), appendix
        B.1: fewer channels where the image is large, skips scaled by :math:`1 / \sqrt 2`.
        https://arxiv.org/abs/2205.11487
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        width: int = 48,
        multipliers: tuple[int, ...] = (1, 2, 2),
        blocks: int = 1,
        attention: tuple[int, ...] = (),
        patch: int = 2,
        classes: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_count(width=width, multipliers=len(multipliers))
        for each in multipliers:
            check_count(multiplier=each, most=100)
        check_count(blocks=blocks, patch=patch, most=100)
        heights = _heights(shape, patch, len(multipliers))
        if unmet := set(attention) - set(heights):
            raise ValueError(f"attention is at one of {heights}, the heights of the levels; it was {unmet.pop()}")
        channels, embedding, widths = shape[0] * patch**2, 4 * width, [width * each for each in multipliers]
        self.patch = patch
        self.classes = classes
        self.conditioning = Conditioning(embedding, classes)
        self.first = linear(channels, widths[0], 3)

        def level(inside: int, height: int) -> nn.ModuleList:
            return nn.ModuleList(
                _Layer(inside, embedding, dropout=dropout, attention=height in attention) for _ in range(blocks)
            )

        self.down = nn.ModuleList(map(level, widths, heights))
        self.up = nn.ModuleList(map(level, widths, heights))
        self.middle = level(widths[-1], heights[-1])[0]
        self.halvings = nn.ModuleList(linear(i, o, 3, stride=2) for i, o in itertools.pairwise(widths))
        self.doublings = nn.ModuleList(linear(i, o, 1) for o, i in itertools.pairwise(widths))
        self.normed = group_norm(widths[0])
        self.last = zeroed(nn.Conv2d(widths[0], channels, 3, padding=1))

    def forward(self, u: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor:
        e = self.conditioning(noise, label)
        h, skips = self.first(into_patches(u, self.patch)), []
        for level, layers in enumerate(self.down):
            h = self.halvings[level - 1](h) if level else h
            for layer in layers:  # type: ignore[attr-defined]
                h = layer(h, e)
                skips.append(h)
        h = self.middle(h, e)
        for level in reversed(range(len(self.up))):
            for layer in self.up[level]:  # type: ignore[attr-defined]
                h = layer((h + skips.pop()) * 0.5**0.5, e)
            h = _doubled(self.doublings[level - 1](h), skips[-1]) if level else h
        return out_of_patches(self.last(silu(self.normed(h))), self.patch, u)

    if TYPE_CHECKING:

        def __call__(self, u: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor: ...


class _Layer(nn.Module):
    """A block, with attention if requested."""

    def __init__(self, channels: int, embedding: int, *, dropout: float, attention: bool) -> None:
        super().__init__()
        self.block = Block(channels, embedding, dropout=dropout)
        self.attention = Attention(channels) if attention else nn.Identity()

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        f: Tensor = self.attention(self.block(h, e))
        return f


def _heights(shape: tuple[int, int, int], patch: int, levels: int) -> list[int]:
    _, height, breadth = image_shape(shape)
    if not (min(height, breadth) >= 8 and max(height, breadth) <= 64):
        raise ValueError(f"images are from 8×8 to 64×64; they were {height}×{breadth}")
    heights = [-(-height // (patch * 2**level)) for level in range(levels)]
    if min(height, breadth) <= patch * 2 ** (levels - 2):
        raise ValueError(f"an image of {height}×{breadth} in patches of {patch} cannot be halved {levels - 1} times")
    return heights


def _doubled(h: Tensor, like: Tensor) -> Tensor:
    """Return images of twice the size, each pixel four times, cut to the size that a halving began from."""
    h = nn.functional.interpolate(h, scale_factor=2.0, mode="nearest")
    return h[:, :, : like.shape[2], : like.shape[3]]
