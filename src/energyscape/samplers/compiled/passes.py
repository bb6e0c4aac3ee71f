"""Compilation with Inductor, and passes that correct and speed up its graphs."""

import functools
from collections.abc import Callable
from typing import Any, Final, cast, final

import torch
from torch.fx import Graph, Node

from energyscape.samplers.compiled import convolution
from energyscape.samplers.compiled.private import CustomGraphPass, config, force_stride_order, get_hash_for_files

NARROW: Final = 8
"""Rows or columns up to which a matrix is narrow."""

GRAPHS: Final = 256
"""Graphs of one function in a process: each kernel, step size and number of chains has its own; PyTorch makes eight."""

_aten = torch.ops.aten


def compiled(function: Callable[..., Any], *, cpp: bool = False) -> Callable[..., Any]:
    """Return a function as one graph of static shapes, compiled when it is first called."""
    # One object for all: the compiler recognises an already compiled function by it.
    options = _CALLED_FROM_CPP if cpp else _OPTIONS
    graph = torch.compile(function, fullgraph=True, dynamic=False, options=options)
    return cast("Callable[..., Any]", config.patch(recompile_limit=GRAPHS)(graph))


@final
class CpuFusionPass(CustomGraphPass):  # type: ignore[misc]
    """Speeds up gradients on a CPU, by a sixth for thousands of chains, and corrects errors of the compiler."""

    def __call__(self, graph: Graph) -> None:
        for node in list(graph.nodes):
            write_out(graph, node)
        share_sigmoids(graph)
        for node in list(graph.nodes):
            convolution.rewrite(graph, node)
            count_pixels(node)
        graph.eliminate_dead_code()

    def uuid(self) -> bytes:
        return bytes(get_hash_for_files((__file__, convolution.__file__)))


@final
class Corrected(CustomGraphPass):  # type: ignore[misc]
    """Corrects errors of the compiler and leaves everything else unchanged."""

    def __call__(self, graph: Graph) -> None:
        for node in graph.nodes:
            count_pixels(node)

    def uuid(self) -> bytes:
        return bytes(get_hash_for_files((__file__,)))


def write_out(graph: Graph, node: Node) -> None:
    """Write products by narrow matrices, and sums with products, as sums that the compiler can fuse.

    A gradient in the plane begins with a product of thousands of rows of two numbers and ends with one by a matrix of
    two columns. BLAS is slow at both, and its results go through memory. It also copies a term that is added to a
    product.
    """
    product = node.target in (_aten.mm.default, _aten.addmm.default) and not node.kwargs
    if not product or _value(node).device.type != "cpu":
        return
    *bias, left, right = cast("tuple[Node, ...]", node.args)
    inner, columns = _value(right).shape
    with graph.inserting_before(node):
        if inner <= NARROW:
            left, right = _laid_out(graph, left), _laid_out(graph, right)
            pairs = [
                (_added(graph, _aten.slice.Tensor, left, 1, k, k + 1), _added(graph, _aten.select.int, right, 0, k))
                for k in range(inner)
            ]
            for user in list(node.users):  # each adds up its own: that is done before a sum of all is stored and read
                products = [_added(graph, _aten.mul.Tensor, *pair) for pair in pairs]
                user.replace_input_with(node, _total(graph, *bias, *products))
        elif columns <= NARROW:
            turned = _laid_out(graph, _added(graph, _aten.permute.default, right, [1, 0]))
            rows = [_added(graph, _aten.select.int, turned, 0, j) for j in range(columns)]
            products = [_added(graph, _aten.mul.Tensor, left, row) for row in rows]
            sums = [_added(graph, _aten.sum.dim_IntList, product, [1], True) for product in products]
            node.replace_all_uses_with(_total(graph, *bias, _added(graph, _aten.cat.default, sums, 1)))
        elif bias:
            node.replace_all_uses_with(_total(graph, *bias, _added(graph, _aten.mm.default, left, right)))
        else:
            return
    graph.erase_node(node)


def _laid_out(graph: Graph, matrix: Node) -> Node:
    """Return a matrix with contiguous rows, for vectorised reads."""
    return _added(graph, force_stride_order, matrix, [_value(matrix).shape[1], 1])


def share_sigmoids(graph: Graph) -> None:
    r"""Compute :math:`\operatorname{silu}(x) = x\, \sigma(x)` from the sigmoid that its derivative needs again.

    The compiler writes it as :math:`x / (1 + e^{-x})`, and then takes the exponential once more.
    """
    later = {node.args[0]: node for node in graph.nodes if node.target is _aten.sigmoid.default}
    for node in list(graph.nodes):
        if node.target is _aten.sigmoid.default:
            later.pop(node.args[0], None)
        x = _argument_of_silu(node)
        if x is not None and x in later:
            with graph.inserting_before(node):
                sigmoid = _added(graph, _aten.sigmoid.default, x)
                product = _added(graph, _aten.mul.Tensor, x, sigmoid)
            node.replace_all_uses_with(product)
            later[x].replace_all_uses_with(sigmoid)


def _argument_of_silu(node: Node) -> Node | None:
    """Return x where a node is x / (exp(-x) + 1)."""
    if node.target is not _aten.div.Tensor:
        return None
    x, path = node.args[0], node.args[1]
    for target in (_aten.add.Tensor, _aten.exp.default, _aten.neg.default):
        if not isinstance(path, Node) or path.target is not target or path.args[1:] not in ((), (1,)) or path.kwargs:
            return None
        path = path.args[0]
    return x if isinstance(x, Node) and path is x else None


def _total(graph: Graph, *terms: Node) -> Node:
    return functools.reduce(functools.partial(_added, graph, _aten.add.Tensor), terms)


def _added(graph: Graph, operation: Callable[..., Any], *arguments: Any) -> Node:
    new = graph.call_function(operation, arguments)
    new.meta["val"] = operation(*(_value(each) for each in arguments))
    return new


def _value(argument: Any) -> Any:
    """Return the tensor without data that holds a node's shape and layout; anything else unchanged."""
    if isinstance(argument, list):
        return [_value(each) for each in argument]
    return argument.meta["val"] if isinstance(argument, Node) else argument


def count_pixels(node: Node) -> None:
    """Divide the gradient of average pooling by the number of pixels that a window holds.

    With ``ceil_mode`` the compiler divides an overhanging window's gradient by the kernel's size, unless padding is not
    counted: https://github.com/pytorch/pytorch/issues/198119. Without padding the two are the same.
    """
    if node.target not in (_aten.avg_pool2d_backward.default, _aten.avg_pool3d_backward.default):
        return
    _, x, kernel, stride, padding, ceil, count_padding, divisor = cast("tuple[Any, ...]", node.args)
    sizes = x.meta["val"].shape[-len(kernel) :]
    windows = zip(sizes, kernel, stride or kernel, padding, strict=True)
    overhangs = ceil and any((n + 2 * p - k) % s for n, k, s, p in windows)
    if not overhangs or not count_padding or divisor is not None:
        return
    if any(padding):
        raise NotImplementedError(
            "compiled, average pooling with both padding and ceil_mode has a wrong gradient; leave either out"
        )
    node.update_arg(6, False)


INDUCTOR_OPTIONS: Final[dict[str, Any]] = {"post_grad_custom_post_pass": Corrected()}
"""Options of `torch.compile` for training."""

_OPTIONS: Final[dict[str, Any]] = {"post_grad_custom_post_pass": CpuFusionPass()}
_CALLED_FROM_CPP: Final[dict[str, Any]] = {**_OPTIONS, "cpp_wrapper": True}
