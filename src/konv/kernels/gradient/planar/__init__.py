"""Weight gradients of few channels a group: outputs in the lanes, summed across them at the end.

    for unit in units: some groups of one part
        for box in boxes of the part:
            strip of the groups' input, panel of their dy
            for group: for tile of mr rows x nc output channels, in registers over the box:
                for vector of outputs:                     THE LOOP
                    load nc vectors of dy
                    for m in mr rows: load x; nc multiply-adds
        each vector of sums is added up, and leaves

Where konv.kernels.gradient fills one lane of a depthwise layer, this fills all: neighbouring
outputs of a row read neighbouring places of the strip, for which rows of a strided axis are dealt
out to its phases. A row of dy is filled up with zeros to whole vectors, a row of the strip as far.
So what lies behind an image's last output counts as dy = 0, times a pixel of the same row.
"""

from __future__ import annotations

from functools import partial
from math import prod

from konv.geometry import Conv
from konv.kernels.gradient.parts import emit_turn
from konv.kernels.gradient.planar.parts import (
    emit_leave,
    emit_panel,
    emit_places,
    emit_strip,
)
from konv.kernels.gradient.records import RECORDS
from konv.kernels.gradient.sums import emit_add
from konv.kernels.gradient.units import emit_box_words, emit_frame, list_rows
from konv.kernels.lines import Line
from konv.kernels.stored import element
from konv.kernels.tables import emit_slots
from konv.kernels.words import Piece, Words, part_function
from konv.llvm import I64, REAL, SIZE, Function, Module, Routine, Value, Variable, pointer_to
from konv.plan import Plan
from konv.target import Target

name = "gradient_planar"
exact = True

MOST = 4  # output channels in a tile
ROWS = 10  # rows in a tile: each has its address in one of 16 registers


def why_not(conv: Conv) -> str | None:
    """Where outputs of a row are no neighbours in a strip."""
    if any(axis.up > 1 for axis in conv.axes):
        return "takes no inserted zeros"
    if Line(conv.axes[-1]).sparse:
        return "takes no rows of which most pixels are not read"
    return None


def plan(conv: Conv, target: Target, packed: bool, blocked: bool) -> Plan:
    """The cheapest tile, rows x output channels."""
    rows, co = _rows(conv), conv.co // conv.groups
    tiles = _tiles(target, min(rows, ROWS), min(co, MOST))
    mr, nc = min(tiles, key=lambda tile: (tile_cost(rows, co, tile[0], tile[1], target), tile))
    return Plan(name, conv.dtype, packed, blocked, mr, nc, form=(conv.axes[-1].stride == 2,))


def _rows(conv: Conv) -> int:
    return conv.ci // conv.groups * prod(axis.kernel for axis in conv.axes)


def _tiles(target: Target, rows: int, co: int) -> list[tuple[int, int]]:
    room = target.registers - 1  # for x
    return [
        (mr, nc) for mr in range(1, rows + 1) for nc in range(1, co + 1) if mr * nc + nc <= room
    ]


def tile_cost(rows: int, co: int, mr: int, nc: int, target: Target) -> float:
    """Cycles for each vector of outputs and group: two multiply-adds, two loads a cycle, sums 4
    cycles late; the loop itself takes one. Loads of x straddle cache lines, as in planar.
    """
    split = 1.67 if target.vector_bytes == 64 else 1.33
    once = max(mr * nc / 2, (split * mr + nc + 1) / 2, 4) + 1
    return -(-rows // mr) * -(-co // nc) * once


def cost(conv: Conv, plan: Plan, target: Target) -> float:
    """Cycles of the loop for each output of all groups."""
    co, lanes = conv.co // conv.groups, target.lanes(plan.dtype)
    across = conv.axes[-1].out
    filled = across / (-(-across // lanes) * lanes)
    each = tile_cost(_rows(conv), co, plan.pixels, plan.vectors, target)
    return conv.groups * each / lanes / filled


def emit(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run`."""
    module = Module(target, plan.algorithm)
    turn = emit_turn(module, plan, element(plan.dtype))
    parts = {
        "slots": emit_slots(module),
        "places": emit_places(module, target.lanes(plan.dtype)),
        "strip": emit_strip(module, plan, turn),
        "panel": emit_panel(module, plan, turn),
        "leave": emit_leave(module, plan),
        "add": emit_add(module, plan),
        "sweep": _emit_sweep(module, plan),
    }
    parts["box"] = _emit_box(module, plan, parts)
    emit_frame(module, plan, parts, partial(_emit_unit, plan))
    return module


def _emit_unit(plan: Plan, f: Function, job: Words, unit: Words, number: Value) -> Value:
    """Which part, which groups; clears their sums. Returns the part."""
    lanes, real = f.module.target.lanes(plan.dtype), REAL[plan.dtype]
    part, chunk = number // job["ranges_co"], number % job["ranges_co"]
    unit["group"] = chunk * job["groups_each"]
    unit["groups"] = f.least(job["groups_each"], job["groups"] - unit["group"])
    unit["channel"], unit["channels"] = f.integer(0), unit["groups"] * job["ci"]
    sums = unit["groups"] * job["padded_rows"] * lanes
    f.clear(Piece(job, unit).part("at_sums", real), sums)
    return part


def _emit_box(module: Module, plan: Plan, parts: dict[str, Routine]) -> Routine:
    """box(job, unit, x, dy, number): add the products of one box to the unit's sums."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    labels = ("x", "dy", "number")
    with part_function(module, "box", labels, writes=True, cold=True, records=RECORDS) as (
        f,
        piece,
        args,
    ):
        job, unit = piece.job, piece.unit
        emit_box_words(f, plan, piece, parts["slots"], args)
        for part in ("places", "strip"):
            f.call(parts[part], [job.base, unit.base])
        in_place = job["in_place"].differs(0)
        with f.when(in_place.equals(0)):
            f.call(parts["panel"], [job.base, unit.base])
        lying = unit["y"] + unit["group"] * job["co"] * job["y_channel"] * SIZE[real]
        own = unit["scratch"] + job["at_panel"]
        unit["panel"] = f.select(in_place, lying, own)
        unit["panel_step"] = f.select(in_place, job["y_channel"], job["panel"])
        with f.loop(unit["groups"]) as g:
            strip = piece.part("at_strip", real) + g * job["ci"] * job["plane"]
            panel = unit["panel"] + g * job["co"] * unit["panel_step"] * SIZE[real]
            sums = piece.part("at_sums", real) + g * job["padded_rows"] * lanes
            f.call(parts["sweep"], [job.base, unit.base, strip, panel, sums])
        return f.fn


def _emit_sweep(module: Module, plan: Plan) -> Routine:
    """sweep(job, unit, strip, panel, sums): all tiles of one group.

    Rows and channels that are missing in the last tile are the last one again; there is room for
    their sums.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    mr, nc, size = plan.pixels, plan.vectors, SIZE[REAL[plan.dtype]]
    tile = emit_tile(module, plan)
    labels = ("strip", "panel", "sums")
    with part_function(module, "sweep", labels, records=RECORDS) as (f, piece, args):
        job, unit = piece.job, piece.unit
        rows, panels = f.array(I64, mr), f.array(I64, nc)
        places, count = piece.part("at_pixels", I64), job["ci"] * job["taps"]
        strip, tap = f.var(args[0]), f.var(0)
        sums = f.var(args[2])
        with f.loop(count, step=mr) as row:
            list_rows(f, job, rows, mr, count - row, strip, tap, size)
            with f.loop(job["co"], step=nc) as k:
                for n in range(nc):
                    channel = f.least(k + n, job["co"] - 1)
                    panels[n] = args[1] + channel * unit["panel_step"] * size
                to = sums.get().to_pointer(real)
                f.call(tile, [rows, places, unit["pixels"], panels, to])
                sums.add(mr * nc * lanes * size)
        return f.fn


def emit_tile(module: Module, plan: Plan) -> Routine:
    """tile(rows, places, count, panels, sums): add the products of a box, `count` vectors of
    outputs, to mr x nc vectors.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    mr, nc = plan.pixels, plan.vectors
    params = [("rows", pointer_to(I64)), ("places", pointer_to(I64)), ("count", I64)]
    params += [("panels", pointer_to(I64)), ("sums", pointer_to(real))]
    with module.function(f"tile_{mr}x{nc}", params, inline=False) as (f, args):
        listed, places, count, panels, out = args
        rows = [listed.pointer(m, real) for m in range(mr)]
        gradients = [panels.pointer(n, real) for n in range(nc)]
        sums = [[Variable(f, f.zero(real, lanes)) for _ in range(nc)] for _ in range(mr)]
        with f.loop(count) as v:
            place, at = places[v], v * lanes
            vectors = [panel.vector(at, lanes) for panel in gradients]
            for row, totals in zip(rows, sums, strict=True):
                x = row.vector(place, lanes)
                for total, vector in zip(totals, vectors, strict=True):
                    total.set(f.fma(x, vector, total.get()))
        for m, totals in enumerate(sums):
            for n, total in enumerate(totals):
                at = f.integer((m * nc + n) * lanes)
                out.put(at, out.vector(at, lanes) + total.get())
        return f.fn
