"""Networks from points to points of the same size, conditioned on the noise level and the class.

Both are residual, :math:`h_{k + 1} = h_k + f_k(h_k, e)` with :math:`e` the embedding of `conditioning`, and both return
zero at initialisation.
"""

import math
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from energyscape.errors import check_count
from energyscape.models.conditioning import (
    Block,
    Conditioning,
    group_norm,
    into_patches,
    linear,
    out_of_patches,
    silu,
    zeroed,
)
from energyscape.models.networks import ACTIVATIONS, Activation, image_shape


@final
class DenoisingResNet(nn.Module):
    r"""A residual network over images, their noise level and their class, at full resolution throughout.

    Dilated convolutions, whose windows have gaps, widen its view: two in each block, one first and one last reach
    :math:`1 + 4\, (1 + \sum d)` pixels across, 61 with the default.

    Its cost grows with the image: at 8×8 that of a small `UNet` for 28×28, at 28×28 twelve times as much.

    Args:
        shape: Channels, height and width of one image.
        width: Channels of all layers.
        dilations: Distance :math:`d` of the pixels that a convolution sees, one residual block each.
        patch: Height and width in pixels of the squares that the first layer reads as one.
        classes: Number of classes that a label may name; 0 for a network that takes no label.
        dropout: Probability that a unit is left out in training.

    Raises:
        ValueError: If a number is out of its range.

    Examples:
        >>> net = DenoisingResNet((1, 8, 8), width=16)
        >>> net(torch.zeros(3, 1, 8, 8), torch.zeros(3)).shape
        torch.Size([3, 1, 8, 8])

    References:
        Generative modeling by estimating gradients of the data distribution (Song & Ermon, 2019), appendix A: dilated
        convolutions and a norm conditioned on the level. https://arxiv.org/abs/1907.05600
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        width: int = 64,
        dilations: tuple[int, ...] = (1, 2, 4, 4, 2, 1),
        patch: int = 1,
        classes: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_count(width=width, dilations=len(dilations))
        for each in (patch, *dilations):
            check_count(**{"patch and dilation": each}, most=64)
        channels, embedding = image_shape(shape)[0] * patch**2, 4 * width
        self.patch = patch
        self.classes = classes
        self.conditioning = Conditioning(embedding, classes)
        self.first = linear(channels, width, 3)
        self.blocks = nn.ModuleList(Block(width, embedding, dropout=dropout, dilation=each) for each in dilations)
        self.normed = group_norm(width)
        self.last = zeroed(nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, u: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor:
        e, h = self.conditioning(noise, label), self.first(into_patches(u, self.patch))
        for block in self.blocks:
            h = block(h, e)
        return out_of_patches(self.last(silu(self.normed(h))), self.patch, u)

    if TYPE_CHECKING:

        def __call__(self, u: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor: ...


@final
class DenoisingMLP(nn.Module):
    r"""A fully connected network over flattened points, their noise level and their class.

    .. math:: h_0 = A u, \qquad h_k = h_{k - 1} + B_k\, \phi\bigl( A_k h_{k - 1} \odot (1 + C_k e) + D_k e \bigr)

    Args:
        shape: Shape of one point, or its number of coordinates.
        width: Units of each hidden layer.
        depth: Number of hidden layers.
        classes: Number of classes that a label may name; 0 for a network that takes no label.
        activation: Nonlinearity :math:`\phi`.

    Raises:
        ValueError: If ``width`` or ``depth`` is not positive, or ``classes`` is negative.

    Examples:
        >>> DenoisingMLP(2, width=16)(torch.zeros(3, 2), torch.zeros(3)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        shape: int | tuple[int, ...],
        *,
        width: int = 128,
        depth: int = 3,
        classes: int = 0,
        activation: Activation = "silu",
    ) -> None:
        super().__init__()
        check_count(width=width)
        check_count(depth=depth, most=100)
        inputs = shape if isinstance(shape, int) else math.prod(shape)
        self.classes = classes
        self.conditioning = Conditioning(width, classes)
        self.first = nn.Linear(inputs, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.told = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.back = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.activation = ACTIVATIONS[activation]()
        self.last = zeroed(nn.Linear(width, inputs))

    def forward(self, u: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor:
        e, h = self.conditioning(noise, label), self.first(u.flatten(1))
        for hidden, condition, back in zip(self.hidden, self.told, self.back, strict=True):
            scale, shift = condition(e).chunk(2, 1)
            h = h + back(self.activation(torch.addcmul(shift, hidden(h), 1 + scale)))
        f: Tensor = self.last(h)
        return f.reshape(u.shape)

    if TYPE_CHECKING:

        def __call__(self, u: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor: ...
