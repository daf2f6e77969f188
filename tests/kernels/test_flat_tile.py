"""Tiles along pixels of layers of one tap: the same sums in every tile, whatever ends it."""

from __future__ import annotations

import numpy as np
import pytest
from functional.case import Case
from functional.check import check, pinned, small_units
from functional.forms import numbers

from konv import llvm
from konv.kernels import direct

# Fewer pixels than a tile, tails of pixels and channels, groups, channels fewer than are taken at
# once, volumes, one pixel alone and behind others.
LINES = (
    "conv2d 1x64x13x11 o72 k1",
    "conv2d 3x37x5x7 o45 k1",
    "conv2d 2x3x9x4 o20 k1",
    "conv2d 2x36x5x5 o54 k1 g3",
    "conv3d 1x18x3x4x5 o33 k1",
    "conv1d 2x130x3 o257 k1",
    "conv2d 2x70x1x1 o150 k1",
    "conv2d 1x40x7x7 o100 k1",
)


@pytest.mark.parametrize(
    "forms",
    [
        "",
        "x=last out=last",
        "out=contiguous residual=out bias=contiguous",
        "x=last out=last residual=out",
    ],
)
@pytest.mark.parametrize("line", LINES)
def test_the_same_bits_in_all_tiles(line: str, forms: str) -> None:
    """All plans, in whole and in small units."""
    case = Case.parse(f"{line} / {forms}")
    packed = "last" not in forms
    plans = direct.plans(case.conv, llvm.detect(), packed, packed)
    assert all(len(plan.form) == direct.FLAT for plan in plans)
    with pinned(direct, 0):
        want = numbers(check(case))
    for which in range(1, len(plans)):
        with pinned(direct, which):
            assert np.array_equal(numbers(check(case)), want)
            with small_units():
                assert np.array_equal(numbers(check(case)), want)
