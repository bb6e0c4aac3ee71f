"""Networks of denoisers against their equations written out, and their promises to training."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import cases
from energyscape.calculus import score
from energyscape.errors import UserError
from energyscape.models import DENOISERS, DENOISING_NETWORKS, EDM, DenoisingMLP, DenoisingResNet, NetworkDenoiser, UNet
from energyscape.models.conditioning import Attention, Block, Conditioning, group_norm
from energyscape.registry import build
from energyscape.rng import global_seed

NETWORKS = {
    "unet": lambda **s: UNet((1, 8, 8), width=8, **s),
    "unet:pixels": lambda **s: UNet((3, 9, 11), width=8, multipliers=(1, 2, 3), patch=1, blocks=2, attention=(5,), **s),
    "resnet": lambda **s: DenoisingResNet((1, 8, 8), width=8, dilations=(1, 2), **s),
    "resnet:patches": lambda **s: DenoisingResNet((2, 9, 7), width=8, dilations=(1,), patch=2, **s),
    "mlp": lambda **s: DenoisingMLP(2, width=16, **s),
    "mlp:images": lambda **s: DenoisingMLP((1, 4, 4), width=16, depth=1, activation="elu", **s),
}
SHAPES = {
    "unet": (1, 8, 8),
    "unet:pixels": (3, 9, 11),
    "resnet": (1, 8, 8),
    "resnet:patches": (2, 9, 7),
    "mlp": (2,),
    "mlp:images": (1, 4, 4),
}


def moved(module, size=0.3):
    """Gives every parameter a value of its own, those that begin as zero too."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data += (
            size
            * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            * (1 / math.sqrt(math.prod(parameter.shape[1:])) if parameter.ndim > 1 else 1.0)
        )
    return module


def made(name, **settings):
    with global_seed(0):
        return moved(NETWORKS[name](**settings).to(cases.DEVICE, torch.float64)).eval()


def given(name, n=4):
    noise = torch.linspace(-1.2, 0.9, n, dtype=torch.float64, device=cases.DEVICE)
    return cases.normal(n, *SHAPES[name]), noise


def normed(h, groups, weight=None, bias=None):
    """A group norm, written out."""
    n, channels, *size = h.shape
    g = h.reshape(n, groups, -1)
    g = (g - g.mean(2, keepdim=True)) / (g.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
    h = g.reshape(n, channels, *size)
    return h if weight is None else h * weight[:, None, None] + bias[:, None, None]


def phi(h):
    return h * torch.sigmoid(h)


def conv(layer, h, **settings):
    return functional.conv2d(h, layer.weight, layer.bias, **settings)


def block_of(block, h, e, groups, dilation=1):
    result = e @ block.told.weight.T + block.told.bias
    channels = h.shape[1]
    scale, shift = result[:, :channels, None, None], result[:, channels:, None, None]
    change = conv(block.first, phi(normed(h, groups, block.normed.weight, block.normed.bias)), **around(dilation))
    return h + conv(block.last, phi(normed(change, groups) * (1 + scale) + shift), **around(dilation))


def around(dilation):
    return {"padding": dilation, "dilation": dilation}


def conditioned(layer, noise, label=None):
    """The embedding, frequency by frequency."""
    omega = [8 * (1e-3 / 8) ** (k / 31) for k in range(32)]
    read = [torch.cos(w * noise) for w in omega] + [torch.sin(w * noise) for w in omega]
    e = torch.stack(read, 1) @ layer.first.weight.T + layer.first.bias
    if layer.label is not None:
        e = e + torch.stack([layer.label.weight[each] for each in label])
    return phi(phi(e) @ layer.last.weight.T + layer.last.bias)


def attended(layer, h):
    """Attention, pixel by pixel."""
    n, channels, *size = h.shape
    read = conv(layer.read, normed(h, layer.normed.num_groups, layer.normed.weight, layer.normed.bias)).flatten(2)
    each = channels // layer.heads
    seen = torch.empty_like(h.flatten(2))
    for head in range(layer.heads):
        q, k, v = (read[:, part * channels + head * each : part * channels + (head + 1) * each] for part in range(3))
        for pixel in range(q.shape[2]):
            weight = torch.softmax((q[:, :, pixel, None] * k).sum(1) / each**0.5, 1)
            seen[:, head * each : (head + 1) * each, pixel] = (v * weight[:, None]).sum(2)
    return h + conv(layer.last, seen.reshape(n, channels, *size))


def test_the_embedding_is_its_equation():
    layer = moved(Conditioning(6, 3).double())
    noise = torch.tensor([-1.5, 0.2, 700.0, 3.0], dtype=torch.float64)
    output = layer(noise, torch.tensor([2, 0, -1, 1]))
    assert torch.allclose(output, conditioned(layer, noise, [2, 0, 3, 1]), rtol=1e-9)


@pytest.mark.parametrize(
    "noise", [torch.arange(1000.0), torch.linspace(math.log(0.002) / 4, math.log(80) / 4, 1000)], ids=["ddpm", "edm"]
)
def test_the_embedding_tells_a_thousand_levels_apart(noise):
    layer = Conditioning(64, 0).double()
    read = []
    layer.first.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    layer(noise.double(), None)
    away = torch.cdist(read[0], read[0]) + 99 * torch.eye(1000)
    # Neighbours on EDM's axis are 0.0027 apart; the fastest wave, of frequency 8, moves by 0.021.
    assert float(away.min()) > 0.02


def test_a_block_is_its_equation():
    block = moved(Block(8, 5, dilation=2).double())
    h, e = cases.normal(3, 8, 7, 6), cases.normal(3, 5)
    assert torch.allclose(block(h, e), block_of(block, h, e, groups=2, dilation=2), rtol=1e-9)


@pytest.mark.parametrize("channels", [8, 128])
def test_attention_is_its_equation(channels):
    layer = moved(Attention(channels).double())
    assert layer.heads == (1 if channels == 8 else 2)
    h = cases.normal(2, channels, 3, 4)
    assert torch.allclose(layer(h), attended(layer, h), rtol=1e-8)


def test_groups_have_at_least_four_channels_and_are_at_most_thirty_two():
    counts = {channels: group_norm(channels).num_groups for channels in (3, 4, 6, 8, 20, 48, 96, 128, 192, 256)}
    assert counts == {3: 1, 4: 1, 6: 1, 8: 2, 20: 5, 48: 12, 96: 24, 128: 32, 192: 32, 256: 32}


def test_a_unet_is_its_equation():
    net = made("unet:pixels", classes=2)
    u, noise = given("unet:pixels", 3)
    e = conditioned(net.conditioning, noise, [0, 2, 1])
    groups = {0: 2, 1: 4, 2: 6}  # of 8, 16 and 24 channels

    def layer_of(layer, h, level):
        h = block_of(layer.block, h, e, groups[level])
        return attended(layer.attention, h) if level == 1 else h

    h = conv(net.first, u, padding=1)
    kept = []
    for level in range(3):
        if level:
            h = conv(net.halvings[level - 1], h, padding=1, stride=2)
        for layer in net.down[level]:
            h = layer_of(layer, h, level)
            kept.append(h)
    assert [each.shape[1:] for each in kept[::2]] == [(8, 9, 11), (16, 5, 6), (24, 3, 3)]
    h = layer_of(net.middle, h, 2)
    for level in (2, 1, 0):
        for layer in net.up[level]:
            h = layer_of(layer, (h + kept.pop()) / math.sqrt(2), level)
        if level:
            h = conv(net.doublings[level - 1], h)
            rows, columns = kept[-1].shape[2:]
            h = h[:, :, torch.arange(rows) // 2][:, :, :, torch.arange(columns) // 2]
    out = conv(net.last, phi(normed(h, 2, net.normed.weight, net.normed.bias)), padding=1)
    assert torch.allclose(net(u, noise, torch.tensor([0, -1, 1])), out, rtol=1e-8)


def test_a_residual_network_is_its_equation():
    net = made("resnet")
    u, noise = given("resnet", 3)
    e, h = conditioned(net.conditioning, noise), conv(net.first, u, padding=1)
    for block, dilation in zip(net.blocks, (1, 2), strict=True):
        h = block_of(block, h, e, groups=2, dilation=dilation)
    out = conv(net.last, phi(normed(h, 2, net.normed.weight, net.normed.bias)), padding=1)
    assert torch.allclose(net(u, noise), out, rtol=1e-8)


def test_a_fully_connected_network_is_its_equation():
    net = made("mlp:images", classes=1)
    u, noise = given("mlp:images", 3)
    e = conditioned(net.conditioning, noise, [0, 1, 1])
    h = u.reshape(3, 16) @ net.first.weight.T + net.first.bias
    result = e @ net.told[0].weight.T + net.told[0].bias
    a = (h @ net.hidden[0].weight.T + net.hidden[0].bias) * (1 + result[:, :16]) + result[:, 16:]
    h = h + functional.elu(a) @ net.back[0].weight.T + net.back[0].bias
    out = (h @ net.last.weight.T + net.last.bias).reshape(3, 1, 4, 4)
    assert torch.allclose(net(u, noise, torch.tensor([0, -1, -1])), out, rtol=1e-9)


def test_patches_are_pixels_of_one_and_what_sticks_out_is_zero():
    net = made("resnet:patches")
    u, noise = given("resnet:patches")
    whole = functional.pad(u, (0, 1, 0, 1))
    assert torch.allclose(net(u, noise), net(whole, noise)[:, :, :9, :7], rtol=1e-12)
    # The 2×2 pixels of a patch are neighbours: a convolution of 1×1 inside sees them and no others.
    net.first = nn.Conv2d(8, 8, 1).double()
    net.blocks, net.normed = nn.ModuleList(), nn.Identity()
    net.last = nn.Conv2d(8, 8, 1).double()
    s = torch.autograd.functional.jacobian(lambda x: net(x, noise[:1])[0, :, 4, 3].sum(), u[:1])[0]
    assert {tuple(at) for at in s.abs().sum(0).nonzero().tolist()} == {(4, 2), (4, 3), (5, 2), (5, 3)}


def test_how_far_a_residual_network_sees():
    net = moved(DenoisingResNet((1, 25, 25), width=4, dilations=(1, 3)).double())
    net.normed = nn.Identity()
    for block in net.blocks:
        block.normed = block.normed_again = nn.Identity()
    noise = torch.zeros(1, dtype=torch.float64)
    x = cases.normal(1, 1, 25, 25)
    s = torch.autograd.functional.jacobian(lambda x: net(x, noise)[0, 0, 12, 12], x)[0, 0]
    across = 1 + 4 * (1 + 4)
    assert int((s.abs().sum(0) > 0).sum()) == int((s.abs().sum(1) > 0).sum()) == across


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 9, 64)], ids=str)
@pytest.mark.parametrize("patch", [1, 2])
def test_a_unet_takes_images_from_8_to_64_pixels_and_sees_every_one(shape, patch):
    net = moved(UNet(shape, width=4, multipliers=(1, 2, 2), patch=patch).double())
    x, noise = cases.normal(1, *shape), torch.zeros(1, dtype=torch.float64)
    s = torch.autograd.functional.vjp(lambda x: net(x, noise), x, torch.ones_like(x))[1]
    assert s.shape == x.shape
    assert bool((s != 0).all())


@pytest.mark.parametrize("name", NETWORKS)
def test_it_returns_zero_when_it_is_new(name):
    net = NETWORKS[name](classes=3).to(cases.DEVICE, torch.float64)
    u, noise = given(name)
    out = net(u, noise, torch.tensor([0, 1, 2, -1], device=cases.DEVICE))
    assert torch.equal(out, torch.zeros_like(u))
    out.sum().backward()
    assert float(net.last.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_it_keeps_the_shape_and_the_dtype(name, dtype):
    u, noise = given(name)
    out = made(name).to(dtype)(u.to(dtype), noise.to(dtype)).detach()
    assert out.dtype == dtype
    assert out.shape == u.shape
    exact = made(name)(u, noise).detach()
    # Some hundred roundings, of values of size one.
    assert torch.allclose(out.double(), exact, atol=1e-4 * float(exact.abs().max()))


@pytest.mark.parametrize("name", NETWORKS)
def test_no_label_is_a_class_of_its_own(name):
    net = made(name, classes=3)
    u, noise = given(name)
    output = [net(u, noise, torch.full((4,), label, device=cases.DEVICE)) for label in (-1, 0, 1, 2)]
    assert torch.equal(net(u, noise), output[0])
    assert torch.equal(net(u, noise, None), output[0])
    mixed = net(u, noise, torch.tensor([1, -1, 2, 0], device=cases.DEVICE))
    for point, label in enumerate((2, 0, 3, 1)):
        assert torch.allclose(mixed[point], output[label][point], rtol=1e-10)
        others = [
            float((output[each][point] - mixed[point]).detach().abs().max()) for each in range(4) if each != label
        ]
        assert min(others) > 1e-3
    with pytest.raises(ValueError, match="made without classes"):
        made(name)(u, noise, torch.zeros(4, dtype=torch.int64, device=cases.DEVICE))


@pytest.mark.parametrize("name", NETWORKS)
def test_each_point_is_told_its_own_level_and_sees_no_other_point(name):
    net = made(name).train()  # what is true in training is true of the trained
    u, noise = given(name)
    together = net(u, noise)
    for each in range(4):
        alone = net(u[each : each + 1], noise[each : each + 1])
        assert torch.allclose(alone[0], together[each], rtol=1e-9, atol=1e-12)
    assert float((net(u, noise.flip(0)) - together).detach().abs().amax(tuple(range(1, u.ndim))).min()) > 1e-3


@pytest.mark.parametrize("inside", ["half", "product"])
@pytest.mark.parametrize("name", NETWORKS)
def test_it_may_be_the_inside_of_an_energy(name, inside):
    net = made(name)
    u, noise = given(name, 2)

    def energy(x):
        f = net(x, noise)
        return ((x - f).square() / 2 if inside == "half" else x * f).flatten(1).sum(1)

    def loss(s):
        return (s - u).square().sum()

    s = torch.func.grad(lambda x: energy(x).sum())(u)
    assert torch.allclose(s, -score(energy, u), rtol=1e-9)
    step = 1e-5
    s = s.detach()
    way = s / s.norm()
    with torch.no_grad():
        slope = (energy(u + step * way) - energy(u - step * way)).sum() / (2 * step)
    assert float(slope) == pytest.approx(float(s.norm()), rel=1e-6)

    parameters = list(net.parameters())
    by_func = torch.autograd.grad(loss(torch.func.grad(lambda x: energy(x).sum())(u)), parameters, allow_unused=True)
    by_graph = torch.autograd.grad(loss(-score(energy, u, create_graph=True)), parameters, allow_unused=True)
    size = math.sqrt(sum(float(g.square().sum()) for g in by_func if g is not None))
    values = []
    for sign in (1, -2):  # one step forward, two back
        for parameter, g in zip(parameters, by_func, strict=True):
            parameter.data += 0 if g is None else sign * step * g / size
        values.append(float(loss(-score(energy, u)).detach()))
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(size, rel=1e-5)
    for one, other in zip(by_func, by_graph, strict=True):
        assert (one is None and other is None) or torch.allclose(one, other, rtol=1e-7, atol=1e-10 * size)


def test_dropout_is_of_training_only():
    u, noise = given("unet")
    net = made("unet", dropout=0.5)
    assert torch.equal(net(u, noise), net(u, noise))
    assert torch.equal(net(u, noise), made("unet")(u, noise))
    with global_seed(0):
        one, other = net.train()(u, noise), net(u, noise)
    assert float((one - other).detach().abs().max()) > 1e-3


def test_a_recipe_names_them():
    assert set(DENOISING_NETWORKS) == {"unet", "resnet", "mlp"}
    settings = {"network": {"name": "unet", "width": 8, "multipliers": [1, 2], "attention": [4]}}
    settings |= {"preconditioning": {"name": "edm"}}
    model = build(DENOISERS, "denoiser", settings, shape=(1, 16, 16))
    assert isinstance(model, NetworkDenoiser)
    assert model.preconditioning == EDM()
    assert [isinstance(each[0].attention, Attention) for each in model.network.down] == [False, True]
    with pytest.raises(UserError, match=r"attention is at one of \[8, 4\].*; it was 5"):
        build(
            DENOISERS, "denoiser", settings | {"network": settings["network"] | {"attention": [5]}}, shape=(1, 16, 16)
        )


@pytest.mark.parametrize(
    ("thunk", "message"),
    [
        (lambda: UNet((1, 28, 28), width=0), "width is at least 1; it was 0"),
        (lambda: UNet((1, 28, 28), multipliers=()), "at least 1"),
        (lambda: UNet((1, 28, 28), multipliers=(1, 0)), "at least 1"),
        (lambda: UNet((1, 7, 28)), "from 8×8 to 64×64; they were 7×28"),
        (lambda: UNet((1, 8, 65)), "from 8×8 to 64×64; they were 8×65"),
        (lambda: UNet((1, 8, 8), patch=1, multipliers=(1,) * 5), "cannot be halved 4 times"),
        (lambda: UNet((1, 28, 28), classes=-1), "classes is at least 0; it was -1"),
        (lambda: DenoisingResNet((1, 8, 8), dilations=()), "at least 1"),
        (lambda: DenoisingResNet((1, 8, 8), patch=0), "patch and dilation is at least 1; it was 0"),
        (lambda: DenoisingMLP(2, depth=0), "depth is at least 1; it was 0"),
    ],
)
def test_sizes_that_make_no_network(thunk, message):
    with pytest.raises(ValueError, match=message):
        thunk()


def test_an_image_is_halved_down_to_one_pixel():
    net = moved(UNet((1, 8, 8), width=4, patch=1, multipliers=(1, 1, 1, 1)).double())
    seen = []
    net.middle.register_forward_hook(lambda _, inputs, out: seen.append(out.shape[2:]))
    net(cases.normal(1, 1, 8, 8), torch.zeros(1, dtype=torch.float64))
    assert seen == [(1, 1)]


@pytest.mark.parametrize(
    "made",
    [lambda: Attention(12), lambda: group_norm(12), lambda: group_norm(12, affine=False)],
    ids=["attention", "norm", "norm without weights"],
)
def test_layers_that_are_written_otherwise_for_compilers_do_the_same(made, monkeypatch):
    """Channels last, as on a GPU: the same numbers and gradients, and images that stay laid out as they were."""
    layer, x = moved(made().double()), cases.normal(3, 12, 5, 4).to(memory_format=torch.channels_last)
    results = []
    for compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda compiling=compiling: compiling)
        u = x.clone().requires_grad_()
        y = layer(u)
        gradient, *others = torch.autograd.grad((y * x.sin()).sum(), [u, *layer.parameters()])
        results.append([y, gradient, *others])
    assert results[1][0].is_contiguous(memory_format=torch.channels_last)
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("affine", [False, True])
def test_norms_tell_numbers_of_the_same_kind_when_compiled(affine, autocast, monkeypatch):
    norm, x = group_norm(8, affine=affine), cases.normal(2, 8, 3, 3, dtype=torch.bfloat16)
    norm = norm if autocast else norm.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        plain = norm(x)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        compiled = norm(x)
    assert compiled.dtype == plain.dtype
    assert torch.allclose(plain, compiled, atol=2e-2)
