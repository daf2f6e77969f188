"""Tiles along the rows of a packed image: the same sums as by tables, whatever ends a row."""

from __future__ import annotations

import numpy as np
import pytest
from functional.case import Case
from functional.check import check, pinned, small_units
from functional.forms import numbers

from konv import llvm
from konv.kernels import direct

# Rows longer and shorter than tiles, some with tiles that meet no border, taps that begin in the
# padding, a sparse axis, volumes.
LINES = (
    "conv2d 2x3x13x31 o19 k7 s2 p3",
    "conv2d 1x3x9x8 o24 k3 s2 p1",
    "conv2d 1x3x64x9 o8 k3 p20x1 d20x1",
    "conv2d 2x8x7x16 o16 k3 p1 reflect",
    "conv3d 1x3x4x6x11 o17 k3 p1",
    "tconv2d 1x3x8x15 o8 k3 p1",
    "conv1d 2x2x77 o24 k9 s4",
    "conv2d 1x3x5x99 o16 k3 s2 p1",
    "conv2d 2x3x9x101 o19 k7 s2 p3",
    "conv3d 1x3x3x4x90 o17 k3 p1",
    "conv1d 2x2x190 o24 k9 s4 p2",
    "conv2d 1x12x9x70 o12 k3 p4 d4",
)
ROWS = llvm.detect().vector_bytes >= 32


@pytest.mark.skipif(not ROWS, reason="vectors of 16 bytes have no such tiles")
@pytest.mark.parametrize(
    "forms", ["", "x=last out=last", "out=contiguous residual=out bias=contiguous"]
)
@pytest.mark.parametrize("line", LINES)
def test_the_same_bits_as_by_tables(line: str, forms: str) -> None:
    """All plans with such tiles, in whole and in small units."""
    case = Case.parse(f"{line} / {forms}")
    packed = "last" not in forms
    plans = direct.plans(case.conv, llvm.detect(), packed, packed)
    tables = next(i for i, plan in enumerate(plans) if not plan.form)
    rows = [i for i, plan in enumerate(plans) if plan.form][:2]
    assert rows
    with pinned(direct, tables):
        want = numbers(check(case))
    for which in rows:
        with pinned(direct, which):
            assert np.array_equal(numbers(check(case)), want)
            with small_units():
                assert np.array_equal(numbers(check(case)), want)
