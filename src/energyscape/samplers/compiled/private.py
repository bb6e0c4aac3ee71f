"""PyTorch's private interfaces: all that the library uses, tested with torch 2.13.

Each is imported when it is first needed, because importing the compiler takes seconds. Callers run uncompiled, with a
warning, if one has disappeared.
"""

import importlib
from typing import Any, Final

MODULES: Final = {
    "_foreach_copy_": "torch",
    "tree_flatten": "torch.utils._pytree",
    "tree_leaves": "torch.utils._pytree",
    "tree_map": "torch.utils._pytree",
    "tree_unflatten": "torch.utils._pytree",
    "CustomGraphPass": "torch._inductor.custom_graph_pass",
    "get_hash_for_files": "torch._inductor.custom_graph_pass",
    "force_stride_order": "torch._inductor.inductor_prims",
    "select_decomp_table": "torch._inductor.decomposition",
    "config": "torch._dynamo",
}
"""Name of each interface, and the module that has it."""


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"private interfaces are {', '.join(MODULES)}; there is no {name}")
    return getattr(importlib.import_module(MODULES[name]), name)
