"""Direct convolution: every kind, any stride, dilation, groups, padding and mode, 1 to 3
dimensions.

Output channels stand in the lanes, so weights are packed and inputs are broadcast one number at a
time: stride, dilation and phases are then only addresses (konv.kernels.units has the loops,
konv.kernels.microtile the innermost). Lanes are wasted where a group has fewer output channels than
a vector; kernels for such layers stand before this one in ALGORITHMS.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from konv.geometry import Axis, Conv
from konv.kernels import channels
from konv.kernels.channels import Channels
from konv.kernels.direct.flat_tile import emit_flat_sweep
from konv.kernels.direct.row_planes import straight
from konv.kernels.direct.row_tile import emit_row_sweep
from konv.kernels.direct.tiles import (
    CALL,
    MASKED,
    ROW_CALL,
    ROW_TRIP,
    TILES,
    TRIP,
    flat_cost,
    last_block,
    tile_cost,
)
from konv.kernels.microtile import UNROLL, emit_tile
from konv.kernels.packing import RGB
from konv.kernels.passes import is_deep
from konv.kernels.schedule import apart, meets_padding, schedule
from konv.kernels.stored import HALVES
from konv.kernels.units import emit_kernel
from konv.kernels.words import JOB
from konv.llvm import Module, Routine
from konv.plan import Blocks, Packing, Plan, Strides, Work
from konv.target import BYTES, Target

SMALL = 64  # pixels below which tiles that are not full count
# Numbers that a row of taps reads, up to which tiles along rows take it as one: beyond, tables cost
# less than tiles that rows do not fill (4@84 k8 s4, of 32 numbers: 0.050 ms, along rows 0.055, Zen
# 3).
DEEPEST = 24
# Channels of which tiles along rows take a tap at a time: as many as are unrolled, with no loop
# over channels. Channels-last images of those are packed for it, as tables and padding cost more
# (Zen 3, two threads: 12->16@128x256 0.78 to 0.68 ms, 12->12 dilated by 4 0.87 to 0.78, by 16 1.47
# to 1.37). All three taps of 12 channels at once took 0.89; 19 channels gained nothing, nor did
# contiguous images, but for dilated ones (by 8 2.03 to 1.48). MOST of one vector of outputs
# (Granite Rapids: 19->12@256x512 s2 .83 to .63 ms, 24->12@128 .42 to .37, 40->16@128 .66 to .59,
# 5x5 20->16@128 .95 to .78; 48->16@128 s2 .99; AVX2 code 1.0 to 1.08).
FEWER, MORE, MOST = 9, 16, 40
# Forms of a plan: () for tables of rows; (ahead,) for tiles along rows, whose pixels lie so many
# numbers apart; and tables again, in passes (konv.kernels.passes).
PASSES = (0,)
FLAT = 2  # numbers of the form of such a plan
# Bytes of a block's weights that no second-level cache holds: with AVX-512 channels-last images of
# such layers are packed, as contiguous ones are, and go in passes (7x7 512->256@22 12.5 to 9.0 ms,
# 3x3 s2 1280@16 7.6 to 6.1, 3x3x3 512@2x7x7 2.85 to 2.57; Granite Rapids; AVX2 code .83 to 1.4
# times as fast), but not where outputs may leave out padding (2048->256@65 d36 .76), nor with under
# WORTH products for a number packed (1024->64@33 s2 .86): there tiles of fewer vectors are faster,
# even those of one, which do 62 % of the peak.
HEAVY, MEMORY, LOADS, WORTH = 2**21, 1.6, 1.3, 300
# With AVX-512, so many times as long takes a layer of one channel, whose results leave soon after
# each other (channels-last 5x5 1->64@480 11.4 ms, planar 8.5; 3x3 @180 1.2 and 0.35, 16@128 5x5
# 0.13 and 0.07; two channels 0.17 and 0.45; Granite Rapids).
LONE = 1.5
# Pixels of tiles along rows from which on AVX-512 has long runs of results to store in planes, and
# how many times as long others take: 6 x 4 beside 8 x 2 or 8 x 3 (3->64 3x3 s2 @256 .505 and .351
# ms, 2x2 s2 @224 .254 and .132, 7x7 s2 .771 and .736, 3->96 4x4 s4 .136 and .119; Granite Rapids).
WHOLE, SHORT = 8, 1.15
# So many times as long takes a layer of more taps along an axis than pixels, of which all tiles
# leave some out if padding is zeros (conv1d 768@49 k128 in 16 groups 1.25 ms, else modelled as
# 1.6; Emerald Rapids).
BEYOND = 0.78
FEW = 8  # channels up to which channels-last images are packed too, if that makes runs of taps

Price = Callable[[tuple[int, int]], tuple[float, int]]

name = "direct"
exact = True
once = True
words = JOB


def why_not(conv: Conv, target: Target) -> str | None:  # noqa: ARG001 - as konv.plan.Algorithm
    """Never: what nothing else takes is computed here."""
    return None


def plans(conv: Conv, target: Target, packed: bool, blocked: bool) -> tuple[Plan, ...]:
    """One plan for each register tile, cheapest first by `tile_cost` and, of small images, by how
    full tiles are (1x1 512->2048@7: 4 x 3 takes 0.66 ms, 6 x 2 0.71, Zen 3). Half precision is
    always packed: that converts it. So are deep layers whose weights fill a cache (HEAVY), and few
    channels whose taps can be run together; if a run is short, or there are few channels more,
    tiles may go along rows instead of by tables, which rows of small images do not fill.
    """
    run = _run(conv, True)
    packed = packed or conv.dtype in HALVES or (run > 1 and conv.ci <= FEW)
    lanes = target.lanes(conv.dtype)
    co, ci = conv.co // conv.groups, conv.ci // conv.groups
    vectors, odd = -(-co // lanes), 0 if blocked else co % lanes
    table = TILES[target.vector_bytes, target.registers]
    pixels = prod(-(-axis.out // axis.up) for axis in conv.axes)
    rows = _in_rows(conv, packed, target)
    packed = packed or rows
    depth = ci * _run(conv, packed)

    block = depth * prod(axis.kernel for axis in conv.axes) // _run(conv, packed) * lanes
    heavy, most = target.vector_bytes == 64 and not packed, HEAVY
    if heavy and meets_padding(conv):  # so two of three taps are read, along each axis
        block, most = block * 4 // 9, HEAVY // 2
    wide = min(table[0][1], vectors) * block * BYTES[conv.dtype] > HEAVY
    if heavy and wide and is_deep(conv) and not apart(conv):
        each = co * prod(axis.kernel / axis.stride for axis in conv.axes)
        packed, heavy = each >= WORTH, each < WORTH

    def price(tile: tuple[int, int]) -> tuple[float, int]:
        cycles = tile_cost(vectors, *tile) * _fullness(pixels, tile[0])
        if target.vector_bytes == 64 and tile[1] == 1 < vectors:
            cycles *= LOADS
        if heavy and tile[1] * block * BYTES[conv.dtype] > most:
            cycles *= MEMORY
        return cycles, max(tile[1], vectors)

    tables = PASSES if packed and is_deep(conv) else ()
    # SSE has no register left for them: a sum of 3 x 3 goes through the stack.
    flat = (target.vector_bytes, target.registers) != (16, 16) and tables != PASSES
    if flat and all(axis == Axis(axis.size, 1) for axis in conv.axes):
        return _flat_plans(conv, target, packed, blocked)

    def row_price(tile: tuple[int, int]) -> tuple[float, int]:
        cycles, most = price(tile)
        short = target.vector_bytes == 64 and blocked and tile[0] < WHOLE
        return cycles * (SHORT if short else 1), most

    ways: list[tuple[int, tuple[int, ...], Price]] = [(depth if ci < UNROLL else 0, tables, price)]
    if rows:
        form = (conv.axes[-1].stride * ci,)
        ways.insert(pixels < SMALL, (ci * _row_run(conv), form, row_price))
    return tuple(
        Plan(
            name, conv.dtype, packed, blocked, mr, nr, last_block(vectors, nr, odd), odd, deep,
            form=form,
        )
        for deep, form, key in ways
        for mr, nr in sorted(table, key=key)
    )  # fmt: skip


def _flat_plans(conv: Conv, target: Target, packed: bool, blocked: bool) -> tuple[Plan, ...]:
    """The plans of a layer of one tap in steps of one, cheapest first: tiles along pixels
    (konv.kernels.direct.flat_tile). The last block has a tile of its own.
    """
    lanes, co, ci = target.lanes(conv.dtype), conv.co // conv.groups, conv.ci // conv.groups
    vectors, odd = -(-co // lanes), 0 if blocked else co % lanes
    table = TILES[target.vector_bytes, target.registers]

    def others(nr: int) -> int:
        last = last_block(vectors, nr, odd)
        return next(m for m, n in sorted(table, reverse=True) if n >= last) if last else 0

    shapes = {(mr, nr): others(nr) for mr, nr in table}
    outputs = prod(axis.out for axis in conv.axes)

    def price(tile: tuple[int, int]) -> float:
        return flat_cost(vectors, tile, shapes[tile]) * _fullness(outputs, tile[0])

    return tuple(
        Plan(
            name, conv.dtype, packed, blocked, mr, nr, last_block(vectors, nr, odd), odd,
            ci if ci < UNROLL else 0, form=(0, shapes[mr, nr] or mr),
        )
        for mr, nr in sorted(table, key=price)
    )  # fmt: skip


def _fullness(pixels: int, mr: int) -> float:
    """So many times as many pixels are computed as there are, of small images."""
    return -(-pixels // mr) * mr / pixels if pixels < SMALL else 1


def _in_rows(conv: Conv, packed: bool, target: Target) -> bool:
    """Whether tiles may go along the rows of an image (konv.kernels.direct.row_tile), which is then
    packed. With vectors of 16 bytes LLVM does not keep their sums in registers.
    """
    if target.vector_bytes < 32 or conv.groups > 1 or is_deep(conv):
        return False
    if conv.axes[-1].kernel == 1 or any(axis.up > 1 for axis in conv.axes):
        return False
    dilated = any(axis.dilation > 1 for axis in conv.axes)
    most = MOST if conv.dims > 1 and conv.co <= target.lanes(conv.dtype) else MORE
    return _row_run(conv) > 1 or (FEWER <= conv.ci <= most and (dilated or not packed))


def _row_run(conv: Conv) -> int:
    """Taps of the last axis that tiles along rows take as one: all of them, or 1."""
    run = _run(conv, True)
    return run if conv.ci * run <= DEEPEST else 1


def _ahead(plan: Plan) -> int:
    """Numbers from pixel to pixel of tiles along rows, 0 of others."""
    return plan.form[0] if plan.form else 0


def _taken(conv: Conv, plan: Plan) -> int:
    """Taps of the last axis that a plan takes as one."""
    return _row_run(conv) if _ahead(plan) else _run(conv, plan.packed)


def _run(conv: Conv, packed: bool) -> int:
    """Taps of the last axis that are one run of numbers in a packed image, for all groups in one:
    all of them, or 1.
    """
    axis = conv.axes[-1]
    dense = conv.groups == axis.dilation == axis.up == 1
    return axis.kernel if packed and dense and not is_deep(conv) else 1


def cost(conv: Conv, plan: Plan, target: Target) -> float:
    """Cycles of a core for one image: the tiles at 92 % of what they could do, the tables of their
    rows (2 cycles an address), packing (0.5 cycles a number in and out, 1.5 where results go out
    between others). Tiles along rows have no tables, and packing is more of what few channels take:
    1.5 cycles a number of one or two planes, 1 of three, 0.8 of results (3 -> 16 s2 @512x1024: 1.8
    ms, planar 2.03; 3 -> 24 s2 @224: 0.19, planar 0.22; 3 -> 64 @224: 2.2, planar 1.85; Zen 3),
    which with AVX-512 are 2, of tiles of 8 pixels, if they are full, 0.7 in steps and else 1.7
    (3 -> 64 7x7 s2 @224: .736 ms, planar .768; 4x4 s4 .115 and .167, 3x3 s2 .351 and .287; 7x7 @256
    4.25 and 3.97; Granite Rapids).
    """
    pixels, taps = prod(axis.out for axis in conv.axes), channels.mean_taps(conv)
    vectors = -(-conv.co // conv.groups // target.lanes(plan.dtype))
    tile = plan.pixels, plan.vectors
    rows, flat = plan.form not in ((), PASSES), len(plan.form) == FLAT
    each = flat_cost(vectors, tile, plan.form[1]) if flat else tile_cost(vectors, *tile)
    loop = conv.ci * taps * each / 0.92
    if conv.mode == "zeros" and any(a.kernel > a.size for a in conv.axes if a.up == 1):
        loop *= BEYOND
    # What is the same for each tap however few channels it has: a trip of the loop over taps.
    taps /= _taken(conv, plan)
    trip, call, address = (ROW_TRIP, ROW_CALL, 0) if rows else (TRIP, CALL, 2)
    blocks = conv.groups * -(-vectors // plan.vectors)
    loop += blocks * (taps * trip + call) / plan.pixels + conv.groups * MASKED * bool(plan.odd)
    number = 0.5
    if rows and not flat and conv.ci < UNROLL:
        number = 1 if conv.ci == RGB else 1.5
    if conv.groups > 1 and max(axis.stride for axis in conv.axes) > 1:
        number = 2  # at least: 512@28 s2 g32 takes 0.44 ms contiguous, 0.21 channels-last (Zen 3)
    elif conv.groups > 1 and pixels <= SMALL:
        number = 3  # contiguous 784@7 g49 .119 ms, channels-last .053 (Emerald Rapids)
    if _ahead(plan) and any(axis.dilation > 1 for axis in conv.axes):
        # Boxes of few rows, which pack those between taps again: 12->12@128x256 dilated by 4 takes
        # 0.93 ms, planar 0.74; by 8 0.91 and 1.6 (Zen 3).
        number = 2.5
    packed = conv.ci * prod(axis.size for axis in conv.axes) * number * plan.packed
    wide = target.vector_bytes == 64
    along = 2.0 if wide else 0.8
    if wide and plan.pixels >= WHOLE and pixels > SMALL:
        along = 0.7 if conv.axes[-1].stride > 1 else 1.7
    out = (along if rows and not flat else 0.5) if conv.axes[-1].up == 1 else 1.5
    loop *= LONE if wide and conv.ci == 1 else 1
    if rows and not flat:  # a row of fewer pixels takes a tile all the same
        loop *= max(1, plan.pixels / conv.axes[-1].out)
    return pixels * (loop + address * taps + conv.co * out * plan.blocked) + packed


def work(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """Units of work as konv.kernels.schedule cuts them."""
    seen, deep = Channels.of(conv, plan, target, per_channel=False), plan.form == PASSES
    return schedule(
        conv, plan, target, seen, x, y, threads, run=_taken(conv, plan), one_row=True, deep=deep,
        ahead=_ahead(plan), tables=len(plan.form) < FLAT,
    )  # fmt: skip


def packing(conv: Conv, plan: Plan, target: Target) -> Packing:
    """Blocks of output channels as konv.kernels.packing packs them."""
    return Channels.of(conv, plan, target, per_channel=False).packing


def blocks(conv: Conv, plan: Plan, target: Target) -> Blocks:
    """Register tiles."""
    return channels.blocks(conv, plan, target, per_channel=False)


def emit(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run` and `pack`."""

    def tile(module: Module, vectors: int, odd: int) -> Routine:
        return emit_tile(module, plan, vectors, odd, passes=plan.form == PASSES)

    rows = emit_flat_sweep if len(plan.form) == FLAT else emit_row_sweep if _ahead(plan) else None
    along = _ahead(plan) > 0
    return emit_kernel(
        plan, target, tile, passes=plan.form == PASSES, emit_sweep=rows, ends=along,
        at_once=along and straight(plan),
    )  # fmt: skip
