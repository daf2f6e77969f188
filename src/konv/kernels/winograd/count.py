"""What Winograd's tiles of a layer are counted by: its axes, lines of tiles on them, and the blocks
that output channels make.
"""

from __future__ import annotations

from konv.geometry import ONE, Axis, Conv
from konv.kernels.winograd.transforms import Transform
from konv.plan import Plan

# Register tiles for what is left of a box, by the full one's tiles.
RESTS = {14: (8, 4), 12: (8, 4), 10: (5,), 8: (4,), 7: (3,), 6: (3,), 4: (2,)}
WIDE, HALVED = 3, 16  # vectors of blocks that may be narrower; of output channels that are halved


def three(conv: Conv) -> tuple[Axis, Axis, Axis]:
    """The axes of a layer, as many as the records know: planes, rows and columns. What has taps on
    its first axis only has its second as planes.
    """
    axes = (ONE,) * (3 - conv.dims) + conv.axes
    deep, down, along = (axes[i] for i in order(conv))
    return deep, down, along


def order(conv: Conv) -> tuple[int, int, int]:
    """Which axis is which of `three`."""
    turned = conv.dims == 3 and [axis.kernel > 1 for axis in conv.axes] == [True, False, False]
    return (1, 0, 2) if turned else (0, 1, 2)


def count(axis: Axis, t: Transform) -> int:
    """Lines of tiles on an axis.

    >>> count(Axis(14, 3, lo=1, hi=1), Transform(4, 3))
    4
    >>> count(Axis(33, 3, dilation=4, lo=4, hi=4), Transform(4, 3))
    9
    """
    d = axis.dilation if axis.kernel > 1 else 1
    whole, rest = divmod(axis.out, t.outputs * d)
    return whole * d + min(rest, d)


def half(vectors: int, nr: int) -> int:
    """Vectors of output channels that blocks are made of in one go: half of many, so that two
    threads have as many each, where that takes no narrow block more. Those are slower: 4 tiles by
    2 vectors take 1.2 times as long a vector as by 3, by 1 1.8 times (Zen 3).
    """
    halved = nr == WIDE and vectors >= HALVED and vectors % (2 * WIDE) == WIDE + 1
    return vectors // 2 if halved else vectors


def tail(vectors: int, nr: int) -> int:
    """Vectors of a narrow block. Rather than one of a single vector there are two of two: 4 tiles
    by one vector take as long as 4 by 2, as their sums wait for each other.

    >>> tail(16, 3), tail(8, 3), tail(9, 3), tail(1, 3), tail(3, 2)
    (2, 2, 0, 1, 1)
    """
    vectors = half(vectors, nr)
    rest = vectors % nr
    return 2 if rest == 1 and nr == WIDE and vectors > nr else rest


def widths(vectors: int, plan: Plan) -> list[int]:
    """Vectors of output channels of each block: full ones, then one narrow or two; once or twice.

    >>> widths(16, Plan("winograd", "float32", True, True, 4, 3, 2))
    [3, 3, 2, 3, 3, 2]
    """
    nr, narrow, each = plan.vectors, plan.tail, half(vectors, plan.vectors)
    count = 0 if not narrow else 1 if each % nr == narrow else 2
    return ([nr] * ((each - count * narrow) // nr) + [narrow] * count) * (vectors // each)
