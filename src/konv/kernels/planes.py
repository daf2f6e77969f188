"""Depthwise convolution of contiguous images: pixels of a row in the lanes, a channel at a time;
channels-last ones of fewer channels than fill a vector, all of them in turn
(konv.kernels.strips.interlaced).

konv.kernels.strips has the loops. A tile is `pixels` rows by `vectors` of columns; weights are
splat over the lanes. Rows are read where they lie, lanes beside the image masked; a row that is not
a multiple of a vector ends with one that overlaps the one before. Machines that mask no loads go
through strips, and so do kernels of many taps whose sums would fill all 16 registers
(konv.kernels.strips.turns).

Two cores of an Emerald Rapids (AVX-512), ms of a call between PyTorch tensors, contiguous in and
out, and PyTorch's in that layout:

    3x3 32@112        0.083  0.28      3x3 s2 96@112   0.188  0.48
    3x3 192@28        0.042  0.13      3x3 960@7       0.037  0.09
    3x3 d2 128@32     0.039  0.12      7x7 96@56       0.149  0.34

96@112 moves its arrays as fast as a large copy does here (39 GB/s), 32@112 1.2 times as fast, from
the second-level caches. 7x7 has 56 % of the peak of multiply-adds.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from konv.geometry import ONE, Conv
from konv.kernels.pack import HEADER
from konv.kernels.stored import HALVES
from konv.kernels.strips import costs, emit_kernel
from konv.kernels.strips import cut as strip_cut
from konv.kernels.strips.fill import emit_pack, emit_rows_fill
from konv.kernels.strips.form import (
    BANDS,
    FEW,
    HALVED,
    HELD,
    TALL,
    TURNS,
    UNROLL,
    Form,
    at_hand,
    banded,
    beside,
    form_of,
    halved,
    slides,
)
from konv.kernels.strips.interlaced import UNROLLED, as_plane, fits
from konv.kernels.strips.job import JOB
from konv.llvm import Module
from konv.plan import Blocks, Packing, Plan, Strides, Work
from konv.target import BYTES, Target

name = "planes"
exact = True
once = False
words = JOB

# Rows x vectors, by bytes in a vector and the number of registers: of up to 4 taps along the rows,
# up to 7, more, and where there are no rows. Seven rows fit the maps of most networks, 7 times a
# power of two; seven sums are one short of two multiply-adds a cycle that take 4, which matters
# where chains are long (14 rows take .84 to .95 of the time of 7 with 5x5 at 14 to 56 rows, 1.7
# times it at 7; Granite Rapids). SSE needs a register for the product, too.
TILES = {
    (16, 16): ((7, 1), (5, 1), (5, 2), (1, 7)),
    (32, 16): ((7, 1), (7, 1), (5, 2), (1, 4)),
    (16, 32): ((7, 1), (14, 1), (7, 2), (1, 7)),
    (64, 32): ((7, 1), (14, 1), (7, 2), (1, 7)),
}
LONGEST = 11  # taps of a column whose outputs take turns: LLVM spills of 31
# Bytes of vectors that rows of half as many lanes are computed in halves of: most of 64 bytes cross
# a cache line (3x3 960@7 26 to 20 us; 512@8 22 to 17, 5x5 1152@7 51 to 40; Granite Rapids).
HALVABLE = 64
MASKS = 32  # bytes of vectors from which on machines mask loads
# Taps of a row beyond which planar, which shares what it loads among all filters of a channel, is
# faster (1x64 1->8@22x1125 0.35 ms, planar 0.16; but of one filter 33 taps 256@800 0.14 and 0.27
# with AVX2; Granite Rapids).
MANY = 31
REACH = 256  # pixels that a row of taps may span: a row of the strip has room for it


def why_not(conv: Conv, target: Target) -> str | None:  # noqa: ARG001 - as konv.plan.Algorithm
    """One input channel a group, no inserted zeros, columns in one or two phases, few taps."""
    if conv.dtype in HALVES:
        return f"reads and writes float32 and float64; here {conv.dtype}"
    if conv.ci != conv.groups:
        return f"takes one input channel a group; here {conv.ci // conv.groups}"
    if any(axis.up > 1 for axis in conv.axes):
        return "takes no transposed layer with a stride"
    last = conv.axes[-1]
    if last.stride > 2:
        return f"takes strides of 1 and 2 along the last axis; here {last.stride}"
    if last.extent > REACH or max(axis.kernel for axis in (ONE, *conv.axes[:-1])) > 31:
        return f"takes up to 31 taps a column and rows of taps over {REACH} columns; here more"
    if last.kernel > MANY and conv.co > conv.ci:
        return f"takes rows of up to {MANY} taps with several filters a channel; here {last.kernel}"
    return None


def plans(conv: Conv, target: Target, packed: bool, blocked: bool) -> tuple[Plan, ...]:
    """One to four plans, where input and output are contiguous; the cheapest first: bands of rows
    take the place of vectors that slide (konv.kernels.strips.bands), or turns of tiles. Where both
    are channels-last, one for few channels.
    """
    if not (packed or blocked):
        return _beside(conv, target)
    if not (packed and blocked):
        return ()
    form = form_of(conv)
    few, some, many, single = TILES[target.vector_bytes, target.registers]
    rows, vectors = few if form[1] <= costs.SHORT else some if form[1] <= FEW else many
    if conv.dims == 1:
        rows, vectors = single
    way = int(target.vector_bytes >= MASKS and form[1] <= FEW)
    tiles = [(rows, vectors, way)]
    if way and target.vector_bytes == HALVABLE and conv.dims > 1:
        narrow = conv.axes[-1].out <= target.lanes(conv.dtype) // 2
        tiles.insert(0 if narrow else 1, (few[0], vectors, HALVED))
    elif rows > few[0]:  # of which short maps fill half
        short = conv.axes[-2].out <= few[0]
        tiles.insert(0 if short else 1, (few[0], vectors, way))
    sizes = len(tiles)
    # Tap by tap, from strips (konv.kernels.strips.turns), where 16 registers do
    turn = conv.dims > 1 and target.registers == 16 and target.vector_bytes >= MASKS
    if turn and 3 < form[1] <= LONGEST and form[1] * form[2] > HELD:
        tiles.append((TALL[0], 1, TURNS))
    tiles.append((4 if form[4] == 1 else 2, 1, BANDS))  # six rows under them, or five
    found = [
        Plan(name, conv.dtype, packed, blocked, rows, vectors, form=(*form, each))
        for rows, vectors, each in tiles
    ]
    if not (way and _goes_by_bands(found[-1])):
        del found[-1]

    def price(plan: Plan) -> float:  # another size of the first tile stands behind it
        return cost(conv, found[0] if plan in found[:sizes] else plan, target)

    return tuple(sorted(found, key=price))


def for_image(conv: Conv, plan: Plan, target: Target) -> Plan:
    """The plan for an image of this size that gives the same bits as one for its typical size:
    bands of rows for broad images, vectors of half the lanes for narrow ones alone.
    """
    first, *_ = plans(conv, target, plan.packed, plan.blocked)
    return first if banded(first) or halved(first) or halved(plan) else plan


def of_other_images(conv: Conv, target: Target, packed: bool, blocked: bool) -> list[Plan]:
    """The plans that `for_image` may give, whatever the size."""
    every = plans(conv, target, packed, blocked)
    halves = any(map(halved, every))
    return [
        plan for plan in every if banded(plan) or halved(plan) or (halves and plan.form[9] == 1)
    ]


def _beside(conv: Conv, target: Target) -> tuple[Plan, ...]:
    """Of channels-last images that for few channels (konv.kernels.strips.interlaced), in bands."""
    if not fits(conv, target) or target.vector_bytes < MASKS:
        return ()
    plane = as_plane(conv)
    form = form_of(plane)
    plan = Plan(
        name, conv.dtype, packed=False, blocked=False, pixels=4 if form[4] == 1 else 2, vectors=1,
        form=(*form, BANDS, conv.co),
    )  # fmt: skip
    taken = slides(plan) and prod(form[:3]) * plan.pixels <= UNROLLED
    return (plan,) if taken and plane.axes[-1].extent <= REACH else ()


def _goes_by_bands(plan: Plan) -> bool:
    """Whether the weights of such bands stay at hand, or taps are so few that they are unrolled; in
    steps of two only those of volumes (5x5 64@224 .95 of the speed of turns, Zen 3).
    """
    unrolled = prod(plan.form[:3]) * plan.pixels <= UNROLL
    return slides(plan) and (
        at_hand(plan) or (unrolled and (plan.form[0] > 1 or plan.form[4] == 1))
    )


def as_seen(plan: Plan, target: Target) -> Target:
    """The machine as a plan of half vectors sees it."""
    return replace(target, vector_bytes=target.vector_bytes // 2) if halved(plan) else target


def work(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """Boxes of output pixels and channels."""
    return strip_cut.cut(conv, plan, as_seen(plan, target), x, y, threads)


def cost(conv: Conv, plan: Plan, target: Target) -> float:
    """Modelled cycles of one core for one image, as konv.kernels.strips.costs counts them."""
    return costs.cycles(conv, plan, as_seen(plan, target))


def packing(conv: Conv, plan: Plan, target: Target) -> Packing:
    """Every channel's taps, then all biases; of channels side by side, for any to begin with."""
    taps, lines = conv.params // conv.co, 1 if beside(plan) else conv.co
    numbers = Form.of(plan, as_seen(plan, target).lanes(conv.dtype)).numbers
    size = HEADER + lines * numbers * (taps + 1) * BYTES[conv.dtype]
    return Packing(size, conv.groups, conv.co // conv.groups, 1)


def blocks(conv: Conv, plan: Plan, target: Target) -> Blocks:
    """Tiles of outputs, and the channels that stand side by side."""
    return Blocks(
        pixels=(
            prod(axis.out for axis in conv.axes),
            plan.pixels * plan.vectors * as_seen(plan, target).lanes(plan.dtype),
        ),
        co=(conv.co // conv.groups, 1),
        ci=(1, 1),
        groups=(conv.groups, 1),
    )


def emit(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run` and `pack`."""
    module = Module(as_seen(plan, target), name)
    emit_pack(module, plan)
    return emit_kernel(plan, emit_rows_fill(module, plan), module)
