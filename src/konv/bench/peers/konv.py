"""konv as its users call it: the function, on tensors where PyTorch is installed, else on arrays.

The same kind of array as PyTorch itself is given, so that both pay for the same allocations. Each
call finds out by itself, as for any user, whether its weights are those it packed before, which is
a third of the time where they are 9 MB (3x3 512@7). A prepared layer does not ask, nor does what
ONNX Runtime, OpenVINO, ncnn and torch.compile make of a model.
"""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import Any

from konv import functional, llvm
from konv.bench.peers.peer import LAST, LAYOUTS, Array, Run, call_of, last, why_no_layer
from konv.bench.peers.torch import tensor
from konv.errors import UnsupportedError
from konv.geometry import Conv
from konv.prepared import prepare
from konv.runtime.choose import pin


class Konv:
    """konv.conv1d ... conv_transpose3d, or the layer that konv.prepare makes, on arrays of one
    layout; with an algorithm pinned, or the one that konv chooses.
    """

    compiles = False

    def __init__(
        self, layout: str, tensors: bool, plan: str | None = None, prepared: bool = False
    ) -> None:
        self.layout, self.tensors, self.plan, self.prepared = layout, tensors, plan, prepared
        self.library = plan or "konv"

    def why_not(self, conv: Conv) -> str | None:
        if self.tensors and self.layout == LAST and conv.dims == 1:
            return "PyTorch has no channels-last tensors of one dimension"
        refused = why_no_layer(conv)
        if self.plan is None or refused:
            return refused
        contiguous = self.layout != LAST
        try:
            pin(self.plan, conv, llvm.detect(), contiguous, contiguous)
        except UnsupportedError as error:
            return str(error)
        return None

    def prepare(self, conv: Conv, x: Array, weight: Array, bias: Array) -> Run:
        image, weights = self._array(x), self._array(weight)
        biases = tensor(bias) if self.tensors else bias
        if self.prepared:
            return partial(prepare(conv, weights, biases, plan=self.plan), image)
        call = call_of(conv)
        keywords: dict[str, Any] = dict(call.rest)
        if self.plan:
            keywords["plan"] = self.plan
        padding = call.amounts if call.symmetric else call.padding
        if padding != 0:
            keywords["padding"] = padding
        if call.mode != "zeros":
            keywords["padding_mode"] = call.mode
        return partial(getattr(functional, call.function), image, weights, biases, **keywords)

    def _array(self, a: Array) -> Any:
        if self.tensors:
            return tensor(a, self.layout)
        return last(a) if self.layout == LAST else a


def peers(prepared: bool = False) -> tuple[Konv, ...]:
    """Return both layouts."""
    tensors = find_spec("torch") is not None
    return tuple(Konv(layout, tensors, prepared=prepared) for layout in LAYOUTS)
