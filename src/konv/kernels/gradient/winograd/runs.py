"""Boxes of tiles of a weight gradient by Winograd's algorithm, the pixels under them, and runs of
boxes. They decide in which order products are added up, so they depend on the sizes of the layer
and on nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator

from konv.geometry import ONE, Axis, Conv
from konv.kernels.gradient.boxes import Boxes
from konv.kernels.lines import Line
from konv.kernels.winograd.count import count
from konv.kernels.winograd.transforms import Pair, Transform

BOX = 32  # tiles of a box: its copy, 64 channels of 1.4 pixels each, stays in a second-level cache
WIDEST = 16  # tiles of a row in a box
FAR_APART = 36  # the same of a dilated axis: a tile of each interleaved one, which share columns

Words = dict[str, int]


def boxes_of(conv: Conv, both: Pair, most: int) -> Boxes:
    """Boxes of tiles, each axis a line of those. `most`: tiles of a run, about; of several rows, if
    a box has several.
    """
    axes = plane(conv)
    tiles = (count(*pair) for pair in zip(axes, both, strict=True))
    lines = [Line(Axis(number, 1)) for number in (1, *tiles)]
    lines[2].cut(max(min(BOX, WIDEST), min(axes[1].dilation, FAR_APART)))
    lines[1].cut(max(1, min(BOX // lines[2].box, most // lines[2].count)))
    return Boxes.over(conv, lines, BOX // (lines[1].box * lines[2].box), 1)


def plane(conv: Conv) -> tuple[Axis, Axis]:
    """The axes of a layer, two of them."""
    down, along = (ONE,) * (2 - conv.dims) + conv.axes
    return down, along


def first_output(axis: Axis, t: Transform, tile: int) -> int:
    """Where a tile begins. Those of a dilated axis belong to one of so many interleaved ones each,
    and stand in the order of their first outputs.

    >>> dilated = Axis(14, 3, dilation=3, lo=3, hi=3)
    >>> [first_output(dilated, Transform(4, 3), tile) for tile in range(5)]
    [0, 1, 2, 12, 13]
    """
    d = axis.dilation
    return tile // d * d * t.m + tile % d


def reach(axis: Axis, line: Line, t: Transform, copied: str, rows: bool) -> int:
    """Pixels that the copy of any box has along an axis: x under it, of `inputs` a tile, or dy, of
    `m` a tile. Columns are all from the first to the last; rows of a dilated axis each tile's own.
    """
    of_x = copied == "inputs"
    pixels, step = (t.inputs, axis.stride) if of_x else (t.m, 1)
    if rows and axis.dilation > 1:
        return line.box * pixels
    ends = ((first, min(first + line.box, line.count) - 1)
            for first in range(0, line.count, line.box))  # fmt: skip
    spread = max(first_output(axis, t, last) - first_output(axis, t, first) for first, last in ends)
    return spread * step + (pixels - 1) * axis.dilation + 1


def runs_of(conv: Conv, boxes: Boxes, most: int) -> Iterator[Words]:
    """Runs of boxes of about so many tiles, which follow each other: whole rows of boxes, or, where
    boxes have a row of tiles each, any.
    """
    _, down, along = boxes.lines
    alone = down.box == 1 and boxes.images == 1
    side = 1 if alone else along.boxes
    count = boxes.count // side
    before = _tiles_before if alone else _tiles_before_row
    runs = -(-before(conv, boxes, count) // most)
    step = max(1, -(-count // runs))
    for first in range(0, count, step):
        end = min(first + step, count)
        base, after = before(conv, boxes, first), before(conv, boxes, end)
        yield {
            "box": first * side, "boxes": (end - first) * side,
            "base": base, "tiles": after - base, "fresh": int(first == 0),
        }  # fmt: skip


def _tiles_before(conv: Conv, boxes: Boxes, box: int) -> int:  # noqa: ARG001 - as _tiles_before_row
    """Tiles before a box of a single row."""
    along = boxes.lines[2]
    row, at = divmod(box, along.boxes)
    return row * along.count + min(at * along.box, along.count)


def _tiles_before_row(conv: Conv, boxes: Boxes, row: int) -> int:
    """Tiles before a row of boxes."""
    _, down, along = boxes.lines
    if boxes.images > 1:
        return min(row * boxes.images, conv.n) * down.count * along.count
    image, at = divmod(row, down.boxes)
    return (image * down.count + min(at * down.box, down.count)) * along.count
