"""Which steps of a traced network are an activation that a convolution can do on its way out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F  # noqa: N812 - as everyone writes it

from konv.nn import rectified
from konv.nn.freeze.layer import Activation

PLAIN: dict[Any, str] = {
    **rectified.KINDS,
    nn.SiLU: "silu",
    nn.Hardswish: "hardswish",
    F.relu: "relu",
    F.relu_: "relu",
    torch.relu: "relu",
    torch.relu_: "relu",
    F.relu6: "relu6",
    F.silu: "silu",
    F.hardswish: "hardswish",
    "relu": "relu",
    "relu_": "relu",
}
LEAKY = (nn.LeakyReLU, F.leaky_relu, F.leaky_relu_)
GELU = (nn.GELU, F.gelu)
CLIPPED = (nn.Hardtanh, F.hardtanh, F.hardtanh_)


def activation_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> Activation:
    """The activation in konv's words, None if the step is none of those that it has."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        kind: Any = type(module)
        given: Callable[[int, str, Any], Any] = lambda _, name, __: getattr(module, name)  # noqa: E731
    else:
        kind = node.target

        def given(place: int, name: str, default: Any) -> Any:
            return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)

    if kind in PLAIN:
        return PLAIN[kind]
    if kind in LEAKY:
        slope = given(1, "negative_slope", 0.01)
        return ("leaky_relu", float(slope)) if isinstance(slope, int | float) else None
    if kind in GELU:
        variant = given(1, "approximate", "none")
        return {"none": "gelu", "tanh": ("gelu", "tanh")}.get(variant)  # type: ignore[return-value]
    if kind in CLIPPED:
        least, most = given(1, "min_val", -1.0), given(2, "max_val", 1.0)
        return "relu6" if (least, most) == (0, 6) else None
    return None
