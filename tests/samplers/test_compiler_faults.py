"""Corrections of the compiler: each applies where it should and nowhere else."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

import cases
from energyscape.samplers import Langevin, run
from energyscape.samplers.compiled.passes import INDUCTOR_OPTIONS, Corrected, CpuFusionPass

aten = torch.ops.aten


def pulled_back(pool):
    """Returns a function to a pool's gradient by its input."""

    def slope(x):
        y, pull_back = torch.func.vjp(pool, x)
        return pull_back(y)

    return slope


@pytest.mark.parametrize("mend", [Corrected, CpuFusionPass])
@pytest.mark.parametrize(
    ("shape", "settings", "counted"),
    [
        ((5, 4), {"ceil_mode": True}, False),
        ((4, 5), {"ceil_mode": True}, False),
        ((4, 5), {"ceil_mode": True, "kernel_size": (2, 3), "stride": (2, 1)}, True),
        ((5, 5), {"ceil_mode": True, "stride": 3}, True),
        ((4, 4), {"ceil_mode": True}, True),
        ((5, 5), {"ceil_mode": False, "padding": 1}, True),
        ((6, 6), {"ceil_mode": True, "padding": 1}, True),
        ((6, 6), {"ceil_mode": True, "padding": 1, "stride": 3}, True),
        ((5, 5), {"ceil_mode": True, "divisor_override": 3}, True),
        ((4, 4, 5), {"ceil_mode": True}, False),
        ((4, 4, 4), {"ceil_mode": True}, True),
    ],
)
def test_only_windows_that_overhang_are_told_not_to_count_padding(shape, settings, counted, mend):
    pool, back = {
        2: (functional.avg_pool2d, aten.avg_pool2d_backward.default),
        3: (functional.avg_pool3d, aten.avg_pool3d_backward.default),
    }[len(shape)]
    slope = pulled_back(lambda x: pool(x, **{"kernel_size": 2, **settings}))
    x = cases.normal(2, 3, *shape)
    graph = make_fx(slope, tracing_mode="fake")(x)
    mend()(graph.graph)
    graph.recompile()
    (node,) = (each for each in graph.graph.nodes if each.target is back)
    assert node.args[6] is counted
    assert torch.equal(graph(x)[0], slope(x)[0])  # uncompiled both are right


@pytest.mark.parametrize("mend", [Corrected, CpuFusionPass])
def test_windows_that_overhang_padding_are_not_compiled(mend):
    slope = pulled_back(lambda x: functional.avg_pool2d(x, 2, padding=1, ceil_mode=True))
    graph = make_fx(slope, tracing_mode="fake")(cases.normal(2, 3, 5, 5))
    with pytest.raises(NotImplementedError, match="leave either out"):
        mend()(graph.graph)


def test_compiled_chains_pool_right():
    kernel = Langevin(lambda x: functional.avg_pool2d(x, 2, ceil_mode=True).square().sum((1, 2, 3)), step_size=0.1)
    x = cases.normal(2, 1, 5, 5, dtype=torch.float32)
    eager, fast = (run(kernel, x, steps=2, compile=each, generator=cases.generator(1))[0] for each in (False, True))
    assert torch.allclose(eager.score, fast.score, atol=1e-5)


def test_what_is_trained_compiled_pools_right():
    plain = nn.Sequential(nn.Conv2d(1, 2, 2), nn.AvgPool2d(2, ceil_mode=True))
    fast, x = copy.deepcopy(plain), cases.normal(2, 1, 6, 6, dtype=torch.float32)
    plain(x).square().sum().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        torch.compile(fast, dynamic=False, options=INDUCTOR_OPTIONS)(x).square().sum().backward()
    for one, other in zip(plain.parameters(), fast.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=1e-4, atol=1e-5)
