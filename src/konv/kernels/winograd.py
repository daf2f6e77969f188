"""Winograd's convolution."""

from __future__ import annotations

from math import lcm

from konv.geometry import Axis, Conv
from konv.kernels.direct import cost as product_cost
from konv.kernels.packing import HEADER
from konv.kernels.winograd_schedule import schedule
from konv.kernels.winograd_transforms import Transform
from konv.kernels.winograd_units import emit_kernel
from konv.llvm import Module
from konv.plan import Packing, Plan, Strides, Work
from konv.target import BYTES, Target

name = "winograd"
exact = False

FEWEST = 16  # channels of a group, in and out

# Input channels of a group beyond which wide register tiles come first: V is then read from the
# second-level cache, once for each block of output channels (512@33 dilated by 4: 6 x 4 8.9 ms, 12 x
# 2 10.3; with 64 channels 14 x 2 is 3 % ahead).
DEEP = 256

TILES = {
    (16, 16): ((3, 3), (4, 2), (7, 1)),
    (32, 16): ((4, 3), (6, 2), (7, 1)),
    (16, 32): ((5, 4), (6, 3), (8, 2), (10, 1)),
    (64, 32): ((12, 2), (8, 3), (6, 4), (14, 1)),
}

# Outputs of a tile along an axis by its taps: best first.
OUTPUTS = {1: (1,), 3: (4, 2), 5: (2,)}


def why_not(conv: Conv, target: Target) -> str | None:  # noqa: ARG001 - as konv.plan.Algorithm
    """Only f32, one or two axes of 3 taps and stride 1, 16 channels a group."""
    if conv.dtype != "float32":
        return f"takes float32 only; here {conv.dtype}"
    ci, co = conv.ci // conv.groups, conv.co // conv.groups
    if min(ci, co) < FEWEST:
        return f"takes {FEWEST} channels in and out a group or more; here {ci} and {co}"
    if conv.dims > 2:
        return f"takes one or two axes; here {conv.dims}"
    if any(a.stride > 1 or a.up > 1 for a in conv.axes):
        return "takes stride 1 only, ordinary or transposed"
    kernels = {a.kernel for a in conv.axes}
    if len(kernels) > 1 or not kernels <= {3, 5}:
        return "takes kernels of 3 or 5 taps an axis only"
    return None


def plans(conv: Conv, target: Target, packed: bool, blocked: bool) -> tuple[Plan, ...]:
    """One plan for each size of tile and register tile."""
    lanes = target.lanes(conv.dtype)
    vectors = -(-conv.co // conv.groups // lanes)
    table = TILES[target.vector_bytes, target.registers]
    deep = conv.ci // conv.groups > DEEP
    tiles = sorted(
        table,
        key=lambda tile: (-tile[1] if deep else 0, product_cost(vectors, *tile), tile[1]),
    )
    found = []
    for m in OUTPUTS[conv.axes[0].kernel]:
        forms = [(m, axis.kernel) for axis in conv.axes]
        form = sum([(1, 1)] * (2 - conv.dims) + forms, ())
        steps = [m * axis.dilation for axis in conv.axes]
        found += [
            Plan(
                name, conv.dtype, packed, blocked, mr, nr, vectors % nr, alignment=lcm(*steps),
                form=form,
            )
            for mr, nr in tiles
        ]  # fmt: skip
    return tuple(found)


def work(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """Boxes of tiles as konv.kernels.winograd_schedule cuts them."""
    return schedule(conv, plan, target, x, y, threads)


def packing(conv: Conv, plan: Plan, target: Target) -> Packing:
    """Weights as konv.kernels.winograd_weights packs them."""
    co, ci, lanes = conv.co // conv.groups, conv.ci // conv.groups, target.lanes(plan.dtype)
    over, along = transforms(plan)
    each = over.n * along.n * ci + 1
    padded = -(-co // lanes) * lanes
    size = HEADER + conv.groups * padded * each * BYTES[plan.dtype]
    return Packing(size, conv.groups, co, ci)


def transforms(plan: Plan) -> tuple[Transform, Transform]:
    return Transform(*plan.form[:2]), Transform(*plan.form[2:])


def emit(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run` and `pack`."""
    return emit_kernel(plan, target, transforms(plan))
