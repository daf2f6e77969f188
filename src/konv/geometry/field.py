"""Receptive fields of chains of layers, along one axis: the summary and the exact pixels.

A chain is a list of axes, the first layer first: convolutions of any kind and poolings, which are
axes as well (`chain` takes them from a list of layers). Borders play no role: fields are those of
an image without end, so the sizes of the axes are not looked at.

The summary is one number of each kind, after Araujo, Norris and Sim, "Computing Receptive Fields of
Convolutional Neural Networks" (Distill, 2019). Where layers insert zeros or leave holes, one number
is not the truth: `reach` keeps the exact set of pixels, for each output phase.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm

from konv.geometry.axis import Axis
from konv.geometry.bounds import integer
from konv.geometry.conv import Conv


@dataclass(frozen=True, slots=True)
class Field:
    """What one output of a chain sees, in input pixels.

    size: pixels from the first to the last seen (with inserted zeros, of the widest phase).
    stride: from one output to the next; a fraction where the chain enlarges.
    padding: how far before the first pixel the field of output 0 begins.
    middle: the centre of the field of output 0.
    """

    size: int
    stride: Fraction
    padding: Fraction
    middle: Fraction

    @classmethod
    def of(cls, axes: Sequence[Axis]) -> Field:
        """Return the summary of a chain; of an empty one, the pixel itself.

        >>> pool = Axis(224, 2, stride=2)
        >>> conv = Axis(224, 3, lo=1, hi=1)
        >>> field = Field.of([conv, conv, pool, conv])
        >>> field.size, int(field.stride), int(field.padding), field.centre(0)
        (10, 2, 4, Fraction(1, 2))
        """
        stride, padding, window = Fraction(1), Fraction(0), Fraction(1)
        for axis in axes:  # one step of a layer is stride / up of its input, each worth `stride`
            step = stride / axis.up
            padding += axis.lo * step
            window += (axis.extent - 1) * step
            stride = axis.stride * step
        size = int(window)
        if any(axis.up > 1 for axis in axes):
            size = max(reached.span for reached in reach(axes))
        return cls(size, stride, padding, middle=(window - 1) / 2 - padding)

    def centre(self, o: int) -> Fraction:
        """Return the position of the centre of the field of output `o`; pixel i lies at i."""
        return self.middle + o * self.stride


@dataclass(frozen=True, slots=True)
class Reach:
    """The exact pixels, in order, that output `phase` sees.

    Output phase + period * j sees the same, stride * period * j pixels further on.
    """

    phase: int
    pixels: tuple[int, ...]

    @property
    def span(self) -> int:
        """Pixels from the first to the last seen; 0 if none is."""
        return self.pixels[-1] - self.pixels[0] + 1 if self.pixels else 0

    @property
    def density(self) -> Fraction:
        """Share of the span that is seen; 1 means no holes."""
        return Fraction(len(self.pixels), self.span) if self.pixels else Fraction(1)

    @property
    def holes(self) -> tuple[int, ...]:
        """The pixels within the span that are not seen."""
        seen = set(self.pixels)
        return tuple(i for i in range(min(seen), max(seen)) if i not in seen) if seen else ()


def chain(layers: Sequence[Conv | Axis], dim: int = -1) -> list[Axis]:
    """Return the axes of layers along one dimension; an Axis (a pooling) is the same along all."""
    return [layer if isinstance(layer, Axis) else layer.axes[dim] for layer in layers]


def period(axes: Sequence[Axis]) -> int:
    """Return the number of output phases: outputs that far apart see the same, moved by pixels.

    >>> period([Axis(8, 4, lo=2, hi=2, up=2)] * 2), period([Axis(9, 3, stride=2)])
    (4, 1)
    """
    step, common = Fraction(1), 1
    for axis in reversed(axes):  # the move must be whole pixels in every layer of the chain
        step *= Fraction(axis.stride, axis.up)
        common = lcm(common, step.denominator)
    return common


def reach(axes: Sequence[Axis]) -> tuple[Reach, ...]:
    """Return the exact pixels seen by outputs 0..period-1, one Reach for each phase.

    Takes time proportional to phases x pixels x taps.

    >>> two = [Axis(99, 3, dilation=2)] * 2
    >>> reach(two)[0].pixels, reach(two)[0].density
    ((0, 2, 4, 6, 8), Fraction(5, 9))
    """
    found = []
    for phase in range(period(axes)):
        seen = {phase}
        for axis in reversed(axes):
            seen = sources(axis, seen)
        found.append(Reach(phase, tuple(sorted(seen))))
    return tuple(found)


def sources(axis: Axis, outputs: Iterable[int]) -> set[int]:
    """Return all pixels that any of `outputs` reads, in an image without end.

    >>> sorted(sources(Axis(8, 4, lo=2, hi=2, up=2), {0, 1}))
    [-1, 0, 1]
    """
    places = (
        o * axis.stride + k * axis.dilation - axis.lo for o in outputs for k in range(axis.kernel)
    )
    return {place // axis.up for place in places if place % axis.up == 0}


def widest_gap(rates: Sequence[int]) -> int:
    """Return M2, the widest gap that HDC's rule finds above the layer of the smallest rate.

    Wang et al., "Understanding Convolution for Semantic Segmentation" (2018), section 3.2:
    M_n = r_n;  M_i = max(M_(i+1) - 2 r_i, 2 r_i - M_(i+1), r_i). With the rates in rising order
    M_(i+1) >= r_i, so that the middle term is never the greatest and is left out.

    >>> widest_gap([1, 2, 5]), widest_gap([1, 2, 9])
    (2, 5)
    """
    *lower, gap = sorted(rates)
    for rate in reversed(lower[1:]):
        gap = max(gap - 2 * rate, rate)
    return gap


def why_gridding(rates: Sequence[int], kernel: int = 3) -> str | None:
    """Return why a chain of layers at these dilation rates leaves holes, None if it does not.

    HDC's rule, M2 <= kernel; and one rate must be 1, without which the pixel next to the edge of
    the field is never seen. The order of the layers does not matter. For 3 taps this is the exact
    truth (it agrees with `reach`); for more it may see holes where there are none.

    >>> why_gridding([1, 2, 5])
    >>> why_gridding([2, 2, 2])
    'no rate of 2, 2, 2 is 1: an output sees only pixels 2 apart'
    >>> why_gridding([1, 2, 9])
    'rates 1, 2, 9 leave gaps of 5 (M2), wider than the kernel of 3'
    """
    integer(kernel, "kernel", least=3)
    named = ", ".join(str(integer(rate, "rate", least=1)) for rate in rates)
    if rates and min(rates) > 1:
        apart = gcd(*rates)
        seen = f"only pixels {apart} apart" if apart > 1 else "no pixel next to its field's edge"
        return f"no rate of {named} is 1: an output sees {seen}"
    if len(rates) > 1 and widest_gap(rates) > kernel:
        gap = widest_gap(rates)
        return f"rates {named} leave gaps of {gap} (M2), wider than the kernel of {kernel}"
    return None
