"""Few taps in planes: vectors of columns slide down the rows.

    for vectors of columns:                                 two side by side, or one at the border
        for slot in the rows under them:                    each is read once
            add it to the outputs that read it              some of them go on below
            store the output that is complete

A tile of rows (konv.kernels.strips.tile) reads a slot for every tile over it, and at the border all
that it may meet is asked for each tile. Here all weights stay at hand, rows beside the image are
left out, and the loop over the rows inside asks nothing; columns beside the image are masked. Of a
stride of 2, two taps come from one pair of loads. Zen 3, contiguous, one thread and two: 3x3 d2
128@32 58 to 41 us and 37 to 28, d4 64@64 1.5 times as fast, s2 144@56 95 to 73 and 56 to 46. In
steps of one tiles are left to rows of less than two vectors: 3x3 192@28 63 to 55 us and 39 to 35,
240@16 47 to 33 and 27 to 20, 144@56 206 to 185 and 106 to 101, but 512@14 48 to 50.

Of steps and dilated taps the loops that ask and those that do not are emitted once and entered in
turns: such a kernel compiles 1.5 times as fast, and runs 1.0 to 1.07 (144@56 s2) and 1.08 to 1.2
times (960@14 s2); but 192@28 in steps of one .81 to 1.0, where branches that both share are told
ahead less well.

Of two vectors at the border only the taps before and behind the middle one are masked. Partial sums
of a row apart, for shorter chains, need more registers than there are: 1.04 to 1.4 times as long.

An output's chain is rows from the top, and columns from the left.
"""

from __future__ import annotations

from konv.kernels.epilogue import apart
from konv.kernels.strips.ahead import look_ahead
from konv.kernels.strips.columns import Columns, Known, Masks, splat
from konv.kernels.strips.form import ABREAST, Form, stepping
from konv.kernels.strips.results import Results
from konv.kernels.words import Words
from konv.llvm import I1, Function, Pointer, Value, Variable
from konv.plan import Plan

ROUND = 3  # outputs of a turn of the loop: sums of 3 taps change registers no more
# Outputs of a band, of which two columns of vectors of two rows each fit into the first-level
# cache; 8 took 1.1 to 1.4 times as long.
BAND = 30  # a multiple of ROUND


class Slide:
    """The outputs of one line on one plane and in one phase of rows, from row `r` on."""

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
        self.z, self.r = begin
        self.start, self.lanes = start, form.lanes
        self.middle = (form.extent(2) - 1) // 2  # the column of the middle tap
        self.taps, self.wide = form.kernel[1], form.kernel[2]
        # Slots that count, from those of an output to those of the next
        self.jump = form.apart * form.stride[1] // form.dilation[1]
        self.fresh = min(self.jump, self.taps)  # slots that an output reads and none before it
        self.going = (self.taps - 1) // self.jump  # outputs under way below one
        self.results = Results(f, job, unit, plan, form, begin)
        self.weights = splat(f, form, weights)

    def run(self, slots: Pointer, y: Pointer) -> None:
        """All columns of a band."""
        f, form, job, unit, lanes = self.f, self.form, self.job, self.unit, self.lanes
        width, stride = unit["length", 2], form.stride[2]
        rows, q = unit["length", 1], form.apart
        self.count = f.least((rows - self.r + (q - 1)) // q, BAND)
        self.step = unit["step", 1] * form.dilation[1]
        first = self.r * form.stride[1]
        self.slots = slots + self.z * form.stride[0] * unit["step", 0] + first * unit["step", 1]
        self.results.enter(y)
        self.down = self.results.out_steps[1] * form.apart
        self._place_rows(first)
        # From here to the same place of the next band, or of the next line
        on, more = BAND * q, self.r + BAND * q < rows
        steps = unit["step", 1], self.results.out_steps[1]
        self.next = (
            f.select(more, steps[0] * (on * form.stride[1]), job["x_channel"] - steps[0] * first),
            f.select(more, steps[1] * on, job["y_channel"] - steps[1] * self.r),
        )
        last, pair = f.most(width - lanes, f.integer(0)), width - ABREAST * lanes
        before, middle = unit["before", 2], self.middle
        few = (before >= -middle) & ((width - 1) * stride + before + middle < unit["most", 2])
        few = few & (pair >= 0)  # what a pair leaves unasked is there
        reach = (ABREAST * lanes - 1) * stride + (stride - 1) + form.extent(2) - 1
        left, right = 0 - before, unit["most", 2] - before - reach
        self.columns = Columns(f, unit, self.plan, form)
        column = f.var(0)
        with f.forever() as done:
            c = column.get()
            f.leave_if(done, c >= width)
            inside = (c * stride >= left) & (c * stride < right) & (c <= pair)
            with f.choose(inside) as (within, border):
                with within:
                    self._slide(c, ABREAST, False)
                    column.set(c + ABREAST * lanes)
                with border, f.choose(few & (width - c > lanes)) as (several, one):
                    with several:
                        self._slide(f.least(c, pair), ABREAST, True)
                        column.set(c + ABREAST * lanes)
                    with one:
                        self._slide(f.least(c, last), 1, True)
                        column.set(c + lanes)

    def _place_rows(self, first: Value) -> None:
        """Which slots there are, and from which output on up to which all fresh ones are."""
        f, form, unit, zero = self.f, self.form, self.unit, self.f.integer(0)
        apart_by = form.dilation[1]
        before, most = unit["before", 1], unit["most", 1]
        deep = unit["before", 0] + self.z * form.stride[0]
        most = f.select(f.below_unsigned(deep, unit["most", 0]), most, 0)

        def slots_until(row: Value) -> Value:
            return (f.most(row - first, zero) + (apart_by - 1)) // apart_by

        self.begin, self.finish = slots_until(0 - before), slots_until(most - before)
        jump = self.jump
        begin = f.most(self.begin - (self.taps - self.fresh), zero) + (jump - 1)
        finish = f.most(self.finish - (self.taps - 1), zero) + (jump - 1)
        self.whole = f.least(begin // jump, self.count), f.least(finish // jump, self.count)

    def _slide(self, place: Value, vectors: int, edge: bool) -> None:
        """All rows under some vectors of columns; `edge`: columns may lie beside the image."""
        f, count = self.f, self.count
        self.vectors = vectors
        self.masks: Masks = {}
        self.narrow = edge and vectors == 1  # as rows may be
        if edge:
            middle = None if self.narrow else self.middle
            self.masks = self.columns.masks(place, vectors, middle)
        across = self.form.stride[2] if self.form.direct else 1
        # Not at the border, in steps of one: what an instruction a vector costs there is more than
        # narrow maps gain by it (Zen 3, 192@28 1.1 to 1.3 times as fast without).
        self.ahead: list[Value] = []
        self.ahead_out: list[Value] = []
        if not edge or self.form.stride[1] > 1:
            beside = self.slots.element, place, self.next
            self.ahead, self.ahead_out = look_ahead(f, self.form, self.unit, *beside)
        self.at = f.var_of(self.slots + place * across)
        self.to = f.var_of(self.results.line + place)
        self.sums = [[f.var_of(self.start) for _ in range(vectors)] for _ in range(self.going + 1)]
        for slot in range(self.taps - self.fresh):
            self._guarded(slot, f.integer(slot))
        begin, finish = self.whole
        if self.narrow:  # rows narrower than a vector, stored whole, reach into the next row
            width, lanes = self.unit["length", 2], self.lanes
            self.mask = f.below(width, lanes)
            wide = width >= lanes
            dense = width.equals(self.results.out_steps[1]) & (width * 2 >= lanes)
            if self.form.apart > 1 or self.plan.residual:
                dense = f.constant(I1, 0)
            self.until = f.select(wide, count, f.select(dense, count - 1, 0))
            finish = f.least(finish, self.until)
        n, asked = f.var(0), f.least(begin, finish)
        if not stepping(self.plan):
            self._some(n, asked)
            self._rounds(n, finish)
            self._some(n, count)
            return
        end = f.var(asked)
        with f.forever() as done:  # one copy of each loop; the second turn has no rounds left
            self._some(n, end.get())
            f.leave_if(done, end.get() >= count)
            end.set(count)
            self._rounds(n, finish)

    def _rounds(self, n: Variable, end: Value) -> None:
        """Whole rounds of outputs up to one, whose slots are all there."""
        with self.f.loop(end - (ROUND - 1), start=n.get(), step=ROUND) as i:
            for _ in range(ROUND):
                for slot in range(self.taps - self.fresh, self.taps):
                    self._add(slot)
                self._store(None)
                self._next()
            n.set(i + ROUND)

    def _some(self, n: Variable, end: Value) -> None:
        """Outputs up to one, whose slots need not be there."""
        f = self.f
        with f.loop(end, start=n.get()) as i:
            for slot in range(self.taps - self.fresh, self.taps):
                self._guarded(slot, i * self.jump + slot)
            self._store(i if self.narrow else None)
            self._next()
            n.set(i + 1)

    def _guarded(self, slot: int, number: Value) -> None:
        """Add a slot if it is there; go on to the next."""
        at = self._pointer(self.at)
        with self.f.when((number >= self.begin) & (number < self.finish)):
            self._add(slot)
        self.at.set(at + self.step)

    def _pointer(self, variable: Variable) -> Pointer:
        """What an address has become."""
        return Pointer(self.f, variable.get().ir, self.slots.element)

    def _add(self, slot: int) -> None:
        """Add a slot, counted from the first of the output that is completed next."""
        f, at, lanes = self.f, self._pointer(self.at), self.lanes
        for ahead in self.ahead:
            f.prefetch(at + ahead)
        uses = [(e, slot - e * self.jump) for e in range(self.going + 1)]
        uses = [(e, tap) for e, tap in uses if 0 <= tap < self.taps]
        known: Known = {}
        for o in range(self.wide):
            for v in range(self.vectors):
                tap = o * self.form.dilation[2]
                x = self.columns.load(at, v * lanes, tap, known, self.masks)
                for e, row in uses:
                    total = self.sums[e][v]
                    total.set(f.fma(x, self.weights[o][row], total.get()))
        self.at.set(at + self.step)

    def _store(self, number: Value | None) -> None:
        """Write the output that is complete, and go on to the place of the next; `number`: it may
        be narrower than a vector.
        """
        f, to = self.f, self._pointer(self.to)
        self.to.set(to + self.down)
        for ahead in self.ahead_out:
            f.prefetch(to + ahead)
        stores = []
        for v, total in enumerate(self.sums[0]):
            place = to + v * self.lanes
            added = apart(place, self.unit["residual"]) if self.plan.residual else None
            stores.append((place, self.results.lined_up(total.get()), added))
        if number is None:
            self.results.put(stores, None)
            return
        with f.choose(number < self.until) as (all_lanes, few):
            with all_lanes:
                self.results.put(stores, None)
            with few:
                self.results.put(stores, self.mask)

    def _next(self) -> None:
        """The sums below move up by one."""
        for here, below in zip(self.sums, self.sums[1:], strict=False):
            for total, other in zip(here, below, strict=True):
                total.set(other.get())
        for total in self.sums[-1]:
            total.set(self.start)
