"""Rewrites of compiled graphs: the numbers stay, the waste goes."""

import functools
import re
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import cases
import energyscape
from energyscape.objectives import ContrastiveDivergence, DataInit
from energyscape.objectives.base import Adjustment
from energyscape.samplers import Langevin, Steps
from energyscape.samplers.compiled import private
from energyscape.samplers.compiled.passes import CpuFusionPass, compiled

aten = torch.ops.aten


def silu(x):
    return x / (torch.exp(-x) + 1)  # as the compiler writes it


def slope(x, first, second, seed):
    """The gradient of a perceptron with one hidden layer, its forward pass included, as autograd writes it."""
    h = x @ first.t()
    e = silu(h) @ second.t()
    s = torch.sigmoid(h)
    back = (seed @ second) * (s * (1 + h * (1 - s)))
    return e, back @ first, torch.addmm(x, back, first)


def rewritten(*arguments):
    graph = make_fx(slope, tracing_mode="fake")(*arguments)
    before = graph(*arguments)
    CpuFusionPass()(graph.graph)
    graph.graph.lint()
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph, before


def test_mended_graphs_compute_the_same():
    shapes = (6, 9), (12, 9), (3, 12), (6, 3)
    x, first, second, seed = (cases.normal(*shape, seed=i) for i, shape in enumerate(shapes))
    graph, before = rewritten(x, first, second, seed)
    for left, right in zip(before, graph(x, first, second, seed), strict=True):
        assert torch.allclose(left, right, atol=1e-12)
    asked = [node.target for node in graph.graph.nodes]
    assert asked.count(aten.sigmoid.default) == 1
    assert aten.exp.default not in asked


@pytest.mark.parametrize(
    ("width", "outputs", "products", "laid_out"),
    [
        (9, 3, 0, 7),  # two inputs and three outputs are narrow, and with them every product
        (9, 8, 0, 7),
        (8, 9, 0, 9),
        (20, 9, 2, 4),  # there and back
        (9, 9, 2, 4),
    ],
)
def test_products_by_narrow_matrices_are_sums(width, outputs, products, laid_out):
    shapes = (6, 2), (width, 2), (outputs, width), (6, outputs)
    arguments = [cases.normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    graph, before = rewritten(*arguments)
    for left, right in zip(before, graph(*arguments), strict=True):
        assert torch.allclose(left, right, atol=1e-12)
    asked = [node.target for node in graph.graph.nodes]
    assert asked.count(aten.mm.default) == products
    assert asked.count(aten.addmm.default) == 0
    # Each is read along its rows: of products that begin with few numbers both sides, of those that end with few one.
    laid = [node for node in graph.graph.nodes if "force_stride_order" in str(node.target)]
    assert all(node.meta["val"].is_contiguous() for node in laid)
    assert len(laid) == laid_out


def test_whoever_needs_a_narrow_product_has_a_sum_of_its_own():
    """Storing a sum and fetching it again takes longer than adding two numbers again."""
    shapes = (6, 2), (20, 2), (9, 20), (6, 9)
    graph, _ = rewritten(*(cases.normal(*shape, seed=i) for i, shape in enumerate(shapes)))
    narrow = [node for node in graph.graph.nodes if node.target is aten.select.int and node.meta["val"].shape == (20,)]
    terms = [user for row in narrow for user in row.users if user.meta["val"].shape == (6, 20)]
    sums = [node for node in graph.graph.nodes if node.target is aten.add.Tensor and set(node.args) <= set(terms)]
    assert len(sums) == 4  # twice in the silu, twice in its derivative
    assert all(len(node.users) == 1 for node in (*terms, *sums))


def test_what_is_added_to_a_product_is_added_afterwards():
    def layer(x, weights, bias):
        first = torch.addmm(bias, x[:, :2], weights[:2])
        return first, torch.addmm(bias, x, weights), torch.addmm(bias, x, weights, beta=2)

    arguments = cases.normal(5, 9), cases.normal(9, 10, seed=1), cases.normal(10, seed=2)
    graph = make_fx(layer, tracing_mode="fake")(*arguments)
    CpuFusionPass()(graph.graph)
    graph.graph.lint()
    graph.recompile()
    for left, right in zip(layer(*arguments), graph(*arguments), strict=True):
        assert torch.allclose(left, right, atol=1e-12)
    asked = [node.target for node in graph.graph.nodes]
    assert (asked.count(aten.mm.default), asked.count(aten.addmm.default)) == (1, 1)  # twice the bias is left alone


def test_what_only_looks_like_silu_is_left_alone():
    def other(x, y):
        twice = x / torch.add(torch.exp(-x), 1, alpha=2)
        return y / (torch.exp(-x) + 1), x / (torch.exp(-x) + 2), twice, torch.sigmoid(x)

    x, y = cases.normal(3, 2), cases.normal(3, 2, seed=1)
    graph = make_fx(other, tracing_mode="fake")(x, y)
    CpuFusionPass()(graph.graph)
    assert [node.target for node in graph.graph.nodes].count(aten.div.Tensor) == 3
    assert [node.target for node in graph.graph.nodes].count(aten.sigmoid.default) == 1


def test_a_sigmoid_that_comes_first_stays_where_it_is():
    def other(x):
        s = torch.sigmoid(x)
        return s * 2, silu(x)

    x = cases.normal(3, 2)
    graph = make_fx(other, tracing_mode="fake")(x)
    CpuFusionPass()(graph.graph)
    graph.graph.lint()
    graph.recompile()
    for left, right in zip(other(x), graph(x), strict=True):
        assert torch.allclose(left, right, atol=1e-12)


def test_graphs_are_called_from_cpp_where_that_is_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda function, *, options, **_: asked.append(options) or function)
    for function, cpp in ((silu, False), (slope, False), (silu, True)):
        compiled(function, cpp=cpp)
    plain, again, cpp = asked
    assert cpp["cpp_wrapper"]
    assert "cpp_wrapper" not in plain
    assert all(isinstance(each["post_grad_custom_post_pass"], CpuFusionPass) for each in (plain, cpp))
    # By the one object the compiler knows what it has compiled.
    assert plain is again


# --- PyTorch's private interfaces ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", private.MODULES)
def test_pytorch_still_has(name):
    assert getattr(private, name) is not None


def test_private_interfaces_are_used_through_one_file():
    used = {
        path.name: found
        for path in Path(energyscape.__file__).parent.rglob("*.py")
        if (found := re.findall(r"torch(?:\.\w+)*\._(?!_version)\w+", path.read_text(encoding="utf-8")))
    }
    assert set(used) == {"private.py"}, used


@pytest.mark.parametrize("name", ["force_stride_order", "CustomGraphPass"])
def test_without_a_private_interface_runs_go_on_uncompiled_and_say_so_once(name, monkeypatch):
    monkeypatch.setitem(private.MODULES, name, "torch._nothing")
    for module in ("passes", "convolution"):
        monkeypatch.delitem(sys.modules, f"energyscape.samplers.compiled.{module}", raising=False)
    model, x = cases.Quadratic(1.0), cases.normal(4, 2)
    kernel = functools.partial(Langevin, step_size=0.1)
    ends, losses = [], []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for compile in (True, False):
            steps = Steps(kernel(model), steps=5, compile=compile)
            ends += [steps.end(x, generator=cases.generator(1))[0].x for _ in range(2)]
        for compile in (True, False):
            training = ContrastiveDivergence(start=DataInit(), kernel=kernel, steps=2, compile=compile)
            for factor in (1.0, 0.5):  # as a guard halves the step: the chains are rebuilt
                training.adjust(Adjustment(step=factor))
                losses.append(training(model, x, generator=cases.generator(1)).value)
    message = "the steps could not be compiled and go on uncompiled: No module named 'torch._nothing'"
    assert [str(each.message) for each in warned] == [message] * 2  # one for each of the two runs
    assert all(torch.equal(each, ends[0]) for each in ends)
    assert losses[:2] == losses[2:]
