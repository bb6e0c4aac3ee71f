"""Networks of images: the residual one by hand, and what spectral normalisation does and does not promise."""

import copy
import functools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import cases
from energyscape.calculus import energy_and_score, score
from energyscape.models import ConvEnergyNet, NeuralEnergy, ResidualEnergyNet
from energyscape.objectives import ContrastiveDivergence, DenoisingScoreMatching, ReplayBuffer
from energyscape.objectives.contrastive import evaluating
from energyscape.rng import global_seed
from energyscape.samplers import Langevin

NORMALISED = {
    "conv": lambda shape: ConvEnergyNet(shape, width=4, spectral_norm=True),
    "residual": lambda shape: ResidualEnergyNet(shape, width=4, spectral_norm=True),
}
IMAGES = [(1, 8, 8), (3, 8, 8), (1, 28, 28), (3, 32, 32), (2, 9, 13), (1, 8, 64), (3, 17, 31), (3, 64, 64)]


def made(name, shape):
    with global_seed(0):
        return NORMALISED[name](shape).to(cases.DEVICE, torch.float64)


def residual(shape, **settings):
    with global_seed(0):
        return ResidualEnergyNet(shape, **settings).to(cases.DEVICE, torch.float64)


def test_a_residual_network_is_its_equation():
    net = residual((3, 9, 8), width=3, activation="elu")
    x = cases.normal(5, 3, 9, 8)
    phi, conv = functional.elu, functional.conv2d
    h = conv(x, net.first.weight, net.first.bias, padding=1)
    *blocks, _ = net.blocks
    for block, (inside, outside, side) in zip(blocks, [(3, 6, (5, 4)), (6, 12, (3, 2)), (12, 12, (3, 2))], strict=True):
        change = conv(phi(h), block.first.weight, block.first.bias, padding=1)
        change = conv(phi(change), block.second.weight, block.second.bias, padding=1)
        short = h
        if inside != outside:
            short = torch.einsum("oi,bihw->bohw", block.shortcut.weight[:, :, 0, 0], h)
            # Averages of 2×2; what sticks out of the image counts as nothing, not as zeros.
            short, change = (averaged(each) for each in (short, change))
        h = short + change
        assert h.shape[1:] == (outside, *side)
    assert torch.allclose(net(x), phi(h).sum((2, 3)) @ net.last.weight[0], rtol=1e-10)


def averaged(h):
    rows, columns = (-(-side // 2) for side in h.shape[2:])
    cells = [h[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((2, 3)) for i in range(rows) for j in range(columns)]
    return torch.stack(cells, 2).reshape(*h.shape[:2], rows, columns)


@pytest.mark.parametrize("shape", IMAGES, ids=str)
def test_a_residual_network_takes_images_from_8_to_64_pixels_and_sees_every_one(shape):
    x = cases.normal(1, *shape)
    s = score(residual(shape, width=3), x)
    assert bool((s != 0).all())


@pytest.mark.parametrize("blocks", [1, 3])
def test_blocks_at_each_resolution(blocks):
    net = residual((1, 28, 28), width=2, blocks=blocks)
    # 28, 14, 7 and 4 pixels.
    assert len(net.blocks) == 4 * blocks + 1
    first = [each.first.out_channels for each in net.blocks[:-1:blocks]]
    assert first == ([4, 8, 8, 8] if blocks == 1 else [2, 4, 8, 8])


@pytest.mark.parametrize("settings", [{"width": 0}, {"blocks": 0}])
def test_sizes_are_positive(settings):
    with pytest.raises(ValueError, match="at least 1; it was 0"):
        ResidualEnergyNet((1, 8, 8), **settings)


@pytest.mark.parametrize("shape", [(1, 7, 8), (1, 65, 64)], ids=str)
def test_other_images_are_refused(shape):
    with pytest.raises(ValueError, match="8×8 to 64×64"):
        ResidualEnergyNet(shape)


@pytest.mark.parametrize("name", NORMALISED)
def test_the_score_is_minus_the_slope_and_has_one_itself(name):
    net, x, v = made(name, (2, 8, 9)).eval(), cases.normal(3, 2, 8, 9), cases.normal(3, 2, 8, 9, seed=1)
    s, h = score(net, x), 1e-5
    # Central differences: an error of h² times third derivatives, and of rounding 1e-16 / h.
    slope = (net(x + h * v) - net(x - h * v)) / (2 * h)
    assert torch.allclose(-(s * v).flatten(1).sum(1), slope, rtol=1e-6, atol=1e-9)
    x = x.requires_grad_()
    (twice,) = torch.autograd.grad((score(net, x, create_graph=True) * v).sum(), x)
    curve = (score(net, x.detach() + h * v) - score(net, x.detach() - h * v)) / (2 * h)
    assert torch.allclose(twice, curve, rtol=1e-5, atol=1e-9)
    # The same for the parameters, as a score-matching loss needs them.
    weight = next(iter(net.parameters()))
    (gradient,) = torch.autograd.grad((score(net, x, create_graph=True) * v).sum(), weight)
    sides = []
    for move in (h, -h):
        with torch.no_grad():
            weight.view(-1)[0] += move
            sides.append(float((score(net, x.detach()) * v).sum()))
            weight.view(-1)[0] -= move
    assert float(gradient.view(-1)[0]) == pytest.approx((sides[0] - sides[1]) / (2 * h), rel=1e-5, abs=1e-9)


def test_a_loss_with_the_score_in_it_trains_every_parameter():
    energy = NeuralEnergy(residual((1, 8, 8), width=3, blocks=2))
    objective = DenoisingScoreMatching(sigma=0.5)
    objective(energy, cases.normal(4, 1, 8, 8), generator=cases.generator()).value.backward()
    # The last biases shift an activation and so do matter; there is no parameter that the score forgets.
    assert all(float(each.grad.abs().max()) > 0 for each in energy.parameters())


# Spectral normalisation


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", NORMALISED)
def test_power_iteration_stands_still_in_evaluation_mode(name):
    net, x = made(name, (1, 8, 8)), cases.normal(4, 1, 8, 8)
    for _ in range(3):
        net(x)
    kept = state(net)
    net(x)
    assert not same(kept, state(net))  # it goes on in training mode
    net.eval()
    kept, first = state(net), net(x)
    for _ in range(100):
        energy_and_score(net, x)
    assert same(kept, state(net))
    assert torch.equal(net(x), first)


@pytest.mark.parametrize("name", NORMALISED)
def test_power_iteration_stands_still_inside_the_chains_of_training(name):
    energy, x = NeuralEnergy(made(name, (1, 8, 8))), cases.normal(4, 1, 8, 8)
    with evaluating(energy):
        kept = state(energy)
        for _ in range(100):
            energy_and_score(energy, x)
    assert same(kept, state(energy))
    assert all(module.training for module in energy.modules())
    # A training step is one iteration, whatever the number of steps of its chains.
    after = []
    for steps in (1, 40):
        learner = copy.deepcopy(energy)
        kernel = functools.partial(Langevin, step_size=1e-3)
        objective = ContrastiveDivergence(ReplayBuffer(8), kernel, steps=steps)
        objective(learner, x, generator=cases.generator())
        after.append(state(learner))
    assert same(*after)
    by_hand = copy.deepcopy(energy)
    by_hand(x)
    assert same(after[0], state(by_hand))


def operator(layer, shape):
    """The matrix of a convolution, on images of a shape, without its bias."""
    size = math.prod(shape)
    images = torch.eye(size, dtype=torch.float64, device=cases.DEVICE).reshape(size, *shape)
    weight = layer.weight.detach()
    return functional.conv2d(images, weight, stride=layer.stride, padding=layer.padding).flatten(1).mT


@pytest.mark.parametrize("name", NORMALISED)
def test_spectral_normalisation_bounds_every_layer(name):
    net, x = made(name, (2, 8, 8)), cases.normal(2, 2, 8, 8)
    for _ in range(300):
        net(x)
    net.eval()
    layers = [each for each in net.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    normalised = [each for each in layers if hasattr(each, "parametrizations")]
    assert len(normalised) == len(layers) - 1 == (3 if name == "conv" else 6)
    for layer in normalised:
        # As defined: of the matrix of output channels times everything else the largest singular value is one.
        assert float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)) == pytest.approx(1, abs=1e-6)
        if isinstance(layer, nn.Conv2d):
            found = float(torch.linalg.matrix_norm(operator(layer, (layer.in_channels, 8, 8)), 2))
            assert found <= layer.kernel_size[0] / layer.stride[0] + 1e-6
            if layer.kernel_size == (1, 1):
                assert found == pytest.approx(1, abs=1e-6)


def test_the_bound_of_a_convolution_is_reached_and_is_not_one():
    layer = nn.Conv2d(1, 1, 3, padding=1, bias=False).double()
    layer.weight.data.fill_(1 / 3)  # of Frobenius norm one: as spectral normalisation leaves it
    found = float(torch.linalg.matrix_norm(operator(layer, (1, 24, 24)), 2))
    assert 2.9 < found < 3  # the constant image is tripled, but for its edge


@pytest.mark.parametrize("activation", ["silu", "softplus", "elu", "relu"])
def test_a_bounded_network_is_as_steep_as_it_says_at_most(activation):
    shape, scale = (1, 8, 8), 16.0
    with global_seed(1):
        net = ConvEnergyNet(shape, width=4, spectral_norm=True, activation=activation).to(cases.DEVICE, torch.float64)
    for _ in range(100):
        net(cases.normal(1, *shape))
    energy = NeuralEnergy(net.eval(), scale=scale).requires_grad_(False)
    norm = float(torch.linalg.vector_norm(net.layers[-2].weight.detach()))
    # √d ‖w‖ times the bounds of the layers, 3 / 1 and 4 / 2 and 1, and the steepest slope of each activation.
    steepest = {"silu": 1.0999, "softplus": 1.0, "elu": 1.0, "relu": 1.0}[activation]
    bound = scale * 8 * norm * 3 * 2 * steepest**3
    x, y = cases.normal(512, *shape), cases.normal(512, *shape, seed=1)
    x = torch.cat([x, x, 100 * x])
    y = torch.cat([y, x[:512] + 1e-3 * y, 100 * y])
    rise = (energy(x) - energy(y)).abs() / (x - y).flatten(1).norm(dim=1)
    assert float(rise.max()) <= bound
    assert float(rise.max()) > bound / 1000  # random directions are 350 times flatter than the bound; a lost √d is 8


def test_a_bounded_network_begins_with_the_slope_of_images():
    """At 1 / σ² the gradient of a calibrated energy is a denoised image over σ²: its network's slopes are lengths."""
    for side in (8, 28):
        energy = NeuralEnergy(NORMALISED["conv"]((1, side, side)).double())
        plain = NeuralEnergy(nn.Sequential(*energy.network.layers[:-1]).double())
        x = cases.normal(4, 1, side, side)
        assert torch.allclose(energy.eval()(x), side * plain.eval()(x), rtol=1e-12)
        assert energy.network.layers[-2].weight.requires_grad


def test_weights_of_any_size_are_tamed():
    net, x = made("residual", (1, 8, 8)), cases.normal(2, 1, 8, 8)
    small = net.eval()(x)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("original"):
                parameter.mul_(1000)
    # u and v are those of the singular values whatever their size.
    assert torch.allclose(net(x), small, rtol=1e-10)
