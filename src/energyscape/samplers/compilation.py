"""How the compiler is asked for the steps of a kernel, and what is mended in the graphs that it makes."""

from collections.abc import Callable
from typing import Any, Final, final

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, Node

NARROW: Final = 8
"""Columns up to which a matrix is narrow."""

_aten = torch.ops.aten
_RIGHT: Final[dict[Any, int]] = {_aten.mm.default: 1, _aten.addmm.default: 2}
"""Where products have their right factor."""


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function as one graph of static shapes, compiled when it is first called.

    Args:
        function: Pure tensor code.
    """
    # One object for all, by which the compiler knows that it has compiled a function already.
    return torch.compile(function, fullgraph=True, dynamic=False, options=_OPTIONS)


@final
class Mended(CustomGraphPass):
    """Mends what gradients of perceptrons waste on a CPU: an eighth of the time of thousands of chains in the plane."""

    def __call__(self, graph: Graph) -> None:
        for node in list(graph.nodes):
            by_columns(graph, node)
        share_sigmoids(graph)

    def uuid(self) -> bytes:
        return get_hash_for_files((__file__,))


def by_columns(graph: Graph, node: Node) -> None:
    """Lays the right factor of a product out by columns where it is narrow.

    A gradient in the plane ends with the product of thousands of rows by a matrix of two columns. Laid out by rows, as
    weights are, it takes five times as long.

    Args:
        graph: Where the node is.
        node: Any operation.
    """
    at = _RIGHT.get(node.target)
    right: Any = None if at is None else node.args[at]
    if at is None or _value(right).shape[1] > NARROW:
        return
    with graph.inserting_before(node):
        turned = _added(graph, _aten.permute.default, right, [1, 0])
        laid = _added(graph, _aten.clone.default, turned, memory_format=torch.contiguous_format)
        node.update_arg(at, _added(graph, _aten.permute.default, laid, [1, 0]))


def share_sigmoids(graph: Graph) -> None:
    r"""Computes :math:`\operatorname{silu}(x) = x\, \sigma(x)` from the sigmoid that its derivative needs again.

    The compiler writes it as :math:`x / (1 + e^{-x})`, and then takes the exponential once more.

    Args:
        graph: Of the energy and its gradient.
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
    """Returns x where a node is x / (exp(-x) + 1)."""
    if node.target is not _aten.div.Tensor:
        return None
    x, path = node.args[0], node.args[1]
    for target in (_aten.add.Tensor, _aten.exp.default, _aten.neg.default):
        if not isinstance(path, Node) or path.target is not target or path.args[1:] not in ((), (1,)) or path.kwargs:
            return None
        path = path.args[0]
    return x if isinstance(x, Node) and path is x else None


def _added(graph: Graph, operation: Callable[..., Any], node: Node, *rest: Any, **settings: Any) -> Node:
    new = graph.call_function(operation, (node, *rest), settings)
    given = (_value(each) if isinstance(each, Node) else each for each in rest)
    new.meta["val"] = operation(_value(node), *given, **settings)
    return new


def _value(node: Node) -> Any:
    """Returns the tensor without numbers that tells a node's shape and layout."""
    return node.meta["val"]


_OPTIONS: Final[dict[str, Any]] = {"post_grad_custom_post_pass": Mended()}
