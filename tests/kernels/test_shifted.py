"""Products of taps, shifted: boxes of rows and of parts of one, borders, phases, any strides."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import pytest
from functional.case import Case
from functional.check import check, pinned, small_units, threads
from functional.forms import numbers
from kernels.layers import TARGETS

import konv
from konv import llvm
from konv.geometry import Conv
from konv.kernels import panels, shifted
from konv.kernels.shifted.cut import Cut
from konv.runtime.choose import choose

HOST = llvm.detect()
# Taps beyond both ends of an image, rows of less than a vector and of several, dilation, uneven
# padding, phases of unequal length, without a tap, two and more of them, sequences, one filter.
LINES = (
    "conv2d 1x37x9x70 o3 k3 p1",
    "conv2d 2x16x3x5 o2 k7 p6",
    "conv2d 1x16x20x33 o1 k3x2 d4x3 p2x3",
    "conv2d 1x19x12x13 o4 k3 p0:1x2:5",
    "conv1d 2x40x333 o2 k5 p2",
    "tconv1d 1x40x99 o1 k16 s8",
    "tconv1d 2x18x50 o3 k2 s5 r3",
    "tconv2d 1x19x9x40 o3 k4 s2 p1",
    "tconv2d 2x19x6x7 o2 k5x3 s3x2 p1 r1x0",
    "tconv2d 1x17x5x6 o2 k3 s1 p1 d2",
    # Padding that crops more than a kernel; planes that share few sets of a cache.
    "tconv2d 1x19x9x40 o3 k3 p5",
    "tconv2d 1x19x12x40 o3 k4 s2 p6",
    "tconv1d 1x19x70 o2 k4 s2 p9",
    "conv2d 2x16x16x16 o2 k3 p1",
)
TAKEN = shifted.why_not(Conv.parse(LINES[0]), HOST) is None
PLANS = range(len(panels.TILES.get((HOST.vector_bytes, HOST.registers), ())))

pytestmark = pytest.mark.skipif(not TAKEN, reason="too few registers")


@pytest.mark.parametrize(
    ("forms", "dtype"),
    [
        ("", "float64"),
        ("bias=contiguous", "float32"),
        ("out=contiguous residual=out bias=contiguous", "float32"),
        ("x=last out=last bias=contiguous", "float32"),
        ("x=last out=last residual=out", "float64"),
    ],
)
@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("which", PLANS)
def test_boxes_change_no_bit(which: int, line: str, forms: str, dtype: str) -> None:
    """Whole layers and boxes of an output or two, on one thread and on three."""
    case = Case.parse(f"{line} / {forms}")
    case = replace(case, conv=replace(case.conv, dtype=dtype))
    with pinned(shifted, which):
        want = numbers(check(case))
        for count in (1, 3):
            with threads(count):
                assert np.array_equal(numbers(check(case)), want)
                with small_units():
                    assert np.array_equal(numbers(check(case)), want)


@pytest.mark.parametrize("line", ["conv2d 1x16x7x9 o2 k3 p1", "tconv2d 1x16x7x9 o2 k4 s2 p1"])
def test_images_that_lie_anyhow(line: str) -> None:
    """Every other column, rows with something between them, there and in the output."""
    conv, rng = Conv.parse(line), np.random.default_rng(3)
    w = rng.standard_normal(conv.weight_shape, np.float32)
    x = rng.standard_normal(conv.in_shape, np.float32)
    step = 2 if conv.transposed else 1
    call = konv.conv_transpose2d if conv.transposed else konv.conv2d
    want = call(x, w, stride=step, padding=1, plan="shifted")
    wide = np.zeros((1, 16, 14, 20), np.float32)
    for view in (wide[:, :, :7, ::2][..., :9], wide[:, :, ::2, 4:13]):
        view[:] = x
        assert np.array_equal(call(view, w, stride=step, padding=1, plan="shifted"), want)
    y = np.zeros((*conv.out_shape[:2], conv.out_shape[2], 3 * conv.out_shape[3]), np.float32)
    for out in (y[..., ::3], y[..., : conv.out_shape[3]]):
        call(x, w, stride=step, padding=1, plan="shifted", out=out)
        assert np.array_equal(out, want)


def test_a_weight_that_is_not_finite_meets_padding() -> None:
    """As where padding is a number: nothing times infinity is no number."""
    x, w = np.ones((1, 20, 5, 6), np.float32), np.ones((1, 20, 3, 3), np.float32)
    w[0, 7, 0, 1] = np.inf
    y = konv.conv2d(x, w, padding=1, plan="shifted")
    assert np.isnan(y[0, 0, 0]).all()
    assert np.isposinf(y[0, 0, 1:]).all()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("conv2d 1x64x9x9 o3 k3 s2 p1", "steps of one"),
        ("conv2d 1x64x9x9 o3 k1", "2 to 170 taps"),
        ("conv2d 1x64x30x30 o16 k6", "2 to 32 taps"),
        ("conv2d 1x64x9x9 o20 k3", "up to 16 output channels"),
        ("conv2d 1x64x9x9 o4 k3 g2", "in one group"),
        ("conv2d 1x64x9x9 o3 k3 p1 reflect", "padded with zeros"),
        ("conv3d 1x64x3x9x9 o3 k3", "one or two dimensions"),
        ("conv2d 1x64x9x9 o3 k3 f16", "float32 and float64"),
        ("conv2d 1x16x3000x3000 o16 k5 d200", "up to 262144 products"),
        ("conv2d 1x3000x9x9 o3 k3", "16 to 2048 input channels"),
    ],
)
def test_what_it_leaves_to_others(line: str, said: str) -> None:
    assert said in str(shifted.why_not(Conv.parse(line), HOST))


@pytest.mark.parametrize("name", ["avx2", "avx512"])
def test_where_it_is_chosen(name: str) -> None:
    """Of few filters; not of few input channels, nor where filters fill a tile."""
    for line, wanted in {
        "conv2d 1x512x32x32 o1 k4 p1": True, "conv2d 1x320x64x64 o4 k3 p1": True,
        "tconv2d 1x256x33x33 o1 k3 s2 p1": True,
        "conv2d 1x1x512x512 o1 k9 p4": False, "conv2d 1x3x128x128 o3 k3 p1": False,
        "conv2d 1x64x56x56 o16 k3 p1": False, "conv2d 1x64x256x256 o3 k9 p4": False,
    }.items():  # fmt: skip
        for contiguous in (True, False):
            plan = choose(Conv.parse(line), TARGETS[name], contiguous, contiguous)
            assert (plan.algorithm == shifted.name) == wanted, line
    decoder = Conv.parse("tconv1d 1x512x3999 o1 k16 s8")
    assert choose(decoder, TARGETS[name], True, True).algorithm == shifted.name


def test_boxes_share_the_work_and_fit_a_cache() -> None:
    """Rows that leave no thread idle; parts of them where there is one, or room for few."""
    for line, threads_, boxes in (
        ("conv2d 1x320x64x64 o4 k3 p1", 2, [2, 1]),
        ("conv2d 1x64x24x24 o1 k3 p1", 1, [1, 1]),
        ("conv1d 1x64x9000 o1 k3 p1", 4, [1, 4]),
        ("conv2d 1x128x512x512 o3 k3 p1", 2, [128, 1]),
    ):
        conv = Conv.parse(line)
        plan = shifted.plans(conv, TARGETS["avx2"], True, True)[0]
        target = replace(TARGETS["avx2"], l2=2**20)
        cut = Cut(conv, plan, target, threads_)
        assert cut.boxes == boxes, line


@pytest.mark.parametrize(
    "line", ["conv2d 1x128x2048x1024 o3 k3 p1", "tconv2d 1x64x2048x512 o3 k4 s2 p1"]
)
def test_boxes_of_large_images_share_few_pixels(line: str) -> None:
    conv = Conv.parse(line)
    for name in ("avx2", "avx512"):
        plan = shifted.plans(conv, TARGETS[name], True, True)[0]
        cut = Cut(conv, plan, replace(TARGETS[name], l2=2**19), 2)
        assert cut.pixels < 1.25 * prod(conv.in_shape[2:])
