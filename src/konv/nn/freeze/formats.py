"""Whether a network may compute on channels-last images inside, unseen from outside.

A network that never asks how its tensors lie in memory gives the same numbers in any memory format.
`view` asks: it becomes `reshape`, which is the same where nothing is written into the result.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from konv.nn.freeze.trace import is_changed, mutates

ASKS = {
    "as_strided", "as_strided_", "stride", "is_contiguous", "data_ptr", "storage", "storage_offset",
    "untyped_storage", "set_", "resize_", "numpy", "tolist", "to_mkldnn", "__array__", "unfold",
}  # fmt: skip


def free_of_format(network: fx.GraphModule) -> bool:
    """Whether it is, after its views were made reshapes. False: nothing was changed."""
    modules = dict(network.named_modules())
    views = []
    for node in network.graph.nodes:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        if node.op in ("call_method", "call_function") and name in ASKS:
            return False
        if node.op == "call_module" and _unknown(modules.get(str(node.target))):
            return False
        if node.op == "call_method" and name in ("view", "view_as"):
            views.append(node)
    for view in views:
        written = any(mutates(user, modules) for user in view.users)
        if written or any(isinstance(arg, torch.dtype) for arg in view.args):
            return False
    for view in views:
        view.target = {"view": "reshape", "view_as": "reshape_as"}[str(view.target)]
    if views:
        network.recompile()
    return True


def _unknown(module: nn.Module | None) -> bool:
    known = type(module).__module__.startswith(("torch.nn", "konv.nn"))
    return module is None or not known or is_changed(module)
