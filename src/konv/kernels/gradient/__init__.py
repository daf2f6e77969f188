"""The gradient of a weight: dw[co, ci, k] = sum over images and outputs p of dy[p, co] x[p, k, ci].

A product of matrices, rows (input channel, tap) by output channels, summed over outputs. Output
channels stand in the lanes: dy is brought into that form a box of outputs at a time, and x into a
strip with its padding, from where numbers are broadcast (konv.kernels.gradient.tile). Both stay in
the second-level cache; nothing image-sized is copied.

The order of every sum is fixed by the sizes of the layer: outputs of a box one after another, boxes
of a part, parts (konv.kernels.gradient.cut).
"""

from __future__ import annotations

from math import prod

from konv.geometry import Conv
from konv.kernels.direct.tiles import TILES, last_block, tile_cost
from konv.kernels.gradient.apart import share
from konv.kernels.gradient.units import emit_kernel
from konv.llvm import Module
from konv.plan import Plan
from konv.target import Target

name = "gradient"
exact = True


def why_not(conv: Conv) -> str | None:
    """Only layers without inserted zeros, as the adjoint of a transposed layer is."""
    if any(axis.up > 1 for axis in conv.axes):
        return "takes no inserted zeros"
    return None


def plan(conv: Conv, target: Target, packed: bool, blocked: bool) -> Plan:
    """The cheapest register tile: rows x vectors of output channels. `packed`: x is contiguous,
    `blocked`: dy is; otherwise channels-last.
    """
    vectors = -(-conv.co // conv.groups // target.lanes(conv.dtype))
    table = TILES[target.vector_bytes, target.registers]
    mr, nr = min(table, key=lambda tile: (tile_cost(vectors, *tile), tile[1]))
    tail = last_block(vectors, nr, 0)
    return Plan(name, conv.dtype, packed, blocked, mr, nr, tail)


def cost(conv: Conv, plan: Plan, target: Target) -> float:
    """Cycles of the loop for each output of all groups."""
    vectors = -(-conv.co // conv.groups // target.lanes(plan.dtype))
    return (
        conv.ci
        * prod(axis.kernel for axis in conv.axes)
        * tile_cost(vectors, plan.pixels, plan.vectors)
        * share(conv)
    )


def emit(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run`."""
    return emit_kernel(plan, target)
