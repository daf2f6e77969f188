"""Layers as what they are: signals in images of one row as layers of one axis, and those between a
whole image and one pixel as matrix products.

An axis of one pixel, one tap and one output says nothing. Without it a signal has the kernels and
the plans of signals (calls of prepared layers, us, now and in images of one column and of one row:
depthwise 3 taps 64@1000 10, 56 and 63; 64@200 of 5 taps 25, 51 and 31; Emerald Rapids).

Products are taps that are all of an image, as of fully connected layers written as convolutions,
and images that one pixel is spread to, as at the beginning of a generator. Such an image is a
vector wherever it lies densely in memory, and all vectors are the pixels of one image,
channels-last: a layer of one tap, by konv.kernels.direct or what has its bits. Its weights are read
once for all of a batch, in one run, and one vector needs none packed (konv.kernels.single). Calls
of PyTorch's tensors and of layers that are prepared, ms beside what the layer takes otherwise
(Emerald Rapids, two threads):

                           function            prepared
    4x4 512->512           .40 and .77         .33 and .39
    7x7 512->4096          15 and 44           14 and 21
    3x3 256->512           .066 and .29        .064 and .18
    4x4 512->512, batch 8  1.0 and 3.1         .66 and 2.9
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from math import prod
from typing import NamedTuple

from konv.geometry import Axis, Conv
from konv.kernels import direct
from konv.plan import Plan, Strides
from konv.runtime.choose import pin
from konv.target import Target

Run = tuple[int, int]  # numbers, and the step from one to the next


class Form(NamedTuple):
    """What is computed for a layer, with the strides of input and output in elements.

    `packs`: the layer that its weight is packed as, and `weight` the strides of that: where the
    weight lies in another order than the image, the longer of two steps is from tap to tap.
    `biased`: numbers of the output in a row that have one bias, then how often these come again.
    `plan`: how a product is computed; None for what is none.
    """

    conv: Conv
    x: Strides
    y: Strides
    packs: Conv
    weight: Strides
    biased: tuple[int, int] = (1, 1)
    plan: Plan | None = None

    @classmethod
    def of(cls, conv: Conv, x: Strides, y: Strides, weight: Strides) -> Form:
        """A layer as it is."""
        return cls(conv, x, y, conv, weight)


def form_of(conv: Conv, x: Strides, y: Strides, weight: Strides, target: Target) -> Form:
    """A layer between such strides as a product, if it is one, else without axes that say nothing:
    in elements, those of the weight as the user's array has them, its taps in equal steps. It is no
    product with so few outputs that vectors are not full.
    """
    return flattened(conv, x, y, weight, target) or slimmed(conv, x, y, weight)


def slim(conv: Conv) -> Conv:
    """A layer without axes of one pixel, one tap and one output, of which one may be left."""
    return replace(conv, axes=tuple(conv.axes[at] for at in _telling(conv)))


def leaner(conv: Conv) -> list[Conv]:
    """What may be computed for a layer at some image size: itself, and what is left without any of
    the axes that say nothing where the image has one pixel along them.
    """
    able = [
        at
        for at, axis in enumerate(conv.axes)
        if axis.kernel == 1 and _says_nothing(axis.with_size(1))
    ]
    most = min(len(able), conv.dims - 1)
    without = [some for count in range(most + 1) for some in combinations(able, count)]
    kept = [[axis for at, axis in enumerate(conv.axes) if at not in some] for some in without]
    return [replace(conv, axes=tuple(axes)) for axes in kept]


def _telling(conv: Conv) -> list[int]:
    """The axes that say something, or the last."""
    found = [at for at, axis in enumerate(conv.axes) if not _says_nothing(axis)]
    return found or [conv.dims - 1]


def _says_nothing(axis: Axis) -> bool:
    return axis.size == axis.kernel == axis.out == 1 and axis.lo == 0


def slimmed(conv: Conv, x: Strides, y: Strides, weight: Strides) -> Form:
    """A layer without them, if its arrays are still contiguous or channels-last."""
    axes = _telling(conv)
    if len(axes) == conv.dims or any(1 not in (s[1], s[2 + axes[-1]]) for s in (x, y)):
        return Form.of(conv, x, y, weight)
    x, y, weight = (s[:2] + tuple(s[2 + at] for at in axes) for s in (x, y, weight))
    return Form.of(slim(conv), x, y, weight)


def flattened(conv: Conv, x: Strides, y: Strides, weight: Strides, target: Target) -> Form | None:
    """The same, None for what is no product."""
    taps = prod(axis.kernel for axis in conv.axes)
    whole = _spreads if conv.transposed else _covers
    if conv.groups > 1 or not conv.n or not all(whole(axis) for axis in conv.axes):
        return None
    if conv.co * (taps if conv.transposed else 1) < target.lanes(conv.dtype):
        return None
    tap = next((s for s, a in zip(weight[:1:-1], conv.axes[::-1], strict=True) if a.kernel > 1), 1)
    if conv.transposed:
        return _spread(conv, x, y, weight[0], (weight[1], tap), target)
    runs = _runs(x, conv.ci, [axis.size for axis in conv.axes], (weight[1], tap))
    if runs is None or (y[1] != 1 and conv.co > 1):
        return None
    (outer, far), (inner, near) = runs
    flat = replace(conv, n=1, ci=outer * inner, axes=(Axis(conv.n, 1),), mode="zeros")
    packs = replace(flat, ci=inner, axes=(Axis(outer, outer),))
    plan = pin(direct.name, flat, target, False, False)
    steps = weight[0], near, far
    return Form(flat, (0, 1, x[0]), (0, 1, y[0]), packs, steps, plan=plan)


def _covers(axis: Axis) -> bool:
    """Whether its one output reads each pixel by a tap, and nothing beside."""
    one = axis.up == axis.out == 1 and axis.lo == 0
    return one and axis.kernel == axis.size and (axis.dilation == 1 or axis.kernel == 1)


def _spreads(axis: Axis) -> bool:
    """Whether its one pixel gives an output for each tap, and there are no more."""
    dense = axis.stride == axis.size == 1 and (axis.dilation == 1 or axis.kernel == 1)
    return dense and axis.lo == axis.kernel - 1 and axis.out == axis.kernel


def _spread(
    conv: Conv, x: Strides, y: Strides, by_ci: int, steps: tuple[int, int], target: Target
) -> Form | None:
    """From one pixel to an image, which must lie as the taps of an input channel do."""
    taps = prod(axis.kernel for axis in conv.axes)
    runs = _runs(y, conv.co, [axis.out for axis in conv.axes], steps)
    if x[1] != 1 and conv.ci > 1:
        return None
    if runs is None or runs[0][0] > 1 or (runs[1][1] != 1 and runs[1][0] > 1):
        return None
    flat = replace(conv, n=1, co=conv.co * taps, axes=(Axis(conv.n, 1),))
    biased = (1, taps) if y[1] == 1 else (taps, 1)
    plan = pin(direct.name, flat, target, False, False)
    return Form(flat, (0, 1, x[0]), (0, 1, y[0]), flat, (by_ci, 1, 1), biased, plan)


def _runs(
    image: Strides, channels: int, sizes: list[int], steps: tuple[int, int]
) -> tuple[Run, Run] | None:
    """The order of an image's numbers, of strides (n, channel, *spatial), if it lies densely, as
    steps through a weight that has these from channel to channel and from tap to tap: so many far
    ones, and between two of those so many near ones.
    """
    count, by_channel, by_tap = prod(sizes), *steps
    for last in (False, True):
        axes = [*sizes, channels] if last else [channels, *sizes]
        strides = [*image[2:], image[1]] if last else list(image[1:])
        dense = [prod(axes[i + 1 :]) for i in range(len(axes))]
        if all(s == d or a == 1 for s, d, a in zip(strides, dense, axes, strict=True)):
            outer, inner = (channels, by_channel), (count, by_tap)
            if last:
                outer, inner = inner, outer
            return _joined(outer, inner)
    return None


def _joined(outer: Run, inner: Run) -> tuple[Run, Run]:
    """Both as one run of near steps where they go on alike."""
    if inner[0] == 1:
        outer, inner = inner, outer
    if outer[0] == 1 or outer[1] == inner[0] * inner[1]:
        return (1, 1), (outer[0] * inner[0], inner[1])
    return outer, inner
