"""How konv.kernels.spectrum cuts a layer into tiles and units, and what that costs."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from konv.geometry import ONE, Conv
from konv.kernels import schedule, scratch
from konv.kernels.fourier.lengths import length_of
from konv.kernels.pack import TRANSFORMED
from konv.kernels.schedule import MODES
from konv.kernels.strips.cut import UNITS
from konv.kernels.strips.job import JOB, words_of_axes
from konv.plan import Plan, Strides, Work
from konv.target import BYTES, Target

# Register tiles, tiles by vectors of outputs, by bytes in a vector and registers: two sums each.
TILES = {(16, 16): (2, 2), (32, 16): (3, 2), (16, 32): (6, 2), (64, 32): (6, 2)}
# Cycles of a point of a vector of input channels, of output channels; by length how many times as
# many as of 56.
IN, OUT = 9.0, 9.5
TIMES = {28: 1.05, 40: 1.0, 56: 1.0, 72: 1.05, 112: 1.2, 144: 1.35, 240: 1.8}
SHARE = 4  # outputs of a tile that are worth its points: of so many points one
# Share of the peak that products reach; cycles a byte of U, most of which arrives meanwhile (with
# .16 55 layers were 3 % off the best in AVX2 code, now 0.1: conv1d 512@100 k7 2.8 ms, 1.6; with
# AVX-512 1x7 192@17 .49, .44; Emerald Rapids).
PEAK, BYTE = 0.85, 0.09
LONG, BROAD = 2048, 56  # outputs of a row that plans are made for: of sequences, of images
# Tiles of a unit at least, where there are so many: U, which is larger than the second-level cache
# as soon as channels are many, is read once for them. V and M go past that cache then.
MANY, WIDE, CACHE = 48, 4, 0.6


def products(name: str, conv: Conv, target: Target, packed: bool, blocked: bool) -> Plan:
    """A plan of products, tiles by vectors of outputs, whose form is still to be said."""
    lanes, (tiles, vectors) = target.lanes(conv.dtype), TILES[target.vector_bytes, target.registers]
    every = -(-conv.co // conv.groups // lanes)
    vectors = min(vectors, every)
    # An odd number of vectors, lest tiles meet in the same sets of a cache
    held = (-(-conv.ci // conv.groups // lanes) | 1) * lanes
    return Plan(name, conv.dtype, packed, blocked, tiles, vectors, every % vectors, depth=held)


def outputs_of(plan: Plan) -> int:
    """Outputs of a tile."""
    return length_of(plan).all - (plan.form[2] - 1) * plan.form[8]


def many(plan: Plan, wide: int) -> int:
    """Tiles of a unit at least, of rows of so many: more where units share rows of pixels."""
    return MANY + 2 * tall(plan) * min(wide, WIDE)


def of_length(plan: Plan, length: int) -> Plan:
    """The same plan with transforms of this length."""
    plan = replace(plan, form=(*plan.form[:-1], length))
    return replace(plan, alignment=outputs_of(plan))


def lengths(extent: int) -> list[int]:
    """Of transforms, for taps that reach over so many pixels."""
    return [each for each in TIMES if (each - extent + 1) * SHARE >= each]


def affordable(conv: Conv) -> list[int]:
    """Those whose transformed weights are not too many."""
    pairs = conv.ci // conv.groups * conv.co * (conv.axes[-2].kernel if conv.dims > 1 else 1)
    each = 2 * BYTES[conv.dtype] * pairs
    return [n for n in lengths(conv.axes[-1].extent) if (n // 2 + 1) * each <= TRANSFORMED]


def tall(plan: Plan) -> int:
    """Rows under one row of outputs, but for that itself."""
    return (plan.form[1] - 1) * plan.form[7]


def cycles(conv: Conv, plan: Plan, target: Target, long: bool = False) -> float:
    """Modelled cycles of one core for one image, or for rows of as many outputs as plans are made
    for.
    """
    lanes, length = target.lanes(conv.dtype), length_of(plan)
    ci, co = (-(-count // conv.groups // lanes) for count in (conv.ci, conv.co))
    usual = LONG if conv.dims == 1 else BROAD
    row = usual if long else conv.axes[-1].out
    wide, rows = -(-row // outputs_of(plan)), prod(axis.out for axis in conv.axes[:-1])
    if long and conv.dims > 1:
        rows = BROAD
    tiles, units = wide * rows, -(-wide * rows // many(plan, wide))
    deep = wide * (rows + tall(plan) * units)
    padded = -(-tiles // plan.pixels) * plan.pixels
    ends = length.all * (IN * ci * deep + OUT * co * tiles) * TIMES[length.all]
    pairs = length.bins * (conv.ci // conv.groups) * co * plan.form[1]
    units += padded > plan.pixels
    return conv.groups * (ends + pairs * (padded * 2 / PEAK + units * 8 * lanes * BYTE))


def work(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """As many tiles as the second-level cache holds at all bins, or MANY; of few tiles and groups,
    ranges of outputs, whose units transform the same pixels.
    """
    lanes, size = target.lanes(conv.dtype), BYTES[conv.dtype]
    if conv.exact_macs < schedule.ALONE:
        threads = 1
    length, outputs, axes = length_of(plan), outputs_of(plan), (ONE,) * (3 - conv.dims) + conv.axes
    vectors = -(-conv.co // conv.groups // lanes)
    # U of a group is read for each unit: where it does not stay in a cache, units are few.
    numbers = 2 * length.bins * (conv.ci // conv.groups) * vectors * lanes * plan.form[1]
    often = 1 if numbers * size > target.l2 else UNITS
    wanted = often * threads if threads > 1 else 1
    ranges, each = 1, vectors
    tile = length.bins * 2 * (plan.depth + vectors * lanes) * size
    wide, rows = -(-axes[2].out // outputs), axes[0].out * axes[1].out
    share = -(-conv.n * conv.groups * rows * wide // wanted)
    most = max(int(target.l2 * CACHE) // tile, many(plan, wide))
    most = max(plan.pixels, min(most, share))
    most = -(-most // plan.pixels) * plan.pixels
    boxes = -(-wide // most)
    along = -(-wide // boxes)
    high = min(axes[1].out, max(1, most // along)) if boxes == 1 else 1
    units = conv.n * conv.groups * axes[0].out * -(-axes[1].out // high) * -(-wide // along)
    if units < threads:
        blocks = -(-vectors // plan.vectors)
        ranges = min(blocks, -(-threads // max(1, units)))
        each = -(-blocks // ranges) * plan.vectors
        ranges = -(-vectors // each)
    words = dict.fromkeys(JOB, 0)
    words |= {
        "units": units * ranges, "chunks": conv.groups * ranges, "chunk": 1,
        "lines": vectors, "ranges": ranges, "vectors": each,
        "ci": conv.ci // conv.groups, "co": conv.co // conv.groups, "mode": MODES[conv.mode],
        "x_batch": x[0], "x_channel": x[1], "y_batch": y[0], "y_channel": y[1],
    }  # fmt: skip
    words |= words_of_axes(conv.axes, (1, high, along * outputs), x, y)
    held = -(-along * high // plan.pixels) * plan.pixels
    under = held + along * tall(plan)
    parts = {
        "at_strip": length.all * lanes,
        "at_between": length.all * lanes,
        "at_block": length.all * lanes,
        "at_tiles": length.bins * (under * 2 * plan.depth + lanes),
        "at_sums": length.bins * (held * 2 * each + 1) * lanes,
    }
    each_part = {part: numbers * size for part, numbers in parts.items()}
    words["thread_bytes"] = scratch.lay_out(words, each_part)
    return Work(list(words.values()), threads, words["thread_bytes"])
