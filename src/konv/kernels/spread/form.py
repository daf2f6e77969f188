"""What konv.kernels.spread is specialised on, and the layer over cells that it sees.

A *cell* is `up` outputs along each axis, whose places are multiples of it. Sub-pixel f of cell q
takes tap k where up divides f + k * dilation - lo, and reads the pixel so many of `up` further on
than q. So cells are outputs of a layer in steps of one, whose taps are pixels under a cell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from math import prod

from konv.geometry import ONE, Axis, Conv
from konv.plan import Plan

Place = tuple[int, ...]  # of a tap, of a pixel under a cell, of a sub-pixel in it


@dataclass(frozen=True, slots=True)
class Spread:
    """What sub-pixels read, per axis; `shift` is lo % up."""

    kernel: Place
    up: Place
    dilation: Place
    shift: Place

    @classmethod
    def of(cls, plan: Plan) -> Spread:
        form = plan.form
        return cls(form[:3], form[3:6], form[6:9], form[9:12])

    def reads(self, axis: int, f: int) -> list[tuple[int, int]]:
        """(tap, pixel counted from the cell's own) of a sub-pixel, taps ascending."""
        up, dilation, shift = self.up[axis], self.dilation[axis], self.shift[axis]
        places = [(tap, f + tap * dilation - shift) for tap in range(self.kernel[axis])]
        return [(tap, place // up) for tap, place in places if place % up == 0]

    def first(self, axis: int) -> int:
        """The first pixel that a cell reads."""
        return min(at for f in range(self.up[axis]) for _, at in self.reads(axis, f))

    def span(self, axis: int) -> int:
        """Pixels under a cell."""
        last = max(at for f in range(self.up[axis]) for _, at in self.reads(axis, f))
        return last + 1 - self.first(axis)

    def taps(self, f: Place) -> list[tuple[Place, Place]]:
        """(tap, pixel under the cell) of a sub-pixel, in the order in which they are added."""
        ways = [[(t, at - self.first(a)) for t, at in self.reads(a, f[a])] for a in range(3)]
        return [(tuple(t for t, _ in way), tuple(at for _, at in way)) for way in product(*ways)]


def axes_of(conv: Conv) -> tuple[Axis, ...]:
    """Three of them."""
    return (ONE,) * (3 - len(conv.axes)) + conv.axes


def form_of(conv: Conv) -> tuple[int, ...]:
    """Taps, steps, dilations and the place of the first tap, as `Plan.form` holds them."""
    axes = axes_of(conv)
    return (
        *(a.kernel for a in axes),
        *(a.up for a in axes),
        *(a.dilation if a.kernel > 1 else 1 for a in axes),
        *(a.lo % a.up for a in axes),
    )


def over_cells(conv: Conv, plan: Plan) -> Conv:
    """The layer whose outputs are cells."""
    spread, missing = Spread.of(plan), 3 - len(conv.axes)
    axes = []
    for number, axis in enumerate(conv.axes, start=missing):
        cells, span = -(-axis.out // axis.up), spread.span(number)
        lo = axis.lo // axis.up - spread.first(number)
        axes.append(Axis(axis.size, span, lo=lo, hi=cells + span - 1 - axis.size - lo))
    return replace(conv, axes=tuple(axes), mode="zeros", transposed=False)


def cells_plan(plan: Plan) -> Plan:
    """The plan of that layer, as konv.kernels.strips knows plans."""
    spread = Spread.of(plan)
    form = (*(spread.span(axis) for axis in range(3)), *(1,) * 6, 0)
    return replace(plan, algorithm=road(plan), form=form)


def taps_plan(plan: Plan) -> Plan:
    """The same for the taps of the layer itself: how they are packed."""
    return replace(plan, algorithm=road(plan), form=(*plan.form[:3], *(1,) * 6, 0))


def road(plan: Plan) -> str:
    """What lies in the lanes, by the name of the algorithm that has it there."""
    return "planes" if plan.packed else "pencils"


def count(form: tuple[int, ...]) -> int:
    """Sub-pixels of a cell."""
    return prod(form[3:6])
