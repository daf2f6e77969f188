"""Few taps in planes of images that come from memory: a band of rows after the other.

    for band of rows:                                   those beside the image are read from zeros
        for line of cache along them:                   the rows of the next band are asked for
            for vector of columns in it:
                for slot under it, from the top:        read once, added to what reads it
                store the outputs

Vectors that slide down (konv.kernels.strips.slide) come to lines of thirty rows in turn, of which
memory sends one at a time; a band goes along few rows, but reads two of them again, and has more
borders. Zen 3, two threads, 3x3: 32@256 1.5 to 1.1 ms and less, 32@512 8.5 to 5, 96@512 in steps of
two 20 to 11; boxes of 88 columns, as of vectors that slide, took 1.4 to 1.8 times as long. See
konv.kernels.strips.costs for where they are chosen.

An output's chain is that of vectors that slide.
"""

from __future__ import annotations

from konv.kernels.scratch import LINE
from konv.kernels.strips.columns import Columns, Masks, splat
from konv.kernels.strips.form import Form
from konv.kernels.strips.results import Results, Store
from konv.kernels.words import Words
from konv.llvm import I8, SIZE, Function, Pointer, Value, Variable
from konv.plan import Plan


class Band:
    """The outputs of one line on one plane in some rows, `plan.pixels` from row `r` on."""

    def __init__(
        self,
        f: Function,
        job: Words,
        unit: Words,
        plan: Plan,
        form: Form,
        weights: Pointer,
        begin: tuple[Value, Value],
        start: Value,
    ) -> None:
        self.f, self.job, self.unit, self.plan, self.form = f, job, unit, plan, form
        self.weights, self.start = splat(f, form, weights), start
        self.z, self.r = begin
        self.uses = form.uses(plan.pixels)
        self.columns = Columns(f, unit, plan, form)
        self.results = Results(f, job, unit, plan, form, begin)

    def run(self, slots: Pointer, y: Pointer) -> None:
        """All columns."""
        f, unit, lanes = self.f, self.unit, self.form.lanes
        self._place_rows(slots)
        self._place_results(y)
        width, wide = unit["length", 2], LINE // SIZE[slots.element]
        last = f.most(width - lanes, f.integer(0))
        begin, end = self.columns.inside(wide)
        column = f.var(0)
        with f.forever() as done:
            c = column.get()
            f.leave_if(done, c >= width)
            with f.choose((c >= begin) & (c < end)) as (within, border):
                with within, f.loop(end, start=c, step=wide) as place:
                    self._ask(place, wide)
                    for n in range(0, wide, lanes):
                        self._store(self._sums(place + n, {}), place + n, None)
                    column.set(place + wide)
                with border:
                    self._border(f.least(c, last), width)
                    column.set(c + lanes)

    def _place_rows(self, slots: Pointer) -> None:
        """Where the rows of slots lie, and those of the next band, or of the next line."""
        f, form, job, unit = self.f, self.form, self.job, self.unit
        zeros = (unit.pointer("scratch", I8) + job["at_zeros"]).cast(slots.element)
        before, most, step = unit["before", 1], unit["most", 1], unit["step", 1]
        deep = unit["before", 0] + self.z * form.stride[0]
        most = f.select(f.below_unsigned(deep, unit["most", 0]), most, 0)
        first = self.r * form.stride[1]
        top = slots + self.z * form.stride[0] * unit["step", 0] + first * step
        self.rows = {}
        for slot in self.uses:
            there = f.below_unsigned(before + (first + slot), most)
            self.rows[slot] = f.select_pointer(there, top + step * slot, zeros)
        self.more = self.r + self.plan.pixels * form.apart < unit["length", 1]
        on = form.stride[1] * self.plan.pixels * form.apart
        below = f.select(self.more, step * on, job["x_channel"] - step * first)
        self.next = [
            top + (below + step * slot) for slot in self.uses if slot + on not in self.uses
        ]

    def _place_results(self, y: Pointer) -> None:
        """Where the rows of results go; rows that there are not, where nobody reads."""
        f, form, job, unit, results = self.f, self.form, self.job, self.unit, self.results
        results.enter(y)
        dump = (unit.pointer("scratch", I8) + job["at_dump"]).cast(y.element)
        step = results.out_steps[1]
        self.out: list[Pointer] = []
        self.added: list[Pointer | None] = []
        for output in range(self.plan.pixels):
            there = self.r + output * form.apart < unit["length", 1]
            to = results.line + step * (output * form.apart)
            self.added.append(results.residual_of(to, there, dump))
            self.out.append(f.select_pointer(there, to, dump))
        outputs = range(0, self.plan.pixels * form.apart, form.apart)
        below = f.select(self.more, step * outputs.stop, job["y_channel"] - step * self.r)
        self.next_out = [results.line + (below + step * n) for n in outputs]

    def _ask(self, place: Value, wide: int) -> None:
        """Ask for a line of cache of each row of the next band and of its results."""
        across = self.form.stride[2] if self.form.direct else 1
        for row in self.next:
            for n in range(across):
                self.f.prefetch(row + (place * across + n * wide))
        for row in self.next_out:
            self.f.prefetch(row + place)

    def _border(self, place: Value, width: Value) -> None:
        """A vector that may reach over the image, or over the width of all results."""
        lanes = self.form.lanes
        masks = self.columns.masks(place)
        sums = self._sums(place, masks)
        with self.f.choose(width >= lanes) as (whole, narrow):
            with whole:
                self._store(sums, place, None)
            with narrow:
                self._store(sums, place, self.f.below(width, lanes))

    def _sums(self, place: Value, masks: Masks) -> list[Variable]:
        """One vector of columns of each row, from a place on."""
        f, form = self.f, self.form
        sums = [f.var_of(self.start) for _ in range(self.plan.pixels)]
        across = form.stride[2] if form.direct else 1
        for slot, uses in self.uses.items():
            at, known = self.rows[slot] + place * across, dict[tuple[int, int], list[Value]]()
            for o in range(form.kernel[2]):
                x = self.columns.load(at, 0, o * form.dilation[2], known, masks)
                for output, tap in uses:
                    total = sums[output]
                    total.set(f.fma(x, self.weights[tap][o], total.get()))
        return sums

    def _store(self, sums: list[Variable], place: Value, mask: Value | None) -> None:
        stores: list[Store] = []
        for total, to, added in zip(sums, self.out, self.added, strict=True):
            residual = None if added is None else added + place
            stores.append((to + place, self.results.lined_up(total.get()), residual))
        self.results.put(stores, mask)
