"""Contiguous data in and out of the channels-last form that tiles work on, a unit at a time;
weights packed.

    image   [channel][d][h][w] of the input  ->  [slot d][slot h][slot w][channel] in scratch,
                                                 padding as zeros
    block   [pixel][channel] in scratch      ->  [channel][d][h][w] of the output
    weights [co][ci][tap], any strides       ->  per group and block: [tap][ci][vector][lane],
                                                 then all biases

Transposing goes through registers in squares of 16 bytes a side (4 x 4 floats): 8 shuffles for 16
numbers, the same on SSE, AVX and NEON. What it costs: about 0.3 cycles a number, against taps x co
/ 16 for the multiply-adds of that number.
"""

from __future__ import annotations

from konv.kernels.epilogue import activate_all, add_residual, finish
from konv.kernels.stored import HALVES, element, read, write
from konv.kernels.tables import split
from konv.kernels.words import AXES, part_function
from konv.llvm import (
    I8,
    I64,
    REAL,
    SIZE,
    Function,
    Module,
    Pointer,
    Routine,
    Value,
    Variable,
    pointer_to,
)
from konv.plan import Plan

HEADER = 64  # bytes before the packed weights: word 0 is 1 if all weights are finite


def transpose(f: Function, rows: list[Value]) -> list[Value]:
    """A square of vectors, transposed: log2(n) rounds of interleaving halves."""
    n = len(rows)
    low = [lane for i in range(n // 2) for lane in (i, n + i)]
    high = [lane + n // 2 for lane in low]
    width = n
    while width > 1:
        pairs = [(rows[i], rows[i + n // 2]) for i in range(n // 2)]
        rows = [f.shuffle(a, b, lanes) for a, b in pairs for lanes in (low, high)]
        width //= 2
    return rows


def emit_image(module: Module, dtype: str) -> Routine:
    """image(job, unit): fill the unit's packed image, every slot of its box, all channels."""
    real = REAL[dtype]
    side = 16 // SIZE[real]
    with part_function(module, "image") as (f, piece, _):
        job, unit, x = piece.job, piece.unit, piece.unit.pointer("x", element(dtype))
        image = piece.part("at_image", I8)
        tables = [piece.part(("at_slots", a), I64) for a in AXES]
        channels, width = job["groups"] * job["ci"], unit["slots", 2]
        plane, whole = job["x_channel"], channels & -side
        in_a_row = job["first_slots", 2].equals(job["span", 2] + 1)
        in_a_row = in_a_row & job["ahead", 2].equals(job["jump", 2])
        in_a_row = in_a_row & job["x_stride", 2].equals(1)
        with f.loop(unit["slots", 0]) as d, f.loop(unit["slots", 1]) as h:
            line = (image + (d * job["apart", 0] + h * job["apart", 1])).cast(real)
            deep, high = tables[0][d], tables[1][h]
            with f.choose((deep | high) < 0) as (padding, row):
                with padding:
                    f.clear(line, width * channels)
                with row:
                    source, w = x + deep + high, f.var(0)
                    with f.forever() as done:
                        here = w.get()
                        f.leave_if(done, here >= width)
                        last = f.least(here + (side - 1), width - 1)
                        begin, to = tables[2][here], line + here * channels
                        # With stride 1 and all slots in a row, folding moves by 1, 0 or -1 or
                        # wraps: only a straight run gets this far. Otherwise one that turns could,
                        # too.
                        run = (tables[2][last] - begin).equals(side - 1)
                        run = run & (last - here).equals(side - 1) & (begin >= 0)
                        with f.choose(run & in_a_row) as (square, single):
                            with square:
                                _image_square(f, dtype, source + begin, to, plane, channels, whole)
                                w.add(side)
                            with single:
                                _image_pixel(f, dtype, source, begin, to, plane, channels)
                                w.add(1)
        return f.fn


def _image_square(
    f: Function,
    dtype: str,
    source: Pointer,
    to: Pointer,
    plane: Value,
    channels: Value,
    whole: Value,
) -> None:
    """`side` neighbouring pixels, all channels: squares, then the channels that fill none."""
    side = 16 // SIZE[to.element]
    with f.loop(whole, step=side) as c:
        rows = [read(f, dtype, source + (c + i) * plane, side) for i in range(side)]
        for i, column in enumerate(transpose(f, rows)):
            to.put(channels * i + c, column)
    with f.loop(channels, start=whole) as c:
        line = source + c * plane
        for i in range(side):
            to[channels * i + c] = read(f, dtype, line + i)


def _image_pixel(
    f: Function, dtype: str, source: Pointer, at: Value, to: Pointer, plane: Value, channels: Value
) -> None:
    """One pixel, all channels; side by side in the input they are converted by vectors."""
    with f.choose(at < 0) as (padding, pixel):
        with padding:
            f.clear(to, channels)
        with pixel:
            whole = f.integer(0)
            if dtype in HALVES:  # others come channels last without being packed
                lanes = f.module.target.lanes(dtype)
                whole = f.select(plane.equals(1), channels & -lanes, 0)
                with f.loop(whole, step=lanes) as c:
                    to.put(c, read(f, dtype, source + (at + c), lanes))
            with f.loop(channels, start=whole) as c:
                to[c] = read(f, dtype, source + (at + c * plane))


def emit_output(module: Module, plan: Plan, width: int) -> Routine:
    """output(job, unit, channel, valid): a block of `width` channels a pixel goes from scratch to
    `valid` channels of the contiguous output, from `channel` on; a residual is added on the way.
    """
    real = REAL[plan.dtype]
    side = 16 // SIZE[real]
    square = _emit_output_square(module, plan, width, side)
    with part_function(module, "output", ("channel", "valid")) as (f, piece, (channel, valid)):
        job, unit = piece.job, piece.unit
        block, plane, step = piece.part("at_block", real), job["y_channel"], job["step", 2]
        first = [unit["j", a] * job["step", a] + unit["first", a] for a in AXES]
        corner = unit.pointer("y", element(plan.dtype)) + (channel * plane + first[2])
        dense = step.equals(1)
        full = dense & unit["length", 2].equals(job["y_stride", 1]) & job["step", 1].equals(1)
        run = f.select(full, unit["length", 1] * unit["length", 2], unit["length", 2])
        residual = [unit["residual"]] if plan.residual else []
        with f.loop(unit["pixels"], step=run) as pixel:
            j = split(pixel, unit)
            source, line = block + pixel * width, corner
            for a in (0, 1):
                line = line + (j[a] * job["step", a] + first[a]) * job["y_stride", a]
            squared = f.select(dense & (run >= side), run, 0)
            if plan.residual:  # no place is finished twice, so the last square does not overlap
                squared = squared & -side
            with f.loop(squared, step=side) as i:
                # The last overlaps the one before it rather than fall short.
                at = f.least(i, squared - side)
                f.call(square, [source + at * width, line + at, plane, valid, *residual])
            # Pixels innermost: they share cache lines and pages.
            with f.when(squared < run), f.loop(valid) as c:
                channel_line = line + c * plane
                with f.loop(run, start=squared) as i:
                    place = channel_line + i * step
                    _put(f, plan, source[i * width + c], place, *residual)
        return f.fn


def _put(f: Function, plan: Plan, value: Value, place: Pointer, apart: Value | None = None) -> None:
    """One number; without a residual, tiles have activated what they put into the block."""
    value = finish(f, plan, value, place, apart) if plan.residual else value
    write(f, plan.dtype, place, value)


def _emit_output_square(module: Module, plan: Plan, width: int, side: int) -> Routine:
    """square(source, line, plane, valid): `side` neighbouring pixels, `valid` channels. A function
    of its own: inlined where it is used it takes LLVM 50 ms to compile, so 4.
    """
    real = REAL[plan.dtype]
    names = ("plane", "valid", "residual") if plan.residual else ("plane", "valid")
    ends = [("source", pointer_to(real)), ("line", pointer_to(element(plan.dtype)))]
    params = [*ends, *((name, I64) for name in names)]
    with module.function("square", params, inline=False) as (f, args):
        source, line, plane, valid, *residual = args
        whole, at = valid & -side, f.var(0)
        planes = [plane * i for i in range(side)]
        with f.loop(whole, step=side) as c:
            rows = [source.vector(c + i * width, side) for i in range(side)]
            columns = transpose(f, rows)
            if plan.residual:
                places = [line + (at.get() + offset) for offset in planes]
                added = zip(columns, places, strict=True)
                columns = [add_residual(f, plan, value, to, *residual) for value, to in added]
                columns = activate_all(f, plan, columns)
            for offset, column in zip(planes, columns, strict=True):
                write(f, plan.dtype, line + (at.get() + offset), column)
            at.add(plane * side)
        with f.loop(valid, start=whole) as c:
            for i in range(side):
                _put(f, plan, source[c + i * width], line + (at.get() + i), *residual)
            at.add(plane)
        return f.fn


WEIGHTS = (
    "weights",
    "bias",
    "packed",
    "groups",
    "co",
    "ci",
    "taps",
    "by_co",
    "by_ci",
    "by_tap",
    "by_group",
)


def emit_weights(module: Module, dtype: str, nr: int) -> Routine:
    """pack(weights, bias, packed, ...): strides in elements, of one group; bias may be null."""
    real, lanes = REAL[dtype], module.target.lanes(dtype)
    pointers = {"weights": element(dtype), "bias": element(dtype), "packed": real}
    params = [(p, pointer_to(pointers[p]) if p in pointers else I64) for p in WEIGHTS]
    with module.function("pack", params, exported=True) as (f, args):
        a = dict(zip(WEIGHTS, args, strict=True))
        co, block = a["co"], nr * lanes
        padded = (co + (lanes - 1)) // lanes * lanes
        out = f.var(HEADER // SIZE[real])
        broken = Variable(f, f.constant(real, 0.0))
        with f.loop(a["groups"]) as g, f.loop(padded, step=block) as k0:
            wide = f.least(padded - k0, block)
            corner = a["weights"] + g * a["by_group"] + k0 * a["by_co"]
            with f.loop(a["taps"]) as t, f.loop(a["ci"]) as c:
                source, to = corner + t * a["by_tap"] + c * a["by_ci"], a["packed"] + out.get()
                real_ones = f.least(co - k0, wide)
                with f.loop(real_ones) as k:
                    value = read(f, dtype, source + k * a["by_co"])
                    broken.set(f.fma(value, f.constant(real, 0.0), broken.get()))
                    to[k] = value
                with f.loop(wide, start=real_ones) as k:
                    to[k] = 0.0
                out.add(wide)
        with f.loop(a["groups"]) as g, f.loop(padded) as k:
            to = a["packed"] + out.get()
            to[0] = 0.0
            with f.when(a["bias"].address().differs(0) & (k < co)):
                to[0] = read(f, dtype, a["bias"] + (g * co + k)) + 0.0
            out.add(1)
        finite = broken.get().equals(0.0)
        a["packed"].cast(I64)[0] = f.select(finite, f.integer(1), 0)
        return f.fn
