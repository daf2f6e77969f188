"""Weights packed in blocks of output channels, as register tiles read them.

    [group][block][tap][ci][vector][lane], then all biases; zeros behind the last channel

A vector's channels are rows of a matrix, and one of their numbers after another its columns: where
numbers lie side by side in the weight they are turned in squares, and where channels do, copied.
"""

from __future__ import annotations

from konv.kernels.pack import HEADER, Arguments, emit_pack, note
from konv.kernels.packing import transpose
from konv.kernels.stored import element, read
from konv.llvm import (
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

STRIDES = ("ci", "taps", "by_co", "by_ci", "by_tap")
SIDE = 8  # of a square at most: 16 numbers a side take LLVM ten times as long


def emit_weights(module: Module, dtype: str, nr: int) -> None:
    """Add `pack` for blocks of nr vectors."""
    real, lanes = REAL[dtype], module.target.lanes(dtype)
    block, head = nr * lanes, HEADER // SIZE[real]
    part = _emit_part(module, dtype)
    vector = _emit_vector(module, dtype, part)

    def rounded(a: Arguments) -> tuple[Value, Value]:
        """Output channels of a group in whole vectors, and in blocks."""
        padded = (a["co"] + (lanes - 1)) // lanes * lanes
        return padded, (padded + (block - 1)) // block

    def units(f: Function, a: Arguments) -> Value:  # noqa: ARG001 - as emit_pack asks
        groups: Value = a["groups"]
        return groups * rounded(a)[1]

    def body(f: Function, a: Arguments, unit: Value) -> None:
        padded, blocks = rounded(a)
        g, k0 = unit // blocks, unit % blocks * block
        wide, reduction = f.least(padded - k0, block), a["taps"] * a["ci"]
        corner = a["weights"] + g * a["by_group"] + k0 * a["by_co"]
        to = a["packed"] + (g * padded + k0) * reduction + head
        finite = a["packed"].cast(I64)
        with f.loop(wide, step=lanes) as k:
            left = a["co"] - k0 - k
            arguments = [corner + k * a["by_co"], to + k, wide, *(a[name] for name in STRIDES)]
            with f.choose(left >= lanes) as (whole, rest):
                with whole:
                    f.call(vector, [*arguments, finite])
                with rest:
                    f.call(part, [*arguments, left, finite])
        biases = a["packed"] + a["groups"] * padded * reduction + g * padded + head
        with f.loop(wide) as k:
            there = a["bias"].address().differs(0) & (k0 + k < a["co"])
            biases[k0 + k] = 0.0
            with f.when(there):
                biases[k0 + k] = read(f, dtype, a["bias"] + (g * a["co"] + k0 + k)) + 0.0

    emit_pack(module, dtype, units, body, cold=True)


def _params(dtype: str, *more: str) -> list[tuple[str, object]]:
    ends = [("source", pointer_to(element(dtype))), ("to", pointer_to(REAL[dtype]))]
    numbers = [(name, I64) for name in ("wide", *STRIDES, *more)]
    return [*ends, *numbers, ("finite", pointer_to(I64))]


def _emit_part(module: Module, dtype: str) -> Routine:
    """part(source, to, wide, ..., left, finite): the first `left` channels of a vector, number by
    number, and zeros; any strides.
    """
    real, lanes = REAL[dtype], module.target.lanes(dtype)
    with module.function("part", _params(dtype, "left"), inline=False, plain=True) as (f, args):
        source, to, wide, ci, taps, by_co, by_ci, by_tap, left, finite = args
        broken = Variable(f, f.constant(real, 0.0))
        with f.loop(taps) as t, f.loop(ci) as c:
            row, line = to + (t * ci + c) * wide, source + t * by_tap + c * by_ci
            with f.loop(left) as k:
                row[k] = read(f, dtype, line + k * by_co)
                broken.set(f.fma(row[k], f.constant(real, 0.0), broken.get()))
            with f.loop(lanes, start=left) as k:
                row[k] = 0.0
        note(f, finite, broken)
        return f.fn


def _emit_vector(module: Module, dtype: str, part: Routine) -> Routine:
    """vector(source, to, wide, ..., finite): all channels of a vector."""
    real, lanes = REAL[dtype], module.target.lanes(dtype)
    run = _emit_run(module, dtype)
    with module.function("vector", _params(dtype), inline=False, plain=True) as (f, args):
        source, to, wide, ci, taps, by_co, by_ci, by_tap, finite = args
        beside, zero, one = by_co.equals(1), f.integer(0), f.integer(1)
        with f.when(beside):
            broken = f.var_of(f.zero(real, lanes))
            with f.loop(taps) as t, f.loop(ci) as c:
                value = read(f, dtype, source + t * by_tap + c * by_ci, lanes)
                broken.set(f.fma(value, f.zero(real, lanes), broken.get()))
                to.put((t * ci + c) * wide, value)
            _note_vector(f, finite, broken)
        # Runs of neighbours: one a tap, through all channels; one, through channels and their taps;
        # or one a channel, through its taps, which may run backwards.
        along = by_ci.equals(1)
        through = by_tap.equals(1) & by_ci.equals(taps)
        single = by_tap.equals(1) | by_tap.equals(-1)
        with f.when(beside.equals(0)), f.choose(along | through | single) as (runs, others):
            with runs:
                count = f.select(along, taps, f.select(through, one, ci))
                length = f.select(along, ci, f.select(through, taps * ci, taps))
                step = f.select(along, one, f.select(through, ci, ci * by_tap))
                back = f.select(along | (by_tap > 0), zero, taps - 1)
                wrap = f.select(through & along.equals(0), 1 - (taps - 1) * ci, step)
                period = f.select(along, length, taps)
                ahead = f.select(along, by_tap, by_ci)
                first = f.select(along, ci, one)
                with f.loop(count) as i:
                    begin = source + i * ahead + back * by_tap
                    out = to + (i * first + back * ci) * wide
                    steps = [step * wide, period, wrap * wide]
                    f.call(run, [begin, out, length, by_co, *steps, finite])
            with others:
                f.call(part, [*args[:-1], f.integer(lanes), finite])
        return f.fn


def _emit_run(module: Module, dtype: str) -> Routine:
    """run(source, to, length, by_co, step, period, wrap, finite): `length` neighbours of each of a
    vector's channels become vectors, `step` from one to the next, and every `period` times `wrap`.
    """
    real, lanes = REAL[dtype], module.target.lanes(dtype)
    side = min(lanes, SIDE)
    params = [("source", pointer_to(element(dtype))), ("to", pointer_to(real))]
    params += [(n, I64) for n in ("length", "by_co", "step", "period", "wrap")]
    params += [("finite", pointer_to(I64))]
    with module.function("run_of_weights", params, inline=False, plain=True) as (f, args):
        source, to, length, by_co, step, period, wrap, finite = args
        at, number = f.var(0), f.var(0)
        broken = f.var_of(f.zero(real, side))
        whole = length & -side

        def advance() -> None:
            following = number.get() + 1
            ends = following.equals(period)
            at.add(f.select(ends, wrap, step))
            number.set(f.select(ends, f.integer(0), following))

        with f.loop(whole, step=side) as j:
            squares = []
            for half in range(0, lanes, side):
                corner = source + j + by_co * half
                rows = [read(f, dtype, corner + by_co * i, side) for i in range(side)]
                for row in rows:
                    broken.set(f.fma(row, f.zero(real, side), broken.get()))
                squares.append(transpose(f, rows))
            for columns in zip(*squares, strict=True):
                for n, column in enumerate(columns):
                    to.put(at.get() + n * side, column)
                advance()
        _note_vector(f, finite, broken)
        left = Variable(f, f.constant(real, 0.0))
        with f.loop(length, start=whole) as j:
            for lane in range(lanes):
                value = read(f, dtype, source + j + by_co * lane)
                left.set(f.fma(value, f.constant(real, 0.0), left.get()))
                to[at.get() + lane] = value
            advance()
        note(f, finite, left)
        return f.fn


def _note_vector(f: Function, finite: Pointer, broken: Variable) -> None:
    """As konv.kernels.pack.note, for sums in the lanes of a vector."""
    lanes, sums = broken.get().lanes, f.array(broken.type.element, broken.get().lanes)
    sums.put(0, broken.get())
    total = Variable(f, f.constant(sums.element, 0.0))
    with f.loop(lanes) as lane:
        total.set(total.get() + sums[lane])
    note(f, finite, total)
