"""Planes of broad images: a band of rows after the other.

    for band of rows:                                   those beside the image are read from zeros
        for line of cache along them:                   the rows of the next band are asked for
            for vector of columns in it:
                for tap:                                rows of taps; columns where they are many
                    read, and added to all outputs of the band that it is for
                store the outputs

Vectors that slide down (konv.kernels.strips.slide) come to lines of thirty rows in turn, of which
memory sends one at a time; a band goes along few rows, but reads two of them again, and has more
borders. Zen 3, two threads, 3x3: 32@256 1.5 to 1.1 ms and less, 32@512 8.5 to 5, 96@512 in steps of
two 20 to 11; boxes of 88 columns, as of vectors that slide, took 1.4 to 1.8 times as long. Of
volumes and of 5x5 taps bands take the place of tiles: 3x3x3 54@16x56x56 6.1 to 3.3 ms, 5x5 32@256
1.7 to 1.3. konv.kernels.strips.costs says where they are chosen.

An output's chain is that of vectors that slide, of many taps that of tiles.
"""

from __future__ import annotations

from konv.kernels.scratch import LINE
from konv.kernels.strips.columns import Columns, Known, Masks, splat
from konv.kernels.strips.form import Form, at_hand
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
        bias: Pointer,
    ) -> None:
        self.f, self.job, self.unit, self.plan, self.form = f, job, unit, plan, form
        self.few = at_hand(plan) and not form.beside
        self.splat = splat(f, form, weights) if self.few else []
        self.weights, self.start, self.bias = weights, start, bias
        self.z, self.r = begin
        self.uses = form.uses(plan.pixels)
        self.columns = Columns(f, unit, plan, form)
        self.results = Results(f, job, unit, plan, form, begin)

    def run(self, slots: Pointer, y: Pointer) -> None:
        """All columns."""
        f, unit, lanes = self.f, self.unit, self.form.lanes
        self._place_rows(slots)
        self._place_results(y)
        width, wide = unit["length", 2], lanes
        if self.few:  # a line of the cache at a time: of many taps it would take LLVM long
            wide = LINE // SIZE[slots.element]
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
        before, step = unit["before", 1], unit["step", 1]
        first, deep = self.r * form.stride[1], self.z * form.stride[0]
        top = slots + deep * unit["step", 0] + first * step
        self.rows: list[dict[int, Pointer]] = []  # of each plane of taps
        for plane in range(0, form.extent(0), form.dilation[0]):
            in_depth = f.below_unsigned(unit["before", 0] + (deep + plane), unit["most", 0])
            most = f.select(in_depth, unit["most", 1], 0)
            if plane:
                top = top + unit["step", 0] * form.dilation[0]
            rows = {}
            for slot in self.uses:
                there = f.below_unsigned(before + (first + slot), most)
                rows[slot] = f.select_pointer(there, top + step * slot, zeros)
            self.rows.append(rows)
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
        """One vector of columns of each row, from a place on. Few taps: a row of taps after the
        other, as what slides; many, whose weights are read meanwhile: a column, as tiles.
        """
        f, form, numbers = self.f, self.form, self.form.numbers
        begun, start = self.weights, self.start
        if form.beside:
            channel = (self.unit["j", 2] + place) % form.beside
            begun, start = begun + channel, (self.bias + channel).vector(0, form.lanes) + 0.0
        sums = [f.var_of(start) for _ in range(self.plan.pixels)]
        columns = [o * form.dilation[2] for o in range(form.kernel[2])]
        for plane, rows in enumerate(self.rows):
            known: dict[int, Known] = {slot: {} for slot in rows}
            if self.few:
                for slot in rows:
                    for o, tap in enumerate(columns):
                        self._add(sums, rows, slot, (place, tap), known, masks, self.splat[o])
                continue
            for o, tap in enumerate(columns):
                first = (plane * len(columns) + o) * form.kernel[1]
                own = f.opaque(begun + first * numbers)
                weights = [self._weights(own, row * numbers) for row in range(form.kernel[1])]
                for slot in rows:
                    self._add(sums, rows, slot, (place, tap), known, masks, weights)
        return sums

    def _weights(self, own: Pointer, at: int) -> Value:
        """Those of a tap: the same in all lanes, or another channel's in each."""
        lanes = self.form.lanes
        return own.vector(at, lanes) if self.form.beside else self.f.splat(own[at], lanes)

    def _add(
        self,
        sums: list[Variable],
        rows: dict[int, Pointer],
        slot: int,
        at: tuple[Value, int],
        known: dict[int, Known],
        masks: Masks,
        weights: list[Value],
    ) -> None:
        """One column of taps of a slot: `at` a place and how far beside it, `weights` by row."""
        f, (place, tap) = self.f, at
        across = self.form.stride[2] if self.form.direct else 1
        x = self.columns.load(rows[slot] + place * across, 0, tap, known[slot], masks)
        for output, row in self.uses[slot]:
            sums[output].set(f.fma(x, weights[row], sums[output].get()))

    def _store(self, sums: list[Variable], place: Value, mask: Value | None) -> None:
        stores: list[Store] = []
        for total, to, added in zip(sums, self.out, self.added, strict=True):
            residual = None if added is None else added + place
            stores.append((to + place, self.results.lined_up(total.get()), residual))
        self.results.put(stores, mask)
