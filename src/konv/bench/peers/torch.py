"""PyTorch's own convolution on the CPU (oneDNN and others, as it chooses), in both memory layouts.

Padding that its functions do not take - unequal sides, modes other than zeros - is done by
torch.nn.functional.pad in the timed call, as users of PyTorch must.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

from konv.bench.peers.peer import (
    CONTIGUOUS,
    LAST,
    LAYOUTS,
    Array,
    Call,
    Run,
    call_of,
    why_no_layer,
)
from konv.geometry import Conv


class Torch:
    """torch.nn.functional.conv1d ... conv_transpose3d, on tensors of one layout."""

    library, compiles = "torch", False

    def __init__(self, layout: str) -> None:
        self.layout = layout

    def why_not(self, conv: Conv) -> str | None:
        if self.layout == LAST and conv.dims == 1:
            return "PyTorch has no channels-last tensors of one dimension"
        if conv.transposed and not call_of(conv).symmetric:
            return "PyTorch crops both sides of a transposed convolution alike"
        if conv.transposed and conv.mode != "zeros":
            return "PyTorch's transposed layers pad with zeros only"
        return why_no_layer(conv)

    def prepare(self, conv: Conv, x: Array, weight: Array, bias: Array) -> Run:
        arrays = tensor(x, self.layout), tensor(weight, self.layout), tensor(bias)
        return partial(layer(conv), *arrays)


def layer(conv: Conv) -> Callable[[Any, Any, Any], Any]:
    """Return the call of image, weight and bias that computes a Conv."""
    from torch.nn import functional

    call = call_of(conv)
    function = getattr(functional, call.function)
    if call.symmetric and call.mode == "zeros":
        padding = {"padding": call.amounts} if call.amounts != 0 else {}
        return partial(function, **padding, **call.rest)
    sides, mode = _sides(call), "constant" if call.mode == "zeros" else call.mode

    def padded(image: Any, weight: Any, bias: Any) -> Any:
        return function(functional.pad(image, sides, mode), weight, bias, **call.rest)

    return padded


def _sides(call: Call) -> list[int]:
    """Return the padding as torch.nn.functional.pad wants it: the last axis first."""
    return [side for pair in reversed(call.padding) for side in pair]


def tensor(a: Array, layout: str = CONTIGUOUS) -> Any:
    """Return the array as a tensor of its own, without gradient, in a memory layout."""
    import torch

    made = torch.from_numpy(a)
    if layout == CONTIGUOUS:
        return made
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return made.contiguous(memory_format=formats[a.ndim])


def peers() -> tuple[Torch, ...]:
    """Return both layouts, none without PyTorch."""
    return tuple(Torch(layout) for layout in LAYOUTS) if find_spec("torch") else ()
