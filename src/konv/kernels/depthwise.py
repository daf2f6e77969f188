"""Depthwise convolution, one filter per channel: channels in the lanes of input, weights and output
alike.

    for tap in the row list of the tile:
        for m in pixels: for n in vectors: sums[m][n] += x[m][vector n] * w[tap][vector n]

Nothing is broadcast and nothing is summed over channels, so each vector of input is used once per
tap: bound by loads (one a multiply-add), and by memory where the kernel is small. Stride, dilation,
padding and phases are addresses in the rows, as in konv.kernels.direct.

konv.kernels.planes, konv.kernels.pencils and konv.kernels.spread stand before it; it is left with
few channels, with half precision, with mixed layouts of strided transposed layers, and with more
taps than those take.
"""

from __future__ import annotations

from math import prod

from konv.geometry import Conv
from konv.kernels import channels
from konv.kernels.channels import Channels
from konv.kernels.cut import SCATTERED
from konv.kernels.direct.tiles import last_block
from konv.kernels.microtile import tile_function
from konv.kernels.schedule import schedule
from konv.kernels.stored import HALVES
from konv.kernels.strips import costs
from konv.kernels.units import emit_kernel
from konv.kernels.words import JOB
from konv.llvm import REAL, Module, Routine
from konv.plan import Blocks, Packing, Plan, Strides, Work
from konv.target import COMPUTED, Target

name = "depthwise"
exact = True
once = True
words = JOB

# Outputs in a row, and bytes that their sources may take, packed: those of a second-level cache,
# but costs hang on no machine's.
STRIP, SOURCES = 16, 512 * 1024
# Pixels x vectors by the number of registers: eight chains of multiply-adds or more, for they are 4
# cycles long.
TILES = {16: ((5, 2), (8, 1)), 32: ((5, 4), (8, 2), (8, 1))}


def why_not(conv: Conv, target: Target) -> str | None:  # noqa: ARG001 - as konv.plan.Algorithm
    """Only one input and one output channel a group, and enough channels for the lanes to pay."""
    ci, co = conv.ci // conv.groups, conv.co // conv.groups
    if conv.ci != conv.groups or conv.co != conv.groups:
        return f"takes one channel in and out a group; here {ci} and {co}"
    if conv.groups == 1:
        return "has one channel only, which would fill one lane of a vector"
    return None


def plans(conv: Conv, target: Target, packed: bool, blocked: bool) -> tuple[Plan, ...]:
    """The widest tile that the channels fill."""
    packed = packed or conv.dtype in HALVES
    lanes = target.lanes(conv.dtype)
    vectors = -(-conv.co // lanes)
    odd = 0 if packed and blocked else conv.co % lanes
    tiles = [tile for tile in TILES[target.registers] if tile[1] <= vectors] or [
        TILES[target.registers][-1]
    ]
    return tuple(
        Plan(name, conv.dtype, packed, blocked, mr, nr, last_block(vectors, nr, odd), odd)
        for mr, nr in tiles
    )


def cost(conv: Conv, plan: Plan, target: Target) -> float:
    """Cycles of a core for one image: two loads a cycle, of which each tap takes two vectors and an
    address; tables and packing as for konv.kernels.direct. At least what moving the arrays takes.
    """
    pixels = prod(axis.out for axis in conv.axes)
    taps = channels.mean_taps(conv)
    vectors = -(-conv.co // target.lanes(plan.dtype))
    loop = vectors * taps * (1 + 2 / plan.vectors)
    packed = conv.ci * prod(axis.size for axis in conv.axes) * 0.5
    if _far_apart(conv):
        packed = conv.ci * pixels * taps * SCATTERED
    compute = pixels * (loop + 2 * taps + conv.co * 0.7 * plan.blocked) + packed * plan.packed
    return max(compute, costs.moved(conv))


def _far_apart(conv: Conv) -> bool:
    """Whether dilated taps lie so far apart that a packed box has what each output reads and no
    more (konv.kernels.lines.Line): 512@3999 d128 takes 7.5 ms, with pixels in the lanes 2.9; but of
    8 images 128@1000 d256 1.7 and 2.0 (Zen 3).
    """
    *outer, last = conv.axes
    slots = prod(axis.extent for axis in outer) * ((STRIP - 1) * last.stride + last.extent)
    image = conv.ci * slots * COMPUTED[conv.dtype]
    return image > SOURCES and any(axis.dilation > 1 for axis in conv.axes)


def work(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """Units of work as konv.kernels.schedule cuts them."""
    seen = Channels.of(conv, plan, target, per_channel=True)
    return schedule(conv, plan, target, seen, x, y, threads)


def packing(conv: Conv, plan: Plan, target: Target) -> Packing:
    """Blocks of output channels as konv.kernels.packing packs them."""
    return Channels.of(conv, plan, target, per_channel=True).packing


def blocks(conv: Conv, plan: Plan, target: Target) -> Blocks:
    """Register tiles."""
    return channels.blocks(conv, plan, target, per_channel=True)


def emit(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run` and `pack`."""
    lanes = target.lanes(plan.dtype)

    def tile(module: Module, vectors: int, odd: int) -> Routine:
        with tile_function(module, plan, vectors, odd) as (f, sums, a):
            with f.loop(a["count"]) as t:
                row = a["rows"] + t * (plan.pixels + 1)
                weights = a["weights"] + row[0] * a["tap_stride"]
                ws = [weights.vector(n * lanes, lanes) for n in range(vectors)]
                for m, sums_of_pixel in enumerate(sums):
                    x = row.pointer(1 + m, REAL[plan.dtype]) + a["first"]
                    for n, (total, w) in enumerate(zip(sums_of_pixel, ws, strict=True)):
                        last = odd and not plan.packed and n == vectors - 1
                        value = (
                            f.load_first(x, n * lanes, lanes, odd)
                            if last
                            else x.vector(n * lanes, lanes)
                        )
                        total.set(f.fma(value, w, total.get()))
            return f.fn

    return emit_kernel(plan, target, tile, per_channel=True)
