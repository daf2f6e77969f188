"""What the weight gradients of depthwise layers have in common, and what they save: above all
konv.kernels.gradient.pencils between channels-last arrays, konv.kernels.gradient.rows between
contiguous ones.

Both of these sweep outputs once for some rows of the kernel and some taps of each, whose sums are
in registers.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Self

from konv.geometry import Conv
from konv.kernels.gradient.cut import COPIED, TURNED
from konv.kernels.stored import HALVES
from konv.plan import Plan

# Cycles a number of x, and a row of x or dy, that contiguous arrays take on their way (Zen 3:
# 96@112 in steps of two 0.32 ms by planar, .17 by rows; 672@14 5x5 in steps of two .20 and .15).
MOVED, MOVED_ROW = 1.0, 50
CHAINS = 8  # of multiply-adds that a processor needs in flight: two a cycle, each 4 cycles late


def why_not(conv: Conv) -> str | None:
    """Only depthwise layers, in numbers that are computed with as they are stored."""
    if any(axis.up > 1 for axis in conv.axes):
        return "takes no inserted zeros"
    if not conv.groups == conv.ci == conv.co:
        return "takes one channel in and out of each group"
    if conv.dtype in HALVES:
        return "takes no half precision"
    return None


@dataclass(frozen=True, slots=True)
class Window:
    """What a plan's loops are specialised on, read from `Plan.form`; per axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    rows: int  # of the kernel in a pass
    taps: int  # of each row
    pixels: int  # outputs in a tile: neighbours in a row, or rows
    lanes: int

    @classmethod
    def of(cls, plan: Plan, lanes: int) -> Self:
        form = plan.form
        return cls(form[:3], form[3:6], form[6:9], form[9], form[10], plan.pixels, lanes)


def saved(conv: Conv, last: bool) -> float:
    """Cycles for each output of all groups that konv.kernels.gradient.planar takes to bring x and
    dy into its form, from contiguous arrays or from channels-last ones, and leaves out of its cost.
    """
    outputs, pixels = (prod(axis.out for axis in conv.axes), prod(axis.size for axis in conv.axes))
    if last:
        return conv.co * (TURNED + COPIED * pixels / outputs)
    rows = pixels / conv.axes[-1].size + outputs / conv.axes[-1].out
    return conv.co * (MOVED * pixels + MOVED_ROW * rows) / outputs


def readers(
    outputs: int, taps: int, stride: int, dilation: int
) -> dict[int, list[tuple[int, int]]]:
    """Pixel of a line -> (output, tap) that read it, for neighbouring outputs; pixels ascend.

    >>> readers(2, 2, 1, 1)
    {0: [(0, 0)], 1: [(0, 1), (1, 0)], 2: [(1, 1)]}
    """
    found: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for output, tap in product(range(outputs), range(taps)):
        found[output * stride + tap * dilation].append((output, tap))
    return dict(sorted(found.items()))


def even(count: int, most: int) -> int:
    """How many at a time, in as few steps as can be."""
    return -(-count // -(-count // max(1, most)))


def spans(count: int, most: int) -> dict[int, tuple[int, int]]:
    """How many at a time -> from where to where: as many as may be, then the rest.

    >>> spans(5, 2)
    {2: (0, 4), 1: (4, 5)}
    """
    whole = count // most * most
    return {most: (0, whole)} | ({count - whole: (whole, count)} if whole < count else {})
