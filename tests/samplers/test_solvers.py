"""Solvers of noise levels: the law that comes out, and the traps of the literature."""

import math
from functools import partial

import pytest
import torch
from test_solver_orders import normal_denoiser

import cases
from energyscape.errors import UserError
from energyscape.models import EmpiricalDenoiser, GaussianDenoiser, GaussianMixture, MixtureDenoiser
from energyscape.registry import build
from energyscape.samplers import (
    DDIM,
    DDPM,
    SOLVERS,
    ConsistentAnnealedLangevin,
    DPMSolver,
    DPMSolverSDE,
    Euler,
    Heun,
    NoiseAnnealedLangevin,
    PredictorCorrector,
    solve,
)
from energyscape.schedules import Geometric, Karras

STEEP, EVEN = Karras(sigma_min=0.01), Geometric(sigma_min=0.01, sigma_max=40.0)

SOLVING = {  # name → solver, grid, steps that are enough for a few thousand chains
    "euler": (Euler, STEEP, 300),
    "ddim": (DDIM, STEEP, 300),
    "ddim:half": (partial(DDIM, eta=0.5), STEEP, 300),
    "ddpm": (DDPM, STEEP, 300),
    "ddpm:upper": (partial(DDPM, upper=1.0), STEEP, 200),
    "heun": (Heun, STEEP, 50),
    "heun:churn": (partial(Heun, churn=20.0), STEEP, 80),
    "dpm++": (DPMSolver, STEEP, 60),
    "dpm++-sde": (DPMSolverSDE, STEEP, 80),
    "pc": (PredictorCorrector, EVEN, 200),
    "ald": (partial(NoiseAnnealedLangevin, steps_each=5), EVEN, 80),
    "ald-consistent": (partial(ConsistentAnnealedLangevin, step_size=0.04), EVEN, 250),
}
WEIGHTS = cases.tensor([0.5, 0.3, 0.2])


def test_every_solver_is_in_the_table():
    assert {name.split(":")[0] for name in SOLVING} == set(SOLVERS)


def test_a_denoiser_keeps_the_shape_of_its_points():
    for wrong in (lambda y, sigma: y.sum(1, keepdim=True), lambda y, sigma: y.sum(1), lambda y, sigma: y[:1]):
        solver = Euler(wrong, [2.0, 1.0, 0.0])
        with pytest.raises(ValueError, match=r"maps points \(3, 2\) to as many; it returned"):
            solver.step(solver.init(cases.normal(3, 2)))


@pytest.mark.parametrize("shape", [(5,), (3, 4, 4)], ids=str)
@pytest.mark.parametrize("name", SOLVING)
def test_draws_do_not_depend_on_the_memory_layout(name, shape):
    make, grid, _ = SOLVING[name]
    ends = []
    for x in cases.laid_out(shape):
        solver = make(lambda y, sigma: y / (1 + sigma.view(-1, *[1] * (y.ndim - 1)) ** 2), grid(250))
        state = solver.init(x)
        for _ in range(3):
            state = solver.step(state, generator=cases.generator(3))
        ends.append(state.x)
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=1e-12, atol=1e-12)


# --- the law that comes out ------------------------------------------------------------------------------------------


def plane_law():
    return GaussianMixture(cases.tensor([[-2.0, 0.5], [1.0, 1.0], [0.0, -1.5]]), std=0.6, weights=WEIGHTS)


def image_law():
    return GaussianMixture(0.25 * cases.normal(3, 3, 8, 8, seed=3), std=0.2, weights=WEIGHTS)


def end(factory, grid, steps, denoise, shape, n, seed=0):
    solver = factory(denoise, grid(steps))
    *_, last = solve(solver, solver.start(cases.normal(n, *shape, seed=seed)), generator=cases.generator(seed + 1))
    return last.x


def directions(law):
    """Axes of the plane; of images, those between the modes and a few others."""
    d = law.means[0].numel()
    if d == 2:
        return torch.eye(2).to(law.means)
    between = (law.means[0] - law.means[1:]).flatten(1)
    return torch.nn.functional.normalize(torch.cat([between, cases.normal(3, d, seed=9)]))


def worst(x, law):
    """Returns the largest of the z scores of mean, covariance and mode masses."""
    x, means, axes = x.flatten(1), law.means.flatten(1), directions(law)
    mean = law.weights @ means
    centred = (means - mean) @ axes.mT
    covariance = law.std**2 * axes @ axes.mT + centred.mT @ (law.weights[:, None] * centred)
    u, k = (x - mean) @ axes.mT, len(axes)
    # Under the law, a component's posterior probability is on average its weight.
    belongs = (law.weights.log() - (x[:, None] - means).square().sum(2) / (2 * law.std**2)).softmax(1)
    scores = [cases.z_score(u[:, i]) for i in range(k)]
    scores += [cases.z_score(u[:, i] * u[:, j], covariance[i, j]) for i in range(k) for j in range(i + 1)]
    scores += [cases.z_score(belongs[:, m], law.weights[m]) for m in range(len(means))]
    return max(map(abs, scores))


@pytest.mark.parametrize("name", SOLVING)
def test_noise_becomes_a_mixture_in_the_plane(name):
    law, (factory, grid, steps) = plane_law(), SOLVING[name]
    assert worst(end(factory, grid, steps, MixtureDenoiser(law), (2,), 1000), law) < 5


@pytest.mark.parametrize("name", SOLVING)
def test_noise_becomes_images_of_a_subspace(name):
    """Of rank 4 in 192 dimensions: what lies outside is the noise that is left, and none is."""
    factory, grid, steps = SOLVING[name]
    basis = torch.linalg.qr(cases.normal(192, 4, seed=2)).Q
    stds = cases.tensor([2.0, 1.0, 0.5, 0.25])
    mean = 0.5 * cases.normal(3, 8, 8, seed=4)
    model = GaussianDenoiser(mean, (basis * stds**2) @ basis.mT)
    steps = steps if name == "ald-consistent" else steps // 3
    u = (end(factory, grid, steps, model, (3, 8, 8), 100) - mean).flatten(1)
    torch.testing.assert_close(u, u @ basis @ basis.mT, rtol=0, atol=1e-9)
    white = u @ basis / stds
    assert max(abs(cases.z_score(white[:, i])) for i in range(4)) < 5
    truth = torch.eye(4)
    pairs = [(i, j) for i in range(4) for j in range(i + 1)]
    assert max(abs(cases.z_score(white[:, i] * white[:, j], truth[i, j])) for i, j in pairs) < 5


@pytest.mark.parametrize("name", ["heun", "dpm++", "dpm++-sde"])
def test_the_denoiser_of_a_data_set_gives_back_the_data_each_point_as_often(name):
    factory, grid, steps = SOLVING[name]
    points = cases.normal(5, 1, 4, 4)
    x = end(factory, grid, steps, EmpiricalDenoiser(points), (1, 4, 4), 1000)
    distance, nearest = torch.cdist(x.flatten(1), points.flatten(1)).min(1)
    assert distance.max() < 1e-6
    assert max(abs(cases.z_score((nearest == k).double(), 0.2)) for k in range(5)) < 5


FINE = {  # where more steps alone do not do
    "ald": (partial(NoiseAnnealedLangevin, steps_each=10, step_size=0.3), EVEN, 80),
    "ald-consistent": (partial(ConsistentAnnealedLangevin, step_size=0.01), EVEN, 500),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plane", "image"])
@pytest.mark.parametrize("name", SOLVING)
def test_noise_becomes_a_mixture_on_a_fine_grid(name, kind):
    law, n = (plane_law(), 10_000) if kind == "plane" else (image_law(), 1000)
    factory, grid, steps = FINE.get(name, SOLVING[name])
    assert worst(end(factory, grid, 2 * steps, MixtureDenoiser(law), law.means[0].shape, n), law) < 5


# --- traps -----------------------------------------------------------------------------------------------------------


class Watched:
    """A denoiser that remembers the levels it was asked at."""

    def __init__(self, denoise):
        self.denoise, self.levels = denoise, []

    def __call__(self, x, sigma):
        assert sigma.shape == (len(x),)
        assert not torch.is_grad_enabled()
        self.levels.append(float(sigma[0]))
        return self.denoise(x, sigma)


@pytest.mark.parametrize("name", SOLVING)
def test_evaluations_are_as_many_as_documented_and_never_at_level_zero(name):
    factory, grid, _ = SOLVING[name]
    levels = grid(220 if "consistent" in name else 7)
    watched = Watched(normal_denoiser())
    solver = factory(watched, levels)
    states = list(solve(solver, solver.start(cases.normal(3, 1)), generator=cases.generator()))
    assert len(watched.levels) == solver.nfe
    assert min(watched.levels) == levels[-2]
    assert [state.steps for state in states] == list(range(1, len(levels)))
    # Nothing is added after the last evaluation: the result is the denoiser's output, or Euler's step to 0.
    torch.testing.assert_close(states[-1].x, states[-1].denoised)


@pytest.mark.parametrize("name", SOLVING)
def test_chains_know_nothing_of_each_other_and_the_generator_decides_all(name):
    factory, grid, _ = SOLVING[name]
    model = MixtureDenoiser(plane_law())
    solver = factory(model, grid(220 if "consistent" in name else 7))
    start = solver.start(cases.normal(4, 2))
    *_, last = solve(solver, start, generator=cases.generator(3))
    *_, again = solve(solver, start, generator=cases.generator(3))
    assert torch.equal(last.x, again.x)
    assert last.x.dtype == torch.float64
    bad = start.clone()
    bad[1] = math.nan
    *_, other = solve(solver, bad, generator=cases.generator(3))
    assert not other.x[1].isfinite().any()
    assert other.x[[0, 2, 3]].isfinite().all()
    if name != "pc":  # the one whose step sizes are means over the chains
        torch.testing.assert_close(other.x[[0, 2, 3]], last.x[[0, 2, 3]], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SOLVING)
def test_single_precision_stays_and_is_as_good(name):
    factory, grid, _ = SOLVING[name]
    levels, start = grid(220 if "consistent" in name else 20), cases.normal(4, 2)
    law = plane_law()
    ends = []
    for dtype in (torch.float64, torch.float32):
        model = MixtureDenoiser(GaussianMixture(law.means.to(dtype), std=law.std, weights=law.weights.to(dtype)))
        solver, noise = factory(model, levels), cases.generator(3)
        state = solver.init(solver.start(start).to(dtype))
        for _ in range(solver.steps):
            draws = solver.draw(state._replace(x=start), generator=noise)
            state = solver.move(state, tuple(each.to(dtype) for each in draws))
        assert state.x.dtype == dtype
        ends.append(state.x)
    # Rounding of y at the highest level, 80 · 6e-8, and its growth between the modes.
    torch.testing.assert_close(ends[1].double(), ends[0], rtol=0, atol=1e-3)


def test_churn_is_only_where_it_is_asked_for_and_limited():
    sigmas, watched = [10.0, 4.0, 1.0, 0.0], Watched(normal_denoiser())
    list(solve(Heun(watched, sigmas, churn=0.3, churn_from=2.0, churn_to=5.0), cases.normal(2, 1)))
    assert watched.levels == pytest.approx([10.0, 4.0, 4.0 * 1.1, 1.0, 1.0])
    watched.levels.clear()
    list(solve(Heun(watched, sigmas, churn=1e6), cases.normal(2, 1)))
    assert watched.levels[::2] == pytest.approx([each * math.sqrt(2) for each in sigmas[:3]])
    z, x = cases.normal(2, 1, seed=1), cases.normal(2, 1)
    solver = Heun(normal_denoiser(), [1.0, 0.0], churn=0.25, churn_noise=1.5)
    noised = x + 0.75 * 1.5 * z
    expected = normal_denoiser()(noised, noised.new_full((2,), 1.25)).detach()
    torch.testing.assert_close(solver.move(solver.init(x), (z,)).x, expected)


def test_clipping_what_is_taken_for_clean_is_a_denoiser_again():
    """No solver needs a flag for it, and the bound holds at the end for each."""
    law = plane_law()
    model = MixtureDenoiser(law)
    for name, (factory, grid, _) in SOLVING.items():
        solver = factory(lambda y, sigma: model(y, sigma).clamp(-0.5, 0.5), grid(220 if "consistent" in name else 12))
        *_, last = solve(solver, solver.start(cases.normal(64, 2)), generator=cases.generator())
        assert last.denoised.abs().max() <= 0.5


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("ddim", {"eta": 1.5}, "eta is in"),
        ("ddpm", {"upper": -1}, "upper is in"),
        ("heun", {"churn": -1}, "churn ≥ 0"),
        ("heun", {"churn_from": 2, "churn_to": 1}, "churn_from ≤ churn_to"),
        ("pc", {"snr": 0}, "snr is positive"),
        ("pc", {"corrections": -1}, "at least 0"),
        ("ald", {"steps_each": 0}, "steps_each is at least 1; it was 0"),
        ("ald", {"step_size": -0.1}, "is positive"),
        ("ald-consistent", {"step_size": 0.3}, "more than a step of"),
        ("ald-consistent", {"step_size": 1.3}, r"in \(0, 1\]"),
    ],
)
def test_mistakes_are_refused(name, settings, message):
    with pytest.raises(UserError, match=message):
        build(SOLVERS, name, settings, denoise=normal_denoiser(), sigmas=[4.0, 2.0, 1.0, 0.0])


@pytest.mark.parametrize("sigmas", [[], [0.0], [1.0, 0.5], [1.0, 1.0, 0.0], [0.5, 1.0, 0.0], [math.inf, 1.0, 0.0]])
def test_levels_fall_to_zero(sigmas):
    with pytest.raises(ValueError, match="noise levels fall"):
        Euler(normal_denoiser(), sigmas)


def test_settings_come_from_recipes():
    factory = build(SOLVERS, "heun", {"churn": 3})
    assert factory(normal_denoiser(), [1.0, 0.0]).churn == 3.0
