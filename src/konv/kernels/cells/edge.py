"""Cells that padding crops, or the end of the output (konv.kernels.cells): of a tile that has such,
these go into scratch first, and what of them lies in the output is copied number by number.

A tile's record in the table of results is longer there: EDGE words behind the addresses.
"""

from __future__ import annotations

from collections.abc import Callable

from konv.kernels.epilogue import finish
from konv.kernels.winograd.records import EDGE, tiles_function
from konv.kernels.winograd.transforms import Pair
from konv.kernels.words import Piece
from konv.llvm import F32, I64, Function, Module, Routine, Value
from konv.plan import Plan

# Of a vector of columns: how far its channel lies in the output, its row in a cell, and its place
# in that row.
Where = Callable[[Function, Piece, Value], tuple[Value, Value, Value]]


def emit_edge(module: Module, plan: Plan, transforms: Pair, where: Where) -> Routine:
    """edge(job, unit, tile, vector): a vector of columns of a tile's cells that are not whole."""
    lanes, (over, along) = module.target.lanes("float32"), transforms
    places = over.outputs * along.outputs
    with tiles_function(module, "edge", ("tile", "vector")) as (f, piece, (tile, vector)):
        job, unit = piece.job, piece.unit
        record, stage = (
            piece.part("at_outs", I64) + tile * (places + EDGE),
            piece.part("at_dump", F32),
        )
        base, first = record.pointer(places, F32), (record[places + 1], record[places + 2])
        channel, sub, number = where(f, piece, vector)
        down, pixel = (job["y_stride", a] // job["step", a] for a in (1, 2))
        with f.loop(over.outputs) as r, f.loop(along.outputs) as q:
            at = r * along.outputs + q
            slot = stage + at * lanes
            row = (first[0] + r) * job["step", 1] - job["crop", 1] + sub
            begin = ((first[1] + q) * job["step", 2] - job["crop", 2]) * pixel + number
            own = record[at].equals(slot.address())
            with f.when(own & (row >= 0) & (row < job["outputs", 1])):
                line = base + (channel + row * down + begin)
                end = f.least(job["outputs", 2] * pixel - begin, lanes)
                with f.loop(end, start=f.most(0 - begin, f.integer(0))) as lane:
                    to, value = line + lane, slot[lane + places * lanes * plan.residual]
                    to.put(
                        0, finish(f, plan, value, to, unit["residual"]) if plan.residual else value
                    )
        return f.fn
