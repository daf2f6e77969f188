"""Layers of one tap between contiguous images: pixels in the lanes, nothing transposed.

    for unit: a row of pixels, some output channels        konv.kernels.panels.cut
        for some output channels: for panel [channel][wide]: for tile of them:
            the first tile fills the panel from the image  konv.kernels.panels.copy has the rest
            for c in channels of the group:                THE LOOP (konv.kernels.panels.tile)
                load nv vectors of the panel               shared by all output channels
                for m in mr output channels: broadcast w[m][c]; nv multiply-adds
            results leave as rows of the output's planes

Of large planes that share few sets of the caches all panels are filled first, and rows lead.

It is the product that konv.kernels.direct.flat_tile computes, with the parts of image and weights
exchanged: a panel of pixels stands where a block of packed weights does there, rows of the weight,
which lie as the user has them, where pixels do. So an image is copied a vector at a time, not
turned, and results leave from registers: 1x1 layers of contiguous images cost what channels-last
ones do. Lanes are wasted where an image has few pixels: those of 7 x 7 are left to
konv.kernels.direct.

What a row of pixels has left beyond whole panels makes its last one wider where there are tiles for
that, else it goes a vector at a time.

Every output is one chain of multiply-adds, from the bias on in the order of the channels: the bits
are those of `direct`.

Rows of a weight may be those of the user's array, which nothing need be packed for, nor a digest
taken to know that it is still what was packed (konv.runtime.rows): 1024->256@14 takes 305 us
instead of 348, 256->1024@14 301 instead of 331 (Granite Rapids).
"""

from __future__ import annotations

from konv.geometry import Axis, Conv
from konv.kernels import direct
from konv.kernels.microtile import UNROLL
from konv.kernels.pack import HEADER
from konv.kernels.panels.cut import JOB, cut, cycles, row_numbers
from konv.kernels.panels.units import emit_kernel
from konv.kernels.stored import HALVES
from konv.llvm import Module
from konv.plan import Blocks, Packing, Plan, Strides, Work
from konv.target import BYTES, Target

name = "panels"
exact = True
once = True
words = JOB

# Vectors of pixels of a register tile, and its output channels; those of a tile of one vector, and
# of the last panel of a row, one and two vectors wider: by bytes in a vector and vector registers.
# Rows of the weight take a register of addresses each, so 8 x 1 with AVX2. With AVX-512 a tile of
# one vector runs at 62 % of the peak, bound by broadcasts, and eight rows fill 64 or 128 output
# channels, which six do not, but their results go to more planes (Granite Rapids, beside 6 x 4 that
# leaves vectors over: 1024->256@14, 12 vectors and 4 pixels, 1.09 times as fast, 64->64@56 1.1,
# 24->144@56, where six rows are taken, .95).
TILES: dict[tuple[int, int], list[tuple[int, ...]]] = {
    (32, 16): [(3, 4, 8)],
    (16, 32): [(4, 5, 10)],
    (64, 32): [(3, 8, 10, 6, 5), (4, 6, 10, 5, 4)],
}
DIGESTED = 8.0  # bytes a cycle: 28 GB/s a core from the third-level cache (Granite Rapids)
DEEPEST = 2048  # channels of a group: a panel of them fills 200 of 512 KB of second-level cache


def why_not(conv: Conv, target: Target) -> str | None:
    """Only one tap in steps of one, without padding."""
    if any(axis != Axis(axis.size, 1) for axis in conv.axes):
        return "takes layers of one tap in steps of one, without padding"
    if conv.dtype in HALVES:
        return f"reads and writes float32 and float64; here {conv.dtype}"
    if conv.ci // conv.groups > DEEPEST:
        return f"takes up to {DEEPEST} input channels a group; here {conv.ci // conv.groups}"
    if (target.vector_bytes, target.registers) not in TILES:
        return "needs more registers than this processor has"
    return None


def plans(conv: Conv, target: Target, packed: bool, blocked: bool) -> tuple[Plan, ...]:
    """From contiguous to contiguous, the cheaper first."""
    if not (packed and blocked):
        return ()
    lanes = target.lanes(conv.dtype)
    found = [
        Plan(name, conv.dtype, packed, blocked, nv * lanes, nv, form=tuple(rows))
        for nv, *rows in TILES[target.vector_bytes, target.registers]
    ]
    return tuple(sorted(found, key=lambda plan: cost(conv, plan, target)))


def cost(conv: Conv, plan: Plan, target: Target) -> float:
    """Cycles of a core for one image."""
    pixels = 1
    for axis in conv.axes:
        pixels *= axis.out
    ci, co = conv.ci // conv.groups, conv.co // conv.groups
    vectors = -(-pixels // target.lanes(plan.dtype))
    return conv.groups * cycles(plan, ci, co, vectors)


def work(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """Units of work as konv.kernels.panels.cut cuts them."""
    return cut(conv, plan, target, x, y, threads)


def packing(conv: Conv, plan: Plan, target: Target) -> Packing:  # noqa: ARG001 - as the protocol
    """Rows of the weight, each on cache lines of its own, then the biases."""
    ci, co, size = conv.ci // conv.groups, conv.co // conv.groups, BYTES[plan.dtype]
    numbers = conv.co * (row_numbers(ci, size) + 1)
    return Packing(HEADER + numbers * size, conv.groups, co, ci)


def blocks(conv: Conv, plan: Plan, target: Target) -> Blocks:  # noqa: ARG001 - as the protocol
    """Register tiles."""
    pixels = 1
    for axis in conv.axes:
        pixels *= axis.out
    ci, co = conv.ci // conv.groups, conv.co // conv.groups
    return Blocks((pixels, plan.pixels), (co, plan.form[0]), (ci, UNROLL), (conv.groups, 1))


def reads(conv: Conv, weight: Strides) -> bool:
    """Whether this reads a weight of such strides in elements as it lies."""
    return not conv.transposed and (weight[1] == 1 or conv.ci == conv.groups)


def instead(conv: Conv, plan: Plan, target: Target) -> Plan:
    """A plan of this in the place of one of direct, whose bits are the same, if it costs less than
    that and the digest of the weight, of which this takes none.
    """
    if why_not(conv, target) is not None:
        return plan
    digest = conv.params * BYTES[plan.dtype] / DIGESTED
    before = conv.n * direct.cost(conv, plan, target) + digest
    own = plans(conv, target, plan.packed, plan.blocked)
    return own[0] if own and conv.n * cost(conv, own[0], target) < before else plan


def of_calls(conv: Conv, target: Target, packed: bool, blocked: bool) -> tuple[Plan, ...]:
    """The plans that `instead` may give, whatever the size."""
    taken = not conv.transposed and why_not(conv, target) is None
    return plans(conv, target, packed, blocked) if taken else ()


def emit(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run` and `pack`."""
    return emit_kernel(plan, target)
