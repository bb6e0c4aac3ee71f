r"""Convolutional networks that are conditioned on the noise level, from images to one number each.

Levels near one another have nearly one energy, so a few low frequencies embed a level, as in `NoiseMLP`:

.. math:: h \leftarrow \phi\bigl( A h \odot (1 + C e) + B e \bigr), \qquad e = (\cos t, \sin t, \ldots, \sin m t).
"""

import itertools
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from energyscape.errors import check_count
from energyscape.models.networks import ACTIVATIONS, Activation, image_shape


@final
class NoiseConvNet(nn.Module):
    r"""A convolutional network over images and their noise level, halving them at each layer.

    The level scales and shifts the channels of every layer (FiLM). Halvings are by strides, not by maxima, whose
    gradient is that of one pixel. They end at an image at most 4 pixels wide, which is then read at once.

    Args:
        shape: Channels, height and width of one image, at least 8×8.
        width: Channels after the first halving; they double at each one, up to fourfold.
        frequencies: Pairs of numbers :math:`m` that embed the level.
        activation: Nonlinearity after each layer.

    Raises:
        ValueError: If the image is smaller than 8×8, or ``width`` or ``frequencies`` is not positive.

    Examples:
        >>> NoiseConvNet((1, 28, 28), width=8)(torch.zeros(3, 1, 28, 28), torch.zeros(3)).shape
        torch.Size([3])

    References:
        FiLM: visual reasoning with a general conditioning layer (Perez et al., 2018), equation 2.
        https://arxiv.org/abs/1709.07871
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        width: int = 32,
        frequencies: int = 4,
        activation: Activation = "silu",
    ) -> None:
        super().__init__()
        channels, *size = image_shape(shape)
        if min(size) < 8:
            raise ValueError(f"images are at least 8×8; they were {size[0]}×{size[1]}")
        check_count(width=width, frequencies=frequencies)
        widths = [channels]
        while max(size) > 4:
            widths.append(width * 2 ** min(len(widths) - 1, 2))
            size = [-(-each // 2) for each in size]
        self.frequencies = frequencies
        # A first layer of stride 2 needs a larger window to see whole strokes.
        windows = [6, *[4] * (len(widths) - 2)]
        self.halvings = nn.ModuleList(
            nn.Conv2d(inside, outside, window, stride=2, padding=window // 2 - 1)
            for window, (inside, outside) in zip(windows, itertools.pairwise(widths), strict=True)
        )
        hidden = 4 * width
        self.told = nn.ModuleList(nn.Linear(2 * frequencies, 2 * each) for each in (*widths[1:], hidden))
        self.read = nn.Linear(widths[-1] * size[0] * size[1], hidden)
        self.activation = ACTIVATIONS[activation]()
        self.last = nn.Linear(hidden, 1, bias=False)

    def forward(self, u: Tensor, noise: Tensor) -> Tensor:
        angle = torch.arange(1, self.frequencies + 1).to(noise) * noise.unsqueeze(1)
        e = torch.cat([angle.cos(), angle.sin()], 1)
        for halving, condition in zip(self.halvings, self.told, strict=False):
            odd = (0, u.shape[3] % 2, 0, u.shape[2] % 2)  # sizes are rounded up
            scale, shift = condition(e)[:, :, None, None].chunk(2, 1)
            u = self.activation(halving(nn.functional.pad(u, odd)) * (1 + scale) + shift)
        scale, shift = self.told[-1](e).chunk(2, 1)
        f: Tensor = self.last(self.activation(self.read(u.flatten(1)) * (1 + scale) + shift))
        return f.squeeze(1)

    if TYPE_CHECKING:

        def __call__(self, u: Tensor, noise: Tensor) -> Tensor: ...
