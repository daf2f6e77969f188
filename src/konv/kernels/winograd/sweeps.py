"""A block of output channels of Winograd's convolution: its products, and its results on their way.

for point: for tap across planes: for register tile of tiles: product    V, U -> M
for tile: transform out                                                  M -> y
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from konv.kernels.winograd.count import RESTS
from konv.kernels.winograd.outputs import emit_flush
from konv.kernels.winograd.parts import FEW, UNROLL, emit_product, offset
from konv.kernels.winograd.records import EDGE, TILE_AXES, tiles_function
from konv.kernels.winograd.tables import OUTS
from konv.kernels.winograd.transforms import Pair
from konv.kernels.words import Piece
from konv.llvm import F32, I64, VOID, Function, Module, Routine, Value
from konv.plan import Plan

Out = tuple[Routine, Routine | None]

AHEAD = 2  # vectors of columns: a cache line, or two rows of 8 sub-pixels
# Channels of a product; more, and U and V of a point leave the first-level cache (512@7 by 64 2.22
# ms on one thread, by 256 2.58, Zen 3). Where one product takes all tiles, U is used once, and
# there are more: 256@7 by 64 0.65 ms, by 256 0.55; 512@4 1.14 and 0.91, by 512 0.90 (two threads).
DEPTH, ONCE = 64, 256


@dataclass(frozen=True)
class Ends:
    """Where results go that do not simply follow a pixel's first: those of cells."""

    place: Callable[[Function, Piece, Value], Value]  # of a vector of channels, from there
    edge: Callable[[Module], Routine]  # edge(job, unit, tile, vector), as konv.kernels.cells.edge


def emit_block(
    module: Module, plan: Plan, transforms: Pair, nr: int, out: Out, ends: Ends | None
) -> Routine:
    """block(job, unit, u, bias, vector): one block of output channels over the box's tiles;
    `vector`: its first.
    """
    lanes = module.target.lanes(plan.dtype)
    sizes = _sizes(plan)
    # Blocks of all widths have these two in common, which saves 25 of 280 ms of compiling.
    products = module.routines.get("products") or _emit_products(module, transforms, sizes)
    store = module.routines.get("stores") or _emit_stores(module, plan, transforms, out)
    tiles = [emit_product(module, size, nr, UNROLL if size == sizes[0] else FEW) for size in sizes]
    labels = ("u", "bias", "vector")
    with tiles_function(module, f"block_{nr}", labels, cold=True) as (f, piece, args):
        u, bias, vector = args
        job, unit = piece.job, piece.unit
        wide = f.integer(nr * lanes)
        f.call(products, [job.base, unit.base, u, wide, *(f.address_of(tile) for tile in tiles)])
        with f.loop(nr) as n:
            arguments = [job.base, unit.base, n, wide, bias + n * (lanes * 4)]
            if ends:
                channel, most = ends.place(f, piece, vector + n), job["co"] // lanes - 1
                coming = ends.place(f, piece, f.least(vector + n + AHEAD, most))
                arguments += [channel, coming - channel, vector + n]
            else:
                first = unit["group"] * job["co"]
                arguments.append(first + offset(f, vector + n, job["co"], lanes))
            f.call(store, arguments)
        return f.fn


def _sizes(plan: Plan) -> tuple[int, ...]:
    """Tiles that a register tile takes at once: the full one's, then those of what is left."""
    return plan.pixels, *RESTS.get(plan.pixels, ())


def _emit_stores(module: Module, plan: Plan, transforms: Pair, out: Out) -> Routine:
    """stores(job, unit, n, wide, bias, channel): vector n of a block of `wide` channels, from M to
    the output; of cells `ahead`, as konv.kernels.winograd.outputs.emit_outputs says, and the
    number of the vector.
    """
    lanes, (outputs, edge) = module.target.lanes(plan.dtype), out
    each = transforms[0].outputs * transforms[1].outputs
    places = each + EDGE * (edge is not None)
    flush = emit_flush(module, plan) if plan.blocked else None
    labels = ("n", "wide", "bias", "channel", *(("ahead", "vector") if edge else ()))
    with tiles_function(module, "stores", labels, plain=True) as (f, piece, args):
        n, wide, bias, channel, *more_of = args
        job, unit, outs = piece.job, piece.unit, piece.part("at_outs", I64)
        m, number = piece.part("at_m", F32) + n * lanes, f.var(0)
        if flush is None:
            with f.loop(unit["tiles"]) as tile:
                at = m + tile * wide
                f.call(
                    outputs,
                    [
                        at, job["m_point"], bias.to_pointer(F32), outs + tile * places, channel,
                        unit["scratch"] + job["at_dump"], unit["residual"], *more_of[:1],
                    ],
                )  # fmt: skip
                if edge:
                    with f.when(outs[tile * places + (places - 1)].differs(0)):
                        f.call(edge, [job.base, unit.base, tile, more_of[1]])
            return f.fn
        down, right = (job["dilation", a] * job["y_stride", a] for a in TILE_AXES)
        stage, plane, y = piece.part("at_stage", F32), job["y_channel"], channel * job["y_channel"]

        def more(last: int) -> list[Value]:
            return [unit["residual"], f.integer(last)] if plan.residual else []

        with f.loop(unit["tiles"] // unit["lines", 2]):
            first = outs + number.get() * OUTS
            with f.loop(unit["lines", 2]):
                tile = number.get()
                record = outs + tile * OUTS
                arguments = [m + tile * wide, job["m_point"], bias.to_pointer(F32)]
                with f.choose(job["sparse", 2].equals(0)) as (dense, scattered):
                    with dense:
                        to, width = stage + record[3], unit["width", 2]
                        end = job["stage_plane"], width, job["dilation", 2]
                        f.call(
                            outputs,
                            [*arguments, to, record + 1, *end, *more(0)],
                        )
                    with scattered:
                        to = record.pointer(0, F32) + y
                        end = plane, down, right
                        f.call(
                            outputs,
                            [*arguments, to, record + 1, *end, *more(1)],
                        )
                number.add(1)
            with f.when(job["sparse", 2].equals(0)):
                to, width = first.pointer(0, F32) + y, unit["width", 2]
                apart = job["stage_plane"], plane, first[1], width, down
                f.call(flush, [stage, to, *apart, unit["residual"]])
        return f.fn


def _emit_products(module: Module, transforms: Pair, sizes: tuple[int, ...]) -> Routine:
    """products(job, unit, u, wide, *tiles): M of one block of `wide` channels, point after point;
    `tiles`: where the register tiles for so many tiles each stand.
    """
    lanes = module.target.lanes("float32")
    points = transforms[0].n * transforms[1].n
    labels = ("u", "wide", *(f"tile_{size}" for size in sizes))
    with tiles_function(module, "products", labels, plain=True) as (
        f,
        piece,
        (address, wide, *tiles),
    ):
        job, unit = piece.job, piece.unit
        u, v, m = address.to_pointer(F32), piece.part("at_v", F32), piece.part("at_m", F32)
        v_vector, ci, taps = job["v_vector"], job["ci"], job["span", 0] + 1
        apart = unit["lines", 1] * unit["lines", 2] * lanes
        depth = f.select(unit["tiles"] <= sizes[0], f.integer(ONCE), DEPTH)
        with f.loop(points) as point, f.loop(taps) as tap, f.loop(ci, step=depth) as c:
            here = u + ((point * taps + tap) * ci + c) * wide
            channels, more = f.least(ci - c, depth), tap + c
            v_here = v + (point * job["v_point"] + tap * apart + c // lanes * v_vector)
            m_here, panel = m + point * job["m_point"], channels * wide
            at, coming = f.var(0), f.var(0)
            coming.set(panel * 2)
            for size, tile in zip(sizes, tiles, strict=True):
                # The smallest computes places beyond the last tile too, which nobody reads.
                least = size if size != sizes[-1] else 1
                with f.loop((unit["tiles"] - at.get() + (size - least)) // size):
                    where = v_here + at.get() * lanes, m_here + at.get() * wide
                    ahead = here + coming.get()
                    arguments = [where[0], v_vector, here, channels, where[1], ahead, more]
                    f.call_pointer(tile.to_pointer(I64), VOID, arguments)
                    at.add(size)
                    # No further than that panel: of many tiles most have nothing to ask for.
                    coming.set(f.least(coming.get() + (panel >> 2), panel * 3 - (panel >> 2)))
        return f.fn
