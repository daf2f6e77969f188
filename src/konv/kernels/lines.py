"""Axes of a layer as units take them: boxes of pixels, the slots that these read, and which sizes
of boxes are worth a price (konv.kernels.cut).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise, product
from math import ceil, log, prod

from konv.geometry import Axis
from konv.geometry.phase import Phase

# Of a packed box: squarer boxes pack fewer pixels twice, and 64 floats still fill cache lines.
WIDEST = 64
WIDEST_LINE = 256  # of boxes whose results leave in lines
CHOICES = 12  # boxes considered on an axis
# Of those the largest, of which none is left out: halves are what two threads want (channels-last,
# whose six or four vectors of channels make uneven chunks: 576->96@14 1.17 times as fast as those,
# 384->64@14 1.2, Granite Rapids).
LARGEST = 4


class Line:
    """One axis, its phases and the box that units take of it.

    A slot is a place for one source. Usually slots are all pixels from a box's first to its last
    source, so that neighbours stay neighbours. Where taps lie far apart, most of these would
    never be read: a *sparse* axis has slots for what each output of the box reads, and no others.

    run   taps that are taken as one, because their sources are neighbours: all of the axis, or 1
    dense slots are all pixels, whatever is read: tiles go along them in equal steps
    parted
          outputs that meet padding with the same taps are a phase, so boxes do not mix them
    """

    def __init__(self, axis: Axis, run: int = 1, dense: bool = False, parted: bool = False) -> None:
        self.axis, self.run, self.dense = axis, run, dense or run > 1
        self.phases = parts_of(axis) if parted else tuple(axis.phases())
        self.count = max(phase.count for phase in self.phases)
        self.jump, self.step = self.phases[0].stride, self.phases[0].step
        self.reads = sorted({source for phase in self.phases for source in phase.sources}) or [0]
        self.least, self.span = self.reads[0], self.reads[-1] - self.reads[0]
        self.reach = max(len(phase.taps) for phase in self.phases) // run
        self.cut(1)
        self.fewest = self.slots
        self.cut(self.count)

    def cut(self, box: int) -> None:
        """Take about `box` at a time, in boxes as even as can be."""
        self.boxes = -(-self.count // max(1, min(box, self.count)))
        self.box = -(-self.count // self.boxes)
        self.boxes = -(-self.count // self.box)
        dense = (self.box - 1) * self.jump + self.span + 1
        self.sparse = not self.dense and 2 * self.box * len(self.reads) <= dense
        self.ahead = len(self.reads) if self.sparse else self.jump
        self.first_slots = len(self.reads) if self.sparse else self.span + 1
        self.slots = (self.box - 1) * self.ahead + self.first_slots
        self.sources = min(self.slots, self.box * len(self.reads), self.axis.size)
        self.fresh = self.box * min(self.jump, len(self.reads))  # not read by the box before

    def raws(self) -> list[int] | range:
        """The source of each slot, counted from the box's first."""
        if not self.sparse:
            return range(self.slots)
        return [j * self.jump + read - self.least for j in range(self.box) for read in self.reads]

    def slot(self, source: int) -> int:
        """The slot of a source that the first output of a box reads."""
        return bisect_left(self.reads, source) if self.sparse else source - self.least


def parts_of(axis: Axis) -> tuple[Phase, ...]:
    """The phases of an axis, the only one cut where a tap comes out of padding or into it."""
    phases = tuple(axis.phases())
    if len(phases) > 1:
        return phases
    (phase,) = phases
    ends = {0, phase.count}
    for source in phase.sources:
        for edge in (0, axis.size):  # the first output whose source is not before it
            ends.add(min(max(0, -(-(edge - source) // phase.stride)), phase.count))
    found = []
    for begin, end in pairwise(sorted(ends)):
        sources = tuple(source + phase.stride * begin for source in phase.sources)
        found.append(replace(phase, first=begin, count=end - begin, sources=sources))
    return tuple(found)


def boxes_of(
    lines: list[Line], most: int, packed: bool, in_lines: bool
) -> Iterator[tuple[int, ...]]:
    """Boxes of at most so many pixels; the smallest of an axis is always among them."""
    widest = min(most, WIDEST) if packed and lines[1].count * lines[0].count > 1 else most
    if in_lines:
        widest = WIDEST_LINE
    limits = (most, most, widest)
    sizes = [sizes_of(line.count, limit) for line, limit in zip(lines, limits, strict=True)]
    for inward in product(*sizes[::-1]):  # the widest first: tiles are even in a row
        boxes = inward[::-1]
        whole = not in_lines or boxes[2] == sizes[2][0] or boxes[0] == boxes[1] == 1
        if prod(boxes) <= most and whole:
            yield boxes


def sizes_of(count: int, limit: int) -> list[int]:
    """Sizes that cut an axis evenly, no larger than the limit, the largest first: of many some, and
    if one may be the whole axis, the first few and then, of those about as large, the one that
    leaves least over, in an even number of boxes if that is no loss.
    """
    fewest = -(-count // limit)
    sizes = [-(-count // fewest)]
    while sizes[-1] > 1:  # the largest below it: of a million, 2000 sizes
        sizes.append(-(-count // -(-count // (sizes[-1] - 1))))
    if len(sizes) <= CHOICES:
        return sizes
    if fewest > 1:
        step = (len(sizes) - 1) / (CHOICES - 1)
        return [sizes[round(i * step)] for i in range(CHOICES)]
    kept, steps = sizes[:LARGEST], CHOICES - LARGEST
    alike: dict[int, list[int]] = {}
    for size in sizes[LARGEST:]:
        alike.setdefault(ceil(steps * log(size) / log(kept[-1])), []).append(size)
    return kept + [
        min(each, key=lambda size: (-count % size, -(-count // size) % 2))
        for each in alike.values()
    ]
