"""How a weight gradient of konv.kernels.gradient_winograd is cut into boxes, parts and units."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from konv.geometry import Axis, Conv
from konv.kernels import gradient_cut
from konv.kernels.cut import Line
from konv.kernels.gradient_cut import Boxes, Work, complete
from konv.kernels.winograd_transforms import Transform
from konv.plan import Plan, Strides
from konv.target import BYTES, Target

TILES = 28  # of a box
WIDEST = 16  # tiles of a row in a box
TILES_OF_PART = 128  # at least


def work(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """The work of a layer under a plan of konv.kernels.gradient_winograd, for x and dy with these
    strides.
    """
    lanes, size = target.lanes(plan.dtype), BYTES[plan.dtype]
    if conv.exact_macs < gradient_cut.ALONE:
        threads = 1
    both = Transform(*plan.form[:2]), Transform(*plan.form[2:])
    boxes = _boxes(conv, both)
    ci, co, points = conv.ci // conv.groups, conv.co // conv.groups, both[0].n * both[1].n
    vectors, width = -(-co // lanes), plan.vectors * lanes
    full = (vectors - plan.tail) // plan.vectors
    blocks = full + (plan.tail > 0)
    each_ci, each_co = _ranges(conv, plan, target, boxes, points, threads)
    pitch, volume = (prod(line.slots for line in boxes.lines[a:]) for a in (2, 1))
    down, along = (line.box * t.m for line, t in zip(boxes.lines[1:], both, strict=True))
    tiles = boxes.images * prod(line.box for line in boxes.lines)
    places = tiles | 1
    ranges_co, ranges_ci = -(-blocks // each_co), -(-ci // each_ci)
    wide_ci, wide_co = -(-min(each_ci, ci) // lanes) * lanes, min(each_co * plan.vectors, vectors) * lanes
    taps = prod(axis.kernel for axis in conv.axes)
    words = {
        "units": boxes.parts * conv.groups * ranges_co * ranges_ci,
        "blocks": full, "tail": plan.tail,
        "ranges_co": ranges_co, "blocks_each": each_co,
        "ranges_ci": ranges_ci, "ci_each": each_ci,
        "pitch": pitch, "volume": volume, "pitch_dy": along, "volume_dy": down * along,
        "wide_ci": wide_ci, "wide_co": wide_co, "padded_rows": wide_ci * taps,
        "v_point": places * lanes, "v_vector": points * places * lanes,
    }  # fmt: skip
    words |= {f"outs{a}": t.m * 0 + o for a, t, o in zip((1, 2), both, _outs(conv), strict=True)}
    parts = {
        "at_image": boxes.images * volume * wide_ci * size,
        "at_dy": boxes.images * down * along * wide_co * size,
        "at_v": points * places * wide_ci * size,
        "at_d": points * places * wide_co * size,
        "at_products": points * wide_ci * each_co * width * size,
        "at_sums": taps * wide_ci * each_co * width * size,
    }
    return complete(conv, boxes, words, parts, [], x, y, threads)


def _outs(conv: Conv) -> tuple[int, ...]:
    return (*(1,) * (2 - conv.dims), *(axis.out for axis in conv.axes))


def _boxes(conv: Conv, both: tuple[Transform, Transform]) -> Boxes:
    """Boxes of tiles: an axis of tiles is one of outputs that read n pixels in steps of m."""
    axes = (Axis(1, 1),) * (2 - conv.dims) + conv.axes
    lines = [Line(Axis(1, 1))]
    for axis, t in zip(axes, both, strict=True):
        beyond = (-(-axis.out // t.m) - 1) * t.m + t.n - axis.size - axis.lo
        lines.append(Line(replace(axis, kernel=t.n, stride=t.m, hi=beyond)))
    lines[2].cut(min(TILES, WIDEST))
    lines[1].cut(max(1, TILES // lines[2].box))
    left = TILES // (lines[1].box * lines[2].box)
    return Boxes.over(conv, lines, left, TILES_OF_PART)


def _ranges(
    conv: Conv, plan: Plan, target: Target, boxes: Boxes, points: int, threads: int
) -> tuple[int, int]:
    """Input channels, and blocks of output channels, of a unit."""
    import os
    ci, co = os.environ.get("RANGES", "32,2").split(",")
    return int(ci), int(co)
