"""Outputs that meet padding with the same taps, computed apart from others: the same bits."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from functional.case import Case
from functional.check import check, forget, pinned, recording, threads
from functional.forms import numbers

from konv.geometry import Axis
from konv.kernels import direct, schedule
from konv.kernels.lines import parts_of
from konv.kernels.words import JOB

# Taps that miss the image on one side, on both, always; more taps than are left; in steps of two;
# one axis; padding of one side only; a batch.
LINES = (
    "conv2d 1x64x20x17 o20 k3 p9 d9",
    "conv2d 2x65x12x30 o40 k3 p16x8 d16x8",
    "conv2d 1x64x11x13 o17 k5x3 p20x9 d10x9",
    "conv2d 1x70x25x24 o18 k3 s2 p12 d12",
    "conv2d 1x64x14x20 o8 k3x1 p12x0 d12x1",
    "conv1d 1x64x50 o33 k4 p40:0 d20",
    "conv2d 1x128x15x16 o16 k3 p8 d8 g2",
)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("forms", ["x=last", "x=last out=last residual=out bias=contiguous"])
@pytest.mark.parametrize("line", LINES)
def test_the_bits_are_those_of_boxes_that_mix_them(line: str, forms: str, which: int) -> None:
    case = Case.parse(f"{line} / {forms}")
    with pinned(direct, which):
        with patch.object(schedule, "meets_padding", lambda _: False):
            mixed = numbers(check(case))
        forget()
        names = dict.fromkeys(("BESIDE", "BESIDE_WIDE"), 1)
        with patch.multiple(schedule, **names), threads(3), recording() as jobs:
            assert np.array_equal(mixed, numbers(check(case)))
    phases = [[job.words[JOB.index(f"phases{axis}")] for axis in range(3)] for job in jobs]
    assert all(max(each) > 1 for each in phases), "nothing was parted"


@pytest.mark.parametrize(
    "axis",
    [
        Axis(20, 3, dilation=9, lo=9, hi=9), Axis(9, 5, dilation=10, lo=20, hi=20),
        Axis(25, 3, stride=2, dilation=12, lo=12, hi=12), Axis(50, 4, dilation=20, lo=40),
        Axis(30, 3, dilation=40, lo=40, hi=40), Axis(12, 3, lo=1, hi=1), Axis(12, 1),
    ],
    ids=str,
)  # fmt: skip
def test_parts_have_the_same_taps_in_the_image(axis: Axis) -> None:
    """All outputs once, in order; of each part all outputs alike, and unlike those of the next."""
    (whole,) = axis.phases()

    def inside(source: int) -> bool:
        return 0 <= source < axis.size

    kinds, outputs = [], list[int]()
    for part in parts_of(axis):
        assert (part.taps, part.stride, part.step) == (whole.taps, whole.stride, 1)
        each = {
            tuple(inside(source + part.stride * j) for source in part.sources)
            for j in range(part.count)
        }
        assert len(each) == 1
        kinds += each
        outputs += range(part.first, part.first + part.count)
        assert part.sources == tuple(s + whole.stride * part.first for s in whole.sources)
    assert outputs == list(range(axis.out))
    assert all(kinds[i] != kinds[i + 1] for i in range(len(kinds) - 1))


def test_transposed_axes_stay_as_they_are() -> None:
    axis = Axis(8, 4, lo=2, hi=2, up=2)
    assert parts_of(axis) == tuple(axis.phases())
