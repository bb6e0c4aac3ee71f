r"""Chains in a box.

A kernel that reflects at the walls leaves a law on the box as it leaves the same law without a box: chains that start
there stay there, and no wall gathers any.
"""

import functools
import math

import pytest
import torch

import cases
from energyscape.errors import UserError
from energyscape.objectives import ContrastiveDivergence, DataInit
from energyscape.recipe import Experiment, Recipe
from energyscape.samplers import (
    HMC,
    MALA,
    AnnealedLangevin,
    GradientDescent,
    Langevin,
    UnderdampedLangevin,
    run,
    warmup,
)
from energyscape.samplers.base import folded, zero_energy

N = 2**14

BOX = (-1.0, 0.5)

REFLECTING = {
    "langevin": functools.partial(Langevin, step_size=0.3, bounds=BOX),
    "annealed": functools.partial(AnnealedLangevin, step_size=0.3, hottest=2.0, anneal_steps=9, bounds=BOX),
    "underdamped": functools.partial(UnderdampedLangevin, step_size=0.6, bounds=BOX),
    "mala": functools.partial(MALA, step_size=0.3, bounds=BOX),
    "hmc": functools.partial(HMC, step_size=0.4, leapfrog_steps=5, bounds=BOX),
    "hmc:scaled": functools.partial(
        HMC, step_size=0.4, leapfrog_steps=5, jitter=0.5, scale=torch.tensor([0.5, 2.0, 1.0]), bounds=BOX
    ),
}


def uniform(n, *shape, low=BOX[0], high=BOX[1], seed=0):
    u = torch.empty(n, *shape, dtype=torch.float64, device=cases.DEVICE)
    return u.uniform_(low, high, generator=cases.generator(seed))


def test_positions_are_mirrored_until_they_are_inside():
    low, high = BOX
    x = cases.tensor([-1.0, 0.5, 0.25, -1.25, 0.75, 2.25, -3.7, 1.9, math.inf, math.nan])
    inside, sign = folded(x, BOX)
    for start, end, turned in zip(x.tolist(), inside.tolist(), sign.tolist(), strict=True):
        place, direction = start, 1.0
        while math.isfinite(place) and not low <= place <= high:  # one wall after another, by hand
            place, direction = (2 * high - place if place > high else 2 * low - place), -direction
        if math.isfinite(start):
            assert (end, turned) == (pytest.approx(place, abs=1e-15), direction)
        else:
            assert math.isnan(end)  # and so it counts as diverged


def test_what_is_inside_keeps_its_bits():
    x = uniform(10_000, low=-1.6, high=1.6).float()
    assert torch.equal(folded(x, (-1.6, 1.6))[0], x)
    out, _ = folded(5 * cases.normal(10_000).float(), (-1.6, 1.6))
    assert bool(((out >= -1.6) & (out <= 1.6)).all())


@pytest.mark.parametrize("name", REFLECTING)
def test_a_uniform_law_stays_uniform(name):
    x = uniform(N, 3)
    state, info = run(REFLECTING[name](zero_energy), x, steps=25, generator=cases.generator(1))
    assert bool(info.accepted.all())
    y = (state.x - BOX[0]) / (BOX[1] - BOX[0])
    for k in range(3):
        for power in (1, 2, 5):
            assert abs(cases.z_score(y[:, k] ** power, 1 / (power + 1))) < 5
        # Neither holes nor atoms at the walls: two hundredths of the box hold two hundredths of the chains.
        near = ((y[:, k] < 0.01) | (y[:, k] > 0.99)).double()
        assert abs(cases.z_score(near, 0.02)) < 5
    assert not bool(((state.x == BOX[0]) | (state.x == BOX[1])).any())


def test_clamping_gathers_chains_on_the_walls():
    kernel = Langevin(zero_energy, step_size=0.3, bounds=BOX, walls="clamp")
    state, _ = run(kernel, uniform(N, 3), steps=25, generator=cases.generator(1))
    assert float(((state.x == BOX[0]) | (state.x == BOX[1])).double().mean()) > 0.2


@pytest.mark.parametrize("law", ["correlated", "uneven", "gumbel"])
@pytest.mark.parametrize("name", ["mala", "hmc"])
def test_a_law_cut_off_by_a_box_stays(name, law):
    target = cases.TARGETS[law]()
    draws = target.sample(4 * N, generator=cases.generator(2))
    low, high = draws.quantile(0.2).item(), draws.quantile(0.85).item()
    x = draws[((draws >= low) & (draws <= high)).all(1)]
    assert len(x) > 500
    step = {"mala": {"step_size": target.scale**2 / 2}, "hmc": {"step_size": target.scale / 2, "leapfrog_steps": 4}}
    kernel = {"mala": MALA, "hmc": HMC}[name](target.energy, bounds=(low, high), **step[name])
    state, info = run(kernel, x, steps=20, generator=cases.generator(3))
    assert 0.3 < float(info.accept_prob.mean()) / 20 < 0.9999  # the test decides something
    for f in (lambda y: y[:, 0], lambda y: y[:, 1], lambda y: y[:, 0] * y[:, 1], lambda y: y.square().sum(1)):
        assert abs(cases.z_score(f(state.x) - f(x))) < 5


@pytest.mark.parametrize("kernel", [functools.partial(Langevin, step_size=0.004), functools.partial(
    UnderdampedLangevin, step_size=0.09)], ids=["langevin", "underdamped"])  # fmt: skip
def test_unadjusted_chains_arrive_at_a_normal_law_cut_off(kernel):
    # N(1, 0.5²) on [-1, 1]: half of a normal law, its far end cut off at 4 s.d.
    low, high, s = -1.0, 1.0, 0.5
    kernel = kernel(lambda x: (x - high).square().sum(1) / (2 * s**2), bounds=(low, high))
    state, _ = run(kernel, uniform(2**13, 2, low=low, high=high), steps=400, generator=cases.generator(1))
    below = high - state.x
    # E|z| = √(2/π) s = 0.3989, E z² = s²; what is cut at 4 s.d. changes them by less than 1e-3. The step's bias is of
    # the order of η = 0.004 in units of s².
    assert abs(float(below.mean()) - 0.3989) < 5 * 0.3 / math.sqrt(2 * len(below)) + 0.004
    assert abs(float(below.square().mean()) - 0.25) < 5 * 0.36 / math.sqrt(2 * len(below)) + 0.004
    assert float(below.min()) >= 0


def test_a_velocity_is_turned_at_the_wall():
    kernel = UnderdampedLangevin(zero_energy, step_size=0.5, friction=1e-9, temperature=0.0, bounds=(0.0, 1.0))
    state = kernel.init(cases.tensor([[0.9]]))._replace(velocity=cases.tensor([[1.0]]))
    state, _ = kernel.step(state, generator=cases.generator())
    assert float(state.x) == pytest.approx(0.6)  # 0.9 + 0.5 is 0.4 beyond the wall
    assert float(state.velocity) == pytest.approx(-1)


def test_descent_ends_at_the_wall():
    end, _ = run(GradientDescent(lambda x: x.sum(1), step_size=0.3, bounds=BOX), uniform(5, 2), steps=9)
    assert bool((end.x == BOX[0]).all())


def test_chains_that_start_outside_are_brought_in():
    for make in REFLECTING.values():
        x = make(zero_energy).init(3 + uniform(4, 3)).x
        assert bool(((x >= BOX[0]) & (x <= BOX[1])).all())


def test_correlations_have_no_mirror_image():
    kernel = HMC(zero_energy, step_size=0.1, scale=torch.eye(2), bounds=BOX)
    with pytest.raises(ValueError, match="correlations"):
        kernel.init(torch.zeros(5, 2))
    target = cases.correlated()
    kernel = HMC(target.energy, step_size=0.1, bounds=(-2.0, 2.0))
    start = target.sample(64, generator=cases.generator())
    found = warmup(kernel, start, steps=200, generator=cases.generator(1))
    assert found.scale.ndim == 1
    assert found.kernel.bounds == (-2.0, 2.0)


# --- data and chains in one box ---------------------------------------------------------------------------------------

CONV = {"model.network": '{name = "conv", width = 8}', "train.budget": "20k", "train.warmup": "2000"}
WALLED = {"objective.kernel.bounds": "[-1.0, 1.0]"}


def objective(walls="reflect", sigma=0.3):
    kernel = functools.partial(Langevin, step_size=0.01, bounds=(-1.0, 1.0), walls=walls)
    return ContrastiveDivergence(DataInit(), kernel, steps=1, data_noise=sigma)


def test_data_are_noised_within_the_box_of_the_chains():
    black = torch.full((N, 4), -1.0, dtype=torch.float64, device=cases.DEVICE)
    reflected = objective().noised(black, generator=cases.generator()) + 1
    # A black pixel's noise is reflected: half of a normal law, E|z| = √(2/π) σ and E z² = σ².
    for k in range(4):
        assert abs(cases.z_score(reflected[:, k], 0.3 * math.sqrt(2 / math.pi))) < 5
        assert abs(cases.z_score(reflected[:, k].square(), 0.09)) < 5
    assert float(reflected.min()) > 0
    clamped = objective("clamp").noised(black, generator=cases.generator()) + 1
    for k in range(4):  # an atom of one half stays at the wall, and half of E|z|
        assert abs(cases.z_score((clamped[:, k] == 0).double(), 0.5)) < 5
        assert abs(cases.z_score(clamped[:, k], 0.3 / math.sqrt(2 * math.pi))) < 5


def test_without_bounds_noise_is_what_it_was():
    free = ContrastiveDivergence(DataInit(), functools.partial(Langevin, step_size=0.01), steps=1, data_noise=0.3)
    x = cases.normal(8, 3)
    z = torch.empty_like(x).normal_(generator=cases.generator(1))
    assert torch.equal(free.noised(x, generator=cases.generator(1)), x + 0.3 * z)


def test_samples_stay_in_the_box_that_the_energy_was_learned_in():
    def kernel(**more):
        return Recipe.named("digits-pcd", {**WALLED, **more}).resolved().tables["sampler"]["kernel"]

    assert (kernel()["bounds"], kernel()["walls"]) == ([-1.0, 1.0], "reflect")
    assert kernel(**{"objective.kernel.walls": "clamp"})["walls"] == "clamp"
    assert kernel(**{"sampler.kernel.bounds": "[-2.0, 2.0]"})["bounds"] == [-2.0, 2.0]
    hmc = kernel(**{"sampler.kernel.name": "hmc", "sampler.kernel.step_size": "0.1"})
    assert hmc["bounds"] == [-1.0, 1.0]
    assert "walls" not in hmc
    assert "bounds" not in Recipe.named("digits-pcd").resolved().tables["sampler"]["kernel"]


@pytest.mark.parametrize("section", ["objective", "sampler"])
def test_a_box_that_leaves_out_data_is_refused_with_one_that_does(section):
    narrow = {f"{section}.kernel.bounds": "[-1.0, 0.5]"}
    with pytest.raises(UserError, match=rf"{section}\.kernel\.bounds leave out data.* from -1 to 1: .*\[-1\.0, 1\.0\]"):
        Experiment(Recipe.named("digits-pcd", narrow)).check()
    Experiment(Recipe.named("digits-pcd", {f"{section}.kernel.bounds": "[-1.0, 1.0]"})).check()
    of_law = Recipe.named("8gaussians-pcd-langevin", narrow)
    with pytest.raises(UserError, match="leave out data") as raised:
        Experiment(of_law).check()
    wide = str(raised.value).split("set them to ")[1].removesuffix(" or wider")
    Experiment(of_law.overridden({f"{section}.kernel.bounds": wide})).check()


@pytest.mark.parametrize(
    "more",
    [WALLED, {**WALLED, "objective.kernel.walls": "clamp"}, {"model.network.spectral_norm": "true"}],
    ids=["reflected", "clamped", "normalised"],
)
def test_bounded_energies_learn(more):
    experiment = Experiment(Recipe.named("digits-pcd", {**CONV, **more}))
    gaps = [float(report.facts["gap"]) for report in experiment.fit()]
    # Before chains and data were in one box, and slopes had a scale, it stayed near -150 for as long as one waited.
    assert abs(sum(gaps[-20:]) / 20) < 30
