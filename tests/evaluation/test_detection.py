"""Detection scores against closed forms of two Gaussians, brute force and counting by hand."""

import math
import zlib

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import roc_curve

from energyscape.data import digits
from energyscape.errors import UserError
from energyscape.evaluation import DensityOfStates, Detection, aupr, fpr_at, outliers, overlap, trivial_scores
from energyscape.evaluation.detection import compressed_size, pixel_mean, pixel_variance

APART = 1.3


def normal(n, mean=0.0, seed=0):
    return mean + torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_auroc_of_two_gaussians():
    detection = Detection.of(normal(4_000, APART), normal(9_000, seed=1))
    assert abs(detection.auroc - norm.cdf(APART / math.sqrt(2))) < 5 * detection.error
    assert (detection.outside, detection.inside) == (4_000, 9_000)


def test_the_error_of_an_auroc_is_its_spread():
    detections = [Detection.of(normal(40, APART, seed), normal(90, seed=1000 + seed)) for seed in range(800)]
    values, errors = (np.array([getattr(each, name) for each in detections]) for name in ("auroc", "error"))
    # The standard error of a spread of 800 is 1 / sqrt(1600) of it, and half as much again for its heavy tail.
    assert math.sqrt((errors**2).mean()) == pytest.approx(values.std(ddof=1), rel=5 * 1.5 / math.sqrt(1600))


def test_false_positives_of_two_gaussians():
    n, tpr = 20_000, 0.9
    rate = fpr_at(normal(n, APART), normal(n, seed=1), tpr)
    t = norm.ppf(tpr)
    truth = norm.cdf(t - APART)
    threshold = tpr * (1 - tpr) / n / norm.pdf(t) ** 2  # the variance of a quantile
    error = math.sqrt(truth * (1 - truth) / n + norm.pdf(t - APART) ** 2 * threshold)
    assert abs(rate - truth) < 5 * error


def test_false_positives_by_hand():
    inside = torch.arange(1.0, 21.0)
    outside = torch.tensor([18.5, 19.0, 19.5, 40.0])
    assert fpr_at(outside, inside) == 0.5  # 19 of 20 are kept: up to 19, itself among them
    assert fpr_at(outside, inside, 1.0) == 0.75
    assert fpr_at(outside, inside, 0.05) == 0


@pytest.mark.parametrize(("n", "tpr"), [(19, 0.95), (20, 0.95), (21, 0.95), (7, 0.5), (8, 0.5), (3, 0.01), (3, 1.0)])
def test_false_positives_agree_with_scikit_learn(n, tpr):
    for seed in range(5):
        inside, outside = normal(n, seed=seed), normal(200, 0.5, seed=100 + seed)
        truth = np.r_[np.ones(n), np.zeros(200)]  # the inliers are the positives
        false, true, _ = roc_curve(truth, -torch.cat([inside, outside]).numpy(), drop_intermediate=False)
        assert fpr_at(outside, inside, tpr) == pytest.approx(false[np.argmax(true >= tpr - 1e-12)])


def test_average_precision_by_brute_force():
    outside, inside = normal(30, 0.5).round(decimals=1), normal(50, seed=1).round(decimals=1)
    outside[3], inside[4] = torch.inf, -torch.inf
    total, before = 0.0, 0.0
    for threshold in torch.cat([outside, inside]).unique().flip(0):
        found, wrong = int((outside >= threshold).sum()), int((inside >= threshold).sum())
        total += (found / 30 - before) * found / (found + wrong)
        before = found / 30
    assert aupr(outside, inside) == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("apart", [0.4, 2.0])
def test_overlap_of_two_gaussians(apart):
    n = 40_000
    # Where the densities cross is the pooled median, which with an even number of bins is an edge.
    share = overlap(normal(n), normal(n, apart, seed=1), bins=20)
    half = norm.cdf(-apart / 2)
    assert abs(share - 2 * half) < 5 * math.sqrt(2 * half * (1 - half) / n)


def test_overlap_at_equality_is_short_by_what_it_says():
    n, bins = 2_000, 12
    overlaps = [overlap(normal(n, seed=seed), normal(n, seed=1000 + seed), bins=bins) for seed in range(200)]
    # Each of B terms is half the absolute value of a normal number of variance 2 / B n.
    short, spread = math.sqrt(bins / (math.pi * n)), np.std(overlaps) / math.sqrt(200)
    # The shares add up to one, so that there are B - 1 free terms: that is within a twelfth of the stated error.
    assert 1 - np.mean(overlaps) == pytest.approx(short * math.sqrt(1 - 1 / bins), abs=5 * spread)


def test_overlap_knows_order_alone():
    x, y = normal(500), normal(300, 1.0, seed=1)
    assert overlap(x, y) == pytest.approx(overlap(x.exp(), y.exp()))
    assert overlap(x, y) == pytest.approx(overlap(y, x))
    assert overlap(x, x) == pytest.approx(1)
    assert overlap(x, x.repeat(3)) == pytest.approx(1)
    assert overlap(x, x + 1e9) == 0
    # Two thirds of one set are at the one place of the other.
    assert overlap(torch.tensor([0.0, 0.0, 1.0]), torch.zeros(9)) == pytest.approx(2 / 3)


def test_trivial_scores_by_hand():
    x = torch.tensor([[-1.0, -1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]).view(2, 1, 2, 2)
    assert pixel_mean(x).tolist() == [0, 0]
    assert pixel_variance(x).tolist() == [1, 0]
    expected = [len(zlib.compress(bytes(each), 9)) for each in ([0, 0, 255, 255], [128] * 4)]
    assert compressed_size(x).tolist() == expected
    real = digits(split="test").floats()
    noise = 2 * torch.rand(real.shape, generator=torch.Generator().manual_seed(0)) - 1
    scores = trivial_scores(digits().floats())
    result = {name: outliers(score, real, noise).auroc for name, score in scores.items()}
    assert result["compressed size"] == result["nearest neighbour"] == 1
    assert result["pixel variance"] < 0.05  # digits have sharper contrast
    assert outliers(scores["nearest neighbour"], real, digits().floats(slice(0, 50))).auroc == 0


def test_rarity_is_that_of_a_density():
    # With far more known values than bandwidths, the estimate is the density: -log N(x; 0, 1) but for a constant.
    x = torch.stack([normal(60_000), normal(60_000, seed=1)], 1)
    rare = DensityOfStates(x)
    result = rare(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, -1.0], [1.0, 1.0]]))
    # The kernel widens a variance of one by 3 h² at most, h = N^(-1/5) = 0.11; counts are known to 1 / sqrt(N h).
    assert (result - result[0]).tolist() == pytest.approx(
        [0, 0.5, 0.5, 1], abs=3 * 0.11**2 + 5 / math.sqrt(60_000 * 0.11)
    )
    far = rare(torch.tensor([[1e3, 0.0], [-1e6, 0.0], [torch.inf, 0.0]]))
    assert result.max() < far[0] < far[1] < far[2]
    assert rare(torch.tensor([[torch.nan, 0.0]])).isnan().all()
    with pytest.raises(UserError, match="at least 2"):
        DensityOfStates(x[:1])


def test_rarity_by_brute_force():
    known, x = torch.stack([normal(37), 4 * normal(37, seed=1) + 2], 1), torch.stack([normal(5, seed=2)] * 2, 1)
    truth = np.zeros(5)
    for i in range(2):
        low, high = np.quantile(known[:, i], [0.25, 0.75])
        z = (x[:, i].numpy()[:, None] - known[:, i].numpy()) / (37**-0.2 * (high - low) / 1.35)
        truth -= np.log(((1 + z**2 / 3) ** -2).mean(1))
    np.testing.assert_allclose(DensityOfStates(known)(x), truth, rtol=1e-12)


def test_numbers_that_are_none():
    some, bad = torch.arange(3.0), torch.tensor([0.0, torch.nan])
    for detection in (Detection.of(some, bad), Detection.of(bad, some), Detection.of(some[:0], some)):
        assert all(math.isnan(each) for each in detection[:4])
    assert math.isnan(overlap(some, bad))
    with pytest.raises(UserError, match="share"):
        fpr_at(some, some, 1.5)
    with pytest.raises(UserError, match="bins"):
        overlap(some, some, bins=0)
