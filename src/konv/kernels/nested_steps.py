"""The steps of konv.kernels.nested: transforms of weights, input and output, products between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from konv.kernels.epilogue import activate, apart
from konv.kernels.lane_rows import emit_block_out, emit_row_in
from konv.kernels.pack import HEADER, Arguments, alone, note
from konv.kernels.pack import emit_pack as emit_frame
from konv.kernels.strip_form import Form, strip_function
from konv.kernels.words import Words
from konv.llvm import (
    I8,
    REAL,
    SIZE,
    Function,
    Module,
    Pointer,
    Routine,
    Value,
    Variable,
)
from konv.plan import Plan

# G: a block's four weights at each point, scaled to suit _input; the last row is infinity.
WEIGHT_ROWS = (
    (1 / 4, 0, 0, 0),
    (1 / 6, 1 / 6, 1 / 6, 1 / 6),
    (-1 / 18, 1 / 18, -1 / 18, 1 / 18),
    (-1 / 72, -1 / 36, -1 / 18, -1 / 9),
    (1 / 120, -1 / 60, 1 / 30, -1 / 15),
    (32 / 45, 16 / 45, 8 / 45, 4 / 45),
    (0, 0, 0, -1 / 2),
)

# Tiles: 31 columns of 8 rows and of 7 points are 30 KB.
CHUNK = 7


def _blocks(form: Form) -> tuple[int, int]:
    return -(-form.kernel[1] // 4), -(-form.kernel[2] // 4)


def _input(f: Function, d: Sequence[Value]) -> list[Value]:
    """B d: seven pixels -> seven points, in 20 operations. The factor of the point 1/2 comes first,
    then even and odd parts serve 1 and -1, 2 and -2.
    """
    ty = d[0].type

    def fma(a: float, x: Value, y: Value) -> Value:
        return f.fma(x, f.constant(ty, a), y)

    e = [fma(-2.0, d[i + 1], d[i]) for i in range(6)]
    one, other = fma(-4.0, e[2], e[4]), fma(-4.0, e[1], e[3])
    two, odd = e[4] - e[2], e[3] - e[1]
    return [
        fma(4.0, e[0], fma(-5.0, e[2], e[4])),
        one + other,
        one - other,
        fma(2.0, odd, two),
        fma(-2.0, odd, two),
        fma(4.0, d[1], fma(-5.0, d[3], d[5])),
        fma(4.0, e[1], fma(-5.0, e[3], e[5])),
    ]


def _output(f: Function, m: Sequence[Value]) -> list[Value]:
    """A m: seven points -> four outputs, in 14 operations."""
    ty = m[0].type

    def fma(a: float, x: Value, y: Value) -> Value:
        return f.fma(x, f.constant(ty, a), y)

    s1, d1, s2, d2 = m[1] + m[2], m[1] - m[2], m[3] + m[4], m[3] - m[4]
    return [
        (m[0] + s1) + (s2 + m[5]),
        fma(2.0, d2, fma(0.5, m[5], d1)),
        fma(4.0, s2, fma(0.25, m[5], s1)),
        fma(8.0, d2, fma(0.125, m[5], d1)) + m[6],
    ]


class Sizes:
    """Counts of a unit that the steps share, as values."""

    def __init__(self, plan: Plan, form: Form, unit: Words) -> None:
        deep, wide = _blocks(form)
        self.rows = (unit["length", 1] + 3) // 4  # of tiles of outputs
        self.columns = (unit["length", 2] + 3) // 4
        self.padded = (self.columns + (plan.pixels - 1)) // plan.pixels * plan.pixels
        self.all_rows = (self.rows + (plan.vectors - 1)) // plan.vectors * plan.vectors
        self.tall, self.broad = self.rows + (deep - 1), self.columns + (wide - 1)
        self.width = (self.broad - 1) * 4 + 7  # pixels of a row under the tiles
        self.pitch = self.padded + (wide - 1)  # of V, in vectors
        self.plane = (self.all_rows + (deep - 1)) * self.pitch
        self.sums = self.all_rows * self.padded  # of M


def part(job: Words, unit: Words, name: str, real: Any) -> Pointer:
    """A part of this thread's scratch."""
    return (unit.pointer("scratch", I8) + job[name]).cast(real)


def emit_lines(module: Module, plan: Plan, parts: dict[str, Routine]) -> Routine:
    """lines(job, unit): each vector of channels of the unit."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    form = Form.of(plan, lanes)
    deep, wide = _blocks(form)
    row_in, block_out = emit_row_in(module, plan), None
    if plan.blocked:
        block_out = emit_block_out(module, plan)
    with strip_function(module, "lines") as (f, job, unit, _):
        sizes = Sizes(plan, form, unit)
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
            with f.loop(sizes.tall) as s:
                # Rows 4 s to 4 s + 6 lie in a ring of eight; three are there already.
                first = f.select(s.equals(0), f.integer(0), s * 4 + 3)
                with f.loop(s * 4 + 7, start=first) as r:
                    to_row = ring + (r & 7) * sizes.width * lanes
                    read = f.select(r < deepest, widest, f.integer(0))
                    f.call(row_in, [job.base, unit.base, to_row, own, f.integer(0), r, read])
                    with f.loop(sizes.width, start=read) as i:
                        to_row.put(i * lanes, zero)
                f.call(parts["columns"], [job.base, unit.base, s])
            f.call(parts["products"], [job.base, unit.base, weights + line * each])
            with f.loop(sizes.rows) as o:
                bias = biases + line * lanes
                f.call(parts["output"], [job.base, unit.base, o, bias, to])
                if block_out is not None:
                    rows = f.least(unit["length", 1] - o * 4, f.integer(4))
                    there = to + o * 4 * job["y_stride", 1]
                    size = [f.integer(1), rows, sizes.columns * 4]
                    f.call(block_out, [job.base, unit.base, there, *size])
        return f.fn


def emit_columns(module: Module, plan: Plan) -> Routine:
    """columns(job, unit, s): one row of tiles of the input, transformed along both axes, so many
    tiles at a time that what lies between stays in the first-level cache.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    form = Form.of(plan, lanes)
    with strip_function(module, "columns", ("s",)) as (f, job, unit, (s,)):
        sizes = Sizes(plan, form, unit)
        ring, between = part(job, unit, "at_strip", real), part(job, unit, "at_columns", real)
        tiles = part(job, unit, "at_tiles", real) + s * sizes.pitch * lanes
        row, held = sizes.width * lanes, (4 * CHUNK + 3) * lanes
        lines = [ring + ((s * 4 + i) & 7) * row for i in range(7)]
        with f.loop(sizes.broad, step=CHUNK) as first:
            count = f.least(sizes.broad - first, f.integer(CHUNK))
            begin = first * (4 * lanes)
            with f.loop((count * 4 + 3) * lanes, step=lanes) as i:
                pixels = [line.vector(begin + i, lanes) for line in lines]
                for point, value in enumerate(_input(f, pixels)):
                    between.put(i + held * point, value)
            with f.loop(7) as one:
                source = between + one * held
                to = tiles + (one * 7 * sizes.plane + first) * lanes
                with f.loop(count) as t:
                    pixels = [source.vector((t * 4 + i) * lanes, lanes) for i in range(7)]
                    at = to + t * lanes
                    for point, value in enumerate(_input(f, pixels)):
                        at.put(sizes.plane * (point * lanes), value)
        return f.fn


def emit_products(module: Module, plan: Plan) -> Routine:
    """products(job, unit, weights): M, all its points, from V. A tile has `vectors` rows of
    `pixels`; a slot of V is loaded once for all blocks of a row that read it.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    form = Form.of(plan, lanes)
    deep, wide = _blocks(form)
    count, tall = plan.pixels, plan.vectors
    held = 8 if module.target.registers == 32 else 4
    with strip_function(module, "products", ("weights",)) as (f, job, unit, (address,)):
        sizes, weights = Sizes(plan, form, unit), address.to_pointer(real)
        tiles, sums = part(job, unit, "at_tiles", real), part(job, unit, "at_sums", real)
        pitch = sizes.pitch * lanes
        with (
            f.loop(49) as j,
            f.loop(sizes.all_rows, step=tall) as o,
            f.loop(sizes.padded, step=count) as t,
        ):
            zero = f.zero(real, lanes)
            totals = [[Variable(f, zero) for _ in range(count)] for _ in range(tall)]
            own = weights + j * (deep * wide * lanes)
            at = tiles + (j * sizes.plane + o * sizes.pitch + t) * lanes
            with f.loop(deep) as a:
                _add_blocks(f, totals, at + a * pitch, own + a * (wide * lanes), pitch, wide, held)
            to = sums + (j * sizes.sums + o * sizes.padded + t) * lanes
            for r, row in enumerate(totals):
                for n, total in enumerate(row):
                    to.put(sizes.padded * (r * lanes) + n * lanes, total.get())
        return f.fn


def _add_blocks(
    f: Function,
    totals: list[list[Variable]],
    at: Pointer,
    weights: Pointer,
    pitch: Value,
    wide: int,
    held: int,
) -> None:
    """One row of blocks, `held` at a time, whose weights stay in registers."""
    lanes = totals[0][0].type.count
    for begin in range(0, wide, held):
        blocks = range(begin, min(begin + held, wide))
        ws = {b: weights.vector(b * lanes, lanes) for b in blocks}
        for r, row in enumerate(totals):
            line = at + pitch * r
            for slot in range(begin, blocks[-1] + len(row)):
                v = line.vector(slot * lanes, lanes)
                for b in blocks:
                    if 0 <= slot - b < len(row):
                        total = row[slot - b]
                        total.set(f.fma(v, ws[b], total.get()))


def emit_output(module: Module, plan: Plan) -> Routine:
    """output(job, unit, o, bias, y): one row of tiles from M, to the output or, where that is
    contiguous, to a block.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    form = Form.of(plan, lanes)
    names = ("o", "bias", "y")
    with strip_function(module, "output", names) as (f, job, unit, (o, bias, address)):
        sizes, y = Sizes(plan, form, unit), address.to_pointer(real)
        sums = part(job, unit, "at_sums", real) + o * sizes.padded * lanes
        dump, block = part(job, unit, "at_dump", real), part(job, unit, "at_block", real)
        start, keep = bias.to_pointer(real).vector(0, lanes), f.array(real, 28 * lanes)
        y = y + o * 4 * job["y_stride", 1]
        with f.loop(sizes.columns) as t:
            at = sums + t * lanes
            with f.loop(7) as one:
                points = [
                    (at + (one * 7 + n) * sizes.sums * lanes).vector(0, lanes) for n in range(7)
                ]
                for n, value in enumerate(_output(f, points)):
                    keep.put(one * lanes + 7 * n * lanes, value)
            with f.loop(4) as column:
                points = [(keep + column * (7 * lanes)).vector(n * lanes, lanes) for n in range(7)]
                place = t * 4 + column
                inside = place < unit["length", 2]
                for n, value in enumerate(_output(f, points)):
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


def emit_pack(module: Module, plan: Plan) -> None:
    """pack(weights, bias, packed, ...): per vector of channels [point][block row][block column],
    then all biases; the last vector ends with the last channel.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    form = Form.of(plan, lanes)
    deep, wide = _blocks(form)

    def body(f: Function, a: Arguments, unit: Value) -> None:  # noqa: ARG001 - there is one
        broken, channels = Variable(f, f.constant(real, 0.0)), a["groups"]
        out = a["packed"] + HEADER // SIZE[real]
        with f.loop(channels, step=lanes) as line, f.loop(lanes) as lane:
            channel = f.least(line, channels - lanes) + lane
            own = a["weights"] + channel * a["by_group"]
            to = out + line * (49 * deep * wide) + lane
            with f.loop(deep) as i, f.loop(wide) as k:
                ws = _block(f, form, own, a["by_tap"], i * 4, k * 4, broken)
                at = to + (i * wide + k) * lanes
                for n, row in enumerate(WEIGHT_ROWS):
                    column = [_dot(f, row, [ws[p][q] for p in range(4)]) for q in range(4)]
                    for m, other in enumerate(WEIGHT_ROWS):
                        point = (n * 7 + m) * deep * wide * lanes
                        at[point] = _dot(f, other, column)
        padded = (channels + (lanes - 1)) // lanes * lanes
        biases = out + padded * (49 * deep * wide)
        with f.loop(channels, step=lanes) as line, f.loop(lanes) as lane:
            biases[line + lane] = 0.0
            with f.when(a["bias"].address().differs(0)):
                biases[line + lane] = a["bias"][f.least(line, channels - lanes) + lane] + 0.0
        note(f, a["packed"], broken)

    emit_frame(module, plan.dtype, alone, body)


def _block(
    f: Function, form: Form, own: Pointer, by_tap: Value, i: Value, k: Value, broken: Variable
) -> list[list[Value]]:
    """The 4 x 4 weights from tap (i, k) on, 0 beyond the kernel."""
    found = []
    for p in range(4):
        row = []
        for q in range(4):
            ky, kx = i + p, k + q
            there = (ky < form.kernel[1]) & (kx < form.kernel[2])
            tap = f.select(there, ky * form.kernel[2] + kx, 0)
            value = own[tap * by_tap]
            value = f.select(there, value, 0.0)
            broken.set(f.fma(value, f.constant(value.type, 0.0), broken.get()))
            row.append(value)
        found.append(row)
    return found


def _dot(f: Function, row: Sequence[float], values: Sequence[Value]) -> Value:
    """A row of constants times values."""
    total = None
    for a, value in zip(row, values, strict=True):
        if a and total is None:
            total = value * a
        elif a and total is not None:
            total = f.fma(value, f.constant(value.type, a), total)
    assert total is not None
    return total
