"""Energies and networks: their values against hand-written formulas."""

import itertools
import math

import pytest
import torch
from torch import nn

import cases
from energyscape.calculus import score
from energyscape.evaluation import log_z
from energyscape.models import (
    ENERGIES,
    MLP,
    NETWORKS,
    ConvEnergyNet,
    Gaussian,
    GaussianBernoulliRBM,
    GaussianMixture,
    NeuralEnergy,
)
from energyscape.models.networks import ACTIVATIONS
from energyscape.registry import schema

IMAGES = [(1, 8, 8), (3, 8, 8), (1, 14, 14), (1, 28, 28), (3, 32, 32), (2, 9, 13), (1, 16, 64), (1, 8, 64), (3, 64, 64)]


def fits(name, shape):
    return name.startswith("mlp") or len(shape) == 3


@pytest.mark.parametrize("wrong", [lambda x: x.sum(), lambda x: x, lambda x: x.sum(1)[None], lambda x: x[:, :1, None]])
def test_a_neural_energy_is_one_number_a_point(wrong):
    with pytest.raises(ValueError, match="one number each"):
        NeuralEnergy(wrong, reference_std=1.0)(cases.normal(4, 2))


def test_every_network_has_a_case():
    assert {name.split(":")[0] for name in cases.NETWORKS} == set(NETWORKS)
    assert set(ENERGIES) == {"neural"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", cases.SHAPES.values(), ids=cases.SHAPES.keys())
@pytest.mark.parametrize("name", cases.NETWORKS)
def test_networks_map_points_to_one_number_each(name, shape, dtype):
    if not fits(name, shape):
        pytest.skip("takes images")
    net = cases.network(name, shape).to(cases.DEVICE, dtype).eval()
    x = cases.normal(5, *shape, dtype=dtype)
    f = net(x)
    assert f.shape == (5,)
    assert f.dtype == dtype
    # Rows are computed alone: no batch normalisation, no leak from one point to another.
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    assert torch.allclose(net(x[2:3]), f[2:3], rtol=tolerance, atol=tolerance)
    assert f.unique().numel() == 5
    assert torch.equal(net(x), f)
    # The last layer has no bias, because a constant changes no density.
    assert [each for each in net.modules() if isinstance(each, nn.Linear)][-1].bias is None


@pytest.mark.parametrize("shape", IMAGES, ids=str)
def test_convolutions_take_images_from_8_to_64_pixels_and_see_every_one(shape):
    net = ConvEnergyNet(shape, width=4).to(cases.DEVICE, torch.float64)
    x = cases.normal(1, *shape).requires_grad_()
    f = net(x)
    assert f.shape == (1,)
    (gradient,) = torch.autograd.grad(f.sum(), x)
    assert bool((gradient != 0).all())


@pytest.mark.parametrize("shape", [(1, 7, 8), (1, 65, 64), (1, 4, 4)])
def test_convolutions_refuse_other_images(shape):
    with pytest.raises(ValueError, match="8×8 to 64×64"):
        ConvEnergyNet(shape)


@pytest.mark.parametrize(
    "make", [lambda: MLP(2, width=0), lambda: MLP(2, depth=0), lambda: ConvEnergyNet((1, 8, 8), width=0)]
)
def test_sizes_are_positive(make):
    with pytest.raises(ValueError, match="at least 1"):
        make()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_mlp_is_affine_maps_and_activations(activation):
    net = MLP((1, 2, 2), width=3, depth=2, activation=activation).double()
    w = [each for each in net.modules() if isinstance(each, nn.Linear)]
    x = torch.randn(7, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    act = ACTIVATIONS[activation]()
    hidden = act(act(x.reshape(7, 4) @ w[0].weight.T + w[0].bias) @ w[1].weight.T + w[1].bias)
    assert len(w) == 3
    assert torch.allclose(net(x), (hidden @ w[2].weight.T)[:, 0], rtol=1e-12)


def test_spectral_normalisation_bounds_the_slope_of_the_energy():
    net = cases.network("conv:normalised", (1, 8, 8)).double()
    x = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for _ in range(300):  # power iterations, one a call in training mode
        net(x[:1])
    net.eval()
    bounded, free = [each for each in net.modules() if isinstance(each, nn.Linear)]
    assert float(torch.linalg.matrix_norm(bounded.weight.detach(), 2)) == pytest.approx(1, abs=1e-6)
    assert float(torch.linalg.matrix_norm(free.weight.detach(), 2)) != pytest.approx(1, abs=1e-3)


def test_a_neural_energy_adds_its_reference():
    net = cases.network("mlp", (2,)).double()
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(NeuralEnergy(net)(x), net(x))
    tilted = NeuralEnergy(net, reference_std=0.5)(x)
    assert torch.allclose(tilted, net(x) + 2 * x.square().sum(1), rtol=1e-12)  # 1 / 2 s² = 2


def test_a_neural_energy_takes_columns_labels_and_images():
    x = torch.randn(6, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    label = torch.arange(6)
    column = NeuralEnergy(nn.Sequential(nn.Flatten(), nn.Linear(4, 1)))
    assert torch.equal(column(x), column.network(x)[:, 0])
    assert column(x[:1]).shape == (1,)
    conditional = NeuralEnergy(lambda x, label: x.flatten(1).sum(1) * label, reference_std=1.0)
    assert torch.allclose(conditional(x, label), x.flatten(1).sum(1) * label + x.flatten(1).square().sum(1) / 2)


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan])
def test_a_reference_has_a_positive_width(std):
    with pytest.raises(ValueError, match="reference_std"):
        NeuralEnergy(nn.Linear(2, 1), reference_std=std)


@pytest.mark.parametrize("name", ["correlated", "image"])
def test_a_gaussian_is_minus_the_log_density_of_torch(name):
    law = cases.TARGETS[name]().energy
    covariance = law.factor @ law.factor.mT
    truth = torch.distributions.MultivariateNormal(law.mean.flatten(), covariance)
    x = cases.normal(9, *law.mean.shape)
    assert torch.allclose(-law(x) - law.log_z, truth.log_prob(x.flatten(1)), rtol=1e-10)


def test_a_mixture_is_minus_the_log_density_of_torch():
    law = cases.uneven().energy
    parts = torch.distributions.Independent(torch.distributions.Normal(law.means, law.std), 1)
    truth = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(law.weights), parts)
    x = 3 * cases.normal(9, 2)
    assert torch.allclose(-law(x) - law.log_z, truth.log_prob(x), rtol=1e-10)
    assert float(law.weights.sum()) == pytest.approx(1)


def rbm(hidden, shape=(2,), seed=5):
    weights, b, c = cases.normal(hidden, *shape, seed=seed), cases.normal(*shape, seed=6), cases.normal(hidden, seed=7)
    return GaussianBernoulliRBM(weights, b, c, std=0.8)


def test_an_rbm_is_the_sum_over_its_hidden_states():
    law = rbm(3, (1, 2, 2))
    x = cases.normal(9, 1, 2, 2)
    joint = []
    for state in itertools.product([0.0, 1.0], repeat=3):
        h = cases.tensor(state)
        coupling = torch.einsum("j,jabc,nabc->n", h, law.weights, x) / 0.8**2
        joint.append((x - law.visible).square().sum((1, 2, 3)) / (2 * 0.8**2) - h @ law.hidden - coupling)
    assert torch.allclose(law(x), -torch.logsumexp(-torch.stack(joint), 0), rtol=1e-12)


@pytest.mark.parametrize("hidden", [1, 2, 5])
def test_log_z_of_an_rbm_by_quadrature(hidden):
    law = rbm(hidden)
    result = log_z(law, ((-14.0, 14.0), (-14.0, 14.0)))
    assert result.edge_mass < 1e-12
    assert law.log_z == pytest.approx(result.value, abs=1e-10)


def test_log_z_of_an_rbm_whose_units_are_independent():
    # With orthogonal rows far out in many dimensions the sum over 2^16 states is a product of 16 sums over two.
    law = GaussianBernoulliRBM(2 * torch.eye(16), 0.5 * torch.ones(16), torch.linspace(-3, 1, 16), std=1.5)
    terms = torch.linspace(-3, 1, 16).double() + (0.5 * 2 + 2**2 / 2) / 1.5**2
    truth = 8 * math.log(2 * math.pi * 1.5**2) + float(torch.nn.functional.softplus(terms).sum())
    assert law.log_z == pytest.approx(truth, rel=1e-6)
    assert law.sample(7).shape == (7, 16)


@pytest.mark.parametrize("shape", [(2,), (1, 2, 2)], ids=str)
def test_exact_draws_of_an_rbm_obey_steins_identity(shape):
    # E[s(x)] = 0 and E[s_i(x) x_k] = -1[i = k], which is blind to the weights of far modes: see the next test.
    law = rbm(4, shape)
    x = law.sample(2**15, generator=cases.generator(3))
    s = score(law, x).flatten(1)
    for i, k in itertools.product(range(s.shape[1]), repeat=2):
        assert abs(cases.z_score(s[:, i])) < 5
        assert abs(cases.z_score(s[:, i] * x.flatten(1)[:, k], -float(i == k))) < 5


def test_hidden_states_of_an_rbm_are_drawn_by_their_weights():
    # Four Gaussians 20 deviations apart: log weights 0, 1, -0.5 and 0.5, the coupling of orthogonal rows being none.
    w = cases.tensor([[20.0, 0.0], [0.0, 20.0]])
    c = cases.tensor([1.0, -0.5]) - 200
    law = GaussianBernoulliRBM(w, torch.zeros(2, dtype=torch.float64), c, std=1.0)
    x = law.sample(2**14, generator=cases.generator(1))
    truth = cases.tensor([0.0, 1.0, -0.5, 0.5]).softmax(0)
    for (right, top), share in zip([(0, 0), (1, 0), (0, 1), (1, 1)], truth, strict=True):
        there = ((x[:, 0] > 10) == bool(right)) & ((x[:, 1] > 10) == bool(top))
        assert abs(cases.z_score(there, float(share))) < 5
    assert law.log_z == pytest.approx(math.log(2 * math.pi) + float(cases.tensor([0.0, 1.0, -0.5, 0.5]).logsumexp(0)))


def test_weights_are_scaled_to_sum_to_one():
    means = cases.normal(3, 2)
    unscaled = GaussianMixture(means, std=1.0, weights=cases.tensor([5.0, 2.0, 3.0]))
    assert torch.allclose(unscaled.weights, cases.tensor([0.5, 0.2, 0.3]))
    assert torch.allclose(GaussianMixture(means, std=1.0).weights, cases.tensor([1 / 3] * 3))


@pytest.mark.parametrize("name", ["correlated", "image", "uneven"])
def test_exact_draws_have_the_moments_of_the_law(name):
    law, sample, _ = cases.TARGETS[name]()
    x = sample(2**15, generator=cases.generator(3)).flatten(1)
    if name == "uneven":
        mean = law.weights @ law.means
        second = law.weights @ law.means.square() + law.std**2
        cross = law.weights @ law.means.prod(1)
    else:
        mean, covariance = law.mean.flatten(), law.factor @ law.factor.mT
        second = covariance.diagonal() + mean**2
        cross = covariance[0, 1] + mean[0] * mean[1]
    for i in range(x.shape[1]):
        assert abs(cases.z_score(x[:, i], float(mean[i]))) < 5
        assert abs(cases.z_score(x[:, i].square(), float(second[i]))) < 5
    assert abs(cases.z_score(x[:, 0] * x[:, 1], float(cross))) < 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gaussian(torch.zeros(2), torch.eye(3)), "goes with a covariance"),
        (lambda: Gaussian(torch.zeros(2), -torch.eye(2)), "positive definite"),
        (lambda: Gaussian(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]])), "symmetric"),
        (lambda: GaussianMixture(torch.zeros(2, 2), std=0.0), "std is positive"),
        (lambda: GaussianBernoulliRBM(torch.ones(1, 2), torch.ones(2), torch.ones(1), std=0.0), "std is positive"),
        (lambda: GaussianBernoulliRBM(torch.ones(17, 2), torch.ones(2), torch.ones(17), std=1.0), "were 17"),
        (lambda: GaussianBernoulliRBM(torch.ones(2, 1), torch.ones(2), torch.ones(2), std=1.0), r"were \(2, 1\)"),
        (lambda: GaussianMixture(torch.zeros(2, 2), std=1.0, weights=torch.ones(3)), "2 means"),
        (lambda: GaussianMixture(torch.zeros(2, 2), std=1.0, weights=torch.tensor([1.0, -1.0])), "positive numbers"),
    ],
)
def test_analytic_energies_refuse_nonsense(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_every_setting_of_a_network_is_documented():
    for name, component in [*NETWORKS.items(), *ENERGIES.items()]:
        assert all(field.doc for field in schema(component).values()), name
