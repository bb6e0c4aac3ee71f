"""Parallel tempering: exchanges on exact draws of every level, and modes that only it finds."""

import functools
import math

import pytest
import torch

import cases
from energyscape.errors import UserError
from energyscape.registry import build
from energyscape.samplers import HMC, KERNELS, MALA, Langevin, ParallelTempering, run, sample

N = 2**14


def slope(x):
    """An energy that is the first coordinate, so that a test chooses it."""
    return x[:, 0]


def still(energy, temperatures, *, temperature=1.0, **settings):
    """Replicas whose own steps are too short to matter: only the exchanges move anything."""
    inner = functools.partial(MALA, step_size=1e-18, temperature=temperature)
    return ParallelTempering(energy, inner, temperatures=temperatures, **settings)


@pytest.mark.parametrize("temperature", [1.0, 0.4])
@pytest.mark.parametrize("name", ["correlated", "gumbel", "uneven", "funnel", "image"])
def test_exchanges_alone_keep_every_level(name, temperature):
    target, factors = cases.TARGETS[name](), (1.0, 1.5, 2.7)
    kernel = still(lambda x: temperature * target.energy(x), factors, temperature=temperature)
    x = torch.stack([target.sample(N, each, generator=cases.generator(i)) for i, each in enumerate(factors)])
    state, stream = kernel.place(x), cases.generator(9)
    level = torch.tensor(factors).to(x).sqrt().view(-1, *[1] * (x.ndim - 1))
    for k in range(1, 6):
        state, _ = kernel.step(state, generator=stream)
        if k in (2, 5):  # after the first each pair has had its turn
            now = level * state.inner.x.view(x.shape)
            for before, after in zip(x, now, strict=True):
                e0, e1 = target.energy(before), target.energy(after)
                for f in (lambda x, e: e, lambda x, e: x.flatten(1)[:, 0], lambda x, e: x.flatten(1)[:, 1].square()):
                    assert abs(cases.z_score(f(after, e1) - f(before, e0))) < 5
                assert abs(cases.z_score((e1 < e0.median()).double() - (e0 < e0.median()).double())) < 5
    # Some replicas moved, and none was lost.
    rates = kernel.exchange_rates(state)
    assert float(rates.min()) > 0.1
    assert float((state.x - x[0]).flatten(1).abs().amax(1).gt(1e-6).double().mean()) > 0.2
    torch.testing.assert_close(target.energy(now.flatten(0, 1)).sort()[0], target.energy(x.flatten(0, 1)).sort()[0])


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("factor", [1.5, 4.0])
def test_the_rate_of_exchanges_is_known_in_the_plane(factor, temperature):
    """There E / T is exponential of mean τ, and E[min(1, ratio)] = 2 P(E_cold > E_hot) = 2 / (1 + τ)."""
    kernel = still(lambda x: temperature * x.square().sum(1) / 2, (1.0, factor), temperature=temperature)
    x = torch.stack([cases.normal(N, 2), factor**0.5 * cases.normal(N, 2, seed=1)])
    state = kernel.place(x)
    state, _ = kernel.step(state, generator=cases.generator(2))
    assert not state.offered.any()  # pair (0, 1) has its turn at every second step
    state, _ = kernel.step(state, generator=cases.generator(3))
    assert abs(cases.z_score(state.exchanged[0], 2 / (1 + factor))) < 5
    assert float(kernel.exchange_rates(state)[0]) == pytest.approx(float(state.exchanged.mean()))


@pytest.mark.parametrize("swap_every", [1, 2, 3])
def test_pairs_take_turns(swap_every):
    # Energies that fall with the level: every exchange that is offered is certain.
    kernel = still(slope, (1.0, 2.0, 3.0, 4.0), swap_every=swap_every)
    state = kernel.place(cases.tensor([[[40.0]], [[30.0]], [[20.0]], [[10.0]]]))
    factors, order = cases.tensor([1.0, 2.0, 3.0, 4.0]), [40.0, 30.0, 20.0, 10.0]
    for k in range(1, 3 * swap_every + 1):
        below = k // swap_every % 2
        if k % swap_every == 0:
            for i in range(below, 3, 2):
                if order[i] > order[i + 1]:
                    order[i], order[i + 1] = order[i + 1], order[i]
        state, _ = kernel.step(state, generator=cases.generator(k))
        assert torch.allclose(state.inner.energy * factors, cases.tensor(order))
        assert torch.allclose(state.inner.x[:, 0] * factors.sqrt(), cases.tensor(order))
        assert float(state.energy) == pytest.approx(order[0])
        assert torch.allclose(state.inner.score[:, 0] * factors.sqrt(), cases.tensor([-1.0] * 4))
    assert state.offered.tolist() == [1, 2, 1]


def test_an_exchange_has_its_probability():
    # (β_0 - β_1)(E_0 - E_1) / T = (1 - 1/2)(1 - 1.6) / 0.5 = -0.6.
    kernel = still(slope, (1.0, 2.0), temperature=0.5)
    x = cases.tensor([1.0, 1.6]).view(2, 1, 1).expand(2, N, 1)
    state = kernel.place(x)._replace(steps=torch.ones((), dtype=torch.long))
    state, _ = kernel.step(state, generator=cases.generator())
    assert torch.allclose(state.exchanged, torch.full_like(state.exchanged, math.exp(-0.6)))
    assert abs(cases.z_score(state.x[:, 0] > 1.3, math.exp(-0.6))) < 5


def test_levels_solve_one_problem_on_a_normal_law():
    """In units of √τ all levels accept alike, with one step size."""
    kernel = ParallelTempering(
        lambda x: x.square().sum(1) / 2, functools.partial(HMC, step_size=1.3, leapfrog_steps=2), temperatures=(1, 9)
    )
    x = torch.stack([cases.normal(N, 5), 3 * cases.normal(N, 5, seed=1)])
    state = kernel.place(x)
    _, info = kernel._inner(kernel._levels(state.inner.x)).step(state.inner, generator=cases.generator(2))
    cold, hot = info.accept_prob.view(2, N)
    assert abs(cases.z_score(cold - hot)) < 5
    assert float(cold.mean()) < 0.9


def test_what_is_told_is_of_the_coldest_level():
    factory = functools.partial(HMC, step_size=0.9, leapfrog_steps=2)
    kernel = ParallelTempering(cases.correlated().energy, factory, temperatures=(1.0, 2.0))
    state = kernel.init(cases.normal(6, 2))
    *rest, _ = kernel.draw(state.x, generator=cases.generator(1))
    _, info = kernel.step(state, generator=cases.generator(1))
    plain = factory(cases.correlated().energy)
    _, truth = plain.move(plain.init(state.x), tuple(each[:6] for each in rest))
    for a, b in zip(info, truth, strict=True):
        torch.testing.assert_close(a, b)


def test_a_bad_proposal_is_counted_at_any_level_and_stays_its_chains():
    def energy(x):
        return torch.where(x[:, 0] > 2, torch.nan, x.square().sum(1) / 2)

    kernel = ParallelTempering(energy, functools.partial(MALA, step_size=0.1), temperatures=(1.0, 2.0), swap_every=2)
    x = torch.zeros(2, 4, 2, dtype=torch.float64, device=cases.DEVICE)
    x[1, 2, 0] = 1.95  # the hot replica of chain 2 stands at the wall
    state = kernel.place(x)
    z, uniform, exchange = kernel.draw(state.x, generator=cases.generator(5))
    z = z.clamp(-1, 1)
    z[4 + 2] = 3.0
    new, info = kernel.move(state, (z, uniform, exchange))
    assert info.diverged.tolist() == [False, False, True, False]
    assert torch.equal(new.inner.x[4 + 2], state.inner.x[4 + 2])
    assert new.x.isfinite().all()


def crossing(kernel, steps):
    """Shares of eight modes after a start in one of them, chain by chain."""
    law = cases.eight_modes()
    x = law.means[:1] + 0.3 * cases.normal(256, 2)
    chain = sample(kernel(law), x, steps=steps, burn_in=steps // 2, thin=5, generator=cases.generator(1))
    mode = (chain.x.unsqueeze(-2) - law.means).square().sum(-1).argmin(-1)
    return torch.nn.functional.one_hot(mode, 8).double().mean(0), chain


def test_replicas_cross_where_one_chain_does_not():
    """Modes 13 deviations apart, from a start in one: the weights of all eight are right within their errors."""
    inner = functools.partial(MALA, step_size=0.05)
    factory = functools.partial(ParallelTempering, kernel=inner, temperatures=(1.0, 3.0, 9.0, 27.0, 81.0))
    shares, chain = crossing(factory, 800)
    for each in shares.T:
        assert abs(cases.z_score(each, 1 / 8)) < 5
    kernel = factory(cases.eight_modes())
    assert float(kernel.exchange_rates(chain.state).min()) > 0.2
    assert int(chain.state.steps) == 800
    alone, _ = crossing(inner, 800)
    assert float(alone[:, 0].min()) == 1


def test_a_recipe_builds_it():
    factory = build(
        KERNELS,
        "tempering",
        {"kernel": {"name": "hmc", "step_size": 0.2, "leapfrog_steps": 3}, "temperatures": [1, 2.5], "swap_every": 4},
    )
    kernel = factory(cases.correlated().energy)
    assert kernel.temperatures == (1.0, 2.5)
    assert kernel.kernel(torch.sum) == HMC(torch.sum, step_size=0.2, leapfrog_steps=3)
    state, _ = run(kernel, cases.normal(3, 2), steps=2, generator=cases.generator())
    assert state.inner.x.shape == (6, 2)
    with pytest.raises(UserError, match="needs a value for 'kernel'"):
        build(KERNELS, "tempering", {})
    with pytest.raises(UserError, match="needs a value for 'step_size'"):
        build(KERNELS, "tempering", {"kernel": "mala"})


@pytest.mark.parametrize(
    "settings",
    [
        {"temperatures": (1.0,)},
        {"temperatures": (2.0, 3.0)},
        {"temperatures": (1.0, 3.0, 2.0)},
        {"temperatures": (1.0, math.nan)},
        {"temperatures": (1.0, math.inf)},
        {"swap_every": 0},
    ],
)
def test_what_it_refuses(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        ParallelTempering(torch.sum, functools.partial(MALA, step_size=0.1), **settings)


def test_the_inner_kernel_is_of_single_chains_and_warm():
    mala = functools.partial(MALA, step_size=0.1)
    with pytest.raises(UserError, match="single chains"):
        ParallelTempering(torch.sum, functools.partial(ParallelTempering, kernel=mala))
    with pytest.raises(UserError, match="temperature above 0"):
        ParallelTempering(torch.sum, functools.partial(Langevin, step_size=0.1, temperature=0.0))
