"""How konv.kernels.spectra cuts a layer into tiles and units, and what that costs."""

from __future__ import annotations

from dataclasses import replace
from math import lcm, prod
from typing import NamedTuple

from konv.geometry import Conv
from konv.kernels import schedule, scratch
from konv.kernels.fourier.lengths import length_of, pitch_of
from konv.kernels.pack import TRANSFORMED
from konv.kernels.schedule import MODES
from konv.kernels.strips.job import JOB, words_of_axes
from konv.plan import Plan, Strides, Work
from konv.target import BYTES, Target

# Cycles of a point of a vector of input channels and of output channels, of 24 points along each
# axis, and how many times as many others take, with vectors of 64 bytes and of less: longer ones
# meet each other in the caches. With PEAK, BYTE and EACH fitted to ten layers of 1 to 128 channels
# and both formats, two threads, which took .7 to 1.2 of it (Emerald Rapids, AVX2 code as well).
IN, OUT = 10.0, 13.0
TIMES = {
    20: (1.1, 1.0), 24: (1.0, 1.0), 28: (1.15, 1.05), 36: (1.45, 1.28), 40: (1.55, 1.15),
    56: (2.3, 1.6),
}  # fmt: skip
SHARE = 4  # outputs of a tile that are worth its points: of so many points along an axis one
FARTHEST = max(TIMES) - max(TIMES) // SHARE + 1  # pixels that taps may reach over
# Bytes of V and M of a unit; tiles of the largest register tile, lanes of the largest vector
HELD, TILE, LANES = 64 << 20, 6, 16
PARTS = 16  # heights of units that are weighed, lest those of very tall images take long
EACH = 2  # input channels that the stores of a product, and the call of it, are worth
# Share of the peak that products reach; cycles a byte of U, most of which arrives meanwhile (with
# .17 30 layers of 7 to 11 taps were 5 % off the best, now 1: 9x9 128@14 1.6 ms, 1.2; Emerald
# Rapids).
PEAK, BYTE = 0.55, 0.1
BROAD = 56  # outputs along each axis of the image that plans are made for
# Tiles of a unit: so many at least where there are so many, so many at most; share of the cache
MANY, BOX, CACHE = 24, 48, 0.6


class Cut(NamedTuple):
    """Units of so many rows of so many tiles, of ranges of so many vectors of outputs."""

    high: int
    wide: int
    vectors: int


def outputs_of(plan: Plan) -> tuple[int, int]:
    """Outputs of a tile, along columns and rows."""
    one, two = (length_of(plan).all - (plan.form[a] - 1) * plan.form[6 + a] for a in (1, 2))
    return one, two


def points_of(plan: Plan) -> int:
    """Bins of a tile."""
    return length_of(plan).bins * length_of(plan).all


def of_length(plan: Plan, length: int) -> Plan:
    """The same plan with transforms of this length."""
    plan = replace(plan, form=(*plan.form[:-1], length))
    return replace(plan, alignment=lcm(*outputs_of(plan)))


def lengths(conv: Conv) -> list[int]:
    """Of transforms, for taps that reach over so many pixels."""
    extents = [axis.extent for axis in conv.axes[-2:]]
    return [each for each in TIMES if (each - max(extents) + 1) * SHARE >= each]


def affordable(conv: Conv) -> list[int]:
    """Those whose transformed weights are not too many, nor the channels under a few tiles."""
    ci, co = conv.ci // conv.groups, conv.co // conv.groups
    outputs = conv.groups * -(-co // LANES) * LANES
    each = 2 * BYTES[conv.dtype] * ci
    points = {length: length * (length // 2 + 1) for length in lengths(conv)}
    return [
        length for length, count in points.items()
        if count * each * outputs <= TRANSFORMED and count * each * TILE <= HELD
    ]  # fmt: skip


def tiles_of(conv: Conv, plan: Plan, broad: bool = False) -> tuple[int, int]:
    """Rows of tiles, and tiles of one; of the image that plans are made for, if `broad`."""
    found = zip(conv.axes[-2:], outputs_of(plan), strict=True)
    one, two = (-(-(BROAD if broad else axis.out) // outputs) for axis, outputs in found)
    return one, two


def _most(conv: Conv, plan: Plan, target: Target) -> int:
    """Tiles of a unit at most: what the second-level cache holds, or MANY where U is larger."""
    lanes, size = target.lanes(plan.dtype), BYTES[plan.dtype]
    tile = points_of(plan) * 2 * (plan.depth + plan.vectors * lanes) * size
    weights = points_of(plan) * 2 * (conv.ci // conv.groups) * (conv.co // conv.groups) * size
    held = int(target.l2 * CACHE) // tile
    if weights > target.l2:
        held = max(held, min(MANY, HELD // tile))
    return max(plan.pixels, min(held, BOX) // plan.pixels * plan.pixels)


def _cycles(conv: Conv, plan: Plan, target: Target, tiles: int, vectors: int) -> float:
    """Of one unit."""
    lanes, ci = target.lanes(conv.dtype), conv.ci // conv.groups
    deep, square = -(-ci // lanes), length_of(plan).all ** 2
    padded = -(-tiles // plan.pixels) * plan.pixels
    pairs = points_of(plan) * (ci + EACH) * vectors
    times = TIMES[length_of(plan).all][target.vector_bytes < 4 * LANES]
    ends = tiles * square * (IN * deep + OUT * vectors) * times
    return ends + pairs * (padded * 2 / PEAK + 8 * lanes * BYTE)


def cycles(conv: Conv, plan: Plan, target: Target, broad: bool = False) -> float:
    """Modelled cycles of one core for one image, or for the one that plans are made for."""
    vectors = -(-conv.co // conv.groups // target.lanes(conv.dtype))
    tiles = prod(tiles_of(conv, plan, broad))
    planes = conv.axes[0].out if conv.dims == 3 else 1
    most = min(tiles, MANY)  # whatever the cache: it does not choose plans
    return conv.groups * planes * tiles / most * _cycles(conv, plan, target, most, vectors)


def cut_of(conv: Conv, plan: Plan, target: Target, threads: int) -> Cut:
    """The quickest: rows of tiles, parts of rows, or of few tiles ranges of outputs, whose units
    transform the same pixels.
    """
    vectors = -(-conv.co // conv.groups // target.lanes(conv.dtype))
    rows, columns = tiles_of(conv, plan)
    most = _most(conv, plan, target)
    times = conv.n * conv.groups * (conv.axes[0].out if conv.dims == 3 else 1)
    wide = -(-columns // -(-columns // most))
    blocks = -(-vectors // plan.vectors)

    def units(high: int) -> int:
        return times * -(-rows // high) * -(-columns // wide)

    def price(cut: Cut) -> float:
        own = _cycles(conv, plan, target, cut.high * cut.wide, cut.vectors)
        return -(-units(cut.high) * -(-vectors // cut.vectors) // threads) * own

    # As many rows as there is room for, or evenly less
    fewest = -(-rows // (most // wide)) if wide == columns else rows
    highs = {-(-rows // parts) for parts in range(fewest, min(rows, fewest + PARTS) + 1)}
    found = [
        Cut(high, wide, -(-blocks // min(ranges, blocks)) * plan.vectors)
        for high in sorted(highs, reverse=True)
        for ranges in (1, 2, -(-threads // max(1, units(high))))
    ]
    return min(found, key=price)


def work(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """Units of a `Cut`."""
    lanes, size = target.lanes(conv.dtype), BYTES[conv.dtype]
    if conv.exact_macs < schedule.ALONE:
        threads = 1
    length, outputs = length_of(plan), outputs_of(plan)
    vectors = -(-conv.co // conv.groups // lanes)
    cut = cut_of(conv, plan, target, threads)
    each, ranges = cut.vectors, -(-vectors // cut.vectors)
    words = dict.fromkeys(JOB, 0)
    words |= {
        "chunks": conv.groups * ranges, "chunk": 1,
        "lines": vectors, "ranges": ranges, "vectors": each,
        "ci": conv.ci // conv.groups, "co": conv.co // conv.groups, "mode": MODES[conv.mode],
        "x_batch": x[0], "x_channel": x[1], "y_batch": y[0], "y_channel": y[1],
    }  # fmt: skip
    words |= words_of_axes(conv.axes, (1, cut.high * outputs[0], cut.wide * outputs[1]), x, y)
    words["units"] = conv.n * words["chunks"] * prod(words[f"boxes{a}"] for a in range(3))
    held = -(-cut.high * cut.wide // plan.pixels) * plan.pixels
    points = points_of(plan)
    parts = {
        "at_strip": length.all * lanes,
        "at_between": 2 * length.all * lanes,
        "at_block": length.all * lanes,
        "at_others": length.bins * pitch_of(plan) * held * plan.vectors * lanes,
        "at_tiles": points * (held * 2 * plan.depth + lanes),
        "at_sums": length.all * (held * 2 * plan.vectors + 1) * lanes,
    }
    each_part = {part: numbers * size for part, numbers in parts.items()}
    words["thread_bytes"] = scratch.lay_out(words, each_part)
    return Work(list(words.values()), threads, words["thread_bytes"])
