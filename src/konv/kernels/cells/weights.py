"""U of konv.kernels.cells: weights of cells (konv.kernels.subpixel.grid), transformed, in the
layout of konv.kernels.winograd.weights with columns for output channels.

A column's taps lie a stride apart in the kernel of its channel, the first where the sub-pixel says.
"""

from __future__ import annotations

from konv.kernels.pack import HEADER, Arguments, emit_pack
from konv.kernels.subpixel.grid import Grid
from konv.kernels.subpixel.weights import divide, flat, taps_of
from konv.kernels.winograd.transforms import Pair
from konv.kernels.winograd.weights import PAST, counted, emit_filters, emit_leave
from konv.llvm import F32, I64, SIZE, Function, Module, Value

# Input channels whose points are gathered near by, as in konv.kernels.winograd.weights.
TOGETHER = 8


def emit_cell_filters(module: Module, transforms: Pair, nr: int, tail: int, grid: Grid) -> None:
    """Add `pack`: a unit is a block of columns, of nr vectors or, at the end, of `tail`."""
    lanes, head = module.target.lanes("float32"), HEADER // SIZE[F32]
    taps, points = taps_of(grid), transforms[0].n * transforms[1].n
    filters, run = emit_filters(module, transforms), TOGETHER * nr * lanes
    leave = emit_leave(module, points, run)

    def sizes(f: Function, a: Arguments) -> tuple[Value, Value, Value, Value]:
        return counted(f, a["co"] * grid.subpixels // lanes, nr, tail)

    def units(f: Function, a: Arguments) -> Value:
        vectors, some, full, narrow = sizes(f, a)
        return vectors // some * (full + narrow)

    def body(f: Function, a: Arguments, unit: Value) -> None:
        a["packed"].cast(I64)[0] = 0  # nothing here leaves out taps, whatever the weights
        vectors, some, full, narrow = sizes(f, a)
        ci, blocks = a["ci"], full + narrow
        numbers, at = f.array(F32, len(taps) * lanes), f.array(I64, nr * lanes)
        near = f.array(F32, points * run)
        block = unit % blocks
        wide = f.select(block < full, f.integer(nr), tail)
        first = unit // blocks * some + block * nr - f.most(block - full, 0) * (nr - tail)
        out = a["packed"] + first * ci * (points * lanes) + head
        bias = a["packed"] + vectors * ci * (points * lanes) + first * lanes + head
        with f.loop(wide * lanes) as k:
            channel, subs = divide(grid, first * lanes + k, a["co"])
            begin = [e - sub for e, sub in zip(grid.first, subs, strict=True)]
            at[k] = channel * a["by_co"] + flat(grid, begin) * a["by_tap"]
            bias[k] = 0.0
            with f.when(a["bias"].address().differs(0)):
                bias[k] = a["bias"][channel] + 0.0
        past = f.select(vectors * ci * (points * lanes * SIZE[F32]) > PAST, f.integer(1), 0)
        with f.loop(ci, step=TOGETHER) as c:
            count = f.least(ci - c, TOGETHER)
            with f.loop(count) as i, f.loop(wide) as n:
                for t, apart in enumerate(taps):
                    line = a["weights"] + ((c + i) * a["by_ci"] + a["by_tap"] * flat(grid, apart))
                    with f.loop(lanes) as lane:
                        numbers[lane + t * lanes] = line[at[n * lanes + lane]]
                f.call(filters, [numbers, near + (i * wide + n) * lanes, f.integer(run)])
            to = out + c * wide * lanes
            f.call(leave, [near, to, ci * wide * lanes, count * wide * lanes, past])
        f.fence()

    emit_pack(module, "float32", units, body)
