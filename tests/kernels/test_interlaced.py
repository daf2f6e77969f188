"""Few channels side by side, computed as one plane: konv.kernels.strips.interlaced."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from functional.case import Case
from functional.check import check, pinned, plans, small_units, threads
from functional.forms import numbers
from functional.test_invariance import result

from konv import conv2d, llvm, prepare
from konv.arrays import dense_strides
from konv.geometry import Conv
from konv.kernels import planes
from konv.kernels.pack import HEADER
from konv.kernels.strips.form import beside
from konv.kernels.strips.job import JOB
from konv.plan import Plan
from konv.runtime import choose, weights
from konv.runtime.code import kernel

# Rows narrower than a vector, of several boxes; of all steps down the rows; no rows of taps, none
# along them; volumes; all padding on one side; taps that miss the image; transposed.
LAYERS = [
    "conv2d 2x3x9x1 o3 k3 p1 g3",
    "conv2d 1x3x17x37 o3 k3 p1 g3",
    "conv2d 1x3x6x700 o3 k3 p1 g3",
    "conv2d 3x2x9x530 o2 k5 p2 g2",
    "conv2d 1x4x30x19 o4 k5x4 p4:0x0:5 g4",
    "conv2d 1x3x9x40 o3 k1x5 p0x2 g3",
    "conv2d 1x2x40x9 o2 k7x1 p3x0 g2",
    "conv2d 1x3x21x33 o3 k3 s2x1 p1 g3",
    "conv2d 1x7x9x21 o7 k3 p1 g7",
    "conv2d 1x5x12x13 o5 k9x3 p4x1 g5",
    "conv2d 1x3x21x20 o3 k3 s3x1 p2 d2 g3",
    "conv2d 1x3x21x20 o3 k3 p6 d5x6 g3",
    "conv3d 2x3x4x5x11 o3 k3 p1 g3",
    "conv3d 1x2x5x4x9 o2 k2x3x3 s2x1x1 p0x1x2 g2",
    "tconv2d 1x3x9x17 o3 k3 p1 g3",
]
every_layer = pytest.mark.parametrize("line", LAYERS)


def case_of(line: str, dtype: str = "float32", forms: str = "x=last out=last") -> Case:
    """The layer between channels-last arrays; what has no plan for it at all fails."""
    conv = replace(Conv.parse(line), dtype=dtype)
    if dtype == "float64":  # vectors hold half as many
        conv = replace(conv, ci=2, co=2, groups=2)
    assert [beside(plan) for plan in offered(conv)] == [conv.co]
    return Case.parse(f"{conv} / bias=contiguous {forms}")


def offered(conv: Conv) -> tuple[Plan, ...]:
    return planes.plans(conv, llvm.detect(), False, False)


pytestmark = pytest.mark.skipif(
    llvm.detect().vector_bytes < planes.MASKS, reason="no masks, no such plan"
)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@every_layer
def test_layers(line: str, dtype: str) -> None:
    """Right, and the same bits in units of any size, of any number of threads."""
    case = case_of(line, dtype)
    with pinned(planes):
        with threads(1):
            once = numbers(check(case))
        assert beside(plans[case.conv]) == case.conv.co
        for count, pixels in ((2, 16), (3, 100), (2, 100_000)):
            with threads(count), small_units(pixels):
                assert np.array_equal(once, numbers(check(case))), f"{case}: other bits"
        check(replace(case, activation="gelu", residual="last"))
        check(replace(case, activation="relu", residual="out"))


@pytest.mark.parametrize("forms", ["x=inside", "x=steps", "x=permuted", "x=negative"])
@every_layer
def test_pixels_apart(line: str, forms: str) -> None:
    """Of more channels, say, of which these are some: their rows come through the strip."""
    with pinned(planes):
        check(Case.parse(f"{line} / bias=contiguous {forms} out=last"))


@every_layer
def test_channels_of_a_larger_image(line: str) -> None:
    """Three of four channels, NaN between them, are what they are alone."""
    conv, draw = Conv.parse(line), np.random.default_rng(0)
    n, co, *size = conv.in_shape
    whole = np.full((n, *size, co + 1), np.nan, np.float32)
    whole[..., :co] = draw.standard_normal((n, *size, co))
    some = np.moveaxis(whole[..., :co], -1, 1)
    alone = np.moveaxis(np.ascontiguousarray(whole[..., :co]), -1, 1)
    layer = prepare(conv, draw.standard_normal(conv.weight_shape).astype("f4"), plan="planes")
    out = np.moveaxis(np.empty((n, *conv.out_shape[2:], co), np.float32), -1, 1)
    assert np.array_equal(layer(some, out=out.copy(order="K")), layer(alone, out=out))


@every_layer
def test_a_weight_that_is_not_finite(line: str) -> None:
    """It sends all through the strip; other channels keep their bits."""
    case = case_of(line)
    x, w, b = case.arrays()
    broken = w.copy()
    broken[0] = np.inf
    with pinned(planes), threads(2):
        once, got = result(case, x, w, b), result(case, x, broken, b)
    assert got[:, 1:].tobytes() == once[:, 1:].tobytes()
    assert not np.isfinite(got[:, :1]).all()


@every_layer
def test_all_work_once(line: str) -> None:
    """Every number by exactly one unit."""
    conv = case_of(line).conv
    (plan,), target = offered(conv), llvm.detect()
    strides = dense_strides(conv.in_shape, True), dense_strides(conv.out_shape, True)
    for pixels in (16, 300, 10**6):
        with small_units(pixels):
            work = planes.work(conv, plan, target, *strides, 2)
        words = dict(zip(JOB, work.words, strict=True))
        assert [words[f"out{a}"] for a in range(3)][-1] == conv.axes[-1].out * conv.co
        boxes = [words[f"boxes{a}"] for a in range(3)]
        for a in range(3):
            assert (boxes[a] - 1) * words[f"box{a}"] < words[f"out{a}"]
            assert words[f"out{a}"] <= boxes[a] * words[f"box{a}"]
        assert words["units"] == conv.n * np.prod(boxes)


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_threads_share_the_rows_of_few_channels(channels: int, last: bool) -> None:
    """Of one channel there is one line, and a photograph soon fits into a cache."""
    conv = Conv.parse(f"conv2d 1x{channels}x96x96 o{channels} k3 p1 g{channels}")
    target = llvm.detect()
    strides = dense_strides(conv.in_shape, last), dense_strides(conv.out_shape, last)
    for plan in planes.plans(conv, target, not last, not last):
        with small_units(10**6):
            work = planes.work(conv, plan, target, *strides, 2)
        words = dict(zip(JOB, work.words, strict=True))
        assert words["units"] >= 4, str(plan)
        assert words["boxes1"] > 1


def test_one_channel() -> None:
    """What lies channels last by its layout only: otherwise it is contiguous as well."""
    conv = Conv.parse("conv2d 2x1x19x31 o1 k5 p2")
    assert [beside(plan) for plan in offered(conv)] == [1]
    draw = np.random.default_rng(0)
    x, w = (draw.integers(-9, 10, shape).astype("f4") for shape in (conv.in_shape, (1, 1, 5, 5)))
    last = conv2d(x.reshape(2, 19, 31, 1), w, padding=2, layout="NHWC", plan="planes")
    assert last.any()
    assert np.array_equal(np.moveaxis(last, -1, 1), conv2d(x, w, padding=2))


def test_no_image() -> None:
    """Nothing to share among threads."""
    with pinned(planes), small_units():
        check(Case.parse("conv2d 0x3x9x9 o3 k3 p1 g3 / x=last out=last"))


def test_packing() -> None:
    """A vector that begins with any channel finds those that follow."""
    conv = Conv.parse("conv2d 1x3x9x8 o3 k2x3 g3")
    (plan,), lanes = offered(conv), llvm.detect().lanes("float32")
    w = np.arange(1, 19, dtype=np.float32).reshape(conv.weight_shape)
    bias = np.array([-1, -2, -3], np.float32)
    strides = tuple(s // w.itemsize for s in w.strides)
    packed = weights.pack(conv, plan, kernel(plan), w.ctypes.data, strides, bias.ctypes.data)
    begin = packed.address - packed.array.ctypes.data
    got = packed.array[begin + HEADER : begin + packed.size].view(np.float32)
    own = np.arange(lanes + 2) % 3
    taps = w[:, 0].transpose(2, 1, 0).reshape(6, 3)  # rows run fastest
    assert np.array_equal(got, [*taps[:, own].ravel(), *bias[own]])


@pytest.mark.parametrize(
    ("line", "taken"),
    [
        ("conv2d 1x3x64x64 o3 k3 p1 g3", True),
        ("conv2d 1x4x64x64 o4 k5 p2 g4", True),
        ("conv2d 1x1x64x64 o1 k5 p2", True),
        ("conv2d 1x3x64x64 o3 k3 s2 p1 g3", False),  # columns in steps of two
        ("conv2d 1x3x64x64 o6 k3 p1 g3", False),  # two filters a channel
        ("conv2d 1x7x64x64 o7 k3 p1 g7", True),
        ("conv2d 1x16x64x64 o16 k3 p1 g16", False),  # they fill vectors
        ("conv2d 1x3x64x64 o3 k11 p5 g3", True),
        ("conv2d 1x3x64x64 o3 k13 p6 g3", False),  # many taps
        ("conv2d 1x3x64x64 o3 k3 p1 g3 reflect", False),
    ],
)
def test_what_is_computed_so(line: str, taken: bool) -> None:
    """By default, too."""
    conv = Conv.parse(line)
    assert bool(offered(conv)) == taken
    plan = choose.choose(conv, llvm.detect(), False, False)
    assert (plan.algorithm == "planes") == taken
