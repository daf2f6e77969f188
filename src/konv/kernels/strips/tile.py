"""One register tile of konv.kernels.strips: outputs along an axis that share the slots they read.

    for outer tap:                                          unrolled where they are few
        load the weights along the tile                     in registers, FEW at a time
        for slot under the tile:
            load it once; multiply-add it into every output that reads it

A tile that may read padding has *guards*: a slot that is none is left out, so are outer taps. Tiles
inside the image have a copy of the loop without: guards take 14 cycles for the 10.5 of a 3x3 row's
multiply-adds. In planes a tile at the border has no branches: a row that is none is read from
zeros, pixels beside the image are masked. Of 28 columns half of the tiles are at the border, of 7
all (Zen 3, one thread, with fewer additions to addresses: 192@28 80 to 71 us, 960@7 69 to 46).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack

from konv.kernels.strips.form import FEW, STEPS, UNROLL, Form, dealt, in_pieces, strip_steps
from konv.kernels.strips.results import Results
from konv.kernels.words import AXES, Words
from konv.llvm import I8, Function, Pointer, Value, Variable
from konv.plan import Plan


class Tile:
    """One tile while it is emitted: `sums[output][vector]`; it begins at output z on the first
    axis, r along, and places[vector] across. What is the same for all tiles of a row, of planes,
    is computed before them: `enter`, then `place` for each.
    """

    sums: list[list[Variable]]
    places: list[Value]

    def __init__(
        self,
        f: Function,
        job: Words,
        unit: Words,
        plan: Plan,
        form: Form,
        weights: Pointer,
        begin: tuple[Value, Value],
    ) -> None:
        self.f, self.job, self.unit, self.form, self.weights = f, job, unit, form, weights
        self.plan, self.outputs = plan, plan.pixels
        self.z, self.r = begin
        self.taps = form.kernel[form.along]
        self.few = self.taps <= FEW
        self.guarded = form.direct or not self.few
        self.steps = [unit["step", axis] for axis in AXES]
        if not form.direct:  # then they are known
            self.steps = [f.integer(step) for step in strip_steps(plan, form, unit)]
        self.half = form.half(plan.pixels == 1)
        self.results = Results(f, job, unit, plan, form, begin)
        self.edge = False  # while what planes do at the border is emitted
        self.rows: dict[int, Pointer] = {}  # where slots lie there

    def enter(self, slots: Pointer, y: Pointer) -> None:
        """What all tiles along the lanes share: `slots` of the line, and its results."""
        f, form, unit, u = self.f, self.form, self.unit, self.form.along
        self.slots = slots + self.r * form.stride[u] * self.steps[u]
        self.jumps = [self.steps[u] * (form.finest * n) for n in range(STEPS + 1)]
        first, self.most = self.r * form.stride[u], max(form.uses(self.outputs))
        self.inside = self.there(u, first) & self.there(u, first + self.most)
        self.results.enter(y)
        if not form.planes:
            return
        # Columns x stride from which and up to which a vector reads inside, of no row at the border
        before = unit["before", 2]
        reach = (form.lanes - 1) * form.stride[2] + (form.stride[2] - 1) + form.extent(2) - 1
        self.left = 0 - before
        self.right = f.select(self.inside, unit["most", 2] - before - reach, 0)
        self.end = f.splat_low(unit["most", 2], form.lanes)
        if form.kernel[0] == 1 and self.guarded and self.few:
            self.rows = self.rows_of(self.enter_depth(f.integer(0))[0])

    def place(self, sums: list[list[Variable]], places: list[Value]) -> None:
        """The next tile."""
        self.sums, self.places = sums, places

    def there(self, axis: int, slot: Value | int) -> Value:
        """Whether a slot holds a number."""
        at = self.unit["before", axis] + slot
        return self.f.below_unsigned(at, self.unit["most", axis])

    def enter_depth(self, kz: Value | int) -> tuple[Pointer, Value]:
        """The slots of one plane of taps, and whether it is there."""
        form = self.form
        slot = self.z * form.stride[0] + kz * form.dilation[0]
        return self.slots + slot * self.steps[0], self.there(0, slot)

    def rows_of(self, slots: Pointer) -> dict[int, Pointer]:
        """Where tiles of planes at the border read: zeros for a row that there is none of. A branch
        for each slot took longer than the sums of those that there are.
        """
        f, form, u = self.f, self.form, self.form.along
        zeros = (self.unit.pointer("scratch", I8) + self.job["at_zeros"]).cast(slots.element)
        first = self.r * form.stride[u]
        return {
            slot: f.select_pointer(self.there(u, first + slot), row[0], zeros)
            for slot, row in self.walk([slots], form.uses(self.outputs))
        }

    def walk(self, at: list[Pointer], slots: Iterable[int]) -> Iterator[tuple[int, list[Pointer]]]:
        """The addresses of slots, which ascend. STEPS of them are told apart by what an address may
        add to a pointer; with a pointer each, a fifth of a 3x3 tile was adding to pointers.
        """
        group = 0
        for slot in slots:
            group_of_slot, step = divmod(slot // self.form.finest, STEPS)
            while group < group_of_slot:
                at, group = [pointer + self.jumps[STEPS] for pointer in at], group + 1
            yield slot, [pointer + self.jumps[step] for pointer in at] if step else at

    def add_all(self) -> None:
        """All taps: outer ones in loops, or unrolled where they are few."""
        f, form = self.f, self.form
        with ExitStack() as stack:
            depth = form.kernel[0]
            kz = stack.enter_context(f.loop(depth)) if depth > 1 else f.integer(0)
            slots, there = self.enter_depth(kz)
            if self.guarded:
                stack.enter_context(f.when(there))
            if not (self.guarded and self.few):
                self.add_across(slots, kz, self.guarded)
                return
            inside = self.inside
            if form.planes:
                left, right = (self.places[n] * form.stride[2] for n in (0, -1))
                inside = (left >= self.left) & (right < self.right)
            with f.choose(inside) as (whole, border):
                with whole:
                    self.add_across(slots, kz, False)
                with border:
                    self.edge = form.planes
                    if form.planes and depth > 1:
                        self.rows = self.rows_of(slots)
                    self.add_across(slots, kz, True)
                    self.edge = False

    def add_across(self, slots: Pointer, kz: Value, guarded: bool) -> None:
        """The outer taps of one plane, unrolled where they are few. `guarded`: some slots may be in
        the padding, or some lanes.
        """
        f, taps = self.f, self.form.kernel[self.form.across]
        work = self.taps * taps * len(self.sums) * len(self.places)
        if self.few and work <= UNROLL:
            for ko in range(taps):
                self.add_outer(slots, kz, ko, guarded)
            return
        with f.loop(taps) as number:
            self.add_outer(slots, kz, number, guarded)

    def add_outer(self, slots: Pointer, kz: Value, ko: Value | int, guarded: bool) -> None:
        """One outer tap."""
        f, form, o = self.f, self.form, self.form.across
        width = 1 if form.planes else form.lanes
        own = self.weights + (kz * form.kernel[o] + ko) * (self.taps * width)
        tap = ko * form.dilation[o]
        with ExitStack() as stack:
            if form.planes:
                columns = self._columns(tap)
                if not self.few:
                    stack.enter_context(f.when(self._touches(tap)))
            else:
                slot = self.places[0] * form.stride[o] + tap
                if self.guarded:
                    stack.enter_context(f.when(self.there(o, slot)))
                columns = [slot * self.steps[o]]
            self.add_along(slots, columns, self._masks(tap) if self.edge else [], own, guarded)

    def _touches(self, tap: Value | int) -> Value:
        """Whether a tap of any column of the tile is one that there is."""
        first, last = self._columns_read(tap, tap)
        return (last >= 0) & (first < self.unit["most", 2])

    def _columns_read(self, left: Value | int, right: Value | int) -> tuple[Value, Value]:
        """The tile's first column by its tap `left`, its last by its tap `right`, in the input."""
        stride, before = self.form.stride[2], self.unit["before", 2]
        wide = (self.form.lanes - 1) * stride + (stride - 1)
        first = self.places[0] * stride + before + left
        return first, self.places[-1] * stride + before + wide + right

    def _columns(self, tap: Value | int) -> list[Value]:
        """Where the columns of a tap begin in a row, per vector."""
        stride = self.form.stride[2]
        if self.form.direct:
            return [place * stride + tap for place in self.places]
        if stride > 1:
            tap = tap % stride * self.half + tap // stride
        return [place + tap for place in self.places]

    def _masks(self, tap: Value | int) -> list[list[Value]]:
        """Which columns of a tap there are, per vector."""
        f, lanes, stride = self.f, self.form.lanes, self.form.stride[2]
        found = []
        for place in self.places:
            first = f.splat_low(place * stride + self.unit["before", 2], lanes)
            found.append([f.counted(first, tap, n * lanes) < self.end for n in range(stride)])
        return found

    def load(self, at: Pointer, masks: list[Value]) -> Value:
        """One vector of a slot."""
        f, lanes = self.f, self.form.lanes
        stride = self.form.stride[2] if self.form.planes and self.form.direct else 1
        if masks:
            parts = [f.load_masked(at + n * lanes, mask) for n, mask in enumerate(masks)]
        else:
            parts = [at.vector(n * lanes, lanes) for n in range(stride)]
        order = dealt(self.plan, lanes)
        return f.shuffle(parts[0], parts[1], order) if len(parts) == 2 else parts[0]

    def weight(self, own: Pointer, tap: int) -> Value:
        """The weight of one tap along the tile, in every lane or one a lane."""
        lanes = self.form.lanes
        return self.f.splat(own[tap], lanes) if self.form.planes else own.vector(tap * lanes, lanes)

    def add_along(
        self,
        slots: Pointer,
        columns: Sequence[Value | int],
        masks: list[list[Value]],
        own: Pointer,
        guarded: bool,
    ) -> None:
        """One outer tap, all taps along: FEW at a time, whose weights stay in registers and for
        which each slot is loaded once. Where a weight serves several vectors it is read when used.
        """
        f, form = self.f, self.form
        width = 1 if form.planes else form.lanes
        at = [slots + column for column in columns]

        def add(first: Value | int, count: int) -> None:
            on = first * form.dilation[form.along]
            here = [pointer + self.steps[form.along] * on for pointer in at]
            self._add_piece(here, columns, masks, own + first * width, guarded, on, count)

        in_pieces(f, self.taps, self.taps if len(columns) > 1 else FEW, add)

    def _add_piece(
        self,
        at: list[Pointer],
        columns: Sequence[Value | int],
        masks: list[list[Value]],
        own: Pointer,
        guarded: bool,
        on: Value | int,
        taps: int,
    ) -> None:
        """Some taps; the first lies so many slots `on` from the first of all."""
        f, form, u = self.f, self.form, self.form.along
        first = self.r * form.stride[u] + on
        hold = self.few or len(columns) == 1
        held = {tap: self.weight(own, tap) for tap in range(taps if hold else 0)}
        uses = form.uses(len(self.sums), 0, taps)
        for slot, places in self.walk(at, uses):
            with ExitStack() as stack:
                if self.edge:
                    places = [self.rows[slot] + column for column in columns]
                elif guarded:
                    stack.enter_context(f.when(self.there(u, first + slot)))
                xs = [self.load(p, masks[n] if masks else []) for n, p in enumerate(places)]
                for output, tap in uses[slot]:
                    w = held[tap] if hold else self.weight(own, tap)
                    for x, total in zip(xs, self.sums[output], strict=True):
                        total.set(f.fma(x, w, total.get()))

    def store(self) -> None:
        """Write the outputs that there are."""
        self.results.store(self.sums, self.places)
