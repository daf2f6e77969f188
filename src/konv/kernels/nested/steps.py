"""The steps of konv.kernels.nested around its products: rows of tiles in, rows of outputs out."""

from __future__ import annotations

from konv.kernels.epilogue import activate, apart
from konv.kernels.nested.sizes import BAND, Sizes, blocks_of, part
from konv.kernels.nested.transforms import to_outputs, to_points
from konv.kernels.strips.form import Form
from konv.kernels.strips.job import strip_function
from konv.kernels.strips.lane_rows import emit_block_out, emit_row_in
from konv.llvm import REAL, Module, Routine
from konv.plan import Plan

# Tiles: 19 columns of 8 rows and of 7 points are 18 KB, which leaves room in the first-level cache
# for what is stored (31x31 64@112 1.02 to 1.05 times as fast as by sevens; Granite Rapids).
CHUNK = 4


def emit_lines(module: Module, plan: Plan, parts: dict[str, Routine]) -> Routine:
    """lines(job, unit): each vector of channels of the unit."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    form = Form.of(plan, lanes)
    deep, wide = blocks_of(form)
    row_in, block_out = emit_row_in(module, plan), None
    if plan.blocked:
        block_out = emit_block_out(module, plan)
    with strip_function(module, "lines") as (f, job, unit, _):
        sizes = Sizes(form, job, unit)
        weights, each = unit.pointer("weights", real), 49 * deep * wide * lanes
        biases = weights + job["lines"] * each
        x, y = unit.pointer("x", real), unit.pointer("y", real)
        y = y + unit["j", 1] * job["y_stride", 1]
        ring = part(job, unit, "at_strip", real)
        # A tile may reach beyond what outputs read. There it sees zeros, wherever units end and
        # whatever the padding is: its rounding depends on nothing else.
        deepest = job["out", 1] - unit["j", 1] + (form.kernel[1] - 1)
        widest = f.least(sizes.width, job["out", 2] - unit["j", 2] + (form.kernel[2] - 1))
        zero = f.zero(real, lanes)
        with f.loop(unit["line1"], start=unit["line0"]) as line:
            begin = f.least(line * lanes, job["channels"] - lanes)
            own, to = x + begin * job["x_channel"], y + begin * job["y_channel"]
            with f.loop(sizes.rows, step=BAND) as band:
                end = f.least(sizes.rows, band + BAND)
                begun = f.select(band.equals(0), band, band + (deep - 1))  # of the band before
                with f.loop(end + (deep - 1), start=begun) as s:
                    # Rows 4 s to 4 s + 6 lie in a ring of eight; three are there already.
                    first = f.select(s.equals(0), f.integer(0), s * 4 + 3)
                    with f.loop(s * 4 + 7, start=first) as r:
                        to_row = ring + (r & 7) * sizes.width * lanes
                        read = f.select(r < deepest, widest, f.integer(0))
                        f.call(row_in, [job.base, unit.base, to_row, own, f.integer(0), r, read])
                        with f.loop(sizes.width, start=read) as i:
                            to_row.put(i * lanes, zero)
                    f.call(parts["columns"], [job.base, unit.base, s])
                arguments = [job.base, unit.base, weights + line * each, band]
                if "narrow" not in parts:
                    f.call(parts["products"], arguments)
                else:
                    with f.choose(job["narrow"].equals(0)) as (wide_tiles, narrow_tiles):
                        with wide_tiles:
                            f.call(parts["products"], arguments)
                        with narrow_tiles:
                            f.call(parts["narrow"], arguments)
                with f.loop(end, start=band) as o:
                    bias = biases + line * lanes
                    f.call(parts["output"], [job.base, unit.base, o, o - band, bias, to])
                    if block_out is not None:
                        rows = f.least(unit["length", 1] - o * 4, f.integer(4))
                        there = to + o * 4 * job["y_stride", 1]
                        size = [f.integer(1), rows, sizes.columns * 4]
                        f.call(block_out, [job.base, unit.base, there, *size])
        return f.fn


def emit_columns(module: Module, plan: Plan) -> Routine:
    """columns(job, unit, s): one row of tiles of the input, transformed along both axes, to its
    place in the ring; so many at a time that what lies between stays in the first-level cache.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    form = Form.of(plan, lanes)
    with strip_function(module, "columns", ("s",)) as (f, job, unit, (s,)):
        sizes = Sizes(form, job, unit)
        ring, between = part(job, unit, "at_strip", real), part(job, unit, "at_columns", real)
        tiles = part(job, unit, "at_tiles", real) + s % sizes.ring * sizes.pitch * lanes
        row, held = sizes.width * lanes, (4 * CHUNK + 3) * lanes
        lines = [ring + ((s * 4 + i) & 7) * row for i in range(7)]
        with f.loop(sizes.broad, step=CHUNK) as first:
            count = f.least(sizes.broad - first, f.integer(CHUNK))
            begin = first * (4 * lanes)
            with f.loop((count * 4 + 3) * lanes, step=lanes) as i:
                pixels = [line.vector(begin + i, lanes) for line in lines]
                for point, value in enumerate(to_points(f, pixels)):
                    between.put(i + held * point, value)
            with f.loop(7) as one:
                source = between + one * held
                to = tiles + (one * 7 * sizes.plane + first) * lanes
                with f.loop(count) as t:
                    pixels = [source.vector((t * 4 + i) * lanes, lanes) for i in range(7)]
                    at = to + t * lanes
                    for point, value in enumerate(to_points(f, pixels)):
                        at.put(sizes.plane * (point * lanes), value)
        return f.fn


def emit_output(module: Module, plan: Plan) -> Routine:
    """output(job, unit, o, row, bias, y): one row of tiles, `row` of M, to the output or, where
    that is contiguous, to a block.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    form = Form.of(plan, lanes)
    names = ("o", "row", "bias", "y")
    with strip_function(module, "output", names) as (f, job, unit, (o, row, bias, address)):
        sizes, y = Sizes(form, job, unit), address.to_pointer(real)
        sums = part(job, unit, "at_sums", real) + row * sizes.padded * lanes
        dump, block = part(job, unit, "at_dump", real), part(job, unit, "at_block", real)
        start, keep = bias.to_pointer(real).vector(0, lanes), f.array(real, 28 * lanes)
        y = y + o * 4 * job["y_stride", 1]
        with f.loop(sizes.columns) as t:
            at = sums + t * lanes
            with f.loop(7) as one:
                points = [
                    (at + (one * 7 + n) * sizes.sums * lanes).vector(0, lanes) for n in range(7)
                ]
                for n, value in enumerate(to_outputs(f, points)):
                    keep.put(one * lanes + 7 * n * lanes, value)
            with f.loop(4) as column:
                points = [(keep + column * (7 * lanes)).vector(n * lanes, lanes) for n in range(7)]
                place = t * 4 + column
                inside = place < unit["length", 2]
                for n, value in enumerate(to_outputs(f, points)):
                    if plan.blocked:
                        to = block + (sizes.columns * (4 * n) + place) * lanes
                    else:
                        to = y + job["y_stride", 1] * n + place * job["y_stride", 2]
                        there = inside & (o * 4 + n < unit["length", 1])
                        added = apart(to, unit["residual"])
                        added = f.select_pointer(there, added, dump)
                        to = f.select_pointer(there, to, dump)
                    value = value + start
                    if plan.residual and not plan.blocked:
                        value = value + added.vector(0, lanes)
                    if not (plan.residual and plan.blocked):
                        value = activate(f, plan, value)
                    to.put(0, value)
        return f.fn
