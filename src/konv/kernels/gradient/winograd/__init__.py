"""Weight gradients by Winograd's algorithm: fewer multiplications for small kernels in steps of one
or two.

The forward is y = A' [(G g G') * (B' d B)] A (konv.kernels.winograd). It is linear in g, so what g
gets from dy is the transpose of that map, by the very same matrices:

    V = B' d B       of each tile of the input         36 points for 3x3 taps, 4x4 outputs a tile
    D = A dy A'      of the gradients of its outputs
    U = sum over tiles of V * D                        at each point a product of matrices, ci x co
    dg = G' U G      once at the end

36 products a tile and pair of channels instead of 144. They are three steps, runs of the kernel,
for some tiles after the other, so that V and D wait in the last cache:

    points      for box of tiles, some channels of x or dy: a copy channels-last, padding as zeros;
                                                        V or D of it
    products    for point, some channels: U += V D      konv.kernels.gradient.winograd.tile
    taps        for some channels, at the end: dg       leaves as other sums do
    both        instead of the last two, for few tiles: U of some channels in scratch, and its dg

A dilated axis is `dilation` interleaved ones, whose tiles follow each other in the order of their
first outputs (konv.kernels.gradient.winograd.runs.first_output): their sums add up into one.

What differs from a plain sum of products is as in konv.kernels.winograd: rounding
(`rounding.weight_gradient_tolerance`), and numbers that are not finite, which reach all taps of
their channel, in steps of two those that begin at the same step. `precision("exact")` keeps this
kernel out.

Measured, in ms on one Zen 3 core, contiguous / channels-last, beside konv.kernels.gradient:

    64@56 3x3        1.05 / 1.31   gradient 2.79 / 3.14    8 images   9.2 / 9.4    24.6 / 24.3
    128@28 3x3       1.13 / 1.12            2.99 / 2.69               8.2 / 8.9    25.4 / 28.9
    256@14 3x3       2.03 / 2.10            3.19 / 3.27              10.5 / 10.2   25.5 / 24.0
    512@7 3x3                                                        12.5 / 12.2   26.7 / 24.4
    256@56 3x3       17.8 / 17.8            54.8 / 59.3               119 / 126     394 / 379
    64@224 3x3       22.3 / 20.3            48.4 / 50.3               166 / 139     355 / 386

and of dilated layers on two:

    256@64 by 2       9.1 / 9.1           30.3 / 30.3           8 images    68 / 67   235 / 229
    512@33 by 4      12.9 / 13.2          31.6 / 32.5
    512@17 by 4                                                          29.6 / 31    67.4 / 71.6
    256@65 by 12     13.6 / 14.3          33.4 / 33.0
    256@65 by 36     18.8 / 18.7          35.9 / 36.0
"""

from __future__ import annotations

from functools import partial
from math import prod

from konv.geometry import Conv
from konv.kernels.direct.tiles import last_block, tile_cost
from konv.kernels.gradient.parts import emit_turn
from konv.kernels.gradient.records import JOB, UNIT
from konv.kernels.gradient.sums import emit_leave
from konv.kernels.gradient.winograd.points import emit_box
from konv.kernels.gradient.winograd.taps import emit_leaving, emit_taps, emit_widths
from konv.kernels.gradient.winograd.tile import emit_block, emit_both, emit_products
from konv.kernels.region import emit_entry, emit_units
from konv.kernels.winograd.count import count
from konv.kernels.winograd.pays import LEAST
from konv.kernels.winograd.transforms import Transform, form, transforms
from konv.kernels.words import Words
from konv.llvm import F32, I64, Function, Module, Routine, Value
from konv.plan import Plan
from konv.target import Target

name = "gradient_winograd"
exact = False

# Outputs of a tile along an axis, by taps and stride (konv.kernels.winograd).
OUTPUTS = {(3, 1): (4,), (5, 1): (2,), (3, 2): (4, 2), (4, 2): (4, 2), (5, 2): (4, 2)}
# The same of a dilated axis of 3 taps, of which an interleaved one may have few: 5 or 6 outputs of
# 65 by 12 are two tiles of 3, 10 products, of 4 they are 12.
DILATED = (4, 3, 2)

# Register tiles, input channels by vectors of output channels, by bytes in a vector and registers.
# Input channels of a tile are neighbours in a vector of V.
TILES = {(16, 16): (4, 2), (32, 16): (4, 3), (16, 32): (4, 5), (64, 32): (8, 3)}

# What the cost is made of, in cycles of one core (Zen 3): the share of their peak that products
# reach; a vector of V or D at a point, its copy and its way to the last cache included; what it
# takes more in groups, where all of them are so many bytes that they go through memory, for few
# products each; a vector of U likewise, in and out; runs that threads meet at the end of.
# konv.kernels.gradient takes 1.4 times what its own cost says, so all is divided by that.
SHARE, POINT, FAR, TAP, RUNS, GRADIENT = 0.85, 10.0, 7.0, 11.0, 50_000.0, 1.4
# 8 images, in ms beside konv.kernels.gradient: 19 MB of 512@14 in 32 groups 4.8 and 3.4 (3.8 and
# 2.6 elsewhere), 9 MB of 1024@7 2.75 and 2.6; 14 MB of 128@28 in 8 groups 2.5 and 2.8.
BESIDE = 8 * 2**20
STEPS = 1.15  # times that in steps of two: 64@56 of one image costs 0.94, and takes 1.1 times


def why_not(conv: Conv) -> str | None:
    """Only f32, kernels of 3 to 5 taps in steps of one or two, channels enough."""
    if conv.dtype != "float32":
        return "takes float32 only, for its rounding"
    if min(conv.ci, conv.co) < LEAST * conv.groups:
        return f"takes {LEAST} channels in and out a group or more"
    if conv.dims > 2:
        return "takes one or two axes"
    if any(a.up > 1 or (a.stride > 1 and a.dilation > 1) for a in conv.axes):
        return "takes dilation in steps of one only"
    steps = {(a.kernel, a.stride) for a in conv.axes}
    if len(steps) > 1 or not steps <= OUTPUTS.keys():
        return "takes kernels of 3, 4 or 5 taps in steps of one or two, the same on every axis"
    return None


def plan(conv: Conv, target: Target, packed: bool, blocked: bool) -> Plan:
    """The register tile of the machine, and the tile of outputs that costs least."""
    vectors = -(-conv.co // conv.groups // target.lanes(conv.dtype))
    mr, nr = TILES[target.vector_bytes, target.registers]
    tail = last_block(vectors, nr, 0)
    found = []
    for m in outputs(conv):
        pair = [Transform(1, 1)] * (2 - conv.dims) + [Transform.of(a, m) for a in conv.axes]
        both = form(*pair)
        found.append(Plan(name, conv.dtype, packed, blocked, mr, nr, tail, form=both))
    return min(found, key=lambda each: cost(conv, each, target))


def outputs(conv: Conv) -> tuple[int, ...]:
    """Outputs of a tile along an axis, as many as are worth considering."""
    axis = conv.axes[0]
    if max(a.dilation for a in conv.axes) > 1 and axis.kernel == 3:
        return DILATED
    return OUTPUTS[axis.kernel, axis.stride]


def cost(conv: Conv, plan: Plan, target: Target) -> float:
    """Cycles for each output of all groups, by the measure of konv.kernels.gradient."""
    lanes, both = target.lanes(plan.dtype), transforms(plan)
    ci, co = conv.ci // conv.groups, -(-conv.co // conv.groups // lanes)
    axes = zip(conv.axes, both[-conv.dims :], strict=True)
    tiles = conv.n * prod(count(axis, t) for axis, t in axes)
    points = prod(t.n for t in both)
    each = tiles * ci * tile_cost(co, plan.pixels, plan.vectors) / SHARE
    transformed = tiles * (-(-ci // lanes) + co)
    held = conv.groups * points * transformed * target.vector_bytes
    far = conv.groups > 1 and held > BESIDE
    each += transformed * (POINT + FAR * far) + ci * co * TAP
    whole = (conv.groups * points * each + RUNS) * (STEPS if conv.axes[0].stride > 1 else 1)
    return whole / GRADIENT / (conv.n * prod(axis.out for axis in conv.axes))


def emit(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run`."""
    module, both = Module(target, plan.algorithm), transforms(plan)
    turn = emit_turn(module, plan, F32)
    products = emit_widths(plan, lambda nr: emit_block(module, plan, nr))
    taps = emit_widths(plan, lambda nr: emit_taps(module, both, nr))
    leave = emit_leave(module, plan, turn)
    steps = [
        emit_box(module, plan, both, turn),
        emit_products(module, plan, products),
        emit_leaving(module, plan, taps, leave),
        emit_both(module, plan, both, products, taps, leave),
    ]
    emit_entry(module, partial(_emit_work, steps))
    return module


def _emit_work(steps: list[Routine], f: Function, call: Words, thread: Value) -> None:
    """All the units of a step that this thread gets hold of."""
    job = Words(call.pointer("job", I64), JOB)
    unit = Words(f.array(I64, len(UNIT)), UNIT)
    unit["scratch"] = call["scratch"] + thread * job["thread_bytes"]
    ends = (call["x"], call["y"]), (), (call["weights"],), (call["weights"],)
    for number, (step, end) in enumerate(zip(steps, ends, strict=True)):

        def body(index: Value, step: Routine = step, end: tuple[Value, ...] = end) -> None:
            f.call(step, [job.base, unit.base, index, call["scratch"], *end])

        with f.when(job["step"].equals(number)):
            emit_units(f, call, thread, job["units"], body)
