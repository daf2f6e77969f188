"""Weight gradients by Winograd's algorithm: fewer multiplications for small kernels in steps of one.

The forward is y = A' [(G g G') * (B' d B)] A (konv.kernels.winograd). It is linear in g, so what g
gets from dy is the transpose of it, with the very same matrices:

    V = B' d B     a tile of the input           36 points for 3x3 taps and tiles of 4x4 gradients
    D = A dy A'    its gradients
    U = sum over tiles of V * D                  at each point a product of matrices, ci x co
    dg = G' U G    once at the end

36 instead of 144 products a tile and pair of channels.

    for unit in units: some input channels by some output channels of one part
        for box in boxes of the part:            some tiles
            copies of x and dy, channels-last, with padding as zeros
            V of the copy of x, D of that of dy
            for block of output channels: for point: for mr input channels by nr vectors:
                U += V D                         konv.kernels.gradient_winograd_tile
        dg from U; it leaves as other sums do
"""

from __future__ import annotations

from functools import partial
from math import prod

from konv.geometry import Conv
from konv.kernels.direct import last_block, tile_cost
from konv.kernels.gradient_parts import emit_add, emit_leave, emit_turn
from konv.kernels.gradient_units import emit_box_words, emit_channels, emit_frame
from konv.kernels.gradient_winograd_parts import emit_copy, emit_finish, emit_points
from konv.kernels.gradient_winograd_tile import emit_products
from konv.kernels.gradient_words import RECORDS
from konv.kernels.winograd_transforms import Transform
from konv.kernels.words import Piece, Words, part_function
from konv.llvm import F32, Function, Module, Routine, Value
from konv.plan import Plan
from konv.target import Target

name = "gradient_winograd"

# Outputs of a tile along an axis, by taps: 6 points (konv.kernels.winograd).
OUTPUTS = {3: 4, 5: 2}
LEAST = 16  # channels of a group, in and out

# Register tiles, input channels by vectors of output channels, by bytes in a vector and registers.
# Input channels of a tile are neighbours in a vector of V.
TILES = {(16, 16): (4, 3), (32, 16): (4, 3), (16, 32): (4, 5), (64, 32): (8, 3)}


def why_not(conv: Conv) -> str | None:
    """Only f32, kernels of 3 or 5 taps in steps of one, channels enough."""
    if conv.dtype != "float32":
        return "takes float32 only, for its rounding"
    if min(conv.ci, conv.co) < LEAST * conv.groups:
        return f"takes {LEAST} channels in and out a group or more"
    if conv.dims > 2:
        return "takes one or two axes"
    if any((a.stride, a.up, a.dilation) != (1, 1, 1) for a in conv.axes):
        return "takes stride 1 and no dilation only"
    kernels = {a.kernel for a in conv.axes}
    if len(kernels) > 1 or not kernels <= OUTPUTS.keys():
        return "takes kernels of 3 or 5 taps on every axis only"
    return None


def plan(conv: Conv, target: Target, packed: bool, blocked: bool) -> Plan:
    """The register tile of the machine."""
    vectors = -(-conv.co // conv.groups // target.lanes(conv.dtype))
    mr, nr = TILES[target.vector_bytes, target.registers]
    form = (1, 1) * (2 - conv.dims) + sum([(OUTPUTS[a.kernel], a.kernel) for a in conv.axes], ())
    return Plan(
        name, conv.dtype, packed, blocked, mr, nr, last_block(vectors, nr, 0), form=form
    )


def transforms(plan: Plan) -> tuple[Transform, Transform]:
    """Down columns of pixels and along rows, by the plan's form: outputs and taps of each."""
    return Transform(*plan.form[:2]), Transform(*plan.form[2:])


def cost(conv: Conv, plan: Plan, target: Target) -> float:
    """Cycles for each output of all groups."""
    vectors = -(-conv.co // conv.groups // target.lanes(plan.dtype))
    over, along = transforms(plan)
    tiles = prod(-(-a.out // t.m) for a, t in zip(conv.axes, (over, along)[-conv.dims:], strict=True))
    points = over.n * along.n * tiles / prod(a.out for a in conv.axes)
    return 1.5 * conv.ci * points * tile_cost(vectors, plan.pixels, plan.vectors)


def emit(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run`."""
    module, both = Module(target, plan.algorithm), transforms(plan)
    turn = emit_turn(module, plan, F32)
    finish = emit_finish(module, plan, both), emit_leave(module, plan, turn)
    steps = {
        "x": emit_copy(module, plan, both, turn, "x"),
        "dy": emit_copy(module, plan, both, turn, "dy"),
        "v": emit_points(module, plan, both, "v"),
        "d": emit_points(module, plan, both, "d"),
        "products": emit_products(module, plan, both),
    }
    parts = {
        "box": _emit_box(module, plan, steps),
        "leave": _emit_leave(module, *finish),
        "add": emit_add(module, plan),
    }
    emit_frame(module, plan, parts, partial(_emit_unit, plan))
    return module


def _emit_unit(plan: Plan, f: Function, job: Words, unit: Words, number: Value) -> Value:
    """Which channels of which part; clears their products. Returns the part."""
    part = emit_channels(f, job, unit, number)
    width = plan.vectors * f.module.target.lanes(plan.dtype)
    points = prod(t.n for t in transforms(plan))
    products = (unit["block1"] - unit["block0"]) * job["wide_ci"] * (width * points)
    f.clear(Piece(job, unit).part("at_products", F32), products)
    return part


def _emit_box(module: Module, plan: Plan, steps: dict[str, Routine]) -> Routine:
    """box(job, unit, x, dy, number): add the products of one box to the unit's."""
    labels = ("x", "dy", "number")
    with part_function(module, "box", labels, writes=True, records=RECORDS) as (f, piece, args):
        emit_box_words(f, plan, piece, None, args, placed=False)
        for step in steps.values():
            f.call(step, [piece.job.base, piece.unit.base])
        return f.fn


def _emit_leave(module: Module, finish: Routine, leave: Routine) -> Routine:
    """both(job, unit, to): the unit's gradients from its products, and on into a weight."""
    with part_function(module, "both", ("to",), records=RECORDS) as (f, piece, (to,)):
        f.call(finish, [piece.job.base, piece.unit.base])
        f.call(leave, [piece.job.base, piece.unit.base, to])
        return f.fn
