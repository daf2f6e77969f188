"""A unit of konv.kernels.fourier: rows of pixels in, the products, rows of outputs out."""

from __future__ import annotations

from konv.kernels.epilogue import activate, apart
from konv.kernels.fourier.lengths import length_of, pitch_of
from konv.kernels.scratch import LINE
from konv.kernels.strips.form import Form
from konv.kernels.strips.job import part, strip_function
from konv.kernels.strips.lane_rows import emit_block_out, emit_row_in
from konv.kernels.words import Words
from konv.llvm import REAL, SIZE, Function, Module, Pointer, Routine, Value
from konv.plan import Plan


def emit_lines(
    module: Module, plan: Plan, to_bins: Routine, column: Routine, to_pixels: Routine
) -> Routine:
    """lines(job, unit): each vector of channels of the unit, one tile."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    form, length, pitch = Form.of(plan, lanes), length_of(plan), pitch_of(plan) * lanes
    row_in = emit_row_in(module, plan)
    row_out = emit_block_out(module, plan) if plan.blocked else emit_row_out(module, plan)
    each = length.bins * pitch
    with strip_function(module, "lines") as (f, job, unit, _):
        weights, x, y = (unit.pointer(name, real) for name in ("weights", "x", "y"))
        biases = weights + job["lines"] * each
        y = y + unit["j", 1] * job["y_stride", 1] + unit["j", 2] * job["y_stride", 2]
        strip, between = part(job, unit, "at_strip", real), part(job, unit, "at_between", real)
        tile, block = part(job, unit, "at_tiles", real), part(job, unit, "at_block", real)
        # Padding may reach beyond the length of a transform: it comes round to zeros before.
        rows, width = (
            f.least(unit["length", a] + (form.kernel[a] - 1), length.all) for a in (1, 2)
        )
        with f.loop(unit["line1"], start=unit["line0"]) as line:
            begin = f.least(line * lanes, job["channels"] - lanes)
            own, to = x + begin * job["x_channel"], y + begin * job["y_channel"]
            parts = strip, between, tile
            ends = emit_rows(f, plan, (row_in, to_bins), job, unit, own, parts, (rows, width))
            with f.loop(length.bins) as k:
                clear_rows(f, tile + k * pitch, ends, length.all, lanes)
                f.call(column, [tile + k * pitch, between, weights + line * each + k * pitch])
            with f.loop(unit["length", 1]) as o:
                there = to + o * job["y_stride", 1]
                if not plan.blocked:
                    _ask_out(f, job, unit, there, lanes)
                f.call(to_pixels, [tile + o * (2 * lanes), between, block, biases + line * lanes])
                f.call(row_out, [job.base, unit.base, there, 1, 1, length.all])
        return f.fn


def emit_rows(
    f: Function,
    plan: Plan,
    routines: tuple[Routine, Routine],
    job: Words,
    unit: Words,
    x: Pointer,
    parts: tuple[Pointer, Pointer, Pointer],
    under: tuple[Value, Value],
    few: int = 0,
) -> tuple[Value, Value]:
    """The bins of so many rows under a tile, of so many pixels each, of a vector of channels, but
    for those that are padding with zeros: the first row that is none, and the end of these.
    `routines`: row_in and to_bins; `parts`: of scratch, for a row, between its transforms, for all
    bins; `few`: channels, where there are less than lanes.
    """
    (row_in, to_bins), (strip, between, tile), (rows, width) = routines, parts, under
    lanes, length = f.module.target.lanes(plan.dtype), length_of(plan)
    with f.loop(length.all, start=width) as i:
        strip.put(i * lanes, f.zero(REAL[plan.dtype], lanes))
    first, end = _rows_there(f, job, unit, rows)
    with f.loop(end, start=first) as r:
        f.call(row_in, [job.base, unit.base, strip, x, f.integer(0), r, width])
        below = (unit["raw", 1] + r + 1) * job["x_stride", 1]
        plane = unit["raw", 0] * job["x_stride", 0]
        _ask_in(f, plan, job, unit, x + plane + below, few or lanes)
        f.call(to_bins, [strip, between, tile + r * (2 * lanes)])
    return first, end


def clear_rows(
    f: Function, bins: Pointer, there: tuple[Value, Value], count: int, lanes: int
) -> None:
    """Zeros for the rows of a bin before the first that is there and from the end of these on."""
    for start, stop in ((f.integer(0), there[0]), (there[1], f.integer(count))):
        with f.loop(stop * (2 * lanes), start=start * (2 * lanes), step=lanes) as i:
            bins.put(i, f.zero(bins.element, lanes))


def _rows_there(f: Function, job: Words, unit: Words, rows: Value) -> tuple[Value, Value]:
    """The first row under the unit that is none of padding with zeros, and the end of these."""
    zeros, raw = job["mode"].equals(0), unit["raw", 1]
    end = f.most(f.least(rows, job["size", 1] - raw), 0)
    first = f.least(f.most(0 - raw, f.integer(0)), end)
    return f.select(zeros, first, 0), f.select(zeros, end, rows)


def _ask_in(f: Function, plan: Plan, job: Words, unit: Words, row: Pointer, channels: int) -> None:
    """Ask for a row of the image, all channels of the vector (13x13 128@56 and, of channels last,
    64@224 1.1 times as fast; Granite Rapids).
    """
    raw = unit["raw", 2]
    first, last = f.most(raw, f.integer(0)), f.least(job["size", 2], raw + unit["slots", 2])
    if plan.packed:
        with (
            f.loop(channels) as lane,
            f.loop(last, start=first, step=LINE // SIZE[row.element]) as i,
        ):
            f.prefetch(row + (lane * job["x_channel"] + i))
    else:
        with f.loop(last, start=first) as i:
            f.prefetch(row + i * job["x_stride", 2])


def _ask_out(f: Function, job: Words, unit: Words, row: Pointer, lanes: int) -> None:
    """Ask for the places of a row of outputs where channels lie side by side, both lines of the
    cache that a vector may lie on: of those that do, stores wait for each other (128@56 16 bytes
    behind a line .42 ms, so .34; on lines .28; Granite Rapids).
    """
    with f.loop(unit["length", 2]) as i:
        for lane in (0, lanes - 1):
            f.prefetch(row + (i * job["y_stride", 2] + lane), write=True)


def emit_row_out(module: Module, plan: Plan) -> Routine:
    """row_out(job, unit, y, planes, rows, pitch): the row in the block to outputs whose channels
    lie side by side; the last three are 1, 1 and its length, as of block_out.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    names = ("y", "planes", "rows", "pitch")
    with strip_function(module, "row_out", names) as (f, job, unit, (address, *_)):
        y, block = address.to_pointer(real), part(job, unit, "at_block", real)
        with f.loop(unit["length", 2]) as i:
            to, value = y + i * job["y_stride", 2], block.vector(i * lanes, lanes)
            if plan.residual:
                value = activate(f, plan, value + apart(to, unit["residual"]).vector(0, lanes))
            to.put(0, value)
        return f.fn
