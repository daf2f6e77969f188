"""Boxes of outputs, and the parts that boxes make: in which order a weight gradient is added up, so
they depend on the sizes of the layer and on nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from konv.geometry import ONE, Conv
from konv.kernels.lines import Line
from konv.plan import Strides

CHANNEL = 2**16  # numbers of one channel in a strip beyond which boxes are made smaller
# Numbers that all parts together may leave: 1 MB, which is read again from a cache. With 2**20 and
# 8 images 1x1 layers 1024->256@14, 512->128@28 took 1.07, 256->512@28 1.04 as long (Zen 3).
PARTIAL = 2**18
PARTS = 16


@dataclass(frozen=True, slots=True)
class Boxes:
    """The outputs of a layer in boxes; the images in one, and the parts that boxes make."""

    lines: list[Line]
    images: int
    count: int
    parts: int

    @classmethod
    def of(cls, conv: Conv, most: int, part: int) -> Boxes:
        """Outputs in a box at most, or about; in a part at least."""
        axes = (ONE,) * (3 - conv.dims) + conv.axes
        while True:
            lines = [Line(axis) for axis in axes]
            left = most
            for line in reversed(lines):
                line.cut(max(1, left))
                left //= line.box
            if most == 1 or prod(line.slots for line in lines) <= CHANNEL:
                break
            most //= 2
        return cls.over(conv, lines, left, part)

    @classmethod
    def over(cls, conv: Conv, lines: list[Line], images: int, part: int) -> Boxes:
        """With axes cut like this, and so many images in a box if one holds a whole image."""
        whole = all(line.boxes == 1 for line in lines)
        images = max(1, images) if whole else 1
        images = -(-conv.n // -(-conv.n // images))
        count = -(-conv.n // images) * prod(line.boxes for line in lines)
        outputs = conv.n * prod(line.count for line in lines)
        parts = max(1, min(PARTS, count, outputs // part, PARTIAL // conv.params))
        return cls(lines, images, count, count // -(-count // parts))


def whole(lines: list[Line], y: Strides) -> int:
    """Axes from the last on whose outputs a box has all of, and lie in one run with the next."""
    if lines[2].boxes > 1 or (lines[1].count > 1 and y[1] != lines[2].count * y[2]):
        return 0
    if lines[1].boxes > 1 or (lines[0].count > 1 and y[0] != lines[1].count * y[1]):
        return 1
    return 2
