"""The steps of konv.kernels.upright: rows of the image to points, points to rows of outputs."""

from __future__ import annotations

from contextlib import ExitStack

from konv.kernels.epilogue import activate, apart
from konv.kernels.strips.form import Form
from konv.kernels.strips.job import part, strip_function
from konv.kernels.strips.lane_rows import emit_block_out, emit_row_in
from konv.kernels.upright.sizes import POINTS, Sizes, deep_of
from konv.kernels.upright.transforms import to_outputs, to_points
from konv.kernels.words import Words
from konv.llvm import I64, REAL, Function, Module, Pointer, Routine, Value, Variable
from konv.plan import Plan

RING = 8  # rows of the image that are held, 7 of which lie under a tile


def emit_lines(module: Module, plan: Plan) -> Routine:
    """lines(job, unit): each vector of channels of the unit."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    form = Form.of(plan, lanes)
    deep = deep_of(form)
    each = POINTS * deep * form.kernel[2] * lanes
    rows_in, outputs = _emit_rows_in(module, plan), _emit_outputs(module, plan)
    block_out = emit_block_out(module, plan) if plan.blocked else None
    with strip_function(module, "lines") as (f, job, unit, _):
        sizes = Sizes(plan, form, unit)
        weights = unit.pointer("weights", real)
        biases = weights + job["lines"] * each
        x, y = unit.pointer("x", real), unit.pointer("y", real)
        y = y + (unit["j", 1] * job["y_stride", 1] + unit["j", 2] * job["y_stride", 2])
        tiles, held = part(job, unit, "at_tiles", real), POINTS * deep * sizes.pitch * lanes
        with (
            f.loop(sizes.rows + (deep - 1)) as s,
            f.loop(unit["line1"], start=unit["line0"]) as line,
        ):
            begin = f.least(line * lanes, job["channels"] - lanes)
            own, to = x + begin * job["x_channel"], y + begin * job["y_channel"]
            numbers = weights + line * each, biases + line * lanes
            points = tiles + (line - unit["line0"]) * held
            f.call(rows_in, [job.base, unit.base, own, points, s])
            with f.when(s >= deep - 1):
                o = s - (deep - 1)
                there = to + o * 4 * job["y_stride", 1]
                f.call(outputs, [job.base, unit.base, points, *numbers, there, o])
                if block_out is not None:
                    rows = f.least(unit["length", 1] - o * 4, f.integer(4))
                    size = [f.integer(1), rows, unit["length", 2]]
                    f.call(block_out, [job.base, unit.base, there, *size])
        return f.fn


def _emit_rows_in(module: Module, plan: Plan) -> Routine:
    """rows_in(job, unit, x, tiles, s): the points of the tiles from row 4 s under the unit on.

    Channels-last rows inside the image are read where they lie; others come through a ring of
    rows, padded. A tile may reach beyond what outputs read. There it sees zeros, wherever units
    end and whatever the padding is: its rounding depends on nothing else.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    form = Form.of(plan, lanes)
    row_in, points = emit_row_in(module, plan), _emit_points(module, plan)
    with strip_function(module, "rows_in", ("x", "tiles", "s")) as (f, job, unit, args):
        sizes, (x, tiles), s = (
            Sizes(plan, form, unit),
            [a.to_pointer(real) for a in args[:2]],
            args[2],
        )
        ring, held = part(job, unit, "at_strip", real), sizes.width * lanes
        rows = f.array(I64, POINTS)
        deepest = job["out", 1] - unit["j", 1] + (form.kernel[1] - 1)
        first, slot = s * 4, s % deep_of(form)
        to = tiles + slot * (POINTS * lanes) * sizes.pitch
        with ExitStack() as stack:
            if not plan.packed:
                high, raw = unit["raw", 1] + first, unit["raw", 2]
                inside = (high >= 0) & (high + (POINTS - 1) < job["size", 1])
                inside = inside & (first + (POINTS - 1) < deepest) & job["mode"].equals(0)
                left = f.least(f.most(0 - raw, f.integer(0)), sizes.width)
                end = f.most(f.least(job["size", 2] - raw, sizes.width), left)
                whole, border = stack.enter_context(f.choose(inside & job["dense"].differs(0)))
                with whole:
                    at = x + (high * job["x_stride", 1] + raw * job["x_stride", 2])
                    for n in range(POINTS):
                        rows[n] = (at + job["x_stride", 1] * n).address()
                    ends = left, end
                    f.call(points, [job.base, unit.base, rows, to, job["x_stride", 2], *ends])
                stack.enter_context(border)
            begin = first
            if plan.packed:  # three rows are there already
                begin = f.select(s.equals(0), f.integer(0), first + (POINTS - 4))
            zero = f.zero(real, lanes)
            with f.loop(first + POINTS, start=begin) as r:
                line = ring + (r & (RING - 1)) * held
                read = f.select(r < deepest, sizes.width, f.integer(0))
                f.call(row_in, [job.base, unit.base, line, x, f.integer(0), r, read])
                with f.loop(sizes.width, start=read) as i:
                    line.put(i * lanes, zero)
            for n in range(POINTS):
                rows[n] = (ring + ((first + n) & (RING - 1)) * held).address()
            ends = f.integer(0), sizes.width
            f.call(points, [job.base, unit.base, rows, to, f.integer(lanes), *ends])
        return f.fn


def _emit_points(module: Module, plan: Plan) -> Routine:
    """points(job, unit, rows, to, step, left, end): seven rows of pixels, `step` elements apart, to
    their points; those beside `left` to `end` are zeros.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    form = Form.of(plan, lanes)
    names = ("rows", "to", "step", "left", "end")
    with strip_function(module, "points", names) as (f, _job, unit, args):
        sizes, (step, left, end) = Sizes(plan, form, unit), args[2:]
        rows, to = args[0].to_pointer(I64), args[1].to_pointer(real)
        pitch = sizes.pitch * lanes
        lines = [rows[n].to_pointer(real) for n in range(POINTS)]
        zero = f.zero(real, lanes)
        for begin, stop in ((f.integer(0), left), (end, sizes.width)):
            with f.loop(stop, start=begin) as i:
                for n in range(POINTS):
                    to.put(pitch * n + i * lanes, zero)
        with f.loop(end, start=left) as i:
            pixels = [line.vector(i * step, lanes) for line in lines]
            at = to + i * lanes
            for n, value in enumerate(to_points(f, pixels)):
                at.put(pitch * n, value)
        return f.fn


def _emit_outputs(module: Module, plan: Plan) -> Routine:
    """outputs(job, unit, tiles, weights, bias, y, o): one row of tiles, to the output
    or, where that is contiguous, to a block.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    form, mr = Form.of(plan, lanes), plan.pixels
    deep, (_, high, wide) = deep_of(form), form.kernel
    names = ("tiles", "weights", "bias", "y", "o")
    with strip_function(module, "outputs", names) as (f, job, unit, args):
        sizes, o = Sizes(plan, form, unit), args[4]
        tiles, weights, bias, y = (a.to_pointer(real) for a in args[:4])
        sums = f.array(real, POINTS * mr * lanes)
        places, right = _places(f, job, unit, plan, y, o)
        plane, start = sizes.pitch * lanes, bias.vector(0, lanes)
        with f.loop(unit["length", 2], step=mr) as t:
            with f.loop(POINTS) as j:
                zero = f.zero(real, lanes)
                totals = [Variable(f, zero) for _ in range(mr)]
                own = weights + j * (deep * wide * lanes)
                at = tiles + (j * plane + t * lanes)
                blocks: Value | int = deep
                if high % 4 == 3:  # no block's product at infinity but of its fourth row of taps
                    blocks = f.select(j.equals(POINTS - 1), f.integer(deep - 1), f.integer(deep))
                with f.loop(blocks) as a:
                    slot = (o + a) % deep
                    _add_row(f, totals, at + slot * plane * POINTS, own + a * (wide * lanes), wide)
                for n, total in enumerate(totals):
                    sums.put(j * (mr * lanes) + n * lanes, total.get())
            with f.loop(f.least(unit["length", 2] - t, f.integer(mr))) as c:
                values = [(sums + c * lanes).vector(p * mr * lanes, lanes) for p in range(POINTS)]
                done = [value + start for value in to_outputs(f, values)]
                _store(f, unit, plan, [row + (t + c) * right for row in places], done)
        return f.fn


def _add_row(f: Function, totals: list[Variable], at: Pointer, weights: Pointer, wide: int) -> None:
    """One row of taps of a point: a tap for all outputs in turn, and the pixel that comes in takes
    the register of the one that goes out, as in konv.kernels.strips.turns.
    """
    lanes, held = totals[0].type.count, dict[int, Value]()
    for tap in range(wide):
        weight = weights.vector(tap * lanes, lanes)
        for output, total in enumerate(totals):
            slot = tap + output
            if slot not in held:
                place = f.after(at, totals[0].get()) if tap else at
                held[slot] = place.vector(slot * lanes, lanes)
            total.set(f.fma(held[slot], weight, total.get()))


def _places(
    f: Function, job: Words, unit: Words, plan: Plan, y: Pointer, o: Value
) -> tuple[list[Pointer], Value]:
    """Where the four rows of a tile go, and elements from one column to the next. A row that there
    is none of goes where the first does, and before it.
    """
    lanes = f.module.target.lanes(plan.dtype)
    if plan.blocked:
        block = part(job, unit, "at_block", y.element)
        return [block + unit["length", 2] * (n * lanes) for n in range(4)], f.integer(lanes)
    places = [y]
    for n in range(1, 4):
        there = o * 4 + n < unit["length", 1]
        places.append(f.select_pointer(there, y + job["y_stride", 1] * n, y))
    return places, job["y_stride", 2]


def _store(
    f: Function, unit: Words, plan: Plan, places: list[Pointer], values: list[Value]
) -> None:
    """The four outputs of one column of a tile; the first last."""
    lanes, finished = values[0].lanes, []
    for to, value in zip(places, values, strict=True):
        if plan.residual and not plan.blocked:
            value = value + apart(to, unit["residual"]).vector(0, lanes)
        if not (plan.residual and plan.blocked):
            value = activate(f, plan, value)
        finished.append((to, value))
    for to, value in reversed(finished):
        to.put(0, value)
