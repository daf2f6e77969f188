"""Strided transposed depthwise layers: results, bits, memory that is left alone, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from functional.case import Case
from functional.check import small_units, threads
from kernels.test_subpixel import results

import konv
from konv import llvm, reference, rounding
from konv.geometry import Conv
from konv.kernels import spread
from konv.kernels.spread.form import Spread, over_cells

LAYOUTS: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "channels-last": {"x": "last", "out": "last"},
}
# Rows that end within a cell; narrower than a vector, than half of one; sub-pixels without a tap,
# steps on one axis, taps far apart, cells of three and four, one channel, a mode.
PROBLEMS = [
    "tconv2d 1x20x9x21 o20 k3 s2 p1 r1 g20",
    "tconv2d 2x24x7x7 o24 k3 s2 p1 r1 g24",
    "tconv2d 1x11x7x5 o11 k3 s2 p1 g11",
    "tconv2d 1x9x3x2 o9 k5 s2 p2 r1 g9",
    "tconv2d 1x19x5x9 o19 k2x1 s3x4 r2x3 g19",
    "tconv2d 2x10x6x18 o10 k5x4 s2x3 p2x1 g10",
    "tconv2d 1x16x6x19 o16 k4x3 s1x2 p1 g16",
    "tconv2d 1x16x6x19 o16 k3x4 s2x1 p1 g16",
    "tconv2d 1x12x9x20 o12 k3 s2 p2 d3x2 g12",
    "tconv2d 1x1x5x9 o1 k4 s2 p1",
    "tconv2d 1x12x5x6 o12 k4 s2 p1 g12 replicate",
    "tconv1d 1x9x333 o9 k7 s4 p2 r1 g9",
    "tconv3d 1x10x3x4x9 o10 k3 s2 p1 r1 g10",
    "tconv2d 1x9x6x11 o9 k3 s2 p1 g9 f64",
]


@pytest.mark.parametrize("layouts", LAYOUTS)
@pytest.mark.parametrize("line", PROBLEMS)
def test_results(line: str, layouts: str) -> None:
    """Within the bound, and the same bits whatever a unit holds and whoever computes it."""
    conv = Conv.parse(line)
    target = llvm.detect()
    if layouts == "channels-last" and conv.co < target.lanes(conv.dtype):
        assert not spread.plans(conv, target, False, False)
        return
    case = Case(conv, bias="contiguous", **LAYOUTS[layouts])
    (x, w, b), got = case.arrays(), results(spread, case)
    want = reference.im2col(conv, case.canonical(x), w, b)
    assert (np.abs(got - want) <= rounding.tolerance(conv, case.canonical(x), w, b)).all()
    with threads(3), small_units(20, 4):
        assert np.array_equal(results(spread, case), got)


def test_a_weight_serves_both_layouts() -> None:
    """It is packed for each, though nothing else of it changes."""
    conv = Conv.parse("tconv2d 1x17x9x9 o17 k3 s2 p1 g17")
    first = Case(conv, **LAYOUTS["contiguous"])
    x, w, _ = first.arrays()
    want = reference.im2col(conv, first.canonical(x), w)
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    for image in (x, last, x):
        got = konv.conv_transpose2d(image, w, stride=2, padding=1, groups=17, plan="spread")
        assert np.abs(got - want).max() < 1e-5


def test_cells_read_what_the_layer_does() -> None:
    """Every tap of every output is one of a cell's, at the same pixel."""
    for line in PROBLEMS:
        conv = Conv.parse(line)
        plan = spread.plans(conv, llvm.detect(), True, True)[0]
        form, axis, cells = Spread.of(plan), conv.axes[-1], over_cells(conv, plan).axes[-1]
        for o in range(axis.out):
            cell, f = divmod(o, axis.up)
            reads = {tap: cell - cells.lo + at - form.first(2) for tap, at in form.reads(2, f)}
            inside = {tap: at for tap, at in reads.items() if 0 <= at < axis.size}
            found = {k: axis.source(o, k) for k in range(axis.kernel)}
            assert inside == {k: i for k, i in found.items() if i is not None}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("tconv2d 1x8x5x5 o8 k3 s2 g8 f16", "reads and writes float32"),
        ("tconv2d 1x8x5x5 o16 k3 s2 g8", "one channel in and out"),
        ("conv2d 1x8x5x5 o8 k3 s2 g8", "with a stride only"),
        ("conv2d 1x8x5x5 o8 k3 s2 u3 g8", "both kinds"),
        ("tconv2d 1x8x5x5 o8 k13x5 s2 g8", "up to 64 taps; here 65"),
        ("tconv2d 1x8x5x5 o8 k3 s5x4 g8", "up to 16 sub-pixels"),
        ("tconv2d 1x8x5x99 o8 k2 s1x2 d1x256 g8", "over 256 columns; here 257"),
        ("tconv2d 1x8x5x5 o8 k3 s2 g8", None),
    ],
)
def test_why_not(line: str, says: str | None) -> None:
    found = spread.why_not(Conv.parse(line), llvm.detect())
    assert (found is None) if says is None else (found is not None and says in found)
