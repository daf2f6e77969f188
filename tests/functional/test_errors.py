"""Errors are promises: each names field, value, rule and way out, before any work, and leaves
nothing behind.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import as_strided

import konv
from konv import dispatch
from konv.errors import OutOfMemoryError, ProblemError, UnsupportedError
from konv.runtime import memory, weights


def zeros(*shape: int, dtype: Any = "float32") -> Any:
    """Zeros of any size that take one number of memory."""
    return np.broadcast_to(np.zeros((1,) * len(shape), dtype), shape)


X, W, B = np.ones((1, 4, 9, 9), "f4"), np.ones((6, 4, 3, 3), "f4"), np.ones(6, "f4")
WT = np.ones((4, 6, 3, 3), "f4")
TX, TW = torch.ones(1, 4, 9, 9), torch.ones(6, 4, 3, 3)
conv, transpose = konv.conv2d, konv.conv_transpose2d

Row = tuple[str, Callable[[], Any], type[Exception], str]

ARRAYS: list[Row] = [
    ("weight f64", lambda: conv(X, W.astype("f8")), ProblemError,
     "weight is float64 and x is float32; conv2d wants one dtype. Use weight.astype(x.dtype)."),
    ("bias f64", lambda: conv(X, W, B.astype("f8")), ProblemError,
     "bias is float64 and x is float32; conv2d wants one dtype. Use bias.astype(x.dtype)."),
    ("tensor f64", lambda: conv(TX, TW.double()), ProblemError,
     "weight is float64 and x is float32; conv2d wants one dtype. Use weight.to(x.dtype)."),
    ("channels", lambda: conv(X, W[:, :3]), ProblemError,
     "x has 4 channels, and weight.shape[1] x groups = 3 x 1 = 3; they must be equal (conv2d, x "
     "(1, 4, 9, 9), "
     "weight (6, 3, 3, 3)). Use an x with 3 channels."),
    ("channels of groups", lambda: conv(X, W[:, :2]), ProblemError, "Use groups=2, or an x with 2 "
                                                                    "channels."),
    ("weight of the other kind", lambda: transpose(X, W), ProblemError,
     "x has 4 channels, and weight.shape[0] = 6; they must be equal (conv_transpose2d, x (1, 4, "
     "9, 9), "
     "weight (6, 4, 3, 3)). Swap the first two axes of the weight"),
    ("weight of three axes", lambda: conv(X, W[..., 0]), ProblemError,
     "weight has 3 axes (6, 4, 3); conv2d takes 4: out, in / groups and the kernel."),
    ("weight of a transposed layer", lambda: transpose(X, W[..., 0]), ProblemError,
     "in, out / groups and the kernel."),
    ("bias of 5", lambda: conv(X, W, B[:5]), ProblemError,
     "bias has shape (5,); it must be (6,), one number per output channel."),
    ("bias of two axes", lambda: conv(X, W, B[:, None]), ProblemError, "bias has shape (6, 1); it "
                                                                       "must be (6,)"),
    ("bias of no axis", lambda: conv(X, W, np.array(1, "f4")), ProblemError,
     "bias has shape (); it must be (6,)"),
    ("two axes", lambda: conv(X[0, 0], W), ProblemError,
     "x has 2 axes (9, 9); conv2d takes 4 (batch, channels, 2 of space) or 3 without batch. Add "
     "or drop axes."),
    ("five axes", lambda: conv(X[None], W), ProblemError, "x has 5 axes (1, 1, 4, 9, 9)"),
    ("no axes", lambda: konv.conv1d(np.array(3, "f4"), W[..., 0]), ProblemError, "x has 0 axes ()"),
    ("no channels", lambda: conv(X[:, :0], W[:, :0]), ProblemError, "in_channels=0 is too small"),
    ("no output channels", lambda: conv(X, W[:0]), ProblemError, "out_channels=0 is too small"),
    ("no pixels", lambda: conv(X[:, :, :0], W), ProblemError, "spatial size=0 is too small"),
    ("no taps", lambda: conv(X, W[:, :, :0]), ProblemError, "kernel=0 is too small: kernel must "
                                                            "be >= 1."),
    ("photograph", lambda: conv(np.zeros((40, 60, 3), "u1"), zeros(8, 3, 3, 3)), ProblemError,
     r'x is a uint8 image of shape \(40, 60, 3\), .*; konv takes channels first and real numbers. '
     r'Write konv.conv2d\(\(x / 255\).astype\("float32"\), weight, layout="NHWC"\).'),
    ("photograph of floats", lambda: conv(zeros(40, 60, 3), zeros(8, 3, 3, 3)), ProblemError,
     'layout="NHWC"'),
    ("photographs", lambda: conv(np.zeros((2, 40, 60, 3), "u1"), zeros(8, 3, 3, 3)), ProblemError,
     'layout="NHWC"'),
    ("list", lambda: conv([[1.0]], W), TypeError,
     "x is a list; konv takes NumPy arrays, PyTorch CPU tensors and arrays that speak DLPack. Use "
     "numpy.asarray(x)."),
    ("weight list", lambda: conv(X, [[1.0]]), TypeError, "weight is a "),
    ("None", lambda: conv(None, W), TypeError, "x is a NoneType"),
    ("bias number", lambda: conv(X, W, 1.0), TypeError, "bias is a "),
    ("array and tensor", lambda: conv(X, TW), TypeError,
     "weight is a torch.Tensor, x is a numpy.ndarray. Use arrays of one library: konv returns "
     "what it is given."),
    ("tensor and array", lambda: conv(TX, TW, B), TypeError, "bias is a numpy.ndarray, x is a "
                                                             "torch.Tensor."),
    ("masked", lambda: conv(np.ma.masked_array(X, X > 0), W), TypeError, "mask"),
]  # fmt: skip

CASTS: list[Row] = [
    (str(dtype), lambda dtype=dtype: conv(X.astype(dtype), W.astype(dtype)), UnsupportedError,
     f"x is {np.dtype(dtype).name}; konv takes float32, float64, float16, bfloat16. Cast it, "
     f"x.astype(\"float32\").")
    for dtype in ("int8", "uint8", "int32", "int64", "uint16", "bool")
] + [
    (str(dtype), lambda dtype=dtype: conv(X.astype(dtype), W), UnsupportedError,
     f"x is {dtype}; konv takes float32, float64, float16, bfloat16. Convolve x.real and x.imag, "
     f"and put them together.")
    for dtype in ("complex64", "complex128")
] + [
    (str(dtype), lambda dtype=dtype: conv(TX.to(dtype), TW.to(dtype)), UnsupportedError,
     f"x is {str(dtype).removeprefix('torch.')}; konv takes float32, float64, float16, bfloat16. "
     f"Cast it, x.float().")
    for dtype in (torch.int16, torch.int64, torch.bool)
]  # fmt: skip

ARGUMENTS: list[Row] = [
    ("stride 0", lambda: conv(X, W, stride=0), ProblemError, "stride=0 is too small: stride must "
                                                             "be >= 1."),
    ("stride -1", lambda: conv(X, W, stride=(2, -1)), ProblemError, "stride=-1 is too small"),
    ("dilation 0", lambda: conv(X, W, dilation=0), ProblemError, "dilation=0 is too small"),
    ("padding -1", lambda: conv(X, W, padding=-1), ProblemError,
     "padding=-1 is negative: padding must be >= 0. Crop the input by slicing it."),
    ("groups 0", lambda: conv(X, W, groups=0), ProblemError, "groups=0 is too small: groups must "
                                                             "be >= 1."),
    ("groups 4 of 6", lambda: conv(X, W[:, :1], groups=4), ProblemError,
     "groups=4 does not divide out_channels=6 (Conv2d 4->6). Use 1 or 2."),
    ("three strides", lambda: conv(X, W, stride=(1, 2, 3)), ProblemError,
     "stride=(1, 2, 3) has 3 values for 2 spatial axes. Use one integer, or 2 in a tuple."),
    ("four paddings", lambda: conv(X, W, padding=(1, 1, 1, 1)), ProblemError,
     "padding=(1, 1, 1, 1) has 4 entries for 2 spatial axes. Use one integer, one integer per "
     "axis, or one (lo, hi) "
     "pair per axis."),
    ("half a pair", lambda: conv(X, W, padding=((1, 1), (1,))), ProblemError,
     "padding=(1,) has 1 values for the two ends of an axis. Use one (lo, hi) pair per axis."),
    ("full", lambda: conv(X, W, padding="full"), ProblemError,
     "padding='full' is unknown. Use 'valid', 'same', 'causal' or numbers."),
    ("kernel too large", lambda: conv(X, zeros(6, 4, 12, 3), padding=1), ProblemError,
     "H axis: kernel extent 12 (kernel=12, dilation=1) exceeds the padded input of 11 (size=9, "
     "padding 1 + 1). Use "
     "size >= 10 or padding lo + hi >= 3."),
    ("mode", lambda: conv(X, W, padding_mode="mirror"), ProblemError,
     "padding_mode='mirror' is unknown. Use 'zeros', 'reflect', 'replicate', 'circular'."),
    ("overhang", lambda: conv(X, W, padding=9, padding_mode="reflect"), ProblemError,
     "padding_mode='reflect' can supply 8 pixels beside an axis of size 9, but 9 are read. Use "
     "padding <= 8, a larger "
     "image, or 'replicate'."),
    ("overhang circular", lambda: conv(X, W, padding=10, padding_mode="circular"), ProblemError,
     "can supply 9 pixels"),
    ("layout", lambda: conv(X, W, layout="NWC"), ProblemError,
     "layout='NWC' is no layout of conv2d. Use NCHW or NHWC, or leave it out for channels first."),
    ("layout number", lambda: conv(X, W, layout=3), ProblemError,
     "layout=3 is no layout of conv2d."),
    ("same", lambda: transpose(X, WT, padding="same"), ProblemError,
     "padding='same' is undefined for a transposed convolution, whose padding crops the output. "
     "Use numbers"),
    ("cropped away", lambda: transpose(X, WT, padding=6), ProblemError,
     "H axis: padding 6 + 6 crops the 11 pixels of the transposed convolution (size=9, kernel=3, "
     "stride=1, dilation=1) "
     "to nothing. Use padding lo + hi <= 10 or size >= 11."),
    ("output padding", lambda: transpose(X, WT, output_padding=1), ProblemError,
     "output_padding=1 must be >= 0 and smaller than stride=1 or dilation=1. Use at most 0."),
    ("output padding -1", lambda: transpose(X, WT, output_padding=-1), ProblemError,
     "output_padding=-1 is too small"),
    ("output size", lambda: transpose(X, WT, stride=2, output_size=(30, 19)), ProblemError,
     "output_size=(30, 19) cannot be reached: each of 2 axes must lie from (19, 19) to (20, 20). "
     "Use one of these, or "
     "another stride or padding."),
    ("output size and padding", lambda: transpose(X, WT, None, 2, 0, 1, output_size=20),
     ProblemError,
     "output_size=20 and output_padding=1 say the same thing twice. Leave one of them out."),
    ("output size of one axis", lambda: transpose(X, WT, stride=2, output_size=(20,)), ProblemError,
     "output_size=(20,)"),
]  # fmt: skip

# A list of pairs: in a dictionary 1, True and 1.0 would be one key.
WRONG: list[tuple[str, Any, str]] = [
    ("stride", 1.0, "1.0"), ("stride", True, "True"), ("stride", "1", "'1'"), ("stride", None,
     "None"),
    ("stride", (1.0, 1), "1.0"), ("stride", (True, 1), "True"), ("stride", float("nan"), "nan"),
    ("padding", 1.0, "1.0"), ("padding", True, "True"), ("padding", None, "None"),
    ("padding", (1, True), "True"), ("padding", ((1, 1), (1.0, 1)), "1.0"),
    ("dilation", 1.0, "1.0"), ("dilation", True, "True"), ("dilation", (1, 1.0), "1.0"),
    ("groups", 1.0, "1.0"), ("groups", True, "True"), ("groups", "1", "'1'"),
    ("groups", None, "None"), ("groups", (1,), "1"),
    ("padding_mode", 1, "1"), ("padding_mode", None, "None"), ("padding_mode", True, "True"),
]  # fmt: skip
WRONG_TRANSPOSED: list[tuple[str, Any, str]] = [
    ("output_padding", True, "True"), ("output_padding", False, "False"),
    ("output_padding", 0.0, "0.0"), ("output_padding", (0, 1.0), "1.0"),
    ("output_size", 20.0, "20.0"), ("output_size", (20.0, 20), "20.0"),
    ("output_size", "20", "'20'"), ("output_size", True, "True"),
]  # fmt: skip


def wrong_type(call: Callable[..., Any], name: str, value: Any, said: str) -> Row:
    """A call with one argument of a wrong type, which the error names with its value."""
    return f"{name}={value!r}", lambda: call(**{name: value}), TypeError, f"{name}.*{said}"


TYPES = [wrong_type(partial(conv, X, W), *row) for row in WRONG]
TYPES += [wrong_type(partial(transpose, X, WT, stride=2), *row) for row in WRONG_TRANSPOSED]

LARGE: list[Row] = [
    ("padding of 64 bits", lambda: conv(X, W, padding=2**63), ProblemError,
     "padding=9223372036854775808 does not"),
    ("padded to 64 bits", lambda: conv(X, W, padding=2**62), ProblemError,
     "does not fit in 63 bits"),
    ("stride of 64 bits", lambda: conv(X, W, stride=2**63), ProblemError,
     "stride=9223372036854775808 does not fit"),
    ("extent of 64 bits", lambda: conv(X, W, dilation=2**62), ProblemError,
     "kernel extent of 9223372036854775809 pixels"),
    ("output of 64 bits", lambda: conv(X, W, padding=2**40), ProblemError, "output of shape"),
    ("spread to 64 bits", lambda: transpose(X, WT, stride=2**62), ProblemError, "spread input of"),
    ("transposed 64 bits", lambda: transpose(X, WT, stride=2**40), ProblemError, "output of shape"),
    ("result", lambda: conv(zeros(1, 4, 2**20, 2**20), W), OutOfMemoryError,
     r"the result of conv2d 1x4x1048576x1048576 o6 k3 needs 26,388,178,403,424 bytes, this "
     "machine has [0-9,]+. Use "
     "smaller images or a smaller batch, or cut the image into tiles."),
    ("batch", lambda: conv(zeros(2**40, 4, 9, 9), W), OutOfMemoryError, "the result of"),
    ("output channels", lambda: conv(X, zeros(2**40, 4, 3, 3)), OutOfMemoryError, "the result of"),
    ("input channels", lambda: conv(zeros(1, 2**38, 3, 3), zeros(1, 2**38, 3, 3)), OutOfMemoryError,
     "needs"),
    ("kernel", lambda: conv(zeros(1, 1, 2**20, 2**20), zeros(1, 1, 2**20, 2**20)), OutOfMemoryError,
     "needs"),
    ("one axis", lambda: konv.conv1d(zeros(1, 1, 2**40), zeros(1, 1, 3)), OutOfMemoryError,
     "the result of"),
    ("transposed", lambda: transpose(X, WT, stride=2**16), OutOfMemoryError,
     "the result of tconv2d"),
    ("a copy", lambda: conv(zeros(1, 4, 2**17, 2**17, dtype=">f4"), W, stride=2**16),
     OutOfMemoryError, "needs"),
]  # fmt: skip

OUT: list[Row] = [
    (name, lambda out=out: conv(X, W, out=out), error, text)
    for name, out, error, text in (
        ("shape", np.zeros((1, 6, 7, 8), "f4"), ProblemError,
         "out is float32 (1, 6, 7, 8); the result of conv2d is float32 (1, 6, 7, 7). Use a "
         "writable array of that shape "
         "and dtype."),
        ("dtype", np.zeros((1, 6, 7, 7)), ProblemError, "out is float64 (1, 6, 7, 7); the result"),
        ("axes", np.zeros((6, 7, 7), "f4"), ProblemError, "out is float32 (6, 7, 7); the result"),
        ("read-only", zeros(1, 6, 7, 7), ProblemError,
         "out is float32 (1, 6, 7, 7), read-only; the result"),
        ("tensor", torch.zeros(1, 6, 7, 7), TypeError,
         "out is a Tensor, x a numpy.ndarray. Use the same library"),
        ("list", [1], TypeError, "out is a list, x a numpy.ndarray."),
        ("one number", as_strided(np.zeros(1, "f4"), (1, 6, 7, 7), (0, 0, 0, 0)), ProblemError,
         "out"),
    )
] + [
    ("tensor of one number", lambda: conv(TX, TW, out=torch.zeros(1, 6, 1, 1).expand(1, 6, 7, 7)),
     ProblemError, "out"),
    ("tensor that wants a gradient", lambda: conv(TX, TW, out=torch.zeros(1, 6, 7, 7,
     requires_grad=True)),
     UnsupportedError, "out requires grad"),
]  # fmt: skip

ROWS = {
    "arrays": ARRAYS,
    "casts": CASTS,
    "arguments": ARGUMENTS,
    "types": TYPES,
    "large": LARGE,
    "out": OUT,
}
EVERY = [pytest.param(row, id=f"{kind}: {row[0]}") for kind, rows in ROWS.items() for row in rows]


@pytest.mark.parametrize("row", EVERY)
def test_text(row: Row) -> None:
    """The error says what the table says: at once, the second time too, and the next call is
    right.
    """
    _, call, error, text = row
    pattern = text if ".*" in text or "[0-9,]+" in text else re.escape(text)
    before = conv(X, W)
    layers, cached, waiting = len(dispatch._layers), weights.CACHE.bytes, memory.waiting()
    for _ in range(2):
        begin = perf_counter()
        with pytest.raises(error, match=pattern):
            call()
        assert perf_counter() - begin < 0.5
    assert (len(dispatch._layers), weights.CACHE.bytes, memory.waiting()) == (
        layers,
        cached,
        waiting,
    )
    assert np.array_equal(conv(X, W), before)


@pytest.mark.parametrize("row", EVERY)
def test_every_message_ends_as_a_sentence(row: Row) -> None:
    with pytest.raises(row[2]) as caught:
        row[1]()
    said = str(caught.value)
    assert said.endswith("."), said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (lambda: conv(X, W, stride=(2, 2)), lambda: conv(X, W, stride=(2.0, 2.0))),
        (lambda: conv(X, W, padding=(1, 1)), lambda: conv(X, W, padding=(True, 1))),
        (lambda: conv(X, W, dilation=(1, 2)), lambda: conv(X, W, dilation=(1.0, 2))),
        (lambda: conv(X, W, padding=((1, 0), (1, 1))), lambda: conv(X, W, padding=((1, False), (1,
         1)))),
        (lambda: transpose(X, WT, None, 2, 0, 1), lambda: transpose(X, WT, None, 2, 0, True)),
        (lambda: transpose(X, WT, None, 2, 0, 0), lambda: transpose(X, WT, None, 2, 0, 0.0)),
        (lambda: transpose(X, WT, None, 2, 0, (1, 0)), lambda: transpose(X, WT, None, 2, 0, (1.0,
         0))),
        (lambda: transpose(X, WT, None, 2, output_size=20), lambda: transpose(X, WT, None, 2,
         output_size=20.0)),
        (lambda: transpose(X, WT, None, 2, output_size=(20, 19)), lambda: transpose(X, WT, None, 2,
         output_size=(20.0, 19))),
    ],
)  # fmt: skip
def test_what_is_refused_is_always_refused(
    right: Callable[[], Any], wrong: Callable[[], Any]
) -> None:
    """1, True and 1.0 are equal in Python; that the right call came before makes the wrong one no
    better.
    """
    right()
    with pytest.raises(TypeError):
        wrong()


@pytest.mark.parametrize(
    "integer", [np.int64(2), np.uint8(2), np.array(2), np.array([2, 2]), [2, 2], torch.Size([2, 2])]
)
def test_integers_of_every_kind(integer: Any) -> None:
    """Whatever is exactly an integer, or a sequence of them, is one."""
    want = conv(X, W, stride=2, padding=2, dilation=2)
    assert np.array_equal(conv(X, W, stride=integer, padding=integer, dilation=integer), want)


@pytest.mark.parametrize("integer", [np.int64(2), np.uint8(2), np.array(2)])
def test_groups_of_every_kind(integer: Any) -> None:
    assert np.array_equal(conv(X, W[:, :2], groups=integer), conv(X, W[:, :2], groups=2))


def test_nothing_is_written_when_an_error_is_raised() -> None:
    """`out` keeps what it held."""
    out = np.full((1, 6, 7, 7), 7, "f4")
    for call in (
        lambda: conv(X, W[:, :3], out=out),
        lambda: conv(X, W, B[:5], out=out),
        lambda: conv(X, W, stride=0, out=out),
        lambda: conv(X, W, stride=2, out=out),
        lambda: conv(X.astype("i4"), W, out=out),
    ):
        with pytest.raises((ProblemError, UnsupportedError)):
            call()
        assert (out == 7).all()


@pytest.mark.parametrize("channels", [4, 6])
@pytest.mark.parametrize("what", ["x", "weight", "bias"])
def test_out_that_overlaps(what: str, channels: int) -> None:
    """An `out` that shares memory with what is read gets the right result all the same."""
    x = np.random.default_rng(1).standard_normal(6000).astype("f4")
    w = W[:channels]
    want_x = np.array(x[: X.size]).reshape(X.shape)
    want_w = np.array(x[1000 : 1000 + w.size]).reshape(w.shape)
    want_b = np.array(x[2000 : 2000 + channels])
    want = conv(want_x, want_w, want_b, padding=1)
    for shift in (-40, -1, 0, 1, 40):
        memory = x.copy()
        start = {"x": 0, "weight": 1000, "bias": 2000}[what] + shift
        if start < 0:
            continue
        ax = memory[: X.size].reshape(X.shape) if what == "x" else want_x
        aw = memory[1000 : 1000 + w.size].reshape(w.shape) if what == "weight" else want_w
        ab = memory[2000 : 2000 + channels] if what == "bias" else want_b
        out = memory[start : start + channels * 81].reshape(1, channels, 9, 9)
        got = conv(ax, aw, ab, padding=1, out=out)
        assert got is out
        assert np.array_equal(out, want), f"out overlaps {what}, {shift} numbers further"


SMALL = [
    # Small results that need little memory, out of images that span much: no error and no waiting.
    (
        "stride",
        lambda: conv(zeros(1, 3, 20_000, 20_000), zeros(4, 3, 1, 1), stride=5000).shape,
        (1, 4, 4, 4),
    ),
    ("dilation", lambda: conv(X, W, dilation=2**31, padding=2**31).shape, (1, 6, 9, 9)),
    ("more dilation", lambda: conv(X, W, dilation=2**60, padding=2**60).shape, (1, 6, 9, 9)),
    ("more stride", lambda: conv(X, W, stride=2**62).shape, (1, 6, 1, 1)),
    ("no batch", lambda: conv(zeros(0, 4, 2**20, 2**20), W, stride=2**18).shape, (0, 6, 4, 4)),
]


@pytest.fixture(scope="module")
def found_far_apart() -> list[str]:
    """What those calls give in a process that may have 4 GB: one for all, for half of PyTorch and
    NumPy is loaded before the first.
    """
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
        "from functional.test_errors import results_far_apart\nresults_far_apart()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=_env(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def results_far_apart() -> None:
    """A line for each call, its shape or what it raised."""
    for _, call, _ in SMALL:
        try:
            line = str(call())
        except Exception as error:  # noqa: BLE001 - each is for the test of its call
            line = repr(error)
        sys.stdout.write(line + "\n")


@pytest.mark.parametrize("number", range(len(SMALL)), ids=[row[0] for row in SMALL])
def test_far_apart(number: int, found_far_apart: list[str]) -> None:
    """What lies between the pixels that are read costs neither time nor memory."""
    assert found_far_apart[number] == str(SMALL[number][2])


def _env() -> dict[str, str]:
    import os
    from pathlib import Path

    tests = Path(__file__).resolve().parents[1]
    path = os.pathsep.join(
        [str(tests.parent / "src"), str(tests), os.environ.get("PYTHONPATH", "")]
    )
    return {**os.environ, "PYTHONPATH": path}
