"""The last step of a tile (konv.kernels.winograd.parts): its transform out, to where results go.

Channels-last results go to the places of their pixels. Contiguous ones go in squares, straight to
the output or to a stage in scratch, from which lines as long as a box leave.
"""

from __future__ import annotations

from typing import Any

from konv.kernels.epilogue import activate, finish
from konv.kernels.packing import transpose
from konv.kernels.winograd.transforms import Pair
from konv.llvm import F32, I64, Function, Module, Pointer, Routine, Value, pointer_to
from konv.plan import Plan


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
            with singles, f.loop(rows) as r, f.loop(columns) as q:
                place, source = to + (r * down + q * right), done + (r * width + q) * lanes
                if last:
                    with f.loop(lanes) as c:
                        put(place + c * plane, source[c])
                else:
                    for lane in range(lanes):
                        place.put(0, source[lane])
                        place = place + plane
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
