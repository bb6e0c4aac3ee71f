"""Corrections of errors that PyTorch's compiler makes in our graphs, of chains and of training."""

from typing import Any, Final, cast, final

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, Node

_aten = torch.ops.aten


@final
class Corrected(CustomGraphPass):
    """Corrects errors of the compiler and leaves everything else unchanged."""

    def __call__(self, graph: Graph) -> None:
        for node in graph.nodes:
            count_pixels(node)

    def uuid(self) -> bytes:
        return get_hash_for_files((__file__,))


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
"""Options of `torch.compile`."""
