"""The register tile of a weight gradient: mr rows x nr vectors of output channels, summed over the
outputs of a box.

    for p in outputs of the box:                           THE LOOP
        load nr vectors of dy[p]                           shared by all rows
        for m in mr rows: broadcast x[row m][place of p]; nr multiply-adds

A row is a channel of the strip, moved on by a tap's place: stride, padding and dilation are in the
table of places, one number an output, which all rows share. As in konv.kernels.microtile, bound by
multiply-adds if mr * nr >= 2 (mr + nr).
"""

from __future__ import annotations

from konv.llvm import I64, REAL, Function, Module, Pointer, Routine, Value, Variable, pointer_to
from konv.plan import Plan

UNROLL = 4  # outputs a trip


def emit_tile(module: Module, plan: Plan, nr: int) -> Routine:
    """tile(rows, places, count, panel, sums): add the products of a box to mr x nr vectors."""
    real, lanes, mr = REAL[plan.dtype], module.target.lanes(plan.dtype), plan.pixels
    params = [("rows", pointer_to(I64)), ("places", pointer_to(I64)), ("count", I64)]
    params += [("panel", pointer_to(real)), ("sums", pointer_to(real))]
    with module.function(f"tile_{mr}x{nr}", params, inline=False) as (f, args):
        listed, places, count, panel, out = args
        rows = [listed.pointer(m, real) for m in range(mr)]
        sums = [[Variable(f, f.zero(real, lanes)) for _ in range(nr)] for _ in range(mr)]
        whole = count & -UNROLL
        with f.loop(whole, step=UNROLL) as p:
            for u in range(UNROLL):
                _multiply_add(f, sums, rows, places[p + u], panel + (p + u) * (nr * lanes))
        with f.loop(count, start=whole) as p:
            _multiply_add(f, sums, rows, places[p], panel + p * (nr * lanes))
        for m, row in enumerate(sums):
            for n, total in enumerate(row):
                at = (m * nr + n) * lanes
                out.put(at, out.vector(at, lanes) + total.get())
        return f.fn


def _multiply_add(
    f: Function, sums: list[list[Variable]], rows: list[Pointer], place: Value, panel: Pointer
) -> None:
    lanes = sums[0][0].type.count
    vectors = [panel.vector(n * lanes, lanes) for n in range(len(sums[0]))]
    for row, totals in zip(rows, sums, strict=True):
        x = f.splat(row[place], lanes)
        for total, vector in zip(totals, vectors, strict=True):
            total.set(f.fma(x, vector, total.get()))
