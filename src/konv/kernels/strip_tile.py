"""One register tile of konv.kernels.strips: outputs along an axis that share the slots they read.

    for outer tap:                                          unrolled where they are few
        load the weights along the tile                     in registers, FEW at a time
        for slot under the tile:
            load it once; multiply-add it into every output that reads it

A tile that may read padding has *guards*: a slot that is none is left out, so are outer taps and,
by masks, the lanes of pixels beside the image. Tiles inside the image have a copy of the loop
without: guards take 14 cycles for the 10.5 of a 3x3 row's multiply-adds, and a masked load takes
one of the two ports of multiply-adds.
"""

from __future__ import annotations

from contextlib import ExitStack

from konv.kernels.epilogue import activate, apart
from konv.kernels.strip_form import FEW, UNROLL, Form, strip_steps
from konv.kernels.words import AXES, Words
from konv.llvm import I8, Function, Pointer, Value, Variable
from konv.plan import Plan


class Tile:
    """One tile while it is emitted: `sums[output][vector]`; it begins at output z on the first
    axis, r along, and places[vector] across.
    """

    def __init__(
        self,
        f: Function,
        job: Words,
        unit: Words,
        plan: Plan,
        form: Form,
        weights: Pointer,
        sums: list[list[Variable]],
        begin: tuple[Value, Value, list[Value]],
    ) -> None:
        self.f, self.job, self.unit, self.form, self.weights = f, job, unit, form, weights
        self.plan = plan
        self.sums, (self.z, self.r, self.places) = sums, begin
        self.taps = form.kernel[form.along]
        self.few = self.taps <= FEW
        self.guarded = form.direct or not self.few
        self.steps = [unit["step", axis] for axis in AXES]
        if not form.direct:  # then they are known
            self.steps = [f.integer(step) for step in strip_steps(plan, form, unit)]
        self.half = form.half(plan.pixels == 1)
        self.blocked = plan.blocked and not form.planes  # results go to the block first

    def there(self, axis: int, slot: Value) -> Value:
        """Whether a slot holds a number."""
        at = slot + self.unit["before", axis]
        return self.f.below_unsigned(at, self.unit["most", axis])

    def add_all(self, slots: Pointer) -> None:
        """All taps: outer ones in loops, or unrolled where they are few."""
        f, form = self.f, self.form
        u = form.along
        slots = slots + self.r * form.stride[u] * self.steps[u]
        with ExitStack() as stack:
            depth = form.kernel[0]
            kz = stack.enter_context(f.loop(depth)) if depth > 1 else f.integer(0)
            slot = self.z * form.stride[0] + kz * form.dilation[0]
            if self.guarded:
                stack.enter_context(f.when(self.there(0, slot)))
            slots = slots + slot * self.steps[0]
            if not (self.guarded and self.few):
                self.add_across(slots, kz, self.guarded)
                return
            first, most = self.r * form.stride[u], max(form.uses(len(self.sums)))
            inside = self.there(u, first) & self.there(u, first + most)
            if form.planes:
                left, right = self._columns_read(0, form.extent(2) - 1)
                columns = (left >= 0) & (right < self.unit["most", 2])
                unmasked, masked = stack.enter_context(f.choose(columns))
                with masked:
                    self.add_across(slots, kz, True, masked=True)
                stack.enter_context(unmasked)
            with f.choose(inside) as (whole, border):
                with whole:
                    self.add_across(slots, kz, False)
                with border:
                    self.add_across(slots, kz, True)

    def add_across(self, slots: Pointer, kz: Value, guarded: bool, masked: bool = False) -> None:
        """The outer taps of one plane, unrolled where they are few. `guarded`: some slots may be in
        the padding; `masked`: some lanes.
        """
        f, taps = self.f, self.form.kernel[self.form.across]
        work = self.taps * taps * len(self.sums) * len(self.places)
        if self.few and work <= UNROLL:
            for ko in range(taps):
                self.add_outer(slots, kz, f.integer(ko), guarded, masked)
            return
        with f.loop(taps) as number:
            self.add_outer(slots, kz, number, guarded, masked)

    def add_outer(self, slots: Pointer, kz: Value, ko: Value, guarded: bool, masked: bool) -> None:
        """One outer tap."""
        f, form, o = self.f, self.form, self.form.across
        width = 1 if form.planes else form.lanes
        own = self.weights + (kz * form.kernel[o] + ko) * (self.taps * width)
        tap = ko * form.dilation[o]
        with ExitStack() as stack:
            if form.planes:
                at, masks = self._columns(slots, tap, masked)
                if not self.few:
                    stack.enter_context(f.when(self._touches(tap)))
            else:
                slot = self.places[0] * form.stride[o] + tap
                if self.guarded:
                    stack.enter_context(f.when(self.there(o, slot)))
                at, masks = [slots + slot * self.steps[o]], []
            self.add_along(at, masks, own, guarded)

    def _touches(self, tap: Value) -> Value:
        """Whether a tap of any column of the tile is one that there is."""
        first, last = self._columns_read(tap, tap)
        return (last >= 0) & (first < self.unit["most", 2])

    def _columns_read(self, left: Value | int, right: Value | int) -> tuple[Value, Value]:
        """The tile's first column by its tap `left`, its last by its tap `right`, in the input."""
        stride, before = self.form.stride[2], self.unit["before", 2]
        wide = (self.form.lanes - 1) * stride + (stride - 1)
        first = self.places[0] * stride + before + left
        return first, self.places[-1] * stride + before + wide + right

    def _columns(
        self, slots: Pointer, tap: Value, masked: bool
    ) -> tuple[list[Pointer], list[list[Value]]]:
        """Where the columns of a tap begin, per vector, and if `masked` which of them there are."""
        f, form, lanes = self.f, self.form, self.form.lanes
        stride = form.stride[2]
        if not form.direct:
            if stride > 1:
                tap = tap % stride * self.half + tap // stride
            return [slots + tap + place for place in self.places], []
        at, masks = [], []
        for place in self.places:
            first = place * stride + tap
            at.append(slots + first)
            column = first + self.unit["before", 2]
            if not masked:
                continue
            masks.append(
                [f.inside(column + n * lanes, self.unit["most", 2], lanes) for n in range(stride)]
            )
        return at, masks

    def load(self, at: Pointer, masks: list[Value]) -> Value:
        """One vector of a slot."""
        f, lanes = self.f, self.form.lanes
        stride = self.form.stride[2] if self.form.planes and self.form.direct else 1
        if masks:
            parts = [f.load_masked(at + n * lanes, mask) for n, mask in enumerate(masks)]
        else:
            parts = [at.vector(n * lanes, lanes) for n in range(stride)]
        if len(parts) == 1:
            return parts[0]
        return f.shuffle(parts[0], parts[1], list(range(0, 2 * lanes, 2)))

    def weight(self, own: Pointer, tap: int) -> Value:
        """The weight of one tap along the tile, in every lane or one a lane."""
        lanes = self.form.lanes
        return self.f.splat(own[tap], lanes) if self.form.planes else own.vector(tap * lanes, lanes)

    def add_along(
        self, at: list[Pointer], masks: list[list[Value]], own: Pointer, guarded: bool
    ) -> None:
        """One outer tap, all taps along: FEW at a time, whose weights stay in registers and for
        which each slot is loaded once. Where a weight serves several vectors it is read when used.
        """
        f, form, u = self.f, self.form, self.form.along
        chunk = self.taps if len(at) > 1 else FEW
        first, before, hold = self.r * form.stride[u], 0, self.few or len(at) == 1
        pieces = [
            (begin, *piece)
            for begin in range(0, self.taps, chunk)
            for piece in form.uses(len(self.sums), begin, chunk).items()
        ]
        begun, held = -1, dict[int, Value]()
        for begin, slot, pairs in pieces:
            if hold and begin != begun:
                taps = range(begin, min(begin + chunk, self.taps))
                begun, held = begin, {tap: self.weight(own, tap) for tap in taps}
            at = [pointer + self.steps[u] * (slot - before) for pointer in at]
            before = slot
            with ExitStack() as stack:
                if guarded:
                    stack.enter_context(f.when(self.there(u, first + slot)))
                xs = [self.load(p, masks[n] if masks else []) for n, p in enumerate(at)]
                for output, tap in pairs:
                    w = held[tap] if hold else self.weight(own, tap)
                    for x, total in zip(xs, self.sums[output], strict=True):
                        total.set(f.fma(x, w, total.get()))

    def store(self, y: Pointer) -> None:
        """Write the outputs that there are, the others where nobody reads; adding 0 turns -0 into
        0, as in konv.kernels.microtile.
        """
        f, form, job, unit = self.f, self.form, self.job, self.unit
        u, o, lanes = form.along, form.across, form.lanes
        dump = (unit.pointer("scratch", I8) + job["at_dump"]).cast(y.element)
        steps: list[Value] = [job["y_stride", axis] for axis in AXES]
        if self.blocked:
            row = unit["length", 2] * lanes
            steps = [unit["length", 1] * row, row, f.integer(lanes)]
        line = y + self.z * steps[0] + self.r * steps[u]
        stores = []
        for output, sums in enumerate(self.sums):
            there = self.r + output * form.apart < unit["length", u]
            for place, total in zip(self.places, sums, strict=True):
                to = line + place * steps[o]
                added = self.residual_of(to, there, dump)
                stores.append((f.select_pointer(there, to, dump), total.get() + 0.0, added))
            line = line + steps[u] * form.apart
        if not form.planes:
            self.put(stores, None)
            return
        mask = f.below(unit["length", 2], lanes)
        if f.module.target.vector_bytes == 64:  # masked stores cost nothing there
            self.put(stores, mask)
            return
        with f.choose(unit["length", 2] >= lanes) as (whole, narrow):
            with whole:
                self.put(stores, None)
            with narrow:
                self.put(stores, mask)

    def residual_of(self, to: Pointer, there: Value, dump: Pointer) -> Pointer | None:
        """Where the residual of a place lies; of what is no result, anything."""
        if not self.plan.residual or self.blocked:
            return None
        return self.f.select_pointer(there, apart(to, self.unit["residual"]), dump)

    def put(self, stores: list[tuple[Pointer, Value, Pointer | None]], mask: Value | None) -> None:
        """Store results, or those of a mask, finished unless they go to a block and meet their
        residual on the way out of it.
        """
        f, plan = self.f, self.plan
        for to, value, added in stores:
            if added is not None:
                lanes = value.lanes
                value = value + (f.load_masked(added, mask) if mask else added.vector(0, lanes))
            if not (plan.residual and self.blocked):
                value = activate(f, plan, value)
            if mask:
                f.store_masked(to, value, mask)
            else:
                to.put(0, value)
