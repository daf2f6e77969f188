"""A unit of work of a weight gradient: some rows by some output channels, over one part's boxes.

    for unit in units, taken by threads one after the other:
        for box in boxes of the part:
            strip of the unit's input channels, panel of its output channels
            for block of nr vectors of output channels:
                for tile of mr rows:                          konv.kernels.gradient.tile
        sums leave, turned, into the weight or into those of the part

and in a second run, where there are several parts or numbers are stored otherwise than summed, the
parts' sums are added up in their order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from konv.kernels.gradient.panel import emit_panel
from konv.kernels.gradient.parts import emit_places, emit_strip, emit_turn
from konv.kernels.gradient.records import JOB, RECORDS, UNIT
from konv.kernels.gradient.sums import emit_add, emit_leave, emit_weave
from konv.kernels.gradient.tile import emit_tile
from konv.kernels.region import emit_entry, emit_units
from konv.kernels.stored import element
from konv.kernels.tables import emit_slots
from konv.kernels.words import AXES, Piece, Words, part_function
from konv.llvm import I64, REAL, SIZE, Function, Module, Pointer, Routine, Value, Variable
from konv.plan import Plan
from konv.target import Target

Parts = dict[str, Routine]


def emit_kernel(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run`."""
    module, real, stored = Module(target, plan.algorithm), REAL[plan.dtype], element(plan.dtype)
    own = emit_turn(module, plan, real)
    turn = own if stored == real else emit_turn(module, plan, stored)
    parts = {
        "slots": emit_slots(module),
        "places": emit_places(module),
        "strip": emit_strip(module, plan, turn),
        "panel": emit_panel(module, plan, turn),
        "leave": emit_leave(module, plan, own),
        "add": emit_add(module, plan),
        "weave": emit_weave(module, plan),
        "full": _emit_sweep(module, plan, plan.vectors),
    }
    if plan.tail:
        parts["last"] = _emit_sweep(module, plan, plan.tail)
    parts["box"] = _emit_box(module, plan, parts)
    emit_frame(module, plan, parts, partial(_emit_unit, plan))
    return module


EmitUnit = Callable[[Function, Words, Words, Value], Value]


def emit_frame(module: Module, plan: Plan, parts: Parts, emit_unit: EmitUnit) -> None:
    """Add `run`. emit_unit(f, job, unit, number) writes what unit a number stands for, clears
    its sums and returns its part; of `parts`, box, leave and add are called.
    """

    def work(f: Function, call: Words, thread: Value) -> None:
        job = Words(call.pointer("job", I64), JOB)
        unit = Words(f.array(I64, len(UNIT)), UNIT)
        unit["scratch"] = call["scratch"] + thread * job["thread_bytes"]

        def add(number: Value) -> None:
            sums = (call["scratch"] + job["partial"]).to_pointer(REAL[plan.dtype])
            weight = call.pointer("weights", element(plan.dtype))
            if "weave" not in parts:
                f.call(parts["add"], [job.base, sums, weight, number])
                return
            with f.choose(job["adding"].equals(1)) as (one, taps):
                with one:
                    f.call(parts["add"], [job.base, sums, weight, number])
                with taps:
                    f.call(parts["weave"], [job.base, sums, weight, number])

        def body(number: Value) -> None:
            part = emit_unit(f, job, unit, number)
            begin = part * job["boxes"] // job["parts"]
            end = (part + 1) * job["boxes"] // job["parts"]
            x, dy = call["x"] + job["x_first"], call["y"] + job["dy_first"]
            with f.loop(end, start=begin) as box:
                f.call(parts["box"], [job.base, unit.base, x, dy, box])
            aside = call["scratch"] + job["partial"]
            aside = aside + part * job["numbers"] * SIZE[REAL[plan.dtype]]
            to = f.select(job["partial"].equals(0), call["weights"], aside)
            f.call(parts["leave"], [job.base, unit.base, to])

        with f.choose(job["adding"].differs(0)) as (second, first):
            with second:
                emit_units(f, call, thread, job["units"], add)
            with first:
                emit_units(f, call, thread, job["units"], body)

    emit_entry(module, work)


def _emit_unit(plan: Plan, f: Function, job: Words, unit: Words, number: Value) -> Value:
    """Which channels of which part; clears their sums. Returns the part."""
    rest, range_ci = number // job["ranges_ci"], number % job["ranges_ci"]
    rest, range_co = rest // job["ranges_co"], rest % job["ranges_co"]
    part, unit["group"] = rest // job["groups"], rest % job["groups"]
    unit["channel"] = range_ci * job["ci_each"]
    unit["channels"] = f.least(job["ci_each"], job["ci"] - unit["channel"])
    unit["block0"] = range_co * job["blocks_each"]
    every = job["blocks"] + f.least(job["tail"], 1)
    unit["block1"] = f.least(unit["block0"] + job["blocks_each"], every)
    width = plan.vectors * f.module.target.lanes(plan.dtype)
    sums = (unit["block1"] - unit["block0"]) * job["padded_rows"] * width
    f.clear(Piece(job, unit).part("at_sums", REAL[plan.dtype]), sums)
    return part


def emit_box_words(
    f: Function, plan: Plan, piece: Piece, slots_of: Routine | None, args: list[Value]
) -> list[Value]:
    """The words of a unit that say where the box of a number lies, and the tables of its
    sources, if wanted; `args`: addresses of x and dy, the number. Returns the box's first image,
    and its first output on each axis.
    """
    (x, dy, rest), job, unit = args, piece.job, piece.unit
    size = SIZE[element(plan.dtype)]
    pixels, place = f.integer(1), f.integer(0)
    firsts: list[Value] = []
    for axis in reversed(AXES):
        j = rest % job["axis_boxes", axis] * job["box", axis]
        rest = rest // job["axis_boxes", axis]
        length = f.least(job["box", axis], job["count", axis] - j)
        raw = j * job["jump", axis] + job["least", axis]
        slots = (length - 1) * job["ahead", axis] + job["first_slots", axis]
        unit["length", axis], unit["raw", axis], unit["slots", axis] = length, raw, slots
        pixels, place = pixels * length, place + j * job["y_stride", axis]
        firsts.insert(0, j)
        if slots_of:
            arguments: list[Value | int] = [
                piece.part(("at_slots", axis), I64), job.base + job["at_raws", axis], raw, slots,
                job["size", axis], job["x_stride", axis], 0,
            ]  # fmt: skip
            f.call(slots_of, arguments)
    image = rest * job["images"]
    unit["images"] = f.least(job["images"], job["n"] - image)
    unit["pixels"] = pixels * unit["images"]
    unit["x"] = x + image * job["x_batch"] * size
    unit["y"] = dy + (image * job["y_batch"] + place) * size
    return [image, *firsts]


def _emit_box(module: Module, plan: Plan, parts: Parts) -> Routine:
    """box(job, unit, x, dy, number): add the products of one box to the unit's sums."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    width = plan.vectors * lanes
    labels = ("x", "dy", "number")
    with part_function(module, "box", labels, writes=True, cold=True, records=RECORDS) as (
        f,
        piece,
        args,
    ):
        job, unit = piece.job, piece.unit
        emit_box_words(f, plan, piece, parts["slots"], args)
        for part in ("places", "strip", "panel"):
            f.call(parts[part], [job.base, unit.base])
        with f.loop(unit["block1"], start=unit["block0"]) as block:
            at = block - unit["block0"]
            panel = piece.part("at_panel", real) + at * unit["pixels"] * width
            sums = piece.part("at_sums", real) + at * job["padded_rows"] * width
            operands = [job.base, unit.base, panel, sums]
            if not plan.tail:
                f.call(parts["full"], operands)
            else:
                with f.choose(block < job["blocks"]) as (full, last):
                    with full:
                        f.call(parts["full"], operands)
                    with last:
                        f.call(parts["last"], operands)
        return f.fn


def _emit_sweep(module: Module, plan: Plan, nr: int) -> Routine:
    """sweep(job, unit, panel, sums): all rows of the unit with one block of nr vectors.

    Rows that are missing in the last tile are the last one again; there is room for their sums.
    """
    real, lanes, mr = REAL[plan.dtype], module.target.lanes(plan.dtype), plan.pixels
    tile = emit_tile(module, plan, nr)
    labels = ("panel", "sums")
    with part_function(module, f"sweep_{nr}", labels, records=RECORDS) as (f, piece, args):
        panel, sums = (a.to_pointer(real) for a in args)
        job, unit, size = piece.job, piece.unit, SIZE[real]
        rows, places = f.array(I64, mr), piece.part("at_pixels", I64)
        count = unit["channels"] * job["taps"]
        strip, tap = f.var(unit["scratch"] + job["at_strip"]), f.var(0)
        with f.loop(count, step=mr) as row:
            list_rows(f, job, rows, mr, count - row, strip, tap, size)
            f.call(tile, [rows, places, unit["pixels"], panel, sums + row * (nr * lanes)])
        return f.fn


def list_rows(
    f: Function, job: Words, rows: Pointer, mr: int, left: Value, strip: Variable, tap: Variable,
    size: int,
) -> None:  # fmt: skip
    """Write down where the next mr rows, (channel, tap) each, begin; the last of the `left` rows
    again where there are fewer. `strip`, the channel's place, and `tap` go on with them.
    """
    listed = job.base + job["at_taps"]
    for m in range(mr):
        rows[m] = strip.get() + listed[tap.get()] * size
        following = tap.get() + f.select(left > m + 1, f.integer(1), 0)
        ends = following.equals(job["taps"])
        strip.add(f.select(ends, job["plane"] * size, 0))
        tap.set(f.select(ends, f.integer(0), following))
