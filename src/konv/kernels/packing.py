"""Contiguous images into the channels-last form that tiles work on, a unit at a time.

    image   [channel][d][h][w] of the input  ->  [slot d][slot h][slot w][channel] in scratch,
                                                 padding as zeros

Transposing goes through registers in squares, as wide as a vector where there are so many pixels
and channels, else of 16 bytes a side (4 x 4 floats).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from konv.kernels.scratch import LINE
from konv.kernels.stored import HALVES, element, read
from konv.kernels.words import AXES, Words, part_function
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
    pointer_to,
)

PART = 16  # bytes of a vector that AVX's instructions keep apart: of an SSE or NEON register all
# Of planes that are multiples of so many bytes, a pixel's numbers share a quarter of the sets of
# the first-level cache or fewer, or each has a page of its own.
FEW_SETS = 4 * LINE
RGB = 3  # channels of many a network's image
AHEAD = 256  # bytes that planes are asked for in advance: more of them than prefetchers follow


def transpose(f: Function, rows: list[Value]) -> list[Value]:
    """A square of vectors, transposed: within 16 bytes by interleaving halves, then whole 16 bytes
    are dealt out. Each step is an instruction of AVX: 24 for 8 x 8 floats, where halves interleaved
    over all of a vector were 48, and took LLVM twice as long.
    """
    n, part = len(rows), min(len(rows), PART // SIZE[rows[0].type.element])
    turned = [beside(f, rows[first : first + part]) for first in range(0, n, part)]
    columns = [_deal(f, list(across), part) for across in zip(*turned, strict=True)]
    return [column for beside in zip(*columns, strict=True) for column in beside]


def beside(f: Function, rows: list[Value]) -> list[Value]:
    """As many vectors as there are numbers in 16 bytes, or in a vector, transposed within those."""
    part, n = len(rows), rows[0].lanes
    half, parts = part // 2, range(0, n, part)
    low = [at + i for first in parts for i in range(first, first + half) for at in (0, n)]
    group, width = rows, part
    while width > 1:
        pairs = zip(group[:half], group[half:], strict=True)
        halves = low, [lane + half for lane in low]
        group = [f.shuffle(a, b, lanes) for a, b in pairs for lanes in halves]
        width //= 2
    return group


def _deal(f: Function, vectors: list[Value], part: int) -> list[Value]:
    """For each part of a vector, those parts of all vectors in their order."""
    if len(vectors) == 1:
        return vectors
    both = range(2 * vectors[0].lanes)
    even = [lane for lane in both if lane // part % 2 == 0]
    odd = [lane + part for lane in even]
    pairs = list(zip(vectors[::2], vectors[1::2], strict=True))
    dealt = [_deal(f, [f.shuffle(a, b, which) for a, b in pairs], part) for which in (even, odd)]
    return [vector for both in zip(*dealt, strict=True) for vector in both]


def emit_image(module: Module, dtype: str, passes: bool = False, ends: bool = False) -> Routine:
    """image(job, unit): fill the unit's packed image, every slot of its box, all channels; or, in
    `passes`, as many as are held at once, from the unit's own first on. `ends`: of rows that lie
    channels last both ends alone (konv.kernels.in_place).
    """
    real = REAL[dtype]
    lanes = module.target.lanes(dtype)
    sides = sorted({16 // SIZE[real], lanes})
    pixels = {side: _emit_image_squares(module, dtype, side, side == lanes) for side in sides}
    one = _emit_image_pixel(module, dtype)
    with part_function(module, "image", cold=True) as (f, piece, _):
        job, unit, x = piece.job, piece.unit, piece.unit.pointer("x", element(dtype))
        image = piece.part("at_image", I8)
        tables = [piece.part(("at_slots", a), I64) for a in AXES]
        width = unit["slots", 2]
        channels = job["groups"] * job["ci"]
        if passes:
            channels, x = job["held"], x + unit["from"] * job["sliced"] * job["x_channel"]
        # Where slots are all pixels from the first to the last, those in the image are one run; of
        # an image that lies channels last itself, a run of numbers.
        pixel, in_a_row = job["x_stride", 2], job["first_slots", 2].equals(job["span", 2] + 1)
        in_a_row = in_a_row & job["ahead", 2].equals(job["jump", 2]) & job["mode"].equals(0)
        as_it_lies = in_a_row & pixel.equals(channels) & job["x_channel"].equals(1)
        if dtype in HALVES:
            as_it_lies = as_it_lies & False
        in_a_row = in_a_row & (pixel.equals(1) | as_it_lies)
        paged = (job["x_channel"] % (FEW_SETS // SIZE[element(dtype)])).equals(0)
        paged = paged | (channels <= RGB)
        begin = f.least(f.most(0 - unit["raw", 2], 0), width)
        end = f.most(f.least(job["size", 2] - unit["raw", 2], width), begin)
        with f.loop(unit["slots", 0]) as d, f.loop(unit["slots", 1]) as h:
            line = (image + (d * job["apart", 0] + h * job["apart", 1])).cast(real)
            deep, high = tables[0][d], tables[1][h]
            source = x + deep + high
            with f.choose((deep | high) < 0) as (padding, row):
                with padding:
                    f.clear(line, width * channels)
                with row, f.choose(in_a_row) as (run, places):
                    with run:
                        f.clear(line, begin * channels)
                        f.clear(line + end * channels, (width - end) * channels)
                        count, done = end - begin, f.var(0)
                        with f.when(as_it_lies):
                            for first, last in _parts(f, unit, begin, end, ends):
                                with f.when(last > first):
                                    there = source + (first + unit["raw", 2]) * channels
                                    numbers = (last - first) * channels
                                    f.copy(line + first * channels, there, numbers)
                            done.set(count)
                        with f.when((count >= lanes) & paged & done.get().equals(0)):
                            done.set(count)
                            begins = [source + (begin + unit["raw", 2]), line + begin * channels]
                            f.call(pixels[lanes], [*begins, job["x_channel"], channels, count])
                        for side in reversed(sides):
                            with f.when((count >= side) & done.get().equals(0)):
                                done.set(count)
                                with f.loop(count, step=side) as i:
                                    # The last overlaps the one before it rather than fall short.
                                    at = begin + f.least(i, count - side)
                                    begins = [source + (at + unit["raw", 2]), line + at * channels]
                                    square = [*begins, job["x_channel"], channels]
                                    f.call(pixels[side], square + [side] * (side == lanes))
                        with f.loop(end, start=begin + done.get()) as i:
                            to, at = line + i * channels, i + unit["raw", 2]
                            f.call(one, [source, at, to, job["x_channel"], channels])
                    with places, f.loop(width) as i:
                        to, at = line + i * channels, tables[2][i]
                        f.call(one, [source, at, to, job["x_channel"], channels])
        return f.fn


def _parts(
    f: Function, unit: Words, begin: Value, end: Value, ends: bool
) -> list[tuple[Value, Value]]:
    """The slots of a row that are copied as they lie: those from `begin` to `end`, or of these what
    is left and right of those that are read where they lie.
    """
    if not ends:
        return [(begin, end)]
    left = f.most(unit["left"], begin)
    return [(begin, f.least(left, end)), (f.most(unit["right"], left), end)]


def _emit_image_squares(module: Module, dtype: str, side: int, run: bool) -> Routine:
    """squares(source, to, plane, channels[, count]): `side` neighbouring pixels or a `run` of
    `count`, `side` or more, all channels. Squares as wide as a vector take whole cache lines of the
    image: 0.5 cycles a number, small ones 1.5.

    A vector's square is a run of `side`: alone it was no faster, and took LLVM 15 ms. Of planes
    that share few sets of the first-level cache all pixels of a row are taken at once, so that each
    line, and each page, is met once: 131@128x256 and 1024@64 take 1.5 times as long by squares,
    128@56 in steps of two on Winograd's tiles 1.03 to 1.06 times, 512@44 0.85 times (Zen 3).
    """
    real = REAL[dtype]
    params = [("source", pointer_to(element(dtype))), ("to", pointer_to(real))]
    params += [(name, I64) for name in ("plane", "channels", *(("count",) if run else ()))]
    name = f"image_{'run' if run else 'square'}_{side}"
    with module.function(name, params, inline=False, plain=True) as (f, args):
        source, to, plane, channels, *count = args
        small = 16 // SIZE[real]

        def along(line: Pointer, pixel: Pointer, body: Callable[[Pointer, Pointer], None]) -> None:
            if not run:
                body(line, pixel)
                return
            with f.loop(count[0], step=side) as i:
                # The last overlaps the one before it rather than fall short.
                at = f.least(i, count[0] - side)
                body(line + at, pixel + channels * at)

        square = partial(_square, f, dtype, (plane, channels), side)
        with f.choose(channels.equals(RGB)) as (three, other):
            with three:
                along(source, to, partial(_colours, f, dtype, plane, side))
            with other:
                done: Value = f.integer(0)
                for width in dict.fromkeys((side, small)):
                    end = channels & -width
                    with f.loop(end, start=done, step=width) as c:
                        along(source + c * plane, to + c, partial(square, width=width))
                    done = end
                with f.loop(channels, start=done) as c:
                    along(source + c * plane, to + c, partial(_numbers, f, dtype, channels, side))
        return f.fn


def _square(
    f: Function,
    dtype: str,
    strides: tuple[Value, Value],
    side: int,
    line: Pointer,
    pixel: Pointer,
    width: int,
) -> None:
    """Of `side` pixels, `width` channels; from plane to plane and from pixel to pixel in steps."""
    plane, step = strides
    for first in range(0, side, width):
        row, rows = line + first, []
        for _ in range(width):
            rows.append(read(f, dtype, row, width))
            f.prefetch(row + AHEAD // SIZE[element(dtype)])
            row = row + plane
        column_at = pixel + step * first
        for column in transpose(f, rows):
            column_at.put(0, column)
            column_at = column_at + step


def _numbers(
    f: Function, dtype: str, step: Value, side: int, line: Pointer, pixel: Pointer
) -> None:
    """Of `side` pixels, one channel."""
    for i in range(side):
        pixel[step * i] = read(f, dtype, line + i)


def _colours(
    f: Function, dtype: str, plane: Value, side: int, line: Pointer, pixel: Pointer
) -> None:
    """Of `side` pixels, all three channels there are."""
    red, green, blue = (read(f, dtype, line + plane * c, side) for c in range(RGB))
    for c in range(RGB):
        f.prefetch(line + (plane * c + AHEAD // SIZE[element(dtype)]))
    for first in range(0, RGB * side, side):
        lanes = [divmod(first + lane, RGB) for lane in range(side)]
        two = f.shuffle(red, green, [at + side * min(c, 1) for at, c in lanes])
        kept = enumerate(lanes)
        three = [side + at if c == RGB - 1 else lane for lane, (at, c) in kept]
        pixel.put(first, f.shuffle(two, blue, three))


def _emit_image_pixel(module: Module, dtype: str) -> Routine:
    """pixel(source, at, to, plane, channels): one pixel or, where `at` is negative, padding, all
    channels; side by side in the input they go by vectors.
    """
    params = [("source", pointer_to(element(dtype))), ("at", I64), ("to", pointer_to(REAL[dtype]))]
    params += [("plane", I64), ("channels", I64)]
    with module.function("image_pixel", params, inline=False, plain=True) as (f, args):
        source, at, to, plane, channels = args
        with f.choose(at < 0) as (padding, pixel):
            with padding:
                f.clear(to, channels)
            with pixel:
                lanes = module.target.lanes(dtype)
                whole = f.select(plane.equals(1), channels & -lanes, 0)
                with f.loop(whole, step=lanes) as c:
                    to.put(c, read(f, dtype, source + (at + c), lanes))
                with f.loop(channels, start=whole) as c:
                    to[c] = read(f, dtype, source + (at + c * plane))
        return f.fn
