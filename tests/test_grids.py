"""Grids of noise levels against their papers' formulas."""

import itertools
import math

import pytest
import torch

import cases
from energyscape.errors import UserError
from energyscape.registry import build
from energyscape.schedules import GRIDS, Cosine, Geometric, Karras, LinearBeta, RectifiedFlow, chain_levels

GRID = {
    "karras": Karras(),
    "geometric": Geometric(sigma_min=0.01, sigma_max=50.0),
    "ddpm": LinearBeta(),
    "ddpm:leading": LinearBeta(spacing="leading"),
    "ddpm:linspace": LinearBeta(spacing="linspace"),
    "cosine": Cosine(),
    "flow": RectifiedFlow(),
}


def alpha_bar(steps=1000):
    """Of DDPM's chain."""
    return (1 - torch.linspace(1e-4, 0.02, steps, dtype=torch.float64)).cumprod(0)


def test_every_grid_is_in_the_table():
    assert {name.split(":")[0] for name in GRID} == set(GRIDS)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 50, 1000])
@pytest.mark.parametrize("name", GRID)
def test_levels_fall_to_zero_one_more_than_steps(name, steps):
    levels = GRID[name](steps)
    assert len(levels) == steps + 1
    assert levels[-1] == 0
    assert all(high > low for high, low in itertools.pairwise(levels))
    if steps > 1 or name not in {"ddpm:leading", "ddpm:linspace"}:
        top = {"leading": 1000 // steps * (steps - 1)}.get(name.partition(":")[2], 999)
        highest = chain_levels(1e-4, 0.02, 1000)[top] if "ddpm" in name else GRID[name].sigma_max
        assert levels[0] == pytest.approx(highest, rel=1e-12)


def test_karras_levels_are_edms():
    """18 steps from 80 to 0.002: the code's recurrence, and even spacing at ρ = 1."""
    i = torch.arange(18, dtype=torch.float64)
    result = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(cases.tensor(Karras()(18)[:-1]), result)
    assert Karras(sigma_min=1.0, sigma_max=4.0, rho=1.0)(4) == pytest.approx([4, 3, 2, 1, 0])


def test_geometric_levels_have_one_ratio():
    """NCSN: ten levels from 1 to 0.01."""
    levels = Geometric(sigma_min=0.01, sigma_max=1.0)(10)
    ratios = [low / high for high, low in itertools.pairwise(levels[:-1])]
    assert ratios == pytest.approx([0.01 ** (1 / 9)] * 9)
    assert levels[-2] == pytest.approx(0.01)


def test_the_chain_is_ddpms():
    result = ((1 - alpha_bar()) / alpha_bar()).sqrt()
    torch.testing.assert_close(cases.tensor(chain_levels(1e-4, 0.02, 1000)), result, rtol=1e-9, atol=0)
    torch.testing.assert_close(cases.tensor(LinearBeta()(1000)[:-1]), result.flip(0), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("spacing", "times"),
    [  # table 2 of Lin et al. counts from 1
        ("trailing", [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100]),
        ("leading", [901, 801, 701, 601, 501, 401, 301, 201, 101, 1]),
        ("linspace", [1000, 889, 778, 667, 556, 445, 334, 223, 112, 1]),
    ],
)
def test_the_spacings_are_those_of_the_literature(spacing, times):
    grid = LinearBeta(spacing=spacing)
    assert grid.times(10) == [t - 1 for t in times]
    chain = chain_levels(1e-4, 0.02, 1000)
    assert grid(10) == [*(chain[t - 1] for t in times), 0.0]


def test_the_cosine_is_even_in_its_time():
    """ᾱ(t) = f(t) / f(0), f = cos²((t + s) / (1 + s) π / 2); the paper's βs of 1,000 steps are clipped at 0.999."""

    def f(t):
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    levels = Cosine(sigma_max=160.0)(20)
    angle = [math.acos(math.sqrt(f(0) / (1 + sigma**2))) for sigma in levels]
    times = [each / (math.pi / 2) * 1.008 - 0.008 for each in angle]
    gaps = [high - low for high, low in itertools.pairwise(times)]
    assert gaps == pytest.approx([times[0] / 20] * 20, rel=1e-6)
    for sigma, t in zip(levels, times, strict=True):
        assert sigma**2 == pytest.approx(f(0) / f(t) - 1, rel=1e-9, abs=1e-12)


def test_the_flow_is_even_in_its_time():
    levels = RectifiedFlow(sigma_max=99.0)(9)
    times = [sigma / (1 + sigma) for sigma in levels]
    assert times == pytest.approx([0.99 * k / 9 for k in range(9, -1, -1)], abs=1e-12)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("karras", {"sigma_min": 80.0, "sigma_max": 0.1}, "sigma_min < sigma_max"),
        ("karras", {"rho": 0}, "rho is from 0.1 to 100"),
        ("geometric", {"sigma_max": 1.0}, "sigma_min"),
        ("geometric", {"sigma_min": 0, "sigma_max": 1.0}, "sigma_min"),
        ("ddpm", {"beta_min": 0.5, "beta_max": 0.1}, "beta_min"),
        ("ddpm", {"spacing": "tailing"}, "trailing"),
        ("cosine", {"sigma_max": math.inf}, r"0 or 1e-12 to 1e\+12"),
        ("flow", {"sigma_max": 0}, "positive"),
    ],
)
def test_mistakes_are_refused(name, settings, message):
    with pytest.raises(UserError, match=message):
        build(GRIDS, name, settings)


@pytest.mark.parametrize("name", GRID)
def test_steps_are_at_least_one_and_not_more_than_the_chain_has(name):
    with pytest.raises(ValueError, match="at least one step"):
        GRID[name](0)
    if "ddpm" in name:
        with pytest.raises(ValueError, match="fewer than 1001"):
            GRID[name](1001)
