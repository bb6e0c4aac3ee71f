"""Laws of noise levels by their quantiles, and weights by what they are the squared error of."""

import math

import pytest
import torch

import cases
from energyscape.models import EDM, Clean, Epsilon, Flow, Velocity
from energyscape.noise import GRIDS
from energyscape.objectives import (
    LEVELS,
    WEIGHTS,
    ChainLevels,
    CleanWeight,
    CosineLevels,
    EDMWeight,
    FlowLevels,
    FlowWeight,
    GeometricSchedule,
    LogNormal,
    LogUniform,
    MinSNRWeight,
    NoiseWeight,
    VelocityWeight,
)

EVEN = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000

DISTRIBUTIONS = {
    "log-normal": lambda: LogNormal(mean=-0.4, std=0.9),
    "log-uniform": lambda: LogUniform(sigma_min=0.1, sigma_max=20.0),
    "ladder": lambda: GeometricSchedule(sigma_min=0.1, sigma_max=20.0, rungs=8),
    "chain": lambda: ChainLevels(chain=50),
    "cosine": CosineLevels,
    "flow": FlowLevels,
}

WEIGHED = {
    "edm": (lambda: EDMWeight(data_std=0.7), EDM(data_std=0.7)),
    "noise": (NoiseWeight, Epsilon()),
    "velocity": (VelocityWeight, Velocity()),
    "clean": (CleanWeight, Clean(data_std=0.7)),
    "flow": (FlowWeight, Flow()),
}


def test_every_law_and_weight_is_here():
    assert set(DISTRIBUTIONS) == set(LEVELS)
    assert {*WEIGHED, "min-snr"} == set(WEIGHTS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_quantiles_are_positive_rising_and_of_the_dtype_of_their_numbers(name, dtype):
    # The ends too: shifted grids hold 0, and numbers just below 1.
    u = torch.cat([torch.tensor([0.0]), EVEN, torch.tensor([1 - 2**-24])]).to(dtype)
    sigma = DISTRIBUTIONS[name]()(u)
    assert sigma.dtype == dtype
    assert bool((sigma > 0).all())
    assert bool(sigma.isfinite().all())
    assert bool((sigma.diff() >= 0).all())


def test_log_normal_levels_have_their_mean_and_deviation():
    """Between 2,000 quantiles the mean and deviation of a normal law are found to a few thousandths."""
    z = LogNormal(mean=-0.4, std=0.9)(EVEN).log()
    assert float(z.mean()) == pytest.approx(-0.4, abs=1e-9)
    assert float(z.std()) == pytest.approx(0.9, rel=5e-3)
    assert float(LogNormal(mean=0.3, std=2.0)(torch.tensor([0.841344746], dtype=torch.float64)).log()) == pytest.approx(
        2.3, abs=1e-6
    )


def test_log_uniform_levels_are_a_geometric_mean_at_the_middle():
    law = LogUniform(sigma_min=0.1, sigma_max=10.0)
    assert law(torch.tensor([0.0, 0.25, 0.5])).tolist() == pytest.approx([0.1, 10**-0.5, 1.0])


def test_each_rung_of_a_ladder_is_as_often_and_those_of_its_grid():
    """Song & Ermon (2019): geometric levels; a sampler's grid of the same settings goes down the same ones."""
    sigma, counts = GeometricSchedule(sigma_min=0.1, sigma_max=20.0, rungs=8)(EVEN).unique(return_counts=True)
    assert counts.tolist() == [125] * 8
    assert (sigma[1:] / sigma[:-1]).tolist() == pytest.approx([200 ** (1 / 7)] * 7)
    grid = GRIDS["geometric"](sigma_min=0.1, sigma_max=20.0)(8)
    assert sigma.tolist() == pytest.approx(grid[-2::-1])


def test_the_chains_levels_are_those_of_ddpm():
    """Ho et al. (2020): ᾱ_t is a product of 1 - β."""
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    kept = (1 - beta).cumprod(0)
    assert torch.allclose(ChainLevels()(EVEN), ((1 - kept) / kept).sqrt(), rtol=1e-9)


def test_cosine_levels_are_those_of_their_paper():
    """Nichol & Dhariwal (2021), equation 17."""
    f = [((u + 0.008) / 1.008 * math.pi / 2) for u in (0.0, *EVEN.tolist())]
    kept = [math.cos(each) ** 2 / math.cos(f[0]) ** 2 for each in f[1:]]
    expected = [min(math.sqrt((1 - each) / each), 160.0) for each in kept]
    assert CosineLevels()(EVEN).tolist() == pytest.approx(expected, rel=1e-6)


def test_flow_levels_have_a_uniform_time():
    sigma = FlowLevels(sigma_max=9.0)(EVEN)
    assert (sigma / (1 + sigma)).tolist() == pytest.approx((0.9 * EVEN).tolist())


@pytest.mark.parametrize("name", WEIGHED)
def test_a_weight_makes_it_the_squared_error_of_the_network(name):
    weight, preconditioning = WEIGHED[name]
    sigma = torch.logspace(-2, 2, 9, dtype=torch.float64)
    assert torch.allclose(weight()(sigma), preconditioning(sigma).out ** -2, rtol=1e-12)


def test_min_snr_is_cut_off():
    sigma = cases.tensor([0.1, 0.4, 0.5, 2.0])
    assert MinSNRWeight(gamma=5.0)(sigma).tolist() == pytest.approx([5.0, 5.0, 4.0, 0.25])


@pytest.mark.parametrize(
    ("component", "wrong"),
    [
        (LogNormal, {"std": 0.0}),
        (LogUniform, {"sigma_min": 1.0, "sigma_max": 1.0}),
        (GeometricSchedule, {"sigma_min": 0.1, "sigma_max": 1.0, "rungs": 1}),
        (GeometricSchedule, {"sigma_min": 0.0, "sigma_max": 1.0}),
        (ChainLevels, {"beta_min": 0.0}),
        (CosineLevels, {"sigma_max": 0.0}),
        (FlowLevels, {"sigma_max": -1.0}),
        (EDMWeight, {"data_std": 0.0}),
        (MinSNRWeight, {"gamma": 0.0}),
    ],
)
def test_settings_out_of_their_range_are_refused(component, wrong):
    with pytest.raises(ValueError, match=r"positive|least|rising|<|≥"):
        component(**wrong)
