"""Weight gradients of taps that mostly meet padding: each tap by itself, over the outputs that it
reads pixels for.

With 17 pixels and taps 12 apart, 5 outputs of 17 have a pixel at the first tap, 17 at the second
and 5 at the third: of all products of a 3x3 kernel 72 % are with zeros. Each tap's gradient is that
of a 1x1 layer, from some rows and columns of x and of dy as they lie, and a run of the kernel
(konv.kernels.gradient); a last run adds up the parts of each and brings the taps together.

The sums are those of products with pixels alone, so what is not finite reaches the taps that meet
it, and a tap that meets padding only is 0.

Measured, in ms on two Zen 3 cores, contiguous / channels-last, beside all taps at once; where tiles
take all taps, beside those (konv.kernels.gradient.winograd):

    2048->256@17 by 12, 8 images    60 / 51     134 / 143
    2048->256@17 by 24, 8 images    21 / 21     147 / 146
    2048->256@65 by 36             110 / 111    243 / 295    on tiles  146 / 169
    256@17 by 12                  0.87 / 1.14   2.0 / 2.4
    64@17 by 12, 8 images         0.45 / 0.43   1.1 / 1.1
    512@2 3x3, 64 images           7.8 / 5.3    8.1 / 7.6
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import prod

from konv.geometry import Axis, Conv
from konv.kernels.gradient import cut as gradient_cut
from konv.kernels.gradient.cut import Work, describe, lay_out, sizes, slots
from konv.kernels.gradient.records import JOB
from konv.plan import Plan, Strides
from konv.target import BYTES, COMPUTED, Target

# Outputs with a pixel at a tap, of all, beyond which taps stay together; products a number of the
# weight that bringing taps together and the ends of their runs cost.
SHARE, WEAVE = 0.8, 32
LEAST = 16  # input channels of a group: they fill register tiles alone
PIECE = 1024  # numbers of a weight, and their taps, brought together at once
Span = tuple[int, int, int]  # first output, how many, and what the first one reads


def spans(axis: Axis) -> list[Span]:
    """The outputs that each tap reads a pixel for.

    >>> spans(Axis(17, 3, dilation=12, lo=12, hi=12))
    [(12, 5, 0), (0, 17, 0), (0, 5, 12)]
    """
    found = []
    for k in range(axis.kernel):
        before = axis.lo - k * axis.dilation
        first = max(0, -(-before // axis.stride))
        end = min(axis.out, (axis.size - 1 + before) // axis.stride + 1)
        found.append((first, max(0, end - first), first * axis.stride - before))
    return found


def share(conv: Conv) -> float:
    """Products with pixels, of all, and what it costs to have taps apart; 1 if they stay
    together.
    """
    taps = prod(axis.kernel for axis in conv.axes)
    outputs = conv.n * prod(axis.out for axis in conv.axes)
    if taps == 1 or conv.ci < LEAST * conv.groups or any(axis.up > 1 for axis in conv.axes):
        return 1.0
    found = prod(sum(n for _, n, _ in spans(a)) / (a.kernel * a.out) for a in conv.axes)
    found += WEAVE / outputs
    return found if found < SHARE else 1.0


def work(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """The work of a layer under a plan of konv.kernels.gradient, for x and dy with these
    strides.
    """
    if share(conv) == 1.0 or conv.exact_macs < gradient_cut.ALONE:
        return gradient_cut.work(*_thinned(conv, plan, target, x), y, threads)
    jobs: list[tuple[dict[str, int], list[int]]] = []
    parts: dict[str, int] = {}
    counts = []
    for taps in product(*(spans(axis) for axis in conv.axes)):
        counts.append(0)
        if 0 in (n for _, n, _ in taps):
            continue
        one, firsts = _layer(conv, taps, x, y)
        cut = sizes(one, plan, target, x, y, threads)
        words, tables = describe(one, cut.boxes, cut.words, cut.places, x, y)
        jobs.append((words | firsts | {"partial": sum(counts)}, tables))
        counts[-1] = cut.boxes.parts
        for name, length in (slots(cut.boxes) | cut.parts).items():
            parts[name] = max(length, parts.get(name, 0))
    numbers = conv.params // len(counts)
    size = numbers * COMPUTED[conv.dtype]
    places: dict[str, int] = {}
    in_all = lay_out(places, parts, {"partial": max(1, sum(counts)) * size}, threads)
    runs = []
    for words, tables in jobs:
        partial = places["partial"] + words["partial"] * size
        runs.append([*(words | places | {"partial": partial}).values(), *tables])
    weave = dict.fromkeys(JOB, 0) | places
    weave |= {
        "units": -(-numbers // PIECE), "adding": 2, "piece": PIECE, "numbers": numbers,
        "taps": len(counts), "at_taps": len(JOB), "ci": conv.ci // conv.groups,
    }  # fmt: skip
    first, *then = [*runs, [*weave.values(), *counts]]
    return Work(first, then, threads, in_all)


def _thinned(
    conv: Conv, plan: Plan, target: Target, x: Strides
) -> tuple[Conv, Plan, Target, Strides]:
    """The layer without the pixels that one tap in steps passes over, and what belongs to it; of a
    contiguous image its rows stay whole, to be copied as vectors (256->512@56 1x1 in steps of two,
    8 images: 14.2 to 10.6 ms channels-last, 15.0 to 13.5 contiguous).
    """
    axes, strides = list(conv.axes), list(x)
    for a, axis in enumerate(conv.axes):
        inside = axis.lo == 0 and (axis.out - 1) * axis.stride < axis.size
        if axis.kernel == 1 and inside and not (plan.packed and a == conv.dims - 1):
            axes[a] = Axis(axis.out, 1)
            strides[2 + a] *= axis.stride
    return replace(conv, axes=tuple(axes)), plan, target, tuple(strides)


def _layer(
    conv: Conv, taps: tuple[Span, ...], x: Strides, y: Strides
) -> tuple[Conv, dict[str, int]]:
    """The layer of one tap, and where its x and dy begin."""
    axes, size = [], BYTES[conv.dtype]
    for axis, (_, count, _) in zip(conv.axes, taps, strict=True):
        axes.append(Axis((count - 1) * axis.stride + 1, 1, axis.stride))
    firsts = {
        "x_first": sum(tap[2] * stride for tap, stride in zip(taps, x[2:], strict=True)) * size,
        "dy_first": sum(tap[0] * stride for tap, stride in zip(taps, y[2:], strict=True)) * size,
    }
    return replace(conv, axes=tuple(axes)), firsts
