"""Composed energies against closed forms, and draws from compositions against quadrature."""

import functools
import itertools
import math
import warnings

import pytest
import torch

import cases
from energyscape.calculus import gauss_legendre, score
from energyscape.errors import UserError
from energyscape.models import (
    Composed,
    ComposedLevels,
    Gaussian,
    GaussianDenoiser,
    GaussianMixture,
    Mixture,
    MixtureDenoiser,
    Negation,
    NeuralEnergy,
    Product,
    ScoreSum,
    Tempering,
)
from energyscape.samplers import DDPM, HMC, MALA, Heun, descend, run, solve
from energyscape.schedules import Karras, geometric

SIGMA = 0.15


def mixtures():
    first = GaussianMixture(cases.tensor([[0.0, 0.0], [2.0, 1.0]]), std=0.8, weights=cases.tensor([0.7, 0.3]))
    second = GaussianMixture(cases.tensor([[1.0, 0.0], [-1.0, 2.0], [0.5, 0.5]]), std=0.6)
    return first, second


def constant(found, truth):
    """Whether two energies differ by one constant: they are the same law."""
    return torch.allclose((found - truth).diff(), torch.zeros(len(truth) - 1).to(truth), atol=1e-9)


# --- energies of clean data -------------------------------------------------------------------------------------------


def test_the_product_of_mixtures_is_the_mixture_of_products():
    first, second = mixtures()
    v1, v2 = first.std**2, second.std**2
    pairs = list(itertools.product(range(2), range(3)))
    means = torch.stack([(v2 * first.means[i] + v1 * second.means[j]) / (v1 + v2) for i, j in pairs])
    apart = torch.stack([(first.means[i] - second.means[j]).square().sum() for i, j in pairs])
    weights = torch.stack([first.weights[i] * second.weights[j] for i, j in pairs]) * (-apart / (2 * (v1 + v2))).exp()
    truth = GaussianMixture(means, std=math.sqrt(v1 * v2 / (v1 + v2)), weights=weights)
    x = cases.normal(50, 2)
    assert constant(Composed(Product(), first, second)(x), truth(x))
    assert not constant(Composed(Product((1.0, 1.1)), first, second)(x), truth(x))
    torch.testing.assert_close(Composed(Product((1.0, 2.0)), first, second)(x), first(x) + 2 * second(x))


def test_a_mixture_has_the_odds_asked_for_given_the_constants():
    first, second = mixtures()
    x, shift = cases.normal(50, 2), 1.7
    density = 0.2 * (-first(x)).exp() + 0.8 * (-second(x)).exp()
    torch.testing.assert_close(Composed(Mixture((1.0, 4.0)), first, second)(x), -density.log())
    torch.testing.assert_close(
        Composed(Mixture(), first, second)(x), -((-first(x)).exp() / 2 + (-second(x)).exp() / 2).log()
    )
    # An energy that is lower by 1.7 everywhere has a log Z higher by 1.7.
    lower = Composed(Product(), first, Constant(-shift))
    torch.testing.assert_close(
        Composed(Mixture((1.0, 4.0), log_z=(shift, 0.0)), lower, second)(x), -density.log(), rtol=1e-9, atol=0
    )


class Constant(cases.Quadratic):
    def __init__(self, value):
        super().__init__(0.0)
        self.value = value

    def forward(self, x, label=None):
        return super().forward(x) + self.value


def test_negation_and_tempering_of_normal_laws():
    x = cases.normal(50, 2)
    narrow, wide = (Gaussian(cases.tensor([m, 0.0]), v * torch.eye(2).to(x)) for m, v in ((1.0, 1.0), (-1.0, 4.0)))
    # Precisions 1 - 1/8 and means by precision 1 + 1/8.
    truth = Gaussian(cases.tensor([(1 + 0.125) / 0.875, 0.0]), torch.eye(2).to(x) / 0.875)
    assert constant(Composed(Negation(strength=0.5), narrow, wide)(x), truth(x))
    tempered = Gaussian(cases.tensor([1.0, 0.0]), 3 * torch.eye(2).to(x))
    torch.testing.assert_close(Composed(Tempering(3.0), narrow)(x), tempered(x))


def test_compositions_compose_and_are_modules():
    first, second = mixtures()
    third = NeuralEnergy(cases.network("mlp", (2,)).double(), reference_std=2.0)
    inner = Composed(Mixture((0.3, 0.7)), first, second)
    both = Composed(Product((1.0, 0.5)), inner, third)
    x = cases.normal(20, 2)
    torch.testing.assert_close(both(x), inner(x) + third(x) / 2)
    torch.testing.assert_close(score(both, x), score(inner, x) + score(third, x) / 2)
    assert {id(each) for each in third.parameters()} <= {id(each) for each in both.parameters()}
    # A point's energy is its own: one row at a time gives the same.
    torch.testing.assert_close(torch.cat([both(row) for row in x.split(1)]), both(x))


def test_a_label_is_handed_on():
    seen = []

    class Labelled(cases.Quadratic):
        def forward(self, x, label=None):
            seen.append(label)
            return super().forward(x)

    label = torch.tensor([0, 1])
    Composed(Product(), Labelled(1.0), Labelled(2.0))(cases.normal(2, 2), label)
    assert [each is label for each in seen] == [True, True]


@pytest.mark.parametrize(
    ("rule", "laws"),
    [(Product((1.0, 2.0)), 3), (Mixture((1.0,)), 2), (Mixture(log_z=(0.0,)), 2), (Negation(), 1), (Tempering(2.0), 2)],
)
def test_a_rule_knows_its_number_of_laws(rule, laws):
    with pytest.raises(ValueError, match=f"there were {laws}"):
        Composed(rule, *(cases.Quadratic(1.0) for _ in range(laws)))
    with pytest.raises(ValueError, match=f"there were {laws}"):
        ComposedLevels(rule, *(cases.QuadraticDenoiser(1.0, 0.1) for _ in range(laws)))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Product((1.0, 0.0)),
        lambda: Mixture((1.0, -1.0)),
        lambda: Negation(strength=0.0),
        lambda: Tempering(math.inf),
    ],
)
def test_settings_are_positive(wrong):
    with pytest.raises(ValueError, match="positive numbers"):
        wrong()


def test_constants_are_finite():
    with pytest.raises(ValueError, match="finite"):
        Mixture(log_z=(0.0, math.nan))


# --- levels -----------------------------------------------------------------------------------------------------------


def ring():
    angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
    return MixtureDenoiser(GaussianMixture(2.83 * torch.stack([angle.cos(), angle.sin()], 1), std=0.354))


def blobs():
    means = torch.cartesian_prod(cases.tensor([-2.0, 0.0, 2.0]), cases.tensor([-2.0, 2.0]))
    return MixtureDenoiser(GaussianMixture(means, std=0.6, weights=cases.tensor([3.0, 1, 1, 2, 1, 1])))


def test_noise_and_mixing_commute():
    means = cases.tensor([[0.0, 0.0], [2.0, 1.0], [1.0, -1.0]])
    parts = [MixtureDenoiser(GaussianMixture(part, std=0.5)) for part in (means[:1], means[1:])]
    levels = ComposedLevels(Mixture((1.0, 3.0)), *parts)
    truth = MixtureDenoiser(GaussianMixture(means, std=0.5, weights=cases.tensor([2.0, 3.0, 3.0])))
    x, sigma = cases.normal(20, 2), cases.normal(20, seed=1).exp()
    torch.testing.assert_close(levels(x, sigma), truth.energy(x, sigma))
    torch.testing.assert_close(levels.at(0.7)(x), truth.at(0.7)(x))


def test_a_label_reaches_every_level():
    x, sigma, label = cases.normal(6, 2), cases.normal(6, seed=1).exp(), torch.arange(6)
    found = ComposedLevels(Product(), ring(), blobs())(x, sigma, label)
    torch.testing.assert_close(found, ring().energy(x, sigma, label) + blobs().energy(x, sigma, label))


def kl_of(x, energy, *, half=4.8, cells=20):
    """KL of draws to an energy, in cells of a square whose masses are known by quadrature.

    Counting alone makes exact draws differ by half the number of filled cells over that of draws, which is taken off.
    """
    side = 2 * half / cells
    unit, weights = gauss_legendre(((0.0, 1.0), (0.0, 1.0)), 6)
    corner = torch.cartesian_prod(*2 * [torch.arange(cells, dtype=torch.float64) * side - half])
    with torch.no_grad():
        e = energy((corner.unsqueeze(1) + side * unit).flatten(0, 1)).view(len(corner), -1)
    mass = ((e.min() - e).exp() * weights).sum(1)
    mass = mass / mass.sum()
    place = ((x + half) / side).floor().long()
    inside = ((place >= 0) & (place < cells)).all(1)
    assert inside.double().mean() > 0.999
    share = torch.bincount(place[inside] @ torch.tensor([cells, 1]), minlength=cells**2) / int(inside.sum())
    there = share > 0
    return float((share[there] * (share[there] / mass[there]).log()).sum()) - (int(there.sum()) - 1) / (2 * len(x))


HMC_ = functools.partial(HMC, step_size=0.7, leapfrog_steps=3, jitter=0.3)
MALA_ = functools.partial(MALA, step_size=0.5)


def drawn(levels, kernel, *, steps, chains=2500, top=5.0, seed=0):
    draws = cases.generator(seed)
    x = top * torch.randn(chains, 2, generator=draws, dtype=torch.float64)
    sigmas = geometric(SIGMA, top, 8)[::-1]
    *_, last = descend(levels, x, sigmas=sigmas, kernel=kernel, steps=steps, detail=0.25, generator=draws)
    assert last.sigma == SIGMA
    return last.x


@pytest.mark.parametrize(
    ("rule", "kernel", "steps"),
    [
        (Product(), HMC_, 6),
        (Product(), MALA_, 18),
        (Mixture((0.3, 0.7)), HMC_, 6),
        (Mixture((0.3, 0.7)), MALA_, 18),
        (Negation(strength=0.3), HMC_, 12),
    ],
    ids=lambda each: getattr(each, "func", type(each)).__name__,
)
def test_compositions_are_sampled(rule, kernel, steps):
    levels = ComposedLevels(rule, ring(), blobs())
    assert kl_of(drawn(levels, kernel, steps=steps), levels.at(SIGMA)) < 0.05


def test_the_divergence_of_exact_draws_is_nothing():
    draws = cases.generator(7)
    x = torch.cat([ring().law.sample(750, generator=draws), blobs().law.sample(1750, generator=draws)])
    x = x + SIGMA * torch.randn(x.shape, generator=draws, dtype=x.dtype)
    odds = Mixture((0.3, 0.7))
    right, wrong = (kl_of(x, ComposedLevels(odds, *laws).at(SIGMA)) for laws in ((ring(), blobs()), (blobs(), ring())))
    # Where less than one draw a cell is expected, the correction for counting is too small.
    assert abs(right) < 0.02 < 0.05 < wrong


def test_clean_energies_are_sampled_without_levels():
    both = Composed(Product(), *mixtures())
    end, _ = run(HMC_(both), cases.normal(3000, 2), steps=20, generator=cases.generator(1))
    assert kl_of(end.x, both) < 0.05


def test_the_ladder_ends_in_the_law_of_its_lowest_level():
    """Two normal laws: the product of what noise of 0.05 has made of them, in mean and covariance."""
    eye, low = torch.eye(2, dtype=torch.float64), 0.3
    laws = [GaussianDenoiser(cases.tensor([m, 0.0]), v * eye) for m, v in ((2.0, 1.0), (-1.0, 0.25))]
    levels = ComposedLevels(Product(), *laws)
    sigmas = geometric(low, 8.0, 9)[::-1]
    kernel = functools.partial(HMC, step_size=0.4, leapfrog_steps=5, jitter=0.5)
    x = 8 * cases.normal(2000, 2)
    *_, last = descend(levels, x, sigmas=sigmas, kernel=kernel, steps=6, detail=0.4, generator=cases.generator(1))
    precision = 1 / (1 + low**2), 1 / (0.25 + low**2)
    mean = (2 * precision[0] - precision[1]) / sum(precision)
    assert abs(cases.z_score(last.x[:, 0], mean)) < 5
    assert abs(cases.z_score(last.x[:, 1], 0.0)) < 5
    for k, m in enumerate((mean, 0.0)):
        assert abs(cases.z_score((last.x[:, k] - m).square(), 1 / sum(precision))) < 5


def test_every_chain_has_a_test_of_its_own():
    """A sum over the batch in the Metropolis ratio would accept all or none."""
    levels = ComposedLevels(Product(), ring(), blobs())
    kernel = functools.partial(MALA, step_size=1.0)
    x, g = 0.1 * cases.normal(200, 2), cases.generator()
    rests = descend(levels, x, sigmas=[1.0], kernel=kernel, steps=5, generator=g)
    assert all(20 < int(each.info.accepted.sum()) < 195 for each in rests)


def test_steps_are_told_level_by_level():
    draws = functools.partial(cases.generator, 3)
    levels, x = ring().energy, cases.normal(7, 2)
    rests = list(descend(levels, x, sigmas=[4.0, 1.0], kernel=MALA_, steps=3, detail=3.0, generator=draws()))
    assert [each.sigma for each in rests] == [4.0] * 3 + [1.0] * 3
    # The first step by hand: in units of 5 = √(4² + 3²), MALA of step 0.5 is MALA of 0.5 · 25.
    plain = MALA(ring().at(4.0), step_size=0.5 * 25)
    state, info = plain.step(plain.init(x), generator=draws())
    torch.testing.assert_close(rests[0].x, state.x)
    torch.testing.assert_close(rests[0].info, info._replace(hamiltonian=rests[0].info.hamiltonian))


@pytest.mark.parametrize(
    "wrong", [{"sigmas": [1.0, 2.0]}, {"sigmas": [1.0, 0.0]}, {"sigmas": []}, {"steps": 0}, {"detail": -1.0}]
)
def test_mistakes_are_refused(wrong):
    settings = {"sigmas": [2.0, 1.0], "kernel": MALA_, "steps": 1} | wrong
    with pytest.raises(UserError):
        list(descend(ring().energy, cases.normal(4, 2), **settings))


# --- the plain sum ----------------------------------------------------------------------------------------------------


def summed(*denoisers, **settings):
    with pytest.warns(UserWarning, match="not the noised product"):
        return ScoreSum(*denoisers, **settings)


def test_a_sum_of_scores_is_what_it_says_and_warns():
    x, sigma = cases.normal(20, 2), cases.normal(20, seed=1).exp()
    levels = ComposedLevels(Product((1.0, 0.4)), ring(), blobs())
    truth = x + sigma.square().unsqueeze(1) * score(lambda y: levels(y, sigma), x)
    torch.testing.assert_close(summed(ring(), blobs(), powers=(1.0, 0.4))(x, sigma), truth)
    with pytest.raises(ValueError, match="one power"), warnings.catch_warnings():
        ScoreSum(ring(), blobs(), powers=(1.0,))


def test_a_sum_of_scores_does_not_sample_the_product():
    """Of two equal normal laws: variance v / 3 and nearly 0, where the product has v / 2."""
    v, top = 0.81, 20.0
    model = summed(*2 * [GaussianDenoiser(torch.zeros(2, dtype=torch.float64), v * torch.eye(2).double())])
    x = cases.normal(2000, 2)
    ends = []
    for solver in (DDPM(model, [*geometric(0.01, top, 200)[::-1], 0.0]), Heun(model, Karras(sigma_max=top)(60))):
        *_, last = solve(solver, solver.start(x), generator=cases.generator(5))
        ends.append(last.x)
    # Steps of 4 % of a level err by about as much.
    found = float(ends[0].square().mean())
    assert found == pytest.approx(v / 3, rel=5 * math.sqrt(2 / 4000) + 0.05)
    assert float(ends[1].square().mean()) == pytest.approx(v**2 / top**2, rel=5 * math.sqrt(2 / 4000) + 0.05)


def test_a_sum_of_scores_is_wrong_where_the_ladder_is_right():
    target = ComposedLevels(Product(), ring(), blobs()).at(SIGMA)
    model, x = summed(ring(), blobs()), cases.normal(4000, 2)
    for solver in (DDPM(model, Karras(sigma_max=80.0)(100)), Heun(model, Karras(sigma_max=80.0)(30))):
        *_, last = solve(solver, solver.start(x), generator=cases.generator(5))
        assert kl_of(last.x, target) > 0.15
