"""The ONNX project's own tests of Conv and ConvTranspose: every one that its package carries."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.backend.test.case import node as cases
from onnx.backend.test.loader import load_model_tests
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

import konv

Array = np.ndarray[Any, Any]
OPERATORS = {"Conv", "ConvTranspose"}
# The modules of onnx.backend.test.case.node whose models hold such a node; two of the package's
# other modules speak of convolution too, of integers and of deformed kernels: other operators.
MODULES = ("conv", "convtranspose", "causal_conv_with_state")
OTHERS = {"cast", "convinteger", "deformconv", "qlinearconv"}
NODES, RECORDED = 17, 30
EXPANDED = 13
"""CausalConvWithState is a function; written out, it holds a depthwise Conv, twice in float16."""


def convolve(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    transposed: bool,
    auto_pad: str = "NOTSET",
    kernel_shape: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    group: int = 1,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
) -> Array:
    """One node, computed by konv: ONNX's attributes in konv's words."""
    dims = x.ndim - 2
    assert kernel_shape is None or tuple(kernel_shape) == w.shape[2:]
    stride, dilation = tuple(strides or (1,) * dims), tuple(dilations or (1,) * dims)
    more = list(output_padding or (0,) * dims)
    flat = list(pads or (0,) * 2 * dims)
    padding: Any = tuple(zip(flat[:dims], flat[dims:], strict=True))
    extents = [a * (k - 1) + 1 for a, k in zip(dilation, w.shape[2:], strict=True)]
    if transposed:
        wanted = output_shape
        if auto_pad.startswith("SAME"):
            wanted = [n * s for n, s in zip(x.shape[2:], stride, strict=True)]
        if wanted is not None:
            natural = [
                s * (n - 1) + extent + m
                for n, s, extent, m in zip(x.shape[2:], stride, extents, more, strict=True)
            ]
            excess = [a - b for a, b in zip(natural, wanted, strict=True)]
            padding = tuple(_halves(max(e, 0), auto_pad == "SAME_UPPER") for e in excess)
            more = [m + max(-e, 0) for m, e in zip(more, excess, strict=True)]
    elif auto_pad == "SAME_LOWER":
        totals = (
            max(0, (-(-n // s) - 1) * s + extent - n)
            for n, s, extent in zip(x.shape[2:], stride, extents, strict=True)
        )
        padding = tuple(_halves(total, end=False) for total in totals)
    elif auto_pad != "NOTSET":
        padding = {"SAME_UPPER": "same", "VALID": "valid"}[auto_pad]
    if transposed:
        function = (konv.conv_transpose1d, konv.conv_transpose2d, konv.conv_transpose3d)[dims - 1]
        y: Array = function(x, w, b, stride, padding, tuple(more), group, dilation)
    else:
        function = (konv.conv1d, konv.conv2d, konv.conv3d)[dims - 1]
        y = function(x, w, b, stride, padding, dilation, group)
    assert y.dtype == x.dtype
    return y


def _halves(total: int, end: bool) -> tuple[int, int]:
    """`total` pixels on both sides of an axis; the odd one at the end or at the beginning."""
    less, more = total // 2, total - total // 2
    return (less, more) if end else (more, less)


calls: list[str] = []


class Conv(OpRun):  # type: ignore[misc] # onnx carries no types
    op_domain = ""

    def _run(self, x: Array, w: Array, b: Array | None = None, **attributes: Any) -> tuple[Array]:
        calls.append(type(self).__name__)
        given = {key: value for key, value in attributes.items() if value is not None}
        transposed = type(self) is ConvTranspose
        return (convolve(x, w, b, transposed=transposed, **given),)


class ConvTranspose(Conv):
    pass


def _operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node if node.op_type in OPERATORS]


@cache
def collected() -> tuple[tuple[str, onnx.ModelProto, Any, float, float], ...]:
    """Name, model, [(inputs, outputs)], tolerances of all tests with such a node in their model."""
    for name in MODULES:
        import_module(f"{cases.__name__}.{name}")
    found = [
        (case.name, case.model, case.data_sets, case.rtol, case.atol)
        for case in cases._NodeTestCases
    ]
    for kind in ("pytorch-converted", "pytorch-operator", "simple"):
        for case in load_model_tests(kind=kind):
            folder = Path(case.model_dir)
            model = onnx.load(folder / "model.onnx")
            if _operators(model):
                data = [_recorded(part) for part in sorted(folder.glob("test_data_set_*"))]
                found.append((f"{kind}/{case.name}", model, data, case.rtol, case.atol))
    return tuple(case for case in found if _operators(case[1]))


def _recorded(folder: Path) -> tuple[list[Array], list[Array]]:
    def arrays(what: str) -> list[Array]:
        files = sorted(folder.glob(f"{what}_*.pb"), key=lambda path: int(path.stem.split("_")[1]))
        return [onnx.numpy_helper.to_array(onnx.load_tensor(file)) for file in files]

    return arrays("input"), arrays("output")


@pytest.mark.parametrize("name", [case[0] for case in collected()])
def test_onnx_agrees(name: str) -> None:
    """The outputs that ONNX expects, within ONNX's own tolerance; konv computed the convolution."""
    model, data, rtol, atol = next(case[1:] for case in collected() if case[0] == name)
    session = ReferenceEvaluator(model, new_ops=[Conv, ConvTranspose])
    assert data
    for inputs, outputs in data:
        calls.clear()
        names = [value.name for value in model.graph.input]
        weights = {value.name for value in model.graph.initializer}
        feeds = dict(zip((n for n in names if n not in weights), inputs, strict=False))
        got = session.run(None, feeds)
        assert calls == _operators(model)
        for y, expected in zip(got, outputs, strict=True):
            assert y.dtype == expected.dtype
            assert y.shape == expected.shape
            np.testing.assert_allclose(y, expected, rtol=rtol, atol=atol)


def test_all_of_them_are_there() -> None:
    """None is left out, and every attribute the operators have is used by one of them at least."""
    names = [case[0] for case in collected()]
    assert len(names) == len(set(names)) == NODES + EXPANDED + RECORDED
    assert sum("expanded" in name for name in names) == EXPANDED
    assert sum("/" in name for name in names) == RECORDED
    speaking = {
        path.stem
        for path in Path(str(cases.__file__)).parent.glob("*.py")
        if "Conv" in path.read_text(encoding="utf-8")
    }
    assert speaking == {*MODULES, *OTHERS}
    used = {
        attribute.name
        for case in collected()
        for node in case[1].graph.node
        if node.op_type in OPERATORS
        for attribute in node.attribute
    }
    schema = onnx.defs.get_schema
    assert used == {name for operator in OPERATORS for name in schema(operator).attributes}
