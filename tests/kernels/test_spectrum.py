"""Rows of many taps by Fourier transforms and products of channels: right, the same bits however it
is cut, and when not.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from unittest.mock import patch

import numpy as np
import pytest
from functional.check import check, forget, pinned, plans, threads
from functional.forms import numbers
from kernels.cases import case_of, every_layout

from konv import llvm
from konv.geometry import Conv
from konv.kernels import spectrum
from konv.kernels.fourier.lengths import ROWS
from konv.kernels.spectrum import cut
from konv.kernels.strips.job import JOB
from konv.runtime import execute, weights

# Tiles that fill register tiles and not, a tail of channels in and out, blocks of one vector, taps
# that lie apart, rows of images and of taps, more padding than row, padding that crops
ROWS_OF_TAPS = [
    "conv1d 2x37x203 o70 k11 p5",
    "conv1d 1x33x17 o35 k5 p2",
    "conv1d 1x40x300 o35 k11 p25 d5",
    "conv1d 2x64x499 o64 k100 p50 g2",
    "conv1d 1x16x5 o16 k9 p8",
    "conv2d 2x17x6x50 o20 k1x9 p0x4",
    "conv2d 1x16x5x9 o36 k1x7 p2x3",
    "conv2d 2x20x13x21 o35 k7 p3",
    "conv2d 1x66x20x31 o40 k9x7 p4x3 g2",
    "conv2d 1x16x24x23 o48 k3x5 p2x4 d1x2",
    "conv2d 1x16x24x23 o48 k5 p4 d2",
    "conv3d 1x16x2x3x41 o16 k1x1x8 p1x0x2:5",
    "tconv1d 1x18x90 o33 k9 p3",
    "tconv1d 1x18x90 o33 k9 p10",
]
every_row = pytest.mark.parametrize("line", ROWS_OF_TAPS)


@every_layout
@every_row
def test_rows(line: str, layouts: tuple[bool, bool]) -> None:
    """Right, and the same bits for any threads, and so units, and sizes of the cache."""
    case, target = case_of(line, layouts), llvm.detect()
    with pinned(spectrum):
        with threads(1):
            once = numbers(check(case))
        for count, size in ((2, target.l2), (5, target.l2), (3, 1), (2, 2**40)):
            forget()
            sized = replace(target, l2=size)
            with threads(count), patch.object(llvm, "detect", lambda sized=sized: sized):
                assert np.array_equal(once, numbers(check(case))), f"{case}: other bits"


@pytest.mark.parametrize("length", ROWS)
def test_every_length(length: int) -> None:
    """Whichever is cheapest."""
    case = case_of("conv1d 1x33x150 o35 k9 p4", (True, True))
    others = {other: 10.0**6 for other in cut.TIMES if other != length}
    with patch.dict(cut.TIMES, others), pinned(spectrum):
        check(case)
        (plan,) = spectrum.plans(case.conv, llvm.detect(), True, True)
        assert plan.form[-1] == length


@every_layout
@pytest.mark.parametrize(
    "line", ["conv1d 1x32x60 o96 k9 p4 g2", "conv1d 1x20x900 o35 k9 p4", "conv2d 2x20x23x90 o35 k7"]
)
def test_boxes_and_ranges(line: str, layouts: tuple[bool, bool]) -> None:
    """Several boxes of a row, some rows of several, and ranges of the outputs of groups."""
    case = case_of(line, layouts)
    with pinned(spectrum), threads(1):
        once = numbers(check(case))
    plan = plans[case.conv]
    for most, count in product((1, 6), (2, 5)):
        forget()
        with (
            patch.multiple(cut, MANY=most, CACHE=0.0, WIDE=0),
            patch.object(execute, "choose", lambda *_: plan),
            threads(count),
        ):
            assert np.array_equal(once, numbers(check(case))), f"{case}: other bits"
    forget()


def test_few_tiles_share_out_channels() -> None:
    """Where there are less units than threads, each has some of the outputs."""
    conv = Conv.parse("conv1d 1x80x40 o512 k7 p3")
    (plan,) = spectrum.plans(conv, llvm.detect(), True, True)
    strides = (1, 1, 1)
    words = [
        dict(
            zip(
                JOB,
                spectrum.work(conv, plan, llvm.detect(), strides, strides, n).words,
                strict=True,
            )
        )
        for n in (1, 4)
    ]
    assert [each["ranges"] for each in words] == [1, 4]
    for each in words:
        assert each["vectors"] % plan.vectors == 0
        assert (each["ranges"] - 1) * each["vectors"] < each["lines"]
        assert each["ranges"] * each["vectors"] >= each["lines"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("conv1d 1x64x99 o64 k4", "takes 5 taps or more along rows, and none from plane to plane"),
        (
            "conv3d 1x64x9x9x99 o64 k3x1x9",
            "takes 5 taps or more along rows, and none from plane to plane",
        ),
        ("conv2d 1x64x9x99 o64 k3x9", None),
        ("conv1d 1x64x99 o64 k9 f64", "takes float32 only, whose errors it is measured for"),
        ("conv1d 1x64x99 o64 k9 s2", "takes steps of one only"),
        (
            "conv1d 1x64x999 o64 k9 d30",
            "takes rows of taps that reach over 181 pixels at most; here 241",
        ),
        ("conv1d 1x3x99 o64 k9", "channels in and out a group or more; here 3 and 64"),
        ("conv1d 1x64x99 o64 k9", None),
    ],
)
def test_why_not(line: str, why: str | None) -> None:
    says = spectrum.why_not(Conv.parse(line), llvm.detect())
    assert says == why or (why and says and says.endswith(why))


@every_row
def test_cost_and_memory(line: str) -> None:
    """Cost grows with the rows, not with the batch; packed weights are as long as said."""
    conv, target = Conv.parse(line), llvm.detect()
    (plan,) = spectrum.plans(conv, target, True, True)
    once = spectrum.cost(conv, plan, target)
    assert once == spectrum.cost(conv.with_batch(7), plan, target)
    longer = conv.with_size(*(axis.size for axis in conv.axes[:-1]), 2000)
    assert once < spectrum.cost(longer, plan, target)
    lanes, ci, co = target.lanes("float32"), conv.ci // conv.groups, conv.co // conv.groups
    outputs = conv.groups * -(-co // lanes) * lanes
    points = 2 * (plan.form[-1] // 2 + 1) * ci * plan.form[1]
    assert weights.packed_bytes(conv, plan, target) == 64 + 4 * outputs * (points + 1)
