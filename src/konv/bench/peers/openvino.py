"""OpenVINO on the CPU: a compiled model of one layer, in float32, with shared arrays.

Channels-last is asked for as its users do, by telling the model how its input and output lie.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from konv.bench.peers.model import model_of, readable, why_no_model
from konv.bench.peers.peer import CONTIGUOUS, LAST, LAYOUTS, Array, ChannelsLast, Run
from konv.geometry import Conv
from konv.runtime.threads import get_num_threads

NAMES = {1: ("NCW", "NWC"), 2: ("NCHW", "NHWC"), 3: ("NCDHW", "NDHWC")}


class OpenVino:
    """InferRequest.infer on tensors set once."""

    library, compiles = "openvino", True

    def __init__(self, layout: str) -> None:
        self.layout = layout

    def why_not(self, conv: Conv) -> str | None:
        if conv.mode == "circular":
            return "OpenVINO pads in no circle"
        return why_no_model(conv)

    def prepare(self, conv: Conv, x: Array, weight: Array, bias: Array) -> Run:
        import openvino

        core = openvino.Core()
        model = core.read_model(model_of(conv, weight, bias))
        y = np.empty(conv.out_shape, conv.dtype)
        if self.layout == LAST:
            model = _last(model, conv.dims)
            x, y = (np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, y))
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": get_num_threads(),
            "INFERENCE_PRECISION_HINT": "f32",
        }
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        request.set_input_tensor(openvino.Tensor(x, shared_memory=True))
        request.set_output_tensor(openvino.Tensor(y, shared_memory=True))
        answer = y if self.layout == CONTIGUOUS else ChannelsLast(y)
        return partial(_infer, request, answer, x)


def _infer(request: Any, answer: Any, _kept: Array) -> Any:
    """Compute; the request knows no more of its arrays than their addresses."""
    request.infer()
    return answer


def _last(model: Any, dims: int) -> Any:
    """Return the model with channels last in its input and output."""
    from openvino import Layout
    from openvino.preprocess import PrePostProcessor

    inside, outside = map(Layout, NAMES[dims])
    steps = PrePostProcessor(model)
    for side in (steps.input(), steps.output()):
        side.tensor().set_layout(outside)
        side.model().set_layout(inside)
    return steps.build()


def peers() -> tuple[OpenVino, ...]:
    """Return both layouts, none where it or onnx is not installed."""
    return tuple(OpenVino(layout) for layout in LAYOUTS) if readable("openvino") else ()
