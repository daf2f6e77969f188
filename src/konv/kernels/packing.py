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

from konv.kernels.scratch import LINE
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
    Type,
    Value,
    Variable,
    pointer_to,
)

CHUNK = 64  # pixels of a block that leave it together
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


def emit_image(module: Module, real: Type) -> Routine:
    """image(job, unit): fill the unit's packed image, every slot of its box, all channels."""
    side, long = 16 // SIZE[real], LINE // SIZE[real]
    with part_function(module, "image") as (f, piece, _):
        job, unit, x = piece.job, piece.unit, piece.unit.pointer("x", real)
        image = piece.part("at_image", I8)
        tables = [piece.part(("at_slots", a), I64) for a in AXES]
        channels, width = job["groups"] * job["ci"], unit["slots", 2]
        plane = job["x_channel"]
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
                        begin, to = tables[2][here], line + here * channels

                        def straight(count: int) -> Value:
                            # With stride 1 and all slots in a row, folding moves by 1, 0 or -1 or
                            # wraps: only a straight run gets this far. Otherwise one that turns
                            # could, too.
                            last = f.least(here + (count - 1), width - 1)
                            run = (tables[2][last] - begin).equals(count - 1)
                            return run & (last - here).equals(count - 1) & (begin >= 0)

                        run = f.select(straight(side), f.integer(side), 0)
                        run = f.select(straight(long), f.integer(long), run)
                        with f.choose(in_a_row & (run > 0)) as (squares, single):
                            with squares:
                                _image_squares(f, source + begin, to, plane, channels, run, side)
                                w.add(run)
                            with single:
                                _image_pixel(f, source, begin, to, plane, channels)
                                w.add(1)
        return f.fn


def _image_squares(
    f: Function,
    source: Pointer,
    to: Pointer,
    plane: Value,
    channels: Value,
    run: Value,
    side: int,
) -> None:
    """`run` neighbouring pixels, all channels: squares, then the channels that fill none.

    Pixels innermost, so that a line of a plane is read at once: planes are often a multiple of 1024
    bytes apart, and then a first-level cache holds no more than some 50 lines of them.
    """
    whole = channels & -side
    with f.loop(whole, step=side) as c, f.loop(run, step=side) as p:
        rows = [source.vector((c + i) * plane + p, side) for i in range(side)]
        for i, column in enumerate(transpose(f, rows)):
            to.put((p + i) * channels + c, column)
    with f.loop(channels, start=whole) as c:
        line = source + c * plane
        with f.loop(run) as p:
            to[p * channels + c] = line[p]


def _image_pixel(
    f: Function, source: Pointer, at: Value, to: Pointer, plane: Value, channels: Value
) -> None:
    with f.choose(at < 0) as (padding, pixel):
        with padding:
            f.clear(to, channels)
        with pixel, f.loop(channels) as c:
            to[c] = source[at + c * plane]


def emit_output(module: Module, real: Type, width: int) -> Routine:
    """output(job, unit, channel, valid): a block of `width` channels a pixel goes from scratch to
    `valid` channels of the contiguous output, from `channel` on.
    """
    side = 16 // SIZE[real]
    square = emit_square(module, real, width, side)
    with part_function(module, "output", ("channel", "valid")) as (f, piece, (channel, valid)):
        job, unit = piece.job, piece.unit
        block, plane, step = piece.part("at_block", real), job["y_channel"], job["step", 2]
        first = [unit["j", a] * job["step", a] + unit["first", a] for a in AXES]
        corner = unit.pointer("y", real) + (channel * plane + first[2])
        dense = step.equals(1)
        full = dense & unit["length", 2].equals(job["y_stride", 1]) & job["step", 1].equals(1)
        run = f.select(full, unit["length", 1] * unit["length", 2], unit["length", 2])
        with f.loop(unit["pixels"], step=run) as pixel:
            j = split(pixel, unit)
            source, line = block + pixel * width, corner
            for a in (0, 1):
                line = line + (j[a] * job["step", a] + first[a]) * job["y_stride", a]
            with f.choose(dense & (run >= side)) as (squares, singles):
                with squares:
                    f.call(square, [source, line, plane, valid, run])
                # Pixels innermost: they share cache lines and pages.
                with singles, f.loop(valid) as c:
                    apart = line + c * plane
                    with f.loop(run) as i:
                        apart[i * step] = source[i * width + c]
        return f.fn


def emit_square(module: Module, real: Type, width: int, side: int) -> Routine:
    """square(source, line, plane, valid, run): `run` neighbouring pixels, `side` at least, and
    `valid` channels, in squares.

    CHUNK pixels at a time and channel after channel, so that lines of the output are written at
    once (as for `_image_squares`) while the block's stay in the first-level cache: 2x2 stride 2 of
    128 channels at 112x112 10.0 ms on one core, pixels outermost; so 8.3. A function of its own:
    inlined where it is used it takes LLVM 50 ms to compile, so 4.
    """
    names = ("plane", "valid", "run")
    params = [("source", pointer_to(real)), ("line", pointer_to(real)), *((n, I64) for n in names)]
    with module.function("square", params, inline=False) as (f, (source, line, plane, valid, run)):
        whole = valid & -side
        with f.loop(run, step=CHUNK) as first:
            stop = f.least(first + CHUNK, run)
            with f.loop(whole, step=side) as c, f.loop(stop, start=first, step=side) as p:
                # The last overlaps the one before it rather than fall short.
                at = f.least(p, run - side)
                rows = [source.vector((at + i) * width + c, side) for i in range(side)]
                for i, column in enumerate(transpose(f, rows)):
                    line.put((c + i) * plane + at, column)
            with f.loop(valid, start=whole) as c, f.loop(stop, start=first) as p:
                line[c * plane + p] = source[p * width + c]
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
    reals = ("weights", "bias", "packed")
    params = [(p, pointer_to(real) if p in reals else I64) for p in WEIGHTS]
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
                    value = source[k * a["by_co"]]
                    broken.set(f.fma(value, f.constant(real, 0.0), broken.get()))
                    to[k] = value
                with f.loop(wide, start=real_ones) as k:
                    to[k] = 0.0
                out.add(wide)
        with f.loop(a["groups"]) as g, f.loop(padded) as k:
            to = a["packed"] + out.get()
            to[0] = 0.0
            with f.when(a["bias"].address().differs(0) & (k < co)):
                to[0] = a["bias"][g * co + k] + 0.0
            out.add(1)
        finite = broken.get().equals(0.0)
        a["packed"].cast(I64)[0] = f.select(finite, f.integer(1), 0)
        return f.fn
