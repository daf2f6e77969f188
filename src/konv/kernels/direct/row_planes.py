"""Results of tiles along rows into planes of a contiguous output, straight out of registers:

    sums    [pixel][vectors of channels]  ->  16 bytes of neighbouring pixels a channel

A block of them in scratch, turned behind its unit (konv.kernels.results), took 6 % of 3->64@224 k7
s2 with one thread, twice what its own numbers cost: each went through the second-level cache once
more (Zen 3).
"""

from __future__ import annotations

from contextlib import nullcontext

from konv.kernels.packing import PART, beside
from konv.kernels.results import AHEAD
from konv.kernels.stored import element, write
from konv.llvm import I64, REAL, SIZE, Function, Module, Pointer, Routine, Value, pointer_to
from konv.plan import Plan


def straight(plan: Plan) -> bool:
    """Whether results of a plan's tiles along rows leave so: what is added to them on the way may
    lie where they go, so no pixel of those may be met twice.
    """
    return plan.blocked and not plan.residual


def emit_short(module: Module, plan: Plan, width: int) -> Routine:
    """short(source, to, pixels, channels, plane): pixels of a row that is no tile long, out of a
    tile with `width` channels each.
    """
    ends = [("source", pointer_to(REAL[plan.dtype])), ("to", pointer_to(element(plan.dtype)))]
    params = [*ends, *((name, I64) for name in ("pixels", "channels", "plane"))]
    with module.function(f"short_{width}", params, inline=False, plain=True) as (f, args):
        source, to, pixels, channels, plane = args
        with f.loop(channels) as c, f.loop(pixels) as i:
            write(f, plan.dtype, to + (c * plane + i), source[i * width + c])
        return f.fn


def put_planes(
    f: Function,
    plan: Plan,
    values: list[list[Value]],
    to: Pointer,
    plane: Value,
    channels: Value,
    ask: bool = False,
) -> None:
    """A tile, pixel by pixel its vectors, into as many of its channels as there are; `to` is where
    its first pixel's first channel goes. Only the last vector may hold channels that are none.
    `ask`: for the lines of memory behind it, too.
    """
    mr, lanes = len(values), values[0][0].lanes
    side = PART // SIZE[REAL[plan.dtype]]
    # The last pixels overlap those before them rather than fall short.
    firsts = sorted({min(at, mr - side) for at in range(0, mr, side)})
    for n in range(len(values[0])):
        turned = [beside(f, [values[first + i][n] for i in range(side)]) for first in firsts]
        for lane in range(lanes):
            place = to + plane * (n * lanes + lane)
            which = range(lane // side * side, lane // side * side + side)
            columns = [vectors[lane % side] for vectors in turned]
            there = channels > n * lanes + lane
            with f.when(there) if n == len(values[0]) - 1 else nullcontext():
                for first, column in zip(firsts, columns, strict=True):
                    write(f, plan.dtype, place + first, f.shuffle(column, column, which))
                if ask:
                    f.prefetch(place + AHEAD // SIZE[place.element])
