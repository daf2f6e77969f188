"""The second step of konv.kernels.gradient.winograd: at each point the product of V and D, mr input
channels x nr vectors of output channels at once, summed over tiles.

    for some tiles:                                        few enough for the first-level cache
        for block of nr vectors: for mr input channels:
            for t in tiles:                                THE LOOP
                load nr vectors of D[t]                    shared by all rows
                for m in mr channels: broadcast V[t][m]; nr multiply-adds
"""

from __future__ import annotations

from konv.kernels.gradient.records import RECORDS
from konv.kernels.gradient.winograd.taps import (
    Widths,
    block_of_u,
    call_by_width,
    emit_own_channels,
)
from konv.kernels.winograd.transforms import Pair
from konv.kernels.words import Piece, part_function
from konv.llvm import F32, I64, Function, Module, Pointer, Routine, Value, Variable, pointer_to
from konv.plan import Plan


def unroll(lanes: int) -> int:
    """Tiles a trip: half of what a vector of V has there is a line of cache, which is asked for;
    with more than 2 of 16 lanes LLVM loads D so early that registers do not suffice.
    """
    return max(2, min(4, 32 // lanes))


def emit_products(module: Module, plan: Plan, products: Widths) -> Routine:
    """products(job, unit, number, shared): some input by some output channels of one point."""
    lanes, labels = module.target.lanes(plan.dtype), ("number", "shared")
    with part_function(module, "products", labels, writes=True, cold=True, records=RECORDS) as (
        f,
        piece,
        a,
    ):
        (number, shared), job, unit = a, piece.job, piece.unit
        range_ci, rest = number % job["ranges_ci"], number // job["ranges_ci"]
        range_co, rest = rest % job["ranges_co"], rest // job["ranges_co"]
        unit["group"], point = rest % job["groups"], rest // job["groups"]
        c = range_ci * job["ci_each"]
        channels = f.least(job["ci_each"], job["vectors_ci"] * lanes - c)
        begin = range_co * job["blocks_each"]
        blocks = (job["vectors_co"] + (plan.vectors - 1)) // plan.vectors
        end = f.least(begin + job["blocks_each"], blocks)
        v, d = _places(piece, lanes, shared, c, point)
        u = (shared + job["at_u"]).to_pointer(F32) + point * job["u_point"]
        with (
            f.loop(job["tiles"], step=job["piece"]) as tile,
            f.loop(end, start=begin) as block,
        ):
            nr = f.least(job["vectors_co"] - block * plan.vectors, f.integer(plan.vectors))
            fresh = f.select(tile.equals(0), job["fresh"], 0)
            arguments = [
                v + tile * lanes, d + (block * plan.vectors * job["vector"] + tile * lanes),
                job["vector"], f.least(job["piece"], job["tiles"] - tile), channels,
                u + (block_of_u(piece, plan, lanes, block) + c * nr * lanes), fresh,
            ]  # fmt: skip
            call_by_width(f, plan, piece, job["chunk"] + block, products, arguments)
        return f.fn


def emit_both(
    module: Module, plan: Plan, both: Pair, products: Widths, taps: Widths, leave: Routine
) -> Routine:
    """both(job, unit, number, shared, weight): some input channels and a block of output channels
    at all points, and their G' U G into the weight.
    """
    lanes, points = module.target.lanes(plan.dtype), both[0].n * both[1].n
    labels = ("number", "shared", "weight")
    with part_function(module, "both", labels, writes=True, cold=True, records=RECORDS) as (
        f,
        piece,
        a,
    ):
        (number, shared, weight), job, unit = a, piece.job, piece.unit
        block = emit_own_channels(f, job, unit, number)
        channels, u = unit["channels"], piece.part("at_own", F32)
        rows = (channels + (lanes - 1)) & -lanes
        nr = f.least(job["vectors_co"] - block * plan.vectors, f.integer(plan.vectors))
        apart = rows * nr * lanes
        with f.loop(points) as point:
            v, d = _places(piece, lanes, shared, unit["channel"], point)
            d = d + block * plan.vectors * job["vector"]
            arguments = [v, d, job["vector"], job["tiles"], rows, u + point * apart, f.integer(1)]
            call_by_width(f, plan, piece, unit["block0"], products, arguments)
        arguments = [u, f.integer(0), channels, apart, piece.part("at_sums", F32)]
        call_by_width(f, plan, piece, unit["block0"], taps, arguments)
        f.call(leave, [job.base, unit.base, weight])
        return f.fn


def _places(
    piece: Piece, lanes: int, shared: Value, channel: Value, point: Value
) -> tuple[Pointer, Pointer]:
    """Where V of the unit's group begins at a point, from a channel on, and D."""
    job, unit = piece.job, piece.unit
    v, d = ((shared + job[at]).to_pointer(F32) for at in ("at_v", "at_d"))
    v = v + (unit["group"] * job["vectors_ci"] + channel // lanes) * job["vector"]
    d = d + unit["group"] * job["vectors_co"] * job["vector"]
    return v + point * job["v_point"], d + point * job["d_point"]


def emit_block(module: Module, plan: Plan, nr: int) -> Routine:
    """block(v, d, vector, tiles, rows, u, fresh): products of one point; `rows`: input channels,
    whole vectors; `vector`: numbers from one vector of channels to the next. Added to what is in u
    unless it is fresh.
    """
    lanes, mr = module.target.lanes("float32"), plan.pixels
    params = [("v", pointer_to(F32)), ("d", pointer_to(F32))]
    params += [(label, I64) for label in ("vector", "tiles", "rows")]
    params += [("u", pointer_to(F32)), ("fresh", I64)]
    with module.function(f"block_{nr}", params, inline=False) as (f, args):
        v, d, vector, tiles, rows, u, fresh = args
        panels, step = [d + vector * n for n in range(nr)], unroll(lanes)
        whole = tiles & -step
        coming = f.var((d + vector * nr).address())
        with f.loop(rows, step=lanes) as row, f.loop(lanes, step=mr) as lane:
            numbers = v + row // lanes * vector + lane
            # Half of the next vector's V, and some of the next block's D.
            next_v = v + (row // lanes + 1) * vector + lane * tiles
            next_d = coming.get()
            coming.set(next_d + tiles * 16)
            out = u + (row + lane) * (nr * lanes)
            sums = [[f.var_of(f.zero(F32, lanes)) for _ in range(nr)] for _ in range(mr)]
            with f.loop(whole, step=step) as t:
                f.prefetch(next_v + t * (lanes // 2))
                f.prefetch(next_d.to_pointer(F32) + t * 4)
                for i in range(step):
                    _multiply_add(f, sums, numbers, panels, (t + i) * lanes)
            with f.loop(tiles, start=whole) as t:
                _multiply_add(f, sums, numbers, panels, t * lanes)
            every = [((m * nr + n) * lanes, sums[m][n]) for m in range(mr) for n in range(nr)]
            with f.choose(fresh.differs(0)) as (begin, more):
                with begin:
                    for at, total in every:
                        out.put(at, total.get())
                with more:
                    for at, total in every:
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
