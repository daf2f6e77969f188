"""Columns out: a block of cells by columns in scratch becomes rows of the output
(konv.kernels.subpixel.grid).

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

from konv.kernels.subpixel.grid import Grid
from konv.kernels.subpixel.weights import divide
from konv.kernels.weave.copy import PAIR, emit_copy, emit_squares, squared
from konv.kernels.words import Words, part_function
from konv.llvm import REAL, Function, Module, Pointer, Routine, Value, Variable
from konv.plan import Plan


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
    squares = emit_squares(module, plan, width, side) if squared(plan, run) else None
    with part_function(module, "output", ("channel", "valid"), plain=True) as (
        f,
        piece,
        (column, valid),
    ):
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
