"""y = activation(conv(x) + bias + residual), in every algorithm; the residual may be out itself."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from functional.case import Case
from functional.check import check, few_kernels, first_of, pinned, small_units, threads
from functional.draw import Dice, accepted
from functional.forms import FORMS, numbers
from functional.test_problems import LAYOUTS, PROBLEMS
from torch.nn import functional as nn

import konv
from konv import llvm
from konv.errors import ProblemError, UnsupportedError
from konv.geometry import Conv
from konv.kernels import ALGORITHMS
from konv.kernels.epilogue import ACTIVATIONS
from konv.plan import Algorithm

WORDS = ("", "relu", "relu6", "leaky_relu", "leaky_relu:-0.2", "silu", "hardswish", "gelu",
         "gelu:tanh")  # fmt: skip
# Tails of channels and pixels, strided outputs, depthwise, one and three axes.
LINES = [
    "conv2d 2x5x9x7 o37 k3 p1",
    "tconv2d 1x6x5x6 o21 k3 s2 p1 r1",
    "conv2d 1x40x9x7 o40 k3 p1 g40",
    "conv2d 1x64x7x7 o64 k3 p1",
    "tconv2d 1x36x5x6 o36 k4 s2 p1 g36",
    "conv1d 2x3x40 o16 k5 s2",
    "conv3d 1x3x4x5x6 o18 k3 p1",
    "conv2d 2x12x11x9 o24 k1 g2",
]


THOROUGH = ("", "relu", "gelu")
KERNELS = 8  # of an algorithm in the random problems, or 200 of them would ask for 176


def taken(algorithm: Algorithm, dtype: str) -> list[Conv]:
    """Two problems of its own, if it takes none of these."""
    lines = [*map(Conv.parse, LINES), *PROBLEMS]
    convs = [replace(conv, dtype=dtype) for conv in lines]
    return [c for c in convs if algorithm.why_not(c, llvm.detect()) is None][:2]


def test_every_activation_is_here() -> None:
    """So that one that is added is tested."""
    named = {word.replace("gelu:", "gelu_").partition(":")[0] for word in WORDS}
    assert named == {"", *ACTIVATIONS}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: str(a.name))
def test_every_algorithm(algorithm: Algorithm, word: str, dtype: str) -> None:
    """With a residual and without: a piecewise and a smooth activation in all four layouts, each
    other one in one of them.
    """
    turn = list(LAYOUTS)[WORDS.index(word) % len(LAYOUTS)]
    for number, conv in enumerate(taken(algorithm, dtype)):
        for layouts, forms in LAYOUTS.items():
            if word not in THOROUGH and (dtype == "float64" or number or layouts != turn):
                continue
            residuals = ("", "last" if forms.get("out") == "last" else "contiguous")
            for with_one, residual in enumerate(residuals):
                # One of the two problems for each, but both where most depends on what it is.
                if not (word or residual) or (number != with_one and layouts[0] != layouts[1]):
                    continue
                if dtype == "float64" and number != with_one:
                    continue
                case = Case(conv, bias="contiguous", activation=word, residual=residual, **forms)
                with pinned(algorithm), threads(2), small_units():
                    check(case)


@pytest.mark.parametrize("forms", LAYOUTS.values(), ids=str)
@pytest.mark.parametrize("line", LINES)
def test_in_place(line: str, forms: dict[str, str]) -> None:
    """A residual that is out itself: every number is read before its place is written."""
    forms = {"out": "contiguous", **forms}
    for word, dtype in (("relu", "float32"), ("", "float64"), ("silu", "float32")):
        conv = replace(Conv.parse(line), dtype=dtype)
        case = Case(conv, bias="contiguous", activation=word, residual="out", **forms)
        for count in (1, 3):
            with threads(count), small_units():
                check(case)
        check(replace(case, torch=True))


@pytest.mark.parametrize("line", LINES)
def test_same_bits(line: str) -> None:
    """Threads, units, images of a batch and aligned crops change no bit of an activated result."""
    for word, residual in (("gelu", "contiguous"), ("silu", ""), ("relu", "contiguous")):
        for forms in ("", "x=last out=last"):
            words = f"activation={word} " + f"residual={residual} " * bool(residual) + forms
            case = Case.parse(f"{line} / bias=contiguous {words}")
            once = numbers(check(case))
            for count, pixels in ((1, 1), (2, 7), (3, 20)):
                with threads(count), small_units(pixels, 2):
                    assert np.array_equal(once, numbers(check(case)))


def test_parts() -> None:
    """An image alone, and a crop away from its border, have the bits they have in the whole."""
    rng = np.random.default_rng(3)
    x, w = (rng.standard_normal(s, "f4") for s in ((3, 5, 24, 25), (37, 5, 3, 3)))
    r = rng.standard_normal((3, 37, 22, 23), "f4")
    for last in (False, True):
        for activation in ("gelu", "hardswish", ("leaky_relu", 0.3)):
            a, b = (np.moveaxis(np.ascontiguousarray(np.moveaxis(z, 1, -1)), -1, 1) if last else z
                    for z in (x, r))  # fmt: skip
            whole = konv.conv2d(a, w, activation=activation, residual=b)
            one = konv.conv2d(a[1:2], w, activation=activation, residual=b[1:2])
            assert np.array_equal(whole[1:2], one)
            part = konv.conv2d(
                a[:, :, 3:22, 2:], w, activation=activation, residual=b[:, :, 3:20, 2:]
            )
            assert np.array_equal(whole[:, :, 3:20, 2:], part)


@pytest.mark.slow
def test_random() -> None:
    """Random problems with residuals in all forms, in NumPy and PyTorch, whatever the plan."""
    target, dice = llvm.detect(), Dice(31)

    def drawn(number: int) -> Case:
        drawn = accepted(dice, target, large=number % 3 == 0)
        forms = ("contiguous", "last", "steps", "inside", "zero", "permuted")
        if not drawn.torch:
            forms += tuple(FORMS)
        word = dice.one(("", "relu", "leaky_relu:0.2", "gelu"))
        return replace(drawn, activation=word, residual=dice.one(forms))

    with few_kernels(KERNELS):
        for number in range(200):
            first_of(partial(drawn, number), partial(check, thorough=number % 10 == 0))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("relu", nn.relu), ("relu6", nn.relu6), ("leaky_relu", nn.leaky_relu), ("silu", nn.silu),
        ("hardswish", nn.hardswish), ("gelu", nn.gelu),
        (("leaky_relu", 0.2), lambda v: nn.leaky_relu(v, 0.2)),
        (("gelu", "tanh"), lambda v: nn.gelu(v, approximate="tanh")),
    ],
    ids=lambda value: "" if callable(value) else str(value),
)  # fmt: skip
def test_definitions_are_pytorchs(ours: Any, theirs: Any) -> None:
    """The same numbers, NaN where PyTorch has NaN, and the infinities, but for gelu of infinity:
    PyTorch says NaN there for whole vectors, though not for single numbers.
    """
    v = torch.linspace(-12, 12, 4001)
    v[:4] = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0])
    x, w = v.reshape(1, 1, -1), torch.ones(1, 1, 1)
    with torch.no_grad():
        got, want = konv.conv1d(x, w, activation=ours).flatten(), theirs(v)
    want[1] = torch.tensor(6.0 if ours == "relu6" else torch.inf)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6, equal_nan=True)


def test_out_that_overlaps_the_residual() -> None:
    """Shifted by a few numbers, or in another layout, out is written after all has been read."""
    rng = np.random.default_rng(5)
    x, w = (rng.standard_normal(s, "f4") for s in ((1, 4, 6, 6), (4, 4, 1, 1)))
    memory = rng.standard_normal(4 * 36 + 7).astype("f4")
    for shift in (1, 7):
        for forwards in (False, True):
            room = memory.copy()
            first, second = (room[:144].reshape(1, 4, 6, 6), room[shift : 144 + shift])
            out, residual = first, second.reshape(1, 4, 6, 6)
            if forwards:
                out, residual = residual, out
            want = konv.conv2d(x, w, residual=residual.copy(), activation="relu")
            assert np.array_equal(
                konv.conv2d(x, w, residual=residual, activation="relu", out=out), want
            )
    square = rng.standard_normal((1, 4, 6, 6)).astype("f4")
    turned = square.transpose(0, 1, 3, 2)
    want = konv.conv2d(x, w, residual=turned.copy())
    assert np.array_equal(konv.conv2d(x, w, residual=turned, out=square), want)


def test_x_may_be_the_residual_and_out() -> None:
    """As in y = x + f(x); x is not written to unless it is out, and then last of all."""
    rng = np.random.default_rng(6)
    x, w = (rng.standard_normal(s, "f4") for s in ((2, 8, 6, 6), (8, 8, 3, 3)))
    before = x.copy()
    want = konv.conv2d(x, w, padding=1, residual=x.copy(), activation="relu")
    assert np.array_equal(konv.conv2d(x, w, padding=1, residual=x, activation="relu"), want)
    assert np.array_equal(x, before)
    konv.conv2d(x, w, padding=1, residual=x, activation="relu", out=x)
    assert np.array_equal(x, want)


def test_prepared() -> None:
    """A prepared layer has its activation from the start, and takes a residual at each call."""
    rng = np.random.default_rng(7)
    x, w = (rng.standard_normal(s, "f4") for s in ((2, 3, 9, 9), (18, 3, 3, 3)))
    r = rng.standard_normal((2, 18, 7, 7)).astype("f4")
    conv = Conv.of(x.shape, 18, 3)
    for activation in (None, "relu", ["leaky_relu", 0.2], ("gelu", "tanh")):
        layer = konv.prepare(conv, w, activation=activation)
        for residual in (None, r, r[:, ::-1], r):
            want = konv.conv2d(x, w, activation=activation, residual=residual)
            assert np.array_equal(layer(x, residual=residual), want)
        own = r.copy()
        assert layer(x, own, own) is own
        assert np.array_equal(own, konv.conv2d(x, w, activation=activation, residual=r))


def test_one_call_after_another() -> None:
    """What was asked for in one call is not remembered in the next."""
    rng = np.random.default_rng(8)
    x, w = (rng.standard_normal(s, "f4") for s in ((1, 3, 6, 6), (4, 3, 3, 3)))
    r = rng.standard_normal((1, 4, 4, 4)).astype("f4")
    plain = konv.conv2d(x, w)
    assert np.array_equal(konv.conv2d(x, w, activation="relu"), np.maximum(plain, 0))
    assert np.array_equal(konv.conv2d(x, w, residual=r), plain + r)
    for slope in (1, 0.5, 0.25, 1):
        got = konv.conv2d(x, w, activation=("leaky_relu", slope))
        assert np.array_equal(got, np.where(plain > 0, plain, plain * np.float32(slope)))
    assert np.array_equal(konv.conv2d(x, w), plain)


X, W, R = np.ones((1, 4, 9, 9), "f4"), np.ones((6, 4, 3, 3), "f4"), np.ones((1, 6, 7, 7), "f4")
KNOWN = (
    "Use 'relu', 'relu6', 'leaky_relu', 'silu', 'hardswish', 'gelu', (\"leaky_relu\", slope) or "
    '("gelu", "tanh"), or leave it out.'
)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"activation": "swish"}, ProblemError, f"activation='swish' is unknown. {KNOWN}"),
        ({"activation": "gelu_tanh"}, ProblemError, f"activation='gelu_tanh' is unknown. {KNOWN}"),
        ({"activation": ("relu", 3)}, ProblemError,
         f"activation=('relu', 3) takes no number or variant. {KNOWN}"),
        ({"activation": ("gelu", "erf")}, ProblemError,
         "activation=('gelu', 'erf'): 'erf' is no variant of gelu. Use ('gelu', 'tanh'), or 'gelu' "
         "for the exact one."),
        ({"activation": ("leaky_relu", float("nan"))}, ProblemError,
         "activation: the slope nan of leaky_relu is not finite. Use a finite number."),
        ({"activation": ("leaky_relu", True)}, TypeError,
         "activation: the slope True of leaky_relu is no number. Use a float."),
        ({"activation": ("leaky_relu", "0.2")}, TypeError, "the slope '0.2' of leaky_relu is no"),
        ({"activation": 3}, TypeError,
         "activation=3 is a int. Use a name, 'relu', or a pair of a name and its number or "
         "variant, ('leaky_relu', 0.2)."),
        ({"activation": ("relu",)}, TypeError, "activation=('relu',) is a tuple. Use a name"),
        ({"residual": R[:, :5]}, ProblemError,
         "residual is float32 (1, 5, 7, 7); the result of conv2d, to which it is added, is float32 "
         "(1, 6, 7, 7). Use an array of that shape and dtype."),
        ({"residual": R[:, :, :1, :1]}, ProblemError, "residual is float32 (1, 6, 1, 1); the"),
        ({"residual": R[0]}, ProblemError, "residual is float32 (6, 7, 7); the result of conv2d"),
        ({"residual": R.astype("f8")}, ProblemError, "residual is float64 (1, 6, 7, 7); the"),
        ({"residual": torch.ones(1, 6, 7, 7)}, TypeError,
         "residual is a Tensor, x a numpy.ndarray. Use the same library for both."),
        ({"residual": 1.0}, TypeError, "residual is a float, x a numpy.ndarray."),
        ({"residual": np.ma.masked_array(R, R > 0)}, TypeError, "residual is a masked array"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_errors(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    """Field, value, rule, way out; the second time too."""
    konv.conv2d(X, W, residual=R)
    for _ in range(2):
        with pytest.raises(error) as caught:
            konv.conv2d(X, W, **arguments)
        assert text in str(caught.value)
        assert str(caught.value).endswith(".")
    if "activation" in arguments:
        with pytest.raises(error) as caught:
            konv.prepare(Conv.of(X.shape, 6, 3), W, **arguments)
        assert text in str(caught.value)


def test_tensors_with_gradients() -> None:
    """A residual that wants a gradient gets it, at every call; with `out` it is refused as x is."""
    x, w, r = torch.ones(1, 4, 9, 9), torch.ones(6, 4, 3, 3), torch.ones(1, 6, 7, 7)
    plain = konv.conv2d(x, w, residual=r)
    r.requires_grad_()
    y = konv.conv2d(x, w, residual=r)
    assert torch.equal(y, plain)
    y.backward(torch.full_like(y, 2))
    assert r.grad is not None
    assert (r.grad == 2).all()
    with pytest.raises(UnsupportedError, match="residual requires grad"):
        konv.conv2d(x, w, residual=r, out=torch.empty_like(plain))


@pytest.mark.parametrize("residual", ["", "contiguous", "last", "steps", "out"])
def test_out_that_lies_channels_first_beside_a_layout(residual: str) -> None:
    """The user sees channels last; `out` and the residual may lie either way, and `out` may share
    memory with x.
    """
    for line in ("conv2d 2x5x9x8 o6 k3", "tconv1d 2x27x29 o27 k8 s8 g3"):
        words = f"residual={residual}" if residual else ""
        check(f"{line} / layout out=last {words}")
    memory = np.arange(384, dtype="f4") % 7
    x, out = memory.reshape(1, 8, 8, 6), memory.reshape(1, 6, 8, 8).transpose(0, 2, 3, 1)
    w = np.eye(6, dtype="f4")[::-1].reshape(6, 6, 1, 1)
    want = konv.conv2d(x.copy(), w, layout="NHWC")
    assert np.array_equal(konv.conv2d(x, w, layout="NHWC", out=out), want)
