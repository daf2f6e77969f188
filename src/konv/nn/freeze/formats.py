"""Whether a network may compute on channels-last images inside, unseen from outside.

A network that never asks how its tensors lie in memory gives the same numbers in any memory format.
`view` asks: it becomes `reshape`, which is the same where nothing is written into the result.
Whether a step such as `flatten` returns a view or a copy depends on the format. So where there is
one, nothing may be written in place but into results that nobody else has.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn

from konv.nn.freeze.layer import Layer
from konv.nn.freeze.trace import is_changed, mutates

ASKS = {
    "as_strided", "as_strided_", "stride", "is_contiguous", "data_ptr", "storage", "storage_offset",
    "untyped_storage", "set_", "resize_", "numpy", "tolist", "to_mkldnn", "__array__", "unfold",
}  # fmt: skip
RESHAPE = {
    "view", "view_as", "reshape", "reshape_as", "flatten", "ravel", "unflatten", "contiguous", "to",
}  # fmt: skip
# Their results lie in memory of their own.
FRESH = (
    Layer, nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm,
    nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd,
)  # fmt: skip
FRESH_FUNCTIONS: tuple[Any, ...] = (
    operator.add, operator.sub, operator.mul, operator.truediv, torch.cat,
)  # fmt: skip


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
    if any(isinstance(arg, torch.dtype) for view in views for arg in view.args):
        return False
    if any(_reshapes(node, modules) for node in network.graph.nodes) and any(
        mutates(node, modules) and not _into_fresh(node, modules) for node in network.graph.nodes
    ):
        return False
    for view in views:
        view.target = {"view": "reshape", "view_as": "reshape_as"}[str(view.target)]
    if views:
        network.recompile()
    return True


def _reshapes(node: fx.Node, modules: dict[str, Any]) -> bool:
    """Whether a step returns a view or a copy, depending on how its input lies."""
    if node.op == "call_module":
        return isinstance(modules.get(str(node.target)), nn.Flatten | nn.Unflatten)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op in ("call_method", "call_function") and name in RESHAPE


def _into_fresh(node: fx.Node, modules: dict[str, Any]) -> bool:
    """Whether a step writes into a result that only this step uses."""
    to = node.args[0] if node.args and "out" not in node.kwargs else None
    if not isinstance(to, fx.Node) or len(to.users) != 1:
        return False
    if to.op == "call_module":
        return isinstance(modules.get(str(to.target)), FRESH)
    return to.op == "call_function" and to.target in FRESH_FUNCTIONS


def _unknown(module: nn.Module | None) -> bool:
    known = type(module).__module__.startswith(("torch.nn", "konv.nn"))
    return module is None or not known or is_changed(module)
