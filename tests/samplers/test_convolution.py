"""Convolutions as products: the numbers stay, and only what is faster is rewritten."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import cases
from energyscape.samplers.compiled.convolution import convolved, pulled_back
from energyscape.samplers.compiled.passes import CpuFusionPass, compiled

aten = torch.ops.aten

# Size, kernel, stride, padding: down and across.
SHAPES = [
    ((7, 9), (3, 3), (1, 1), (1, 1)),
    ((7, 9), (4, 4), (2, 2), (1, 1)),  # the last row and column of padding are in no patch
    ((8, 8), (4, 4), (2, 2), (0, 0)),
    ((8, 7), (4, 2), (2, 1), (1, 0)),
    ((9, 7), (3, 6), (3, 2), (2, 1)),
    ((10, 10), (2, 2), (2, 2), (0, 0)),
    ((11, 11), (2, 2), (2, 2), (0, 0)),  # a row and a column are in no patch
    ((4, 4), (4, 4), (4, 4), (0, 0)),
    ((5, 5), (1, 1), (1, 1), (0, 0)),
    ((5, 5), (1, 1), (1, 1), (2, 1)),  # patches of nothing but padding
]


@pytest.mark.parametrize(("size", "kernel", "stride", "padding"), SHAPES)
def test_a_product_is_a_convolution(size, kernel, stride, padding):
    x, weight, bias = cases.normal(2, 3, *size), cases.normal(5, 3, *kernel, seed=1), cases.normal(5, seed=2)
    for each in (None, bias):
        product = convolved(x, weight, each, stride=stride, padding=padding)
        assert torch.allclose(product, torch.conv2d(x, weight, each, stride, padding), atol=1e-12)


@pytest.mark.parametrize("pixels_last", [False, True])
@pytest.mark.parametrize(("size", "kernel", "stride", "padding"), SHAPES)
def test_a_product_is_a_convolutions_gradient(size, kernel, stride, padding, pixels_last):
    x, weight = cases.normal(2, 3, *size), cases.normal(5, 3, *kernel, seed=1)
    y, pull_back = torch.func.vjp(lambda x: torch.conv2d(x, weight, None, stride, padding), x)
    slope = cases.normal(*y.shape, seed=2)
    product = pulled_back(slope, weight, size, stride=stride, padding=padding, pixels_last=pixels_last)
    assert torch.allclose(product, pull_back(slope)[0], atol=1e-12)


def gradient(convolve):
    """Returns a function to a convolution's sum of squares and its gradient by what is convolved."""

    def both(x, weight):
        y, pull_back = torch.func.vjp(lambda x: convolve(x, weight), x)
        return y.square().sum(), pull_back(2 * y)[0]

    return both


def rewritten(function, *arguments):
    graph = make_fx(function, tracing_mode="fake")(*arguments)
    CpuFusionPass()(graph.graph)
    graph.graph.lint()
    graph.recompile()
    for left, right in zip(function(*arguments), graph(*arguments), strict=True):
        assert left.shape == right.shape
        assert torch.allclose(left, right, rtol=1e-5, atol=1e-6 * float(left.abs().max()))
    asked = [node.target for node in graph.graph.nodes]
    counts = asked.count(aten.convolution.default), asked.count(aten.convolution_backward.default)
    return graph.graph, counts


def products(graph):
    return [tuple(node.meta["val"].shape) for node in graph.nodes if node.target is aten.mm.default]


def images(*shape, seed=0, dtype=torch.float32):
    return cases.normal(*shape, seed=seed, dtype=dtype)


@pytest.mark.parametrize(
    ("channels", "pixels", "kernel", "settings", "left"),
    [
        (9, 8, 4, {"stride": 2, "padding": 1}, (0, 0)),  # to 4×4
        (9, 10, 4, {"stride": 2, "padding": 1}, (1, 1)),  # to 5×5: many pixels of many channels
        (8, 10, 4, {"stride": 2, "padding": 1}, (1, 0)),
        (9, 4, 3, {"padding": 1}, (1, 1)),  # a pixel is in nine patches
        (8, 12, 3, {"padding": 1}, (1, 0)),
        (8, 12, 5, {"padding": 2}, (1, 0)),
        (8, 12, 6, {"padding": 2}, (1, 1)),  # in 36
        (9, 4, 1, {}, (0, 0)),
        (9, 9, 3, {"stride": 2}, (1, 1)),  # a kernel one and a half strides wide
        (8, 8, 3, {"dilation": 2}, (1, 1)),
        (8, 8, 4, {"stride": 2, "groups": 2}, (1, 1)),
    ],
)
def test_convolutions_are_products_where_that_is_faster(channels, pixels, kernel, settings, left):
    x = images(2, channels, pixels, pixels)
    weight = images(6, channels // settings.get("groups", 1), kernel, kernel, seed=1)
    _, counts = rewritten(gradient(lambda x, w: torch.conv2d(x, w, None, **settings)), x, weight)
    assert counts == left


def test_the_rows_of_a_product_are_as_long_as_can_be():
    """Of few channels the pixels of all images come last, of few pixels the channels."""
    one = gradient(lambda x, w: torch.conv2d(x, w, None, 1, 1))
    graph, _ = rewritten(one, images(2, 1, 7, 7), images(6, 1, 3, 3, seed=1))
    assert products(graph) == [(9, 2 * 7 * 7)]
    few = gradient(lambda x, w: torch.conv2d(x, w, None, 2, 1))
    graph, _ = rewritten(few, images(2, 9, 6, 6), images(6, 9, 4, 4, seed=1))
    assert products(graph) == [(2 * 3 * 3, 6), (2 * 3 * 3, 16 * 9)]


def test_a_bias_is_added_to_a_product():
    tensors = images(2, 9, 4, 4), images(6, 9, 2, 2, seed=1), images(6, seed=2)
    _, counts = rewritten(lambda x, w, b: (torch.conv2d(x, w, b, 2),), *tensors)
    assert counts == (0, 0)


def test_others_stay_convolutions():
    x, weight = images(2, 8, 4, 4), images(8, 8, 2, 2, seed=1)
    _, counts = rewritten(gradient(lambda x, w: torch.conv_transpose2d(x, w, None, 2)), x, weight)
    assert counts == (1, 1)
    _, counts = rewritten(gradient(torch.conv1d), images(2, 8, 4), images(8, 8, 1, seed=1))
    assert counts == (1, 1)
    across = images(8, 8, 2, 3, seed=1)  # a kernel one and a half strides wide
    _, counts = rewritten(gradient(lambda x, w: torch.conv2d(x, w, None, 2)), x, across)
    assert counts == (1, 1)
    # Where the weights' gradient is wanted besides, and in double precision.
    both = torch.func.grad(lambda x, w: torch.conv2d(x, w, None, 1, 1).square().sum(), argnums=(0, 1))
    graph, counts = rewritten(both, images(2, 8, 6, 6), weight)
    assert counts == (1, 1)
    assert products(graph) == []
    double = images(2, 8, 4, 4, dtype=torch.float64), images(8, 8, 2, 2, seed=1, dtype=torch.float64)
    _, counts = rewritten(gradient(lambda x, w: torch.conv2d(x, w, None, 2)), *double)
    assert counts == (1, 1)


def test_what_is_convolved_has_its_channels_last_and_is_laid_out_once():
    """PyTorch would convert in every convolution, there and back."""

    def twice(x, w):
        return torch.conv2d(torch.conv2d(x, w, None, 1, 1), w, None, 1, 1)

    graph, counts = rewritten(gradient(twice), images(2, 9, 6, 6), images(9, 9, 3, 3, seed=1))
    assert counts == (2, 2)
    laid = [node for node in graph.nodes if "force_stride_order" in str(node.target)]
    assert len(laid) == 5  # the weights, what is convolved twice, the gradient of either
    for node in graph.nodes:
        if node.target in (aten.convolution.default, aten.convolution_backward.default):
            tensors = [each for each in node.args[:3] if isinstance(each, torch.fx.Node)]
            assert set(tensors) <= set(laid)
    assert all(node.meta["val"].is_contiguous(memory_format=torch.channels_last) for node in laid)


def test_one_channel_is_last_wherever_it_is_and_says_so():
    """PyTorch's convolution asks the strides, which are any then, and is five times slower with the channels first."""

    def twice(x, w, v):
        return torch.conv2d(x, w, None, 1, 1), torch.conv2d(x, v, None, 1, 1)

    graph, counts = rewritten(twice, images(2, 1, 6, 5), images(9, 1, 3, 3, seed=1), images(9, 1, 3, 3, seed=2))
    assert counts == (2, 0)
    x, w, y, v = (each for node in graph.nodes if node.target is aten.convolution.default for each in node.args[:2])
    assert x is y
    assert [each.meta["val"].stride() for each in (x, w, v)] == [(30, 1, 5, 1), (9, 1, 3, 1), (9, 1, 3, 1)]
    assert len([node for node in graph.nodes if node.target is aten.as_strided.default]) == 3


PARTS = {
    "of the channels": lambda x, w: (x, w[:, :1]),
    "other rows": lambda x, w: (x[:, :1, 1::2], w[:, :1].contiguous()),
    "the last images": lambda x, w: (x[1:, 0].unsqueeze(1), w[:, :1].contiguous()),
}


@pytest.mark.parametrize("part", PARTS)
def test_of_a_part_of_something_the_compiler_is_told_no_strides(part):
    x, w = images(3, 1, 6, 5), images(9, 3, 3, 3, seed=1)
    graph, counts = rewritten(lambda x, w: (torch.conv2d(*PARTS[part](x, w), None, 1, 1),), x, w)
    assert counts == (1, 0)
    assert len([node for node in graph.nodes if node.target is aten.as_strided.default]) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
def test_compiled_convolutions_by_a_part_of_the_weights_are_by_that_part():
    x, w = images(3, 1, 6, 5), images(9, 3, 3, 3, seed=1)

    def convolve(x, w):
        return torch.conv2d(x, w[:, 1:2], None, 1, 1) + torch.conv2d(x, w[:, :1], None, 1, 1)

    with torch.no_grad():
        assert torch.allclose(compiled(convolve)(x, w), convolve(x, w), atol=1e-5)
