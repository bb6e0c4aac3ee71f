"""Discrepancies between draws: closed forms, other code, and whether their errors are those of repetition."""

import functools
import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch

import cases
from energyscape.calculus import score
from energyscape.errors import UserError
from energyscape.evaluation import discrepancies, energy_distance, kernel_stein, mmd, sliced_wasserstein, u_statistics
from energyscape.models import GaussianMixture


def normal_energy(x):
    return x.square().sum(1) / 2


def mmd_truth(shift, d, bandwidth=1.0, std=1.0):
    """MMD² of N(0, I) and N(m, s² I): means of the kernel over normal differences."""

    def mean(variance, square):
        wide = bandwidth**2 + variance
        return (bandwidth**2 / wide) ** (d / 2) * math.exp(-square / (2 * wide))

    return mean(2, 0) + mean(2 * std**2, 0) - 2 * mean(1 + std**2, d * shift**2)


def mean_distance(mean, variance):
    """E |Z| of one normal number."""
    s = math.sqrt(variance)
    return s * math.sqrt(2 / math.pi) * math.exp(-(mean**2) / (2 * variance)) + mean * math.erf(mean / s / math.sqrt(2))


def stein_truth(shift, d, bandwidth=1.0):
    """KSD² of N(m, I) from N(0, I): the scores differ by m everywhere, so that it is |m|² E k(X, X')."""
    t = torch.linspace(0, 60, 60_001, dtype=torch.float64)
    # |X - X'|² / 2 is chi-square with d degrees of freedom.
    density = t ** (d - 1) * (-(t**2) / 2).exp()
    mean = float((density * (1 + 2 * t**2 / bandwidth**2) ** -0.5).sum() / density.sum())
    return d * shift**2 * mean


MEASURES = {
    "mmd": lambda x, y, draws: mmd(x, y, bandwidth=1.0),
    "energy": lambda x, y, draws: energy_distance(x, y),
    "sliced": lambda x, y, draws: sliced_wasserstein(x, y, projections=30, blocks=10, generator=draws),
    "sliced:few": lambda x, y, draws: sliced_wasserstein(x, y, projections=4, blocks=10, generator=draws),
    "stein": lambda x, y, draws: kernel_stein(normal_energy, y, bandwidth=1.0, bootstraps=1, generator=draws),
}
SHIFT = 0.4
TRUTHS = {
    "mmd": lambda d: mmd_truth(SHIFT, d),
    "energy": lambda d: 2 * mean_distance(SHIFT, 2) - 2 * mean_distance(0, 2) if d == 1 else None,
    "sliced": lambda d: SHIFT**2,  # |m|² / d
    "sliced:few": lambda d: SHIFT**2,
    "stein": lambda d: stein_truth(SHIFT, d),
}


@functools.cache
def repeated(name, shift, d, n=240, m=170, times=200):
    draws = cases.generator(d)
    results = []
    for _ in range(times):
        x, y = (torch.randn(k, d, generator=draws, dtype=torch.float64) for k in (n, m))
        results.append(MEASURES[name](x, y + shift, draws)[:3])
    return torch.tensor(results, dtype=torch.float64).unbind(1)


def spread_error(values):
    """Returns the relative standard error of a standard deviation, from the fourth moment."""
    centred = values - values.mean()
    kurtosis = float(centred.pow(4).mean() / centred.square().mean() ** 2)
    return math.sqrt((kurtosis - 1) / (4 * len(values)))


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("name", MEASURES)
def test_at_equality_the_mean_is_zero_and_the_null_error_is_right(name, d):
    value, error, null = repeated(name, 0.0, d)
    assert abs(cases.z_score(value)) < 5
    assert abs(float(value.std() / null.mean()) - 1) < 5 * spread_error(value)
    assert bool((error >= null * (1 - 1e-12)).all())
    # The other error is too large there, but not by more than a half.
    assert float(error.mean() / null.mean()) < 1.5


def test_the_null_error_in_closed_form():
    # Variance of k less its dependence on single points, E k² - 2 E r² + (E k)² with r(x) = E k(x, X).
    # These are its terms for N(0, 1) and a bandwidth of 1.
    zeta = 5**-0.5 - 2 * 0.5 * 2**-0.5 + 1 / 3
    n, m = 240, 170
    truth = zeta * (2 / (n * (n - 1)) + 2 / (m * (m - 1)) + 4 / (n * m))
    _, _, null = repeated("mmd", 0.0, 1, n, m)
    assert abs(cases.z_score(null.square(), truth)) < 5


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("name", MEASURES)
def test_away_from_equality_value_and_error_are_right(name, d):
    value, error, _ = repeated(name, SHIFT, d)
    if (truth := TRUTHS[name](d)) is not None:
        # The blocks' floor is the same in both sets, because a shift does not change it.
        assert abs(cases.z_score(value, truth)) < 5
    assert abs(float(value.std() / error.mean()) - 1) < 5 * spread_error(value)


def test_a_difference_of_width():
    draws = cases.generator(1)
    x = torch.randn(4000, 3, generator=draws, dtype=torch.float64)
    y = 1.5 * torch.randn(3000, 3, generator=draws, dtype=torch.float64)
    found = mmd(x, y, bandwidth=1.5)
    assert abs(found.value - mmd_truth(0.0, 3, bandwidth=1.5, std=1.5)) < 5 * found.error
    found = sliced_wasserstein(x, y, generator=draws)
    # (1.5 - 1)², less half the floor of blocks of 150, which is about 4 %.
    assert abs(found.value - 0.25 * 0.98) < 5 * found.error
    found = energy_distance(x[:, :1], y[:, :1])
    truth = 2 * mean_distance(0, 1 + 1.5**2) - mean_distance(0, 2) - mean_distance(0, 2 * 1.5**2)
    assert abs(found.value - truth) < 5 * found.error


def test_a_shift_in_one_direction_counts_for_its_share():
    draws = cases.generator(2)
    x, y = (torch.randn(2000, 5, generator=draws, dtype=torch.float64) for _ in range(2))
    y[:, 2] += 3
    found = sliced_wasserstein(x, y, projections=500, generator=draws)
    assert abs(found.value - 9 / 5) < 5 * found.error
    assert found.error < 0.2


def test_the_values_are_those_of_plain_sums():
    x, y = cases.normal(9, 2, seed=1), cases.normal(7, 2, seed=2) + 0.3

    def off(k):
        return float(k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))

    def gauss(a, b):
        return (-torch.cdist(a, b).square() / (2 * 0.7**2)).exp()

    truth = off(gauss(x, x)) + off(gauss(y, y)) - 2 * float(gauss(x, y).mean())
    assert mmd(x, y, bandwidth=0.7).value == pytest.approx(truth, rel=1e-10)
    truth = 2 * float(torch.cdist(x, y).mean()) - off(torch.cdist(x, x)) - off(torch.cdist(y, y))
    assert energy_distance(x, y).value == pytest.approx(truth, rel=1e-6)


def test_energy_distance_is_that_of_scipy_without_its_diagonal():
    x, y = cases.normal(40, 1, seed=1), cases.normal(30, 1, seed=2) + 0.5
    biased = scipy.stats.energy_distance(x[:, 0].numpy(), y[:, 0].numpy()) ** 2
    # SciPy pairs points with themselves too: its means within are (n - 1) / n of ours.
    within = [float(torch.cdist(each, each).sum()) / len(each) ** 2 / (len(each) - 1) for each in (x, y)]
    assert energy_distance(x, y).value == pytest.approx(biased - sum(within), abs=1e-10)


def test_blocks_of_sorted_projections_are_optimal_transport():
    ot = pytest.importorskip("ot")
    draws = cases.generator(3)
    x, y = torch.randn(40, 1, generator=draws, dtype=torch.float64), torch.randn(40, 1, generator=draws).double() + 1
    blocks = [discrepancies._sorted_blocks(each, 10, draws)[0] for each in (x, y)]
    ours = torch.cdist(*blocks).square() / 10
    theirs = [[ot.wasserstein_1d(a.numpy(), b.numpy(), p=2) for b in blocks[1]] for a in blocks[0]]
    np.testing.assert_allclose(ours.numpy(), np.array(theirs), rtol=1e-10)


def test_sorted_projections_are_the_cheapest_assignment():
    x, y = cases.normal(12, 1, seed=4), cases.normal(12, 1, seed=5)
    cost = torch.cdist(x, y).square().numpy()
    rows, columns = scipy.optimize.linear_sum_assignment(cost)
    ours = torch.cdist(*(discrepancies._sorted_blocks(each, 12, None)[0] for each in (x, y))).square() / 12
    assert float(ours) == pytest.approx(cost[rows, columns].mean(), rel=1e-10)


def test_the_stein_kernel_is_the_one_of_automatic_differentiation():
    energy, bandwidth = cases.uneven().energy, 0.8
    x, y = cases.normal(4, 2, seed=1), cases.normal(3, 2, seed=2)

    def slope(value, at, **more):
        return torch.autograd.grad(value, at, retain_graph=True, **more)[0]

    truth = torch.empty(4, 3, dtype=torch.float64)
    sx, sy = score(energy, x), score(energy, y)
    for i, j in itertools.product(range(4), range(3)):
        a, b = x[i].clone().requires_grad_(), y[j].clone().requires_grad_()
        k = (1 + (a - b).square().sum() / bandwidth**2) ** -0.5
        of_b = slope(k, b, create_graph=True)
        mixed = sum(slope(of_b[c], a)[c] for c in range(2))
        truth[i, j] = (sx[i] @ sy[j] * k + sx[i] @ of_b + sy[j] @ slope(k, a) + mixed).detach()
    joined = torch.cat([x, sx], 1), torch.cat([y, sy], 1)
    torch.testing.assert_close(discrepancies._stein_kernel(bandwidth)(*joined), truth)


def test_stein_discrepancy_at_a_temperature():
    draws = cases.generator(5)
    x = 0.5**0.5 * torch.randn(1000, 2, generator=draws, dtype=torch.float64)
    at = kernel_stein(normal_energy, x, temperature=0.5, generator=draws)
    assert abs(at.value) < 5 * at.null_error
    assert kernel_stein(normal_energy, x, generator=draws).p_value < 0.01


def test_p_values_are_uniform_under_the_law_and_small_off_it():
    draws = cases.generator(6)
    fair, shifted = [], []
    for _ in range(200):
        x = torch.randn(100, 2, generator=draws, dtype=torch.float64)
        fair.append(kernel_stein(normal_energy, x, bootstraps=99, generator=draws).p_value)
        shifted.append(kernel_stein(normal_energy, x + 0.4, bootstraps=99, generator=draws).p_value)
    # Kolmogorov-Smirnov at 5 standard errors; the wild bootstrap of 100 points is that good.
    assert scipy.stats.kstest(fair, "uniform").pvalue > 5.7e-7
    # 20 of 200 are expected below 0.1, 4.2 of them being the standard deviation.
    assert abs(sum(each <= 0.1 for each in fair) - 20) < 5 * 4.3
    assert sum(each <= 0.1 for each in shifted) > 180


def test_stein_discrepancy_is_blind_to_the_weights_of_modes_and_the_others_are_not():
    means, draws = cases.tensor([[-5.0, 0.0], [5.0, 0.0]]), cases.generator(7)
    law = GaussianMixture(means, std=0.5)
    uneven = GaussianMixture(means, std=0.5, weights=cases.tensor([0.1, 0.9]))
    x, y = law.sample(1000, generator=draws), uneven.sample(1000, generator=draws)
    blind = kernel_stein(law, y, generator=draws)
    assert abs(blind.value) < 5 * blind.null_error
    for found in (mmd(x, y), energy_distance(x, y), sliced_wasserstein(x, y, generator=draws)):
        assert found.value > 10 * found.error


def test_images_sizes_and_parts_do_not_matter(monkeypatch):
    x, y = cases.normal(50, 1, 2, 2, seed=1), cases.normal(40, 1, 2, 2, seed=2) + 0.5
    measures = (
        mmd,
        energy_distance,
        lambda x, y: sliced_wasserstein(x, y, blocks=4, generator=cases.generator(1)),
        lambda x, y: kernel_stein(lambda x: x.flatten(1).square().sum(1) / 2, x, generator=cases.generator(1)),
    )
    whole = [measure(x, y) for measure in measures]
    monkeypatch.setattr(u_statistics, "ENTRIES", 130)
    for measure, before in zip(measures, whole, strict=True):
        assert measure(x, y) == pytest.approx(before, rel=1e-9)
        assert measure(x.flatten(1), y.flatten(1)) == pytest.approx(before, rel=1e-9)
        assert measure(x + 7, y + 7)[:3] == pytest.approx(before[:3], rel=1e-6) or measure is measures[-1]
    for measure in measures[:2]:
        assert measure(y, x) == pytest.approx(measure(x, y), rel=1e-9)


@pytest.mark.slow
def test_ten_thousand_points_fit_in_memory():
    draws = cases.generator(8)
    x, y = (torch.randn(10_000, 2, generator=draws) for _ in range(2))
    for found in (mmd(x, y), energy_distance(x, y), sliced_wasserstein(x, y, generator=draws)):
        assert abs(found.value) < 5 * found.null_error
    assert kernel_stein(normal_energy, x, generator=draws).p_value > 1e-3


def test_a_mistake_is_an_error():
    x = cases.normal(50, 2)
    with pytest.raises(UserError, match="at least 4 draws"):
        mmd(x[:3], x)
    with pytest.raises(UserError, match=r"two sets \(N, \*\)"):
        mmd(torch.zeros(9), torch.zeros(9))
    with pytest.raises(UserError, match="one event shape"):
        energy_distance(x, x[:, :1])
    with pytest.raises(UserError, match="bandwidth"):
        mmd(x, x, bandwidth=0.0)
    with pytest.raises(UserError, match="median distance"):
        mmd(0 * x, 0 * x)
    with pytest.raises(UserError, match="blocks of 1"):
        sliced_wasserstein(x, x, blocks=40)
    with pytest.raises(UserError, match="3 blocks"):
        sliced_wasserstein(x, x, blocks=3)
    with pytest.raises(UserError, match="temperature"):
        kernel_stein(normal_energy, x, temperature=-1.0)
    nothing = mmd(x * math.nan, x)
    assert math.isnan(nothing.value)
    assert math.isnan(nothing.error)
