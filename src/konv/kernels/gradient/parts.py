"""What a box of a weight gradient needs of its input before sums are formed.

    strip   [channel][image][slot d][slot h][slot w]   the input under the box, padding as zeros
    places  [output]                                   where its first tap reads in a channel

Whatever has to be turned - channels-last input, contiguous dy, sums - goes through one routine.
"""

from __future__ import annotations

from konv.kernels.gradient.records import RECORDS
from konv.kernels.packing import transpose
from konv.kernels.stored import HALVES, element, read
from konv.kernels.words import AXES, Piece, part_function
from konv.llvm import (
    I64,
    REAL,
    SIZE,
    Function,
    Module,
    Routine,
    Type,
    Value,
    pointer_to,
)
from konv.plan import Plan

TURN = ("from", "step", "to", "apart", "rows", "columns")


def emit_turn(module: Module, plan: Plan, source: Type) -> Routine:
    """turn(from, step, to, apart, rows, columns): to[j * apart + i] = from[i * step + j].

    In squares, of which the last of a line overlaps the one before it rather than fall short.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    sides = sorted({16 // SIZE[real], lanes}, reverse=True)
    params = [(n, pointer_to(source if n == "from" else real) if n in ("from", "to") else I64)
              for n in TURN]  # fmt: skip
    with module.function(f"turn_{source}", params, inline=False) as (f, args):
        begin, step, to, apart, rows, columns = args
        left = f.var(1)
        for side in sides:
            enough = (rows >= side) & (columns >= side) & left.get().differs(0)
            with f.when(enough):
                left.set(0)
                with f.loop(rows, step=side) as i0, f.loop(columns, step=side) as j0:
                    i, j = f.least(i0, rows - side), f.least(j0, columns - side)
                    corner, out = begin + (i * step + j), to + (j * apart + i)
                    lines = []
                    for _ in range(side):
                        f.prefetch(corner + side * step)
                        lines.append(read(f, plan.dtype, corner, side))
                        corner = corner + step
                    for column in transpose(f, lines):
                        out.put(0, column)
                        out = out + apart
        with f.when(left.get().differs(0)), f.loop(rows) as i, f.loop(columns) as j:
            to[j * apart + i] = read(f, plan.dtype, begin + (i * step + j))
        return f.fn


def emit_places(module: Module) -> Routine:
    """places(job, unit): where each output's first tap reads in a channel of the strip."""
    with part_function(module, "places", records=RECORDS, plain=True) as (f, piece, _):
        job, unit, at = piece.job, piece.unit, f.var(0)
        places = piece.part("at_pixels", I64)
        with (
            f.loop(unit["images"]) as image,
            f.loop(unit["length", 0]) as d,
            f.loop(unit["length", 1]) as h,
        ):
            line = d * job["ahead", 0] * job["face"] + h * job["ahead", 1] * job["pitch"]
            line = line + image * job["volume"]
            with f.loop(unit["length", 2]) as w:
                places[at.get() + w] = line + w * job["ahead", 2]
            at.add(unit["length", 2])
        return f.fn


def emit_strip(module: Module, plan: Plan, turn: Routine) -> Routine:
    """strip(job, unit): the unit's channels under the box at hand."""
    real, size = REAL[plan.dtype], SIZE[element(plan.dtype)]
    row = _emit_row(module, plan) if plan.packed else _emit_turned_row(module, plan, turn)
    slow = _emit_slow_row(module, plan)
    whole = None if plan.packed else _emit_whole_rows(module, plan, turn)
    with part_function(module, "strip", records=RECORDS, plain=True) as (f, piece, _):
        job, unit = piece.job, piece.unit
        tables = [piece.part(("at_slots", axis), I64) for axis in AXES]
        strip = piece.part("at_strip", real)
        first = unit["group"] * job["ci"] + unit["channel"]
        rows = unit["slots", 1]
        if whole is not None:
            # Rows that follow each other are one.
            rows = f.select(job["x_whole"] >= 1, f.integer(0), rows)
            with f.when(job["x_whole"] >= 1):
                f.call(whole, [job.base, unit.base])
        with (
            f.loop(unit["images"]) as image,
            f.loop(unit["slots", 0]) as d,
            f.loop(rows) as h,
        ):
            deep, high = tables[0][d], tables[1][h]
            to = strip + (image * job["volume"] + d * job["face"] + h * job["pitch"])
            at = deep + high + image * job["x_batch"] + first * job["x_channel"]
            source = unit["x"] + at * size
            padding = (deep | high) < 0
            with f.choose(padding) as (zeros, pixels):
                with zeros, f.loop(unit["channels"]) as c:
                    f.clear(to + c * job["plane"], unit["slots", 2])
                with pixels, f.choose(job["in_a_row"].differs(0)) as (neighbours, others):
                    with neighbours:
                        f.call(row, [job.base, unit.base, source, to])
                    with others:
                        f.call(slow, [job.base, unit.base, source, to])
        return f.fn


def _inside(f: Function, piece: Piece) -> tuple[Value, Value]:
    """The slots of a row that lie in the image: from, to."""
    raw, width = piece.unit["raw", 2], piece.unit["slots", 2]
    begin = f.least(f.most(0 - raw, 0), width)
    return begin, f.most(f.least(piece.job["size", 2] - raw, width), begin)


def _emit_row(module: Module, plan: Plan) -> Routine:
    """row(job, unit, source, to): a row of a contiguous image, every channel.

    Vectors that lie in the image are copied as they are. Of others lanes are masked; they may reach
    into the row after this one, which is written later, and beyond a plane's end, where there is
    room.
    """
    lanes, real = module.target.lanes(plan.dtype), REAL[plan.dtype]
    with part_function(module, "row", ("source", "to"), records=RECORDS) as (f, piece, args):
        source, to = args[0].to_pointer(element(plan.dtype)), args[1].to_pointer(real)
        job, unit = piece.job, piece.unit
        begin, end = _inside(f, piece)
        raw, width = unit["raw", 2], unit["slots", 2]
        with f.loop(unit["channels"]) as c:
            line, out = source + c * job["x_channel"] + raw, to + c * job["plane"]
            with (
                f.loop(width, step=lanes) as q,
                f.choose((q >= begin) & (q + lanes <= end)) as (plain, edge),
            ):
                with plain:
                    out.put(q, read(f, plan.dtype, line + q, lanes))
                with edge:
                    if plan.dtype in HALVES:
                        out.put(q, f.zero(real, lanes))
                        first, last = f.most(q, begin), f.least(q + lanes, end)
                        with f.loop(last, start=first) as i:
                            out[i] = read(f, plan.dtype, line + i)
                    else:
                        mask = f.between(lanes, begin - q, end - q)
                        out.put(q, f.load_masked(line + q, mask))
        return f.fn


def _emit_turned_row(module: Module, plan: Plan, turn: Routine) -> Routine:
    """row(job, unit, source, to): a row of a channels-last image, every channel."""
    real = REAL[plan.dtype]
    with part_function(module, "row", ("source", "to"), records=RECORDS) as (f, piece, args):
        source, to = args[0].to_pointer(element(plan.dtype)), args[1].to_pointer(real)
        job, unit = piece.job, piece.unit
        begin, end = _inside(f, piece)
        with f.loop(unit["channels"]) as c:
            line = to + c * job["plane"]
            with f.loop(begin) as q:
                line[q] = 0.0
            with f.loop(unit["slots", 2], start=end) as q:
                line[q] = 0.0
        step = job["x_stride", 2]
        first = source + (unit["raw", 2] + begin) * step
        f.call(turn, [first, step, to + begin, job["plane"], end - begin, unit["channels"]])
        return f.fn


def _emit_whole_rows(module: Module, plan: Plan, turn: Routine) -> Routine:
    """whole_rows(job, unit): the unit's channels of a channels-last box without padding, whose rows
    lie in one run; turned at once, small maps fill squares, too.
    """
    real, size = REAL[plan.dtype], SIZE[element(plan.dtype)]
    with part_function(module, "whole_rows", records=RECORDS, plain=True) as (f, piece, _):
        job, unit, step = piece.job, piece.unit, piece.job["x_stride", 2]
        tables = [piece.part(("at_slots", axis), I64) for axis in AXES]
        strip = piece.part("at_strip", real)
        first = unit["group"] * job["ci"] + unit["channel"]
        deep = job["x_whole"] >= 2
        depths = f.select(deep, f.integer(1), unit["slots", 0])
        count = unit["slots", 1] * unit["slots", 2] * f.select(deep, unit["slots", 0], 1)
        with f.loop(unit["images"]) as image, f.loop(depths) as d:
            at = tables[0][d] + tables[1][0] + unit["raw", 2] * step
            at = at + image * job["x_batch"] + first * job["x_channel"]
            source = (unit["x"] + at * size).to_pointer(element(plan.dtype))
            to = strip + (image * job["volume"] + d * job["face"])
            f.call(turn, [source, step, to, job["plane"], count, unit["channels"]])
        return f.fn


def _emit_slow_row(module: Module, plan: Plan) -> Routine:
    """slow_row(job, unit, source, to): number by number, by the table of sources."""
    real = REAL[plan.dtype]
    with part_function(module, "slow_row", ("source", "to"), records=RECORDS, plain=True) as (
        f,
        piece,
        args,
    ):
        source, to = args[0].to_pointer(element(plan.dtype)), args[1].to_pointer(real)
        job, unit, places = piece.job, piece.unit, piece.part(("at_slots", 2), I64)
        with f.loop(unit["channels"]) as c, f.loop(unit["slots", 2]) as q:
            place, line = places[q], to + c * job["plane"]
            with f.choose(place < 0) as (padding, pixel):
                with padding:
                    line[q] = 0.0
                with pixel:
                    line[q] = read(f, plan.dtype, source + (c * job["x_channel"] + place))
        return f.fn
