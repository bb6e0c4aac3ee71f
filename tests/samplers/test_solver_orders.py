"""Solvers of noise levels on normal data, where all is affine: orders of accuracy, and what the docstrings claim."""

import math
from functools import partial

import pytest
import torch

import cases
from energyscape.models import GaussianDenoiser
from energyscape.samplers import (
    DDIM,
    DDPM,
    ConsistentAnnealedLangevin,
    DPMSolver,
    DPMSolverSDE,
    Euler,
    Heun,
    NoiseAnnealedLangevin,
    PredictorCorrector,
    solve,
)
from energyscape.samplers.noise_langevin import balanced_step
from energyscape.schedules import Geometric, Karras

# --- orders of accuracy, exactly, without chance ---------------------------------------------------------------------


STD, MEAN, TOP = 1.3, 0.7, 40.0


def normal_denoiser(std=STD):
    mean = cases.tensor([MEAN])
    return GaussianDenoiser(mean, cases.tensor([[std**2]]))


def propagated(solver, steps=None):
    """Returns b, A, B of the law y = b + A y_start + B z that a solver gives on normal data, where all is affine.

    One chain is pushed at its start, and one at each noise; what comes of it is its coefficient.
    """
    steps = solver.steps if steps is None else steps
    at_rest = [solver.init(cases.tensor([[0.0]]))._replace(steps=k) for k in range(steps)]
    counts = [len(solver.draw(state)) for state in at_rest]
    pushed = torch.eye(2 + sum(counts)).to(cases.tensor(0.0))[1:, :, None]
    state, position = solver.init(pushed[0]), 1
    for count in counts:
        state = solver.move(state, tuple(pushed[position : position + count]))
        position += count
    b = state.x[0]
    return float(b), float(state.x[1] - b), state.x[2:] - b


def variance(solver, std, steps=None):
    """Returns the variance after some steps, or all, if data of a deviation noised at the highest level go in."""
    _, a, b = propagated(solver, steps)
    return a**2 * (std**2 + solver.sigmas[0] ** 2) + float(b.square().sum())


def fine(n):
    """A grid of n intervals above 0; the step from the lowest level costs less than 10⁻⁶ of the variance."""
    return Karras(sigma_min=1e-3, sigma_max=TOP)(n + 1)


def order(error):
    return math.log2(abs(error(80) / error(160)))


ORDERS = {
    "euler": (Euler, 1),
    "ddim:half": (partial(DDIM, eta=0.5), 1),
    "ddpm": (DDPM, 1),
    "ddpm:upper": (partial(DDPM, upper=1.0), 1),
    "ddpm:middle": (partial(DDPM, upper=0.5), 1),
    "pc": (partial(PredictorCorrector, corrections=0), 1),
    "heun": (Heun, 2),
    "heun:churn": (partial(Heun, churn=10.0), 2),
    "dpm++": (DPMSolver, 2),
    "dpm++-sde": (DPMSolverSDE, 2),
}


@pytest.mark.parametrize("name", ORDERS)
def test_the_variance_converges_with_the_order_claimed(name):
    factory, claimed = ORDERS[name]
    measured = order(lambda n: variance(factory(normal_denoiser(), fine(n)), STD) - STD**2)
    assert measured == pytest.approx(claimed, abs=0.12)  # the next order is an error of about 1 / 80 ln 2 · its share


@pytest.mark.parametrize("name", ["euler", "heun", "dpm++"])
def test_paths_converge_to_the_closed_form_of_the_ordinary_equation(name):
    """y(σ) - μ is proportional to √(s² + σ²)."""
    (factory, claimed), start = ORDERS[name], cases.tensor([[50.0], [-3.0]])
    truth = MEAN + (start - MEAN) * STD / math.hypot(STD, TOP)

    def error(n):
        *_, last = solve(factory(normal_denoiser(), fine(n)), start)
        return float((last.x - truth).abs().max())

    assert order(error) == pytest.approx(claimed, abs=0.12)
    assert error(160) < {1: 0.03, 2: 1e-3}[claimed]


@pytest.mark.parametrize("name", ["ddpm", "ddpm:upper", "dpm++-sde", "pc"])
def test_the_mean_of_the_stochastic_equation_is_exact(name):
    """E[y(σ)] - μ is proportional to s² + σ², which ancestral steps follow exactly on any grid."""
    b, a, _ = propagated(ORDERS[name][0](normal_denoiser(), fine(12)))
    share = STD**2 / (STD**2 + TOP**2)
    assert a == pytest.approx(share * (STD**2 + 1e-6) / STD**2, rel=1e-5)
    assert b == pytest.approx(MEAN * (1 - share), rel=1e-5)


def test_dpm_solver_extrapolates_to_half_way():
    """Of a denoiser that is a straight line in ln σ the guess is right, on uneven levels too."""
    sigmas = [8.0, 5.0, 1.5, 0.3, 0.0]
    states = list(solve(DPMSolver(lambda y, sigma: 3 * sigma.log()[:, None], sigmas), cases.tensor([[2.0]])))
    for before, after, high, low in zip(states, states[1:], sigmas[1:], sigmas[2:-1], strict=False):
        guess = 3 * math.log(math.sqrt(high * low))
        assert float(after.x) == pytest.approx(guess + low / high * (float(before.x) - guess), abs=1e-12)


# --- what the docstrings claim ---------------------------------------------------------------------------------------


POINT = {
    "euler": Euler,
    "ddim:half": partial(DDIM, eta=0.5),
    "ddim:one": partial(DDIM, eta=1.0),
    "ddpm": DDPM,
    "heun": Heun,
    "heun:churn": partial(Heun, churn=3.0),
    "dpm++": DPMSolver,
    "dpm++-sde": DPMSolverSDE,
    "ald-consistent": partial(ConsistentAnnealedLangevin, step_size=0.8),
}


@pytest.mark.parametrize("name", POINT)
def test_around_one_point_the_noise_is_that_of_the_level_after_every_step(name):
    solver = POINT[name](normal_denoiser(std=0.0), Karras(sigma_max=8.0, sigma_min=0.5)(5))
    for steps, sigma in enumerate(solver.sigmas):
        assert variance(solver, 0.0, steps) == pytest.approx(sigma**2, abs=1e-12)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_the_upper_variance_is_right_for_standard_normal_data(steps):
    solver = DDPM(normal_denoiser(std=1.0), Geometric(sigma_min=0.05, sigma_max=20.0)(steps), upper=1.0)
    for taken, sigma in enumerate(solver.sigmas[:-1]):
        assert variance(solver, 1.0, taken) == pytest.approx(1 + sigma**2, rel=1e-12)


def test_ddim_runs_from_euler_to_ddpm():
    start, z = 40 * cases.normal(5, 1), cases.normal(5, 1, seed=1)
    sigmas = Karras(sigma_max=40.0)(6)
    for eta, other in [(0.0, Euler), (1.0, DDPM)]:
        one, two = DDIM(normal_denoiser(), sigmas, eta=eta), other(normal_denoiser(), sigmas)
        a, b = one.init(start), two.init(start)
        for _ in range(6):
            a, b = one.move(a, (z,) if eta else ()), two.move(b, (z,) if eta else ())
            torch.testing.assert_close(a.x, b.x, rtol=1e-12, atol=1e-12)


def test_langevin_at_one_level_has_the_variance_of_its_docstring():
    a, sigma = 0.4, 0.9
    solver = NoiseAnnealedLangevin(normal_denoiser(), [sigma, sigma / 2, 0.0], steps_each=300, step_size=a)
    v = STD**2 + sigma**2
    assert variance(solver, STD, 1) == pytest.approx(v / (1 - a * sigma**2 / (2 * v)), rel=1e-9)


def test_consistent_annealing_narrows_as_its_docstring_says():
    a, ladder = 0.05, Geometric(sigma_min=1e-3, sigma_max=20.0)(800)
    found = variance(ConsistentAnnealedLangevin(normal_denoiser(), ladder, step_size=a), STD)
    assert found / STD**2 == pytest.approx(1 - a / 2, abs=a**2)


def test_the_balanced_step_is_the_papers():
    """NCSNv2 for CIFAR-10: 232 levels from 50 to 0.01, T = 5, ε = 6.2e-6 = a · 0.01²."""
    assert balanced_step(Geometric(sigma_min=0.01, sigma_max=50.0)(232), 5) == pytest.approx(0.062, abs=5e-4)


def test_predictor_corrector_takes_steps_of_the_ratio_asked_for():
    r, n = 0.2, 4000
    sigmas, x = [3.0, 1.0, 0.0], 3.3 * cases.normal(n, 1)
    one, two = (PredictorCorrector(normal_denoiser(), sigmas, snr=r, corrections=k) for k in (0, 1))
    first, second = cases.normal(n, 1, seed=1), cases.normal(n, 1, seed=2)
    before, after = one.move(one.init(x), (first,)).x, two.move(two.init(x), (first, second)).x
    g = (MEAN - before) / (STD**2 + 1.0)
    epsilon = 2 * (r * second.abs().mean() / g.abs().mean()) ** 2
    torch.testing.assert_close(after, before + epsilon * g + (2 * epsilon).sqrt() * second)
