"""Vectors of columns of few taps, in planes: how bands and what slides read a row."""

from __future__ import annotations

from konv.kernels.strips.form import Form, dealt
from konv.kernels.words import Words
from konv.llvm import Function, Pointer, Value
from konv.plan import Plan

Masks = dict[int, Value]  # by the distance from the first column: which of a vector there are
Known = dict[tuple[int, int], list[Value]]  # vectors that were read of a row


def splat(f: Function, form: Form, weights: Pointer) -> list[list[Value]]:
    """All weights of a line, [column][row]: in registers, as there are no more than HELD."""
    high, wide = form.kernel[1:]
    return [[f.splat(weights[o * high + u], form.lanes) for u in range(high)] for o in range(wide)]


class Columns:
    """The taps of a row. Of a stride of 2, two of them come from one pair of loads."""

    def __init__(self, f: Function, unit: Words, plan: Plan, form: Form) -> None:
        self.f, self.unit, self.form = f, unit, form
        self.wide, self.half = form.kernel[2], form.half(plan.pixels == 1)
        self.order = dealt(plan, form.lanes)
        self.end = f.splat_low(unit["most", 2], form.lanes)

    def inside(self, columns: int) -> tuple[Value, Value]:
        """From which place on, and up to which, so many columns are there and read no padding."""
        f, unit, stride = self.f, self.unit, self.form.stride[2]
        before, reach = unit["before", 2], columns * stride - 1 + self.form.extent(2) - 1
        begin = (f.most(0 - before, f.integer(0)) + (stride - 1)) // stride
        end = f.most(unit["most", 2] - before - reach + (stride - 1), f.integer(0)) // stride
        return begin, f.least(end, unit["length", 2] - (columns - 1))

    def masks(self, place: Value, vectors: int = 1, middle: int | None = None) -> Masks:
        """Which columns there are; `middle`: but for those around this one of all vectors."""
        f, lanes, stride = self.f, self.form.lanes, self.form.stride[2]
        taps = [o * self.form.dilation[2] for o in range(self.wide)]
        wide = range(0, stride * vectors * lanes, lanes)
        parts = {tap - tap % stride + n for tap in taps for n in wide}
        if middle is not None:
            end = (vectors * lanes - 1) * stride - (lanes - 1) + middle
            parts = {part for part in parts if not middle <= part <= end}
        first = f.splat_low(place * stride + self.unit["before", 2], lanes)
        return {part: f.counted(first, part, 0) < self.end for part in sorted(parts)}

    def load(
        self, at: Pointer, column: int, tap: int, known: Known,
        masks: Masks,
    ) -> Value:  # fmt: skip
        """The columns of one tap, from the vector that begins at an output's column on; `known`:
        what was read of this row.
        """
        f, form, lanes = self.f, self.form, self.form.lanes
        stride = form.stride[2] if form.direct else 1
        if form.stride[2] > stride:  # in the strip phases of columns lie apart
            return at.vector(
                column + tap % form.stride[2] * self.half + tap // form.stride[2], lanes
            )
        phase, begin = tap % stride, tap - tap % stride
        parts = known.get((column, begin))
        if parts is None:
            starts = [column * stride + begin + n * lanes for n in range(stride)]
            parts = [self._part(at, start, masks) for start in starts]
            known[column, begin] = parts
        if stride == 1:
            return parts[0]
        return f.shuffle(parts[0], parts[1], [lane + phase for lane in self.order])

    def _part(self, at: Pointer, offset: int, masks: Masks) -> Value:
        """Neighbouring columns of a slot; at the border those that there are."""
        if not self.form.direct or offset not in masks:
            return at.vector(offset, self.form.lanes)
        return self.f.load_masked(at + offset, masks[offset])
