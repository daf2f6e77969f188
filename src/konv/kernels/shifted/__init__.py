"""Few output channels: a product for each tap at every pixel, then sums of them, shifted.

    for box of outputs:
        every filter's every tap at all pixels that the box reads     konv.kernels.panels, one tap
        for filter: for row of outputs: for phase:                    konv.kernels.shifted.sums
            for tap: add its products, as many pixels further on as the tap is

A register tile of few output channels is bound by its loads: each vector of pixels is loaded for
each tap, and used for as many multiply-adds as there are channels. Taken as output channels of
their own, all taps of all filters share one load of a pixel. What is left is an addition for each
tap and output. Transposed layers are the same with other shifts. Vasudevan, Anderson & Gregg,
"Parallel multi channel convolution using general matrix multiplication" (ASAP 2017), have it as
kn2row, of a whole image at a time; here products stay in the second-level cache.

In ms, planar's or subpixel's and these: contiguous 3x3 320->4@64 .51 and .36, 64->3@128 .32 and
.25, 4x4 512->1@32 .35 and .08, transposed 4x4 64->3@32 .041 and .030, conv_transpose1d 512->1@3999,
16 taps in steps of 8, .62 and .29; channels-last .55 and .38, .36 and .31, .30 and .08 (Granite
Rapids; AVX2 code .77 and .58, .45 and .38, .37 and .14; two threads).

Every output is the bias and then, tap after tap, chains of multiply-adds over the channels.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from konv.geometry import Conv
from konv.kernels import panels
from konv.kernels.microtile import UNROLL
from konv.kernels.pack import HEADER
from konv.kernels.panels.cut import cycles, row_numbers
from konv.kernels.shifted.cut import JOB, Cut, reach
from konv.kernels.shifted.units import emit_kernel
from konv.kernels.stored import HALVES
from konv.llvm import Module
from konv.plan import Blocks, Packing, Plan, Strides, Work
from konv.target import BYTES, Target

name = "shifted"
exact = True
once = True
words = JOB

FILTERS = 16  # output channels: more share the loads of a tile by themselves
ROWS = 512  # products of a pixel: more of them fill a cache with few pixels
NUMBERS = 2**18  # of the products that the outputs of a pixel read: a megabyte of float32
LEAST = 16  # input channels, with fewer of which there is as much to add as to multiply
USUAL = 512 * 1024  # bytes of second-level cache that the model of cost takes
# Products take so many times what konv.kernels.panels says of layers of many output channels with
# AVX-512; cycles of a vector of them that is added, of a vector of sums, of one that leaves, of a
# result that leaves between others (40 layers, Granite Rapids, AVX-512 and AVX2 code).
PRODUCTS, ADDED, BEGUN, ROW_OUT, ALONE_OUT = 1.3, 4.0, 10.0, 4.0, 2.5
# Of a number of a channels-last image; with AVX-512 (transposed 2x2 s2 32->1@128 contiguous 57 us,
# channels-last 72, 64->1@64 24 and 34, 3x3 64->1@64 33 and 44; Emerald Rapids).
TURNED, WIDE_TURNED = 0.5, 0.35


def why_not(conv: Conv, target: Target) -> str | None:
    """Only steps of one, and few filters."""
    if conv.dtype in HALVES:
        return f"reads and writes float32 and float64; here {conv.dtype}"
    if conv.groups > 1 or conv.co > FILTERS:
        return f"takes up to {FILTERS} output channels, in one group"
    if conv.mode != "zeros":
        return "takes images padded with zeros"
    if conv.dims > 2:
        return "takes images of one or two dimensions"
    taps = prod(axis.kernel for axis in conv.axes)
    if not 1 < taps <= ROWS // conv.co:
        return f"takes 2 to {ROWS // conv.co} taps of so many channels; here {taps}"
    if any(next(axis.phases()).stride > 1 for axis in conv.axes):
        return "takes outputs that read neighbouring pixels: steps of one, or transposed"
    if reach(conv) > NUMBERS:
        return f"takes up to {NUMBERS} products for an output, those between them too"
    if not LEAST <= conv.ci <= panels.DEEPEST:
        return f"takes {LEAST} to {panels.DEEPEST} input channels; here {conv.ci}"
    if (target.vector_bytes, target.registers) not in panels.TILES:
        return "needs more registers than this processor has"
    return None


def plans(conv: Conv, target: Target, packed: bool, blocked: bool) -> tuple[Plan, ...]:
    """The tiles of konv.kernels.panels, the cheaper first."""
    lanes = target.lanes(conv.dtype)
    found = [
        Plan(name, conv.dtype, packed, blocked, nv * lanes, nv, form=tuple(rows))
        for nv, *rows in panels.TILES[target.vector_bytes, target.registers]
    ]
    return tuple(sorted(found, key=lambda plan: cost(conv, plan, target)))


def cost(conv: Conv, plan: Plan, target: Target) -> float:
    """Cycles of a core for one image: the products of all boxes, their sums, the results."""
    lanes, taps = target.lanes(plan.dtype), prod(axis.kernel for axis in conv.axes)
    # Boxes as for any machine's cache: which plan is best shall not hang on it.
    cut = Cut(conv.with_batch(1), plan, replace(target, l2=USUAL), 1)
    products = cycles(plan, conv.ci, conv.co * taps, -(-cut.pixels // lanes))
    products *= PRODUCTS if target.vector_bytes == 64 else 1
    outputs = conv.co * prod(axis.out for axis in conv.axes)
    each = prod(axis.kernel / axis.up for axis in conv.axes)
    row = (plan.blocked or conv.co == 1) and conv.axes[-1].up <= 2
    added = outputs / lanes * (ADDED * each + BEGUN)
    each_turned = WIDE_TURNED if target.vector_bytes == 64 else TURNED
    turned = 0 if plan.packed else each_turned * conv.ci * cut.pixels
    return products + turned + added + outputs * (ROW_OUT / lanes if row else ALONE_OUT)


def work(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """Units of work as konv.kernels.shifted.cut cuts them."""
    return Cut(conv, plan, target, threads).work(x, y)


def packing(conv: Conv, plan: Plan, target: Target) -> Packing:  # noqa: ARG001 - as the protocol
    """A row for each filter and tap, three numbers beside it; then the biases."""
    size, taps = BYTES[plan.dtype], prod(axis.kernel for axis in conv.axes)
    numbers = conv.co * taps * (row_numbers(conv.ci, size) + 2) + conv.co
    return Packing(HEADER + numbers * size, 1, conv.co, conv.ci)


def blocks(conv: Conv, plan: Plan, target: Target) -> Blocks:  # noqa: ARG001 - as the protocol
    """Register tiles."""
    pixels, taps = (prod(getattr(a, n) for a in conv.axes) for n in ("size", "kernel"))
    return Blocks((pixels, plan.pixels), (conv.co * taps, plan.form[0]), (conv.ci, UNROLL), (1, 1))


def emit(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run` and `pack`."""
    return emit_kernel(plan, target)
