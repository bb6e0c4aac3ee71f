"""Likelihoods by the probability-flow ODE against densities in closed form, and against SciPy's own integrator."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn
from torch.special import ndtr

import cases
from energyscape.errors import UserError
from energyscape.evaluation import ProbabilityFlow, flow_likelihood, image_likelihood
from energyscape.models import Gaussian, GaussianDenoiser, GaussianMixture, MixtureDenoiser
from energyscape.objectives.score_matching import probe


def mixture(dtype=torch.float64):
    means = torch.tensor([[0.0, 0.0], [3.0, 0.5], [-1.0, 2.0]], dtype=dtype)
    return GaussianMixture(means, std=0.4, weights=torch.tensor([0.5, 0.2, 0.3], dtype=dtype))


def covariance(d, seed=3):
    a = cases.normal(d, d, seed=seed)
    return torch.eye(d, dtype=torch.float64) / 10 + a @ a.mT / d


def log_density(denoiser, x, sigma):
    return -denoiser.energy(x, x.new_full((len(x),), sigma)).detach()


DISTRIBUTIONS = {
    "normal": lambda: (
        Gaussian(cases.normal(1, 2, 3, seed=1), covariance(6)),
        GaussianDenoiser(cases.normal(1, 2, 3, seed=1), covariance(6)),
    ),
    "mixture": lambda: (mixture(), MixtureDenoiser(mixture())),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_density_is_that_of_data_noised_at_the_lowest_level(name):
    law, denoiser = DISTRIBUTIONS[name]()
    x = law.sample(40, generator=cases.generator(2))
    flow = ProbabilityFlow(denoiser, sigma_min=0.05, sigma_max=400.0, data_std=1.0, steps=48)
    found, truth = flow.log_prob(x), log_density(denoiser, x, 0.05)
    assert found.dtype == torch.float64
    # The prior lacks the data's mean, of length 2.5 at most: x · mean / σ_max², a few times 2.5 / 400, a point.
    assert (found - truth).abs().max() < 5 * 2.5 / 400
    assert float(found.mean()) == pytest.approx(float(truth.mean()), abs=5 * 2.5 / 400 / 40**0.5 + 1e-3)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_half_the_step_errs_by_a_sixteenth(name):
    law, denoiser = DISTRIBUTIONS[name]()
    x = law.sample(20, generator=cases.generator(2))
    settings = {"sigma_min": 0.1, "sigma_max": 8.0, "data_std": 1.0}
    found = [ProbabilityFlow(denoiser, **settings, steps=steps).log_prob(x) for steps in (20, 40, 80)]
    coarse, fine = ((found[k] - found[k + 1]).square().mean().sqrt() for k in range(2))
    assert 12 < float(coarse / fine) < 24


def test_the_prior_is_as_stated():
    """A flow that does nothing at high levels leaves the prior's density times that of the change of scale."""
    flow = ProbabilityFlow(lambda x, sigma: 0 * x, sigma_min=0.5, sigma_max=4.0, data_std=3.0, steps=40)
    x = cases.normal(5, 3)
    # D = 0: x grows by σ_max / σ_min = 8, so that x is N(0, (4² + 3²) / 8²).
    truth = -(x.square().sum(1) / (2 * 25 / 64)) - 1.5 * math.log(2 * math.pi * 25 / 64)
    assert torch.allclose(flow.log_prob(x), truth, rtol=1e-6)


class Turning(nn.Module):
    """A denoiser that is none: its score is no gradient, its Jacobian neither symmetric nor constant."""

    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(cases.normal(3, 3, seed=8) / 2)

    def forward(self, x, sigma):
        assert not self.matrix.requires_grad
        return torch.tanh(x @ self.matrix.mT) / (1 + sigma.unsqueeze(1))


def test_any_denoiser_agrees_with_scipy():
    denoise, x = Turning(), cases.normal(2, 3, seed=5)
    matrix = denoise.matrix.detach().numpy()

    def slope(t, y):
        h, scale = np.tanh(matrix @ y[:3]), 1 + np.exp(t)
        return np.concatenate([y[:3] - h / scale, [3 - (1 - h**2) @ np.diag(matrix) / scale]])

    flow = ProbabilityFlow(denoise, sigma_min=0.1, sigma_max=5.0, data_std=0.5, steps=80)
    for point, found in zip(x, flow.log_prob(x), strict=True):
        span = math.log(0.1), math.log(5.0)
        end = solve_ivp(slope, span, [*point.tolist(), 0.0], rtol=1e-11, atol=1e-11).y[:, -1]
        truth = end[3] - end[:3] @ end[:3] / (2 * 25.25) - 1.5 * math.log(2 * math.pi * 25.25)
        assert float(found) == pytest.approx(truth, rel=1e-6)
    assert denoise.matrix.requires_grad
    assert denoise.matrix.grad is None


def test_probes_are_unbiased_and_exact_along_the_axes():
    flow = ProbabilityFlow(Turning(), sigma_min=0.1, sigma_max=5.0, steps=12)
    x = cases.normal(4, 3, seed=5)
    exact = flow.log_prob(x)
    axes = 3**0.5 * torch.eye(3, dtype=torch.float64).unsqueeze(1).expand(3, 4, 3)
    assert torch.allclose(flow.estimates(x, axes).mean(0), exact, rtol=1e-12)
    copies = 400
    v = probe(x.repeat(copies, 1), "rademacher", generator=cases.generator(6))
    found = flow.estimates(x.repeat(copies, 1), v.unsqueeze(0)).view(copies, 4)
    for k in range(4):
        assert abs(cases.z_score(found[:, k], float(exact[k]))) < 5
        assert float(found[:, k].std()) > 0.05  # there is something to average


def test_errors_are_standard_errors():
    law, denoiser = (
        Gaussian(cases.normal(5, seed=1), covariance(5)),
        GaussianDenoiser(cases.normal(5, seed=1), covariance(5)),
    )
    flow = ProbabilityFlow(denoiser, sigma_min=0.1, sigma_max=100.0, steps=8)
    x = law.sample(100, generator=cases.generator(3))
    exact = flow_likelihood(flow, x, batch_size=64)
    each = flow.log_prob(x)
    assert exact.nats == pytest.approx(float(each.mean()))
    assert exact.error == pytest.approx(float(each.std()) / 100**0.5)
    assert exact.probe_error == 0
    half = ProbabilityFlow(denoiser, sigma_min=0.1, sigma_max=100.0, steps=4).log_prob(x[:64])
    assert exact.step_error == pytest.approx(abs(float(half.mean() - each[:64].mean())))
    assert exact.bits == pytest.approx(-exact.nats / 5 / math.log(2))
    assert exact.bits_error == pytest.approx(exact.error / 5 / math.log(2))
    for part in ("8 Runge-Kutta", "from 0.1 to 100", "N(0, 100²)", "exact trace", "100 points of 5"):
        assert part in exact.protocol
    # For a normal law tr J is estimated by a fixed quadratic form: its variance is known from many probes.
    repeated = [flow_likelihood(flow, x, probes=2, generator=cases.generator(seed)) for seed in range(10, 20)]
    values = torch.tensor([each.nats for each in repeated], dtype=torch.float64)
    assert abs(cases.z_score(values, exact.nats)) < 5
    # A standard deviation of 10 values is within 5 · 0.24 of its truth, and chi-square has a short lower tail.
    assert 0.3 < float(values.std()) / repeated[0].probe_error < 2
    assert "2 random signs" in repeated[0].protocol
    likelihood, draws = flow_likelihood(flow, x, probes=2, generator=cases.generator(10)), cases.generator(10)
    v = torch.stack([probe(x, "rademacher", generator=draws) for _ in range(2)])
    both = flow.estimates(x, v)
    assert likelihood.nats == pytest.approx(float(both.mean()))
    assert likelihood.probe_error == pytest.approx(float(both.diff(dim=0).square().mean() / 2 / 200) ** 0.5)
    half = replace(flow, steps=4).estimates(x[:64], v[:, :64])
    assert likelihood.step_error == pytest.approx(abs(float(half.mean() - both[:, :64].mean())))
    assert math.isnan(flow_likelihood(flow, x[:4], probes=1, generator=cases.generator()).probe_error)


def flat(low, high):
    """Returns the exact denoiser of a uniform law on an interval, in every dimension."""

    def denoise(x, sigma):
        s = sigma.view(-1, 1, 1, 1)
        a, b = (low - x) / s, (high - x) / s
        bell = lambda u: (-(u**2) / 2).exp() / math.sqrt(2 * math.pi)  # noqa: E731
        return x + s * (bell(a) - bell(b)) / (ndtr(b) - ndtr(a)).clamp(min=1e-300)

    return denoise


def test_a_uniform_law_over_256_levels_is_8_bits():
    w = 2 / 255
    flow = ProbabilityFlow(flat(-1 - w / 2, 1 + w / 2), sigma_min=w / 4, sigma_max=10.0, data_std=0.58, steps=40)
    level = torch.randint(16, 240, (6, 1, 2, 2), generator=cases.generator(1))  # far from the ends, which noise blurs
    likelihood = image_likelihood(flow, 2 * level / 255 - 1, generator=cases.generator(2))
    assert likelihood.bits == pytest.approx(8, abs=1e-3)
    assert likelihood.nats == pytest.approx(-4 * 8 * math.log(2), abs=3e-3)
    assert "256 levels from -1 to 1" in likelihood.protocol
    # 16 levels of the same law's width: 4 bits.
    likelihood = image_likelihood(flow, (level // 16) * 2.0 / 15 - 1, levels=16, generator=cases.generator(2))
    assert likelihood.bits == pytest.approx(-math.log2((2 / 15) / (2 + w)), abs=0.01)


def test_a_normal_law_in_levels():
    """Against its probabilities by the distribution function; the bound's gap is of order (w / s)²."""
    s, sigma_min, levels = 0.4, 0.02, 64
    w = 2 / (levels - 1)
    draws = 0.1 + s * cases.normal(3_000, 1, 1, 2, seed=4)
    images = ((draws.clamp(-1, 1) + 1) / w).round() * w - 1
    images = images[((images > 0.1) & (images < 0.999)).flatten(1).all(1)]  # a side of the bell: bins are not symmetric
    total = math.hypot(s, sigma_min)
    flow = ProbabilityFlow(
        lambda x, sigma: 0.1 + (x - 0.1) * (s**2 / (s**2 + sigma**2)).view(-1, 1, 1, 1),
        sigma_min=sigma_min,
        sigma_max=40.0,
        data_std=s,
        steps=16,
    )
    likelihood = image_likelihood(flow, images, levels=levels, batch_size=1000, generator=cases.generator(5))
    cell = ndtr((images + w / 2 - 0.1) / total) - ndtr((images - w / 2 - 0.1) / total)
    truth = cell.log().flatten(1).sum(1)
    # In a cell log p is nearly a line, of variance slope² w² / 12: the logarithm of the mean of p is half of that above
    # the mean of log p, up to terms of order w⁴.
    slope = (images - 0.1) / total**2
    gap = (w**2 / 24 * (slope**2)).flatten(1).sum(1)
    spread = float((slope.flatten(1).square().sum(1) * w**2 / 12).mean().sqrt()) / len(images) ** 0.5
    assert abs(likelihood.nats - float((truth - gap).mean())) < 5 * spread + 1e-3
    assert likelihood.bits == pytest.approx(-likelihood.nats / 2 / math.log(2))
    assert likelihood.bits == pytest.approx(-float(truth.mean()) / 2 / math.log(2), rel=0.01)


def test_in_single_precision_too():
    law = mixture(torch.float32)
    x = law.sample(50, generator=cases.generator(2))
    flow = ProbabilityFlow(MixtureDenoiser(law), sigma_min=0.05, sigma_max=50.0, data_std=1.7, steps=48)
    double = ProbabilityFlow(MixtureDenoiser(mixture()), sigma_min=0.05, sigma_max=50.0, data_std=1.7, steps=48)
    # 200 evaluations whose rounding of 1e-7 relative is magnified by x / σ_min.
    assert (flow.log_prob(x) - double.log_prob(x.double())).abs().max() < 1e-3


def test_a_point_knows_nothing_of_its_batch():
    flow = ProbabilityFlow(MixtureDenoiser(mixture()), sigma_min=0.05, sigma_max=50.0, steps=8)
    x = cases.normal(5, 2)
    assert torch.allclose(flow.log_prob(x)[2:3], flow.log_prob(x[2:3]), rtol=1e-12)


def test_gradients_are_taken_where_they_are_off():
    _, denoiser = DISTRIBUTIONS["mixture"]()
    x = mixture().sample(4, generator=cases.generator(2))
    flow = ProbabilityFlow(denoiser, sigma_min=0.1, sigma_max=8.0, steps=4)
    outside = flow.log_prob(x)
    for off in (torch.inference_mode, torch.no_grad):
        with off():
            inside = flow.log_prob(x.clone())
        assert torch.allclose(inside, outside, rtol=1e-12)


def test_mistakes_are_refused():
    denoise = MixtureDenoiser(mixture())
    for wrong in ({"sigma_min": 0.0}, {"sigma_max": 0.01}, {"steps": 0}, {"data_std": -1.0}):
        with pytest.raises(UserError):
            ProbabilityFlow(denoise, **({"sigma_min": 0.1, "sigma_max": 10.0} | wrong))
    flow = ProbabilityFlow(denoise, sigma_min=0.1, sigma_max=10.0, steps=2)
    for settings in ({"probes": 0}, {"batch_size": 0}):
        with pytest.raises(UserError, match="at least 2 points"):
            flow_likelihood(flow, cases.normal(4, 2), **settings)
    with pytest.raises(UserError, match="at least 2 points"):
        flow_likelihood(flow, cases.normal(1, 2))
    with pytest.raises(UserError, match="between them or beyond"):
        image_likelihood(flow, torch.tensor([[0.0, 1.0], [0.3, 1.0]]), levels=17)
    with pytest.raises(UserError, match="between them or beyond"):
        image_likelihood(flow, torch.tensor([[0.0, 1.25], [0.0, 1.0]]), levels=17)
