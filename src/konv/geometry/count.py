"""Counting: parameters, multiply-adds, bytes, intensity and receptive field of one convolution.

Conventions, to be printed beside the numbers:

- params: weights only; a bias adds one for each output channel.
- MACs, nominal: every tap at every output, padding included; of a transposed layer every tap at
  every *input*, since it scatters. FLOPs are twice the MACs.
- MACs, exact: only taps that meet a real pixel, neither padding nor an inserted zero.
- Both are equal for a convolution, its input gradient and its weight gradient.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from konv.geometry.axis import Axis

if TYPE_CHECKING:
    from konv.geometry.conv import Conv

BYTES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}
"""The dtypes of a convolution and the bytes of one element."""


def params(conv: Conv) -> int:
    """Return the number of weights, without bias."""
    return prod(conv.weight_shape)


def macs(conv: Conv) -> int:
    """Return the nominal multiply-adds of the whole batch."""
    positions = prod(axis.size if conv.transposed else axis.out for axis in conv.axes)
    return conv.n * params(conv) * positions


def exact_macs(conv: Conv) -> int:
    """Return the multiply-adds of the whole batch that meet a real pixel."""
    return _pairs(conv) * prod(axis.taps(conv.mode) for axis in conv.axes)


def _pairs(conv: Conv) -> int:
    """Return the number of (input channel, output channel) pairs that meet, over the batch."""
    return conv.n * conv.co * (conv.ci // conv.groups)


def bytes_moved(conv: Conv) -> int:
    """Return the bytes of input, weight and output together: the least that must be moved."""
    elements = prod(conv.in_shape) + prod(conv.weight_shape) + prod(conv.out_shape)
    return elements * BYTES[conv.dtype]


def intensity(conv: Conv) -> float:
    """Return FLOPs (2 x nominal MACs) for each byte moved: the x axis of the roofline."""
    return 2 * macs(conv) / bytes_moved(conv)


def receptive_field(axis: Axis) -> int:
    """Return how many neighbouring pixels one output spans at most.

    That is the extent, or with inserted zeros the widest of the phases.

    >>> receptive_field(Axis(8, 3, dilation=2)), receptive_field(Axis(8, 4, lo=2, hi=2, up=2))
    (5, 2)
    """
    if axis.up == 1:
        return axis.extent
    spans = (max(p.sources) - min(p.sources) + 1 for p in axis.phases() if p.taps)
    return max(spans, default=0)


def kind(conv: Conv) -> frozenset[str]:
    """Return the words for this convolution.

    "ordinary", or any of "transposed", "dilated" (one tap cannot be), "grouped", or in its place
    "depthwise" (groups == ci > 1), and "upsampled" (inserted zeros that are not a transposed
    layer's: in gradients of gradients); besides, "pointwise" if it has a single tap.
    """
    words = {
        "transposed": conv.transposed,
        "dilated": any(a.dilation > 1 and a.kernel > 1 for a in conv.axes),
        "upsampled": any((a.stride if conv.transposed else a.up) > 1 for a in conv.axes),
        "depthwise": conv.groups == conv.ci > 1,
        "grouped": conv.groups > 1 and conv.groups != conv.ci,
    }
    found = {word for word, holds in words.items() if holds} or {"ordinary"}
    if all(a.kernel == 1 for a in conv.axes):
        found.add("pointwise")
    return frozenset(found)
