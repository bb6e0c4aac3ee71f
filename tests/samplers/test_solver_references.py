"""Solvers against diffusers' schedulers, with one network and one noise; and one model in every parameterisation."""

import functools
import math

import pytest
import torch

import cases
from energyscape.models import (
    EDM,
    Clean,
    Epsilon,
    Flow,
    GaussianMixture,
    MixtureDenoiser,
    NetworkDenoiser,
    Score,
    Velocity,
)
from energyscape.samplers import DDIM, DDPM, DPMSolver, DPMSolverSDE, Euler, Heun, PredictorCorrector, solve
from energyscape.schedules import Geometric, Karras, LinearBeta, chain_levels

# NumPy 2 warns of what the schedulers do with tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

CHAIN = chain_levels(1e-4, 0.02, 1000)


@functools.cache
def schedulers():
    return pytest.importorskip("diffusers")


def network(u, t, label=None):
    """Any smooth function of scaled points and the chain's step: what a trained ε-network might be."""
    weight = 0.5 * cases.normal(4, 4, seed=8, dtype=torch.float32)
    return torch.tanh(u @ weight + 2 * torch.sin(t / 300)[:, None]) + 0.3 * u


MODEL = NetworkDenoiser(network, Epsilon())


def scaled(x, sigma):
    """From y to the points of variance-preserving papers."""
    return x / math.hypot(1, sigma)


def followed(solver, start, noises):
    """Returns the points after every step of a solver that is given its noise."""
    state, path = solver.init(start), []
    for k in range(solver.steps):
        state = solver.move(state, tuple(noises[k : k + 1]) if noises is not None else ())
        path.append(state.x)
    return path


def compared(solver, theirs, *, noises=None, options=lambda k: {}, but=0):
    """Steps a scheduler of variance-preserving points beside a solver; so many last steps are not compared."""
    x = cases.normal(16, 4, dtype=torch.float32)
    ours = followed(solver, x * math.hypot(1, solver.sigmas[0]), noises)
    for k, (t, level) in enumerate(zip(theirs.timesteps, solver.sigmas[1:], strict=True)):
        predicted = network(x, torch.full((16,), float(t)))
        x = theirs.step(predicted, int(t), x, **options(k)).prev_sample
        if k < solver.steps - but:
            torch.testing.assert_close(scaled(ours[k], level), x, rtol=1e-4, atol=1e-4)


def noise_for(steps):
    return torch.stack([cases.normal(16, 4, seed=100 + k, dtype=torch.float32) for k in range(steps)])


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize(("upper", "variance"), [(0.0, "fixed_small"), (1.0, "fixed_large")])
def test_ddpm_is_that_of_diffusers(spacing, upper, variance, monkeypatch):
    theirs = schedulers().DDPMScheduler(clip_sample=False, variance_type=variance, timestep_spacing=spacing)
    theirs.set_timesteps(50)
    noises = noise_for(50)
    left = iter(noises)
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: next(left))
    grid = LinearBeta(spacing=spacing)
    assert theirs.timesteps.tolist() == grid.times(50)
    # Theirs leaves out the last noise only at the chain's first step, where a trailing grid does not go: with the
    # larger variance it leaves noise in what comes out.
    compared(DDPM(MODEL, grid(50), upper=upper), theirs, noises=noises, but=int(upper == 1 and spacing == "trailing"))


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_is_that_of_diffusers(spacing, eta):
    theirs = schedulers().DDIMScheduler(clip_sample=False, timestep_spacing=spacing)
    theirs.set_timesteps(20)
    noises = noise_for(20) if eta else None
    solver = DDIM(MODEL, LinearBeta(spacing=spacing)(20), eta=eta)
    options = (lambda k: {"eta": eta, "variance_noise": noises[k]}) if eta else (lambda k: {})
    compared(solver, theirs, noises=noises, options=options)


@pytest.mark.parametrize("steps", [8, 20])
def test_dpm_solver_is_that_of_diffusers(steps):
    theirs = schedulers().DPMSolverMultistepScheduler(timestep_spacing="trailing")
    theirs.set_timesteps(steps)
    grid = LinearBeta(spacing="trailing")(steps)
    torch.testing.assert_close(torch.tensor(grid), theirs.sigmas, rtol=1e-3, atol=0)
    compared(DPMSolver(MODEL, grid), theirs)


def test_the_stochastic_dpm_solver_is_that_of_diffusers():
    theirs = schedulers().DPMSolverMultistepScheduler(timestep_spacing="trailing", algorithm_type="sde-dpmsolver++")
    theirs.set_timesteps(20)
    noises = noise_for(20)
    solver = DPMSolverSDE(MODEL, LinearBeta(spacing="trailing")(20))
    compared(solver, theirs, noises=noises, options=lambda k: {"variance_noise": noises[k]})


def test_heun_is_that_of_diffusers():
    theirs = schedulers().HeunDiscreteScheduler(use_karras_sigmas=True, beta_start=1e-4, beta_end=0.02)
    theirs.set_timesteps(12)
    levels = theirs.sigmas[[0, *range(1, 24, 2)]].tolist()
    assert levels == pytest.approx(Karras(sigma_min=CHAIN[0], sigma_max=CHAIN[-1])(12), rel=1e-3)
    x = cases.normal(16, 4, dtype=torch.float32) * levels[0]
    states = list(solve(Heun(MODEL, levels), x))
    for k, t in enumerate(theirs.timesteps):
        # They tell the network of the step of the chain that they interpolated, as we do.
        x = theirs.step(network(theirs.scale_model_input(x, t), torch.full((16,), float(t))), t, x).prev_sample
        if k % 2 or k == 22:  # both halves of a step are done, or its only one
            level = levels[k // 2 + 1]
            torch.testing.assert_close(scaled(states[k // 2].x, level), scaled(x, level), rtol=1e-4, atol=1e-4)


def test_predictor_corrector_is_that_of_diffusers(monkeypatch):
    theirs = schedulers().ScoreSdeVeScheduler(snr=0.17, sigma_min=0.05, sigma_max=10.0, sampling_eps=0.0)
    steps = 30
    theirs.set_timesteps(steps)
    theirs.set_sigmas(steps)
    levels = Geometric(sigma_min=0.05, sigma_max=10.0)(steps)
    torch.testing.assert_close(theirs.discrete_sigmas.flip(0), torch.tensor(levels[:-1]))
    solver = PredictorCorrector(MODEL, levels, snr=0.17)
    state = solver.init(solver.start(cases.normal(16, 4, dtype=torch.float32)))
    x, noises = state.x, noise_for(2 * steps)

    def score(x, sigma):
        return (MODEL(x, x.new_full((len(x),), sigma)) - x) / sigma**2

    for k, t in enumerate(theirs.timesteps):
        pair = noises[2 * k], noises[2 * k + 1]
        left = iter(pair)
        monkeypatch.setattr(
            "diffusers.schedulers.scheduling_sde_ve.randn_tensor", lambda *_, left=left, **__: next(left)
        )
        # Theirs finds the level's index by cutting off a product that may lie just below it.
        result = theirs.step_pred(score(x, levels[k]), t + 1e-3, x)
        state = solver.move(state, pair)
        if levels[k + 1]:
            x = theirs.step_correct(score(result.prev_sample, levels[k + 1]), result.prev_sample).prev_sample
        else:
            x = result.prev_sample_mean
        torch.testing.assert_close(state.x, x, rtol=1e-4, atol=1e-4)


# --- one model, many parameterisations --------------------------------------------------------------------------------


def law():
    return GaussianMixture(cases.tensor([[-2.0, 0.5], [1.0, 1.0], [0.0, -1.5]]), std=0.6)


def level_of(name, noise):
    """Invert the level that a network was given."""
    if name == "epsilon":
        return cases.tensor(CHAIN)[noise.round().long()]
    return noise / (1 - noise) if name == "flow" else (4 * noise).exp()


def target(name, x0, epsilon, sigma):
    """Return the target of a network, by its paper's formula."""
    alpha = (1 + sigma**2).rsqrt()
    return {
        "epsilon": epsilon,
        "clean": x0,
        "velocity": alpha * epsilon - (1 - alpha**2).sqrt() * x0,
        "score": sigma * (-epsilon / sigma),
        "flow": epsilon - x0,
        "edm": (x0 - 0.25 / (sigma**2 + 0.25) * (x0 + sigma * epsilon)) * (sigma**2 + 0.25).sqrt() / (0.5 * sigma),
    }[name]


def seen(name, sigma):
    """The scale of what it sees."""
    return {"clean": (sigma**2 + 0.25).rsqrt(), "edm": (sigma**2 + 0.25).rsqrt(), "score": torch.ones_like(sigma)}.get(
        name, 1 / (1 + sigma) if name == "flow" else (1 + sigma**2).rsqrt()
    )


TABLE = {
    "epsilon": Epsilon(),
    "clean": Clean(data_std=0.5),
    "velocity": Velocity(),
    "score": Score(),
    "flow": Flow(),
    "edm": EDM(data_std=0.5),
}


@pytest.mark.parametrize("solver", [Euler, DDPM, Heun, DPMSolver, DPMSolverSDE, PredictorCorrector])
@pytest.mark.parametrize("name", TABLE)
def test_a_model_is_the_same_in_every_parameterisation(name, solver):
    exact = MixtureDenoiser(law())

    def predicting(u, noise, label):
        sigma = level_of(name, noise)[:, None]
        y = u / seen(name, sigma)
        x0 = exact(y, sigma[:, 0])
        return target(name, x0, (y - x0) / sigma, sigma)

    grid = LinearBeta(spacing="trailing")(12)
    ends = []
    for denoise in (exact, NetworkDenoiser(predicting, TABLE[name])):
        way = solver(denoise, grid)
        *_, last = solve(way, way.start(cases.normal(32, 2)), generator=cases.generator())
        ends.append(last.x)
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=1e-8)
