"""How a weight gradient of konv.kernels.gradient_winograd is cut into runs, and runs into units."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from math import prod

from konv.geometry import Axis, Conv
from konv.kernels import gradient_cut
from konv.kernels.cut import Line
from konv.kernels.gradient_cut import Boxes, Work, fill
from konv.kernels.winograd_transforms import Transform
from konv.plan import Plan, Strides
from konv.target import BYTES, Target

E = lambda n, d: int(os.environ.get(n, d))
BOX = E("BOX", 32)  # tiles of a box
WIDEST = 16  # tiles of a row in a box
WIDE = E("WIDE", 64)  # channels that a box's copy has
POINTS = E("POINTS", 2**22)  # bytes of V and D, about
DEEP = E("DEEP", 128)  # tiles of a product: V and D of a block stay in the first-level cache
CHUNK = E("CHUNK", 2**25)  # bytes of U, about
FEW = E("FEW", 64)
TAPS = 32  # input channels of a unit at the end


def work(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """The work of a layer under a plan of konv.kernels.gradient_winograd, for x and dy with these
    strides.
    """
    lanes, size = target.lanes(plan.dtype), BYTES[plan.dtype]
    if conv.exact_macs < gradient_cut.ALONE:
        threads = 1
    both = Transform(*plan.form[:2]), Transform(*plan.form[2:])
    ci, co, points = conv.ci // conv.groups, conv.co // conv.groups, both[0].n * both[1].n
    width = plan.vectors * lanes
    vectors_ci, vectors_co = -(-ci // lanes), -(-co // lanes)
    full = (vectors_co - plan.tail) // plan.vectors
    blocks = full + (plan.tail > 0)
    each = points * conv.groups * vectors_ci * lanes * width * size
    chunk = -(-blocks // -(-blocks * each // CHUNK))
    wide_co = min(vectors_co, chunk * plan.vectors)
    boxes = _boxes(conv, both)
    lines = boxes.lines
    tile = points * conv.groups * (vectors_ci + wide_co) * lanes * size
    runs = list(_runs(conv, boxes, max(DEEP, POINTS // tile)))
    most = max(run["tiles"] for run in runs) | 1
    pitch, volume = (prod(line.slots for line in lines[a:]) for a in (2, 1))
    down, along = (line.box * t.m for line, t in zip(lines[1:], both, strict=True))
    wide = min((16 if plan.packed and plan.blocked else WIDE) // lanes, max(vectors_ci, wide_co)) * lanes
    taps = prod(axis.kernel for axis in conv.axes)
    words = {
        "blocks": full, "tail": plan.tail, "wide": wide, "vectors_ci": vectors_ci, "piece": DEEP,
        "pitch": pitch, "volume": volume, "pitch_dy": along, "volume_dy": down * along,
        "row_tiles": lines[2].count, "image_tiles": lines[1].count * lines[2].count,
        "vector": most * lanes, "padded_rows": TAPS * taps,
        **{f"outs{a}": out for a, out in zip((1, 2), _outs(conv), strict=True)},
    }  # fmt: skip
    alone = len(runs) == 1 and runs[0]["tiles"] <= FEW
    own = 0
    if alone:
        own = max(1, target.l2 * 2 // 3 // (points * lanes * size * (most + width)))
        own = -(-vectors_ci // -(-vectors_ci // own)) * lanes
    parts = {
        "at_copy": boxes.images * max(volume, down * along) * wide * size,
        "at_sums": taps * max(TAPS, own) * width * size,
        "at_own": points * own * width * size,
    }
    numbers_v, numbers_d, numbers_u = (
        _odd(conv.groups * count * lanes)
        for count in (vectors_ci * most, wide_co * most, vectors_ci * wide_co * lanes)
    )
    apart = {
        "at_v": points * numbers_v * size,
        "at_d": points * numbers_d * size,
        "at_u": points * numbers_u * size,
    }
    made, tables, in_all = fill(conv, boxes, words, parts, apart, [], x, y, threads)
    made |= {"piece": DEEP, "v_point": numbers_v, "d_point": numbers_d, "u_point": numbers_u}
    jobs = []
    for first in range(0, blocks, chunk):
        here = min(chunk, blocks - first)
        vectors = min(vectors_co - first * plan.vectors, here * plan.vectors)
        now = made | {"chunk": first, "vectors_co": vectors}
        in_ci, in_co = -(-vectors_ci * lanes // wide), -(-vectors * lanes // wide)
        for run in runs:
            ranges = conv.groups * (in_ci + in_co)
            jobs.append(now | run | {
                "step": 0, "ranges_ci": in_ci, "ranges_co": in_co, "units": run["boxes"] * ranges,
            })  # fmt: skip
            if alone:
                in_ci = -(-ci // own)
                jobs.append(now | run | {
                    "step": 3, "units": conv.groups * here * in_ci, "ranges_ci": in_ci,
                    "ranges_co": here, "ci_each": own,
                })  # fmt: skip
                break
            cut_ci, cut_co = _ranges(threads)
            each_ci, each_co = -(-vectors_ci // cut_ci), -(-here // cut_co)
            cut_ci, cut_co = -(-vectors_ci // each_ci), -(-here // each_co)
            jobs.append(now | run | {
                "step": 1, "units": points * conv.groups * cut_ci * cut_co,
                "ranges_ci": cut_ci, "ranges_co": cut_co,
                "ci_each": each_ci * lanes, "blocks_each": each_co,
            })  # fmt: skip
        if alone:
            continue
        in_ci = -(-ci // TAPS)
        jobs.append(now | {
            "step": 2, "units": conv.groups * here * in_ci, "ranges_ci": in_ci, "ranges_co": here,
            "ci_each": TAPS,
        })  # fmt: skip
    first_job, *then = [[*job.values(), *tables] for job in jobs]
    return Work(first_job, then, threads, in_all)


def _odd(numbers: int) -> int:
    """At least so many, an odd number of lines of cache: what lies so far apart is in other sets."""
    return (-(-numbers // 16) | 1) * 16


def _ranges(threads: int) -> tuple[int, int]:
    """Into how many ranges input and output channels of a product are cut."""
    return 1, 1


def _outs(conv: Conv) -> tuple[int, ...]:
    return (*(1,) * (2 - conv.dims), *(axis.out for axis in conv.axes))


def _boxes(conv: Conv, both: tuple[Transform, Transform]) -> Boxes:
    """Boxes of tiles: an axis of tiles is one of outputs that read n pixels in steps of m."""
    axes = (Axis(1, 1),) * (2 - conv.dims) + conv.axes
    lines = [Line(Axis(1, 1))]
    for axis, t in zip(axes, both, strict=True):
        # What no output reads is none of a tile's business.
        size = min(axis.size, max(1, axis.out + axis.kernel - 1 - axis.lo))
        beyond = (-(-axis.out // t.m) - 1) * t.m + t.n - size - axis.lo
        lines.append(Line(replace(axis, size=size, kernel=t.n, stride=t.m, hi=beyond)))
    lines[2].cut(min(BOX, WIDEST))
    lines[1].cut(max(1, BOX // lines[2].box))
    return Boxes.over(conv, lines, BOX // (lines[1].box * lines[2].box), 1)


def _runs(conv: Conv, boxes: Boxes, most: int) -> Iterator[dict[str, int]]:
    """Runs of boxes of about so many tiles, each of whole rows of tiles."""
    _, down, along = boxes.lines
    row = along.boxes  # boxes side by side
    rows = boxes.count // row
    each = boxes.images * down.box * along.count  # tiles of a row of boxes
    runs = -(-rows * each // most)
    step = max(1, -(-rows // runs))
    for first in range(0, rows, step):
        end = min(first + step, rows)
        base, after = (_lines_before(conv, boxes, r) * along.count for r in (first, end))
        yield {
            "box": first * row, "boxes": (end - first) * row, "base": base, "tiles": after - base,
            "fresh": int(first == 0),
        }  # fmt: skip


def _lines_before(conv: Conv, boxes: Boxes, row: int) -> int:
    """Rows of tiles before a row of boxes."""
    down = boxes.lines[1]
    if boxes.images > 1:
        return min(row * boxes.images, conv.n) * down.count
    return row // down.boxes * down.count + min(row % down.boxes * down.box, down.count)
