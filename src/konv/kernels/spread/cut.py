"""How konv.kernels.spread is cut into boxes of cells and lines: the words of its job."""

from __future__ import annotations

from math import prod

from konv.geometry import Conv
from konv.kernels import scratch
from konv.kernels.schedule import MODES
from konv.kernels.spread.form import axes_of, cells_plan, over_cells
from konv.kernels.strips import cut as strip_cut
from konv.kernels.strips.job import JOB
from konv.plan import Plan, Strides, Work
from konv.target import BYTES, Target

NEAR = 64 * 1024  # bytes of the strips of all lines of a unit
SHORT = 4  # rows of cells below which lines are parted sooner than rows
NARROW = 4  # lines below which columns are parted sooner


def cut(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """The work of `conv` under `plan`."""
    cells, own = over_cells(conv, plan), cells_plan(plan)
    found = strip_cut.cut(cells, own, target, x, y, threads)
    words = dict(zip(JOB, found.words, strict=True))
    words |= {f"outputs{a}": axis.out for a, axis in enumerate(axes_of(conv))}
    words |= {"mode": MODES[conv.mode], "zeros": 0}
    if plan.packed:
        return Work(list(words.values()), found.threads, found.scratch)
    _cut_lines(cells, plan, target, words, found.threads)
    return Work(list(words.values()), found.threads, words["thread_bytes"])


def _cut_lines(
    cells: Conv, plan: Plan, target: Target, words: dict[str, int], threads: int
) -> None:
    """Boxes whose strips of all lines of a unit stay near, and units for all threads."""
    box = _Box(cells, plan, target, words["lines"])
    box.fit()
    box.share(strip_cut.UNITS * threads if threads > 1 else 1)
    for a in range(3):
        words |= {f"box{a}": box.box[a], f"boxes{a}": box.boxes(a)}
    words |= {"units": box.units(), "chunk": box.chunk, "chunks": -(-box.lines // box.chunk)}
    words["line_bytes"] = box.line_bytes()
    parts = {"at_strip": box.line_bytes() * box.chunk, "at_dump": 0, "at_zeros": 0, "at_block": 0}
    words["thread_bytes"] = scratch.lay_out(words, parts)


class _Box:
    """The cells and lines that a unit takes."""

    def __init__(self, cells: Conv, plan: Plan, target: Target, lines: int) -> None:
        self.n, self.axes, self.lines, self.chunk = cells.n, axes_of(cells), lines, lines
        self.box = [axis.out for axis in self.axes]
        self.pixels, self.each = plan.pixels, target.lanes(plan.dtype) * BYTES[plan.dtype]

    def boxes(self, axis: int) -> int:
        return -(-self.axes[axis].out // self.box[axis])

    def units(self) -> int:
        return self.n * prod(map(self.boxes, range(3))) * -(-self.lines // self.chunk)

    def line_bytes(self) -> int:
        """Of a line's strip, and of what a tile at the end of its last row reads behind it."""
        slots = prod(n + axis.kernel - 1 for n, axis in zip(self.box, self.axes, strict=True))
        return (slots + self.pixels) * self.each

    def part(self, axis: int) -> None:
        """Cut an axis into at least one box more."""
        before, parts = self.box[axis], self.boxes(axis)
        while self.box[axis] == before:
            parts += 1
            self.box[axis] = -(-self.axes[axis].out // parts)

    def fit(self) -> None:
        """Cut until the strips fit, or little is left."""
        while self.line_bytes() * self.chunk > NEAR:
            if self.box[0] > 1:
                self.part(0)
            elif self.box[1] > SHORT:
                self.part(1)
            elif self.chunk > NARROW:
                self.chunk = -(-self.chunk // 2)
            elif self.box[2] > 2 * self.pixels:
                self.part(2)
            else:
                return

    def share(self, wanted: int) -> None:
        """Cut until there are so many units, or little is left."""
        while self.units() < wanted:
            if self.box[1] > SHORT:
                self.part(1)
            elif self.chunk > NARROW:
                self.chunk = -(-self.chunk // 2)
            else:
                return
