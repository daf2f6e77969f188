"""What a box of tiles needs before its first transform: slots and addresses.

    slots    per axis: where each source of the box lies in the input, -1 where there is none
    ins      per tile: the address of each of its pixels; padding reads a row of zeros. Of
             contiguous input it is a place in the packed image, of one group's channels
    outs     per tile: the address of each of its results, those beyond the border where
             nobody reads; for contiguous output the address of the first, and how many rows and
             columns are real

Sixty cycles a tile, which then takes thousands.
"""

from __future__ import annotations

from konv.kernels.tables import emit_slots
from konv.kernels.winograd.records import EDGE, LINE, TILE_AXES, tiles_function
from konv.kernels.winograd.transforms import Transform
from konv.kernels.words import AXES, Piece
from konv.llvm import I64, REAL, SIZE, Function, Module, Routine, Value
from konv.plan import Plan

OUTS = 4  # words of a tile in `outs` for contiguous output


def emit_tables(
    module: Module, plan: Plan, transforms: tuple[Transform, Transform], cells: bool = False
) -> Routine:
    """tables(job, unit): those of one plane of the unit's box, whose tiles join the others';
    `cells`: results are cells (konv.kernels.cells), which may be cropped.
    """
    tiles = _emit_tiles(module, plan, transforms, cells)
    with tiles_function(module, "tables", writes=True, cold=True) as (f, piece, _):
        job, unit = piece.job, piece.unit
        f.call(tiles, [job.base, unit.base])
        unit["tiles"] = unit["tiles"] + unit["lines", 1] * unit["lines", 2]
        return f.fn


def _line(piece: Piece, axis: int, index: Value) -> list[Value]:
    """First output of a line, how many it has, and the first source."""
    words = piece.job.base + (piece.job["at_lines", axis] + index * LINE)
    return [words[i] for i in range(LINE)]


def emit_axes(module: Module, transforms: tuple[Transform, Transform]) -> Routine:
    """axes(job, unit): the planes that the box reads, and the slots of each axis."""
    slots = emit_slots(module)
    with tiles_function(module, "axes", writes=True, cold=True) as (f, piece, _):
        job, unit = piece.job, piece.unit
        unit["slots", 0] = 1  # one plane at a time
        planes, at = piece.part("at_planes", I64), job.base + job["at_raws", 0]
        which = unit["line", 0] + job["least", 0], unit["lines", 0] + job["span", 0]
        f.call(slots, [planes, at, *which, job["size", 0], job["x_stride", 0], job["mode"]])
        for axis, t in zip(TILE_AXES, transforms, strict=True):
            line, lines = unit["line", axis], unit["lines", axis]
            sparse, d = job["sparse", axis].differs(0), job["dilation", axis]
            first, _, source = _line(piece, axis, line)
            last = _line(piece, axis, line + lines - 1)[2]
            unit["base", axis], unit["source", axis] = first, source
            raws = job["at_raws", axis] + f.select(sparse, line * t.inputs, 0)
            raw = f.select(sparse, f.integer(0), source)
            count = f.select(sparse, lines * t.inputs, last - source + d * (t.inputs - 1) + 1)
            unit["raw", axis], unit["slots", axis] = raw, count
            end = line + lines < job["count", axis]
            after = f.least(line + lines, job["count", axis] - 1)
            after = f.select(end, _line(piece, axis, after)[0], job["out", axis])
            unit["width", axis] = after - first
            table, raws = piece.part(("at_slots", axis), I64), job.base + raws
            how = job["size", axis], job["x_stride", axis], job["mode"]
            f.call(slots, [table, raws, raw, count, *how])
            with f.when(job["mode"].differs(0)), f.loop(count) as slot:
                beyond = raw + raws[slot] >= job["end", axis]
                table[slot] = f.select(beyond, f.integer(-1), table[slot])
        return f.fn


def _emit_tiles(
    module: Module, plan: Plan, transforms: tuple[Transform, Transform], cells: bool
) -> Routine:
    """tiles(job, unit): the addresses of each tile of the box in one plane. Those of results stand
    behind those of planes before it, of pixels there are this plane's only.
    """
    size, (over, along) = SIZE[REAL[plan.dtype]], transforms
    pixels = over.inputs * along.inputs
    places = OUTS if plan.blocked else over.outputs * along.outputs + EDGE * cells
    lanes = module.target.lanes("float32")
    with tiles_function(module, "tiles", plain=True) as (f, piece, _):
        job, unit, number = piece.job, piece.unit, f.var(0)
        ins, outs = piece.part("at_ins", I64), piece.part("at_outs", I64)
        dense = [job["sparse", a].equals(0) for a in TILE_AXES]
        steps = [f.select(d, job["dilation", a], 1) for d, a in zip(dense, TILE_AXES, strict=True)]
        with f.loop(unit["lines", 1]) as i, f.loop(unit["lines", 2]) as k:
            lines = [_line(piece, a, unit["line", a] + at) for a, at in ((1, i), (2, k))]
            slots = [
                f.select(d, line[2] - unit["source", a], at * t.inputs)
                for d, line, a, at, t in zip(
                    dense, lines, TILE_AXES, (i, k), transforms, strict=True
                )
            ]
            to = ins + number.get() * pixels
            with f.loop(over.inputs) as r, f.loop(along.inputs) as q:
                at = [slots[0] + r * steps[0], slots[1] + q * steps[1]]
                to[r * along.inputs + q] = _source(f, piece, plan, at, size)
            to = outs + (unit["tiles"] + number.get()) * places
            if plan.blocked:
                to[0] = _result(f, piece, lines, f.integer(0), f.integer(0), size)
                to[1], to[2], to[3] = lines[0][1], lines[1][1], lines[1][0] - unit["base", 2]
            else:
                with f.loop(over.outputs) as r, f.loop(along.outputs) as q:
                    real, index = (r < lines[0][1]) & (q < lines[1][1]), r * along.outputs + q
                    place = _result(f, piece, lines, r, q, size)
                    dump = unit["scratch"] + job["at_dump"]
                    if cells:  # each has a place of its own there
                        inside = [lines[0][0] + r, lines[1][0] + q]
                        real, dump = real & _whole(piece, inside), dump + index * (lanes * size)
                    to[index] = f.select(real, place, dump)
                if cells:
                    ends = [line[0] + line[1] - 1 for line in lines]
                    whole = _whole(piece, [line[0] for line in lines]) & _whole(piece, ends)
                    edge = to + over.outputs * along.outputs
                    edge[0], edge[1], edge[2] = unit["y"], lines[0][0], lines[1][0]
                    edge[3] = f.select(whole, f.integer(0), 1)
            number.add(1)
        return f.fn


def _whole(piece: Piece, cell: list[Value]) -> Value:
    """Whether a cell lies in the output with all its sub-pixels."""
    job, found = piece.job, []
    for axis, j in zip(TILE_AXES, cell, strict=True):
        first = j * job["step", axis] - job["crop", axis]
        found.append((first >= 0) & (first + job["step", axis] <= job["outputs", axis]))
    return found[0] & found[1]


def _source(f: Function, piece: Piece, plan: Plan, at: list[Value], size: int) -> Value:
    """The address of the pixel in these slots."""
    job, unit = piece.job, piece.unit
    if plan.packed:
        image = unit["scratch"] + job["at_image"]
        return image + at[0] * job["apart", 1] + at[1] * job["apart", 2]
    places = zip(AXES, (f.integer(0), *at), strict=True)
    deep, down, along = (piece.part(("at_slots", axis), I64)[slot] for axis, slot in places)
    zeros = unit["scratch"] + job["at_zeros"]
    return f.select((deep | down | along) >= 0, unit["x"] + (deep + down + along) * size, zeros)


def _result(
    f: Function, piece: Piece, lines: list[list[Value]], r: Value, q: Value, size: int
) -> Value:
    """The address of a tile's result in row r, column q."""
    offset = f.integer(0)
    for axis, line, i in zip(TILE_AXES, lines, (r, q), strict=True):
        out = line[0] + i * piece.job["dilation", axis]
        offset = offset + out * piece.job["y_stride", axis]
    return piece.unit["y"] + offset * size
