"""The three steps of a tile: its transform in, a small matrix product a point, its transform out
(konv.kernels.winograd.outputs).

    V [vector of ci][point][tile][lane]     transformed inputs: a product reads a cache line a tile,
                                            and those of its tiles are neighbours; the points of a
                                            tile lie within few pages (16 of those that a core
                                            writes to have their addresses at hand)
    U [block][point][ci][vector of co][lane]   packed weights (konv.kernels.winograd.weights)
    M [point][tile][vector of co][lane]     products, of one block of output channels

A last vector of channels that would reach beyond them begins earlier instead, over channels that
the one before it has too (a group has at least as many as a vector): no step needs a mask, and
what is written twice is the same.
"""

from __future__ import annotations

from konv.kernels.scratch import LINE
from konv.kernels.winograd.transforms import Pair
from konv.llvm import (
    F32,
    I64,
    SIZE,
    Function,
    Module,
    Pointer,
    Routine,
    Value,
    Variable,
    pointer_to,
)

UNROLL = 4  # channels per trip
FEW = 2  # of register tiles for the last few tiles of a box: they run seldom, and compile in .7
# Vectors of channels ahead of which V, and an image's pixels, are asked for. V mostly exceeds the
# second-level cache, and both lie in short runs far apart, which no prefetcher follows: 512@7,
# 256@14 and transposed 512->256@8 1.04 to 1.07 times as fast, 256@56 and 128@28 1.02 to 1.05, in
# steps of two 128@56 and 64@112 1.04 to 1.06; 64@56, whose V is small, .98 to 1.01 (Zen 3). By 3
# vectors instead of 2, or the next register tile's V: the same less .01.
V_AHEAD, PIXELS_AHEAD = 2, 2


def emit_inputs(module: Module, transforms: Pair) -> Routine:
    """inputs(ins, first, channels, v, v_point, v_vector): B' d B of one tile, all channels of a
    group.

    `first`: channel of the image where the group begins; v: the tile's place in V; `v_vector`:
    numbers from one vector of channels to the next.
    """
    lanes = module.target.lanes("float32")
    over, along = transforms
    params = [
        ("ins", pointer_to(I64)), ("first", I64), ("channels", I64), ("v", pointer_to(F32)),
        ("v_point", I64), ("v_vector", I64),
    ]  # fmt: skip
    with module.function("inputs", params, inline=False) as (f, args):
        ins, first, channels, v, v_point, v_vector = args
        half = f.array(F32, over.n * along.inputs * lanes)
        with f.loop((channels + (lanes - 1)) // lanes) as vector:
            channel = first + f.least(vector * lanes, channels - lanes)
            to = v + vector * v_vector
            if over.n > 1:
                with f.loop(along.inputs) as q:
                    column = ins + q
                    d = [
                        (column.pointer(r * along.inputs, F32) + channel).vector(0, lanes)
                        for r in range(over.inputs)
                    ]
                    for i in range(over.inputs):
                        pixel = column.pointer(i * along.inputs, F32) + channel
                        f.prefetch(pixel + PIXELS_AHEAD * lanes, level=2)
                    for i, value in enumerate(over.emit_inputs(f, d)):
                        half.put(q * lanes + i * along.inputs * lanes, value)
            with f.loop(over.n) as r:
                line = half + r * (along.inputs * lanes)
                d = [
                    line.vector(q * lanes, lanes)
                    if over.n > 1
                    else (ins.pointer(q, F32) + channel).vector(0, lanes)
                    for q in range(along.inputs)
                ]
                place = to + r * along.n * v_point
                for i, value in enumerate(along.emit_inputs(f, d)):
                    place.put(v_point * i, value)
        return f.fn


def emit_product(module: Module, mr: int, nr: int, unroll: int) -> Routine:
    """product(v, v_vector, u, channels, m, next, more): mr tiles by nr vectors of output channels,
    at one point, `unroll` channels per trip; `more`: go on from the sums in m. Every sum is one
    chain in the order of channels.

    U comes from afar, mostly memory: a quarter as much as this product reads is asked for from
    `next` on, two panels ahead. Half as much, one panel ahead, was more at once than a core can
    wait for, and asked for twice (layers taking turns, 512@7 1.67 to 1.46 ms, 256@14 0.78 to 0.63;
    512@14 3.05 to 2.83; Zen 3).
    """
    lanes, line = module.target.lanes("float32"), LINE // SIZE[F32]
    params = [
        ("v", pointer_to(F32)), ("v_vector", I64), ("u", pointer_to(F32)), ("channels", I64),
        ("m", pointer_to(F32)), ("next", pointer_to(F32)), ("more", I64),
    ]  # fmt: skip
    with module.function(f"product_{mr}x{nr}", params, inline=False) as (f, args):
        v, v_vector, u, channels, m, coming, more = args
        asked = unroll * nr * lanes // 4  # numbers a trip
        zero = f.zero(F32, lanes)
        sums = [[Variable(f, zero) for _ in range(nr)] for _ in range(mr)]
        with f.when(more.differs(0)):
            for i, row in enumerate(sums):
                for n, total in enumerate(row):
                    total.set(m.vector((i * nr + n) * lanes, lanes))
        whole = channels // lanes
        with f.loop(whole) as vector:
            numbers, weights = v + vector * v_vector, u + vector * (lanes * nr * lanes)
            for number in range(mr * lanes - 1, -1, -line):
                f.prefetch(numbers + (v_vector * V_AHEAD + number))
            with f.loop(lanes, step=unroll) as c:
                ahead = coming + (vector * lanes + c) * (nr * lanes // 4)
                for at in range(0, asked, line):
                    f.prefetch(ahead + at)
                for i in range(unroll):
                    _multiply_add(f, sums, numbers + c, weights + c * (nr * lanes), i, lanes)
        # The last vector holds the last `lanes` channels, some of which have been here.
        numbers, weights = v + whole * v_vector, u + whole * (lanes * nr * lanes)
        rest = channels - whole * lanes
        numbers = numbers + (f.integer(lanes) - rest)
        with f.loop(rest) as c:
            _multiply_add(f, sums, numbers + c, weights + c * (nr * lanes), 0, lanes)
        for i, row in enumerate(sums):
            for n, total in enumerate(row):
                m.put((i * nr + n) * lanes, total.get())
        return f.fn


def _multiply_add(
    f: Function,
    sums: list[list[Variable]],
    numbers: Pointer,
    weights: Pointer,
    c: int,
    lanes: int,
) -> None:
    nr = len(sums[0])
    vectors = [weights.vector((c * nr + n) * lanes, lanes) for n in range(nr)]
    for i, row in enumerate(sums):
        x = f.splat(numbers[i * lanes + c], lanes)
        for total, vector in zip(row, vectors, strict=True):
            total.set(f.fma(x, vector, total.get()))


def offset(f: Function, vector: Value, channels: Value, lanes: int) -> Value:
    """The first channel of a vector: the last one ends with the channels."""
    return f.least(vector * lanes, channels - lanes)
