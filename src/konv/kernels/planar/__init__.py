"""Planar convolution: pixels in the lanes, for layers with few channels a group.

    for group: for block of nc output channels:
        for tile of nv vectors of pixels, in registers over the whole reduction:
            for c in channels of the group: for tap:       THE LOOP
                load nv vectors of the strip               shared by all output channels
                for k in nc: broadcast w[k]; nv multiply-adds

Every row of a unit's input, padding included, lies in a *strip* in scratch
(konv.kernels.planar.strip), so that output pixel l reads tap t at strip[l + offset(t)], whatever
row it is in: stride, dilation, padding and phases have become one number a tap. Outputs run over
the whole pitch of the strip; the few that belong to no pixel (2 of 58 for 3 x 3 on 56 pixels) are
left out when results leave (konv.kernels.planar.rows). No lane depends on the number of channels:
where konv.kernels.direct fills 4 of 16 lanes (4 channels a group), this fills all.

Every output is one chain of multiply-adds in the order channels, taps.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from konv.geometry import Conv
from konv.kernels.channels import mean_taps
from konv.kernels.lines import Line
from konv.kernels.pack import HEADER
from konv.kernels.planar.pair import Pair, straddling
from konv.kernels.planar.pair import loop_cost as pair_cost
from konv.kernels.planar.pair import tiles as pair_tiles
from konv.kernels.planar.schedule import Cut, Span
from konv.kernels.planar.strip import DEALT, JOB
from konv.kernels.planar.units import emit_kernel
from konv.kernels.stored import HALVES
from konv.llvm import Module
from konv.plan import Blocks, Packing, Plan, Strides, Work
from konv.target import BYTES, Target

name = "planar"
exact = True
once = True
words = JOB

# Cycles of a vector of a strip that is transposed from channels-last with AVX-512 (1x1 32->1@128
# .28 ms, direct .07, 128->4@56 .11 and .05, 3x3 12->12@100 .14 and .11; Emerald Rapids).
TURNED = 32
# Cycles of a row of results that fills no vector (1 and 3 -> 64 3x3 @100x8 and thinner; Emerald
# Rapids).
ROW = 6
MOST = 8  # output channels in a tile: more would leave too few vectors of pixels for the loads
FARTHEST = 4
TAPS = 2048  # of an axis: each is an entry of a list
NUMBERS = 2**17  # that an output's taps span in all channels of a group: half a megabyte of strip
LEAST = 64  # outputs of a box in that model
USUAL = 512 * 1024  # bytes of second-level cache that the model of cost takes


def why_not(conv: Conv, target: Target) -> str | None:  # noqa: ARG001 - as konv.plan.Algorithm
    """Only moderate strides: a strip would hold mostly what nobody reads."""
    if conv.dtype in HALVES:
        return f"reads and writes float32 and float64; here {conv.dtype}"
    longest = max(axis.kernel for axis in conv.axes)
    if longest > TAPS:
        return f"takes up to {TAPS} taps an axis; here {longest}"
    farthest = max(next(axis.phases()).stride for axis in conv.axes)
    if farthest > FARTHEST:
        return f"takes strides up to {FARTHEST}; here outputs are {farthest} pixels apart"
    least = conv.ci // conv.groups * prod(Line(axis).span + 1 for axis in conv.axes)
    if least > NUMBERS:
        return f"takes up to {NUMBERS} inputs of an output, those between them too; here {least}"
    return None


def plans(conv: Conv, target: Target, packed: bool, blocked: bool) -> tuple[Plan, ...]:
    """The tile with the least cost, and the next best; of both phases of a row at once where it has
    two and goes out contiguous, then of one.
    """
    lanes, co = target.lanes(conv.dtype), conv.co // conv.groups
    row, taps = Span(Line(conv.axes[-1])), prod(max(1, a.kernel // a.up) for a in conv.axes)
    dealt = (row.jump, len(row.kept))
    if not packed or dealt not in DEALT:
        dealt = (0, 0)  # the code is the same for all: fewer kernels to compile
    choices: list[tuple[float, int, int, tuple[int, ...]]] = [
        (cycles, nc, nv, ())
        for cycles, nc, nv in sorted(
            (loop_cost(co, nc, nv, target, taps), nc, nv) for nc, nv in tiles(co, target)
        )[:2]
    ]
    pair = Pair.of(conv.axes[-1])
    if pair and blocked:
        both = [
            (pair_cost(pair, co, nc, nv, target), nc, nv, pair.form)
            for nc, nv in pair_tiles(co, MOST, target)
        ]
        choices = sorted(both)[:1] + choices[:1]
    return tuple(
        Plan(
            name,
            conv.dtype,
            packed,
            blocked,
            nv * lanes,
            nv,
            form=(nc, co % nc, *dealt, *form),
        )
        for _, nc, nv, form in choices
    )


def tiles(co: int, target: Target) -> list[tuple[int, int]]:
    """(output channels, vectors of pixels) whose sums, inputs and one weight fit in registers.

    NEON multiplies by a lane of a vector, so LLVM reads weights ahead, by fours: 8 x 3 spills. SSE
    needs a register for the product.
    """
    room = target.registers - (1 if target.vector_bytes > 16 else 3)
    most = MOST - 1 if (target.vector_bytes, target.registers) == (16, 32) else MOST
    return [(nc, room // (nc + 1)) for nc in range(1, min(co, most) + 1) if room > nc]


def loop_cost(co: int, nc: int, nv: int, target: Target, taps: float) -> float:
    """Cycles for each vector of pixels, channel and tap, for all `co` channels of a group.

    Two multiply-adds and two loads a cycle, of which a load that straddles two cache lines counts
    twice; sums are 4 cycles late. The loop itself takes two; four if there is but one tap to a
    channel (1x1 24 -> 96 @112: 1.2 times as long as with one, Zen 3). With AVX-512 all loads but
    one in a row of taps straddle (konv.kernels.planar.pair.straddling), and the loop takes four of
    one tap (1x1 64 -> 256@64: 16.6 cycles a tile of 4 x 6, Granite Rapids), none of more.
    """
    wide, split = target.vector_bytes == 64, _split(target)
    itself = 4 if taps == 1 else 0 if wide else 2

    def block(n: int) -> float:
        adds, loads = n * nv / 2, (split * nv + n + 2) / 2
        return max(straddling(adds, loads) if wide else max(adds, loads), 4) + itself

    full, tail = divmod(co, nc)
    return (full * block(nc) + (block(tail) if tail else 0)) / nv


def _split(target: Target) -> float:
    """Loads that one of neighbouring vectors counts as."""
    return 2.0 if target.vector_bytes == 64 else 1.33


def cost(conv: Conv, plan: Plan, target: Target) -> float:
    """Cycles of a core for one image: the loop, the strips, the results.

    A vector of a strip takes 8 cycles, with AVX2 10 where rows are dealt out, 6 where there is but
    one tap and nothing to leave out, and of results, which leave a row at a time, 6 (19 -> 12
    @256x512 in steps of two is slower than `direct`, 40 -> 4 @128x256 faster, Zen 3). Transposed to
    or from channels-last, it is 16.

    With AVX-512 it is 14 of a strip, 70 where its numbers lie more than two apart (3 -> 48, 64, 128
    4x4 s4, 3 -> 32 7x7 s4: 63 to 75), and 4 of results (3x3 128@56, 256@28, 64@30, 1x1, steps of
    two, by how times grow with output channels: 5.7 ns of a strip). Results that go out between
    phases take 48 (128@28 in 32 groups, transposed, in steps of two 0.41 ms, konv.kernels.subpixel
    0.25; 1 -> 1 in steps of 80 .27, .11), others of one channel in, channels-last, 5 (1 -> 64 3x3
    @180, 5x5 @480; Granite Rapids).
    """
    # Boxes as for any machine's cache: which plan is best shall not hang on it.
    usual = replace(target, l2=USUAL)
    lanes, cut = target.lanes(plan.dtype), Cut(conv.with_batch(1), plan, usual, 1, LEAST)
    taps = mean_taps(conv)
    co, pair = conv.co // conv.groups, Pair.from_form(plan)
    each = (
        pair_cost(pair, co, plan.form[0], plan.vectors, target)
        if pair
        else loop_cost(co, plan.form[0], plan.vectors, target, taps)
    )
    loop = conv.groups * cut.outputs * (conv.ci // conv.groups) * taps * each
    wide, out = target.vector_bytes == 64, {16: 8, 32: 6, 64: 4}[target.vector_bytes]
    one = wide and conv.ci == 1  # whose channels-last images are contiguous
    turning = TURNED if wide else 16
    into = _into(cut.axes[2].jump, taps, target) if plan.packed or one else turning
    copied = conv.ci * cut.copied * into
    between = conv.axes[-1].up > 1
    turned = 48 if wide and between else 5 if one and not between else 16
    whole = plan.blocked and (
        pair is not None or conv.axes[-1].up == 1
    )  # others go out one by one, between phases
    results = conv.co * prod(a.out for a in conv.axes) * (out if whole else turned)
    narrow = plan.blocked and conv.axes[-1].out < lanes
    rows = conv.co * prod(a.out for a in conv.axes[:-1]) * narrow
    return (loop + copied + results) / lanes + ROW * rows


def _into(jump: int, taps: float, target: Target) -> int:
    """Cycles for a vector of a strip whose numbers lie `jump` apart in the image."""
    if target.vector_bytes == 64:
        return 14 if jump <= 2 else 70
    if target.vector_bytes == 32:
        return 6 if taps == 1 else 10 if jump > 1 else 8
    return 8


def work(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """Units of work as konv.kernels.planar.schedule cuts them."""
    return Cut(conv, plan, target, threads).work(x, y)


def packing(conv: Conv, plan: Plan, target: Target) -> Packing:  # noqa: ARG001 - as the protocol
    """Blocks of nc output channels, each [channel][tap][nc], then the biases."""
    ci, co = conv.ci // conv.groups, conv.co // conv.groups
    numbers = conv.groups * co * (ci * prod(axis.kernel for axis in conv.axes) + 1)
    return Packing(HEADER + numbers * BYTES[plan.dtype], conv.groups, co, ci)


def blocks(conv: Conv, plan: Plan, target: Target) -> Blocks:  # noqa: ARG001 - as the protocol
    """Tiles run over the rows of one depth."""
    face = prod(Line(axis).count for axis in conv.axes[-2:])
    ci, co = conv.ci // conv.groups, conv.co // conv.groups
    return Blocks((face, plan.pixels), (co, plan.form[0]), (ci, 1), (conv.groups, 1))


def emit(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run` and `pack`."""
    return emit_kernel(plan, target)
