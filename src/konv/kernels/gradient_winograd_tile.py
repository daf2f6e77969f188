"""The products of a box of tiles: at each point mr input channels x nr vectors of output channels,
summed over the tiles.

    for t in tiles of the box:                             THE LOOP
        load nr vectors of D[t]                            shared by all rows
        for m in mr channels: broadcast V[t][m]; nr multiply-adds
"""

from __future__ import annotations

from konv.kernels.gradient_winograd_parts import Pair, block_parts, call_by_width
from konv.kernels.gradient_words import RECORDS
from konv.kernels.words import part_function
from konv.llvm import F32, I64, Function, Module, Pointer, Routine, Value, Variable, pointer_to
from konv.plan import Plan

UNROLL = 4  # tiles a trip


def emit_products(module: Module, plan: Plan, both: Pair) -> Routine:
    """products(job, unit): all blocks, all points, all channels of the unit."""
    lanes, points = module.target.lanes(plan.dtype), both[0].n * both[1].n
    widths = dict.fromkeys((plan.vectors, plan.tail or plan.vectors))
    routines = {nr: _emit_point(module, plan, nr) for nr in widths}
    with part_function(module, "products", records=RECORDS) as (f, piece, _):
        job, unit = piece.job, piece.unit
        v, d = piece.part("at_v", F32), piece.part("at_d", F32)
        with f.loop(unit["block1"], start=unit["block0"]) as block:
            products, _ = block_parts(piece, plan, both, lanes, block)
            vector = (block - unit["block0"]) * plan.vectors
            wide = f.select(block < job["blocks"], f.integer(plan.vectors), job["tail"]) * lanes
            with f.loop(points) as point:
                arguments = [
                    v + point * job["v_point"],
                    d + (vector * job["v_vector"] + point * job["v_point"]),
                    job["v_vector"], unit["pixels"], (unit["channels"] + (lanes - 1)) & -lanes,
                    products + point * job["wide_ci"] * wide,
                ]  # fmt: skip
                call_by_width(f, plan, piece, block, routines, arguments)
        return f.fn


def _emit_point(module: Module, plan: Plan, nr: int) -> Routine:
    """point(v, d, vector, tiles, rows, products): add to the products of one point; `rows`: of its
    input channels, whole vectors; `vector`: numbers from one vector of channels to the next.
    """
    lanes, mr = module.target.lanes("float32"), plan.pixels
    params = [("v", pointer_to(F32)), ("d", pointer_to(F32))]
    params += [(label, I64) for label in ("vector", "tiles", "rows")]
    with module.function(
        f"point_{nr}", [*params, ("products", pointer_to(F32))], inline=False
    ) as (f, (v, d, vector, tiles, rows, products)):
        panels, whole = [d + vector * n for n in range(nr)], tiles & -UNROLL
        with f.loop(rows, step=lanes) as row, f.loop(lanes, step=mr) as lane:
            numbers = v + row // lanes * vector + lane
            out = products + (row + lane) * (nr * lanes)
            sums = [[f.var_of(f.zero(F32, lanes)) for _ in range(nr)] for _ in range(mr)]
            with f.loop(whole, step=UNROLL) as t:
                for u in range(UNROLL):
                    _multiply_add(f, sums, numbers, panels, (t + u) * lanes)
            with f.loop(tiles, start=whole) as t:
                _multiply_add(f, sums, numbers, panels, t * lanes)
            for m, line in enumerate(sums):
                for n, total in enumerate(line):
                    at = (m * nr + n) * lanes
                    out.put(at, out.vector(at, lanes) + total.get())
        return f.fn


def _multiply_add(
    f: Function, sums: list[list[Variable]], numbers: Pointer, panels: list[Pointer], at: Value
) -> None:
    lanes = sums[0][0].type.count
    vectors = [panel.vector(at, lanes) for panel in panels]
    for m, totals in enumerate(sums):
        x = f.splat(numbers[at + m], lanes)
        for total, vector in zip(totals, vectors, strict=True):
            total.set(f.fma(x, vector, total.get()))
