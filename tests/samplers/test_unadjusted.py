r"""Unadjusted kernels: the law that each really samples, and its bias on ten targets, both exactly.

From exact draws of exp(-E / T) one step changes the mean of x² by an amount that follows from E[x s(x)] = -T, which
holds coordinate by coordinate for every smooth law (integrate by parts). No order of accuracy has to be believed.
"""

import math

import pytest
import torch

import cases
from energyscape.samplers import (
    AnnealedLangevin,
    GradientDescent,
    Langevin,
    UnderdampedLangevin,
    run,
    simulate,
)

N = 2**14


def harmonic(v):
    return lambda x: (x.square() / (2 * v)).flatten(1).sum(1)


def cold(target, temperature):
    """An energy whose law at a temperature is the target."""
    return lambda x: temperature * target.energy(x)


# --- ten targets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.4])
@pytest.mark.parametrize("name", cases.TARGETS)
def test_the_bias_of_a_step(name, temperature):
    target = cases.TARGETS[name]()
    energy, n = cold(target, temperature), N // 4 if name == "stiff" else N
    x0 = target.sample(n, generator=cases.generator(1))
    stream, h = cases.generator(2), target.scale / math.sqrt(temperature)
    eta = h**2 / 2
    langevin = Langevin(energy, step_size=eta, temperature=temperature)
    descent = GradientDescent(energy, step_size=eta)
    annealed = AnnealedLangevin(energy, step_size=eta, hottest=3 * temperature, anneal_steps=5, temperature=temperature)
    underdamped = UnderdampedLangevin(energy, step_size=h, friction=1.5 / h, temperature=temperature)
    still = underdamped.init(x0)
    moving = still._replace(velocity=temperature**0.5 * torch.empty_like(x0).normal_(generator=stream))
    squared, c = still.score.square(), math.exp(-1.5)
    for kernel, state, truth in [
        (langevin, langevin.init(x0), eta**2 * squared),
        (descent, descent.init(x0), eta**2 * squared - 2 * eta * temperature),
        (annealed, annealed.init(x0), eta**2 * squared + 2 * eta * (3 - 1) * temperature),
        (underdamped, moving, h**4 / 16 * (1 + c) ** 2 * squared),
        # With zero velocity the two halves of the kick of variance 1 + c are missing.
        (underdamped, still, h**4 / 16 * (1 + c) ** 2 * squared - h**2 / 4 * (1 + c) ** 2 * temperature),
    ]:
        new, info = kernel.step(state, generator=stream)
        assert int(info.diverged.sum()) == 0
        change = new.x.square() - x0.square() - truth
        for i, each in enumerate(change.flatten(1).T):
            assert abs(cases.z_score(each)) < 5, (type(kernel).__name__, i)
        for i, each in enumerate((new.x - x0).flatten(1).T):
            assert abs(cases.z_score(each)) < 5, (type(kernel).__name__, i)


# --- underdamped Langevin ---------------------------------------------------------------------------------------------


def baoab_law(v, h, friction, temperature):
    """The stationary covariance of (x, velocity) on N(0, v), from the matrices of the five parts of a step."""
    eye = torch.eye(2, dtype=torch.float64)
    a, b, o, noise = eye.clone(), eye.clone(), eye.clone(), torch.zeros(2, 2, dtype=torch.float64)
    a[0, 1], b[1, 0], o[1, 1] = h / 2, -h / (2 * v), math.exp(-friction * h)
    noise[1, 1] = temperature * (1 - math.exp(-2 * friction * h))
    step, after = b @ a @ o @ a @ b, b @ a
    q = after @ noise @ after.mT
    vec = torch.linalg.solve(torch.eye(4, dtype=torch.float64) - torch.kron(step, step), q.flatten())
    return vec.reshape(2, 2)


@pytest.mark.parametrize(("h", "friction", "temperature"), [(0.3, 1.0, 1.0), (1.2, 0.4, 0.3), (0.9, 5.0, 2.0)])
def test_the_positions_law_on_a_harmonic_is_exact(h, friction, temperature):
    v = 0.5
    truth = baoab_law(v, h, friction, temperature)
    assert torch.allclose(truth, torch.diag(cases.tensor([temperature * v, temperature * (1 - h**2 / (4 * v))])).cpu())
    kernel = UnderdampedLangevin(harmonic(v), step_size=h, friction=friction, temperature=temperature)
    x, velocity = (cases.normal(N, 1, 3, seed=seed) * float(truth[i, i]) ** 0.5 for i, seed in enumerate((1, 2)))
    state = kernel.init(x)._replace(velocity=velocity)
    before, stream = state, cases.generator(3)
    for k in range(1, 6):
        state, _ = kernel.step(state, generator=stream)
        if k in (1, 5):
            pairs = zip((before.x, before.velocity), (state.x, state.velocity), truth.diagonal(), strict=True)
            for old, new, variance in pairs:
                assert abs(cases.z_score(new.square().flatten(), float(variance))) < 5
                assert abs(cases.z_score((new.square() - old.square()).flatten())) < 5
            assert abs(cases.z_score((state.x * state.velocity).flatten())) < 5


def test_chains_at_rest_arrive_at_that_law():
    v, h, temperature = 2.0, 1.5, 0.7
    kernel = UnderdampedLangevin(harmonic(v), step_size=h, friction=0.8, temperature=temperature)
    state, _ = run(kernel, torch.full((N, 2), 4.0, dtype=torch.float64, device=cases.DEVICE), steps=80,
                   generator=cases.generator(3))  # fmt: skip
    assert abs(cases.z_score(state.x.flatten())) < 5
    assert abs(cases.z_score(state.x.square().flatten(), temperature * v)) < 5
    assert abs(cases.z_score(state.velocity.square().flatten(), temperature * (1 - h**2 / (4 * v)))) < 5


def test_without_noise_it_is_a_leapfrog_step():
    """At next to no friction BAOAB is velocity Verlet, whatever is drawn."""
    target, h = cases.gumbel(), 0.3
    kernel = UnderdampedLangevin(target.energy, step_size=h, friction=1e-14)
    state = kernel.init(target.sample(50, generator=cases.generator(1)))
    state = state._replace(velocity=cases.normal(50, 3, seed=2))
    v = state.velocity + h / 2 * state.score
    x = state.x + h * v
    new, _ = kernel.step(state, generator=cases.generator(3))
    torch.testing.assert_close(new.x, x, rtol=0, atol=1e-6)  # √(2 · 1e-14 h) of noise
    torch.testing.assert_close(new.velocity, v + h / 2 * new.score, rtol=0, atol=1e-6)


def test_a_wall_sends_a_chain_back():
    def energy(x):
        return torch.where(x[:, 0] > 1, torch.nan, x.square().sum(1) / 2)

    kernel = UnderdampedLangevin(energy, step_size=0.5)
    state = kernel.init(cases.tensor([[0.9, 0.1], [0.9, 0.1]]))._replace(
        velocity=cases.tensor([[5.0, 0.3], [-5.0, 0.3]])
    )
    new, info = kernel.move(state, (torch.zeros_like(state.x),))
    assert info.diverged.tolist() == [True, False]
    assert torch.equal(new.x[0], state.x[0])
    assert torch.equal(new.velocity[0], -state.velocity[0])
    assert float(new.x[1, 0]) < -0.5
    again, info = kernel.move(new, (torch.zeros_like(state.x),))
    assert not info.diverged.any()
    assert float(again.x[0, 0]) < 0.9


def test_what_a_step_tells():
    h, friction, temperature = 0.4, 1.3, 0.6
    kernel = UnderdampedLangevin(harmonic(1.0), step_size=h, friction=friction, temperature=temperature)
    state = kernel.init(cases.normal(N, 4))._replace(velocity=cases.normal(N, 4, seed=1))
    new, info = kernel.step(state, generator=cases.generator(2))
    variance = (h / 2) ** 2 * temperature * (1 - math.exp(-2 * friction * h))
    assert abs(cases.z_score(info.noise.square(), variance)) < 5
    c = math.exp(-friction * h)
    free = h / 2 * (1 + c) * (state.velocity + h / 2 * state.score)
    assert torch.allclose(info.drift, free.square().mean(1).sqrt(), rtol=1e-12)
    assert torch.equal(info.hamiltonian, state.energy + state.velocity.square().sum(1) / 2)
    assert float(info.energy_error.abs().max()) == 0
    assert new.energy.shape == (N,)


# --- gradient descent and annealing -----------------------------------------------------------------------------------


def test_gradient_descent_is_langevin_without_noise():
    law = cases.uneven()
    settings = {"step_size": 0.3, "drift_clip": 0.25, "bounds": (-1.0, 2.0)}
    x = 3 * cases.normal(40, 2)
    end, sums = run(GradientDescent(law.energy, **settings), x, steps=6)
    twin, info = run(
        Langevin(law.energy, temperature=0.0, walls="clamp", **settings), x, steps=6, generator=cases.generator()
    )
    assert torch.equal(end.x, twin.x)
    assert all(torch.equal(a, b) for a, b in zip(sums, info, strict=True))


def test_gradient_descent_on_a_parabola():
    v, eta = cases.tensor([0.5, 2.0]), 0.3
    x = cases.normal(5, 2)
    for k, (state, info) in zip(range(1, 8), simulate(GradientDescent(harmonic(v), step_size=eta), x), strict=False):
        assert torch.allclose(state.x, x * (1 - eta / v) ** k, rtol=1e-12)
        assert not info.noise.any()


def test_the_temperature_falls_geometrically_and_stays():
    # A flat energy leaves the noise alone: its variance is 2 η T_k.
    kernel = AnnealedLangevin(lambda x: 0 * x.sum(1), step_size=0.1, hottest=8.0, anneal_steps=3, temperature=1.0)
    x = torch.zeros(64, 500, dtype=torch.float64, device=cases.DEVICE)
    truth = [8.0, 4.0, 2.0, 1.0, 1.0, 1.0]
    for t, (_, info) in zip(truth, simulate(kernel, x, generator=cases.generator(1)), strict=False):
        assert abs(cases.z_score(info.noise.square(), 0.2 * t)) < 5
        # Energy and kinetic energy of 500 momenta of variance T_k.
        assert abs(cases.z_score(info.hamiltonian, 250 * t)) < 5


def test_annealing_on_a_harmonic():
    v, eta, hottest, temperature = 0.8, 0.3, 5.0, 0.5
    kernel = AnnealedLangevin(harmonic(v), step_size=eta, hottest=hottest, anneal_steps=6, temperature=temperature)
    x = torch.full((N, 2), 2.0, dtype=torch.float64, device=cases.DEVICE)
    mean, variance = 2.0, 0.0
    for k, (state, _) in zip(range(40), simulate(kernel, x, generator=cases.generator(4)), strict=False):
        t = hottest * (temperature / hottest) ** (min(k, 6) / 6)
        mean, variance = (1 - eta / v) * mean, (1 - eta / v) ** 2 * variance + 2 * eta * t
        if k in (0, 1, 5, 6, 7, 39):
            assert abs(cases.z_score(state.x.flatten(), mean)) < 5
            assert abs(cases.z_score((state.x - mean).square().flatten(), variance)) < 5
    # What is left at the end is the law of Langevin at the last temperature.
    assert variance == pytest.approx(temperature * v / (1 - eta / (2 * v)), rel=1e-6)


def test_every_start_begins_hot():
    kernel = AnnealedLangevin(harmonic(1.0), step_size=0.1, hottest=4.0, anneal_steps=3)
    state, _ = run(kernel, cases.normal(4, 2), steps=5, generator=cases.generator())
    assert int(state.steps) == 5
    assert int(kernel.init(state.x).steps) == 0
