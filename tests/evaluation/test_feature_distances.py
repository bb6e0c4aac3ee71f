"""Distances of features: closed forms of Gaussians, SciPy, torchmetrics, and errors against the spread they claim."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from energyscape.errors import UserError
from energyscape.evaluation import frechet_distance, kernel_distance


def normal(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def points(mean, covariance, n=50, seed=0):
    """Points whose mean and covariance are these exactly."""
    z = normal(n, len(mean), seed)
    z = z - z.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(z.mT))
    return z @ vectors / values.sqrt() @ torch.linalg.cholesky(covariance).mT + mean


def covariance(d, seed):
    a = normal(d, d, seed)
    return a @ a.mT / d + 0.1 * torch.eye(d, dtype=torch.float64)


def test_frechet_of_known_moments_against_scipy():
    d = 6
    a, b = covariance(d, 1), covariance(d, 2)
    m1, m2 = normal(2, d, 3)
    truth = (m1 - m2).square().sum() + a.trace() + b.trace() - 2 * np.trace(sqrtm((a @ b).numpy()).real)
    distance = frechet_distance(points(m1, a), points(m2, b, n=80, seed=5))
    assert distance.value == pytest.approx(float(truth), rel=1e-9)


def test_frechet_in_one_dimension_and_with_fewer_points_than_features():
    x, y = normal(30, 1, 0), 3 * normal(40, 1, 1) + 2
    truth = (x.mean() - y.mean()) ** 2 + (x.std() - y.std()) ** 2
    assert frechet_distance(x, y).value == pytest.approx(float(truth), rel=1e-9)
    # Six points in nine dimensions, moved along one and stretched about their mean: d² = 25 + (3 - 1)² tr Σ.
    few = normal(6, 9, 2)
    other = few.mean(0) + 3 * (few - few.mean(0)) + 5 * torch.eye(9, dtype=torch.float64)[4]
    distance = frechet_distance(few, other)
    assert distance.value == pytest.approx(25 + 4 * float(few.var(0).sum()), rel=1e-9)
    assert frechet_distance(few, few).value == pytest.approx(0, abs=1e-9)


def test_frechet_of_a_set_in_halves_is_its_bias():
    n, d, repeats = 1_000, 4, 300
    distances = [frechet_distance(normal(n, d, seed), normal(n, d, 9_000 + seed)).value for seed in range(repeats)]
    # The means differ by 2 d / n, and a fourth of the squared difference of covariances is d (d + 1) / 2 n.
    bias = 2 * d / n + d * (d + 1) / (2 * n)
    assert np.mean(distances) == pytest.approx(bias, abs=5 * np.std(distances) / math.sqrt(repeats) + bias / n)


def test_the_error_of_a_frechet_distance_is_its_spread():
    repeats, n = 400, 1_500
    mix, shift = covariance(3, 4), torch.tensor([0.3, 0.0, -0.2], dtype=torch.float64)
    result = [
        frechet_distance(normal(n, 3, seed), 1.5 * normal(2 * n, 3, 9_000 + seed) @ mix + shift)
        for seed in range(repeats)
    ]
    spread = np.std([each.value for each in result], ddof=1)
    claimed = math.sqrt(np.mean([each.error**2 for each in result]))
    # A spread of 400 is known to 1 / sqrt(800); what is beyond the first order is of order 1 / sqrt(n) of it.
    assert claimed == pytest.approx(spread, rel=5 / math.sqrt(2 * repeats) + 1 / math.sqrt(n))
    # Alone, each side has its own share: exchanged sets have the same error.
    x, y = normal(n, 3, 0), 2 * normal(200, 3, 1)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-9)


def test_kernel_distance_of_two_gaussians():
    m = 0.7
    x, y = normal(3_000, 1, 0), normal(2_000, 1, 1) + m
    distance = kernel_distance(x, y)
    # E (a b + 1)³ of independent a and b is 1 + 3 E a E b + 3 E a² E b² + E a³ E b³.
    within = 1 + 3 * m**2 + 3 * (1 + m**2) ** 2 + (m**3 + 3 * m) ** 2
    truth = 4 + within - 2 * (1 + 3 * (1 + m**2))
    assert abs(distance.value - truth) < 5 * distance.error
    assert distance.error < truth / 4


def test_kernel_distance_is_unbiased_at_equality():
    distances = [kernel_distance(normal(60, 3, seed), normal(40, 3, 9_000 + seed)).value for seed in range(300)]
    assert abs(np.mean(distances)) < 5 * np.std(distances) / math.sqrt(300)


@pytest.mark.parametrize("scale", [1.0, 1.7])
def test_against_torchmetrics(scale):
    pytest.importorskip("torchmetrics")
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    class Same(torch.nn.Module):
        num_features = 5

        def forward(self, x):
            return x

    x, y = normal(200, 5, 0), scale * normal(200, 5, 1) + 0.1
    with pytest.warns(UserWarning, match="buffer"):
        kernel = KernelInceptionDistance(Same(), subsets=1, subset_size=200)
    metrics = FrechetInceptionDistance(Same()), kernel
    for metric in metrics:
        metric.update(x, real=True)
        metric.update(y, real=False)
    assert frechet_distance(x, y).value == pytest.approx(float(metrics[0].compute()), rel=1e-8)
    # Theirs, of one subset that is all, pairs every point of one set with every other: ours.
    assert kernel_distance(x, y).value == pytest.approx(float(metrics[1].compute()[0]), rel=1e-9)


def test_what_cannot_be_compared():
    x = normal(5, 3, 0)
    bad = x.clone()
    bad[1, 2] = torch.nan
    assert math.isnan(frechet_distance(x, bad).value)
    for measure in (frechet_distance, kernel_distance):
        with pytest.raises(UserError, match="as many features"):
            measure(x, normal(5, 4, 0))
        with pytest.raises(UserError, match="at least"):
            measure(x, x[:1])
