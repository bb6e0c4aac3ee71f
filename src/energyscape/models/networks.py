r"""Plain networks from points to one number, :math:`f_\theta: (B, *) \to (B,)`.

Activations are smooth by default, because the sampler follows :math:`\nabla_x f`: a ReLU network's gradient is
piecewise constant and its Laplacian is zero. The last layer has no bias, because a constant changes no density.
"""

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, final

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as spectrally_normalised

from energyscape.data import Space
from energyscape.errors import check_count

Activation = Literal["silu", "softplus", "elu", "gelu", "relu"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
}


@final
class MLP(nn.Module):
    """A fully connected network over flattened points.

    Args:
        shape: Shape of one point, or its number of coordinates.
        width: Units of each hidden layer.
        depth: Number of hidden layers.
        activation: Nonlinearity after each hidden layer.

    Raises:
        ValueError: If ``width`` or ``depth`` is not positive.

    Examples:
        >>> import torch
        >>> MLP(2, width=16)(torch.zeros(3, 2)).shape
        torch.Size([3])
    """

    def __init__(
        self, shape: int | tuple[int, ...], *, width: int = 128, depth: int = 2, activation: Activation = "silu"
    ) -> None:
        super().__init__()
        check_count(width=width)
        check_count(depth=depth, most=100)
        inputs = shape if isinstance(shape, int) else math.prod(shape)
        widths = [inputs] + [width] * depth
        hidden = [
            layer
            for inside, outside in itertools.pairwise(widths)
            for layer in (nn.Linear(inside, outside), ACTIVATIONS[activation]())
        ]
        self.layers = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        f: Tensor = self.layers(x)
        return f.squeeze(1)

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor: ...


@final
class NoiseMLP(nn.Module):
    r"""A fully connected network over flattened points and their noise level.

    .. math:: h_1 = \phi\bigl( (A_1 u + b_1) \odot (1 + C_1 e) \bigr), \qquad
              h_k = \phi(A_k h_{k-1} + b_k + C_k e), \qquad
              e = (\cos t, \sin t, \cos 2 t, \ldots, \sin m t)

    Each layer is conditioned on the level by an embedding :math:`e` with its own weights :math:`C_k`. The frequencies
    are low, because energies at neighbouring levels are nearly the same and should generalise from one to the next.

    Args:
        shape: Shape of one point, or its number of coordinates.
        width: Units of each hidden layer.
        depth: Number of hidden layers.
        frequencies: Pairs of numbers :math:`m` that embed the level.
        activation: Nonlinearity after each hidden layer.

    Raises:
        ValueError: If ``width``, ``depth`` or ``frequencies`` is not positive.

    Examples:
        >>> import torch
        >>> NoiseMLP(2, width=16)(torch.zeros(3, 2), torch.zeros(3)).shape
        torch.Size([3])
    """

    def __init__(
        self,
        shape: int | tuple[int, ...],
        *,
        width: int = 128,
        depth: int = 2,
        frequencies: int = 4,
        activation: Activation = "silu",
    ) -> None:
        super().__init__()
        check_count(width=width, frequencies=frequencies)
        check_count(depth=depth, most=100)
        inputs = shape if isinstance(shape, int) else math.prod(shape)
        self.frequencies = frequencies
        self.first = nn.Linear(inputs, width)
        self.hidden = nn.ModuleList([nn.Linear(width, width) for _ in range(depth - 1)])
        self.told = nn.ModuleList([nn.Linear(2 * frequencies, width) for _ in range(depth)])
        self.activation = ACTIVATIONS[activation]()
        self.last = nn.Linear(width, 1, bias=False)

    def forward(self, u: Tensor, noise: Tensor) -> Tensor:
        angle = torch.arange(1, self.frequencies + 1).to(noise) * noise.unsqueeze(1)
        e = torch.cat([angle.cos(), angle.sin()], 1)
        h = self.activation(self.first(u.flatten(1)) * (1 + self.told[0](e)))
        for layer, condition in zip(self.hidden, self.told[1:], strict=True):
            h = self.activation(layer(h) + condition(e))
        f: Tensor = self.last(h)
        return f.squeeze(1)

    if TYPE_CHECKING:

        def __call__(self, u: Tensor, noise: Tensor) -> Tensor: ...


@final
class ConvEnergyNet(nn.Module):
    r"""A convolutional network that halves the image until it is at most 4 pixels wide, then reads it all at once.

    Spectral normalisation bounds the Lipschitz constant of each layer but the last: a step cannot throw chains far. The
    bound is one for linear layers only. A convolution's weight is divided by the largest singular value of the matrix
    of its output channels times everything else. Each pixel of the input meets up to :math:`(k / \text{stride})^2`
    copies of it: the bound is :math:`k / \text{stride}`, three for the first layer and two for those that halve. With
    activations of slope at most :math:`a`, of :math:`n` layers before the last,

    .. math:: |f(x) - f(y)| \le \sqrt d\, \|w\|\, a^n \prod_k b_k\, \|x - y\|.

    The last layer's weight :math:`w` is free, and so the network learns its own scale. It begins at :math:`\sqrt d` for
    :math:`d` pixels, the length of an image on [-1, 1]. Where an energy's scale is :math:`1 / \sigma^2`, the slope of
    :math:`f` is a denoised image. All layers bounded by one reach no such slope, and chains find no digit.

    Args:
        shape: Channels, height and width of one image, from 8×8 to 64×64.
        width: Channels after the first layer; they double at each halving, up to eightfold.
        spectral_norm: Divide each weight but the last by that singular value. Its power iteration takes one step at
            each forward pass of training, and none in evaluation mode. While weights change, and in their average, a
            layer exceeds its bound by a few per cent.
        activation: Nonlinearity after each layer.

    Raises:
        ValueError: If the image is smaller than 8×8 or larger than 64×64, or ``width`` is not positive.

    Examples:
        >>> import torch
        >>> ConvEnergyNet((3, 32, 32), width=8)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2])

    References:
        Spectral normalization for generative adversarial networks (Miyato et al., 2018), section 2.1.
        https://arxiv.org/abs/1802.05957
        Lipschitz-margin training (Tsuzuku et al., 2018), appendix A, for the bound of a convolution.
        https://arxiv.org/abs/1802.04034
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        width: int = 32,
        spectral_norm: bool = False,
        activation: Activation = "silu",
    ) -> None:
        super().__init__()
        channels, height, breadth = _checked_image(shape, width)
        normalised = _normaliser(spectral_norm)
        layers: list[nn.Module] = [normalised(nn.Conv2d(channels, width, 3, padding=1)), ACTIVATIONS[activation]()]
        inside = width
        while max(height, breadth) > 4 and min(height, breadth) > 1:
            outside = min(2 * inside, 8 * width)
            layers += [normalised(nn.Conv2d(inside, outside, 4, stride=2, padding=1)), ACTIVATIONS[activation]()]
            inside, height, breadth = outside, height // 2, breadth // 2
        hidden = 4 * width
        layers += [nn.Flatten(), normalised(nn.Linear(inside * height * breadth, hidden)), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden, 1, bias=False))
        if spectral_norm:
            self.layers.append(_Scaled(math.sqrt(math.prod(shape))))
        _channels_last(self)

    def forward(self, x: Tensor) -> Tensor:
        f: Tensor = self.layers(x)
        return f.squeeze(1)

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor: ...


@final
class ResidualEnergyNet(nn.Module):
    r"""A residual network that halves the image until it is at most 4 pixels wide, then sums over what is left.

    Each block adds two convolutions of its input, activated before and not after them,

    .. math:: h' = S h + A_2\, \phi(A_1\, \phi(h)), \qquad f = w \cdot \sum_{\text{pixels}} \phi(h_n),

    with :math:`S` the identity where the channels stay, else a convolution of 1×1; where the image is halved, both
    terms are averaged over 2×2 pixels. Nothing is normalised: batch normalisation would make one image's energy depend
    on the others', and a norm of each image would hide its contrast from the energy.

    With spectral normalisation :math:`A_1` and :math:`A_2` are bounded by 3 as in `ConvEnergyNet`, and a whole block by
    one plus nine times the activation's slope squared. This limits weights, but does not make the energy 1-Lipschitz.

    Args:
        shape: Channels, height and width of one image, from 8×8 to 64×64.
        width: Channels after the first layer; they double at each halving, up to fourfold.
        blocks: Residual blocks at each resolution.
        spectral_norm: Divide each weight but the last by the largest singular value of the matrix of its output
            channels times everything else; its power iteration stands still in evaluation mode.
        activation: Nonlinearity :math:`\phi`.

    Raises:
        ValueError: If the image is smaller than 8×8 or larger than 64×64, or ``width`` or ``blocks`` is not positive.

    Examples:
        >>> import torch
        >>> ResidualEnergyNet((3, 32, 32), width=8)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2])

    References:
        Identity mappings in deep residual networks (He et al., 2016), figure 4e. https://arxiv.org/abs/1603.05027
        Implicit generation and modeling with energy-based models (Du & Mordatch, 2019), appendix A.
        https://arxiv.org/abs/1903.08689
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        width: int = 32,
        blocks: int = 1,
        spectral_norm: bool = False,
        activation: Activation = "silu",
    ) -> None:
        super().__init__()
        channels, height, breadth = _checked_image(shape, width)
        check_count(blocks=blocks, most=100)
        normalised, inside = _normaliser(spectral_norm), width
        self.first = normalised(nn.Conv2d(channels, width, 3, padding=1))
        layers: list[nn.Module] = []
        while max(height, breadth) > 4 and min(height, breadth) > 1:
            outside = min(2 * inside, 4 * width)
            layers += [_Residual(inside, inside, activation, normalised) for _ in range(blocks - 1)]
            layers.append(_Residual(inside, outside, activation, normalised, halve=True))
            inside, height, breadth = outside, -(-height // 2), -(-breadth // 2)
        layers += [_Residual(inside, inside, activation, normalised) for _ in range(blocks)]
        self.blocks = nn.Sequential(*layers, ACTIVATIONS[activation]())
        self.last = nn.Linear(inside, 1, bias=False)
        _channels_last(self)

    def forward(self, x: Tensor) -> Tensor:
        f: Tensor = self.last(self.blocks(self.first(x)).sum((2, 3)))
        return f.squeeze(1)

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor: ...


class _Residual(nn.Module):
    """One block; see `ResidualEnergyNet`."""

    def __init__(
        self, inside: int, outside: int, activation: Activation, normalised: "Normaliser", *, halve: bool = False
    ) -> None:
        super().__init__()
        self.first = normalised(nn.Conv2d(inside, outside, 3, padding=1))
        self.second = normalised(nn.Conv2d(outside, outside, 3, padding=1))
        self.shortcut = nn.Identity() if inside == outside else normalised(nn.Conv2d(inside, outside, 1, bias=False))
        self.activation = ACTIVATIONS[activation]()
        # The last of an odd number of pixels is averaged alone, not dropped.
        self.pooled = nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False) if halve else nn.Identity()

    def forward(self, h: Tensor) -> Tensor:
        change = self.second(self.activation(self.first(self.activation(h))))
        f: Tensor = self.shortcut(self.pooled(h)) + self.pooled(change)
        return f


class _Scaled(nn.Module):
    """A constant times the input."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def _channels_last(network: nn.Module) -> None:
    """Lay weights out with their channels innermost.

    On a CPU this takes the time of a score to 0.75 for 28×28 pixels, 0.9 for 32×32, and a little above 1 for 8×8.
    """
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


Normaliser = Callable[[nn.Module], nn.Module]


def _normaliser(spectral_norm: bool) -> Normaliser:
    return spectrally_normalised if spectral_norm else lambda layer: layer


def image_shape(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return channels, height and width, or raise a clear error."""
    if isinstance(shape, int) or not Space(shape).is_image or min(shape) < 1:
        raise ValueError(f"an image's shape is (channels, height, width), such as (1, 28, 28); it was {shape}")
    return shape


def _checked_image(shape: tuple[int, int, int], width: int) -> tuple[int, int, int]:
    _, height, breadth = image_shape(shape)
    if not (min(height, breadth) >= 8 and max(height, breadth) <= 64):
        raise ValueError(f"images are from 8×8 to 64×64; they were {height}×{breadth}")
    check_count(width=width)
    return shape
