"""The way out of a tile of konv.kernels.strips: those results that there are, finished."""

from __future__ import annotations

from contextlib import ExitStack

from konv.kernels.epilogue import activate, apart
from konv.kernels.strips.form import STEPS, Form, dealt
from konv.kernels.words import AXES, Words
from konv.llvm import I8, Function, Pointer, Value, Variable
from konv.plan import Plan

Store = tuple[Pointer, Value, Pointer | None]  # a place, its result, what is added to that


class Results:
    """Where the results of tiles go. What is the same for all tiles of a row is computed before
    them: `enter`, then `store` for each.
    """

    def __init__(
        self,
        f: Function,
        job: Words,
        unit: Words,
        plan: Plan,
        form: Form,
        begin: tuple[Value, Value],
    ) -> None:
        self.f, self.job, self.unit, self.plan, self.form = f, job, unit, plan, form
        self.z, self.r = begin
        self.blocked = plan.blocked and not form.planes  # they go to the block first

    def enter(self, y: Pointer) -> None:
        """What all tiles along the lanes share."""
        f, form, job, unit, u = self.f, self.form, self.job, self.unit, self.form.along
        self.out_steps: list[Value] = [job["y_stride", axis] for axis in AXES]
        if self.blocked:
            row = unit["length", 2] * form.lanes
            self.out_steps = [unit["length", 1] * row, row, f.integer(form.lanes)]
        self.line = y + self.z * self.out_steps[0] + self.r * self.out_steps[u]
        if not form.planes:
            return
        below = self.out_steps[u] * form.apart
        self.out_jumps = [below * n for n in range(STEPS + 1)]
        self.all_rows = self.r + (self.plan.pixels - 1) * form.apart < unit["length", u]
        self.whole = self.all_rows & (unit["length", 2] >= form.lanes)

    def store(self, sums: list[list[Variable]], places: list[Value]) -> None:
        """Write the outputs that there are, the others where nobody reads; adding 0 turns -0 into
        0, as in konv.kernels.microtile.
        """
        self.sums, self.places = sums, places
        f, form, unit = self.f, self.form, self.unit
        if not form.planes:
            self.put(self._chosen(), None)
            return
        lanes, width = form.lanes, unit["length", 2]
        with f.choose(self.whole) as (whole, part):
            with whole:
                self.put(self._stores(), None)
            with part, ExitStack() as stack:
                if form.apart == 1 and len(self.places) == 1 and len(self.sums) > 1:
                    dense = width.equals(self.out_steps[form.along])
                    dense = dense & self.all_rows & (width * 2 >= lanes) & (width < lanes)
                    narrow, part = stack.enter_context(f.choose(dense))
                    with narrow:
                        self.put(self._stores(), f.below(width, lanes), last=True)
                    stack.enter_context(part)
                stores = self._chosen()
                with f.choose(width >= lanes) as (whole, narrow):
                    with whole:
                        self.put(stores, None)
                    with narrow:
                        self.put(stores, f.below(width, lanes))

    def _stores(self) -> list[Store]:
        """The results of all rows, each in its place."""
        stores, at = [], [self.line + place for place in self.places]
        for output, sums in enumerate(self.sums):
            if output and output % STEPS == 0:
                at = [pointer + self.out_jumps[STEPS] for pointer in at]
            for pointer, total in zip(at, sums, strict=True):
                to = pointer + self.out_jumps[output % STEPS] if output % STEPS else pointer
                added = apart(to, self.unit["residual"]) if self.plan.residual else None
                stores.append((to, self.result(total), added))
        return stores

    def _chosen(self) -> list[Store]:
        """The results that there are, each in its place, the others where nobody reads."""
        form, line, stores = self.form, self.line, []
        dump = (self.unit.pointer("scratch", I8) + self.job["at_dump"]).cast(line.element)
        u, o = form.along, form.across
        for output, sums in enumerate(self.sums):
            there = self.r + output * form.apart < self.unit["length", u]
            for place, total in zip(self.places, sums, strict=True):
                to = line + place * self.out_steps[o]
                added = self.residual_of(to, there, dump)
                to = self.f.select_pointer(there, to, dump)
                stores.append((to, self.result(total), added))
            line = line + self.out_steps[u] * form.apart
        return stores

    def result(self, total: Variable) -> Value:
        """What a sum has become; adding 0 turns -0 into 0."""
        return self.lined_up(total.get() + 0.0)

    def lined_up(self, value: Value) -> Value:
        """Lanes in the order of columns."""
        form = self.form
        if not (form.planes and form.direct and form.stride[2] == 2):
            return value
        order = dealt(self.plan, form.lanes)
        return self.f.shuffle(value, value, [order.index(2 * n) for n in range(form.lanes)])

    def residual_of(self, to: Pointer, there: Value, dump: Pointer) -> Pointer | None:
        """Where the residual of a place lies; of what is no result, anything."""
        if not self.plan.residual or self.blocked:
            return None
        return self.f.select_pointer(there, apart(to, self.unit["residual"]), dump)

    def put(self, stores: list[Store], mask: Value | None, last: bool = False) -> None:
        """Store results, or those of a mask, finished unless they go to a block and meet their
        residual on the way out of it.

        `last`: the mask is for the last of them only. The others are rows narrower than a vector,
        two of which fill one, and each is followed by the next: what a vector writes beyond its
        row is written again. A masked store takes as long as 18 instructions (Zen 3). Residuals
        are read before, as they may lie where results go.
        """
        f, plan = self.f, self.plan
        finished = []
        for to, value, added in stores:
            if added is not None:
                lanes = value.lanes
                value = value + (f.load_masked(added, mask) if mask else added.vector(0, lanes))
            if not (plan.residual and self.blocked):
                value = activate(f, plan, value)
            if last:
                finished.append((to, value))
            elif mask:
                f.store_masked(to, value, mask)
            else:
                to.put(0, value)
        for to, value in finished[:-1]:
            to.put(0, value)
        if mask and finished:
            f.store_masked(*finished[-1], mask)
