"""Kernel steps as CUDA graphs.

Steps of a small network are bound by kernel-launch overhead. A CUDA graph launches all operations of some steps at
once.
"""

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from energyscape.samplers.compiled import private


@final
class CudaGraph:
    """A function of tensors, recorded as a CUDA graph at its first call.

    Later calls repeat the same operations on new tensors, so shapes and control flow are fixed.

    Args:
        function: Pure tensor code over trees of tensors on one GPU, without a host sync; its weights may change in
            place.

    References:
        CUDA graphs, PyTorch's notes. https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function: Callable[..., Any] | None = function
        self._graph = torch.cuda.CUDAGraph()

    def __call__(self, *arguments: Any) -> Any:
        if self._function is not None:
            self._record(self._function, arguments)
            self._function = None  # which may hold this very recording, and a GPU's memory for as long
        else:
            private._foreach_copy_(self._given, private.tree_leaves(arguments))
        self._graph.replay()
        # The next replay overwrites the results of this one.
        return private.tree_unflatten(_apart([each.clone() for each in self._told], self._leaves), self._tree)

    def _record(self, function: Callable[..., Any], arguments: Any) -> None:
        own = private.tree_map(torch.clone, arguments)
        self._given: list[Tensor] = private.tree_leaves(own)
        before, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(before)
        with torch.cuda.stream(aside):  # libraries set themselves up, and compilers compile, before the recording
            for _ in range(2):
                function(*own)
        before.wait_stream(aside)
        with torch.cuda.graph(self._graph):
            self._leaves, self._tree = private.tree_flatten(function(*own))
            self._told = _together(self._leaves)


def _together(leaves: list[Tensor]) -> list[Tensor]:
    """Return the values of some tensors as one tensor for each dtype: one copy is faster than many."""
    return [torch.cat([each.flatten() for each in leaves if each.dtype == dtype]) for dtype in _dtypes(leaves)]


def _apart(rows: list[Tensor], leaves: list[Tensor]) -> list[Tensor]:
    """Return tensors of the shapes of others from the result of `_together`."""
    alike = [[each for each in leaves if each.dtype == dtype] for dtype in _dtypes(leaves)]
    parts = {
        dtype: iter(row.split([each.numel() for each in some]))
        for dtype, row, some in zip(_dtypes(leaves), rows, alike, strict=True)
    }
    return [next(parts[each.dtype]).view(each.shape) for each in leaves]


def _dtypes(leaves: list[Tensor]) -> list[torch.dtype]:
    return list(dict.fromkeys(each.dtype for each in leaves))
