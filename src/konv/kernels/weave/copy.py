"""Runs of a row of cells from scratch to the output (konv.kernels.weave): one by one at either end,
where a cell may be cropped, in vectors between; by squares where runs are of 8 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from konv.kernels.epilogue import activate, add_residual, finish
from konv.kernels.packing import transpose
from konv.kernels.stored import write
from konv.llvm import F64, I64, REAL, Function, Module, Pointer, Routine, Value, pointer_to
from konv.plan import Plan
from konv.target import BYTES

PAIR = 8  # bytes of two floats
COPY = ("cells", "step", "count", "begin", "end", "virtual")


def emit_copy(module: Module, plan: Plan, width: int, constant: int) -> Routine:
    """copy(source, line, cells, step, count, begin, end, virtual): `count` numbers of each cell,
    `width` apart, go to places `step` apart; with a residual, that is added on the way, and its
    distance one argument more.

    Number i of cell w is the output `begin` + w * `virtual` + i of its row; only those from 0 to
    `end` are written.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    names = (*COPY, "residual") if plan.residual else COPY
    params = [("source", pointer_to(real)), ("line", pointer_to(real)), *((n, I64) for n in names)]
    with module.function("copy", params, inline=False, plain=True) as (f, args):
        source, line, cells, step, count, begin, end, virtual, *residual = args
        out = _Out(f, plan, residual)
        length = f.integer(constant) if constant else count
        last = cells - 1
        first = f.select(begin < 0, f.integer(1), 0)
        stop = f.select(begin + last * virtual + length > end, last, cells)

        def cropped(w: Value) -> None:
            low = begin + w * virtual
            with f.loop(f.least(length, end - low), start=f.most(0 - low, f.integer(0))) as i:
                out.put(line + (w * step + i), source[w * width + i])

        with f.when(first > 0):
            cropped(f.integer(0))
        if constant:
            with f.loop(stop, start=first) as w:
                _move(out, source + w * width, line + w * step, constant, lanes)
        else:
            _copy_any(out, source, line, (first, stop), (width, step), count, lanes)
        with f.when((stop < cells) & (stop >= first)):
            cropped(last)
        return f.fn


@dataclass(frozen=True, slots=True)
class _Out:
    """Where numbers become results. Without a residual, tiles have activated what they put into the
    block.
    """

    f: Function
    plan: Plan
    residual: list[Value]  # its distance, if there is one

    def put(self, place: Pointer, value: Value) -> None:
        """Finish and store a number or a vector."""
        if self.plan.residual:
            value = finish(self.f, self.plan, value, place, self.residual[0])
        write(self.f, self.plan.dtype, place, value)

    def added(self, place: Pointer, value: Value) -> Value:
        """With the residual, not to be stored yet."""
        if not self.plan.residual:
            return value
        return add_residual(self.f, self.plan, value, place, self.residual[0])

    def put_added(self, place: Pointer, value: Value) -> None:
        """Store what `added` gave."""
        place.put(0, activate(self.f, self.plan, value) if self.plan.residual else value)


def squared(plan: Plan, run: int) -> bool:
    """Runs of 8 bytes go out by squares, as many runs as cells, instead of by a load and a store
    for two numbers.
    """
    return run * BYTES[plan.dtype] == PAIR


def emit_squares(module: Module, plan: Plan, width: int, side: int) -> Routine:
    """squares(source, line ... line, cells, step, begin, end, virtual): as `copy`, for `side` runs
    that follow each other in scratch, each with a line of its own.
    """
    real, run = REAL[plan.dtype], PAIR // BYTES[plan.dtype]
    lines = [(f"line{i}", pointer_to(real)) for i in range(side)]
    names = [name for name in COPY if name != "count"] + ["residual"] * plan.residual
    params = [("source", pointer_to(real)), *lines, *((n, I64) for n in names)]
    with module.function("squares", params, inline=False) as (f, args):
        source, *rest = args
        to, (cells, step, begin, end, virtual, *residual) = rest[:side], rest[side:]
        out, last = _Out(f, plan, residual), cells - 1
        first = f.select(begin < 0, f.integer(1), 0)
        stop = f.select(begin + last * virtual + run > end, last, cells)

        def single(w: Value) -> None:
            low = begin + w * virtual
            with f.loop(f.least(end - low, run), start=f.most(0 - low, f.integer(0))) as i:
                for r, line in enumerate(to):
                    out.put(line + (w * step + i), source[w * width + i + r * run])

        with f.choose(stop - first >= side) as (yes, no):
            with yes:
                with f.when(first > 0):
                    single(f.integer(0))
                # No place is finished twice: with a residual, the last square does not overlap.
                whole = first + ((stop - first) & -side) if plan.residual else stop
                with f.loop(whole, start=first, step=side) as w:
                    # The last overlaps the one before it rather than fall short.
                    at = f.least(w, stop - side)
                    rows = [source.vector((at + i) * width, side * run) for i in range(side)]
                    wide = [f.regard(row, F64, side) for row in rows]
                    for line, column in zip(to, transpose(f, wide), strict=True):
                        out.put(line + at * step, f.regard(column, real, side * run))
                with f.loop(cells, start=whole) as w:
                    single(w)
            with no, f.loop(cells) as w:
                single(w)
        return f.fn


def _move(out: _Out, source: Pointer, to: Pointer, count: int, lanes: int) -> None:
    """A known number of numbers, in as few pieces as possible."""
    at, size = 0, lanes
    while at < count:
        while size > count - at:
            size //= 2
        out.put(to + at, source.vector(at, size))
        at += size


def _copy_any(
    out: _Out,
    source: Pointer,
    line: Pointer,
    cells: tuple[Value, Value],
    steps: tuple[int, Value],
    count: Value,
    lanes: int,
) -> None:
    """Any number of numbers a cell: in vectors as wide as it allows. The last one overlaps: its
    residual is read before the one before it is written.
    """
    f = out.f
    with f.choose(count >= lanes) as (wide, narrow):
        with wide, f.loop(cells[1], start=cells[0]) as w:
            here, to = source + w * steps[0], line + w * steps[1]
            at = count - lanes
            last = out.added(to + at, here.vector(at, lanes))
            with f.loop(at, step=lanes) as i:
                out.put(to + i, here.vector(i, lanes))
            out.put_added(to + at, last)
        with narrow:
            if lanes > 1:
                _copy_any(out, source, line, cells, steps, count, lanes // 2)
