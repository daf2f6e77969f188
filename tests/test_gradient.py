"""konv.weight_gradient: right by the reference and by PyTorch, in every layout and type."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from functional.forms import FORMS, numbers, tensor
from torch.nn import functional as nn

import konv
from konv import Conv, ProblemError, UnsupportedError, reference, rounding, weight_gradient
from konv.geometry import Axis, read_problems
from konv.nn import gradients
from konv.pair import pair

FOLDER = Path(__file__).resolve().parents[1] / "problems"
KINDS = (
    "conv2d 2x6x9x8 o8 k3 s2 p1 g2",
    "tconv2d 2x6x9x8 o8 k3 s2 p1 r1 g2",
    "conv2d 3x5x8x7 o5 k3 p2 d2 g5",
    "conv2d 2x4x8x7 o8 k3 p1 g4",
    "tconv2d 2x6x5x8 o6 k5 s3 g6 p1",
    "conv1d 3x4x20 o5 k4 s3 p2:0",
    "conv3d 2x4x5x6x7 o3 k3x1x2 p1",
    "tconv3d 1x4x3x4x3 o5 k2 s2",
    "conv2d 2x4x9x9 o4 k1",
    "conv2d 1x3x5x5 o2 k5 p6",
)


def arrays(conv: Conv, seed: int = 0) -> tuple[Any, Any]:
    """x and dy."""
    rng = np.random.default_rng(seed)
    x, dy = (rng.standard_normal(shape) for shape in (conv.in_shape, conv.out_shape))
    return x.astype(conv.dtype), dy.astype(conv.dtype)


def check(conv: Conv, x: Any, dy: Any) -> Any:
    """The gradient, which is within the bound. Returns it."""
    __tracebackhide__ = True
    got = weight_gradient(conv, x, dy)
    assert type(got) is type(x)
    assert tuple(got.shape) == conv.weight_shape
    x, dy = (a.float() if a.dtype is torch.bfloat16 else a for a in (x, dy)) \
        if isinstance(x, torch.Tensor) else (x, dy)  # fmt: skip
    x, dy = numbers(x), numbers(dy)
    want = reference.weight_gradient(conv, x, dy)
    bound = rounding.weight_gradient_tolerance(conv, x, dy)
    plain = numbers(got.float() if isinstance(got, torch.Tensor) else got)
    wrong = ~(np.abs(plain - want) <= bound)
    assert not wrong.any(), f"{conv}: {wrong.sum()} of {wrong.size} wrong, {np.argwhere(wrong)[:5]}"
    return got


def shrunk(conv: Conv) -> Conv:
    """The same kind of layer with little to compute."""
    few = min(conv.groups, 3)
    ci, co = (c // conv.groups for c in (conv.ci, conv.co))
    ci, co = (c if c < 9 else 8 + c % 8 for c in (ci, co))
    axes = tuple(_shorter(axis) for axis in conv.axes)
    return replace(conv, n=2, ci=few * ci, co=few * co, groups=few, axes=axes)


def _shorter(axis: Axis) -> Axis:
    for size in range(min(axis.size, 7), axis.size):
        try:
            return replace(axis, size=size)
        except ProblemError:  # the kernel does not fit
            continue
    return axis


LINES = [
    conv
    for file in sorted(FOLDER.glob("*.txt"))
    for _, conv in read_problems(file.read_text("utf-8"))
    if conv.mode == "zeros"
]
ALIKE = {replace(shrunk(conv), dtype="float32"): None for conv in LINES}


@pytest.mark.parametrize("conv", ALIKE, ids=str)
def test_problems(conv: Conv) -> None:
    check(conv, *arrays(conv))


@pytest.mark.parametrize("line", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_types(line: str, dtype: str) -> None:
    conv = replace(Conv.parse(line), dtype=dtype)
    assert check(conv, *arrays(conv)).dtype == dtype


@pytest.mark.parametrize("line", KINDS)
def test_bfloat16(line: str) -> None:
    conv = Conv.parse(line)
    x, dy = (tensor(a).bfloat16() for a in arrays(conv))
    assert check(replace(conv, dtype="bfloat16"), x, dy).dtype == torch.bfloat16


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("line", KINDS[:3])
def test_forms(line: str, form: str) -> None:
    """Whatever strides, alignment or byte order the arrays have."""
    conv = Conv.parse(line)
    x, dy = arrays(conv)
    check(conv, FORMS[form](x, Random(1)), FORMS[form](dy, Random(2)))
    check(conv, x, FORMS[form](dy, Random(3)))
    check(conv, FORMS[form](x, Random(4)), dy)


@pytest.mark.parametrize("form", ["contiguous", "last", "steps", "zero", "permuted"])
@pytest.mark.parametrize("line", KINDS)
def test_tensors(line: str, form: str) -> None:
    """As PyTorch's own gradient."""
    conv = Conv.parse(line)
    x, dy = (tensor(FORMS[form](a, Random(1))) for a in arrays(conv))
    check(conv, x, dy)


@pytest.mark.parametrize("transposed", [False, True])
def test_as_pytorch_has_it(transposed: bool) -> None:
    """The weight as PyTorch stores it, taps in its order."""
    call = nn.conv_transpose2d if transposed else nn.conv2d
    x = torch.randn(2, 6, 7, 9, dtype=torch.float64)
    conv = Conv.of(x.shape, 4, 3, 2, 1, groups=2, transposed=transposed, dtype="float64")
    w = torch.randn(conv.weight_shape, dtype=torch.float64, requires_grad=True)
    y = call(x, w, None, 2, 1, groups=2)
    dy = torch.randn_like(y)
    y.backward(dy)
    assert torch.allclose(weight_gradient(conv, x, dy), w.grad, rtol=0, atol=1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize("as_tensors", [False, True])
def test_empty_batch(as_tensors: bool) -> None:
    conv = Conv.of((0, 3, 5, 5), 4, 3)
    x, dy = arrays(conv)
    got = (
        weight_gradient(conv, tensor(x), tensor(dy)) if as_tensors else weight_gradient(conv, x, dy)
    )
    assert got.shape == conv.weight_shape
    assert not got.any()


def test_padded_layer_in_place_of_a_mode() -> None:
    """The way out of the error: the input padded by hand."""
    conv = Conv.of((2, 3, 7, 8), 4, 3, 2, 1, padding_mode="reflect")
    x, dy = arrays(conv)
    pads = [(0, 0), (0, 0), *(axis.overhang() for axis in conv.axes)]
    got = check(conv.padded(), np.pad(x, pads, mode="reflect"), dy)
    assert np.allclose(got, reference.weight_gradient(conv, x, dy), rtol=1e-4, atol=1e-4)


X, DY = np.ones((1, 2, 5), "float32"), np.ones((1, 3, 4), "float32")
LAYER = Conv.of(X.shape, 3, 2)
WRONG: list[tuple[Any, Any, Any, type[Exception], str]] = [
    (LAYER, X[:, :1], DY, ProblemError,
     "x is float32 (1, 1, 5); the weight gradient of conv1d 1x2x5 o3 k2 wants float32 (1, 2, 5). "
     "Use an array of that shape and dtype."),
    (LAYER, X, DY.astype("float64"), ProblemError,
     "dy is float64 (1, 3, 4); the weight gradient of conv1d 1x2x5 o3 k2 wants float32 (1, 3, 4). "
     "Use an array of that shape and dtype."),
    (LAYER, X.tolist(), DY, TypeError,
     "x is a list; konv.weight_gradient takes NumPy arrays and PyTorch CPU tensors. Use "
     "numpy.asarray(x)."),
    (LAYER, X, torch.from_numpy(DY), TypeError,
     "dy is a Tensor, x a numpy.ndarray. Use the same library for both."),
    ("conv1d", X, DY, TypeError, "conv is a str. Use a konv.Conv."),
    (replace(LAYER, mode="circular"), X, DY, UnsupportedError,
     "padding_mode='circular' has no weight gradient of its own. Pad x by that mode, as many "
     "pixels as axis.overhang() says for each axis, and use conv.padded()."),
]  # fmt: skip


@pytest.mark.parametrize(("conv", "x", "dy", "error", "text"), WRONG)
def test_errors(conv: Any, x: Any, dy: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as raised:
        weight_gradient(conv, x, dy)
    assert str(raised.value) == text


def test_gradients_of_gradients_are_refused() -> None:
    x = torch.from_numpy(X).requires_grad_()
    with pytest.raises(UnsupportedError, match="x requires grad"):
        weight_gradient(LAYER, x, torch.from_numpy(DY))


@pytest.mark.parametrize("line", KINDS)
def test_threads_change_no_bit(line: str) -> None:
    conv = Conv.parse(line)
    x, dy = arrays(conv)
    before, found = konv.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            konv.set_num_threads(count)
            found.append(weight_gradient(conv, x, dy))
    finally:
        konv.set_num_threads(before)
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_equal_layers_are_planned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever makes the Conv anew at every call: PyTorch's operator, double backward, vmap."""
    planned: list[Any] = []
    real = konv.gradient.GradientCall
    monkeypatch.setattr(konv.gradient, "GradientCall", lambda *a: (planned.append(a), real(*a))[1])
    x, dy = arrays(Conv.parse("conv2d 2x3x11x7 o5 k3 s2 p1"))
    for _ in range(3):
        weight_gradient(Conv.parse("conv2d 2x3x11x7 o5 k3 s2 p1"), x, dy)
    assert len(planned) == 1


LAST = (
    *KINDS[:-2],
    "conv2d 1x8x28x28 o8 k3 p1 g2",
    "conv2d 1x19x17x17 o40 k3 p12 d12",
    "conv2d 2x32x14x14 o40 k3 p1",
)


@pytest.mark.parametrize("line", LAST)
def test_channels_last_results(line: str) -> None:
    """A gradient lies as its weight does, so autograd need not copy it, and has the same bits."""
    conv = Conv.parse(line)
    x, dy = (torch.from_numpy(a) for a in arrays(conv))
    plain = konv.gradient.of_numbers(pair(conv), x, dy)
    last = konv.gradient.of_numbers(pair(conv), x, dy, True)
    assert torch.equal(last, plain)
    assert plain.is_contiguous()
    assert last.movedim(1, -1).is_contiguous()


def test_autograd_keeps_the_very_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    real = gradients.of_numbers

    def watched(*a: Any) -> Any:
        made.append((dw := real(*a)).data_ptr())
        return dw

    monkeypatch.setattr(gradients, "of_numbers", watched)
    for layout in (torch.contiguous_format, torch.channels_last):
        layer = konv.nn.Conv2d(8, 16, 3).to(memory_format=layout)
        layer(torch.ones(2, 8, 9, 9).to(memory_format=layout)).sum().backward()
        assert layer.weight.grad is not None
        assert layer.weight.grad.stride() == layer.weight.stride()
        assert made.pop() == layer.weight.grad.data_ptr()
