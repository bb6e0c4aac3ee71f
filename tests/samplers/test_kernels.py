r"""Kernels: contract, and truth by exact draws.

A kernel is right if chains that start in its law stay in it. Chains are independent and start exactly there, so that
f(x_k) - f(x_0) has mean zero, whatever the mixing, and a standard error that can be estimated.
"""

import functools
import math

import pytest
import torch

import cases
from energyscape.calculus import energy_and_score
from energyscape.samplers import (
    HMC,
    KERNELS,
    MALA,
    Info,
    Langevin,
    ParallelTempering,
    run,
    sample,
    simulate,
)
from energyscape.samplers.base import evaluate_at, metropolis

N = 2**14

SMOOTH = ("correlated", "uneven", "gumbel", "image")
"""Targets on the scale of 1, where a step of any kernel is of that order."""


def leaves(state):
    """Returns all tensors of a state, those of a state within it too."""
    return [leaf for each in state for leaf in (leaves(each) if isinstance(each, tuple) else [each])]


def test_every_kernel_has_a_case():
    assert {name.split(":")[0] for name in cases.KERNELS} == set(KERNELS)


# --- contract ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", cases.SHAPES.values(), ids=cases.SHAPES.keys())
@pytest.mark.parametrize("name", cases.KERNELS)
def test_contract(name, shape, dtype):
    energy = cases.neural(shape, dtype=dtype)
    before = [each.detach().clone() for each in energy.parameters()]
    kernel = cases.KERNELS[name](0.1)(energy)
    x = cases.normal(6, *shape, dtype=dtype)
    kept = x.clone()

    def go(seed):
        states, infos = [], []
        for (state, info), _ in zip(simulate(kernel, x, generator=cases.generator(seed)), range(3), strict=False):
            states.append(state)
            infos.append(info)
        return states, infos

    states, infos = go(1)
    again, result = go(1)
    other, _ = go(2)
    for state, twin in zip([*states, *infos], [*again, *result], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(leaves(state), leaves(twin), strict=True))
    assert torch.equal(states[-1].x, other[-1].x) == (name in cases.NOISELESS)
    assert not torch.equal(states[-1].x, x)
    assert torch.equal(x, kept)
    last, info = states[-1], infos[-1]
    assert last.x.shape == last.score.shape == x.shape
    assert last.energy.shape == (6,)
    assert all(each.shape == (6,) for each in info)
    assert last.x.dtype == last.energy.dtype == last.score.dtype == info.accept_prob.dtype == dtype
    assert info.accepted.dtype == info.diverged.dtype == torch.bool
    # What is carried is what the energy says, not a stale copy of it.
    e, s = energy_and_score(energy, last.x)
    if name.startswith("tempering"):  # computed in another batch, and divided by a factor and multiplied again
        torch.testing.assert_close((last.energy, last.score), (e, s))
    else:
        assert torch.equal(last.energy, e)
        assert torch.equal(last.score, s)
    assert not any(each.requires_grad for each in (*leaves(last), *info))
    for parameter, old in zip(energy.parameters(), before, strict=True):
        assert parameter.grad is None
        assert parameter.requires_grad
        assert torch.equal(parameter, old)


@pytest.mark.parametrize("name", cases.KERNELS)
def test_sampling_works_where_gradients_are_off(name):
    kernel = cases.KERNELS[name](0.3)(cases.correlated().energy)
    x = cases.normal(5, 2)
    with torch.no_grad():
        off, _ = run(kernel, x, steps=3, generator=cases.generator())
    on, _ = run(kernel, x, steps=3, generator=cases.generator())
    assert torch.equal(off.x, on.x)


@pytest.mark.parametrize("name", cases.KERNELS)
def test_sampling_works_in_inference_mode(name):
    energy = cases.neural(dtype=torch.float64)
    x = cases.normal(5, 2)
    on, _ = run(cases.KERNELS[name](0.3)(energy), x, steps=3, generator=cases.generator())
    with torch.inference_mode():
        weight = cases.tensor([1.0, 1.0])  # made inside, autograd could not save it
        kernel = cases.KERNELS[name](0.3)(lambda y: energy(y * weight))
        off, _ = run(kernel, x.clone(), steps=3, generator=cases.generator())
    assert torch.allclose(on.x, off.x, rtol=1e-9)
    # Points that were made inside serve outside as well.
    kernel = cases.KERNELS[name](0.3)(energy)
    ends = [run(kernel, each.x, steps=1, generator=cases.generator(1))[0].x for each in (on, off)]
    assert torch.allclose(*ends, rtol=1e-9)


@pytest.mark.parametrize("shape", [(5,), (3, 4, 4)], ids=str)
@pytest.mark.parametrize("name", cases.KERNELS)
def test_draws_do_not_depend_on_the_memory_layout(name, shape):
    ends = [
        run(cases.KERNELS[name](0.3)(cases.Quadratic(1.3)), x, steps=4, generator=cases.generator(3))[0].x
        for x in cases.laid_out(shape)
    ]
    # Sums over another order of memory differ in the last bits only.
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", cases.KERNELS)
def test_a_step_is_a_draw_and_a_move_and_draws_depend_on_the_shape_only(name):
    kernel = cases.KERNELS[name](0.3)(cases.correlated().energy)
    state = kernel.init(cases.normal(5, 2))
    randomness = kernel.draw(state.x, generator=cases.generator(3))
    far = kernel.draw(state.x + 100, generator=cases.generator(3))
    assert all(torch.equal(a, b) for a, b in zip(randomness, far, strict=True))
    one, _ = kernel.step(state, generator=cases.generator(3))
    two, _ = kernel.move(state, randomness)
    assert torch.equal(one.x, two.x)


@pytest.mark.parametrize("name", cases.KERNELS)
def test_run_sums_and_sample_averages_what_simulate_yields(name):
    kernel = cases.KERNELS[name](0.8)(cases.gumbel().energy)
    x = cases.normal(5, 3)
    steps = 12
    walk = [pair for pair, _ in zip(simulate(kernel, x, generator=cases.generator(4)), range(steps), strict=False)]
    totals = [torch.stack([info[i].double() for _, info in walk]).sum(0) for i in range(len(Info._fields))]
    state, sums = run(kernel, x, steps=steps, generator=cases.generator(4))
    assert torch.equal(state.x, walk[-1][0].x)
    for total, each in zip(totals, sums, strict=True):
        assert torch.allclose(each.double(), total, rtol=1e-12)
    chain = sample(kernel, x, steps=steps, burn_in=3, thin=2, generator=cases.generator(4))
    kept = [4, 6, 8, 10]  # steps 5, 7, 9 and 11, counted from 1
    assert torch.equal(chain.x, torch.stack([walk[i][0].x for i in kept]))
    assert torch.equal(chain.energy, torch.stack([walk[i][0].energy for i in kept]))
    assert torch.equal(chain.energy_error, torch.stack([walk[i][1].energy_error for i in kept]))
    assert torch.equal(chain.hamiltonian, torch.stack([walk[i][1].hamiltonian for i in kept]))
    assert all(torch.equal(a, b) for a, b in zip(leaves(chain.state), leaves(state), strict=True))
    averages = chain.accept_prob, chain.drift, chain.noise
    for each, i in zip(averages, (0, 3, 4), strict=True):
        assert torch.allclose(each, totals[i] / steps, rtol=1e-12)
    assert torch.equal(chain.diverged.double(), totals[2])


@pytest.mark.parametrize("settings", [{"steps": 0}, {"steps": 5, "burn_in": 5}, {"steps": 5, "thin": 0},
                                      {"steps": 5, "burn_in": -1}, {"steps": 3, "thin": 4}])  # fmt: skip
def test_sample_refuses_to_keep_nothing(settings):
    kernel = Langevin(cases.correlated().energy, step_size=0.1)
    with pytest.raises(ValueError, match="steps"):
        sample(kernel, cases.normal(2, 2), **settings)


def test_run_takes_at_least_one_step():
    with pytest.raises(ValueError, match="at least 1"):
        run(Langevin(cases.correlated().energy, step_size=0.1), cases.normal(2, 2), steps=0)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan])
@pytest.mark.parametrize("name", ["langevin", "mala", "hmc", "underdamped", "gd", "annealed"])
def test_settings_are_positive(name, bad):
    rest = {"hottest": 2.0, "anneal_steps": 5} if name == "annealed" else {}
    with pytest.raises(ValueError, match="step_size"):
        KERNELS[name](torch.sum, step_size=bad, **rest)
    if name != "gd" and (bad != 0 or name not in ("langevin", "underdamped")):
        with pytest.raises(ValueError, match="temperature"):
            KERNELS[name](torch.sum, step_size=1.0, temperature=bad, **rest)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("hmc", {"leapfrog_steps": 0}),
        ("hmc", {"jitter": 1.0}),
        ("hmc", {"jitter": -0.1}),
        ("hmc", {"scale": torch.tensor([1.0, 0.0])}),
        ("hmc", {"scale": torch.tensor([1.0, math.inf])}),
        ("langevin", {"drift_clip": 0.0}),
        ("langevin", {"bounds": (1.0, 1.0)}),
        ("gd", {"drift_clip": -1.0}),
        ("gd", {"bounds": (1.0, -1.0)}),
        ("underdamped", {"friction": 0.0}),
        ("annealed", {"anneal_steps": 0, "hottest": 2.0}),
        ("annealed", {"hottest": 0.5, "anneal_steps": 3}),
        ("annealed", {"hottest": math.inf, "anneal_steps": 3}),
        ("annealed", {"bounds": (1.0, -1.0), "hottest": 2.0, "anneal_steps": 3}),
    ],
)
def test_what_else_a_setting_may_not_be(name, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        KERNELS[name](torch.sum, step_size=1.0, **settings)


def test_a_scale_is_of_the_shape_of_an_event():
    kernel = HMC(cases.image().energy, step_size=0.1, scale=torch.ones(16))
    with pytest.raises(ValueError, match=r"event's shape \(1, 4, 4\); it was \(16,\)"):
        kernel.init(cases.normal(2, 1, 4, 4))
    with pytest.raises(ValueError, match=r"event's shape \(3,\); it was \(2, 2\)"):
        HMC(cases.gumbel().energy, step_size=0.1, scale=torch.eye(2)).init(cases.normal(2, 3))
    with pytest.raises(ValueError, match=r"event's shape \(2, 3\); it was \(3, 3\)"):
        HMC(torch.sum, step_size=0.1, scale=torch.ones(3, 3)).init(cases.normal(2, 2, 3))


@pytest.mark.parametrize("scale", [[[1.0, 2.0], [-0.1, 1.0]], [[1.0, 0.0], [0.5, -1.0]], [[math.inf, 0.0], [1.0, 1.0]]])
def test_a_scale_that_is_a_matrix_is_a_lower_triangle(scale):
    with pytest.raises(ValueError, match="lower triangle"):
        HMC(torch.sum, step_size=0.1, scale=torch.tensor(scale))


def test_a_scale_of_events_with_two_dimensions_is_no_triangle():
    # Read as a triangle its diagonal would be positive, and yet a coordinate would stand still.
    for shape, scale in [((2, 1), [[1.0], [0.0]]), ((2, 2), [[1.0, 0.0], [1.0, 1.0]]), ((1, 2), [[1.0, 0.0]])]:
        with pytest.raises(ValueError, match="scale is a standard deviation a coordinate"):
            HMC(cases.Quadratic(1.0), step_size=0.1, scale=cases.tensor(scale)).init(cases.normal(4, *shape))
    kernel = HMC(cases.Quadratic(1.0), step_size=0.5, scale=cases.tensor([[1.0], [2.0]]))
    x = cases.normal(4096, 2, 1)
    assert (run(kernel, x, steps=1, generator=cases.generator())[0].x != x).any(0).all()
    triangle = HMC(cases.Quadratic(1.0), step_size=0.5, scale=cases.tensor([[1.0, 0.0], [1.0, 2.0]]))
    assert run(triangle, cases.normal(8, 2), steps=1, generator=cases.generator())[0].x.shape == (8, 2)


def test_what_kernels_say_of_their_temperature():
    for name, make in cases.KERNELS.items():
        assert make(0.1)(torch.sum).temperature == (0 if name == "gd" else 1), name
        if name != "gd":
            assert make(0.1, temperature=0.3)(torch.sum).temperature == 0.3, name


# --- truth: exact kernels ---------------------------------------------------------------------------------------------


def statistics(x, e, median):
    x = x.flatten(1)
    yield from x.T
    yield from x.square().T
    yield x[:, 0] * x[:, 1]
    yield e
    yield (e < median).double()


def moments(x):
    """Antisymmetric pairs for detailed balance: g(x_0, x_1) - g(x_1, x_0) has mean zero."""
    x = x.flatten(1)
    return [x[:, 0], x[:, 1].square(), x[:, 0].sin(), (x[:, 0] > x[:, 0].median()).double()]


def begin(kernel, target, n, generator):
    """Returns draws from the target and the state of chains there; replicas of each level are drawn from its law."""
    if isinstance(kernel, ParallelTempering):
        x = torch.stack([target.sample(n, factor, generator=generator) for factor in kernel.temperatures])
        return x[0], kernel.place(x)
    x = target.sample(n, generator=generator)
    return x, kernel.init(x)


def assert_invariant(factory, target, temperature, n, accept, seed=7):
    hot = lambda x: temperature * target.energy(x)  # noqa: E731 - exp(-T E / T) is the target again
    kernel = factory(hot)
    x0, state = begin(kernel, target, n, cases.generator(seed))
    e0 = target.energy(x0)
    stream = cases.generator(seed + 1)
    for k in range(1, 6):
        state, info = kernel.step(state, generator=stream)
        if k == 1:
            g0, g1 = moments(x0), moments(state.x)
            for i, j in [(0, 1), (0, 2), (1, 2), (1, 3)]:
                assert abs(cases.z_score(g0[i] * g1[j] - g1[i] * g0[j])) < 5, f"detailed balance {i}, {j}"
        if k in (1, 5):
            before = statistics(x0, e0, e0.median())
            after = statistics(state.x, target.energy(state.x), e0.median())
            worst = max(abs(cases.z_score(b - a)) for a, b in zip(before, after, strict=True))
            assert worst < 5, f"after {k} steps"
    # Without rejections, and without moves, the test would have no power.
    assert accept[0] < float(info.accept_prob.mean()) < accept[1]
    return kernel, state


@pytest.mark.parametrize("target", cases.TARGETS)
@pytest.mark.parametrize("temperature", [1.0, pytest.param(0.4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", cases.EXACT)
def test_invariance(name, target, temperature):
    law = cases.TARGETS[target]()
    # η and ε are in units of the law, and the energy is T times it: η' = η / T, ε' = ε (time scales with √T).
    scale = law.scale * (1.7 if "hmc" in name else 1.4) / math.sqrt(temperature)
    factory = cases.KERNELS[name](scale, temperature=temperature)
    n = N // 8 if target == "stiff" else N
    kernel, state = assert_invariant(factory, law, temperature, n, accept=(0.2, 0.97))
    if isinstance(kernel, ParallelTempering) and target != "stiff":  # of whose 100 dimensions levels hardly overlap
        assert float(kernel.exchange_rates(state).min()) > 0.2


@pytest.mark.parametrize("target", ["correlated", "uneven", "gumbel"])
@pytest.mark.parametrize("name", cases.EXACT)
def test_invariance_in_the_cold(name, target):
    law = cases.TARGETS[target]()
    factory = cases.KERNELS[name](law.scale * (1.7 if "hmc" in name else 1.4) / math.sqrt(0.4), temperature=0.4)
    assert_invariant(factory, law, 0.4, N // 4, accept=(0.2, 0.97))


@pytest.mark.parametrize("temperature", [1.0, 0.4])
@pytest.mark.parametrize("target", ["correlated", "image"])
def test_invariance_under_a_scale(target, temperature):
    law = cases.TARGETS[target]()
    x = law.sample(2, generator=cases.generator())
    scale = torch.linspace(0.6, 1.6, x[0].numel(), dtype=torch.float64, device=cases.DEVICE).reshape(x[0].shape)
    if target == "correlated":
        scale = scale.diag() + 0.7 * torch.ones_like(scale.diag()).tril(-1)
    settings = {"step_size": 1.5 * law.scale / math.sqrt(temperature), "leapfrog_steps": 4, "temperature": temperature}
    factory = functools.partial(HMC, scale=scale, jitter=0.3, **settings)
    assert_invariant(factory, law, temperature, N, accept=(0.2, 0.97))


@pytest.mark.parametrize("name", cases.EXACT)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_region_without_numbers_is_a_wall(name, bad):
    """Rejecting what is not finite leaves the law restricted to the rest; mapping it to zero, say, does not."""

    def energy(x):
        return torch.where(x[:, 0] > 0.7, torch.full_like(x[:, 0], bad), x.square().sum(1) / 2)

    def truncated(n, factor=1.0, *, generator):
        # The normal law below 0.7, by inversion.
        u = torch.rand(n, 2, generator=generator, dtype=torch.float64, device=cases.DEVICE)
        low = u[:, 0] * torch.special.ndtr(cases.tensor(0.7 / factor**0.5))
        return factor**0.5 * torch.special.ndtri(torch.stack([low, u[:, 1]], 1))

    target = cases.Target(lambda x: x.square().sum(1) / 2, truncated, 0.7)
    kernel = cases.KERNELS[name](0.8)
    assert_invariant(lambda _: kernel(energy), target, 1.0, N, accept=(0.4, 0.97))
    x, info = run(kernel(energy), truncated(N, generator=cases.generator()), steps=3, generator=cases.generator(1))
    assert float(x.x[:, 0].max()) <= 0.7
    assert x.x.unique(dim=0).shape == (N, 2)  # no atoms
    assert int(info.diverged.sum()) > N / 20


def test_the_invariance_test_has_power():
    """A negative control: the same test fails for a Langevin step without a Metropolis test."""
    law = cases.correlated()
    with pytest.raises(AssertionError):
        assert_invariant(cases.KERNELS["langevin"](0.7), law, 1.0, N, accept=(0.0, 2.0))


@pytest.mark.parametrize("target", ["correlated", "gumbel"])
@pytest.mark.parametrize("name", cases.EXACT)
def test_chains_arrive(name, target):
    law = cases.TARGETS[target]()
    chains = 192
    d = law.sample(1, generator=cases.generator()).shape[1]
    spread = torch.rand(chains, d, generator=cases.generator(5), dtype=torch.float64, device=cases.DEVICE)
    kernel = cases.KERNELS[name](law.scale * 1.3)(law.energy)
    kept = sample(kernel, 8 * spread - 3, steps=300, burn_in=150, generator=cases.generator(6)).x
    if target == "correlated":
        mean, second = [1.0, -2.0], [2.0, 6.0]
    else:  # Euler's constant, and the variance π² / 6
        mean, second = [0.5772156649015329] * 3, [0.5772156649015329**2 + math.pi**2 / 6] * 3
    for i in range(d):  # chains are independent: the standard error is that of their averages
        assert abs(cases.z_score(kept[:, :, i].mean(0), mean[i])) < 5
        assert abs(cases.z_score(kept[:, :, i].square().mean(0), second[i])) < 5


# --- truth: Langevin --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3,), (1, 1, 3)])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("step_size", [0.05, 0.4])
def test_langevin_keeps_its_own_biased_law(step_size, temperature, shape):
    v = cases.tensor([0.5, 1.0, 2.0]).reshape(shape)
    kernel = Langevin(lambda x: (x.square() / (2 * v)).flatten(1).sum(1), step_size=step_size, temperature=temperature)
    law = temperature * v / (1 - step_size / (2 * v))
    x0 = law.sqrt() * cases.normal(N, *shape, seed=1)
    for k in (1, 5):
        state, info = run(kernel, x0, steps=k, generator=cases.generator(2))
        for before, after, variance in zip(x0.flatten(1).T, state.x.flatten(1).T, law.flatten(), strict=True):
            assert abs(cases.z_score(after)) < 5
            assert abs(cases.z_score(after.square(), float(variance))) < 5
            assert abs(cases.z_score(after.square() - before.square())) < 5
        # Both are in units of x: E[noise²] = 2 η T, and the drift is η s.
        assert abs(cases.z_score((info.noise / k).square(), 2 * step_size * temperature)) < 5 or k > 1
    _, info = kernel.step(kernel.init(x0), generator=cases.generator(2))
    drift = (step_size * x0 / v).flatten(1).square().mean(1).sqrt()
    assert torch.allclose(info.drift, drift, rtol=1e-12)


def test_langevin_arrives_at_its_biased_law():
    v, step_size = 1.0, 0.3
    kernel = Langevin(lambda x: x.square().sum(1) / (2 * v), step_size=step_size)
    state, _ = run(kernel, torch.full((N, 2), 3.0, dtype=torch.float64, device=cases.DEVICE), steps=60,
                   generator=cases.generator(3))  # fmt: skip
    # 0.7^60 of the start is left, 5e-10.
    for x in state.x.T:
        assert abs(cases.z_score(x)) < 5
        assert abs(cases.z_score(x.square(), v / (1 - step_size / (2 * v)))) < 5


def test_the_bias_is_per_chain_whatever_the_batch():
    """A drift clipped over the whole batch, as peers have it, would depend on the number of chains."""
    kernel = Langevin(lambda x: 50 * x.square().sum(1), step_size=0.01, drift_clip=0.2)
    x = cases.normal(512, 2)
    z = kernel.draw(x, generator=cases.generator(1))
    many, _ = kernel.move(kernel.init(x), z)
    few, _ = kernel.move(kernel.init(x[:3]), (z[0][:3],))
    assert torch.equal(many.x[:3], few.x)


def test_cold_langevin_is_gradient_descent():
    kernel = Langevin(lambda x: 2 * x.square().sum(1), step_size=0.1, temperature=0.0)
    x = cases.normal(4, 2)
    state, info = run(kernel, x, steps=7, generator=cases.generator())
    assert torch.allclose(state.x, x * (1 - 0.4) ** 7, rtol=1e-12)
    assert torch.equal(info.noise, torch.zeros_like(info.noise))


def test_clip_and_bounds_do_what_they_say():
    slope = cases.tensor([1000.0, -0.5])
    x = cases.tensor([[0.0, 0.0], [0.4, 0.4], [-0.95, 0.2]])
    z = cases.normal(3, 2)
    settings = {"step_size": 0.1, "drift_clip": 0.2}

    def energy(x):
        return x @ slope

    free = Langevin(energy, **settings)
    moved, info = free.move(free.init(x), (z,))
    drift = cases.tensor([-0.2, 0.05])  # -100 is clipped, element by element; 0.05 is not
    assert torch.allclose(moved.x, x + drift + 0.2**0.5 * z, rtol=1e-12)
    assert torch.allclose(info.drift, drift.square().mean().sqrt().expand(3))
    bounded = Langevin(energy, **settings, bounds=(-1.0, 0.5), walls="clamp")
    within, _ = bounded.move(bounded.init(x), (z,))
    assert torch.equal(within.x, moved.x.clamp(-1.0, 0.5))
    assert torch.equal(within.energy, energy(within.x))


# --- truth: HMC -------------------------------------------------------------------------------------------------------


def flown(kernel, start, v0):
    """Returns where a trajectory of given velocities ends; what else it draws is made of halves."""
    half = torch.full((len(v0),), 0.5, dtype=v0.dtype, device=v0.device)
    *_, end = kernel.trajectory(start, (v0, half, half))
    return end


@pytest.mark.parametrize("target", SMOOTH)
def test_the_leapfrog_map_is_its_own_inverse_with_the_momentum_flipped(target):
    law = cases.TARGETS[target]()
    kernel = HMC(law.energy, step_size=law.scale, leapfrog_steps=13)
    start = kernel.init(law.sample(50, generator=cases.generator(1)))
    v0 = cases.normal(*start.x.shape, seed=2)
    there, v = flown(kernel, start, v0)
    assert float((there.x - start.x).abs().max()) > 0.5
    back, w = flown(kernel, there, -v)
    assert float((back.x - start.x).abs().max()) < 1e-10
    assert float((w + v0).abs().max()) < 1e-10


@pytest.mark.parametrize("target", SMOOTH)
def test_leapfrog_is_of_second_order(target):
    law = cases.TARGETS[target]()
    start = evaluate_at(law.energy, law.sample(2000, generator=cases.generator(1)))
    v0 = cases.normal(*start.x.shape, seed=2)

    def error(steps):
        end, v = flown(HMC(law.energy, step_size=0.5 / steps, leapfrog_steps=steps), start, v0)
        change = end.energy - start.energy + (v.square() - v0.square()).flatten(1).sum(1) / 2
        return float(change.square().mean().sqrt())

    assert error(16) / error(32) == pytest.approx(4, abs=0.3)


def test_the_leapfrog_map_keeps_volume():
    law = cases.uneven()
    kernel = HMC(law.energy, step_size=0.4, leapfrog_steps=3)
    place, h = cases.tensor([0.3, 0.8, 1.1, -0.4]), 1e-5

    def through(xv):
        end, v = flown(kernel, evaluate_at(law.energy, xv[None, :2]), xv[None, 2:])
        return torch.cat([end.x[0], v[0]])

    columns = [(through(place + h * e) - through(place - h * e)) / (2 * h) for e in torch.eye(4).to(place)]
    # Central differences: error of order h² = 1e-10, and rounding of 1e-16 / h.
    assert float(torch.linalg.det(torch.stack(columns, 1))) == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("leapfrog_steps", [1, 4, 10])
def test_a_transition_costs_as_many_gradients_as_leapfrog_steps(leapfrog_steps):
    energy = cases.Counted(cases.correlated().energy)
    kernel = HMC(energy, step_size=0.3, leapfrog_steps=leapfrog_steps)
    run(kernel, cases.normal(5, 2), steps=6, generator=cases.generator())
    assert energy.calls == 1 + 6 * leapfrog_steps


@pytest.mark.parametrize("kernel", [Langevin, MALA])
def test_a_langevin_step_costs_one_gradient(kernel):
    energy = cases.Counted(cases.correlated().energy)
    run(kernel(energy, step_size=0.1), cases.normal(5, 2), steps=6, generator=cases.generator())
    assert energy.calls == 1 + 6


@pytest.mark.parametrize(
    "scale", [[0.5, 1.0, 3.0], [[0.5, 0.0, 0.0], [-2.0, 1.0, 0.0], [0.3, 1.1, 3.0]]], ids=["coordinates", "matrix"]
)
def test_a_scale_is_a_change_of_units(scale):
    """In units of the scale it is the same chain without one."""
    law, settings = cases.gumbel(), {"step_size": 0.5, "leapfrog_steps": 3, "temperature": 0.7, "jitter": 0.4}
    scale = cases.tensor(scale)
    matrix = scale if scale.ndim == 2 else scale.diag()
    scaled = HMC(law.energy, scale=scale, **settings)
    plain = HMC(lambda y: law.energy(y @ matrix.T), **settings)
    x = law.sample(50, generator=cases.generator(1))
    one, sums = run(scaled, x, steps=4, generator=cases.generator(2))
    two, info = run(plain, torch.linalg.solve(matrix, x.T).T, steps=4, generator=cases.generator(2))
    assert torch.allclose(one.x, two.x @ matrix.T, rtol=1e-9)
    assert torch.allclose(sums.energy_error, info.energy_error, rtol=1e-6, atol=1e-9)
    single = scaled.init(x.float())
    assert scaled.step(single, generator=cases.generator(3))[0].x.dtype == torch.float32


@pytest.mark.parametrize("name", ["mala", "hmc", "hmc:jittered"])
def test_the_energy_error_is_the_change_of_the_hamiltonian_over_the_temperature(name):
    law, temperature = cases.gumbel(), 0.6
    kernel = cases.KERNELS[name](1.1 * law.scale, temperature=temperature)(law.energy)
    state = kernel.init(law.sample(200, generator=cases.generator(1)))
    randomness = kernel.draw(state.x, generator=cases.generator(2))
    _, info = kernel.move(state, randomness)
    v0 = temperature**0.5 * randomness[0]
    assert torch.allclose(info.hamiltonian, state.energy + v0.square().sum(1) / 2)
    if name == "mala":  # one leapfrog step of length √(2 η)
        kernel = HMC(law.energy, step_size=(2 * kernel.step_size) ** 0.5, leapfrog_steps=1, temperature=temperature)
    *_, (end, v) = kernel.trajectory(state, randomness)
    error = (end.energy + v.square().sum(1) / 2 - info.hamiltonian) / temperature
    assert torch.allclose(info.energy_error, error, rtol=1e-7, atol=1e-10)
    assert torch.allclose(info.accept_prob, (-error).exp().clamp(max=1))
    assert float(error.abs().max()) > 0.1


def test_one_leapfrog_step_is_a_mala_step():
    """With ε² / 2 = η the two propose the same points and accept them with the same probability."""
    law, epsilon, temperature = cases.gumbel(), 0.8, 0.6
    hmc = HMC(law.energy, step_size=epsilon, leapfrog_steps=1, temperature=temperature)
    mala = MALA(law.energy, step_size=epsilon**2 / 2, temperature=temperature)
    state = hmc.init(law.sample(200, generator=cases.generator(1)))
    randomness = hmc.draw(state.x, generator=cases.generator(2))
    (x, one), (y, two) = hmc.move(state, randomness), mala.move(state, randomness)
    assert torch.allclose(one.accept_prob, two.accept_prob, rtol=1e-9)
    assert torch.allclose(x.x, y.x, rtol=1e-12)
    assert float(one.accept_prob.min()) < 0.9
    # Their accounts agree too: drift η s, noise √(2 η T) z.
    assert torch.allclose(one.drift, two.drift, rtol=1e-9)
    assert torch.allclose(one.noise, two.noise, rtol=1e-9)


# --- what is not finite -----------------------------------------------------------------------------------------------


class Cliff(torch.autograd.Function):
    """The identity, with a gradient that is not finite in some rows."""

    @staticmethod
    def forward(ctx, x, rows, bad):
        ctx.rows, ctx.bad = rows, bad
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.clone()
        gradient[ctx.rows] = ctx.bad
        return gradient, None, None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["energy", "gradient"])
@pytest.mark.parametrize("name", ["langevin", "mala", "hmc", "hmc:jittered", "underdamped", "annealed"])
def test_a_bad_proposal_is_rejected_counted_and_not_noticed_by_others(name, bad, where):
    shape = (1, 2, 2)

    def clean(x):
        return x.flatten(1).square().sum(1) / 2

    def holed(x):
        beyond = x.flatten(1)[:, 0] > 2
        if where == "energy":
            return torch.where(beyond, torch.full_like(clean(x), bad), clean(x))
        return clean(Cliff.apply(x, beyond, bad))

    factory = cases.KERNELS[name](0.5)
    x = 0.3 * cases.normal(6, *shape)
    x[2] = 0.0
    x[2, 0, 0, 0] = 1.9
    good, trapped = factory(clean), factory(holed)
    state = trapped.init(x)
    randomness = list(trapped.draw(x, generator=cases.generator(5)))
    randomness[0] = randomness[0].clamp(-1, 1)
    randomness[0][2] = 2.0  # straight into the hole
    new, info = trapped.move(state, tuple(randomness))
    truth, result = good.move(good.init(x), tuple(randomness))
    assert info.diverged.tolist() == [i == 2 for i in range(6)]
    assert not info.accepted[2]
    assert float(info.accept_prob[2]) == 0
    assert torch.equal(new.x[2], x[2])
    assert torch.equal(new.energy[2], state.energy[2])
    assert torch.equal(new.score[2], state.score[2])
    others = [0, 1, 3, 4, 5]
    for a, b in zip((*new[:3], *info), (*truth[:3], *result), strict=True):
        assert torch.equal(a[others], b[others])


@pytest.mark.parametrize("name", cases.KERNELS)
def test_a_chain_that_starts_at_nan_stays_alone(name):
    kernel = cases.KERNELS[name](0.5)(cases.correlated().energy)
    x = cases.normal(6, 2)
    sick = x.clone()
    sick[1] = math.nan
    healthy, _ = run(kernel, x, steps=5, generator=cases.generator())
    mixed, info = run(kernel, sick, steps=5, generator=cases.generator())
    others = [0, 2, 3, 4, 5]
    assert torch.equal(healthy.x[others], mixed.x[others])
    assert info.diverged.tolist() == [0, 5, 0, 0, 0, 0]


def test_leaving_an_infinite_energy_is_certain_and_entering_one_impossible():
    point = evaluate_at(lambda x: x.square().sum(1), cases.normal(3, 2))
    high = point._replace(energy=torch.full_like(point.energy, math.inf))
    u = cases.tensor([0.0, 0.5, 0.999])
    _, accept_prob, accepted, diverged = metropolis(high, point, high.energy - point.energy, u)
    assert accept_prob.tolist() == [1, 1, 1]
    assert accepted.all()
    assert not diverged.any()
    _, accept_prob, accepted, diverged = metropolis(point, high, point.energy - high.energy, u)
    assert accept_prob.tolist() == [0, 0, 0]
    assert not accepted.any()
    assert diverged.all()


def test_a_ratio_that_is_no_number_is_a_divergence():
    # Every part of the proposal is finite: infinite energies on both sides, say, leave no number.
    here = evaluate_at(cases.gumbel().energy, cases.normal(3, 3))
    there = evaluate_at(cases.gumbel().energy, cases.normal(3, 3, seed=1))
    ratio = cases.tensor([math.nan, 0.0, -math.inf])
    point, accept_prob, accepted, diverged = metropolis(here, there, ratio, cases.tensor([0.0, 0.5, 0.0]))
    assert diverged.tolist() == [True, False, False]
    assert accept_prob.tolist() == [0, 1, 0]
    assert accepted.tolist() == [False, True, False]
    assert torch.equal(point.x, torch.stack([here.x[0], there.x[1], here.x[2]]))


def test_the_metropolis_test_accepts_with_its_probability():
    n = 2**15
    x = torch.zeros(n, 1, dtype=torch.float64, device=cases.DEVICE)
    point = evaluate_at(lambda x: x.sum(1), x)
    ratio = torch.full((n,), math.log(0.3), dtype=torch.float64, device=cases.DEVICE)
    u = torch.rand(n, generator=cases.generator(), dtype=torch.float64, device=cases.DEVICE)
    new, accept_prob, accepted, _ = metropolis(point, point._replace(x=x + 1), ratio, u)
    assert torch.allclose(accept_prob, torch.full_like(ratio, 0.3))
    assert abs(cases.z_score(accepted, 0.3)) < 5
    assert torch.equal(new.x[:, 0] == 1, accepted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "temperature", "stretch"),
    [(name, t, stretch) for name in ("mala", "hmc") for t in (1.0, 0.4, 2.5) for stretch in (0.7, 1.4)]
    + [(name, 2.5, 1.2) for name in cases.EXACT if name not in ("mala", "hmc")],
)
@pytest.mark.parametrize("target", SMOOTH)
@pytest.mark.parametrize("n", [3, 2**17])
def test_invariance_at_length(name, target, temperature, stretch, n):
    if n < 100:  # few chains a batch, many batches: nothing may depend on the size of a batch
        law = cases.TARGETS[target]()
        kernel = cases.KERNELS[name](law.scale, temperature=1.0)(law.energy)
        stream = cases.generator(1)
        changes = []
        for _ in range(2000):
            x0, state = begin(kernel, law, n, stream)
            for _ in range(2):
                state, _ = kernel.step(state, generator=stream)
            changes.append(state.energy - law.energy(x0))
        assert abs(cases.z_score(torch.cat(changes))) < 5
        return
    law = cases.TARGETS[target]()
    factory = cases.KERNELS[name](law.scale * stretch / math.sqrt(temperature), temperature=temperature)
    assert_invariant(factory, law, temperature, n, accept=(0.1, 0.999))


def test_factories_are_partials_of_registered_kernels():
    for name, make in cases.KERNELS.items():
        factory = make(0.1)
        assert isinstance(factory, functools.partial)
        assert factory.func is KERNELS[name.split(":")[0]]
