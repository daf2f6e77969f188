"""konv as its users call it: the function, on tensors where PyTorch is installed, else on arrays.

The same kind of array as PyTorch itself is given, so that both pay for the same allocations. Each
call finds out by itself, as for any user, whether its weights are those it packed before.
"""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import Any

from konv import functional
from konv.bench.peers.peer import LAST, LAYOUTS, Array, Run, call_of, last, why_no_layer
from konv.bench.peers.torch import tensor
from konv.geometry import Conv


class Konv:
    """konv.conv1d ... conv_transpose3d, on arrays of one layout."""

    library, compiles = "konv", False

    def __init__(self, layout: str, tensors: bool) -> None:
        self.layout, self.tensors = layout, tensors

    def why_not(self, conv: Conv) -> str | None:
        if self.tensors and self.layout == LAST and conv.dims == 1:
            return "PyTorch has no channels-last tensors of one dimension"
        return why_no_layer(conv)

    def prepare(self, conv: Conv, x: Array, weight: Array, bias: Array) -> Run:
        call = call_of(conv)
        keywords: dict[str, Any] = dict(call.rest)
        padding = call.amounts if call.symmetric else call.padding
        if padding != 0:
            keywords["padding"] = padding
        if call.mode != "zeros":
            keywords["padding_mode"] = call.mode
        arrays = (self._array(x), self._array(weight))
        biases = tensor(bias) if self.tensors else bias
        return partial(getattr(functional, call.function), *arrays, biases, **keywords)

    def _array(self, a: Array) -> Any:
        if self.tensors:
            return tensor(a, self.layout)
        return last(a) if self.layout == LAST else a


def peers() -> tuple[Konv, ...]:
    """Return both layouts."""
    tensors = find_spec("torch") is not None
    return tuple(Konv(layout, tensors) for layout in LAYOUTS)
