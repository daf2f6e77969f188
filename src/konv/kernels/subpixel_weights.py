"""Weights of a transposed layer packed by cells (konv.kernels.subpixel_grid): the arguments and the
layout of konv.kernels.packing.emit_weights, with columns for output channels.

    per group and block of columns: [tap of a cell][ci][column], then the bias of every column

A block's columns find their weights by a table of where each has its first tap, so that no column
is divided into channel and sub-pixel twice.
"""

from __future__ import annotations

from itertools import product
from typing import Any

from konv.kernels.packing import HEADER, WEIGHTS
from konv.kernels.subpixel_grid import Grid
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


def emit_cell_weights(module: Module, dtype: str, nr: int, grid: Grid) -> Routine:
    """pack(weights, bias, packed, ...): as konv.kernels.packing.emit_weights takes them."""
    real, lanes = REAL[dtype], module.target.lanes(dtype)
    reals = ("weights", "bias", "packed")
    params = [(p, pointer_to(real) if p in reals else I64) for p in WEIGHTS]
    with module.function("pack", params, exported=True) as (f, args):
        a = dict(zip(WEIGHTS, args, strict=True))
        columns, width = a["co"] * grid.subpixels, nr * lanes
        padded = (columns + (lanes - 1)) // lanes * lanes
        first = f.array(I64, width)
        out = f.var(HEADER // SIZE[real])
        broken = Variable(f, f.constant(real, 0.0))
        with f.loop(a["groups"]) as g, f.loop(padded, step=width) as k0:
            wide = f.least(padded - k0, width)
            real_ones = f.least(columns - k0, wide)
            with f.loop(real_ones) as k:
                channel, subs = divide(f, grid, k0 + k, a["co"])
                first[k] = channel * a["by_co"] + _tap(grid, subs) * a["by_tap"]
            source = a["weights"] + g * a["by_group"]
            _emit_block(f, grid, a, source, first, a["packed"] + out.get(), wide, real_ones, broken)
            out.add(wide * a["ci"] * len(_taps(grid)))
        with f.loop(a["groups"]) as g, f.loop(padded) as k:
            to = a["packed"] + out.get()
            to[0] = 0.0
            with f.when(a["bias"].address().differs(0) & (k < columns)):
                channel, _ = divide(f, grid, k, a["co"])
                to[0] = a["bias"][g * a["co"] + channel] + 0.0
            out.add(1)
        finite = broken.get().equals(0.0)
        a["packed"].cast(I64)[0] = f.select(finite, f.integer(1), 0)
        return f.fn


def _emit_block(
    f: Function,
    grid: Grid,
    a: dict[str, Any],
    source: Pointer,
    first: Pointer,
    to: Pointer,
    wide: Value,
    real_ones: Value,
    broken: Variable,
) -> None:
    """One block: channels outermost, for the taps of one lie together in the weight."""
    with f.loop(a["ci"]) as c:
        for t, apart in enumerate(_taps(grid)):
            line = source + (c * a["by_ci"] + a["by_tap"] * apart)
            row = to + (a["ci"] * t + c) * wide
            with f.loop(real_ones) as k:
                value = line[first[k]]
                broken.set(f.fma(value, f.constant(value.type, 0.0), broken.get()))
                row[k] = value
            with f.loop(wide, start=real_ones) as k:
                row[k] = 0.0


def _taps(grid: Grid) -> list[int]:
    """Taps of the kernel from the first of a column to each of its others."""
    return [
        _flat(grid, [t * s for t, s in zip(ts, grid.steps, strict=True)])
        for ts in product(*map(range, grid.reach))
    ]


def _tap(grid: Grid, subs: list[Value]) -> Any:
    """The number of a column's first tap in the kernel, by its sub-pixel."""
    return _flat(grid, [e - sub for e, sub in zip(grid.first, subs, strict=True)])


def _flat(grid: Grid, at: list[Any]) -> Any:
    return (at[0] * grid.kernel[1] + at[1]) * grid.kernel[2] + at[2]


def divide(f: Function, grid: Grid, column: Value, co: Value) -> tuple[Value, list[Value]]:
    """The channel and the sub-pixel on each axis of a column of a group with `co` channels."""
    if grid.subpixels_first:
        channel, rest = column // grid.subpixels, column % grid.subpixels
    else:
        channel, rest = column % co, column // co
    d, h, w = grid.steps
    return channel, [rest // (h * w), rest // w % h, rest % w] if d * h * w > 1 else [
        f.integer(0)
    ] * 3
