"""Planar convolution: pixels in the lanes, for layers with few channels a group.

    for group: for block of nc output channels:
        for tile of nv vectors of pixels, in registers over the whole reduction:
            for c in channels of the group: for tap:       THE LOOP
                load nv vectors of the strip               shared by all output channels
                for k in nc: broadcast w[k]; nv multiply-adds

Every row of a unit's input, padding included, lies in a *strip* in scratch (konv.kernels.strip), so
that output pixel l reads tap t at strip[l + offset(t)], whatever row it is in: stride, dilation,
padding and phases have become one number a tap. Outputs run over the whole pitch of the strip; the
few that belong to no pixel (2 of 58 for 3 x 3 on 56 pixels) are left out when results leave
(konv.kernels.rows). No lane depends on the number of channels: where konv.kernels.direct fills 4 of
16 lanes (4 channels a group), this fills all.

Every output is one chain of multiply-adds in the order channels, taps.
"""

from __future__ import annotations

from math import ceil, prod

from konv.geometry import Conv
from konv.kernels.packing import HEADER
from konv.kernels.planar_schedule import Cut
from konv.kernels.planar_units import emit_kernel
from konv.llvm import Module
from konv.plan import Packing, Plan, Strides, Work
from konv.target import BYTES, Target

name = "planar"
exact = True

MOST = 8  # output channels in a tile: more would leave too few vectors of pixels for the loads
FARTHEST = 4  # stride: beyond it a strip would hold mostly what nobody reads
WIDE = 16  # vectors' worth of output channels a group from which konv.kernels.direct is better


def why_not(conv: Conv, target: Target) -> str | None:
    """Only moderate strides and few channels a group, in or out."""
    if any(axis.stride > FARTHEST for axis in conv.axes):
        return f"takes strides up to {FARTHEST}; here {max(axis.stride for axis in conv.axes)}"
    return None


def plans(conv: Conv, target: Target, packed: bool, blocked: bool) -> tuple[Plan, ...]:
    """The tile with the least cost, and the next best."""
    lanes, co = target.lanes(conv.dtype), conv.co // conv.groups
    jump = next(conv.axes[-1].phases()).stride
    choices = sorted(
        ((loop_cost(co, nc, nv, target), nc, nv) for nc, nv in tiles(co, target.registers)),
    )[:2]
    return tuple(
        Plan(
            name, conv.dtype, packed, blocked, nv * lanes, nv, form=(nc, co % nc, jump)
        )
        for _, nc, nv in choices
    )


def tiles(co: int, registers: int) -> list[tuple[int, int]]:
    """(output channels, vectors of pixels) whose sums, inputs and one weight fit in registers."""
    room = registers - 2
    return [(nc, (room - 1) // (nc + 1)) for nc in range(1, min(co, MOST) + 1) if room > nc + 1]


def loop_cost(co: int, nc: int, nv: int, target: Target) -> float:
    """Cycles for each vector of pixels, channel and tap, for all `co` channels of a group.

    Two multiply-adds and two loads a cycle, of which a load that straddles two cache lines counts
    twice; sums are 4 cycles late. With AVX-512 all loads but one in a row of taps straddle.
    """
    split = 1.67 if target.vector_bytes == 64 else 1.33

    def block(n: int) -> float:
        return max(n * nv / 2, (split * nv + n + 2) / 2, 4)

    full, tail = divmod(co, nc)
    return (full * block(nc) + (block(tail) if tail else 0)) / nv


def cost(conv: Conv, plan: Plan, target: Target) -> float:
    """Cycles of a core for one image: the loop, the strips, the rows of results."""
    lanes, (nc, _, _) = target.lanes(plan.dtype), plan.form
    ci, co = conv.ci // conv.groups, conv.co // conv.groups
    cut = Cut(conv, plan, target, 1)
    vectors = conv.groups * cut.outputs / lanes
    taps = prod(len(phase.taps) for phase in (next(a.phases()) for a in conv.axes))
    each = loop_cost(co, nc, plan.vectors, target)
    copied = conv.ci * cut.copied / lanes
    results = conv.co * prod(a.out for a in conv.axes) / lanes
    return vectors * ci * taps * each + copied * 4 + results * (4 if plan.blocked else 10)


def work(
    conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int
) -> Work:
    """Units of work as konv.kernels.planar_schedule cuts them."""
    return Cut(conv, plan, target, threads).work(x, y)


def packing(conv: Conv, plan: Plan, target: Target) -> Packing:
    """Blocks of nc output channels, each [channel][tap][nc], then the biases."""
    ci, co = conv.ci // conv.groups, conv.co // conv.groups
    numbers = conv.groups * co * (ci * prod(axis.kernel for axis in conv.axes) + 1)
    return Packing(HEADER + ceil(numbers) * BYTES[plan.dtype], conv.groups, co, ci)


def emit(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run` and `pack`."""
    return emit_kernel(plan, target)
