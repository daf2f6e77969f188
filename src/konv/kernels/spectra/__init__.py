"""Many taps along both axes, many channels out: products of Fourier transforms of squares.

As konv.kernels.spectrum, but a tile is a square of outputs and its transform goes along rows and
down columns: of 28 x 28 points, which give 22 x 22 outputs of 7 x 7 taps, 420 bins take 1680
multiplications a pair of channels where there were 23716. An input channel is transformed for many
outputs at once, so few are enough: transforms cost what a few dozen taps do.

        for unit: for some tiles of outputs of a group:
            for tile: for vector of its input channels: transform       -> V[bin][tile][channel]
            for block of its output channels:
                for bin of rows:
                    for point: M[point] = V[bin] U[bin]                 a product of matrices
                    for tile: for vector of the block: column back      -> [tile][vector][bin]
                for tile: for vector of the block: rows back            -> the output

Transforms are konv.kernels.fourier's, of lengths of their own. U, the transformed weights, are some
17 times what 7 x 7 weights are and are read once for each unit: of layers of very many channels
they would be larger than memory is quick to give.

Rounding as konv.kernels.fourier's over all channels of a group; what is not finite spreads over all
outputs of a tile and group. `precision("exact")` forbids it.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from konv.geometry import Conv
from konv.kernels.fourier.rows import emit_to_bins
from konv.kernels.pack import HEADER, TRANSFORMED
from konv.kernels.spectra import cut
from konv.kernels.spectra.cut import outputs_of, points_of
from konv.kernels.spectra.steps import emit_lines
from konv.kernels.spectra.weights import emit_pack
from konv.kernels.spectrum.cut import products
from konv.kernels.strips import emit_run
from konv.kernels.strips.form import form_of
from konv.kernels.strips.job import JOB
from konv.llvm import Module
from konv.plan import Blocks, Packing, Plan, Strides, Work
from konv.target import BYTES, Target

name = "spectra"
exact = False
once = False
words = JOB

LEAST = 6  # taps along each axis; of five, Winograd's transforms take as few multiplications


def why_not(conv: Conv, target: Target) -> str | None:
    """Only single precision, many taps along rows and columns, no steps, a vector of outputs."""
    co, lanes = conv.co // conv.groups, target.lanes(conv.dtype)
    if conv.dtype != "float32":
        return "takes float32 only, whose errors it is measured for"
    if any((axis.stride, axis.up) != (1, 1) for axis in conv.axes):
        return "takes steps of one only"
    taps = [axis.kernel for axis in conv.axes]
    if conv.dims == 1 or min(taps[-2:]) < LEAST or any(count > 1 for count in taps[:-2]):
        return f"takes {LEAST} taps or more along rows and columns, and none from plane to plane"
    if not cut.lengths(conv):
        most, (high, wide) = cut.FARTHEST, (axis.extent for axis in conv.axes[-2:])
        return f"takes taps that reach over {most} pixels at most a side; here {high} x {wide}"
    if co < lanes:
        return f"takes {lanes} channels out a group or more; here {co}"
    if not cut.affordable(conv):
        room = f"{TRANSFORMED >> 20} MiB of transformed weights and {cut.HELD >> 20} MiB of pixels"
        return f"takes {room} under {cut.TILE} tiles at most"
    return None


def plans(conv: Conv, target: Target, packed: bool, blocked: bool) -> tuple[Plan, ...]:
    """One plan, for large images: others of this layer are those of `for_image`."""
    if conv.dtype != "float32":
        return ()
    ci = conv.ci // conv.groups
    few = ci if ci < target.lanes(conv.dtype) else 0
    plan = products(name, conv, target, packed, blocked)
    plan = replace(plan, form=(*form_of(conv), 0, few, 0))
    found = of_other_images(conv, plan)
    return (min(found, key=lambda each: cut.cycles(conv, each, target, broad=True)),)


def of_other_images(conv: Conv, plan: Plan) -> list[Plan]:
    """The plans that `for_image` may give, whatever the size."""
    return [cut.of_length(plan, length) for length in cut.affordable(conv)]


def for_image(conv: Conv, plan: Plan, target: Target) -> Plan:
    """The plan for an image of this size: another length of transforms, with bits of its own."""
    found = of_other_images(conv, plan)
    return min(found, key=lambda each: cut.cycles(conv, each, target))


def cost(conv: Conv, plan: Plan, target: Target) -> float:
    """Modelled cycles of one core for one image, by the plan that `for_image` gives."""
    return cut.cycles(conv, for_image(conv, plan, target), target)


def work(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """Tiles of a group, and vectors of its outputs."""
    return cut.work(conv, plan, target, x, y, threads)


def packing(conv: Conv, plan: Plan, target: Target) -> Packing:
    """Of each group and block of its outputs [bin][input channel], a real and an imaginary part;
    then all biases.
    """
    lanes, ci = target.lanes(plan.dtype), conv.ci // conv.groups
    vectors = conv.groups * -(-conv.co // conv.groups // lanes)
    numbers = vectors * lanes * (2 * points_of(plan) * ci + 1)
    size = HEADER + numbers * BYTES[conv.dtype]
    return Packing(size, conv.groups, conv.co // conv.groups, ci)


def blocks(conv: Conv, plan: Plan, target: Target) -> Blocks:
    """Outputs of a tile, and the channels that stand side by side."""
    lanes, (high, wide) = target.lanes(plan.dtype), outputs_of(plan)
    return Blocks(
        pixels=(prod(axis.out for axis in conv.axes), high * wide),
        co=(conv.co // conv.groups, plan.vectors * lanes),
        ci=(conv.ci // conv.groups, min(lanes, conv.ci // conv.groups)),
        groups=(conv.groups, 1),
    )


def emit(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run` and `pack`."""
    module = Module(target, name)
    to_bins = emit_to_bins(module, plan)
    emit_pack(module, plan, to_bins)
    return emit_run(module, plan, emit_lines(module, plan, to_bins))
