"""The three steps of a tile: its transform in, a small matrix product a point, its transform out.

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

from typing import Any

from konv.kernels.epilogue import activate, finish
from konv.kernels.packing import transpose
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
from konv.plan import Plan

UNROLL = 4  # channels per trip


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


def emit_product(module: Module, mr: int, nr: int) -> Routine:
    """product(v, v_vector, u, channels, m, next, more): mr tiles by nr vectors of output channels,
    at one point; `more`: go on from the sums in m. Every sum is one chain in the order of channels.

    U comes from afar, mostly memory: a quarter as much as this product reads is asked for from
    `next` on, two panels ahead. Half as much, one panel ahead, was more at once than a core can
    wait for, and asked for twice (layers taking turns, 512@7 1.67 to 1.46 ms, 256@14 0.78 to 0.63;
    512@14 3.05 to 2.83; Zen 3).
    """
    lanes = module.target.lanes("float32")
    params = [
        ("v", pointer_to(F32)), ("v_vector", I64), ("u", pointer_to(F32)), ("channels", I64),
        ("m", pointer_to(F32)), ("next", pointer_to(F32)), ("more", I64),
    ]  # fmt: skip
    with module.function(f"product_{mr}x{nr}", params, inline=False) as (f, args):
        v, v_vector, u, channels, m, coming, more = args
        asked = UNROLL * nr * lanes // 4  # numbers a trip
        zero = f.zero(F32, lanes)
        sums = [[Variable(f, zero) for _ in range(nr)] for _ in range(mr)]
        with f.when(more.differs(0)):
            for i, row in enumerate(sums):
                for n, total in enumerate(row):
                    total.set(m.vector((i * nr + n) * lanes, lanes))
        whole = channels // lanes
        with f.loop(whole) as vector:
            numbers, weights = v + vector * v_vector, u + vector * (lanes * nr * lanes)
            with f.loop(lanes, step=UNROLL) as c:
                ahead = coming + (vector * lanes + c) * (nr * lanes // 4)
                for at in range(0, asked, LINE // SIZE[F32]):
                    f.prefetch(ahead + at)
                for i in range(UNROLL):
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


def emit_outputs(module: Module, plan: Plan, transforms: Pair, scattered: bool = False) -> Routine:
    """A' m A of one tile and one vector of output channels, plus bias, and what follows.

    outputs(m, m_point, bias, outs, channel, dump, residual): m is the vector's place in M, outs and
    channel say where its results go; in `dump` are those that are none, `residual` is the plan's.
    `scattered`: `channel` may be any distance in the output, and counts nothing in the dump, where
    each place of a tile has its own, and with a residual another, for what comes before that; so
    many numbers `ahead` of results lie some to come, whose memory is asked for.
    outputs(m, m_point, bias, to, shape, plane, down, right, residual, last): contiguous; to: the
    first result of the first channel, shape: rows and columns that are real, then numbers from one
    channel, row and column to the next. last: 0 if `to` is not in the output itself; what a
    residual is added to is finished later then. Plans without a residual have not those two.
    """
    lanes, blocked = module.target.lanes("float32"), plan.blocked
    over, along = transforms
    ends = [("to", pointer_to(F32)), ("shape", pointer_to(I64)), ("plane", I64), ("down", I64)]
    words = ("channel", "dump", "residual", *(("ahead",) if scattered else ()))
    where = [("outs", pointer_to(I64)), *((word, I64) for word in words)]
    added_to = [("residual", I64), ("last", I64)] if plan.residual else []
    where = [*ends, ("right", I64), *added_to] if blocked else where
    params = [("m", pointer_to(F32)), ("m_point", I64), ("bias", pointer_to(F32)), *where]
    scatters = [
        emit_scatter(module, plan, transforms, last)
        for last in ([False, True] if plan.residual else [False])
        if blocked
    ]
    with module.function("outputs", params, inline=False) as (f, (m, m_point, bias, *rest)):
        half = f.array(F32, over.outputs * along.n * lanes)
        done = f.array(F32, over.outputs * along.outputs * lanes) if blocked else half
        added = bias.vector(0, lanes)
        with f.loop(along.n) as q:
            column = m + q * m_point
            values = [column.vector(m_point * (r * along.n), lanes) for r in range(over.n)]
            for i, value in enumerate(over.emit_outputs(f, values)):
                half.put(q * lanes + i * along.n * lanes, value)
        with f.loop(over.outputs) as r:
            line = half + r * (along.n * lanes)
            values = [line.vector(q * lanes, lanes) for q in range(along.n)]
            for i, value in enumerate(along.emit_outputs(f, values)):
                value = value + added
                if blocked:
                    value = value if plan.residual else activate(f, plan, value)
                    done.put((r * along.outputs + i) * lanes, value)
                else:
                    outs, channel, dump, residual, *ahead = rest
                    number = r * along.outputs + i
                    at = outs[number]
                    none = at.equals(dump + number * (lanes * 4) if scattered else dump)
                    if scattered and plan.residual:  # konv.kernels.cells.edge finishes it
                        spare = number + over.outputs * along.outputs
                        (dump.to_pointer(F32) + spare * lanes).put(0, value)
                    moved = f.select(none, f.integer(0), channel) if scattered else channel
                    place = at.to_pointer(F32) + moved
                    # What is no result has no residual: it is added to itself.
                    distance = f.select(none, f.integer(0), residual)
                    place.put(0, finish(f, plan, value, place, distance))
                    if ahead:
                        f.prefetch(place + ahead[0])
        if blocked:
            _emit_scatters(f, scatters, done, rest)
        return f.fn


def _emit_scatters(f: Function, scatters: list[Routine], done: Pointer, rest: list[Any]) -> None:
    """A tile goes to the stage, or to the output and is finished on the way."""
    to, shape, plane, down, right, *added_to = rest
    arguments = [done, to, shape[0], shape[1], plane, down, right]
    if not added_to:
        f.call(scatters[0], arguments)
        return
    residual, last = added_to
    with f.choose(last.equals(0)) as (staged, final):
        with staged:
            f.call(scatters[0], arguments)
        with final:
            f.call(scatters[1], [*arguments, residual])


def emit_scatter(module: Module, plan: Plan, transforms: Pair, last: bool = False) -> Routine:
    """scatter(done, to, rows, columns, plane, down, right, residual): a tile of channels-last
    results goes to contiguous places, in squares of four pixels by four channels where it is whole.
    `last`: these are the output's own, and the plan's residual is to be added.
    """
    lanes = module.target.lanes("float32")
    width, name = transforms[1].outputs, "scatter_last" if last else "scatter"
    params = [("done", pointer_to(F32)), ("to", pointer_to(F32))]
    names = ("rows", "columns", "plane", "down", "right", *(["residual"] if last else ()))
    with module.function(name, [*params, *((n, I64) for n in names)], inline=False, plain=True) as (
        f,
        args,
    ):
        done, to, rows, columns, plane, down, right, *residual = args

        def put(place: Pointer, value: Value) -> None:
            place.put(0, finish(f, plan, value, place, *residual) if last else value)

        whole = columns.equals(width) & right.equals(1)
        with f.choose(whole) as (squares, singles):
            with squares, f.loop(rows) as r, f.loop(lanes, step=4) as c:
                line, corner = done + (r * (width * lanes) + c), to + (r * down + c * plane)
                for at in range(0, width // 4 * 4, 4):
                    square = [line.vector((at + q) * lanes, 4) for q in range(4)]
                    for i, row in enumerate(transpose(f, square)):
                        put(corner + plane * i + at, row)
                for at in range(width // 4 * 4, width):
                    for i in range(4):
                        put(corner + plane * i + at, line[at * lanes + i])
            with singles, f.loop(rows) as r, f.loop(columns) as q, f.loop(lanes) as c:
                put(to + (c * plane + r * down + q * right), done[(r * width + q) * lanes + c])
        return f.fn


def emit_flush(module: Module, plan: Plan) -> Routine:
    """flush(stage, to, plane_from, plane, rows, width, down, residual): lines of staged results, a
    vector of channels, to contiguous output. Lines as long as a box fill whole cache lines;
    straight from the tiles each was fetched four times (64@224: 6.6 ms instead of 6.2).
    """
    lanes = module.target.lanes("float32")
    params = [("stage", pointer_to(F32)), ("to", pointer_to(F32))]
    names = ("plane_from", "plane", "rows", "width", "down", "residual")
    with module.function(
        "flush", [*params, *((n, I64) for n in names)], inline=False, plain=True
    ) as (f, args):
        stage, to, plane_from, plane, rows, width, down, residual = args

        def put(place: Pointer, value: Value) -> None:
            place.put(0, finish(f, plan, value, place, residual) if plan.residual else value)

        whole = width.equals(down)  # then lines follow each other
        run, runs = f.select(whole, rows * width, width), f.select(whole, f.integer(1), rows)
        with f.loop(lanes) as c, f.loop(runs) as r:
            source, line = stage + (c * plane_from + r * width), to + (c * plane + r * down)
            with f.choose(run >= lanes) as (long, short):
                with long, f.loop(run, step=lanes) as i:
                    # The last overlaps the one before it rather than fall short: konv.plan's `once`
                    # is not so here.
                    at = f.least(i, run - lanes)
                    put(line + at, source.vector(at, lanes))
                with short, f.loop(run) as i:
                    put(line + i, source[i])
        return f.fn


def offset(f: Function, vector: Value, channels: Value, lanes: int) -> Value:
    """The first channel of a vector: the last one ends with the channels."""
    return f.least(vector * lanes, channels - lanes)
