"""Exact denoisers against posterior means and densities computed another way."""

import math

import pytest
import torch

import cases
from energyscape.calculus import gauss_legendre
from energyscape.models import EmpiricalDenoiser, GaussianDenoiser, GaussianMixture, MixtureDenoiser

PLANE_MEANS = [[-2.0, 0.5], [1.0, 1.0], [0.0, -1.5]]


def mixture(shape=(2,)):
    means = cases.tensor(PLANE_MEANS) if shape == (2,) else cases.normal(3, *shape, seed=3)
    return GaussianMixture(means, std=0.6, weights=cases.tensor([0.5, 0.3, 0.2]))


def covariance(d, rank):
    factor = cases.normal(d, rank, seed=5)
    return factor @ factor.mT


def sigmas(n, low=0.05, high=20.0):
    return torch.logspace(math.log10(low), math.log10(high), n, dtype=torch.float64, device=cases.DEVICE)


@pytest.mark.parametrize(("shape", "rank"), [((2,), 2), ((2,), 1), ((3, 8, 8), 7)], ids=["plane", "line", "image"])
def test_a_gaussian_is_denoised_by_regression(shape, rank):
    d = math.prod(shape)
    mean, sigma, y = cases.normal(*shape, seed=1), sigmas(6), 3 * cases.normal(6, *shape, seed=2)
    model = GaussianDenoiser(mean, covariance(d, rank))
    for each, level, guess, energy in zip(y, sigma, model(y, sigma), model.energy(y, sigma), strict=True):
        noised = covariance(d, rank) + level**2 * torch.eye(d).to(y)
        posterior = mean.flatten() + covariance(d, rank) @ torch.linalg.solve(noised, (each - mean).flatten())
        torch.testing.assert_close(guess.flatten(), posterior, rtol=1e-9, atol=1e-9)
        law = torch.distributions.MultivariateNormal(mean.flatten(), noised)
        torch.testing.assert_close(-energy, law.log_prob(each.flatten()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("level", [0.3, 1.0, 4.0])
def test_a_mixtures_denoiser_is_the_posterior_mean_by_quadrature(level):
    law, y = mixture(), 2 * cases.normal(8, 2)
    x, weight = gauss_legendre(((-8.0, 8.0), (-8.0, 8.0)), 160)
    joint = weight * (-law(x) - (y[:, None] - x).square().sum(2) / (2 * level**2)).exp() / (2 * math.pi * level**2)
    model, sigma = MixtureDenoiser(law), y.new_full((8,), level)
    torch.testing.assert_close(model(y, sigma), joint @ x / joint.sum(1, keepdim=True), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(model.energy(y, sigma), -joint.sum(1).log(), rtol=1e-7, atol=1e-7)


def test_a_mixture_of_images_is_a_weighing_of_regressions():
    law, y, sigma = mixture((3, 8, 8)), 2 * cases.normal(6, 3, 8, 8), sigmas(6)
    for each, level, guess in zip(y, sigma, MixtureDenoiser(law)(y, sigma), strict=True):
        variance = law.std**2 + level**2
        log_r = law.weights.log() - (each - law.means).flatten(1).square().sum(1) / (2 * variance)
        parts = (law.std**2 * each + level**2 * law.means) / variance
        torch.testing.assert_close(guess, (log_r.softmax(0)[:, None, None, None] * parts).sum(0))


def test_a_label_chooses_components():
    law = mixture()
    model, y, sigma = MixtureDenoiser(law, labels=torch.tensor([0, 1, 0])), 2 * cases.normal(9, 2), sigmas(9)
    label = torch.tensor([-1, 0, 1]).repeat(3)
    assert model.classes == 2
    parts = {
        -1: law,
        0: GaussianMixture(law.means[[0, 2]], std=law.std, weights=law.weights[[0, 2]]),
        1: GaussianMixture(law.means[[1]], std=law.std),
    }
    guess, energy = model(y, sigma, label), model.energy(y, sigma, label)
    for each, part in parts.items():
        alone, of_class = MixtureDenoiser(part), label == each
        torch.testing.assert_close(guess[of_class], alone(y, sigma)[of_class])
        torch.testing.assert_close(energy[of_class], alone.energy(y, sigma)[of_class])
    torch.testing.assert_close(model(y, sigma), model(y, sigma, torch.full((9,), -1)))


@pytest.mark.parametrize("shape", [(2,), (3, 8, 8)])
def test_a_data_set_is_a_mixture_without_width(shape):
    points, y, sigma = cases.normal(5, *shape, seed=4), 2 * cases.normal(6, *shape), sigmas(6)
    model, limit = EmpiricalDenoiser(points), MixtureDenoiser(GaussianMixture(points, std=1e-9))
    torch.testing.assert_close(model(y, sigma), limit(y, sigma))
    torch.testing.assert_close(model.energy(y, sigma), limit.energy(y, sigma))
    label, labels = torch.tensor([0, 1, -1] * 2), torch.tensor([0, 1, 1, 0, 1])
    model, limit = EmpiricalDenoiser(points, labels=labels), MixtureDenoiser(limit.law, labels=labels)
    torch.testing.assert_close(model(y, sigma, label), limit(y, sigma, label))
    torch.testing.assert_close(model.energy(y, sigma, label), limit.energy(y, sigma, label))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_little_noise_leaves_the_nearest_point_and_much_the_mean(dtype):
    points = cases.normal(50, 3, 8, 8, dtype=dtype)
    model, near = EmpiricalDenoiser(points), points + 2e-3 * cases.normal(50, 3, 8, 8, seed=1, dtype=dtype)
    torch.testing.assert_close(model(near, near.new_full((50,), 2e-3)), points)
    far = model(1e3 * near, near.new_full((50,), 1e5))
    # The weights differ by |x||x_i| 10^3 / σ² < 10^-4; in single precision y - σ² ∇E(y) loses eps |y| ~ 10^-4.
    torch.testing.assert_close(far, points.mean(0).expand_as(far), rtol=0, atol=1e-3)


def test_mistakes_are_refused():
    plane = torch.zeros(2)
    for wrong in (torch.eye(3), torch.diag(torch.tensor([1.0, -1.0])), torch.tensor([[1.0, 1.0], [0.0, 1.0]])):
        with pytest.raises(ValueError, match="covariance"):
            GaussianDenoiser(plane, wrong)
    with pytest.raises(ValueError, match="as many labels"):
        MixtureDenoiser(mixture(), labels=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="at least one point"):
        EmpiricalDenoiser(torch.zeros(0, 2))
    with pytest.raises(ValueError, match="as many labels"):
        EmpiricalDenoiser(torch.zeros(3, 2), labels=torch.tensor([0, 1]))
