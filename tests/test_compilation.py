"""What is mended in compiled graphs: the numbers stay, the waste goes."""

import torch
from torch.fx.experimental.proxy_tensor import make_fx

import cases
from energyscape.samplers.compilation import Mended

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


def mended(*arguments):
    graph = make_fx(slope, tracing_mode="fake")(*arguments)
    before = graph(*arguments)
    Mended()(graph.graph)
    graph.graph.lint()
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph, before


def test_mended_graphs_compute_the_same():
    x, first, second, seed = (cases.normal(*shape, seed=i) for i, shape in enumerate([(6, 2), (9, 2), (3, 9), (6, 3)]))
    graph, before = mended(x, first, second, seed)
    for left, right in zip(before, graph(x, first, second, seed), strict=True):
        assert torch.allclose(left, right, atol=1e-12)
    asked = [node.target for node in graph.graph.nodes]
    assert asked.count(aten.sigmoid.default) == 1
    assert aten.exp.default not in asked


def test_narrow_right_factors_are_laid_out_by_columns():
    x, first, second, seed = (
        cases.normal(*shape, seed=i) for i, shape in enumerate([(6, 2), (9, 2), (20, 9), (6, 20)])
    )
    graph, _ = mended(x, first, second, seed)
    right = [
        node.args[-1].meta["val"] for node in graph.graph.nodes if node.target in (aten.mm.default, aten.addmm.default)
    ]
    strides = {tuple(each.shape): each.stride() for each in right}
    assert strides[9, 2] == (1, 9)  # twice: as it is, and with something added
    assert strides[2, 9] == (1, 2)  # nine are not narrow; a transposed matrix is left as it is
    assert strides[20, 9] == (9, 1)


def test_what_only_looks_like_silu_is_left_alone():
    def other(x, y):
        twice = x / torch.add(torch.exp(-x), 1, alpha=2)
        return y / (torch.exp(-x) + 1), x / (torch.exp(-x) + 2), twice, torch.sigmoid(x)

    x, y = cases.normal(3, 2), cases.normal(3, 2, seed=1)
    graph = make_fx(other, tracing_mode="fake")(x, y)
    Mended()(graph.graph)
    assert [node.target for node in graph.graph.nodes].count(aten.div.Tensor) == 3
    assert [node.target for node in graph.graph.nodes].count(aten.sigmoid.default) == 1


def test_a_sigmoid_that_comes_first_stays_where_it_is():
    def other(x):
        s = torch.sigmoid(x)
        return s * 2, silu(x)

    x = cases.normal(3, 2)
    graph = make_fx(other, tracing_mode="fake")(x)
    Mended()(graph.graph)
    graph.graph.lint()
    graph.recompile()
    for left, right in zip(other(x), graph(x), strict=True):
        assert torch.allclose(left, right, atol=1e-12)
