"""Columns out: a block of cells by columns in scratch becomes rows of the output
(konv.kernels.subpixel_grid).

    block [cell][column] in scratch  ->  output, in runs of columns that are neighbours there:
                                         the sub-pixels of a cell on the last axis (contiguous),
                                         and the channels of all of these (channels-last)

Along a row of cells run follows run without a gap, so output lines are completed while they are in
the first-level cache. Only the first and the last cell of a row may be cropped: there, numbers are
copied one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import and_

from konv.kernels.epilogue import activate, add_residual, finish
from konv.kernels.packing import transpose
from konv.kernels.stored import write
from konv.kernels.subpixel_grid import Grid
from konv.kernels.subpixel_weights import divide
from konv.kernels.words import Words, part_function
from konv.llvm import (
    F64,
    I64,
    REAL,
    Function,
    Module,
    Pointer,
    Routine,
    Value,
    Variable,
    pointer_to,
)
from konv.plan import Plan
from konv.target import BYTES

PAIR = 8  # bytes of two floats


@dataclass(frozen=True, slots=True)
class _Odometer:
    """The column at hand: its channel in the group and its sub-pixel on each axis."""

    channel: Variable
    subs: tuple[Variable, ...]


@dataclass(frozen=True, slots=True)
class _Run:
    """Columns that are neighbours in the output: where they begin in the block, how many; channel
    and sub-pixels of the first.
    """

    at: Value
    count: Value
    channel: Value
    subs: list[Value]


def emit_weave(module: Module, plan: Plan, grid: Grid, width: int) -> Routine:
    """output(job, unit, channel, valid): `valid` columns from `channel` on, counted over all
    groups, of a block that is `width` columns a cell.
    """
    real = REAL[plan.dtype]
    run = _constant_run(grid, width)
    copy = emit_copy(module, plan, width, run)
    side = module.target.vector_bytes // PAIR
    squares = _emit_copy_squares(module, plan, width, side) if _squared(plan, run) else None
    with part_function(module, "output", ("channel", "valid")) as (f, piece, (column, valid)):
        job, unit = piece.job, piece.unit
        channels, block = job["channels"], piece.part("at_block", real)
        group = column // job["co"]
        first, subs = divide(grid, column - group * job["co"], channels)
        y = unit.pointer("y", real) + group * channels * job["y_channel"]
        # Channels of all sub-pixels of the last axis are neighbours if pixels are.
        together = job["y_stride", 2].equals(channels)
        cells, w0 = unit["length", 2], corner_of(job, unit, 2, 0)
        residual = [unit["residual"]] if plan.residual else []
        at, here = f.var(0), _Odometer(f.var(first), tuple(f.var(sub) for sub in subs))

        def rows(runs: list[_Run]) -> None:
            """Some runs of all cells of the unit: a row of cells after the other."""
            with f.loop(unit["length", 0]) as d, f.loop(unit["length", 1]) as h:
                corners = (corner_of(job, unit, 0, d), corner_of(job, unit, 1, h), w0)
                source = block + (d * unit["length", 1] + h) * cells * width
                found = [_place(f, grid, job, y, r, channels, corners) for r in runs]
                step = job["y_stride", 2] * grid.steps[2]

                def alone() -> None:
                    for r, (inside, line, crop) in zip(runs, found, strict=True):
                        with f.when(inside):
                            arguments = [source + r.at, line, cells, step, r.count, *crop]
                            f.call(copy, [*arguments, *residual])

                if len(runs) == 1 or squares is None:
                    alone()
                    return
                with f.choose(reduce(and_, (inside for inside, _, _ in found))) as (yes, no):
                    with yes:
                        lines, crop = [line for _, line, _ in found], found[0][2]
                        arguments = [source + runs[0].at, *lines, cells, step, *crop]
                        f.call(squares, [*arguments, *residual])
                    with no:
                        alone()

        def next_run() -> _Run:
            count = _run(f, grid, here, channels, together, valid - at.get(), run)
            found = _Run(at.get(), count, here.channel.get(), [sub.get() for sub in here.subs])
            at.add(count)
            _advance(f, grid, here, channels, count)
            return found

        if squares is not None:
            with f.loop(valid // (side * run)):
                rows([next_run() for _ in range(side)])
        with f.forever() as done:
            f.leave_if(done, at.get() >= valid)
            rows([next_run()])
        return f.fn


def _place(
    f: Function,
    grid: Grid,
    job: Words,
    y: Pointer,
    run: _Run,
    channels: Value,
    corners: tuple[Value, Value, Value],
) -> tuple[Value, Pointer, list[Value]]:
    """Whether the rows of the run at hand are in the output, where it begins there, and its crop:
    begin, end and what a cell counts, as `copy` takes them.
    """
    rows = [corner + sub for corner, sub in zip(corners, run.subs, strict=True)]
    inside = (rows[0] >= 0) & (rows[0] < job["outputs", 0])
    inside = inside & (rows[1] >= 0) & (rows[1] < job["outputs", 1])
    line = y + (rows[0] * job["y_stride", 0] + rows[1] * job["y_stride", 1])
    line = line + rows[2] * job["y_stride", 2]
    step = f.integer(grid.steps[2])
    if grid.subpixels_first:
        line = line + run.channel * job["y_channel"]
        return inside, line, [rows[2], job["outputs", 2], step]
    # Crops are counted in numbers: those of a pixel count as `channels`.
    begin = rows[2] * channels + run.channel
    crop = [begin, job["outputs", 2] * channels, step * channels]
    return inside, line + run.channel, crop


def corner_of(job: Words, unit: Words, axis: int, j: Value | int) -> Value:
    """The output at sub-pixel 0 of cell j of the unit, on an axis."""
    return (unit["j", axis] + j) * job["step", axis] + unit["first", axis]


def _constant_run(grid: Grid, width: int) -> int:
    """Columns of every run, if all have as many; 0 if not."""
    step = grid.steps[2]
    if not grid.subpixels_first:
        return 0
    return step if width % step == 0 else width if step % width == 0 else 0


def _run(
    f: Function,
    grid: Grid,
    here: _Odometer,
    channels: Value,
    together: Value,
    left: Value,
    constant: int,
) -> Value:
    """Columns from the one at hand that are neighbours in the output."""
    if constant:
        return f.integer(constant)
    rest = f.integer(grid.steps[2]) - here.subs[2].get()
    if not grid.subpixels_first:
        rest = f.select(together, rest * channels, channels) - here.channel.get()
    return f.least(rest, left)


def _advance(f: Function, grid: Grid, here: _Odometer, channels: Value, count: Value) -> None:
    """Move the column at hand to the next run: like the wheels of an odometer."""

    def carry(wheel: Variable, size: Value | int, following: list[Variable]) -> None:
        with f.when(wheel.get() >= size):
            if following:
                following[0].add(1)
            wheel.set(0)

    wheels = [here.subs[2], here.subs[1], here.subs[0]]
    if grid.subpixels_first:
        here.subs[2].add(count)
        wheels.append(here.channel)
    else:
        whole = here.channel.get() + count
        here.subs[2].add(whole // channels)
        here.channel.set(whole % channels)
    for i, size in enumerate(grid.steps[::-1]):
        carry(wheels[i], size, wheels[i + 1 :])


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
    with module.function("copy", params, inline=False) as (f, args):
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


def _squared(plan: Plan, run: int) -> bool:
    """Runs of 8 bytes go out by squares, as many runs as cells, instead of by a load and a store
    for two numbers.
    """
    return run * BYTES[plan.dtype] == PAIR


def _emit_copy_squares(module: Module, plan: Plan, width: int, side: int) -> Routine:
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
