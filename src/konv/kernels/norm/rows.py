"""Batch normalisation of channels-last images: rows of channels, as many as there are pixels.

    sums      for unit: for 8 rows: for a line of channels: sums, in registers; to the unit's own
    settle    for a line of channels: the sums of all units, in their order; scale and shift
    apply     for unit: for row: for a line of channels: y = x * scale + shift

and backward likewise. Units follow from the sizes alone, so no bit depends on threads. The sums
begin with the last unit and the results with the first: where a pass ends the next finds what its
caches still hold, and so do the sums of what the layer before has written.
"""

from __future__ import annotations

from collections.abc import Callable

from konv.kernels.epilogue import activate
from konv.kernels.norm.parts import LINE, Values, gradient, normal, passed, read, row, stepped, wide
from konv.kernels.region import emit_units
from konv.kernels.words import Words
from konv.llvm import F64, REAL, SIZE, Function, Pointer, Type, Value
from konv.plan import Plan

TILE = 8  # rows of sums; addresses of more find no registers
FEW = 1  # rows of results, so that memory is met in its own order; factors come from the cache

Pair = tuple[Pointer, Pointer]
Column = Callable[[Pair, Value, Value, int, int], None]


def sums(plan: Plan, f: Function, call: Words, thread: Value) -> None:
    """Sums of x - x0 and of its squares, of each unit, x0 the first row of all."""
    real, job = REAL[plan.dtype], read(call)
    x, channels = call.pointer("x", real), job["channels"]
    lanes = f.module.target.lanes("float64")

    def column(own: Pair, first: Value, c: Value, rows: int, width: int) -> None:
        at, some = x + first * channels + c, min(width, lanes)
        for i in range(0, width, some):
            x0 = wide(f, x.vector(c + i, some))
            total = squares = f.zero(F64, some)
            for r in range(rows):
                _ask(f, at, channels * (TILE + r) + i, i)
                d = wide(f, at.vector(channels * r + i, some)) - x0
                total, squares = total + d, f.fma(d, d, squares)
            for to, value in zip(own, (total, squares), strict=True):
                _add(f, to + c + i, value)

    _each(f, call, job, thread, real, TILE, column, clear=True)


def settle(plan: Plan, f: Function, call: Words, thread: Value) -> None:
    """Fill the table."""
    real, job = REAL[plan.dtype], read(call)
    x = call.pointer("x", real)

    def channels(at: Value, lanes: int) -> None:
        x0 = wide(f, x.vector(at, lanes))
        normal(f, job, real, at, x0, _all(f, call, job, at, lanes))

    _lines(f, call, job, thread, real, channels)


def apply(plan: Plan, f: Function, call: Words, thread: Value) -> None:
    """y = activation(x * scale + shift)."""
    real, job = REAL[plan.dtype], read(call)
    x, y, channels = call.pointer("x", real), call.pointer("y", real), job["channels"]
    scales, shifts = row(job, "scale", real), row(job, "shift", real)
    lanes = f.module.target.lanes(plan.dtype)

    def column(_: Pair, first: Value, c: Value, rows: int, width: int) -> None:
        place, some = first * channels + c, min(width, lanes)
        for i in range(0, width, some):
            scale, shift = scales.vector(c + i, some), shifts.vector(c + i, some)
            for r in range(rows):
                at = place + channels * r + i
                value = f.fma(x.vector(at, some), scale, shift)
                y.put(at, activate(f, plan, value))

    _each(f, call, job, thread, real, FEW, column)


def back_sums(plan: Plan, f: Function, call: Words, thread: Value) -> None:
    """Sums of d and of d * (x - mean), of each unit."""
    real, job = REAL[plan.dtype], read(call)
    x, dy, channels = call.pointer("x", real), call.pointer("weights", real), job["channels"]
    table = {name: row(job, name, real) for name in ("mean", "scale", "shift")}
    lanes = f.module.target.lanes(plan.dtype)

    def column(own: Pair, first: Value, c: Value, rows: int, width: int) -> None:
        place, some = first * channels + c, min(width, lanes)
        for i in range(0, width, some):
            mean, scale, shift = (t.vector(c + i, some) for t in table.values())
            total = along = f.zero(real, some)
            for r in range(rows):
                at = place + channels * r + i
                _ask(f, x, at + channels * TILE, i)
                _ask(f, dy, at + channels * TILE, i)
                one = x.vector(at, some)
                d = passed(f, plan, dy.vector(at, some), _linear(f, one, scale, shift))
                total, along = total + d, f.fma(one - mean, d, along)
            for to, value in zip(own, (total, along), strict=True):
                _add(f, to + c + i, value)

    _each(f, call, job, thread, real, TILE, column, clear=True)


def back_settle(plan: Plan, f: Function, call: Words, thread: Value) -> None:
    """a, b and c of all channels, behind the sums."""
    real, job = REAL[plan.dtype], read(call)
    factors = _factors(call, job, real)

    def channels(at: Value, lanes: int) -> None:
        found = gradient(f, job, real, at, _all(f, call, job, at, lanes))
        for n, value in enumerate(found):
            (factors + job["padded"] * n).put(at, value)

    _lines(f, call, job, thread, real, channels)


def back_apply(plan: Plan, f: Function, call: Words, thread: Value) -> None:
    """dx = d * a + (x - mean) * b + c."""
    real, job = REAL[plan.dtype], read(call)
    x, dy, dx = (call.pointer(name, real) for name in ("x", "weights", "y"))
    channels, factors = job["channels"], _factors(call, job, real)
    table = [row(job, name, real) for name in ("mean", "scale", "shift")]
    table += [factors + job["padded"] * n for n in range(3)]
    lanes = f.module.target.lanes(plan.dtype)

    def column(_: Pair, first: Value, c: Value, rows: int, width: int) -> None:
        place, some = first * channels + c, min(width, lanes)
        for i in range(0, width, some):
            mean, scale, shift, *abc = (t.vector(c + i, some) for t in table)
            for r in range(rows):
                at = place + channels * r + i
                one = x.vector(at, some)
                d = passed(f, plan, dy.vector(at, some), _linear(f, one, scale, shift))
                dx.put(at, f.fma(d, abc[0], f.fma(one - mean, abc[1], abc[2])))

    _each(f, call, job, thread, real, FEW, column)


def _each(
    f: Function,
    call: Words,
    job: Values,
    thread: Value,
    real: Type,
    tile: int,
    column: Column,
    clear: bool = False,
) -> None:
    """column(sums, first row, first channel, rows, channels) for all units; `clear`: their sums
    begin at 0, and the last unit comes first.
    """
    lanes = f.module.target.lanes("float64")
    widths = (LINE // SIZE[real], lanes, 1)

    def body(number: Value) -> None:
        unit = job["units"] - number - 1 if clear else number
        begin = unit * job["share"]
        own = _sums(call, job, unit)
        if clear:
            f.clear(own[0], job["padded"] * 2)

        def rows(first: Value, high: int) -> None:
            def channels(c: Value, width: int) -> None:
                column(own, begin + first, c, high, width)

            stepped(f, job["channels"], widths, channels)

        stepped(
            f, f.least(job["share"], job["count"] - begin), (tile, 1) if tile > 1 else (1,), rows
        )

    emit_units(f, call, thread, job["units"], body)


def _lines(
    f: Function,
    call: Words,
    job: Values,
    thread: Value,
    real: Type,
    body: Callable[[Value, int], None],
) -> None:
    """body(first channel, how many) for all channels, a line of them in a unit."""
    line = LINE // SIZE[real]

    def unit(number: Value) -> None:
        begin = number * line
        some = f.least(job["channels"] - begin, f.integer(line))
        widths = (f.module.target.lanes("float64"), 1)
        stepped(f, some, widths, lambda at, lanes: body(begin + at, lanes))

    emit_units(f, call, thread, job["padded"] // line, unit)


def _ask(f: Function, p: Pointer, at: Value, first: int) -> None:
    """Ask for the rows of the tile behind, once a line: a row is too short for the processor to
    see where the next access of so many rows will be.
    """
    if first == 0:
        f.prefetch(p + at)


def _sums(call: Words, job: Values, unit: Value) -> Pair:
    """A unit's two rows of sums."""
    first = call.pointer("scratch", F64) + unit * job["padded"] * 2
    return first, first + job["padded"]


def _factors(call: Words, job: Values, real: Type) -> Pointer:
    return _sums(call, job, job["units"])[0].cast(real)


def _all(f: Function, call: Words, job: Values, at: Value, lanes: int) -> list[Value]:
    """The two sums of all units, of some channels."""
    found = [f.var_of(f.zero(F64, lanes)) for _ in range(2)]
    with f.loop(job["units"]) as unit:
        for total, sums_of_unit in zip(found, _sums(call, job, unit), strict=True):
            total.set(total.get() + sums_of_unit.vector(at, lanes))
    return [total.get() for total in found]


def _add(f: Function, to: Pointer, value: Value) -> None:
    """Add a vector to float64 in memory."""
    parts = max(1, value.lanes // f.module.target.lanes("float64"))
    for n, part in enumerate(f.split(value, parts)):
        at = n * part.lanes
        to.put(at, to.vector(at, part.lanes) + wide(f, part))


def _linear(f: Function, x: Value, scale: Value, shift: Value) -> Callable[[], Value]:
    return lambda: f.fma(x, scale, shift)
