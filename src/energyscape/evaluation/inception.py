r"""The Inception network whose features define published Fréchet distances, with weights from a file.

It is the Inception of December 2015 (1008 classes), not the one that other libraries retrain. There, average pools
leave the rim's padding out, and the last block pools by maxima. Images are resized to 299×299 by the bilinear rule of
TensorFlow 1, where output pixel :math:`i` is at :math:`i\, n / 299` of :math:`n` input pixels, not at :math:`(i +
1/2)\, n / 299 - 1/2`: every one of these differences moves the distance.

The weights are not part of this package: they are the file ``pt_inception-2015-12-05-6726825d.pth`` of the project
pytorch-fid, also called ``weights-inception-2015-12-05-6726825d.pth``. Only tensors are read of it, and no code.

References:
    Rethinking the Inception architecture for computer vision (Szegedy et al., 2016), table 1 and figures 5 to 7, 10.
    https://arxiv.org/abs/1512.00567; GANs trained by a two time-scale update rule converge to a local Nash equilibrium
    (Heusel et al., 2017). https://arxiv.org/abs/1706.08500
"""

from pathlib import Path
from typing import Final, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, max_pool2d, relu

from energyscape.errors import UserError
from energyscape.files import read_tensors, reading

SIDE: Final = 299

FILE: Final = "pt_inception-2015-12-05-6726825d.pth"

Kernel = int | tuple[int, int]
Layer = tuple[int, Kernel]
"""Channels that come out, and the size of the kernel."""


class Branch(NamedTuple):
    """A branch of a block."""

    name: str
    layers: tuple[Layer, ...]
    stride: int = 1
    fork: int = 0


def _a(pool: int) -> tuple[Branch, ...]:
    return (
        Branch("branch1x1", ((64, 1),)),
        Branch("branch5x5", ((48, 1), (64, 5))),
        Branch("branch3x3dbl", ((64, 1), (96, 3), (96, 3))),
        Branch("branch_pool", ((pool, 1),)),
    )


def _c(n: int) -> tuple[Branch, ...]:
    wide, tall = (1, 7), (7, 1)
    return (
        Branch("branch1x1", ((192, 1),)),
        Branch("branch7x7", ((n, 1), (n, wide), (192, tall))),
        Branch("branch7x7dbl", ((n, 1), (n, tall), (n, wide), (n, tall), (192, wide))),
        Branch("branch_pool", ((192, 1),)),
    )


B = (Branch("branch3x3", ((384, 3),), stride=2), Branch("branch3x3dbl", ((64, 1), (96, 3), (96, 3)), stride=2))
D = (
    Branch("branch3x3", ((192, 1), (320, 3)), stride=2),
    Branch("branch7x7x3", ((192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3)), stride=2),
)
E = (
    Branch("branch1x1", ((320, 1),)),
    Branch("branch3x3", ((384, 1),), fork=384),
    Branch("branch3x3dbl", ((448, 1), (384, 3)), fork=384),
    Branch("branch_pool", ((192, 1),)),
)

STEM: Final = (
    ("Conv2d_1a_3x3", 3, 32, 3, 2, 0),
    ("Conv2d_2a_3x3", 32, 32, 3, 1, 0),
    ("Conv2d_2b_3x3", 32, 64, 3, 1, 1),
    ("Conv2d_3b_1x1", 64, 80, 1, 1, 0),
    ("Conv2d_4a_3x3", 80, 192, 3, 1, 0),
)
"""Name, channels in and out, kernel, stride and padding; the third and the last are followed by a pool."""

BLOCKS: Final = (
    ("Mixed_5b", 192, _a(32)),
    ("Mixed_5c", 256, _a(64)),
    ("Mixed_5d", 288, _a(64)),
    ("Mixed_6a", 288, B),
    ("Mixed_6b", 768, _c(128)),
    ("Mixed_6c", 768, _c(160)),
    ("Mixed_6d", 768, _c(160)),
    ("Mixed_6e", 768, _c(192)),
    ("Mixed_7a", 768, D),
    ("Mixed_7b", 1280, E),
    ("Mixed_7c", 2048, E),
)


@final
class Convolution(nn.Module):
    """A convolution without bias, normalised and rectified."""

    def __init__(self, inside: int, outside: int, kernel: Kernel, stride: int, padding: Kernel) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outside, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.bn(self.conv(x)))


@final
class Block(nn.Module):
    """Branches side by side, joined along the channels; the last one pools."""

    def __init__(self, inside: int, branches: tuple[Branch, ...], *, by_maxima: bool) -> None:
        super().__init__()
        self.branches, self.by_maxima = branches, by_maxima
        self.halves = branches[0].stride == 2
        for branch in branches:
            channels, last = inside, len(branch.layers)
            for place, (outside, kernel) in enumerate(branch.layers, 1):
                stride = branch.stride if place == last else 1
                name = branch.name if last == 1 and not branch.fork else f"{branch.name}_{place}"
                self.add_module(name, Convolution(channels, outside, kernel, stride, _padding(kernel, stride)))
                channels = outside
            for letter, kernel in zip("ab" if branch.fork else "", ((1, 3), (3, 1)), strict=False):
                name = f"{branch.name}_{last + 1}{letter}"
                self.add_module(name, Convolution(channels, branch.fork, kernel, 1, _padding(kernel, 1)))

    def forward(self, x: Tensor) -> Tensor:
        ways = [self._pooled(x)] if self.halves else []
        for branch in reversed(self.branches):
            y = self._pooled(x) if branch.name == "branch_pool" else x
            last = len(branch.layers)
            for place in range(1, last + 1):
                y = self.get_submodule(branch.name if last == 1 and not branch.fork else f"{branch.name}_{place}")(y)
            ends = [f"{branch.name}_{last + 1}{letter}" for letter in "ba"] if branch.fork else []
            ways += [self.get_submodule(name)(y) for name in ends] or [y]
        return torch.cat(ways[::-1], 1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.halves:
            return max_pool2d(x, 3, 2)
        return max_pool2d(x, 3, 1, 1) if self.by_maxima else avg_pool2d(x, 3, 1, 1, count_include_pad=False)


@final
class Inception(nn.Module):
    """The network as far as its 2,048 features; `read_inception` gives it its weights."""

    def __init__(self) -> None:
        super().__init__()
        for name, *layer in STEM:
            self.add_module(name, Convolution(*layer))
        for name, inside, branches in BLOCKS:
            self.add_module(name, Block(inside, branches, by_maxima=name == "Mixed_7c"))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return features of images that were resized to 299×299."""
        for name, *_ in STEM:
            x = self.get_submodule(name)(x)
            x = max_pool2d(x, 3, 2) if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3") else x
        for name, *_ in BLOCKS:
            x = self.get_submodule(name)(x)
        return x.mean((2, 3))

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Return the features that published distances are of; grey images are taken as colours that are alike."""
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise UserError(f"images of 1 or 3 channels, (B, C, H, W); they were {tuple(x.shape)}")
        parts = []
        for part in x.split(32):
            pixels = ((part.float().clamp(-1, 1) + 1) * 127.5).round()
            resized = _resized(_resized(pixels.expand(-1, 3, -1, -1), 2), 3)
            parts.append(self((resized - 128) / 128))
        return torch.cat(parts)


def read_inception(path: Path) -> Inception:
    """Return the network with weights from a file."""
    what = f"the weights {FILE}, or the same as safetensors"
    with reading(path, what):
        if path.suffix == ".safetensors":
            weights = read_tensors(path, what)[0]
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    network = Inception()
    wanted = {name: tuple(each.shape) for name, each in network.state_dict().items() if "num_batches" not in name}
    wrong = [name for name, shape in wanted.items() if shapes.get(name) != shape]
    if wrong or shapes.get("fc.weight", (1008,))[0] != 1008:
        what = f"its {wrong[0]} is missing or of another shape" if wrong else "it has other classes than 1,008"
        raise UserError(f"{path}: expected the weights {FILE}; they are of another network ({what})")
    network.load_state_dict({name: weights[name] for name in wanted}, strict=False)
    return network.requires_grad_(False)


def _padding(kernel: Kernel, stride: int) -> Kernel:
    """Return the padding that keeps the size, or none where the size is halved."""
    if stride == 2:
        return 0
    return kernel // 2 if isinstance(kernel, int) else (kernel[0] // 2, kernel[1] // 2)


def _resized(x: Tensor, dim: int) -> Tensor:
    """Return images resized along one dimension by the bilinear rule of TensorFlow 1."""
    n = x.shape[dim]
    place = torch.arange(SIDE, device=x.device) * (n / SIDE)
    low = place.long()
    share = (place - low).view([-1 if each == dim else 1 for each in range(4)])
    high = (low + 1).clamp(max=n - 1)
    return x.index_select(dim, low) * (1 - share) + x.index_select(dim, high) * share
