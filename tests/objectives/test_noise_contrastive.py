r"""Learning from noise: the noise law, and losses whose expectation is known by quadrature or in closed form.

With :math:`E = p \|x\|^2 / 2` in d dimensions and data from N(0, v I), :math:`p^* = 1 / v` and
:math:`\log Z = \tfrac d2 \log(2 \pi / p)`.
"""

import itertools
import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

import cases
from energyscape.calculus import gauss_legendre
from energyscape.data import Batches
from energyscape.errors import UserError
from energyscape.models import Energy
from energyscape.noise import noised
from energyscape.objectives import EnergyDiscrepancy, NoiseContrastiveEstimation, RankingNCE
from energyscape.objectives.noise_contrastive import FLOOR, FULL, SHARES, Contrast
from energyscape.training import Fit, Snapshot

V = 1.3
NOISES = tuple(SHARES)


def log_z(p, d):
    return d / 2 * math.log(2 * math.pi / p)


def skewed(n, *, seed=0):
    """Points of a correlated law that is not centred."""
    return cases.normal(n, 2, seed=seed) @ cases.tensor([[1.0, 0.7], [0.0, 0.5]]) + cases.tensor([0.4, -0.2])


def fitted(noise, *, spread=1.2):
    contrast = Contrast(noise, spread=spread)
    contrast.fit(skewed(512, seed=11))
    return contrast


# --- the noise law ----------------------------------------------------------------------------------------------------


def test_the_normal_law_has_the_data_s_moments():
    x, spread = skewed(300), 1.7
    contrast = Contrast("gaussian", spread=spread)
    contrast.fit(x)
    assert torch.allclose(contrast.mean, x.mean(0), rtol=1e-12)
    sample = torch.cov(x.mT, correction=0)
    shrunk = (300 * sample + 2 * sample.diag().diag()) / 302 + FLOOR * sample.trace() / 2 * torch.eye(2).to(x)
    assert torch.allclose(contrast.factor @ contrast.factor.mT, spread**2 * shrunk, rtol=1e-10)
    wide = cases.normal(40, FULL + 1) * 3
    contrast.fit(wide)
    variance = wide.var(0, correction=0)
    assert torch.allclose(contrast.factor, spread * (variance + FLOOR * variance.mean()).sqrt(), rtol=1e-10)


def test_the_box_is_that_of_the_data():
    x = skewed(300)
    contrast = Contrast("uniform", spread=1.5)
    contrast.fit(x)
    assert torch.allclose(contrast.high - contrast.low, 1.5 * (x.amax(0) - x.amin(0)), rtol=1e-12)
    assert torch.allclose(contrast.high + contrast.low, x.amax(0) + x.amin(0), rtol=1e-12)


@pytest.mark.parametrize("noise", NOISES)
def test_log_prob_is_that_of_independent_code(noise):
    contrast, x = fitted(noise), torch.cat([skewed(200, seed=3), cases.tensor([[30.0, 0.0], [0.0, -30.0]])])
    normal = MultivariateNormal(contrast.mean, scale_tril=contrast.factor).log_prob(x).exp()
    inside = ((x > contrast.low) & (x < contrast.high)).all(1)
    uniform = inside / (contrast.high - contrast.low).prod()
    assert 2 <= int((~inside).sum()) < 100
    density = SHARES[noise] * normal + (1 - SHARES[noise]) * uniform
    assert torch.allclose(contrast.log_prob(x).exp(), density, rtol=1e-10, atol=1e-300)


def test_log_prob_beyond_full_covariances():
    x = cases.normal(50, 1, 12, 12) * 2 + 1
    contrast = Contrast("gaussian", spread=1.1)
    contrast.fit(x)
    alone = Normal(contrast.mean, contrast.factor).log_prob(x.flatten(1)).sum(1)
    assert torch.allclose(contrast.log_prob(x), alone, rtol=1e-12)


@pytest.mark.parametrize("noise", NOISES)
def test_draws_are_of_the_density(noise):
    contrast = fitted(noise)
    y = contrast.draw(2**16, like=skewed(1), generator=cases.generator())
    q = contrast.log_prob(y).exp()
    # E[f / q] over draws is the integral of f: areas of boxes off the centre, and of the half above the diagonal.
    for x0, x1, y0, y1 in [(0, 1, 0, 0.5), (-1.5, 0, -1, -0.2), (0.5, 1.5, -0.5, 0.5)]:
        u, v, area = (y[:, 0] - x0) / (x1 - x0), (y[:, 1] - y0) / (y1 - y0), (x1 - x0) * (y1 - y0)
        box = (u > 0) & (u < 1) & (v > 0) & (v < 1)
        assert abs(cases.z_score(box / q, area)) < 5
        assert abs(cases.z_score((box & (v > u)) / q, area / 2)) < 5


@pytest.mark.parametrize("shape", [(2,), (1, 8, 8), (3, 8, 8)], ids=str)
@pytest.mark.parametrize("noise", NOISES)
def test_draws_in_many_dimensions_have_the_law_s_moments(noise, shape):
    contrast = Contrast(noise)
    x = cases.normal(64, *shape) + 3
    contrast.fit(x)
    y = contrast.draw(2**13, like=x[:1], generator=cases.generator())
    assert y.shape == (2**13, *shape)
    centre = (contrast.low + contrast.high) / 2
    a, flat = SHARES[noise], y.flatten(1)
    covariance = contrast.factor @ contrast.factor.mT if contrast.factor.ndim > 1 else contrast.factor.square().diag()
    for i in (0, flat.shape[1] - 1):
        assert abs(cases.z_score(flat[:, i], float(a * contrast.mean[i] + (1 - a) * centre[i]))) < 5
        normal = covariance[i, i] + (contrast.mean[i] - 3) ** 2
        uniform = (contrast.high - contrast.low)[i] ** 2 / 12 + (centre[i] - 3) ** 2
        assert abs(cases.z_score((flat[:, i] - 3).square(), float(a * normal + (1 - a) * uniform))) < 5
    if noise == "gaussian":
        product = (flat[:, 0] - contrast.mean[0]) * (flat[:, 1] - contrast.mean[1])
        assert abs(cases.z_score(product, float(covariance[0, 1]))) < 5


def test_a_constant_pixel_is_a_little_noisy():
    x = cases.normal(64, 3)
    x[:, 1] = -1.0
    for noise in NOISES:
        contrast = Contrast(noise)
        contrast.fit(x)
        y = contrast.draw(1000, like=x, generator=cases.generator())
        assert bool(contrast.log_prob(torch.cat([x, y])).isfinite().all())
        assert 0.01 < float(y[:, 1].std()) < 0.2


def test_equal_points_are_refused():
    with pytest.raises(UserError, match="cannot be fitted to a batch of 5 equal points"):
        Contrast("gaussian").fit(torch.ones(5, 2))


# --- noise-contrastive estimation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [1, 3])
@pytest.mark.parametrize("noise", NOISES)
def test_nce_by_hand(noise, ratio):
    """As printed: the posterior probability h of data is p_m / (p_m + ν q)."""
    p, c = 0.7, 1.1
    objective = NoiseContrastiveEstimation(noise=noise, ratio=ratio)
    x, model = skewed(64, seed=5), cases.Quadratic(p)
    objective.contrast.fit(x)
    objective.log_z.data.fill_(c)
    c = float(objective.log_z.detach())  # it is kept in float32
    loss = objective(model, x, generator=cases.generator(6))
    y = objective.contrast.draw(64 * ratio, like=x, generator=cases.generator(6))
    assert len(y) == 64 * ratio

    def h(points):
        p_m = (-p * points.square().sum(1) / 2 - c).exp()
        return p_m / (p_m + ratio * objective.contrast.log_prob(points).exp())

    value = -h(x).log().mean() - ratio * (1 - h(y)).log().mean()
    assert float(loss.value.detach()) == pytest.approx(float(value), rel=1e-9)
    accuracy = ((h(x) > 0.5).double().mean() + (h(y) < 0.5).double().mean()) / 2
    assert float(loss.facts["accuracy"]) == pytest.approx(float(accuracy), rel=1e-12)
    assert float(loss.facts["log_z"]) == pytest.approx(c)


def by_quadrature(contrast, ratio, p, c):
    """Returns the expected loss and its gradients in p and c, for data from N(0, v I) in the plane."""
    box = ((-9.0, 9.0), (-9.0, 9.0))
    if contrast.share == 0:  # outside the box of the noise nothing happens
        box = tuple((float(a), float(b)) for a, b in zip(contrast.low, contrast.high, strict=True))
    points, weights = gauss_legendre(box, 160)
    r = points.square().sum(1)
    data = (-r / (2 * V)).exp() / (2 * math.pi * V)
    p_m, q = (-p * r / 2 - c).exp(), ratio * contrast.log_prob(points).exp()
    value = -(weights * (data * (p_m / (p_m + q)).log() + q * (q / (p_m + q)).log())).sum()
    # h' = h (1 - h) G', and G' is -r / 2 in p and -1 in c.
    in_c = weights * q / (p_m + q) * (data - p_m)
    return float(value), float((in_c * r / 2).sum()), float(in_c.sum())


@pytest.mark.parametrize("ratio", [1, 4])
@pytest.mark.parametrize("noise", ["gaussian", "uniform"])
@pytest.mark.parametrize(("p", "shift"), [(1 / V, 0.0), (1.2, 0.0), (0.5, 0.4), (1 / V, -0.5)])
def test_nce_s_loss_and_gradients_are_those_of_quadrature(p, shift, noise, ratio):
    objective = NoiseContrastiveEstimation(noise=noise, ratio=ratio)
    objective.contrast.fit(math.sqrt(V) * cases.normal(512, 2, seed=1))
    objective.log_z.data.fill_(log_z(p, 2) + shift)
    model, result = cases.Quadratic(p), []
    for i in range(48):
        x = math.sqrt(V) * cases.normal(1024, 2, seed=100 + i)
        value = objective(model, x, generator=cases.generator(i)).value
        result.append((value.detach(), *torch.autograd.grad(value, [model.p, objective.log_z])))
    values, in_p, in_c = (torch.stack([each.double() for each in column]) for column in zip(*result, strict=True))
    expected = by_quadrature(objective.contrast, ratio, p, float(objective.log_z.detach()))
    for drawn, truth in zip((values, in_p, in_c), expected, strict=True):
        assert abs(cases.z_score(drawn, truth)) < 5
    if p == 1 / V:
        # At the truth both vanish; a log Z too small is pushed up, one too large down.
        if shift == 0:
            assert abs(cases.z_score(in_p)) < 5
            assert abs(cases.z_score(in_c)) < 5
        else:
            assert cases.z_score(in_c) < -5


def test_log_z_is_a_parameter_that_training_finds():
    """Also the short training: from a wrong width both numbers come to the truth."""
    ends = []
    for i in range(10):
        model, objective = cases.Quadratic(0.4), NoiseContrastiveEstimation(ratio=2)
        assert [name for name, _ in objective.named_parameters()] == ["log_z"]
        optimiser = torch.optim.Adam([*model.parameters(), *objective.parameters()], lr=0.03)
        data = (math.sqrt(V) * cases.normal(256, 2, seed=1000 * i + j) for j in itertools.count())
        run = Fit(model, objective, data, optimiser, samples=256 * 300, seed=i, guards=[])
        path = [(float(model.p.detach()), float(objective.log_z.detach())) for _ in run]
        ends.append(cases.tensor(path[150:]).mean(0))
    p, c = torch.stack(ends).unbind(1)
    assert abs(cases.z_score(p, 1 / V)) < 5
    assert abs(cases.z_score(c, log_z(1 / V, 2))) < 5
    # It is a test: five standard errors are a few hundredths.
    assert 5 * float(p.std()) / math.sqrt(10) < 0.05
    assert 5 * float(c.std()) / math.sqrt(10) < 0.05


def test_log_z_begins_at_its_importance_estimate_and_the_law_stays():
    p, x = 0.7, skewed(2**13)
    objective = NoiseContrastiveEstimation(spread=1.5)
    facts = objective(cases.Quadratic(p), x, generator=cases.generator(2)).facts
    y = objective.contrast.draw(2**13, like=x, generator=cases.generator(2))
    ratio = (-p * y.square().sum(1) / 2 - objective.contrast.log_prob(y)).exp()
    assert float(facts["log_z"]) == pytest.approx(float(ratio.mean().log()), rel=1e-6)
    assert abs(cases.z_score(ratio, math.exp(log_z(p, 2)))) < 5
    before = {name: each.clone() for name, each in objective.state_dict().items()}
    objective(cases.Quadratic(0.1), 3 * skewed(64), generator=cases.generator(3))
    assert all(torch.equal(each, before[name]) for name, each in objective.state_dict().items())


# --- ranking ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", NOISES)
def test_ranking_nce_by_hand(noise):
    p, k = 0.7, 3
    objective = RankingNCE(noise=noise, ratio=k)
    x, model = skewed(64, seed=5), cases.Quadratic(p)
    loss = objective(model, x, generator=cases.generator(6))
    y = objective.contrast.draw(64 * k, like=x, generator=cases.generator(6))
    ratio = [(-p * points.square().sum(1) / 2).exp() / objective.contrast.log_prob(points).exp() for points in (x, y)]
    rivals = ratio[1].reshape(64, k)
    share = ratio[0] / (ratio[0] + rivals.sum(1))
    assert float(loss.value.detach()) == pytest.approx(float(-share.log().mean()), rel=1e-10)
    best = (ratio[0][:, None] > rivals).all(1).double().mean()
    assert float(loss.facts["accuracy"]) == pytest.approx(float(best))
    assert float(loss.facts["log_z"]) == pytest.approx(float(rivals.mean().log()), rel=1e-10)


class Shifted(Energy):
    """An energy and a constant."""

    def __init__(self, energy, constant):
        super().__init__()
        self.energy, self.constant = energy, constant

    def forward(self, x, label=None):
        return self.energy(x) + self.constant


@pytest.mark.parametrize("make", [lambda: RankingNCE(noise="mixture"), lambda: EnergyDiscrepancy(time=0.3)])
def test_a_constant_added_to_the_energy_changes_nothing(make):
    energy, x, result = cases.neural(dtype=torch.float64), skewed(64), []
    for constant in (0.0, 7.0):
        loss = make()(Shifted(energy, constant), x, generator=cases.generator())
        slopes = torch.autograd.grad(loss.value, list(energy.parameters()))
        result.append((loss.value.detach(), loss.facts, slopes))
    assert torch.allclose(result[0][0], result[1][0], rtol=1e-12)
    assert torch.equal(result[0][1]["accuracy"], result[1][1]["accuracy"])
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(result[0][2], result[1][2], strict=True))
    if "log_z" in result[0][1]:
        assert float(result[0][1]["log_z"] - result[1][1]["log_z"]) == pytest.approx(7.0, rel=1e-12)


def test_a_model_that_is_the_noise_ranks_by_chance():
    x, objective = skewed(64), RankingNCE(ratio=3)
    objective.contrast.fit(x)

    class Noise(cases.Quadratic):
        def forward(self, x, label=None):
            return -objective.contrast.log_prob(x) + 2.0 + 0 * self.p

    assert float(objective(Noise(1.0), x, generator=cases.generator()).value.detach()) == pytest.approx(math.log(4))


@pytest.mark.parametrize("kind", [NoiseContrastiveEstimation, RankingNCE])
def test_data_outside_the_box_teach_nothing_and_harm_nothing(kind):
    objective, model, far = kind(noise="uniform", ratio=2), cases.Quadratic(0.7), cases.tensor([[50.0, 0.0]])
    objective.contrast.fit(skewed(32))
    value = objective(model, far, generator=cases.generator()).value
    slope = float(torch.autograd.grad(value, model.p)[0])
    value = float(value.detach())
    if kind is RankingNCE:
        assert (value, slope) == (0.0, 0.0)
        return
    # Only the noise's half is left: each of two points adds log(1 + e^G), whose slope in p is -h |y|² / 2.
    y = objective.contrast.draw(2, like=far, generator=cases.generator())
    r = y.square().sum(1)
    g = -0.7 * r / 2 - objective.contrast.log_prob(y) - math.log(2)
    assert value == pytest.approx(float((1 + g.exp()).log().sum()), rel=1e-10)
    assert slope == pytest.approx(-float((g.sigmoid() * r / 2).sum()), rel=1e-10)


# --- energy discrepancy -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_energy_discrepancy_by_hand(weight):
    p, t, m = 0.7, 0.3, 4
    x = cases.normal(32, 1, 2, 2)
    objective = EnergyDiscrepancy(time=t, samples=m, weight=weight)
    loss = objective(cases.Quadratic(p), x, generator=cases.generator(6))
    stream = cases.generator(6)
    y, _ = noised(x, math.sqrt(t), generator=stream)
    z = torch.empty(32 * m, 1, 2, 2, dtype=torch.float64).normal_(generator=stream).reshape(32, m, 1, 2, 2)
    guesses = y[:, None] + math.sqrt(t) * z
    e, e_guess = p * x.square().sum((1, 2, 3)) / 2, p * guesses.square().sum((2, 3, 4)) / 2
    inside = weight / m + (e[:, None] - e_guess).exp().mean(1)
    assert float(loss.value.detach()) == pytest.approx(float(inside.log().mean()), rel=1e-11)
    assert float(loss.facts["gap"]) == pytest.approx(float((e_guess.mean(1) - e).mean()), rel=1e-11)
    lowest = (e[:, None] < e_guess).all(1).double().mean()
    assert float(loss.facts["accuracy"]) == pytest.approx(float(lowest))


def discrepancies(objective, p, d, *, batches=48, size=512):
    model, result = cases.Quadratic(p), []
    for i in range(batches):
        x = math.sqrt(V) * cases.normal(size, d, seed=100 + i)
        value = objective(model, x, generator=cases.generator(i)).value
        result.append((value.detach(), *torch.autograd.grad(value, model.p)))
    return (torch.stack(column) for column in zip(*result, strict=True))


@pytest.mark.parametrize("d", [2, 10])
def test_one_guess_without_a_weight_has_its_exact_value(d):
    p, t = 0.7, 0.3
    values, slopes = discrepancies(EnergyDiscrepancy(time=t, samples=1, weight=0.0), p, d)
    # E[E(x) - E(x + √(2 t) z)] = -p d t.
    assert abs(cases.z_score(values, -p * d * t)) < 5
    assert abs(cases.z_score(slopes, -d * t)) < 5


@pytest.mark.parametrize("p", [0.5, 1 / V])
@pytest.mark.parametrize("d", [2, 10])
def test_many_guesses_give_the_energy_discrepancy(d, p):
    t, m = 0.1, 256
    values, _ = discrepancies(EnergyDiscrepancy(time=t, samples=m, weight=0.0), p, d, batches=32, size=64)
    # Mean energy of the data, less that of -log N(y; 0, (1/p + t) I) with the factor (1 + t p)^(-d/2), at y = x + √t z.
    truth = p * d * V / 2 - d / 2 * math.log(1 + t * p) - p * d * (V + t) / (2 * (1 + t * p))
    # The logarithm of a mean of m is low by its relative variance over 2 m, which is about e^(p² t |x|²) - 1: here
    # taken at twice the mean of |x|².
    bias = (math.exp(p**2 * t * d * V * 2) - 1) / (2 * m)
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean()) - truth) < 5 * error + bias
    assert bias < 0.01


def test_the_gradient_vanishes_at_the_truth_for_the_weight_one_only():
    for weight, low, high in ((0.0, -math.inf, -5), (1.0, -5, 5), (4.0, 5, math.inf)):
        _, slopes = discrepancies(EnergyDiscrepancy(time=0.5, samples=2, weight=weight), 1 / V, 2)
        assert low < cases.z_score(slopes) < high, weight


# --- all --------------------------------------------------------------------------------------------------------------


RESUMED = {
    "nce": NoiseContrastiveEstimation,
    "nce:uniform": lambda: NoiseContrastiveEstimation(noise="uniform", ratio=2),
    "ranking-nce": lambda: RankingNCE(noise="mixture"),
    "ed": lambda: EnergyDiscrepancy(time=0.1, samples=3),
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_has_the_same_bits(name, tmp_path):
    rows = skewed(50).float()

    def begin(seed):
        model, objective = cases.neural(seed=seed), RESUMED[name]()
        adam = torch.optim.Adam([*model.parameters(), *objective.parameters()], lr=0.01)
        return Fit(model, objective, Batches(rows, 16), adam, seed=4)

    whole, half, rest = begin(1), begin(1), begin(2)
    for _ in range(6):
        next(whole)
    for _ in range(3):
        next(half)
    half.snapshot().save(tmp_path / "half.safetensors")
    next(rest)  # so that its noise is fitted to something else
    rest.restore(Snapshot.load(tmp_path / "half.safetensors"))
    for _ in range(3):
        next(rest)
    a, b = whole.snapshot().tree, rest.snapshot().tree
    for part in ("model", "objective"):
        assert all(torch.equal(a[part][key], b[part][key]) for key in a[part])
    # And back to before there was any noise law.
    rest.restore(begin(2).snapshot())
    next(rest)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoiseContrastiveEstimation(noise="normal"), "noise is one of gaussian, uniform, mixture"),
        (lambda: NoiseContrastiveEstimation(ratio=0), "ratio is at least 1"),
        (lambda: NoiseContrastiveEstimation(spread=0.0), "spread is positive"),
        (lambda: RankingNCE(noise="normal"), "noise is one of gaussian, uniform, mixture"),
        (lambda: RankingNCE(ratio=0), "ratio is at least 1"),
        (lambda: RankingNCE(spread=math.nan), "spread is positive"),
        (lambda: EnergyDiscrepancy(time=0.0), "time is positive"),
        (lambda: EnergyDiscrepancy(time=math.nan), "time is positive"),
        (lambda: EnergyDiscrepancy(time=1.0, samples=0), "samples is at least 1; it was 0"),
        (lambda: EnergyDiscrepancy(time=1.0, weight=-1.0), "weight is at least 0; it was -1"),
    ],
)
def test_noise_contrastive_objectives_refuse_nonsense(make, message):
    with pytest.raises(ValueError, match=message):
        make()
