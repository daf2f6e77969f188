"""Depthwise convolution with many taps by Fourier transforms, tile after tile.

A tile of outputs and the pixels that they read are one circular convolution, whose transform is a
product, point by point (Stockham, "High-speed convolution and correlation", 1966; for networks
Mathieu, Henaff and LeCun, "Fast training of convolutional networks through FFTs", 2013). Tiles are
as large as the length of a transform leaves room for: 60 x 60 outputs of 31 x 31 taps for 90 x 90
points. An image that is small enough is one tile, whose padding with zeros need not have room on
both sides: 56 x 56 such outputs take 72 x 72 points.

        for unit: for vector of channels:                           channels stand in the lanes
            for row of pixels under the tile: transform             -> bins [37][row]
            for bin: transform its column, times the weights, back     in the first-level cache
            for row of outputs: back                                -> the output

Of real pixels, bins above the middle are conjugates of others: they are left out. A transform is
straight-line code of an even and of an odd length in turn, without factors between
(konv.kernels.fourier.lengths).

31x31 128@56 on two cores of a Granite Rapids at 2.5 GHz (AVX-512): 0.24 ms contiguous, 0.35
channels-last, against 137 and 3.8 of PyTorch and 2.1 of pencils.

Rounding errors are below those of a plain sum of so many products, but relative to the largest
output of a tile: large ones lend theirs to small neighbours, and a pixel that is not finite spreads
over all its tiles. `precision("exact")` forbids it. `alignment` is the outputs of a tile on both
axes' common multiple, or WHOLE.
"""

from __future__ import annotations

from math import prod

from konv.geometry import Conv
from konv.kernels import schedule, scratch
from konv.kernels.fourier import fit
from konv.kernels.fourier.columns import emit_column
from konv.kernels.fourier.fit import WHOLE, outputs_of
from konv.kernels.fourier.lengths import LENGTHS, length_of, pitch_of
from konv.kernels.fourier.rows import emit_to_bins, emit_to_pixels
from konv.kernels.fourier.steps import emit_lines
from konv.kernels.fourier.weights import emit_pack
from konv.kernels.pack import HEADER
from konv.kernels.schedule import MODES
from konv.kernels.strips import emit_run
from konv.kernels.strips.cut import UNITS
from konv.kernels.strips.form import form_of
from konv.kernels.strips.job import JOB, words_of_axes
from konv.llvm import Module
from konv.plan import Blocks, Packing, Plan, Strides, Work
from konv.target import BYTES, Target

name = "fourier"
exact = False
once = False
words = JOB

LEAST = 9  # taps along an axis; of fewer, others are as fast, and exact
MANY = 1000  # pixels along each axis of an image of many tiles


def why_not(conv: Conv, target: Target) -> str | None:
    """Only single precision, two axes of many taps each and no steps, a vector of channels."""
    ci, co = conv.ci // conv.groups, conv.co // conv.groups
    if (ci, co) != (1, 1):
        return f"takes one channel in and out a group; here {ci} and {co}"
    if conv.dtype != "float32":
        return "takes float32 only, whose errors it is measured for"
    most = max(LENGTHS) - fit.SPARE
    if conv.dims != 2 or not all(LEAST <= axis.kernel <= most for axis in conv.axes):
        return f"takes two axes with {LEAST} to {most} taps each"
    if any((axis.stride, axis.dilation, axis.up) != (1, 1, 1) for axis in conv.axes):
        return "takes no stride and no dilation"
    if conv.co < target.lanes(conv.dtype):
        return f"takes {target.lanes(conv.dtype)} channels or more; here {conv.co}"
    return None


def plans(conv: Conv, target: Target, packed: bool, blocked: bool) -> tuple[Plan, ...]:
    """One plan, for images of many tiles: others of this layer are those of `for_image`."""
    if conv.dtype != "float32":
        return ()
    form = (*form_of(conv), 0, 0)
    plan = Plan(name, conv.dtype, packed, blocked, 1, 1, form=form)
    large = conv.with_size(*[MANY] * conv.dims)
    tiles = [each for each in fit.every(plan) if each.alignment != WHOLE]
    return (min(tiles, key=lambda each: fit.cycles(large, each, target)),)


def for_image(conv: Conv, plan: Plan, target: Target) -> Plan:
    """The plan for an image of this size: other lengths of transforms, or a single tile, of which
    padding is no part. Each is a plan of its own, with bits of its own.
    """
    return fit.best(conv, plan, target)


def of_other_images(conv: Conv, plan: Plan) -> list[Plan]:
    """The plans that `for_image` may give, whatever the size."""
    found = fit.every(plan)
    return [each for each in found if each.alignment != WHOLE or conv.mode == "zeros"]


def cost(conv: Conv, plan: Plan, target: Target) -> float:
    """Modelled cycles of one core for one image, by the plan that `for_image` gives."""
    return fit.cycles(conv, for_image(conv, plan, target), target)


def work(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """Vectors of channels of a tile."""
    lanes, size = target.lanes(conv.dtype), BYTES[conv.dtype]
    if conv.exact_macs < schedule.ALONE:
        threads = 1
    lines = -(-conv.co // lanes)
    words = dict.fromkeys(JOB, 0)
    boxes = conv.n * prod(
        -(-a.out // tile) for a, tile in zip(conv.axes, outputs_of(conv, plan), strict=True)
    )
    wanted = UNITS * threads if threads > 1 else 1
    pieces = min(lines, max(1, -(-wanted // max(1, boxes))))
    chunk = -(-lines // pieces)
    chunks = -(-lines // chunk)
    words |= {
        "units": chunks * boxes, "chunks": chunks, "chunk": chunk, "lines": lines,
        "channels": conv.co, "multiplier": 1, "mode": MODES[conv.mode],
        "x_batch": x[0], "x_channel": x[1], "y_batch": y[0], "y_channel": y[1],
    }  # fmt: skip
    words |= words_of_axes(conv.axes, (1, *outputs_of(conv, plan)), x, y)
    parts = {part: numbers * size for part, numbers in _parts(plan, lanes).items()}
    words["thread_bytes"] = scratch.lay_out(words, parts)
    return Work(list(words.values()), threads, words["thread_bytes"])


def _parts(plan: Plan, lanes: int) -> dict[str, int]:
    """The parts of a thread's scratch, in numbers."""
    length = length_of(plan)
    return {
        "at_strip": length.all * lanes,
        "at_between": 2 * length.all * lanes,
        "at_tiles": length.bins * pitch_of(plan) * lanes,
        "at_block": length.all * lanes,
    }


def packing(conv: Conv, plan: Plan, target: Target) -> Packing:
    """Every vector's points, then all biases."""
    lanes = target.lanes(plan.dtype)
    each = length_of(plan).bins * pitch_of(plan) + 1
    numbers = -(-conv.co // lanes) * lanes * each
    return Packing(HEADER + numbers * BYTES[conv.dtype], conv.groups, 1, 1)


def blocks(conv: Conv, plan: Plan, target: Target) -> Blocks:
    """Tiles of outputs, and the channels that stand side by side."""
    return Blocks(
        pixels=(prod(axis.out for axis in conv.axes), prod(outputs_of(conv, plan))),
        co=(1, 1),
        ci=(1, 1),
        groups=(conv.groups, target.lanes(plan.dtype)),
    )


def emit(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run` and `pack`."""
    module = Module(target, name)
    to_bins = emit_to_bins(module, plan)
    emit_pack(module, plan, to_bins)
    column, to_pixels = emit_column(module, plan), emit_to_pixels(module, plan)
    return emit_run(module, plan, emit_lines(module, plan, to_bins, column, to_pixels))
