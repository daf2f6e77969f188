"""Few taps in pencils, met in the order of memory: a stack of rows of outputs in one column, all
channels of it before the next column.

    for stack of rows:
        for column of outputs:                              inside the image, at its border
            for line in lines:
                load all weights                            in registers
                for column of slots under the output:
                    for slot in it:                         rows of the image that there are
                        load it once; multiply-add it into every output that reads it
                store the outputs

Every row of the image under a stack is read from its beginning to its end, which the prefetchers
of a processor follow. An output's chain is that of konv.kernels.strips.pairs, columns from the
left and rows from the top: so which of the two it is may follow from anything.

Zen 3, kernels alone, as many times as fast as pairs, two threads: 96@112 s2 1.2 to 1.36, 64@112 s2
1.2 to 1.5; of eight images 96@112 s2 1.3 to 1.8, 144@56 1.1 to 1.8, 192@28 1.0 to 1.3, 32@112 0.97
to 1.2 (one thread 0.87 to 1.1). Two columns at once took longer, 96@112 s2 of eight up to twice.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from konv.kernels.epilogue import apart
from konv.kernels.scratch import LINE
from konv.kernels.strips.form import STACK, STEPS
from konv.kernels.strips.results import Store
from konv.kernels.strips.together import Together, rows_together
from konv.llvm import I8, SIZE, Module, Pointer, Routine, Value, Variable
from konv.plan import Plan

AHEAD = 4  # columns of outputs from one to that whose slots are asked for, if they come from memory


def emit_stacks(module: Module, plan: Plan) -> Routine:
    """stacks(job, unit, slots, weights, bias, y, line, count): all outputs of `count` lines."""
    with rows_together(module, plan, "stacks", _Stacks) as stacks:
        f, columns = stacks.f, stacks.unit["length", 2]
        with f.loop(columns) as c:
            stacks.column(c)
            with f.choose(stacks.within) as (inside, beside):
                with inside:
                    stacks.lines(False)
                with beside:
                    stacks.lines(True)
    return stacks.f.fn


class _Stacks(Together):
    """A sweep while it is emitted: at a stack of rows (`place`), a column, over the lines."""

    rows = STACK

    def __init__(self, *frame: Any) -> None:
        super().__init__(*frame)
        self.down = self.steps[1] * self.high.dilation

    def whole(self) -> Value:
        return self.r + self.high.outputs * (STACK - 1) < self.unit["length", 1]

    def column(self, c: Value) -> None:
        """A column of outputs, and which columns of slots there are."""
        f, form, unit, wide = self.f, self.form, self.unit, self.wide
        first = c * form.stride[2]
        before = unit["before", 2] + first
        self.across = [
            f.below_unsigned(before + tap * wide.dilation, unit["most", 2])
            for tap in range(wide.taps)
        ]
        self.within = self.inside
        for there in self.across:
            self.within = self.within & there
        self.here = self.at + first * self.steps[2]
        self.goal = self.to + c * self.results.out_steps[2]

    def lines(self, beside: bool) -> None:
        """The stack in all lines."""
        f, form, lanes = self.f, self.form, self.form.lanes
        end = self.job["channels"] - lanes
        begin = f.least(self.line * lanes, end)
        taps = form.kernel[1] * form.kernel[2]
        with f.loop(self.end, start=self.begin) as n:
            on = f.least((self.line + n) * lanes, end) - begin
            at, to = f.opaque(self.here + on), f.opaque(self.goal + on)
            if not beside:
                shared = max(1, LINE // (lanes * SIZE[at.element]))
                with f.when((n & (shared - 1)) < self.job["far"]):
                    self._fetch(at, to)
            own = f.opaque(self.weights + n * (taps * lanes))
            held = [own.vector(tap * lanes, lanes) for tap in range(taps)]
            start = (self.bias + n * lanes).vector(0, lanes)
            sums = [Variable(f, start) for _ in range(STACK)]
            for tap in range(self.wide.taps):
                with ExitStack() as stack:
                    if beside:
                        stack.enter_context(f.when(self.across[tap]))
                    column = at + self.steps[2] * (self.wide.dilation * tap) if tap else at
                    self._add(column, held[tap :: self.wide.taps], sums, beside)
            self.results.put(self._stores(to, sums, beside), None)

    def _add(self, column: Pointer, held: list[Value], sums: list[Variable], beside: bool) -> None:
        """Add a column of slots."""
        f = self.f
        for row, there in self.there.items():
            group, step = divmod(row, STEPS)
            at = column + self.down * (STEPS * group) if group else column
            with ExitStack() as stack:
                if beside:
                    stack.enter_context(f.when(there))
                x = (at + self.down * step if step else at).vector(0, self.form.lanes)
                for r, u in self.high.uses(row, STACK):
                    sums[r].set(f.fma(x, held[u], sums[r].get()))

    def _stores(self, to: Pointer, sums: list[Variable], beside: bool) -> list[Store]:
        """The outputs, each in its place; those of no row where nobody reads."""
        f, results, stores = self.f, self.results, []
        dump = (self.unit.pointer("scratch", I8) + self.job["at_dump"]).cast(to.element)
        residual = self.plan.residual and not results.blocked
        for r, total in enumerate(sums):
            place = to + results.out_steps[1] * (self.high.outputs * r) if r else to
            added = apart(place, self.unit["residual"]) if residual else None
            if beside and r:
                there = self.r + self.high.outputs * r < self.unit["length", 1]
                added = results.residual_of(place, there, dump)
                place = f.select_pointer(there, place, dump)
            stores.append((place, results.result(total), added))
        return stores

    def _fetch(self, at: Pointer, to: Pointer) -> None:
        """Ask for what a later column reads and those before it do not, and for the places of its
        results.
        """
        f, form, high = self.f, self.form, self.high
        on = AHEAD * form.stride[2]
        fresh = min(form.stride[2], form.extent(2))
        for n in range(fresh):
            column = at + self.steps[2] * (on + form.extent(2) - 1 - n)
            for row in self.there:
                f.prefetch(column + self.down * row)
        place = to + self.results.out_steps[2] * AHEAD
        for r in range(STACK):
            f.prefetch(place + self.results.out_steps[1] * (high.outputs * r))
