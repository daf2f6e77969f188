"""Weight gradients of depthwise layers with many taps by Fourier transforms.

    dw[t] = sum over images and outputs p of dy[p] x[p + t]

is a circular correlation of tiles of dy with the tiles of x that they read: a product, point by
point, of the transform of x and the conjugate of dy's (konv.kernels.fourier). Products of all tiles
and images are added up before a single transform goes back, of which the taps are kept.

    for unit: for vector of channels:                            channels stand in the lanes
        for image: for tile:
            rows of x, rows of dy: transformed                   -> bins [37][row] of each
            for bin: columns transformed, products added up         sums [37][point]
        for bin: column back
        for row of taps: back                                    -> the weight

Errors are relative to the size of all of a channel's numbers, and one that is not finite reaches
all taps of its channel: `precision("exact")` keeps this kernel out.

31x31 128@56 on two cores of a Granite Rapids at 2.5 GHz (AVX-512): 0.34 ms contiguous, 0.45
channels-last; planar 6.6, pencils 7.6, PyTorch 182. From 7 x 7 taps on contiguous arrays gain by
it, 96@56 0.27 to 0.20, eight images of 384@14 1.69 to 0.81, from 9 x 9 on channels-last ones.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from konv.geometry import Conv
from konv.kernels.fourier import fit
from konv.kernels.fourier.lengths import LENGTHS, length_of
from konv.kernels.gradient.depthwise import saved
from konv.kernels.gradient.fourier.cut import outputs_of
from konv.kernels.gradient.fourier.line import BEHIND, emit_line
from konv.kernels.gradient.records import JOB
from konv.kernels.region import emit_entry, emit_units
from konv.kernels.strips.form import form_of
from konv.kernels.strips.job import JOB as STRIPS
from konv.kernels.words import Words
from konv.llvm import I64, Function, Module, Value
from konv.plan import Plan
from konv.target import Target

name = "gradient_fourier"
exact = False

LEAST = 5  # taps along an axis
SPILLS = 1.2  # times as long points take where 16 registers hold no two transforms (7x7, AVX2 code)


def why_not(conv: Conv) -> str | None:
    """Only single precision, two axes of many taps each and no steps, one channel in and out."""
    if not conv.groups == conv.ci == conv.co:
        return "takes one channel in and out of each group"
    if conv.dtype != "float32":
        return "takes float32 only, for its rounding"
    most = max(LENGTHS) - fit.SPARE
    if conv.dims != 2 or not all(LEAST <= axis.kernel <= most for axis in conv.axes):
        return f"takes two axes with {LEAST} to {most} taps each"
    if any((axis.stride, axis.dilation, axis.up) != (1, 1, 1) for axis in conv.axes):
        return "takes no stride and no dilation"
    return None


def plan(conv: Conv, target: Target, packed: bool, blocked: bool) -> Plan | None:
    """The length of transforms that is cheapest. None where only one of x and dy is channels-last,
    or channels fill no vector.
    """
    if packed != blocked or conv.co < target.lanes(conv.dtype):
        return None
    form = (*form_of(conv), 0, 0)
    found = fit.able(conv, Plan(name, conv.dtype, packed, blocked, 1, 1, form=form))
    best = min(found, key=lambda each: _cycles(conv, each, target))
    return replace(best, alignment=1)


def cost(conv: Conv, plan: Plan, target: Target) -> float:
    """Cycles for each output of all groups. What others take to bring x and dy into their form is
    saved.
    """
    outputs = conv.n * prod(axis.out for axis in conv.axes)
    return _cycles(conv, plan, target) / outputs - saved(conv, last=not plan.packed)


def _cycles(conv: Conv, plan: Plan, target: Target) -> float:
    """As konv.kernels.fourier counts them: x and dy on their way in, both their columns, and once
    the way back of columns and of the taps.
    """
    length, outputs, tiles = length_of(plan).all, outputs_of(conv, plan), conv.n
    for axis, most in zip(conv.axes, outputs, strict=True):
        tiles *= -(-axis.out // most)
    rows = min(outputs[0] + conv.axes[0].kernel - 1, conv.axes[0].size) + outputs[0]
    each = fit.IN * rows + fit.COLUMN * length * 1.2
    each *= SPILLS if target.registers == 16 else 1
    back = fit.COLUMN * length / 2 + fit.OUT * conv.axes[0].kernel
    vectors = -(-conv.co // target.lanes(conv.dtype))
    return vectors * length * (tiles * each + back) * fit.TIMES[length]


def emit(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run`."""
    module = Module(target, plan.algorithm)
    line = emit_line(module, plan)

    def work(f: Function, call: Words, thread: Value) -> None:
        job = Words(call.pointer("job", I64), JOB)
        each = Words(job.base + BEHIND[0], STRIPS)["thread_bytes"]
        scratch = call["scratch"] + thread * each

        def body(number: Value) -> None:
            arguments = [job.base, scratch, call["x"], call["y"], call["weights"], number]
            f.call(line, arguments)

        emit_units(f, call, thread, job["units"], body)

    emit_entry(module, work)
    return module
