"""Warm-up: what it finds where the answer is known, and what must not throw it off."""

import dataclasses
import functools
import math

import pytest
import torch

import cases
from energyscape.errors import UserError
from energyscape.evaluation import diagnose
from energyscape.samplers import HMC, KERNELS, MALA, run, sample, warmup
from energyscape.samplers.warmup import AdaptationWindow


def harmonic(std):
    return lambda x: (x / std).flatten(1).square().sum(1) / 2


@pytest.mark.parametrize("target", [None, pytest.param(0.7, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["mala", "hmc"])
def test_it_reaches_the_acceptance_it_seeks(name, target):
    law = cases.gumbel()
    start = HMC(law.energy, step_size=3.0) if name == "hmc" else MALA(law.energy, step_size=1e-4)
    found = []
    for seed in range(6):
        adapted = warmup(
            start, law.sample(128, generator=cases.generator(seed)), steps=200, target_accept=target,
            generator=cases.generator(10 + seed),
        )  # fmt: skip
        assert type(adapted.kernel) is type(start)
        assert adapted.kernel.step_size == adapted.step_size
        _, sums = run(adapted.kernel, adapted.x, steps=60, generator=cases.generator(20 + seed))
        found.append(sums.accept_prob.mean() / 60)
    truth = target or {"mala": 0.574, "hmc": 0.8}[name]
    # The standard error over independent warm-ups holds what each of them missed.
    assert abs(cases.z_score(torch.stack(found), truth)) < 5
    assert float(torch.stack(found).std()) < 0.05


def test_the_scale_is_the_spread_of_the_law():
    std = torch.logspace(-2, 2, 20, dtype=torch.float64, device=cases.DEVICE).reshape(1, 4, 5)
    x = cases.normal(64, 1, 4, 5)
    adapted = warmup(HMC(harmonic(std), step_size=1.0), x, steps=400, generator=cases.generator(1))
    assert adapted.scale.shape == (1, 4, 5)
    assert adapted.kernel.scale is adapted.scale
    # At least 64 independent draws a coordinate: a standard deviation is off by 1 / √128 of itself.
    assert float((adapted.scale / std).log().abs().max()) < 5 / 128**0.5
    state, info = run(adapted.kernel, adapted.x, steps=50, generator=cases.generator(2))
    assert float(info.accept_prob.mean()) / 50 > 0.6
    for each, variance in zip(state.x.flatten(1).T, std.flatten().square(), strict=True):
        assert abs(cases.z_score(each.square(), float(variance))) < 5


def test_the_length_is_where_the_criterion_is_near_its_largest():
    """On a round normal law ChEES is E sin²(u θ) for a length θ and u uniform on [1 - j, 1], in closed form."""
    jitter = 0.4

    def criterion(theta):
        low = (1 - jitter) * theta
        return 0.5 - (math.sin(2 * theta) - math.sin(2 * low)) / (4 * (theta - low))

    kernel = HMC(lambda x: harmonic(1.0)(x - 7), step_size=0.1, jitter=jitter)
    adapted = warmup(kernel, 7 + cases.normal(256, 8), steps=300, target_accept=0.99, generator=cases.generator(1))
    assert adapted.kernel.jitter == jitter
    lengths = [k * adapted.step_size for k in range(1, 60)]
    best = max(map(criterion, lengths))
    theta = adapted.leapfrog_steps * float(adapted.scale.mean()) * adapted.step_size
    shortest = next(each for each in lengths if criterion(each) > 0.95 * best)
    # The curve of 64 x 256 trajectories has an error of a few per cent where it is flat: there 10 % of θ is 4 % of it.
    assert theta == pytest.approx(shortest, rel=0.15)


def worst(kernel, x, white, steps, seed):
    """Returns the smallest ESS of first and second moments along the axes a law has, per 1000 gradients, and R-hat."""
    chain = sample(kernel, x, steps=steps, generator=cases.generator(seed))
    y = white(chain.x)
    first, second = diagnose(y), diagnose(y.square())
    ess = min(float(first.ess.min()), float(second.ess.min()))
    return 1000 * ess / (steps * kernel.leapfrog_steps * x.shape[0]), float(first.r_hat.max())


def test_it_survives_a_hundred_dimensions_of_condition_ten_thousand():
    std = torch.logspace(-2, 0, 100, dtype=torch.float64, device=cases.DEVICE)
    energy = harmonic(std)
    x = cases.normal(64, 100)
    cold = HMC(energy, step_size=0.012, leapfrog_steps=10, jitter=0.5)  # about the longest that is stable
    adapted = warmup(cold, x, steps=300, generator=cases.generator(1))
    rate, r_hat = worst(adapted.kernel, adapted.x, lambda y: y / std, 100, 2)
    assert r_hat < 1.05
    plain, _ = worst(cold, std * x, lambda y: y / std, 100, 3)  # even started in the law
    assert rate > 20 * plain
    assert rate > 20


@pytest.mark.parametrize("spread", [0.05, pytest.param(3.0, marks=pytest.mark.slow)])
def test_trajectories_grow_as_long_as_a_turned_law_needs(spread):
    """No scale of coordinates helps here: a quarter of the slowest period is 50 of the shortest deviations."""
    target = cases.stiff(8, 1e3)
    kernel = HMC(target.energy, step_size=1.0, leapfrog_steps=3)
    adapted = warmup(kernel, spread * cases.normal(32, 8), steps=150, dense=False, generator=cases.generator(2))
    assert adapted.leapfrog_steps > 12
    assert adapted.kernel.jitter == 0.9
    root = torch.linalg.eigh(target.energy.factor @ target.energy.factor.mT)
    rate, r_hat = worst(adapted.kernel, adapted.x, lambda y: y @ root.eigenvectors / root.eigenvalues.sqrt(), 100, 3)
    assert r_hat < 1.05
    # The silent failure: 3 leapfrogs a draw, for as many gradients.
    short, draws = dataclasses.replace(adapted.kernel, leapfrog_steps=3), 100 * adapted.leapfrog_steps // 3
    poor, _ = worst(short, adapted.x, lambda y: y @ root.eigenvectors / root.eigenvalues.sqrt(), draws, 3)
    assert rate > 2 * poor


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.01, 1.0])
def test_a_turned_law_of_condition_ten_thousand(spread):
    """The row that a naive setting failed in silence: 3 leapfrogs a draw and an R-hat of 7."""
    target = cases.stiff()
    adapted = warmup(
        HMC(target.energy, step_size=1.0), spread * cases.normal(64, 100), steps=400, dense=False,
        generator=cases.generator(1),
    )  # fmt: skip
    assert adapted.leapfrog_steps > 40
    root = torch.linalg.eigh(target.energy.factor @ target.energy.factor.mT)
    rate, r_hat = worst(adapted.kernel, adapted.x, lambda y: y @ root.eigenvectors / root.eigenvalues.sqrt(), 400, 3)
    assert r_hat < 1.02
    assert rate > 1.5


@pytest.mark.parametrize("spread", [0.01, pytest.param(1.0, marks=pytest.mark.slow)])
def test_a_matrix_makes_a_turned_law_round(spread):
    target, d = cases.stiff(), 100
    adapted = warmup(
        HMC(target.energy, step_size=1.0), spread * cases.normal(64, d), steps=300, generator=cases.generator(1)
    )
    assert adapted.scale.shape == (d, d)
    assert adapted.leapfrog_steps <= 4
    root = torch.linalg.eigh(target.energy.factor @ target.energy.factor.mT)
    # In units of the scale the covariance is one, up to what a few thousand correlated draws tell of it.
    inside = torch.linalg.solve_triangular(adapted.scale, target.energy.factor, upper=False)
    assert 0.5 < float(torch.linalg.svdvals(inside).min()) < float(torch.linalg.svdvals(inside).max()) < 2.0
    rate, r_hat = worst(adapted.kernel, adapted.x, lambda y: y @ root.eigenvectors / root.eigenvalues.sqrt(), 200, 3)
    assert r_hat < 1.03
    assert rate > 40  # 1.5 without


def test_a_matrix_is_for_correlations_that_pay_for_it():
    law, x = cases.correlated(), cases.normal(64, 2)
    assert warmup(HMC(law.energy, step_size=0.1), x, steps=100, generator=cases.generator(1)).scale.shape == (2,)
    adapted = warmup(HMC(law.energy, step_size=0.1), x, steps=100, dense=True, generator=cases.generator(1))
    assert adapted.kernel.jitter == 0.3  # a law that has been made round has one period
    truth = cases.tensor([[1.0, 0.8], [0.8, 2.0]])
    assert torch.allclose(adapted.scale @ adapted.scale.T, truth, atol=0.25)
    # Few draws do not suffice: hundreds of dimensions keep a scale a coordinate.
    few = warmup(HMC(harmonic(1.0), step_size=0.1), cases.normal(4, 300), steps=100, generator=cases.generator(4))
    assert few.scale.shape == (300,)


def test_the_covariance_is_about_the_mean_of_the_draws():
    """Wherever the window began: here 10 deviations away from the law."""
    law = cases.correlated()
    kernel = HMC(law.energy, step_size=0.6, leapfrog_steps=3, jitter=0.3)
    state = kernel.init(torch.full((256, 2), 10.0).to(cases.normal(1)))
    survey = AdaptationWindow(state, kernel, skip=15, dense=True, generator=cases.generator(1))
    for _ in range(40):
        state, _ = survey.step(kernel, state)
    truth = cases.tensor([[1.0, 0.8], [0.8, 2.0]])
    assert torch.allclose(survey.scale() @ survey.scale().T, truth, atol=0.15)


# --- what must not throw it off ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("step_size", [pytest.param(1e-12, marks=pytest.mark.slow), 1e12])
@pytest.mark.parametrize("kernel", [MALA, functools.partial(HMC, leapfrog_steps=2)])
def test_where_the_search_begins_does_not_matter(kernel, step_size):
    law = cases.correlated()
    x = law.sample(64, generator=cases.generator(1))
    far = warmup(kernel(law.energy, step_size=step_size), x, steps=200, generator=cases.generator(2))
    near = warmup(kernel(law.energy, step_size=0.5), x, steps=200, generator=cases.generator(2))
    assert far.step_size == pytest.approx(near.step_size, rel=0.25)


def wall(x):
    return torch.where(x[:, 0] > 1, torch.nan, x.square().sum(1) / 2)


def island(x):
    """One level point in a sea without an energy: a chain there never leaves."""
    return torch.where(x[:, 0] < 5, x.square().sum(1) / 2, torch.where(x[:, 0] == 70, 0.0, torch.nan))


@pytest.mark.parametrize("kernel", [MALA, functools.partial(HMC, leapfrog_steps=2)])
@pytest.mark.parametrize("trouble", ["wall", "nan start", "island"])
def test_chains_in_trouble_do_not_stop_the_others(kernel, trouble):
    energy = {"wall": wall, "nan start": harmonic(1.0), "island": island}[trouble]
    x = cases.normal(32, 2).clamp(max=0.9)
    healthy = warmup(kernel(harmonic(1.0), step_size=0.5), x, steps=200, generator=cases.generator(1))
    sick = torch.arange(32) < {"wall": 0, "nan start": 20, "island": 1}[trouble]
    x[sick] = cases.tensor([70.0, 0.0]) if trouble == "island" else math.nan
    adapted = warmup(kernel(energy, step_size=0.5), x, steps=200, generator=cases.generator(1))
    assert 0 < adapted.step_size < math.inf
    if trouble == "wall":
        assert float(adapted.x[:, 0].max()) <= 1
        assert adapted.accept_prob == pytest.approx(0.6, abs=0.3)
    else:
        length, truth = (each.step_size * float((each.scale if each.scale is not None else torch.ones(1)).mean())
                         for each in (adapted, healthy))  # fmt: skip
        assert length == pytest.approx(truth, rel=0.5)
        assert adapted.x[~sick].isfinite().all()
        assert torch.equal(adapted.x[sick].nan_to_num(), x[sick].nan_to_num())


@pytest.mark.slow
def test_a_law_without_any_slope():
    adapted = warmup(HMC(lambda x: 0 * x.sum(1), step_size=1.0), cases.normal(8, 2), steps=100,
                     generator=cases.generator())  # fmt: skip
    assert 0 < adapted.step_size < math.inf
    assert bool((adapted.scale > 0).all())
    assert adapted.x.isfinite().all()


def test_it_makes_a_new_kernel_and_draws_from_its_generator_only():
    law = cases.correlated()
    kernel, x = HMC(law.energy, step_size=0.3), law.sample(16, generator=cases.generator())
    kept = x.clone()
    one, two = (warmup(kernel, x, steps=100, generator=cases.generator(1)) for _ in range(2))
    assert (kernel.step_size, kernel.leapfrog_steps, kernel.jitter, kernel.scale) == (0.3, 10, 0.0, None)
    assert torch.equal(x, kept)
    assert torch.equal(one.x, two.x)
    assert torch.equal(one.scale, two.scale)
    assert (one.step_size, one.leapfrog_steps, one.accept_prob) == (two.step_size, two.leapfrog_steps, two.accept_prob)
    assert one.kernel.jitter > 0
    assert one.kernel.temperature == kernel.temperature
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.kernel.step_size = 1.0
    half = warmup(kernel, x.float(), steps=100, generator=cases.generator(1))
    assert half.x.dtype == half.scale.dtype == torch.float32


@pytest.mark.parametrize("temperature", [0.05, pytest.param(20.0, marks=pytest.mark.slow)])
def test_a_temperature_stretches_what_is_found(temperature):
    law = cases.correlated()
    adapted = warmup(HMC(law.energy, step_size=1.0, temperature=temperature), cases.normal(64, 2), steps=300,
                     generator=cases.generator(1))  # fmt: skip
    truth = (temperature * cases.tensor([1.0, 2.0])).sqrt()
    assert torch.allclose(adapted.scale, truth, rtol=0.3)
    assert float(run(adapted.kernel, adapted.x, steps=20, generator=cases.generator(2))[1].accept_prob.mean()) > 12


@pytest.mark.parametrize("name", sorted(set(KERNELS) - {"mala", "hmc"}))
def test_kernels_without_an_acceptance_are_refused(name):
    kernel = cases.KERNELS[name](0.1)(cases.correlated().energy)
    with pytest.raises(UserError, match=rf"MALA and HMC; {type(kernel).__name__} has none"):
        warmup(kernel, cases.normal(8, 2), steps=100)


@pytest.mark.parametrize(
    ("settings", "chains", "message"),
    [
        ({"steps": 99}, 8, "they were 99"),
        ({"steps": 100, "target_accept": 0.0}, 8, "they were 100, 0.0"),
        ({"steps": 100, "target_accept": 1.0}, 8, "target_accept"),
        ({"steps": 100}, 3, "at least 4 chains"),
    ],
)
def test_what_else_it_refuses(settings, chains, message):
    with pytest.raises(UserError, match=message):
        warmup(HMC(cases.correlated().energy, step_size=0.1), cases.normal(chains, 2), **settings)


@pytest.mark.parametrize(("kernel", "shape"), [(MALA, (2,)), (HMC, (1, 2, 2)), (HMC, (513,))])
def test_a_matrix_that_cannot_be_is_refused(kernel, shape):
    with pytest.raises(UserError, match=r"a matrix is for HMC on vectors of at most 512 dimensions; it was"):
        warmup(kernel(harmonic(1.0), step_size=0.1), cases.normal(8, *shape), steps=100, dense=True)


def test_somebody_starts_alive():
    with pytest.raises(UserError, match="no chain starts"):
        warmup(MALA(wall, step_size=0.1), cases.normal(4, 2) + 9, steps=100)
