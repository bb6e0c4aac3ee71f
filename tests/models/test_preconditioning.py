"""Preconditionings against the formulas of their papers, in the papers' own coordinates."""

import math

import pytest
import torch

import cases
from energyscape.models import EDM, PRECONDITIONINGS, Clean, Epsilon, Flow, NetworkDenoiser, Score, Velocity
from energyscape.models.exact_denoisers import GaussianDenoiser
from energyscape.schedules import chain_levels

ROWS = {
    "edm": EDM(data_std=0.7),
    "epsilon": Epsilon(),
    "velocity": Velocity(),
    "clean": Clean(data_std=0.7),
    "score": Score(),
    "flow": Flow(),
}


def test_every_row_is_here():
    assert set(ROWS) == set(PRECONDITIONINGS)
    assert {name: type(row) for name, row in ROWS.items()} == dict(PRECONDITIONINGS)


def network(u, noise, label=None):
    """Depends on all that it is given, differently."""
    column = noise.reshape(-1, *[1] * (u.ndim - 1))
    return torch.tanh(u + 0.3) * 1.7 + torch.sin(column) * u.flip(-1) + (0 if label is None else 10)


def points(shape=(3, 2)):
    sigma = 0.02 * 1000 ** torch.rand(7, generator=cases.generator(1), dtype=torch.float64)
    return cases.normal(7, *shape) * 2, sigma, sigma.reshape(-1, *[1] * len(shape))


def target(name, y, s, sigma):
    """Returns the posterior mean by the paper's own formula, in its coordinates."""
    alpha, beta = 1 / (1 + s**2).sqrt(), s / (1 + s**2).sqrt()
    quarter = sigma.log() / 4
    if name == "epsilon":  # DDPM, equation 15: x̂₀ = (x_t - √(1 - ᾱ) ε) / √ᾱ
        return (alpha * y - beta * network(alpha * y, Epsilon().time(sigma))) / alpha
    if name == "velocity":  # Salimans & Ho, appendix D: x̂ = α z - σ v
        return alpha * (alpha * y) - beta * network(alpha * y, quarter)
    if name == "flow":  # x_t = (1 - t) x + t ε and v = ε - x: x = x_t - t v
        t = s / (1 + s)
        return (1 - t) * y - t * network((1 - t) * y, sigma / (1 + sigma))
    if name == "score":  # s = F / σ and Tweedie's formula
        return y + s**2 * (network(y, quarter) / s)
    size = (s**2 + 0.49).sqrt()
    if name == "clean":
        return network(y / size, quarter)
    return 0.49 / (s**2 + 0.49) * y + s * 0.7 / size * network(y / size, quarter)  # EDM, table 1


@pytest.mark.parametrize("name", ROWS)
def test_a_denoiser_is_what_its_paper_says(name):
    y, sigma, s = points()
    model = NetworkDenoiser(network, ROWS[name])
    assert torch.allclose(model(y, sigma), target(name, y, s, sigma), rtol=1e-10, atol=1e-10)


def test_edm_sees_and_says_things_of_variance_one():
    """Karras et al. (2022), appendix B.6, for data of variance 0.49 about zero."""
    sigma = torch.logspace(-2, 2, 9, dtype=torch.float64)
    skip, out, inside, _ = EDM(data_std=0.7)(sigma)
    assert torch.allclose(inside**2 * (sigma**2 + 0.49), torch.ones_like(sigma))
    assert torch.allclose(((1 - skip) ** 2 * 0.49 + skip**2 * sigma**2) / out**2, torch.ones_like(sigma))


def test_ddpms_time_is_the_step_of_its_chain():
    levels = torch.tensor(chain_levels(1e-4, 0.02, 1000), dtype=torch.float64)
    time = Epsilon().time(levels)
    assert torch.allclose(time, torch.arange(1000, dtype=torch.float64), atol=1e-7, rtol=0)
    between = (levels[300] * levels[301]).sqrt().reshape(1)
    assert float(Epsilon().time(between)) == pytest.approx(300.5, abs=1e-9)
    outside = torch.tensor([1e-4, 1e4], dtype=torch.float64)
    assert Epsilon().time(outside).tolist() == [0, 999]


@pytest.mark.parametrize("name", ROWS)
def test_the_same_model_in_every_parameterisation_is_one_denoiser(name):
    """The exact denoiser of a Gaussian, asked for what each network predicts."""
    exact = GaussianDenoiser(cases.tensor([0.4, -1.0]), cases.tensor([[0.6, 0.2], [0.2, 0.9]]))
    row = ROWS[name]

    def predicted(u, noise, label):
        y = u / row(sigma).inside.unsqueeze(1)
        x, alpha = exact(y, sigma), 1 / (1 + s**2).sqrt()
        epsilon = (y - x) / s
        size = (s**2 + 0.49).sqrt()
        return {
            "epsilon": epsilon,
            "velocity": alpha * epsilon - s * alpha * x,
            "clean": x,
            "score": -epsilon,
            "flow": epsilon - x,
            "edm": (x - 0.49 / size**2 * y) / (0.7 * s / size),
        }[name]

    y, sigma, s = points((2,))
    assert torch.allclose(NetworkDenoiser(predicted, row)(y, sigma), exact(y, sigma), rtol=1e-5, atol=1e-9)


def test_labels_reach_the_network():
    y, sigma, _ = points()
    model = NetworkDenoiser(network, Clean(data_std=0.7))
    output = model(y, sigma, torch.zeros(7, dtype=torch.int64))
    assert torch.allclose(output, model(y, sigma) + 10)


def test_a_denoiser_knows_the_classes_of_its_network():
    network.classes = 4
    try:
        assert NetworkDenoiser(network, Flow()).classes == 4
    finally:
        del network.classes
    assert NetworkDenoiser(network, Flow()).classes == 0


@pytest.mark.parametrize("row", [EDM, Clean])
def test_data_have_some_width(row):
    with pytest.raises(ValueError, match="data_std is positive"):
        row(data_std=0.0)


@pytest.mark.parametrize(
    "wrong", [{"beta_min": 0.0}, {"beta_max": 1.0}, {"beta_min": 0.1, "beta_max": 0.01}, {"chain": 1}]
)
def test_a_chain_of_betas_rises(wrong):
    with pytest.raises(ValueError, match="chain" if "chain" in wrong else "beta_m"):
        Epsilon(**wrong)


def test_the_noise_is_told_as_a_quarter_of_its_logarithm():
    sigma = torch.tensor([math.e**2], dtype=torch.float64)
    assert [float(row(sigma).noise) for name, row in ROWS.items() if name not in ("epsilon", "flow")] == [0.5] * 4
