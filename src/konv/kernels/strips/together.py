"""What pairs and stacks of rows share: rows of outputs that a sweep of few taps takes together.

    for lines, as many as are met together:
        for rows, in each of the phases that dilated taps leave:
            place: where they lie, which rows of slots there are
            ...                                             columns, lines: pairs.py, stacks.py

All is in pencils.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import ClassVar, TypeVar

from konv.kernels.strips.along import Along
from konv.kernels.strips.form import Form
from konv.kernels.strips.job import strip_function
from konv.kernels.strips.results import Results
from konv.kernels.strips.walk import SWEEP
from konv.kernels.words import AXES, Words
from konv.llvm import I1, REAL, Function, Module, Pointer, Value
from konv.plan import Plan


class Together:
    """Such a sweep while it is emitted: at some lines (`turn`), at rows of outputs (`place`)."""

    rows: ClassVar[int]  # that are taken together

    def __init__(self, f: Function, job: Words, unit: Words, plan: Plan, form: Form) -> None:
        self.f, self.job, self.unit, self.plan, self.form = f, job, unit, plan, form
        self.steps = [unit["step", axis] for axis in AXES]
        self.high, self.wide = Along.of(form, 1), Along.of(form, 2)

    def begins(self, weights: Pointer, bias: Pointer, line: Value) -> None:
        """At the first of all lines."""
        self.weights, self.bias, self.line = weights, bias, line

    def turn(self, begin: Value, end: Value) -> None:
        """Some of the lines."""
        self.begin, self.end = begin, end

    def place(self, slots: Pointer, y: Pointer, z: Value, r: Value) -> None:
        """Rows of outputs."""
        f, form, unit, high = self.f, self.form, self.unit, self.high
        first, self.r = r * form.stride[1], r
        self.at = slots + (z * form.stride[0] * self.steps[0] + first * self.steps[1])
        deep = f.below_unsigned(unit["before", 0] + z * form.stride[0], unit["most", 0])
        self.there = {
            slot: deep
            & f.below_unsigned(unit["before", 1] + (first + slot * high.dilation), unit["most", 1])
            for slot in range(high.jump * (self.rows - 1) + high.taps)
            if high.uses(slot, self.rows)
        }
        self.inside = self.whole()
        for there in self.there.values():
            self.inside = self.inside & there
        self.results = Results(f, self.job, unit, self.plan, form, (z, f.integer(0)))
        self.results.enter(y)
        self.to = self.results.line + r * self.results.out_steps[1]

    def whole(self) -> Value:
        """Whether all of the rows are there, as far as that has not been asked."""
        return self.f.constant(I1, 1)


Sweep = TypeVar("Sweep", bound=Together)


@contextmanager
def rows_together(module: Module, plan: Plan, name: str, kind: type[Sweep]) -> Iterator[Sweep]:
    """name(job, unit, slots, weights, bias, y, line, count): the loops over all rows of `count`
    lines; what is emitted inside is done at each place.
    """
    real, form = REAL[plan.dtype], Form.of(plan, module.target.lanes(plan.dtype))
    with strip_function(module, name, SWEEP, inline=True) as (f, job, unit, args):
        slots, weights, bias, y = (a.to_pointer(real) for a in args[:4])
        sweep = kind(f, job, unit, plan, form)
        sweep.begins(weights, bias, args[4])
        rows, q = unit["length", 1], sweep.high.outputs
        with ExitStack() as stack:
            begin = stack.enter_context(f.loop(args[5], step=job["near"]))
            sweep.turn(begin, f.least(args[5], begin + job["near"]))
            z = stack.enter_context(f.loop(unit["length", 0]))
            phase = stack.enter_context(f.loop(f.least(rows, q))) if q > 1 else f.integer(0)
            r = stack.enter_context(f.loop(rows, start=phase, step=kind.rows * q))
            sweep.place(slots, y, z, r)
            yield sweep
