"""Weights of a transposed layer packed by cells (konv.kernels.subpixel.grid): the arguments and the
layout of konv.kernels.block_weights, with columns for output channels.

    per group and block of columns: [tap of a cell][ci][column], then the bias of every column

Where the kernel is no multiple of the stride, some columns have no such tap. A row more for each
tap says so, [tap of a cell][ci + 1][column]: all bits set for those that have it, none for others.

A block's columns find their weights by a table of where each has its first tap, so that no column
is divided into channel and sub-pixel twice.
"""

from __future__ import annotations

from contextlib import nullcontext
from itertools import product
from typing import Any

from konv.kernels.pack import HEADER, Arguments, emit_pack, note
from konv.kernels.subpixel.grid import Grid
from konv.kernels.words import AXES
from konv.llvm import (
    I64,
    INTEGER,
    REAL,
    SIZE,
    Function,
    Module,
    Pointer,
    Value,
    Variable,
)


class _Block:
    """A block of columns while it is packed: tables of its columns, on the stack."""

    def __init__(self, f: Function, grid: Grid, a: dict[str, Any], width: int) -> None:
        self.f, self.grid, self.a = f, grid, a
        self.at = f.array(I64, width)  # where the first tap of a column lies from its group's
        self.first = [f.array(I64, width) for _ in AXES]  # the number of that tap on each axis
        self.wide = self.count = f.integer(0)  # columns of the block, and those that are real
        self.broken = Variable(f, f.constant(a["weights"].element, 0.0))

    def choose(self, k0: Value, count: Value) -> None:
        """Fill the tables for `count` columns from k0 on."""
        grid = self.grid
        with self.f.loop(count) as k:
            channel, subs = divide(grid, k0 + k, self.a["co"])
            taps = [first - sub for first, sub in zip(grid.first, subs, strict=True)]
            for table, tap in zip(self.first, taps, strict=True):
                table[k] = tap
            self.at[k] = channel * self.a["by_co"] + flat(grid, taps) * self.a["by_tap"]

    def put_tap(self, apart: tuple[int, ...], c: Value, group: Pointer, row: Pointer) -> None:
        """The weights of one channel at the tap so far apart from the first, for those columns that
        have it.
        """
        f, a = self.f, self.a
        line = group + (c * a["by_ci"] + a["by_tap"] * flat(self.grid, apart))
        with f.loop(self.count) as k:
            if self.grid.mixed:
                row[k] = 0.0
            with f.when(self._has(k, apart)) if self.grid.mixed else nullcontext():
                value = line[self.at[k]]
                zero = f.constant(value.type, 0.0)
                self.broken.set(f.fma(value, zero, self.broken.get()))
                row[k] = value
        with f.loop(self.wide, start=self.count) as k:
            row[k] = 0.0

    def put_mask(self, apart: tuple[int, ...], row: Pointer) -> None:
        """All bits set for those columns that have the tap."""
        f, bits = self.f, row.cast(INTEGER[row.element])
        with f.loop(self.wide) as k:
            bits[k] = 0
        with f.loop(self.count) as k, f.when(self._has(k, apart)):
            bits[k] = -1

    def _has(self, k: Value, apart: tuple[int, ...]) -> Value:
        kernel = self.grid.kernel
        found = self.first[0][k] + apart[0] < kernel[0]
        for axis in AXES[1:]:
            found = found & (self.first[axis][k] + apart[axis] < kernel[axis])
        return found


def emit_cell_weights(module: Module, dtype: str, nr: int, grid: Grid) -> None:
    """Add `pack` for blocks of nr vectors of columns."""
    real, lanes = REAL[dtype], module.target.lanes(dtype)
    width, head = nr * lanes, HEADER // SIZE[real]

    def rounded(a: Arguments) -> tuple[Value, Value, Value]:
        """Columns of a group, in whole vectors, in blocks."""
        columns = a["co"] * grid.subpixels
        padded = (columns + (lanes - 1)) // lanes * lanes
        return columns, padded, (padded + (width - 1)) // width

    def units(f: Function, a: Arguments) -> Value:  # noqa: ARG001 - as emit_pack asks
        groups: Value = a["groups"]
        return groups * rounded(a)[2]

    def body(f: Function, a: Arguments, unit: Value) -> None:
        columns, padded, blocks = rounded(a)
        block, rows = _Block(f, grid, a, width), a["ci"] + int(grid.mixed)
        g, k0 = unit // blocks, unit % blocks * width
        block.wide = f.least(padded - k0, width)
        block.count = f.least(columns - k0, block.wide)
        block.choose(k0, block.count)
        group = a["weights"] + g * a["by_group"]
        to = a["packed"] + (g * padded + k0) * rows * grid.taps + head
        # Channels outermost, for the taps of one lie together in the weight.
        with f.loop(a["ci"]) as c:
            for t, apart in enumerate(taps_of(grid)):
                block.put_tap(apart, c, group, to + (rows * t + c) * block.wide)
        if grid.mixed:
            for t, apart in enumerate(taps_of(grid)):
                block.put_mask(apart, to + (rows * t + a["ci"]) * block.wide)
        biases = a["packed"] + a["groups"] * padded * rows * grid.taps + g * padded + head
        with f.loop(block.wide) as k:
            biases[k0 + k] = 0.0
            with f.when(a["bias"].address().differs(0) & (k0 + k < columns)):
                channel, _ = divide(grid, k0 + k, a["co"])
                biases[k0 + k] = a["bias"][g * a["co"] + channel] + 0.0
        note(f, a["packed"], block.broken)

    emit_pack(module, dtype, units, body)


def taps_of(grid: Grid) -> list[tuple[int, ...]]:
    """How far the taps of a column are apart from its first, on each axis."""
    return [
        tuple(t * s for t, s in zip(ts, grid.steps, strict=True))
        for ts in product(*map(range, grid.reach))
    ]


def flat(grid: Grid, at: Any) -> Any:
    """The number of a tap in the kernel by its numbers on the axes."""
    return (at[0] * grid.kernel[1] + at[1]) * grid.kernel[2] + at[2]


def divide(grid: Grid, column: Value, co: Value) -> tuple[Value, list[Value]]:
    """The channel and the sub-pixel on each axis of a column of a group with `co` channels."""
    if grid.subpixels_first:
        channel, rest = column // grid.subpixels, column % grid.subpixels
    else:
        channel, rest = column % co, column // co
    _, h, w = grid.steps
    return channel, [rest // (h * w), rest // w % h, rest % w]
