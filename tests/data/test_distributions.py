"""The laws in the plane: contract, truth by quadrature and by sampling, references."""

import dataclasses
import functools
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from sklearn.datasets import make_moons, make_swiss_roll
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from energyscape.calculus import gauss_legendre
from energyscape.data import DATASETS
from energyscape.data import DISTRIBUTIONS as REGISTERED
from energyscape.data.distributions import (
    Banana,
    Checkerboard,
    DoubleWell,
    EightGaussians,
    FourSquares,
    Funnel,
    GaussianGrid,
    Pinwheel,
    Points,
    Rescaled,
    Rings,
    SwissRoll,
    TwoMoons,
    TwoSpirals,
    mixture_log_prob,
)
from energyscape.errors import UserError
from energyscape.evaluation import kl
from energyscape.registry import build, completed


def forty_points():
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(40))
    return torch.cat([x[:30] - 1, 0.4 * x[30:] + 2])


DISTRIBUTIONS = {
    "8gaussians": EightGaussians,
    "8gaussians:overlapping": lambda: EightGaussians(radius=1.0, std=0.5),
    "25gaussians": GaussianGrid,
    "25gaussians:overlapping": lambda: GaussianGrid(side=4, spacing=1.0, std=0.35),
    "moons": TwoMoons,
    "moons:wide": lambda: TwoMoons(noise=0.4),
    "rings": Rings,
    "rings:wide": lambda: Rings(rings=2, spacing=0.5, noise=0.3),
    "spirals": TwoSpirals,
    "spirals:wide": lambda: TwoSpirals(noise=0.4),
    "swissroll": SwissRoll,
    "pinwheel": Pinwheel,
    "pinwheel:overlapping": lambda: Pinwheel(arms=3, radial_std=0.4, tangential_std=0.3, twist=0.2, scale=1.0),
    "checkerboard": Checkerboard,
    "squares": FourSquares,
    "squares:small": lambda: FourSquares(side=0.3),
    "squares:uneven": lambda: FourSquares(side=0.7, shares=(0.4, 0.3, 0.2, 0.1)),
    "banana": Banana,
    "banana:wide": lambda: Banana(scale=1.5, bend=0.1, std=0.5),
    "funnel": Funnel,
    "funnel:mild": lambda: Funnel(std=0.5),
    "doublewell": DoubleWell,
    "doublewell:low": lambda: DoubleWell(barrier=0.2, position=0.7, std=1.5),
    "doublewell:high": lambda: DoubleWell(barrier=60.0, position=1.0, std=0.1),
    "points": lambda: Points(forty_points()),
    "points:narrow": lambda: Points(forty_points().double(), blur=0.07),
    "rescaled": lambda: Rescaled(TwoMoons(), std=2.03),
    "rescaled:modes": lambda: Rescaled(EightGaussians(), std=0.5),
    "rescaled:points": lambda: Rescaled(Points(forty_points()), std=3.0),
}
FLAT = Checkerboard | FourSquares
SMOOTH = [name for name in DISTRIBUTIONS if not isinstance(DISTRIBUTIONS[name](), FLAT)]
# Where components overlap or differ, their centres are no longer equally high points, nor their cells equal.
WITH_MODES = [
    name
    for name in DISTRIBUTIONS
    if DISTRIBUTIONS[name]().modes is not None and name.split(":")[-1] not in ("overlapping", "uneven")
]
VIEW = {Funnel: ((-3.2, 3.2), (-5.0, 5.0)), Banana: ((-3.5, 3.5), (-1.5, 4.0))}
"""Where most of the mass is, for laws whose tails make most of their boxes empty."""
N = 40_000


@pytest.fixture(params=DISTRIBUTIONS)
def law(request):
    return DISTRIBUTIONS[request.param]()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tiles(box, count):
    """The cells of a rectangle cut ``count`` times each way, x running slowest."""
    xs, ys = (np.linspace(*side, count + 1) for side in box)
    return [((a, b), (c, d)) for a, b in pairwise(xs) for c, d in pairwise(ys)]


@functools.cache
def on_a_grid(law, box, count, nodes):
    """Weights and log-densities on each tile of a box, ``(count**2, nodes**2)`` each."""
    rules = [gauss_legendre(tile, nodes) for tile in tiles(box, count)]
    log_prob = law.log_prob(torch.cat([points for points, _ in rules]))
    return torch.stack([weights for _, weights in rules]), log_prob.view(count**2, -1)


def integrals(law, function, count, nodes, box=None):
    """The integral of ``function(log p)`` over each tile of a box, the law's own if None."""
    weights, log_prob = on_a_grid(law, box or law.box, count, nodes)
    return (weights * function(log_prob)).sum(1)


def close(samples, truth):
    """Whether a sample mean is within 5 of its standard errors of the truth."""
    samples = samples.double()
    return bool((samples.mean(0) - truth).abs() < 5 * samples.std() / len(samples) ** 0.5)


# Contract


def test_same_generator_same_bits(law):
    x = law.sample(64, generator=generator(3))
    assert x.dtype == torch.float32
    assert x.shape == (64, *law.shape)
    assert torch.equal(x, law.sample(64, generator=generator(3)))
    assert not torch.equal(x, law.sample(64, generator=generator(4)))


def test_leaves_the_global_generator_alone(law):
    before = torch.random.get_rng_state()
    law.sample(8, generator=generator())
    assert torch.equal(before, torch.random.get_rng_state())
    law.sample(8)
    assert not torch.equal(before, torch.random.get_rng_state())


def test_log_prob_keeps_the_dtype_and_the_order(law):
    x = law.sample(1000, generator=generator())
    single, double = law.log_prob(x), law.log_prob(x.double())
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    # Near the law, log p is a sum of terms of size at most 50: 50 * 2^-23 is 6e-6.
    torch.testing.assert_close(single.double(), double, atol=5e-5, rtol=0)
    torch.testing.assert_close(law.log_prob(x.flip(0).double()), double.flip(0))
    assert law.log_prob(x[:0]).shape == (0,)


DEFAULT = [name for name in DISTRIBUTIONS if ":" not in name]
PLAIN = [name for name in DEFAULT if name not in ("points", "rescaled")]
SETTINGS = [
    (type(DISTRIBUTIONS[name]()), field.name)
    for name in PLAIN
    for field in dataclasses.fields(DISTRIBUTIONS[name]())
    if field.name != "shares"
]


@pytest.mark.parametrize(("law", "setting"), SETTINGS)
@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf])
def test_refuses_what_is_not_positive(law, setting, value):
    with pytest.raises(UserError, match=rf"{law.__name__}: {setting} is a positive number.* it was {value:g}$"):
        law(**{setting: value})


def test_every_registered_law_is_tested_at_its_defaults():
    assert set(REGISTERED) == {name for name in DISTRIBUTIONS if ":" not in name}
    assert all(REGISTERED[name] is type(DISTRIBUTIONS[name]()) for name in REGISTERED if name != "points")
    assert {name: DATASETS[name] for name in REGISTERED} == dict(REGISTERED)


def test_no_samples_are_an_empty_tensor(law):
    assert law.sample(0, generator=generator()).shape == (0, 2)


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_are_those_of_the_density(name):
    law = DISTRIBUTIONS[name]()
    x = law.sample(6, generator=generator(12)).double().requires_grad_()
    assert torch.autograd.gradcheck(law.log_prob, x)


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_away_the_density_is_still_a_number(name, dtype):
    law = DISTRIBUTIONS[name]()
    far = torch.tensor([[30.0, -40.0], [-400.0, 300.0], [0.0, 0.0]], dtype=dtype)
    log_prob = law.log_prob(far)
    assert not log_prob.isnan().any()
    assert log_prob[0] < -10


# Truth


def test_box_holds_all_but_a_billionth_of_the_mass(law):
    # The panels of `energyscape.evaluation.kl`, whose quadrature is thereby known to be exact for every law.
    assert float(integrals(law, torch.exp, 4, 100).sum()) == pytest.approx(1, abs=1e-9)


def test_entropy_is_minus_the_mean_log_prob(law):
    log_prob = law.log_prob(law.sample(N, generator=generator(1)).double())
    if isinstance(law, FLAT) and law != DISTRIBUTIONS["squares:uneven"]():
        torch.testing.assert_close(log_prob, torch.full_like(log_prob, -law.entropy))
    else:
        assert close(-log_prob, law.entropy)


@pytest.mark.parametrize("name", SMOOTH)
def test_entropy_equals_quadrature_over_the_box(name):
    law = DISTRIBUTIONS[name]()
    # Both rules were seen to change by less than 3e-7 when their nodes were doubled.
    truth = float(integrals(law, lambda log_prob: -log_prob.exp() * log_prob, 4, 100).sum())
    assert law.entropy == pytest.approx(truth, abs=1e-6)


def test_entropy_in_closed_form():
    gaussian = 1 + math.log(2 * math.pi * 0.1**2)
    assert EightGaussians(radius=5, std=0.1).entropy == pytest.approx(math.log(8) + gaussian, abs=1e-9)
    assert EightGaussians(radius=1e-7, std=0.1).entropy == pytest.approx(gaussian, abs=1e-9)
    assert GaussianGrid(side=3, spacing=1.0, std=0.05).entropy == pytest.approx(
        math.log(9) + 1 + math.log(2 * math.pi * 0.05**2), abs=1e-9
    )
    assert GaussianGrid(side=7, spacing=1e-7, std=0.1).entropy == pytest.approx(gaussian, abs=1e-9)
    assert Checkerboard().entropy == pytest.approx(math.log(32))
    assert FourSquares(side=3.0).entropy == pytest.approx(math.log(36))
    # Arms that do not meet: a fifth of the mass on each, scaled by 2.
    thin = Pinwheel(radial_std=0.1, tangential_std=0.05)
    assert thin.entropy == pytest.approx(math.log(5) + gaussian + math.log(0.5) + 2 * math.log(2.0), abs=1e-9)
    # Two broad moons are nearly one Gaussian, whose covariance is that of the arcs plus the noise.
    t = np.linspace(0, math.pi, 20_001)[:-1] + math.pi / 40_000
    arcs = np.concatenate([np.stack([np.cos(t), np.sin(t)]), np.stack([1 - np.cos(t), 0.5 - np.sin(t)])], 1)
    covariance = np.cov(arcs, bias=True) + 20.0**2 * np.eye(2)
    # The entropy lost by not being Gaussian is of order (skewness)^2 / 12, here below (1 / 20)^6.
    truth = 1 + math.log(2 * math.pi) + np.log(np.linalg.det(covariance)) / 2
    assert TwoMoons(noise=20.0).entropy == pytest.approx(truth, abs=1e-6)


@pytest.mark.parametrize(
    ("law", "published", "error"),
    [
        (EightGaussians(), 2.834, 0.005),
        (GaussianGrid(), 0.068, 0.005),
        (TwoMoons(), 1.011, 0.007),
        (TwoMoons(noise=0.05), 0.289, 0.007),
        (Rings(), 2.640, 0.010),
    ],
)
def test_entropy_agrees_with_published_estimates(law, published, error):
    # The errors are standard errors. That of the rings is missed by 1.7 of them; a narrow ring's entropy in closed
    # form, log 4 + log(2 pi e s^2) / 2 + E log(2 pi r), is 2.624 and sides with the law.
    assert law.entropy == pytest.approx(published, abs=2 * error)


def test_histogram_of_samples_matches_the_density(law):
    box = VIEW.get(type(law), law.box)
    low, high = torch.tensor(box, dtype=torch.float64).unbind(1)
    expected = N * integrals(law, torch.exp, 16, 16, box)
    x = law.sample(N, generator=generator(2)).double()
    x = x[((x >= low) & (x < high)).all(1)]
    cell = ((x - low) / (high - low) * 16).long()
    counts = torch.bincount(cell[:, 0] * 16 + cell[:, 1], minlength=256)
    common = expected > 10  # the usual rule for Pearson's statistic; the rest, here and outside, is one cell more
    counts, expected = counts[common], expected[common]
    rest = N - float(expected.sum())
    assert abs(N - int(counts.sum()) - rest) <= 5 * max(rest, 0) ** 0.5 + 1e-6
    statistic = float(((counts - expected) ** 2 / expected).sum())
    degrees = len(expected) - 1  # nearly all samples are counted here, and their number is given
    assert degrees >= 3
    assert stats.chi2.sf(statistic, degrees) > 1e-4
    assert stats.chi2.cdf(statistic, degrees) > 1e-4


@pytest.mark.parametrize("name", WITH_MODES)
def test_modes_are_the_highest_points(name):
    law = DISTRIBUTIONS[name]()
    assert law.modes.dtype == torch.float32
    angle = torch.arange(16, dtype=torch.float64) * math.pi / 8
    around = law.modes.double().unsqueeze(1) + 0.01 * torch.stack([angle.cos(), angle.sin()], 1)
    top, near = law.log_prob(law.modes.double()), law.log_prob(around.flatten(0, 1)).view(len(law.modes), -1)
    assert (top.unsqueeze(1) >= near).all()
    torch.testing.assert_close(top, top[:1].expand_as(top), atol=1e-4, rtol=0)
    assert law.log_prob(law.sample(N, generator=generator(13)).double()).max() <= top.max() + 1e-6


@pytest.mark.parametrize("name", WITH_MODES)
def test_every_mode_gets_its_share(name):
    law = DISTRIBUTIONS[name]()
    x, m = law.sample(N, generator=generator(5)), len(law.modes)
    nearest = torch.cdist(x, law.modes).argmin(1)
    share = torch.bincount(nearest, minlength=m) / N
    assert ((share - 1 / m).abs() <= 5 * (1 / m * (1 - 1 / m) / N) ** 0.5).all()
    if isinstance(law, EightGaussians | GaussianGrid | FLAT):
        for k, mode in enumerate(law.modes):  # and lies around it: 5 standard errors, M modes, 2 coordinates
            around = x[nearest == k] - mode
            assert (around.mean(0).abs() < 5 * around.std(0) / len(around) ** 0.5).all()


def test_moments_of_the_moons():
    x = TwoMoons(noise=0.2).sample(N, generator=generator(6)).double()
    assert close(x[:, 0], 0.5)
    assert close(x[:, 1], 0.25)
    assert close(x[:, 0] ** 2, 1 + 0.04)
    assert close(x[:, 1] ** 2, 0.5 * 0.5 + 0.5 * (0.25 - 2 / math.pi + 0.5) + 0.04)


def test_half_of_the_samples_are_on_each_moon():
    x = TwoMoons(noise=0.05).sample(N, generator=generator(11)).double()
    to_upper, to_lower = (((x - torch.tensor(centre)).norm(dim=1) - 1).abs() for centre in ([0.0, 0.0], [1.0, 0.5]))
    assert close((to_upper < to_lower).double(), 0.5)  # exact: the half-turn that exchanges the moons exchanges these


def test_radius_of_the_eight_gaussians():
    x = EightGaussians(radius=2.0, std=0.3).sample(N, generator=generator(7)).double()
    assert close((x**2).sum(1), 4 + 2 * 0.09)
    assert close(x[:, 0] * x[:, 1], 0)


def moons(t):
    t = math.pi * t
    return [(t.cos(), t.sin()), (1 - t.cos(), 0.5 - t.sin())], torch.ones_like(t)


def rings(t):
    t = 2 * math.pi * t
    return [(r * t.cos(), r * t.sin()) for r in (0.75, 1.5, 2.25, 3.0)], torch.ones_like(t)


def spirals(t):
    angle = 3 * math.pi * t  # the root of a uniform variable: density 2 t on [0, 1]
    x, y = -angle.cos() * angle / 3, angle.sin() * angle / 3
    return [(x, y), (-x, -y)], 2 * t


def swissroll(t):
    angle = 1.5 * math.pi + 3 * math.pi * t
    return [(angle * angle.cos() / 5, angle * angle.sin() / 5)], torch.ones_like(t)


CURVES = {TwoMoons: moons, Rings: rings, TwoSpirals: spirals, SwissRoll: swissroll}


@pytest.mark.parametrize("noise", [0.05, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("family", CURVES)
def test_density_of_a_curve_against_a_brute_force_sum(family, noise):
    law, curve = family(noise=noise), CURVES[family]
    (x0, x1), (y0, y1) = law.box
    corner, size = torch.tensor([x0, y0], dtype=torch.float64), torch.tensor([x1 - x0, y1 - y0], dtype=torch.float64)
    spread = corner + size * torch.rand(40, 2, dtype=torch.float64, generator=generator(9))
    x = torch.cat([law.sample(20, generator=generator(8)).double(), spread])
    # 500 equal pieces, each at most 1.5 deviations long, with 40 nodes: exact but for rounding.
    node, weight = map(torch.from_numpy, np.polynomial.legendre.leggauss(40))
    t = ((torch.arange(500, dtype=torch.float64).unsqueeze(1) + (node + 1) / 2) / 500).flatten()
    arcs, density = curve(t)
    log_weight = (weight.repeat(500) * density / (2 * 500 * len(arcs))).log()
    squared = [(x[:, :1] - u) ** 2 + (x[:, 1:] - v) ** 2 for u, v in arcs]
    each = [(log_weight - each / (2 * law.noise**2)).logsumexp(1) for each in squared]
    truth = torch.stack(each).logsumexp(0) - math.log(2 * math.pi * law.noise**2)
    # The law's docstring says so; farther from the curve the integrand is steeper.
    for depth, error, least in ((30, 1e-9, 25), (200, 3e-8, 40)):
        near = truth > truth.max() - depth
        torch.testing.assert_close(law.log_prob(x)[near], truth[near], atol=error, rtol=0)
        assert near.sum() >= least


def pinwheel(z):
    feature = torch.stack([1 + 0.3 * z[0], 0.1 * z[1]])
    angle = 0.25 * feature.norm().exp()  # clockwise, as in the code of FFJORD
    rotation = torch.stack([torch.stack([angle.cos(), angle.sin()]), torch.stack([-angle.sin(), angle.cos()])])
    return 2 * rotation @ feature


@pytest.mark.parametrize(
    ("law", "warp"),
    [
        (Pinwheel(arms=1), pinwheel),
        (Funnel(std=0.7), lambda z: torch.stack([0.7 * z[0], (0.35 * z[0]).exp() * z[1]])),
        (Banana(), lambda z: torch.stack([z[0], 0.25 * z[1] + 0.5 * (z[0] ** 2 - 1)])),
        (Banana(scale=2.0, std=1.0), lambda z: torch.stack([2 * z[0], z[1] + 0.5 * ((2 * z[0]) ** 2 - 4)])),
    ],
    ids=["pinwheel", "funnel", "banana", "banana-wide"],
)
def test_density_by_change_of_variables(law, warp):
    for z in torch.randn(30, 2, dtype=torch.float64, generator=generator(14)):
        log_det = torch.autograd.functional.jacobian(warp, z).det().abs().log()
        truth = -(z**2).sum() / 2 - math.log(2 * math.pi) - log_det
        torch.testing.assert_close(law.log_prob(warp(z).unsqueeze(0)), truth.unsqueeze(0), atol=1e-10, rtol=0)


def test_arms_of_the_pinwheel_are_turned_by_equal_angles():
    law = Pinwheel(arms=4)
    x = law.sample(200, generator=generator(15)).double()
    quarter = torch.stack([-x[:, 1], x[:, 0]], 1)
    torch.testing.assert_close(law.log_prob(quarter), law.log_prob(x))
    # Two deviations from all other arms, the density is a quarter of one arm's.
    outer = x[x.norm(dim=1) > 2.2]
    each = [Pinwheel(arms=1).log_prob(turned) for turned in (outer, quarter[x.norm(dim=1) > 2.2])]
    each += [Pinwheel(arms=1).log_prob(-turned) for turned in (outer, quarter[x.norm(dim=1) > 2.2])]
    torch.testing.assert_close(law.log_prob(outer), torch.stack(each).logsumexp(0) - math.log(4))


def test_tails_of_the_funnel_and_the_banana():
    x = Funnel(std=2.0).sample(N, generator=generator(16)).double()
    assert stats.kstest(x[:, 0] / 2, "norm").pvalue > 1e-4
    assert stats.kstest(x[:, 1] * (-x[:, 0] / 2).exp(), "norm").pvalue > 1e-4
    x = Banana(scale=2.0, bend=0.3, std=0.5).sample(N, generator=generator(17)).double()
    assert stats.kstest(x[:, 0] / 2, "norm").pvalue > 1e-4
    assert stats.kstest((x[:, 1] - 0.3 * (x[:, 0] ** 2 - 4)) / 0.5, "norm").pvalue > 1e-4
    assert close(x[:, 1], 0)


@pytest.mark.parametrize("barrier", [0.05, 1.0, 4.0, 200.0])
def test_double_well_against_adaptive_quadrature(barrier):
    law = DoubleWell(barrier=barrier, position=2.0, std=0.3)
    end = 2 * (1 + (50 / barrier) ** 0.5) ** 0.5
    integral, _ = integrate.quad(lambda x: math.exp(-barrier * (x**2 / 4 - 1) ** 2), 0, end, points=[2.0], epsabs=1e-13)
    log_z = math.log(2 * integral * 0.3 * math.sqrt(2 * math.pi))
    x = torch.tensor([[0.0, 0.0], [2.0, 0.3], [-2.5, -0.6]], dtype=torch.float64)
    energy = torch.tensor([barrier, 0.5, barrier * (1.25**2 - 1) ** 2 + 2], dtype=torch.float64)
    torch.testing.assert_close(law.log_prob(x), -energy - log_z, atol=1e-10, rtol=0)


def test_four_squares_support():
    for seed, side in enumerate((0.3, 1.0, 0.7)):
        law = FourSquares(side=side)
        samples = law.sample(1_000_000, generator=generator(seed))
        assert (law.log_prob(samples) == -np.float32(math.log(4 * side**2))).all()
        assert samples.abs().min() == pytest.approx(side, abs=1e-4)
        assert samples.abs().max() == pytest.approx(2 * side, abs=1e-4)
    inside = torch.tensor([[1.0, 1.0], [-1.0, 1.9], [1.5, -1.5], [-1.99, -1.01]])
    outside = torch.tensor([[0.0, 0.0], [1.5, 0.9], [2.0, 1.5], [-1.5, 0.0], [-0.99, -1.5]])
    assert torch.equal(FourSquares().log_prob(inside).exp(), torch.full((4,), 0.25))
    assert torch.equal(FourSquares().log_prob(outside), torch.full((5,), -math.inf))


def test_four_squares_have_their_shares():
    shares = (0.4, 0.3, 0.2, 0.1)
    law, n = FourSquares(side=0.7, shares=shares), 100_000
    samples = law.sample(n, generator=generator())
    corners = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
    for corner, mode, share in zip(corners, law.modes, shares, strict=True):
        assert torch.equal(mode.sign(), corner)
        found = float((samples.sign() == corner).all(1).double().mean())
        assert abs(found - share) < 5 * math.sqrt(share * (1 - share) / n)
        assert float(law.log_prob(mode[None]).exp()) == pytest.approx(share / 0.49, rel=1e-6)
    assert law.entropy == pytest.approx(math.log(0.49) - sum(share * math.log(share) for share in shares))


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.5, -0.5), (0.4, 0.3, 0.2, 0.2), (1.0, 0.0, 0.0, 0.0), (math.nan,) * 4])
def test_shares_that_are_none(shares):
    with pytest.raises(UserError, match="FourSquares: shares are four positive numbers that sum to 1"):
        FourSquares(shares=shares)


def test_checkerboard_support():
    law = Checkerboard()
    assert (law.log_prob(law.sample(1_000_000, generator=generator(10))) == -np.float32(math.log(32))).all()
    dark = torch.tensor([[1.0, 1.0], [-1, -1], [3, -1], [-4, 0], [-4, -4], [3.9, 3.9]], dtype=torch.float64)
    light = torch.tensor([[1.0, -1.0], [-1, 1], [3, 1], [4, 1], [5, 5], [-4.1, 1], [-5, -1]], dtype=torch.float64)
    assert torch.equal(law.log_prob(dark), torch.full((6,), -math.log(32), dtype=torch.float64))
    assert torch.equal(law.log_prob(light), torch.full((7,), -math.inf, dtype=torch.float64))


# Rescaled


@pytest.mark.parametrize("name", DEFAULT)
def test_divergences_do_not_change_when_a_law_is_rescaled(name):
    law = DISTRIBUTIONS[name]()
    moved = Rescaled(law, std=1.7)
    assert moved.entropy == pytest.approx(law.entropy + 2 * math.log(moved.scale), abs=1e-12)
    # KL(p | N(m, s^2)) = 1 + log 2 pi s^2 - H(p) for the mean m and the size s of p itself: the same number before and
    # after, which tests the mean, the size, the density and the entropy at once.
    before = 1 + math.log(2 * math.pi * (1.7 / moved.scale) ** 2) - law.entropy
    assert kl(moved, lambda y: y.square().sum(1) / (2 * 1.7**2)).value == pytest.approx(before, abs=2e-6)


@pytest.mark.parametrize("name", DEFAULT)
def test_a_rescaled_law_is_the_law_moved(name):
    law, moved = DISTRIBUTIONS[name](), Rescaled(DISTRIBUTIONS[name](), std=1.7)
    x = law.sample(N, generator=generator(20)).double()
    y = moved.sample(N, generator=generator(20))
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.double(), moved.scale * (x - moved.mean), rtol=2e-7, atol=1e-6)
    y = y.double()
    assert close(y[:, 0], 0)
    assert close(y[:, 1], 0)
    assert close(y.square().sum(1), 2 * 1.7**2)
    x = x[:100]
    expected = law.log_prob(x) - 2 * math.log(moved.scale)
    torch.testing.assert_close(moved.log_prob(moved.scale * (x - moved.mean)), expected, rtol=1e-9, atol=1e-9)
    for k, (side, new) in enumerate(zip(law.box, moved.box, strict=True)):
        assert new == pytest.approx([moved.scale * (end - float(moved.mean[k])) for end in side])
    if law.modes is None:
        assert moved.modes is None
    else:
        torch.testing.assert_close(
            moved.modes.double(), moved.scale * (law.modes.double() - moved.mean), rtol=2e-7, atol=1e-6
        )
    again = Rescaled(DISTRIBUTIONS[name](), std=1.7)
    assert (again.scale, again.mean.tolist()) == (moved.scale, moved.mean.tolist())


@pytest.mark.parametrize("family", [Checkerboard, FourSquares])
def test_no_sample_leaves_its_rescaled_square(family):
    for seed, std in enumerate((0.31, 2.03, 17.0)):
        law = Rescaled(family(), std=std)
        samples = law.sample(1_000_000, generator=generator(seed))
        assert (law.log_prob(samples) > -math.inf).all()


def test_moments_in_closed_form():
    assert Rescaled(EightGaussians(), std=1.0).scale == pytest.approx((2.83**2 / 2 + 0.354**2) ** -0.5, rel=1e-9)
    assert Rescaled(Checkerboard(), std=1.0).scale == pytest.approx((16 / 3) ** -0.5, rel=1e-12)
    assert Rescaled(Funnel(std=1.0), std=2.0).scale == pytest.approx(2 / ((1 + math.exp(0.5)) / 2) ** 0.5, rel=1e-6)
    moons = Rescaled(TwoMoons(noise=0.2), std=1.0)
    torch.testing.assert_close(moons.mean, torch.tensor([0.5, 0.25], dtype=torch.float64), rtol=1e-9, atol=0)
    variance = 1.04 - 0.25 + 0.25 + 0.5 * (0.75 - 2 / math.pi) + 0.04 - 0.0625
    assert moons.scale == pytest.approx((variance / 2) ** -0.5, rel=1e-9)
    points = Rescaled(Points(torch.tensor([[0.0, 0.0], [2.0, 6.0]]), blur=0.5), std=1.0)
    assert points.mean.tolist() == [1.0, 3.0]
    assert points.scale == pytest.approx((5 + 0.25) ** -0.5, rel=1e-12)


def test_a_recipe_rescales_a_law_by_name():
    built = build(DATASETS, "rescaled", {"law": {"name": "moons", "noise": 0.2}, "std": 2})
    assert built == Rescaled(TwoMoons(noise=0.2), std=2.0)
    assert build(DATASETS, "rescaled", {"law": "rings", "std": 2}) == Rescaled(Rings(), std=2.0)
    full = completed(DATASETS["rescaled"], "rescaled", {"law": "rings", "std": 2})
    assert full["law"] == {"name": "rings", "rings": 4, "spacing": 0.75, "noise": 0.08}
    with pytest.raises(UserError, match="there is no law named 'digits'"):
        build(DATASETS, "rescaled", {"law": "digits", "std": 2})
    with pytest.raises(UserError, match=r"Rescaled: std is a positive number.* it was -1$"):
        build(DATASETS, "rescaled", {"law": "rings", "std": -1})


# Reference


def test_eight_gaussians_against_torch_distributions():
    law = EightGaussians()
    angle = math.pi / 4 * torch.arange(8, dtype=torch.float64)
    means = 2.83 * torch.stack([angle.cos(), angle.sin()], 1)
    reference = MixtureSameFamily(Categorical(logits=torch.zeros(8)), Independent(Normal(means, 0.354), 1))
    x = 3 * torch.randn(100, 2, dtype=torch.float64, generator=generator())
    torch.testing.assert_close(law.log_prob(x), reference.log_prob(x))
    torch.testing.assert_close(law.modes, means.float())


def test_mixture_against_torch_distributions():
    weights, std = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    means = torch.randn(3, 1, 2, 2, dtype=torch.float64, generator=generator(1))
    reference = MixtureSameFamily(Categorical(weights.double()), Independent(Normal(means, std.view(3, 1, 1, 1)), 3))
    x = torch.randn(50, 1, 2, 2, dtype=torch.float64, generator=generator(2))
    torch.testing.assert_close(mixture_log_prob(x, means, std, weights.double()), reference.log_prob(x))
    parameters = [each.requires_grad_() for each in (x[:4], means, std, weights.double())]
    assert torch.autograd.gradcheck(mixture_log_prob, parameters)


def test_sklearn_draws_from_the_same_moons():
    points, _ = make_moons(n_samples=20_000, noise=0.1, random_state=0)
    law = TwoMoons(noise=0.1)
    assert close(-law.log_prob(torch.from_numpy(points)), law.entropy)
    exact, _ = make_moons(n_samples=1000)
    assert (law.log_prob(torch.from_numpy(exact)) > math.log(1 / (4 * math.pi * 0.1 * math.sqrt(2 * math.pi)))).all()


def test_gaussian_grid_against_a_mixture_in_the_plane():
    law = GaussianGrid(side=4, spacing=0.7, std=0.3)
    axis = torch.tensor([-1.05, -0.35, 0.35, 1.05], dtype=torch.float64)
    means = torch.cartesian_prod(axis, axis)
    x = 2 * torch.randn(100, 2, dtype=torch.float64, generator=generator(19))
    torch.testing.assert_close(law.log_prob(x), mixture_log_prob(x, means, 0.3))
    torch.testing.assert_close(law.modes, means.float())


def test_sklearn_draws_from_the_same_swiss_roll():
    points, _ = make_swiss_roll(n_samples=20_000, noise=1.0, random_state=0)
    law = SwissRoll()
    assert close(-law.log_prob(torch.from_numpy(points[:, [0, 2]] / 5)), law.entropy)
