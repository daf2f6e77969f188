"""Many taps along rows, many channels in and out: products of Fourier transforms.

A tile of a row's outputs and the pixels that they read are one circular convolution
(konv.kernels.fourier), so a sum over taps and channels becomes, bin by bin, a sum over channels of
complex products: of 56 points, which give 46 outputs of 11 taps, 29 bins take 116 multiplications a
pair of channels where there were 506. Rows of taps are summed up likewise.

        for unit: for some tiles of outputs of a group:
            for tile: for vector of its input channels: transform       -> V[bin][tile][channel]
            for bin: M[bin] = V[bin] U[bin]                             a product of matrices, of
                                                                        all rows of taps
            for tile: for vector of its output channels: back           -> the output

Channels stand in the lanes of transforms, output channels in those of products. Taps may lie apart:
a dilated row is one with zeros between. U, the transformed weights, are 2 (bins / taps) times what
weights are, and are read once for each unit.

Rounding is less than a plain sum's, but relative to the largest of a tile and group, and what is
not finite spreads over all of them, as in konv.kernels.fourier; a bin may overflow where a sum does
not, if pixels are within their number of the largest float. `precision("exact")` forbids it.

Two cores of a Granite Rapids at 2.5 GHz (AVX-512), weights out of the caches, ms, beside direct:
768@499 of 128 taps in 16 groups 2.6 and 16.9, 64@11008 of 11 taps 1.1 and 3.1, 32@22016 of 11 taps
five apart .87 and 1.8, 512@4000 of 9 taps 22 and 61, 512@400 of 25 7.5 and 16; AVX2 code 3.4 and
27, 2.2 and 5.0, 1.6 and 2.9, 49 and 98, 15 and 28.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from konv.geometry import Conv
from konv.kernels.fourier.lengths import length_of
from konv.kernels.fourier.rows import emit_to_bins
from konv.kernels.pack import HEADER, TRANSFORMED
from konv.kernels.spectrum import cut
from konv.kernels.spectrum.cut import TIMES, outputs_of
from konv.kernels.spectrum.steps import emit_lines
from konv.kernels.spectrum.weights import emit_pack
from konv.kernels.strips import emit_run
from konv.kernels.strips.form import form_of
from konv.kernels.strips.job import JOB
from konv.llvm import Module
from konv.plan import Blocks, Packing, Plan, Strides, Work
from konv.target import BYTES, Target

name = "spectrum"
exact = False
once = False
words = JOB

LEAST = 5  # taps


def why_not(conv: Conv, target: Target) -> str | None:
    """Only single precision, many taps along rows alone, no steps, vectors of channels."""
    ci, co = conv.ci // conv.groups, conv.co // conv.groups
    lanes, row = target.lanes(conv.dtype), conv.axes[-1]
    if conv.dtype != "float32":
        return "takes float32 only, whose errors it is measured for"
    if any((axis.stride, axis.up) != (1, 1) for axis in conv.axes):
        return "takes steps of one only"
    if row.kernel < LEAST or any(axis.kernel > 1 for axis in conv.axes[:-2]):
        return f"takes {LEAST} taps or more along rows, and none from plane to plane"
    if not cut.lengths(row.extent):
        most = max(each for each in range(max(TIMES)) if cut.lengths(each))
        return f"takes rows of taps that reach over {most} pixels at most; here {row.extent}"
    if min(ci, co) < lanes:
        return f"takes {lanes} channels in and out a group or more; here {ci} and {co}"
    if not cut.affordable(conv):
        return f"takes {TRANSFORMED >> 20} MiB of transformed weights at most"
    return None


def plans(conv: Conv, target: Target, packed: bool, blocked: bool) -> tuple[Plan, ...]:
    """One plan, for long rows: others of this layer are those of `for_image`."""
    if conv.dtype != "float32":
        return ()
    plan = cut.products(name, conv, target, packed, blocked)
    plan = replace(plan, form=(*form_of(conv), 0, 0))
    found = of_other_images(conv, plan)
    return (min(found, key=lambda each: cut.cycles(conv, each, target, long=True)),)


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
    """Of each group and block of its outputs [bin][row of taps][input channel], a real and an
    imaginary part; then all biases.
    """
    lanes, ci = target.lanes(plan.dtype), conv.ci // conv.groups
    vectors = conv.groups * -(-conv.co // conv.groups // lanes)
    numbers = vectors * lanes * (2 * length_of(plan).bins * ci * plan.form[1] + 1)
    size = HEADER + numbers * BYTES[conv.dtype]
    return Packing(size, conv.groups, conv.co // conv.groups, ci)


def blocks(conv: Conv, plan: Plan, target: Target) -> Blocks:
    """Outputs of a tile, and the channels that stand side by side."""
    lanes = target.lanes(plan.dtype)
    return Blocks(
        pixels=(prod(axis.out for axis in conv.axes), outputs_of(plan)),
        co=(conv.co // conv.groups, plan.vectors * lanes),
        ci=(conv.ci // conv.groups, lanes),
        groups=(conv.groups, 1),
    )


def emit(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run` and `pack`."""
    module = Module(target, name)
    to_bins = emit_to_bins(module, plan, told=True)
    emit_pack(module, plan, to_bins)
    return emit_run(module, plan, emit_lines(module, plan, to_bins))
