"""PyTorch's convolution behind torch.compile, in both layouts.

Frozen, without gradients: the weight is a constant of what is compiled, which PyTorch then arranges
for oneDNN once and for all. A contiguous image is computed channels-last, both conversions in the
call. A layer costs seconds to compile the first time; PyTorch keeps what it compiled on disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from shutil import which
from types import FunctionType
from typing import Any

from konv.bench.peers.peer import LAYOUTS, Array, Run
from konv.bench.peers.torch import Torch, layer, tensor
from konv.geometry import Conv


class Compiled:
    """torch.compile of a module of one layer."""

    library, compiles = "compiled", True

    def __init__(self, layout: str) -> None:
        self.layout = layout

    def why_not(self, conv: Conv) -> str | None:
        if conv.dtype != "float32":
            return f"PyTorch freezes layers in float32 only, not in {conv.dtype}"
        return Torch(self.layout).why_not(conv)

    def prepare(self, conv: Conv, x: Array, weight: Array, bias: Array) -> Run:
        torch: Any = import_module("torch")  # whose compile has no types
        settings: Any = import_module("torch._inductor.config")
        module = _module(layer(conv), tensor(weight, self.layout), tensor(bias))
        compiled = torch.compile(module, dynamic=False)
        image = tensor(x, self.layout)

        def run() -> Any:
            with torch.no_grad():
                return compiled(image)

        with settings.patch(freezing=True):
            run()  # compiles; the setting is asked for here only
        return run


def _module(call: Callable[[Any, Any, Any], Any], weight: Any, bias: Any) -> Any:
    """Return a module whose only step is a layer."""
    import torch

    def forward(self: Any, x: Any) -> Any:
        return call(x, self.weight, self.bias)

    # PyTorch compiles a piece of code anew for each of its callers up to eight times, and then
    # gives up without a word. Each layer gets code of its own, as in a user's program.
    own = forward.__code__.replace(co_name="forward")
    again = FunctionType(own, forward.__globals__, "forward", None, forward.__closure__)
    module = type("Layer", (torch.nn.Module,), {"forward": again})()
    for name, value in (("weight", weight), ("bias", bias)):
        setattr(module, name, torch.nn.Parameter(value, requires_grad=False))
    return module.eval()


def peers() -> tuple[Compiled, ...]:
    """Return both layouts, none without PyTorch or without the C++ compiler that it then needs."""
    compilers = os.environ.get("CXX", "g++"), "clang++"
    able = find_spec("torch") and any(map(which, compilers))
    return tuple(Compiled(layout) for layout in LAYOUTS) if able else ()
