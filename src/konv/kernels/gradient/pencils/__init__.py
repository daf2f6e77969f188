"""Weight gradients of depthwise layers between channels-last arrays: channels in the lanes.

    for unit in units: some vectors of channels of one part
        for box in boxes of the part:
            for row of outputs in the box:
                for vector of channels:
                    for some rows of the kernel:           konv.kernels.gradient.pencils.tile
                        sums of their taps, in registers along the row
        sums leave, turned, into the weight or into those of the part

x and dy are read where they lie, by whole vectors: nothing is turned and nothing is copied. A tile
is a few neighbouring outputs of a row, whose dy are in registers; each slot of x is loaded once for
all pairs of an output and a tap that read it. The last vector of channels overlaps the one before.

A row of the kernel that lies in the padding reads zeros, always the same; so does a column there.
"""

from __future__ import annotations

from functools import partial
from itertools import product

from konv.geometry import Conv
from konv.kernels.gradient.depthwise import even, saved, spans, why_not
from konv.kernels.gradient.parts import emit_turn
from konv.kernels.gradient.pencils.tile import Form, emit_pass, most_sums
from konv.kernels.gradient.records import RECORDS
from konv.kernels.gradient.sums import emit_add
from konv.kernels.gradient.units import emit_box_words, emit_frame
from konv.kernels.scratch import LINE
from konv.kernels.strips.form import form_of
from konv.kernels.words import Piece, Words, part_function
from konv.llvm import I64, REAL, SIZE, Function, Module, Pointer, Routine, Value
from konv.plan import Plan
from konv.target import Target

__all__ = ["cost", "emit", "exact", "name", "plan", "why_not"]

name = "gradient_pencils"
exact = True

PIXELS = 4  # outputs in a tile


def plan(conv: Conv, target: Target, packed: bool, blocked: bool) -> Plan | None:
    """Kernel rows, and taps of them, for which sums are kept in registers. None where x or dy is
    not channels-last, or channels fill no vector.
    """
    if packed or blocked or conv.co < target.lanes(conv.dtype):
        return None
    form = form_of(conv)
    most = most_sums(target)
    taps = even(form[2], most)
    rows = even(form[0] * form[1], most // taps)
    return Plan(name, conv.dtype, False, False, PIXELS, 1, form=(*form, rows, taps))


def cost(conv: Conv, plan: Plan, target: Target) -> float:
    """Cycles of the loop for each output of all groups: two multiply-adds, two loads a cycle, a
    sixth more for what lies around; an output beside the tiles takes as long as two in a tile.

    What others take to bring x and dy into their form is saved.
    """
    lanes, last = target.lanes(plan.dtype), conv.axes[-1]
    form = Form.of(plan, lanes)
    rows = form.kernel[0] * form.kernel[1]
    inside = max(0, (last.size - last.extent) // last.stride + 1)
    tiles = inside // plan.pixels
    alone = last.out - tiles * plan.pixels
    passes = -(-rows // form.rows) * -(-form.kernel[2] // form.taps)
    adds = rows * form.kernel[2]
    loads = rows * len(form.uses(form.kernel[2])) + passes * plan.pixels
    tile = max(adds * plan.pixels, loads) / 2
    row = tiles * tile + alone * adds + adds + 10 * passes
    return -(-conv.co // lanes) * row * 7 / 6 / last.out - saved(conv, last=True)


def emit(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run`."""
    module = Module(target, plan.algorithm)
    parts = {
        "leave": _emit_leave(module, plan, emit_turn(module, plan, REAL[plan.dtype])),
        "add": emit_add(module, plan),
    }
    parts["box"] = _emit_box(module, plan, _emit_rows(module, plan))
    emit_frame(module, plan, parts, partial(_emit_unit, plan))
    return module


def _emit_unit(plan: Plan, f: Function, job: Words, unit: Words, number: Value) -> Value:
    """Which part, which vectors of channels; clears their sums. Returns the part."""
    lanes, real = f.module.target.lanes(plan.dtype), REAL[plan.dtype]
    part, chunk = number // job["ranges_co"], number % job["ranges_co"]
    unit["line0"] = chunk * job["lines_each"]
    unit["line1"] = f.least(unit["line0"] + job["lines_each"], job["lines"])
    piece, width = Piece(job, unit), (unit["line1"] - unit["line0"]) * lanes
    f.clear(piece.part("at_sums", real), width * job["taps"])
    f.clear(piece.part("at_zeros", real), width)
    return part


def _emit_box(module: Module, plan: Plan, rows: Routine) -> Routine:
    """box(job, unit, x, dy, number): add the products of one box to the unit's sums."""
    form = Form.of(plan, module.target.lanes(plan.dtype))
    labels = ("x", "dy", "number")
    with part_function(module, "box", labels, writes=True, cold=True, records=RECORDS) as (
        f,
        piece,
        args,
    ):
        job, unit = piece.job, piece.unit
        emit_box_words(f, plan, piece, None, args)
        # Tiles of outputs that read no padding: their first source is none below 0, their last is
        # in x.
        stride, raw, length = form.stride[2], unit["raw", 2], unit["length", 2]
        first = f.least((f.most(0 - raw, 0) + (stride - 1)) // stride, length)
        room = job["size", 2] - raw - form.extent  # from the last source of the first output on
        after = f.select(room < 0, f.integer(0), f.most(room, 0) // stride + 1)
        unit["inner0"] = first
        inside = f.most(f.least(after, length) - first, 0)
        tiled = inside // form.pixels * form.pixels
        unit["inner0"], unit["inner1"], unit["beside"] = first, first + tiled, length - tiled
        f.call(rows, [job.base, unit.base])
        return f.fn


def _emit_rows(module: Module, plan: Plan) -> Routine:
    """rows(job, unit): each row of outputs in the box, all vectors of channels."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    form = Form.of(plan, lanes)
    kernel_rows = form.kernel[0] * form.kernel[1]
    across = spans(kernel_rows, form.rows)
    along = spans(form.kernel[2], form.taps)
    passes = {size: emit_pass(module, plan, *size) for size in product(across, along)}
    with part_function(module, "rows", records=RECORDS) as (f, piece, _):
        job, unit, last_line = piece.job, piece.unit, piece.job["groups"] - lanes
        first = f.least(unit["line0"] * lanes, last_line)
        x, y = unit.pointer("x", real) + first, unit.pointer("y", real) + first
        sums, taps = piece.part("at_sums", real), job["taps"] * lanes
        shared = max(1, LINE // (lanes * SIZE[real]))  # vectors in a line of cache
        _list_beside(f, piece, form)
        with (
            f.loop(unit["images"]) as image,
            f.loop(unit["length", 0]) as d,
            f.loop(unit["length", 1]) as h,
        ):
            source = x + image * job["x_batch"]
            _list_rows(f, piece, form, source, (d, h))
            dy = y + image * job["y_batch"] + d * job["y_stride", 0] + h * job["y_stride", 1]
            inner0, inner1 = unit["inner0"], unit["inner1"]
            step = job["segment"]
            with (
                f.loop(f.most(inner1, inner0 + 1), start=inner0, step=step) as begin,
                f.loop(unit["line1"], start=unit["line0"]) as line,
            ):
                end = f.least(begin + step, inner1)
                on = f.least(line * lanes, last_line) - first
                fetch = (line & (shared - 1)) < job["far"]
                own = sums + (line - unit["line0"]) * taps
                for (rows, width), routine in passes.items():
                    (row0, row1), (tap0, tap1) = across[rows], along[width]
                    with (
                        f.loop(row1, start=row0, step=rows) as row,
                        f.loop(tap1, start=tap0, step=width) as tap,
                    ):
                        last = (row + rows).equals(kernel_rows) & tap.equals(0)
                        ask = f.select(fetch & last, f.integer(1), 0)
                        arguments = [row, tap, on, dy, own, ask, begin, end]
                        f.call(routine, [job.base, unit.base, *arguments])
        return f.fn


def _list_rows(f: Function, piece: Piece, form: Form, x: Pointer, at: tuple[Value, Value]) -> None:
    """Write down for each row of the kernel where it reads, and the step from column to column: 0
    in the zeros that stand for padding.
    """
    job, unit = piece.job, piece.unit
    table, zeros = piece.part("at_rows", I64), unit["scratch"] + job["at_zeros"]
    raws = [unit["raw", axis] + at[axis] * form.stride[axis] for axis in (0, 1)]
    with f.loop(form.kernel[0]) as kd, f.loop(form.kernel[1]) as kh:
        deep, high = raws[0] + kd * form.dilation[0], raws[1] + kh * form.dilation[1]
        there = f.below_unsigned(deep, job["size", 0]) & f.below_unsigned(high, job["size", 1])
        entry = table + (kd * form.kernel[1] + kh) * 2
        row = x + deep * job["x_stride", 0] + high * job["x_stride", 1]
        entry[0] = f.select(there, row.address(), zeros)
        entry[1] = f.select(there, job["x_stride", 2], 0)


def _list_beside(f: Function, piece: Piece, form: Form) -> None:
    """Write down for each output beside the tiles where in a row its dy lies and what each tap
    reads, -1 for padding.
    """
    job, unit, at = piece.job, piece.unit, piece.part("at_beside", I64)
    with f.loop(unit["beside"]) as number:
        behind = number + (unit["length", 2] - unit["beside"])
        j = f.select(number < unit["inner0"], number, behind)
        entry = at + number * (form.kernel[2] + 1)
        entry[0] = j * job["y_stride", 2]
        first = unit["raw", 2] + j * form.stride[2]
        with f.loop(form.kernel[2]) as tap:
            column = first + tap * form.dilation[2]
            there = f.below_unsigned(column, job["size", 2])
            entry[tap + 1] = f.select(there, column * job["x_stride", 2], -1)


def _emit_leave(module: Module, plan: Plan, turn: Routine) -> Routine:
    """leave(job, unit, to): the unit's sums, (vector, tap, channel), into a weight at `to`."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    with part_function(module, "leave", ("to",), records=RECORDS) as (f, piece, args):
        job, unit, weight = piece.job, piece.unit, args[0].to_pointer(real)
        sums, taps, last = piece.part("at_sums", real), job["taps"], job["groups"] - lanes
        with f.loop(unit["line1"], start=unit["line0"]) as line:
            own = sums + (line - unit["line0"]) * taps * lanes
            out = weight + f.least(line * lanes, last) * taps
            f.call(turn, [own, f.integer(lanes), out, taps, taps, f.integer(lanes)])
        return f.fn
