"""A convolution as an ONNX model of one layer, for the libraries that run models, not calls.

Weight and bias are constants of the model, so that these libraries may arrange them once and for
all, as they do for their users.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from konv.bench.peers.peer import Array, call_of, why_no_layer
from konv.geometry import Conv
from konv.geometry.terms import Terms

OPSET, IR = 19, 9  # the first whose Pad wraps around, and the format of its time
INPUT, OUTPUT = "x", "y"
MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def readable(library: str) -> bool:
    """Whether a library is installed, and with it what its models are written with."""
    return find_spec(library) is not None and find_spec("onnx") is not None


def why_no_model(conv: Conv) -> str | None:
    """Return why a Conv is no ONNX model in float32, None if it is one."""
    if conv.dtype != "float32":
        return f"is measured in float32 only, not in {conv.dtype}"
    if conv.transposed and any(side < 0 for pair in call_of(conv).padding for side in pair):
        return "ONNX crops a transposed convolution by no negative amounts"
    return why_no_layer(conv)


def model_of(conv: Conv, weight: Array, bias: Array) -> bytes:
    """Return the model: x (n, ci, *spatial) -> y (n, co, *spatial)."""
    from onnx import TensorProto, helper, numpy_helper

    call = call_of(conv)
    constants = {"w": weight, "b": bias}
    nodes, image, inside = [], INPUT, call.padding
    if call.mode != "zeros" or any(side < 0 for pair in call.padding for side in pair):
        import numpy as np

        sides = [(0, 0), (0, 0), *call.padding]
        constants["sides"] = np.array(_before_then_after(sides), np.int64)
        nodes.append(helper.make_node("Pad", [INPUT, "sides"], ["p"], mode=MODES[call.mode]))
        image, inside = "p", ((0, 0),) * conv.dims
    kind = "ConvTranspose" if conv.transposed else "Conv"
    nodes.append(helper.make_node(kind, [image, "w", "b"], [OUTPUT], **_attributes(conv, inside)))
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, conv.in_shape)],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, conv.out_shape)],
        [numpy_helper.from_array(a, name) for name, a in constants.items()],
    )
    opset = [helper.make_opsetid("", OPSET)]
    made: bytes = helper.make_model(graph, opset_imports=opset, ir_version=IR).SerializeToString()
    return made


def _attributes(conv: Conv, padding: tuple[tuple[int, int], ...]) -> dict[str, Any]:
    """Return the attributes of Conv or ConvTranspose."""
    terms = [Terms.of(axis, conv.transposed) for axis in conv.axes]
    found: dict[str, Any] = {
        "kernel_shape": [t.kernel for t in terms],
        "strides": [t.stride for t in terms],
        "dilations": [t.dilation for t in terms],
        "pads": _before_then_after(padding),
        "group": conv.groups,
    }
    if conv.transposed:
        found["output_padding"] = [t.output_padding for t in terms]
    return found


def _before_then_after(sides: Any) -> list[int]:
    """Return padding as ONNX writes it: before all axes, then behind all of them."""
    return [lo for lo, _ in sides] + [hi for _, hi in sides]
