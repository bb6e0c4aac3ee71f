r"""Layers of denoising networks that are conditioned on the noise level and the class.

The level's number :math:`t` enters by sines and cosines whose frequencies fall from 8 to 1/1000 in equal ratios,

.. math:: e = A_2\, \phi\bigl( A_1 (\cos \omega_k t, \sin \omega_k t)_k + b_1 + c_{\text{label}} \bigr) + b_2,

which resolve both EDM's :math:`\tfrac14 \ln \sigma`, which spans about three, and DDPM's :math:`0, \ldots, 999`. Each
layer then scales and shifts its channels (FiLM), :math:`h \odot (1 + C \phi(e)) + B \phi(e)`.
"""

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from energyscape.errors import UserError, check_count

silu = nn.functional.silu
frequencies = 32

Layer = TypeVar("Layer", bound=nn.Module)


class Conditioning(nn.Module):
    r"""The embedding of a noise level and a class.

    A label of −1 and no label both mean an extra class, embedded like any other.

    Args:
        width: Numbers in the embedding.
        classes: Number of classes; 0 for a network that takes no label.

    Raises:
        ValueError: If ``classes`` is negative; on a call, if there is a label and the network has no classes,
            or not that one.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        check_count(classes=classes, least=0, most=1_000_000)
        self.classes = classes
        self.first = nn.Linear(2 * frequencies, width)
        self.last = nn.Linear(width, width)
        # As large as the embedding of the level, so that neither hides the other.
        self.label = nn.Embedding(classes + 1, width) if classes else None

    def forward(self, noise: Tensor, label: Tensor | None) -> Tensor:
        if label is not None and self.label is None:
            raise ValueError("the network was made without classes and takes no label")
        # Checking labels costs a host sync except on the CPU; elsewhere the embedding's own check fails.
        if label is not None and label.device.type == "cpu" and not torch.compiler.is_compiling():
            check_labels(label, self.classes)
        k = torch.linspace(math.log(8), math.log(1e-3), frequencies, dtype=noise.dtype, device=noise.device)
        angle = k.exp() * noise.unsqueeze(1)
        e = self.first(torch.cat([angle.cos(), angle.sin()], 1))
        if self.label is not None:
            none = torch.full_like(noise, self.classes, dtype=torch.int64)
            # The number after the last class means none; refuse it as a class.
            beyond = None if label is None else label + (label >= self.classes)
            e = e + self.label(none if beyond is None else beyond.where(beyond != -1, none))
        return silu(self.last(silu(e)))


def check_labels(label: Tensor, classes: int) -> None:
    """Raise an error unless every label is a class from 0, or -1 for none."""
    if len(label) and not -1 <= int(label.min()) <= int(label.max()) < classes:
        raise UserError(
            f"labels are 0 to {classes - 1} for {classes} classes, or -1 for none; they go from {int(label.min())} to "
            f"{int(label.max())}: count classes from 0, or make the network with more"
        )


class Block(nn.Module):
    r"""A residual block of two convolutions, conditioned on the level between them.

    .. math:: h' = h + A_2\, \phi\bigl( N(A_1\, \phi(N(h))) \odot (1 + C e) + B e \bigr)

    :math:`N` is a group norm of each image by itself, and :math:`A_2` begins as zero: at first a block is the identity.

    Args:
        channels: Channels of the image, in and out.
        embedding: Numbers in the embedding.
        dropout: Probability that a unit is left out in training.
        dilation: Distance of the pixels that a convolution sees.
    """

    def __init__(self, channels: int, embedding: int, *, dropout: float = 0.0, dilation: int = 1) -> None:
        super().__init__()
        self.normed = group_norm(channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.told = nn.Linear(embedding, 2 * channels)
        self.normed_again = group_norm(channels, affine=False)
        self.dropout = nn.Dropout(dropout)
        self.last = zeroed(nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation))

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.told(e)[:, :, None, None].chunk(2, 1)
        change = self.first(silu(self.normed(h)))
        change = torch.addcmul(shift, self.normed_again(change), 1 + scale)
        f: Tensor = h + self.last(self.dropout(silu(change)))
        return f


class Attention(nn.Module):
    r"""Each pixel looks at all others, :math:`h' = h + A_o\, V \operatorname{softmax}(K^\top Q / \sqrt d)`.

    The products are written out, because PyTorch's fused attention has no second derivative and these networks are
    energies. A compiled network is differentiated once only and uses the fused one.

    Args:
        channels: Channels of the image, in and out; heads have up to 64.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = next(heads for heads in range(-(-channels // 64), channels + 1) if channels % heads == 0)
        self.normed = group_norm(channels)
        self.read = nn.Conv2d(channels, 3 * channels, 1)
        self.last = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, h: Tensor) -> Tensor:
        q, k, v = self.read(self.normed(h)).flatten(2).unflatten(1, (3, self.heads, -1)).unbind(1)
        if torch.compiler.is_compiling():
            rows = (each.transpose(2, 3) for each in (q, k, v))
            seen = nn.functional.scaled_dot_product_attention(*rows).transpose(2, 3)
        else:
            seen = v @ (k.transpose(2, 3) @ q / math.sqrt(q.shape[2])).softmax(2)  # of pixel, for pixel
        f: Tensor = h + self.last(seen.flatten(1, 2).unflatten(2, h.shape[2:]))
        return f


class GroupNorm(nn.GroupNorm):
    """PyTorch's group norm, written out when compiled, because PyTorch's would change every image's layout."""

    def forward(self, h: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            plain: Tensor = super().forward(h)
            return plain
        wide = torch.promote_types(h.dtype, torch.float32)
        grouped = h.to(wide).unflatten(1, (self.num_groups, -1))
        variance, mean = torch.var_mean(grouped, tuple(range(2, grouped.ndim)), correction=0, keepdim=True)
        normed: Tensor = ((grouped - mean) * (variance + self.eps).rsqrt()).flatten(1, 2)
        if self.affine:
            weight, bias = (each.reshape(-1, *[1] * (h.ndim - 2)) for each in (self.weight, self.bias))
            normed = torch.addcmul(bias, normed, weight)
        # On a GPU autocast leaves norms in float32, whatever their input.
        return normed.to(wide if h.is_cuda and torch.is_autocast_enabled("cuda") else h.dtype)


def group_norm(channels: int, *, affine: bool = True) -> GroupNorm:
    """Return a norm over up to 32 groups of at least four channels each."""
    groups = max(each for each in range(1, 33) if channels % each == 0 and (each == 1 or channels // each >= 4))
    return GroupNorm(groups, channels, affine=affine)


def linear(inside: int, outside: int, window: int, *, stride: int = 1) -> nn.Conv2d:
    """Return a convolution without an activation, whose output has the size of its input."""
    layer = nn.Conv2d(inside, outside, window, stride=stride, padding=window // 2)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def zeroed(layer: Layer) -> Layer:
    """Return the layer with its parameters set to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def into_patches(u: Tensor, patch: int) -> Tensor:
    """Return images whose ``patch`` × ``patch`` pixels are the channels of one, padded with zeros to fit."""
    u = nn.functional.pad(u, (0, -u.shape[3] % patch, 0, -u.shape[2] % patch))
    return nn.functional.pixel_unshuffle(u, patch)


def out_of_patches(h: Tensor, patch: int, like: Tensor) -> Tensor:
    """Return the images that `into_patches` split, cropped to their original size."""
    return nn.functional.pixel_shuffle(h, patch)[:, :, : like.shape[2], : like.shape[3]]
