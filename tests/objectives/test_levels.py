"""Laws of noise levels by their quantiles, and weights by what they are the squared error of."""

import math

import pytest
import torch

import cases
from energyscape.models import EDM, Clean, Epsilon, Flow, Velocity
from energyscape.objectives import (
    WEIGHTS,
    CleanWeight,
    EDMWeight,
    FlowWeight,
    MinSNRWeight,
    NoiseWeight,
    VelocityWeight,
)
from energyscape.schedules import (
    GRIDS,
    LEVELS,
    Cosine,
    Geometric,
    GeometricSchedule,
    Karras,
    LinearBeta,
    LogNormal,
    RectifiedFlow,
)

EVEN = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000

DISTRIBUTIONS = {
    "log-normal": lambda: LogNormal(mean=-0.4, std=0.9),
    "log-uniform": lambda: Geometric(sigma_min=0.1, sigma_max=20.0),
    "ladder": lambda: GeometricSchedule(sigma_min=0.1, sigma_max=20.0, rungs=8),
    "karras": Karras,
    "chain": lambda: LinearBeta(chain=50),
    "cosine": Cosine,
    "flow": RectifiedFlow,
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
    sigma = DISTRIBUTIONS[name]().quantile(u)
    assert sigma.dtype == dtype
    assert bool((sigma > 0).all())
    assert bool(sigma.isfinite().all())
    assert bool((sigma.diff() >= 0).all())


def test_log_normal_levels_have_their_mean_and_deviation():
    """Between 2,000 quantiles the mean and deviation of a normal law are found to a few thousandths."""
    z = LogNormal(mean=-0.4, std=0.9).quantile(EVEN).log()
    assert float(z.mean()) == pytest.approx(-0.4, abs=1e-9)
    assert float(z.std()) == pytest.approx(0.9, rel=5e-3)
    assert float(
        LogNormal(mean=0.3, std=2.0).quantile(torch.tensor([0.841344746], dtype=torch.float64)).log()
    ) == pytest.approx(2.3, abs=1e-6)


def test_log_uniform_levels_are_a_geometric_mean_at_the_middle():
    law = Geometric(sigma_min=0.1, sigma_max=10.0)
    assert law.quantile(torch.tensor([0.0, 0.25, 0.5])).tolist() == pytest.approx([0.1, 10**-0.5, 1.0])


def test_each_rung_of_a_ladder_is_as_often_and_those_of_its_grid():
    """Song & Ermon (2019): geometric levels; a sampler's grid of the same settings goes down the same ones."""
    sigma, counts = GeometricSchedule(sigma_min=0.1, sigma_max=20.0, rungs=8).quantile(EVEN).unique(return_counts=True)
    assert counts.tolist() == [125] * 8
    assert (sigma[1:] / sigma[:-1]).tolist() == pytest.approx([200 ** (1 / 7)] * 7)
    grid = GRIDS["geometric"](sigma_min=0.1, sigma_max=20.0)(8)
    assert sigma.tolist() == pytest.approx(grid[-2::-1])


def test_the_chains_levels_are_those_of_ddpm():
    """Ho et al. (2020): ᾱ_t is a product of 1 - β."""
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    kept = (1 - beta).cumprod(0)
    assert torch.allclose(LinearBeta().quantile(EVEN), ((1 - kept) / kept).sqrt(), rtol=1e-9)


def test_cosine_levels_are_those_of_their_paper():
    """Nichol & Dhariwal (2021), equation 17: the angle of √ᾱ is even in time, here up to the highest level's."""
    sigma = Cosine(sigma_max=160.0).quantile(torch.linspace(0, 1, 101, dtype=torch.float64)[1:])
    lowest = 0.008 / 1.008 * math.pi / 2
    angle = (math.cos(lowest) / (1 + sigma.square()).sqrt()).acos()
    assert angle.diff().tolist() == pytest.approx([float(angle[0]) - lowest] * 99, rel=1e-9)
    assert float(sigma[-1]) == pytest.approx(160.0, rel=1e-12)


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_is_the_quantiles_of_its_law(name):
    """Whatever the spacing of a grid's shares: every level is a quantile, and many steps see the law's middle."""
    wanted = {"geometric": {"sigma_min": 0.1, "sigma_max": 20.0}}.get(name, {})
    schedule = GRIDS[name](**wanted)
    levels = torch.tensor(schedule(1000)[-2::-1], dtype=torch.float64)
    assert torch.allclose(schedule.quantile(EVEN)[250:750], levels[250:750], rtol=2e-2)


def test_flow_levels_have_a_uniform_time():
    sigma = RectifiedFlow(sigma_max=9.0).quantile(EVEN)
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
        (Geometric, {"sigma_min": 1.0, "sigma_max": 1.0}),
        (GeometricSchedule, {"sigma_min": 0.1, "sigma_max": 1.0, "rungs": 1}),
        (GeometricSchedule, {"sigma_min": 0.0, "sigma_max": 1.0}),
        (LinearBeta, {"beta_min": 0.0}),
        (Cosine, {"sigma_max": 0.0}),
        (RectifiedFlow, {"sigma_max": -1.0}),
        (EDMWeight, {"data_std": 0.0}),
        (MinSNRWeight, {"gamma": 0.0}),
    ],
)
def test_settings_out_of_their_range_are_refused(component, wrong):
    with pytest.raises(ValueError, match=r"positive|least|rising|<|≥"):
        component(**wrong)
