"""Few taps in pencils: two rows of outputs side by side, of which one output is completed after the
other, to the right.

    for pair of rows:                                       inside the image, at its border, one row
        for line in lines, where they are met together:
            load all weights                                in registers
            for column of slots under the pair:
                for slot in it:                             rows of the image that there are
                    load it once; multiply-add it into every output that reads it
                store the outputs that are complete

Slots of a column serve up to three outputs of each row, which go on from column to column in
registers: of 3x3 taps 4 slots are read for 18 multiply-adds, and no weight. All rows of slots are
told apart once a pair, columns beside the image by one branch for each.

Zen 3, cycles a vector of 3x3 results where all is in the first-level cache: 4.9 so, 5.9 to 8.8 of
seven outputs in a row (konv.kernels.strips.walk), 5.1 of one row, 5.3 of three, which read weights
from memory; 4.5 are the multiply-adds. What is left is the way to the second-level cache: so pairs
of two lines of the cache, or of whole rows of one, come after each other before the next lines. Two
threads, kernels alone, as many times as fast as that walk: 32@112 1.24 to 1.34, 144@56 1.31,
192@28 1.1 to 1.4, 240@14 1.6, 960@7 1.2, 240@28 s2 1.36, 192@28 d2 1.2 to 1.36, but 96@112 s2 0.92
to 0.99 and 128@32 d2, whose rows lie in the same sets of a cache, 0.98 to 1.13. Of images that come
from memory, in parts of seven columns of all lines, what is next asked for line by line: 0.87 to
1.06; whole rows, or asked for at once, 0.5 to 0.8. A branch in the loop for that took 1.1 times as
long.

An output's chain is columns from the left, and rows from the top.
"""

from __future__ import annotations

from contextlib import ExitStack

from konv.kernels.epilogue import apart
from konv.kernels.scratch import LINE
from konv.kernels.strips.form import PAIR
from konv.kernels.strips.together import Together, rows_together
from konv.llvm import SIZE, Module, Pointer, Routine, Value, Variable
from konv.plan import Plan


def emit_pairs(module: Module, plan: Plan) -> Routine:
    """sweep(job, unit, slots, weights, bias, y, line, count): all outputs of `count` lines."""
    with rows_together(module, plan, "sweep", _Pairs) as pairs:
        f, job, columns = pairs.f, pairs.job, pairs.unit["length", 2]
        with f.loop(columns, step=job["part"]) as c:
            pairs.part(c, f.least(c + job["part"], columns))
            with f.choose(pairs.r + pairs.high.outputs < pairs.unit["length", 1]) as (two, one):
                with two, f.choose(pairs.inside) as (inside, beside):
                    with inside:
                        pairs.lines(PAIR, False)
                    with beside:
                        pairs.lines(PAIR, True)
                with one:
                    pairs.lines(1, True)
    return pairs.f.fn


class _Pairs(Together):
    """A sweep while it is emitted: at a pair of rows (`place`), over the lines."""

    rows = PAIR

    def part(self, first: Value, end: Value) -> None:
        """Columns of the pair."""
        self.columns = first, end - first

    def _fetch(self, on: Value) -> None:
        """Ask for what the next pair of rows reads of a line and this one does not, and for the
        places of its results.
        """
        f, form, high = self.f, self.form, self.high
        down, below = self.steps[1] * high.dilation, self.results.out_steps[1] * high.outputs
        read = max(self.there)
        fresh = [high.jump * PAIR + row for row in self.there if high.jump * PAIR + row > read]
        first, columns = self.columns
        right, out = self.steps[2], self.results.out_steps[2]
        slots, line = (
            self.at + (on + first * (form.stride[2] * right)),
            self.to + (on + first * out),
        )
        with f.loop(columns) as column:
            for n in range(form.stride[2]):
                at = (
                    slots
                    + (column * form.stride[2] + (n + form.extent(2) - form.stride[2])) * right
                )
                for row in fresh:
                    f.prefetch(at + down * row)
            to = line + column * out
            for row in range(PAIR):
                f.prefetch(to + below * (PAIR + row))

    def lines(self, rows: int, beside: bool) -> None:
        """The pair in all lines."""
        f, form, wide, lanes = self.f, self.form, self.wide, self.form.lanes
        end = self.job["channels"] - lanes
        begin = f.least(self.line * lanes, end)
        taps = form.kernel[1] * form.kernel[2]
        before, columns = self.columns
        with f.loop(self.end, start=self.begin) as n, ExitStack() as stack:
            on = f.least((self.line + n) * lanes, end) - begin
            if rows > 1:
                shared = max(1, LINE // (lanes * SIZE[self.at.element]))
                with f.when((n & (shared - 1)) < self.job["far"]):
                    self._fetch(on)
            q = wide.outputs
            phase = stack.enter_context(f.loop(f.least(columns, q))) if q > 1 else f.integer(0)
            first = (before + phase) * form.stride[2]
            self.slot = f.var_of(self.unit["before", 2] + first)
            self.reads = f.var_of(f.opaque(self.at + (on + first * self.steps[2])))
            out = self.results.out_steps[2]
            self.writes = f.var_of(f.opaque(self.to + (on + (before + phase) * out)))
            own = f.opaque(self.weights + n * (taps * lanes))
            self.held = [own.vector(tap * lanes, lanes) for tap in range(taps)]
            self.start = self.bias + n * lanes
            self.sums = [[self._fresh() for _ in range(rows)] for _ in range(wide.going + 1)]
            for slot in range(wide.taps - wide.fresh):
                self._guarded(slot, beside)
            with f.loop((columns - phase + (q - 1)) // q):
                for slot in range(wide.taps - wide.fresh, wide.taps):
                    self._guarded(slot, beside)
                self._skip(wide.jump - wide.fresh)
                self._store(out * q)

    def _fresh(self) -> Variable:
        return Variable(self.f, self.start.vector(0, self.form.lanes))

    def _pointer(self, variable: Variable) -> Pointer:
        """What an address has become."""
        return Pointer(self.f, variable.get().ir, self.at.element)

    def _guarded(self, slot: int, beside: bool) -> None:
        """Add a column of slots if it is there; go on to the next."""
        with self.f.when(self.f.below_unsigned(self.slot.get(), self.unit["most", 2])):
            self._add(slot, beside)
        self._skip(1)

    def _skip(self, slots: int) -> None:
        if slots:
            dilation = self.wide.dilation * slots
            self.slot.set(self.slot.get() + dilation)
            self.reads.set(self._pointer(self.reads) + self.steps[2] * dilation)

    def _add(self, slot: int, beside: bool) -> None:
        """Add a column of slots, counted from the first of the output that is completed next."""
        f, lanes, rows = self.f, self.form.lanes, len(self.sums[0])
        at, down = self._pointer(self.reads), self.steps[1] * self.high.dilation
        for row, there in self.there.items():
            uses = self.high.uses(row, rows)
            with ExitStack() as stack:
                if not uses:
                    continue
                if beside:
                    stack.enter_context(f.when(there))
                x = (at + down * row).vector(0, lanes)
                for e, o in self.wide.uses(slot, len(self.sums)):
                    for r, u in uses:
                        w = self.held[u * self.form.kernel[2] + o]
                        self.sums[e][r].set(f.fma(x, w, self.sums[e][r].get()))

    def _store(self, on: Value) -> None:
        """Write the outputs that are complete; those under way move up by one."""
        to, stores = self._pointer(self.writes), []
        residual = self.plan.residual and not self.results.blocked
        for r, total in enumerate(self.sums[0]):
            place = to + self.results.out_steps[1] * (self.high.outputs * r)
            added = apart(place, self.unit["residual"]) if residual else None
            stores.append((place, self.results.result(total), added))
        self.results.put(stores, None)
        self.writes.set(to + on)
        for here, behind in zip(self.sums, self.sums[1:], strict=False):
            for total, other in zip(here, behind, strict=True):
                total.set(other.get())
        for total in self.sums[-1]:
            total.set(self.start.vector(0, self.form.lanes))
