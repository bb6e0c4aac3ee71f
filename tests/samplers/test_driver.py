"""Compiled chains: the numbers of eager ones, and a way back where nothing compiles."""

import functools
import warnings

import pytest
import torch

import cases
from energyscape.models import MLP, ConvEnergyNet, NeuralEnergy, ResidualEnergyNet
from energyscape.rng import global_seed
from energyscape.samplers import (
    HMC,
    MALA,
    Langevin,
    ParallelTempering,
    Steps,
    UnderdampedLangevin,
    run,
    sample,
)
from energyscape.samplers.compiled import added, cuda_graph

KERNELS = {
    "langevin": functools.partial(Langevin, step_size=0.02, drift_clip=0.5, bounds=(-3.0, 3.0)),
    "mala": functools.partial(MALA, step_size=0.05),
    "hmc": functools.partial(HMC, step_size=0.1, leapfrog_steps=3),
    "underdamped": functools.partial(UnderdampedLangevin, step_size=0.1),
}


def energy(shape=(2,)):
    with global_seed(0):
        network = MLP(2, width=16) if shape == (2,) else ConvEnergyNet(shape, width=4)
    return NeuralEnergy(network, reference_std=2.0)


@pytest.mark.parametrize("name", ["langevin", pytest.param("hmc", marks=pytest.mark.slow)])
def test_compiled_and_eager_chains_are_the_same(name, monkeypatch):
    """The same draws; results differ by the rounding of fused operations only. A block is short, to compile soon."""
    monkeypatch.setattr("energyscape.samplers.compiled.steps.GRADIENTS", 5)
    e = energy()
    kernel, x = KERNELS[name](e), cases.normal(32, 2, dtype=torch.float32)
    chains = [
        sample(kernel, x, steps=24, burn_in=4, thin=5, compile=each, generator=cases.generator(1))
        for each in (False, True)
    ]
    eager, fast = chains
    assert torch.allclose(eager.x, fast.x, atol=1e-5, rtol=1e-5)
    assert torch.allclose(eager.energy, fast.energy, atol=1e-5, rtol=1e-5)
    assert torch.allclose(eager.accept_prob, fast.accept_prob, atol=1e-5)
    assert torch.allclose(eager.noise, fast.noise, rtol=1e-5)
    assert all(each.grad is None and each.requires_grad for each in e.parameters())


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_long_trajectories_are_compiled_in_pieces(whole, monkeypatch):
    """Eight leapfrog steps in graphs of three, three and two, at a temperature, a jitter and a scale of their own."""
    graphs = []
    monkeypatch.setattr("energyscape.samplers.compiled.steps.GRADIENTS", 3)
    if not whole:
        monkeypatch.setattr(torch, "compile", lambda function, **_: graphs.append(function) or function)
    kernel = HMC(energy(), step_size=0.1, leapfrog_steps=8, temperature=0.3, jitter=0.5, scale=torch.tensor([0.5, 2.0]))
    x = cases.normal(32, 2, dtype=torch.float32)
    eager, fast = (sample(kernel, x, steps=4, compile=each, generator=cases.generator(1)) for each in (False, True))
    assert whole or [each.args[0].leapfrog_steps for each in graphs] == [3, 2]
    for name in ("x", "energy", "energy_error", "hamiltonian", "accept_prob", "drift", "noise"):
        assert torch.allclose(getattr(eager, name), getattr(fast, name), atol=1e-4, rtol=1e-4), name
    assert float(eager.accept_prob.mean()) > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mala", "underdamped"])
def test_other_kernels_compile_too(name):
    kernel, x = KERNELS[name](energy()), cases.normal(32, 2, dtype=torch.float32)
    eager, fast = (run(kernel, x, steps=20, compile=each, generator=cases.generator(1))[0].x for each in (False, True))
    assert torch.allclose(eager, fast, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("rough", [False, True])
@pytest.mark.parametrize("network", [ConvEnergyNet, ResidualEnergyNet])
def test_energies_of_images_compile_too(network, rough):
    """Of 14 pixels 7 are left, and of those 4 or 3: what is at the rim must not be lost, nor counted twice.

    In bfloat16, whose numbers are 2⁻⁸ apart, uncompiled energies are no nearer to those in single precision.
    """
    with global_seed(0):
        kernel = Langevin(network((1, 14, 14), width=12), step_size=0.1)
    x, tolerance = cases.normal(8, 1, 14, 14, dtype=torch.float32), 2.0**-7 if rough else 1e-5
    with torch.autocast("cpu", torch.bfloat16, enabled=rough):
        eager, fast = (run(kernel, x, steps=4, compile=each, generator=cases.generator(1))[0] for each in (False, True))
    for one, other in zip(eager, fast, strict=True):
        assert torch.allclose(one, other, rtol=tolerance, atol=tolerance * float(one.abs().max()))


@pytest.mark.parametrize("name", ["langevin", "hmc", "underdamped"])
def test_many_chains_move_in_blocks_and_draw_the_same(name, monkeypatch):
    sizes, e = [], energy()

    class Watched(torch.nn.Module):
        def forward(self, x):
            sizes.append(len(x))
            return e(x)

    kernel, x = KERNELS[name](Watched()), cases.normal(50, 2, dtype=torch.float32)
    whole = sample(kernel, x, steps=6, generator=cases.generator(1))
    assert set(sizes) == {50}
    sizes.clear()
    monkeypatch.setattr("energyscape.samplers.compiled.steps.CHAINS", 16)
    blocks = sample(kernel, x, steps=6, generator=cases.generator(1))
    assert set(sizes[2:]) == {13, 12}  # after the start's, and the question whether blocks are the same
    for one, other in zip(whole[:-1], blocks[:-1], strict=True):
        assert torch.allclose(one, other, atol=1e-5, rtol=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(whole.state, blocks.state, strict=True))


@pytest.mark.parametrize("case", ["labels", "labels by place", "replicas"])
def test_chains_that_are_not_alone_stay_together(case, monkeypatch):
    """Energies that hold a row for each chain, and replicas that exchange their places."""
    monkeypatch.setattr("energyscape.samplers.compiled.steps.CHAINS", 16)
    centre, x = cases.normal(50, 2, seed=1), cases.normal(50, 2)
    each = {
        "labels": lambda x: (x - centre).square().sum(1),
        "labels by place": lambda x: (x - centre[: len(x)]).square().sum(1),
        "replicas": lambda x: x.square().sum(1),
    }[case]
    kernel = Langevin(each, step_size=0.1)
    if case == "replicas":
        kernel = ParallelTempering(each, functools.partial(MALA, step_size=0.1))
    split = run(kernel, x, steps=5, generator=cases.generator(2))
    monkeypatch.setattr("energyscape.samplers.compiled.steps.CHAINS", 4096)
    assert torch.equal(split[0].x, run(kernel, x, steps=5, generator=cases.generator(2))[0].x)


def test_no_more_noise_is_drawn_than_is_needed():
    kernel, x = KERNELS["langevin"](energy()), cases.normal(4, 2, dtype=torch.float32)
    after = []
    for steps in (Steps(kernel, steps=7, compile=False), None):
        stream, state = cases.generator(1), kernel.init(x)
        if steps is None:
            for _ in range(7):
                state, _ = kernel.step(state, generator=stream)
        else:
            *_, (state, _) = steps(state, generator=stream)
        after.append((state.x, torch.rand(3, generator=stream)))
    assert torch.equal(after[0][0], after[1][0])
    assert torch.equal(after[0][1], after[1][1])


def test_what_cannot_be_compiled_goes_on_uncompiled_and_says_so_once():
    def stubborn(x):
        return (x**2).sum(1) * (1.0 if float(x.sum()) > -1e9 else 2.0)  # asks for a number in the middle of the graph

    kernel, x = Langevin(stubborn, step_size=0.1), cases.normal(4, 2, dtype=torch.float32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fast = run(kernel, x, steps=40, compile=True, generator=cases.generator(1))[0].x
    messages = [
        str(each.message).startswith("the steps could not be compiled and go on uncompiled: ") for each in caught
    ]
    assert messages.count(True) == 1
    assert torch.equal(fast, run(kernel, x, steps=40, generator=cases.generator(1))[0].x)


def test_short_runs_are_not_compiled_by_themselves(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled"))
    sample(KERNELS["langevin"](energy()), cases.normal(4, 2, dtype=torch.float32), steps=50, compile="auto")


def test_long_runs_are_compiled_by_themselves(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiled.append(1) or function)
    monkeypatch.setattr("energyscape.samplers.compiled.steps.MIN_COMPILE_SECONDS", 0.0)
    sample(KERNELS["langevin"](energy()), cases.normal(4, 2, dtype=torch.float32), steps=50, compile="auto")
    assert compiled == [1]


@pytest.mark.parametrize(
    ("shape", "kernel", "graphs"),
    [((300, 2), "langevin", 2), ((4, 2), "langevin", 1), ((4, 1, 8, 8), "langevin", 10), ((4, 1, 8, 8), "hmc", 40)],
)
def test_graphs_of_few_chains_hold_more_steps_and_those_of_images_fewer(shape, kernel, graphs, monkeypatch):
    """Twenty steps: in graphs of ten, of twenty and of two; of three leapfrog steps in pieces of two and one."""
    asked = []

    def counted(function, *, options, **_):
        return lambda *arguments: asked.append("cpp_wrapper" in options) or function(*arguments)

    monkeypatch.setattr(torch, "compile", counted)
    x = cases.normal(*shape, dtype=torch.float32)
    run(KERNELS[kernel](energy(shape[1:])), x, steps=20, compile=True)
    assert asked == [len(shape) == 2] * graphs  # those of points are called from C++


@pytest.mark.parametrize(
    ("shape", "steps", "blocks"),
    [
        ((300, 2), 5, [5]),  # fewer than a graph may hold
        ((300, 2), 14, [7, 7]),
        ((300, 2), 15, [5, 5, 5]),
        ((300, 2), 13, [10, 3]),  # of what divides 13 all is small
        ((300, 2), 103, [10] * 10 + [3]),
        ((4, 2), 13, [13]),
        ((4, 1, 8, 8), 3, [1, 1, 1]),
        ((4, 1, 8, 8), 4, [2, 2]),
    ],
)
def test_no_steps_are_left_over_uncompiled_where_blocks_of_another_size_leave_none(shape, steps, blocks):
    kernel, x = KERNELS["langevin"](energy(shape[1:])), cases.normal(*shape, dtype=torch.float32)
    taken = Steps(kernel, steps=steps, compile="auto").together(kernel.init(x), generator=cases.generator(1))
    assert [len(each) for each in taken] == blocks


def test_a_run_of_few_steps_is_compiled_whole(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiled.append(1) or function)
    run(KERNELS["langevin"](energy()), cases.normal(4, 2, dtype=torch.float32), steps=3, compile=True)
    assert compiled == [1]


def test_there_is_a_graph_for_each_of_many_step_sizes(monkeypatch):
    """PyTorch gives up after eight; here its compiler only traces, which is where it counts."""
    traced, compile = [], torch.compile

    def backend(module, _):
        traced.append(1)
        return module.forward

    monkeypatch.setattr(
        torch, "compile", lambda function, *, options, **rest: compile(function, backend=backend, **rest)
    )
    e, x = energy(), cases.normal(4, 2, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for k in range(1, 12):
            run(Langevin(e, step_size=0.01 * k), x, steps=1, compile=True)
    assert len(traced) == 11


def test_what_several_steps_told_is_summed_as_one_by_one():
    kernel, x = KERNELS["mala"](energy()), cases.normal(16, 2, dtype=torch.float32)
    infos = [info for _, info in Steps(kernel, steps=7, compile=False)(kernel.init(x), generator=cases.generator(1))]
    alone = functools.reduce(added, infos, None)
    together = added(added(None, *infos[:3]), *infos[3:])
    for one, other in zip(alone, together, strict=True):
        assert one.dtype == other.dtype
        assert torch.allclose(one, other, rtol=1e-6)
    assert int(alone.accepted.sum()) == sum(int(each.accepted.sum()) for each in infos)


def test_tensors_that_are_copied_together_come_apart_as_they_were():
    leaves = [torch.arange(6.0).view(2, 3), torch.tensor([True, False]), torch.tensor(7), cases.normal(2, 1, 2)]
    rows = cuda_graph._together(leaves)
    assert len(rows) == 4
    assert len(cuda_graph._together([*leaves, *leaves])) == 4
    apart = cuda_graph._apart(cuda_graph._together([*leaves, *leaves]), [*leaves, *leaves])
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip([*leaves, *leaves], apart, strict=True))


def test_few_chains_take_twice_as_many_steps_at_once():
    taken = Steps(KERNELS["hmc"](energy()), steps=42, compile="auto")  # of three leapfrog steps
    for chains, many in ((256, 6), (257, 3)):
        x = cases.normal(chains, 2, dtype=torch.float32)
        first = next(taken.together(taken.kernel.init(x), generator=cases.generator(1)))
        assert len(first) == many
