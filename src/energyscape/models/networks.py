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
        if width < 1 or depth < 1:
            raise ValueError(f"width and depth are at least 1; they were {width} and {depth}")
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

    Each layer is told the level by an embedding :math:`e` of its own weights :math:`C_k`. The frequencies are low,
    because energies at neighbouring levels are nearly the same, and what is learned at one should tell of the next.

    Args:
        shape: Shape of one point, or its number of coordinates.
        width: Units of each hidden layer.
        depth: Number of hidden layers.
        frequencies: Pairs of numbers :math:`m` that tell the level.
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
        if width < 1 or depth < 1 or frequencies < 1:
            raise ValueError(
                f"width, depth and frequencies are at least 1; they were {width}, {depth} and {frequencies}"
            )
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
        for layer, told in zip(self.hidden, self.told[1:], strict=True):
            h = self.activation(layer(h) + told(e))
        f: Tensor = self.last(h)
        return f.squeeze(1)

    if TYPE_CHECKING:

        def __call__(self, u: Tensor, noise: Tensor) -> Tensor: ...


@final
class ConvEnergyNet(nn.Module):
    """A convolutional network that halves the image until it is at most 4 pixels wide, then reads it all at once.

    Spectral normalisation bounds each layer's Lipschitz constant by one, and so the energy's slope: chains cannot be
    thrown far, at the price of a flatter landscape.

    Args:
        shape: Channels, height and width of one image, from 8×8 to 64×64.
        width: Channels after the first layer; they double at each halving, up to eightfold.
        spectral_norm: Divide each weight by its largest singular value (one power iteration a training step).
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
        channels, height, breadth = shape
        if not (min(height, breadth) >= 8 and max(height, breadth) <= 64):
            raise ValueError(f"images are from 8×8 to 64×64; they were {height}×{breadth}")
        if width < 1:
            raise ValueError(f"width is at least 1; it was {width}")
        normalised = spectrally_normalised if spectral_norm else lambda layer: layer
        layers: list[nn.Module] = [normalised(nn.Conv2d(channels, width, 3, padding=1)), ACTIVATIONS[activation]()]
        inside = width
        while max(height, breadth) > 4 and min(height, breadth) > 1:
            outside = min(2 * inside, 8 * width)
            layers += [normalised(nn.Conv2d(inside, outside, 4, stride=2, padding=1)), ACTIVATIONS[activation]()]
            inside, height, breadth = outside, height // 2, breadth // 2
        hidden = 4 * width
        layers += [nn.Flatten(), normalised(nn.Linear(inside * height * breadth, hidden)), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers, normalised(nn.Linear(hidden, 1, bias=False)))

    def forward(self, x: Tensor) -> Tensor:
        f: Tensor = self.layers(x)
        return f.squeeze(1)

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor: ...
