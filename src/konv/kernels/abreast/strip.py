"""Strips of groups abreast: a unit's input in scratch, [cell][depth][row][column][channel of a
group][group of the cell], padding as zeros.

Channels-last rows are copied, contiguous ones turned in squares of pixels and channels; other
padding modes and odd views go number by number, through tables of sources.
"""

from __future__ import annotations

from typing import TypeVar

from konv.kernels.packing import transpose
from konv.kernels.words import AXES, Piece, part_function, per_axis
from konv.llvm import I64, REAL, SIZE, Function, Module, Pointer, Routine, Value
from konv.plan import Plan

JOB = (
    "units",
    "chunks", "chunk",  # of cells: how many, cells in each
    "cells", "vectors",  # of a layer; of output channels of a cell
    "mode",
    "x_batch", "x_channel", "y_batch", "y_channel",
    "pitch", "face", "plane",  # numbers in a row, in the rows of one depth, in a cell
    "rows", "at_rows",  # of taps: how many; word where the list begins of what they read in a strip
    "thread_bytes", "at_strip", "at_block",
    *per_axis(
        "size", "x_stride", "y_stride", "count", "box", "boxes", "jump", "least", "span", "at_raws",
        "at_slots",
    ),
)  # fmt: skip
UNIT = (
    "x", "y", "weights", "scratch", "cell", "some",  # first cell and how many
    "residual",  # bytes from a result to what is added to it
    *per_axis("j", "length", "raw", "slots"),
)  # fmt: skip
RECORDS = (JOB, UNIT)
Place = TypeVar("Place", int, Value)

# Of squares, of which a layer has two: 16 numbers a side take LLVM ten times as long; without those
# of 4, 512@7 in 64 groups took 1.4 times as long, number by number (Granite Rapids).
SIDES = 8, 4, 2


def turned(place: Place, groups: int, each: int) -> Place:
    """Which number of [group][each] stands at a place of [each][group]."""
    return place % groups * each + place // groups


def emit_strip(module: Module, plan: Plan) -> Routine:
    """strip(job, unit): fill the strip of the unit's box and cells."""
    real, wide = REAL[plan.dtype], plan.depth * plan.form[3]
    with part_function(module, "strip", records=RECORDS, plain=True) as (f, piece, _):
        job, unit = piece.job, piece.unit
        strip, cells = piece.part("at_strip", real), unit["some"]
        tables = [piece.part(("at_slots", a), I64) for a in AXES]
        x = unit.pointer("x", real) + unit["cell"] * wide * job["x_channel"]
        beside = job["x_stride", 2] if plan.packed else job["x_channel"]
        plain = beside.equals(1) & job["mode"].equals(0)
        width, raw = unit["slots", 2], unit["raw", 2]
        begin = f.select(plain, f.least(f.most(0 - raw, 0), width), f.integer(0))
        end = f.select(plain, f.most(f.least(job["size", 2] - raw, width), begin), width)
        with f.loop(unit["slots", 0]) as d, f.loop(unit["slots", 1]) as h:
            deep, high = tables[0][d], tables[1][h]
            to, source = strip + d * job["face"] + h * job["pitch"], x + deep + high
            with f.choose((deep | high) < 0) as (padding, pixels):
                with padding, f.loop(cells) as cell:
                    f.clear(to + cell * job["plane"], width * wide)
                with pixels:
                    with f.loop(cells) as cell:
                        row = to + cell * job["plane"]
                        f.clear(row, begin * wide)
                        f.clear(row + end * wide, (width - end) * wide)
                    with f.choose(plain) as (run, places):
                        with run:
                            into = to + begin * wide
                            first = source + (begin + raw) * job["x_stride", 2]
                            fill = _squares if plan.packed else _copies
                            fill(f, piece, plan, first, into, end - begin)
                        with places, f.loop(width) as i:
                            _numbers(f, piece, plan, source, tables[2][i], to + i * wide)
        return f.fn


def _copies(
    f: Function, piece: Piece, plan: Plan, source: Pointer, to: Pointer, count: Value
) -> None:
    """Pixels of a channels-last row: whole cache lines of them, for all cells. Those of several
    groups fill a vector at most.
    """
    job, most = piece.job, f.module.target.vector_bytes // SIZE[source.element]
    groups, wide = plan.form[3], plan.depth * plan.form[3]
    order = [turned(c, groups, plan.depth) for c in range(wide)]
    with f.loop(count) as i:
        pixel, into = source + i * job["x_stride", 2], to + i * wide
        with f.loop(piece.unit["some"]) as cell:
            begin, put = pixel + cell * wide, into + cell * job["plane"]
            f.prefetch(begin + job["x_stride", 1])  # of the next row, which lies far away
            at = 0
            while at < wide:
                lanes = wide if groups > 1 else most
                while lanes > wide - at:
                    lanes //= 2
                numbers = begin.vector(at, lanes)
                put.put(at, numbers if groups == 1 else f.shuffle(numbers, numbers, order))
                at += lanes


def _squares(
    f: Function, piece: Piece, plan: Plan, source: Pointer, to: Pointer, count: Value
) -> None:
    """Pixels of contiguous rows, turned in squares, small ones of short rows; the last overlaps the
    one before it rather than fall short.
    """
    job, groups, wide = piece.job, plan.form[3], plan.depth * plan.form[3]
    plane = job["x_channel"]
    # As many groups as a power of two: each square begins with the first of them.
    sides = [side for side in SIDES if wide % side == 0 and side % groups == 0][:2]

    def squares(first: Pointer, into: Pointer, side: int) -> None:
        step = plane * (side // groups)
        with f.loop(wide // side) as square, f.loop(count, step=side) as i:
            at = f.least(i, count - side)
            corner = first + square * step + at
            planes = [turned(c, groups, plan.depth) for c in range(side)]
            rows = [(corner + plane * n).vector(0, side) for n in planes]
            for n, column in enumerate(transpose(f, rows)):
                into.put((at + n) * wide + square * side, column)

    def fill(first: Pointer, into: Pointer, sides: list[int]) -> None:
        if not sides:
            with f.loop(wide) as c, f.loop(count) as i:
                into[i * wide + c] = first[turned(c, groups, plan.depth) * plane + i]
            return
        with f.choose(count >= sides[0]) as (enough, fewer):
            with enough:
                squares(first, into, sides[0])
            with fewer:
                fill(first, into, sides[1:])

    with f.loop(piece.unit["some"]) as cell:
        fill(source + cell * (plane * wide), to + cell * job["plane"], sides)


def _numbers(f: Function, piece: Piece, plan: Plan, x: Pointer, source: Value, to: Pointer) -> None:
    """One pixel by the table of sources."""
    job, groups, wide = piece.job, plan.form[3], plan.depth * plan.form[3]
    with f.loop(piece.unit["some"]) as cell, f.loop(wide) as c:
        number, channel = f.var_of(f.constant(x.element, 0.0)), turned(c, groups, plan.depth)
        with f.when(source >= 0):
            number.set(x[source + (cell * wide + channel) * job["x_channel"]])
        (to + cell * job["plane"])[c] = number.get()
