"""The network of published distances: its size, its rules, and what it makes of files."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from energyscape.errors import UserError
from energyscape.evaluation import Inception, read_inception
from energyscape.evaluation.inception import BLOCKS, SIDE, Block, _a, _resized


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Inception().requires_grad_(False)


@pytest.fixture(scope="module")
def weights(network):
    return {**network.state_dict(), "fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}


def test_its_size_is_the_published_one(network):
    # 23,851,784 of Keras' InceptionV3 with 1,000 classes, less those of the classes (2,049,000), less running moments
    # (34,432), and with the scales of the normalisation (17,216), which that one lacks.
    assert sum(each.numel() for each in network.parameters()) == 23_851_784 - 2_049_000 - 34_432 + 17_216
    assert network.Conv2d_1a_3x3.conv.weight.shape == (32, 3, 3, 3)
    assert network.Mixed_6b.branch7x7dbl_2.conv.weight.shape == (128, 128, 7, 1)
    assert network.Mixed_7c.branch3x3_2a.conv.weight.shape == (384, 384, 1, 3)


def test_images_are_resized_as_tensorflow_1_did():
    n = 5
    ramp = torch.arange(float(n)).view(1, 1, 1, n).expand(1, 1, n, n)
    wide = _resized(ramp, 3)
    # Output pixel i is at i n / 299, and beyond the last pixel there is nothing to mix with.
    expected = (torch.arange(SIDE) * n / SIDE).clamp(max=n - 1)
    torch.testing.assert_close(wide[0, 0, 2], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(_resized(ramp.mT, 2)[0, 0, :, 2], expected, rtol=1e-5, atol=1e-5)


def neutral(block):
    """Makes each convolution of a block add nothing: its output is the bias of its normalisation."""
    for place, (name, each) in enumerate(block.named_children(), 1):
        each.conv.weight.data.zero_()
        each.bn.bias.data.fill_(place)
        if name == "branch_pool":
            each.conv.weight.data[0, 0, 0, 0] = 1
            each.bn.bias.data.zero_()
    return block.eval()


@torch.no_grad()
def test_branches_are_joined_in_order_and_a_mean_leaves_the_rim_out():
    block = neutral(Block(192, _a(32), by_maxima=False))
    y = block(torch.ones(1, 192, 4, 4))
    assert y.shape == (1, 64 + 64 + 96 + 32, 4, 4)
    # The last convolution of each branch is the first, the third and the sixth that were made.
    assert [float(y[0, c].mean()) for c in (0, 64, 128)] == [1, 3, 6]
    pooled = y[0, 224]
    torch.testing.assert_close(pooled, torch.full((4, 4), (1 + 1e-3) ** -0.5))  # no dimmer at the rim


@torch.no_grad()
def test_the_last_block_pools_by_maxima():
    _, inside, branches = BLOCKS[-1]
    x = torch.zeros(1, inside, 3, 3)
    x[0, 0, 1, 1] = 9
    kinds = {by: neutral(Block(inside, branches, by_maxima=by))(x)[0, -192] for by in (True, False)}
    scale = (1 + 1e-3) ** -0.5
    torch.testing.assert_close(kinds[True], torch.full((3, 3), 9 * scale))
    # The middle is one of nine pixels in the middle, of four in a corner.
    assert kinds[False][1, 1].item() == pytest.approx(scale, rel=1e-5)
    assert kinds[False][0, 0].item() == pytest.approx(9 / 4 * scale, rel=1e-5)
    assert [Inception().get_submodule(name).by_maxima for name, *_ in BLOCKS] == [False] * 10 + [True]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file(network, weights, tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    read = read_inception(path)
    x = torch.linspace(-1, 1, 2 * 64).view(2, 1, 8, 8)
    assert torch.equal(read.features(x), network.features(x))
    # A grey image is a colour whose three parts are alike; what is beyond white is white.
    assert torch.equal(read.features(x.expand(-1, 3, -1, -1)), network.features(x))
    assert torch.equal(read.features(x * 9), read.features((x * 9).clamp(-1, 1)))


class Harmful:
    def __reduce__(self):
        return pytest.fail, ("code in a file was run",)


def test_files_that_are_not_those_weights(weights, tmp_path):
    def refused(name, message):
        with pytest.raises(UserError, match=message) as error:
            read_inception(tmp_path / name)
        assert "\n" not in str(error.value)

    refused("none.pth", "no such file")
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "code.pth").write_bytes(pickle.dumps(Harmful()))
    for name in ("text.pth", "text.safetensors", "code.pth"):
        refused(name, "cannot be read")
    save_file({**weights, "fc.weight": torch.zeros(1000, 2048)}, tmp_path / "other.safetensors")
    refused("other.safetensors", "1,008")
    small = {name: value for name, value in weights.items() if "Mixed_6d" not in name}
    save_file(small, tmp_path / "small.safetensors")
    refused("small.safetensors", "Mixed_6d.*is missing")
    with pytest.raises(UserError, match="1 or 3 channels"):
        Inception().features(torch.zeros(1, 2, 8, 8))
