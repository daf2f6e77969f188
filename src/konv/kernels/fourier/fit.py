"""How long the transforms of an image are, and what its tiles cost."""

from __future__ import annotations

from dataclasses import replace
from math import lcm, prod

from konv.geometry import Axis, Conv
from konv.kernels.fourier.lengths import LENGTHS, length_of
from konv.plan import Plan
from konv.target import Target

# As the alignment of a plan: the image is one tile, and padding comes round to zeros. No crop but
# the whole is computed so.
WHOLE = 2**20
# Cycles of a pixel under a tile on its way in, of an output of it on its way out, of a point of its
# columns; of 72 points along each axis, and how many times as many others take (128 channels of
# one tile and two threads, .95 to 1.05 of it, with AVX2 code .8 to 1.0; Granite Rapids).
IN, OUT, COLUMN = 8.5, 9.3, 10.7
TIMES = {28: 1.0, 36: 0.94, 42: 0.98, 56: 0.92, 72: 1.0, 90: 1.13, 112: 1.2}
# And of a pixel whose channels lie side by side, from lines of the cache that stand apart.
APART_IN, APART_OUT = 5, 12
SPARE = 16  # outputs of a tile, along each axis, that are worth its transforms


def fits(conv: Conv, length: int) -> bool:
    """Whether a transform of this length holds the whole image. Where padding is zeros, its end is
    what lies before the first pixel once more.
    """
    return conv.mode == "zeros" and all(_reach(axis) <= length for axis in conv.axes)


def _reach(axis: Axis) -> int:
    """Pixels of an image with its padding on one side, the wider one."""
    before = max(axis.lo, 0)
    end = axis.out + axis.kernel - 1
    return max(end - before, min(axis.size + axis.lo, end), axis.out)


def outputs_of(conv: Conv, plan: Plan) -> list[int]:
    """Outputs of a tile, along each axis."""
    if plan.alignment == WHOLE:
        assert fits(conv, length_of(plan).all), f"{conv} is no single tile"
        return [axis.out for axis in conv.axes]
    return [length_of(plan).all - axis.kernel + 1 for axis in conv.axes]


def of_length(plan: Plan, length: int, whole: bool = False) -> Plan:
    """The same plan with transforms of this length, of tiles or of a whole image."""
    alignment = WHOLE if whole else lcm(*(length - taps + 1 for taps in plan.form[1:3]))
    return replace(plan, form=(*plan.form[:-1], length), alignment=alignment)


def every(plan: Plan) -> list[Plan]:
    """The plans of a layer over all sizes of images; those of tiles first."""
    most = max(plan.form[1:3])
    tiles = [of_length(plan, each) for each in LENGTHS if each - most + 1 >= SPARE]
    return tiles + [of_length(plan, each, whole=True) for each in LENGTHS if each >= most]


def able(conv: Conv, plan: Plan) -> list[Plan]:
    """Those for an image of this size: of tiles, and of one tile that holds it."""
    return [each for each in every(plan) if each.alignment != WHOLE or fits(conv, each.form[-1])]


def best(conv: Conv, plan: Plan, target: Target) -> Plan:
    """The plan for an image of this size."""
    return min(able(conv, plan), key=lambda each: cycles(conv, each, target))


def cycles(conv: Conv, plan: Plan, target: Target) -> float:
    """Modelled cycles of one core for one image."""
    length, outputs, tiles = length_of(plan).all, outputs_of(conv, plan), 1
    for axis, each in zip(conv.axes, outputs, strict=True):
        tiles *= -(-axis.out // each)
    rows = min(outputs[0] + conv.axes[0].kernel - 1, conv.axes[0].size)
    points = IN * rows + OUT * outputs[0] + COLUMN * length
    pixels = prod(axis.out for axis in conv.axes)
    apart = (not plan.packed) * APART_IN + (not plan.blocked) * APART_OUT
    vectors = -(-conv.co // target.lanes(conv.dtype))
    return vectors * (tiles * length * points * TIMES[length] + pixels * apart)
