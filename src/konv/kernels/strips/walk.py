"""Pencils of an image read where it lies.

    for row, tile of outputs in it:                         inside the image, at its border, a tail
        for line in lines, where they are met together:
            for row of taps that is there:                  unrolled where they are few
                load its weights                            in registers
                for slot under the tile:
                    load it once; multiply-add it into every output that reads it

Of more than FEW taps along a row, inside the image, a tap is multiply-added into all outputs in
turn; at the border of as many at a time as have their weights in registers. There weights that each
multiply-add reads took 1.2 to 1.4 times as long, FEW taps at a time 1.1 (AVX-512; Granite Rapids).

What tiles of one place ask is asked before their lines. At the border a slot that is none is left
out by a branch: a table says of each column of the unit whether it is there, once for all rows and
lines. Loads under masks instead, and zeros added, took 1.05 to 1.1 times as long. The last outputs
of a row have a tile of their own.

LLVM knows of no address how it goes on from one line to the next: of 27 slots it would keep 27
addresses, which find no registers. Counted instructions a vector of 3x3 results: 27, and 19 so. A
tap of all outputs after the other, read from memory by the multiply-adds, are 17, but 72 loads
for 36, and took 1.15 times as long.

Outputs of a tile are neighbours whatever the dilation: of three taps two apart seven outputs read
11 slots, and 9 if they were two apart themselves, but then 32 columns were two rows of 7 + 7 + 2.

Cycles of Zen 3 a vector of results, one thread, before (the tile of konv.kernels.strips.tile) and
so: 192@28 11.1 and 8.3, 128@32 d2 13.3 and 8.7, 96@112 s2 16.0 and 13.4, 960@7 11.2 and 9.4, 240@28
5x5 17.6 and 16.4, 96@56 7x7 31.9 and 31.8. Multiply-adds alone would take 4.5 of 3x3.
"""

from __future__ import annotations

from contextlib import ExitStack

from konv.kernels.epilogue import apart
from konv.kernels.scratch import LINE
from konv.kernels.strips.form import FEW, PIECE, STEPS, UNROLL, UNROLLED, Form, in_pieces
from konv.kernels.strips.job import strip_function
from konv.kernels.strips.results import Results, Store
from konv.kernels.words import AXES, Words
from konv.llvm import I8, I32, REAL, SIZE, Function, Module, Pointer, Routine, Value, Variable
from konv.plan import Plan

SWEEP = ("slots", "weights", "bias", "y", "line", "count")
# Weights in registers, of so many, beside a tile's sums and a slot: 7 or 14, and 1.
HELD = {16: FEW, 32: 16}
TAIL = 4  # outputs of the tile at the end of a row: 32 are 4 x 7 + 4


def emit_walk(module: Module, plan: Plan) -> Routine:
    """sweep(job, unit, slots, weights, bias, y, line, count): all outputs of `count` lines."""
    real, form = REAL[plan.dtype], Form.of(plan, module.target.lanes(plan.dtype))
    mr = plan.pixels
    with strip_function(module, "sweep", SWEEP, inline=True) as (f, job, unit, args):
        slots, weights, bias, y = (a.to_pointer(real) for a in args[:4])
        walk = _Walk(f, job, unit, plan, form, (weights, bias), (args[4], args[5]))
        rest = unit["length", 2]
        with ExitStack() as stack:
            z = stack.enter_context(f.loop(unit["length", 0]))
            c = stack.enter_context(f.loop(unit["length", 1]))
            walk.enter(slots, y, z, c)
            r = stack.enter_context(f.loop(rest, step=mr))
            walk.place(r)
            with f.choose(walk.inside) as (inside, beside):
                with inside:
                    walk.lines(mr, False)
                with beside, f.choose(rest - r > TAIL) as (border, tail):
                    with border:
                        walk.lines(mr, True)
                    with tail:
                        walk.lines(TAIL, True)
        return f.fn


class _Walk:
    """A sweep while it is emitted: at a row (`enter`), a tile in it (`place`), over the lines."""

    def __init__(
        self,
        f: Function,
        job: Words,
        unit: Words,
        plan: Plan,
        form: Form,
        numbers: tuple[Pointer, Pointer],
        lines: tuple[Value, Value],
    ) -> None:
        self.f, self.job, self.unit, self.plan, self.form = f, job, unit, plan, form
        self.weights, self.bias = numbers
        self.line, self.count = lines
        self.steps = [unit["step", axis] for axis in AXES]
        self.down = self.steps[1] * form.dilation[1]
        self.jump = self.steps[2] * form.finest
        self.table = (unit.pointer("scratch", I8) + job["at_there"]).cast(I32)

    def enter(self, slots: Pointer, y: Pointer, z: Value, c: Value) -> None:
        """A row of outputs."""
        form = self.form
        self.z, self.c = z, c
        self.slots = slots + (
            z * form.stride[0] * self.steps[0] + c * form.stride[1] * self.steps[1]
        )
        self.y = y
        # Rows of taps that are there, asked for once
        asked = self.unrolled(self.plan.pixels) and form.kernel[0] == 1
        self.rows = [self.there_across(row) for row in range(form.kernel[1] if asked else 0)]

    def place(self, r: Value) -> None:
        """A tile of the row."""
        f, form = self.f, self.form
        self.r = r
        first, last = r * form.stride[2], max(form.uses(self.plan.pixels))
        self.whole = r + (self.plan.pixels - 1) < self.unit["length", 2]
        self.inside = self.whole & self.there(2, first) & self.there(2, first + last)
        self.at = self.slots + first * self.steps[2]
        self.known = self.table + first
        self.results = Results(f, self.job, self.unit, self.plan, form, (self.z, r))
        self.results.enter(self.y)
        self.to = self.results.line + self.c * self.results.out_steps[1]
        self.right = self.results.out_steps[2]

    def there(self, axis: int, slot: Value | int) -> Value:
        """Whether a slot holds a number."""
        at = self.unit["before", axis] + slot
        return self.f.below_unsigned(at, self.unit["most", axis])

    def there_across(self, ko: Value | int) -> Value:
        """Whether a row of taps lies on a row of the image."""
        return self.there(1, self.c * self.form.stride[1] + ko * self.form.dilation[1])

    def unrolled(self, outputs: int) -> bool:
        """Whether the rows of taps are."""
        return self.form.kernel[1] * self.form.kernel[2] * outputs <= UNROLL

    def lines(self, outputs: int, beside: bool) -> None:
        """The tile in all lines."""
        f, form, lanes = self.f, self.form, self.form.lanes
        taps = form.kernel[0] * form.kernel[1] * form.kernel[2]
        end = self.job["channels"] - lanes
        begin = f.least(self.line * lanes, end)
        with f.loop(self.count) as n:
            on = f.least((self.line + n) * lanes, end) - begin
            at, to = f.opaque(self.at + on), f.opaque(self.to + on)
            if not self.plan.blocked:
                self._fetch(n, at, to)
                self._look_ahead(n, at, outputs)
            start = (self.bias + n * lanes).vector(0, lanes)
            sums = [Variable(f, start) for _ in range(outputs)]
            self._add_all(at, f.opaque(self.weights + n * (taps * lanes)), sums, beside)
            if not beside:
                self._store(self._straight(to, sums))
            elif outputs < self.plan.pixels:
                self._store(self._chosen(to, sums))
            else:
                with f.choose(self.whole) as (whole, part):
                    with whole:
                        self._store(self._straight(to, sums))
                    with part:
                        self._store(self._chosen(to, sums))

    def _add_all(self, at: Pointer, weights: Pointer, sums: list[Variable], beside: bool) -> None:
        """All taps."""
        f, (depth, high, wide), lanes = self.f, self.form.kernel, self.form.lanes
        with ExitStack() as stack:
            if depth > 1:
                kz = stack.enter_context(f.loop(depth))
                on = kz * self.form.dilation[0]
                stack.enter_context(f.when(self.there(0, self.z * self.form.stride[0] + on)))
                at = at + on * self.steps[0]
                weights = weights + kz * (high * wide * lanes)
            else:
                stack.enter_context(f.when(self.there(0, self.z * self.form.stride[0])))
            if not self.unrolled(len(sums)):
                ko = stack.enter_context(f.loop(high))
                with f.when(self.there_across(ko)):
                    row, own = at + ko * self.down, weights + ko * (wide * lanes)
                    self._add(f.opaque(row), f.opaque(own), sums, beside)
                return
            for n in range(high):
                with f.when(self.rows[n] if n < len(self.rows) else self.there_across(n)):
                    self._add(at + self.down * n, weights + n * (wide * lanes), sums, beside)

    def _add(self, row: Pointer, own: Pointer, sums: list[Variable], beside: bool) -> None:
        """One row of taps: each for all outputs in turn where they are many. Otherwise, and at the
        border, a slot after the other for as many taps as have weights in registers.
        """
        form, taps = self.form, self.form.kernel[2]
        in_turn = taps > FEW and not beside
        pieces = -(-taps // HELD[self.f.module.target.registers])
        each = -(-taps // pieces)
        if in_turn:
            each = taps if taps <= UNROLLED else PIECE

        def add(first: Value | int, count: int) -> None:
            on = first * form.dilation[2]
            at, weights = row + self.steps[2] * on, own + first * form.lanes
            if in_turn:
                self._add_in_turn(at, weights, sums, count)
            else:
                self._add_slots(at, weights, sums, count, self.known + on if beside else None)

        in_pieces(self.f, taps, each, add)

    def _add_slots(
        self, row: Pointer, own: Pointer, sums: list[Variable], taps: int, known: Pointer | None
    ) -> None:
        """Some taps, a slot after the other; of those that are not `known` to be there none."""
        f, form = self.f, self.form
        weights = [own.vector(tap * form.lanes, form.lanes) for tap in range(taps)]
        for slot, uses in form.uses(len(sums), 0, taps).items():
            with ExitStack() as stack:
                if known is not None:
                    stack.enter_context(f.when(known[slot].differs(0)))
                x = self._slot(row, slot)
                for output, tap in uses:
                    sums[output].set(f.fma(x, weights[tap], sums[output].get()))

    def _add_in_turn(self, row: Pointer, own: Pointer, sums: list[Variable], taps: int) -> None:
        """A tap for all outputs in turn, as in konv.kernels.strips.turns, in the order of taps."""
        f, form, held = self.f, self.form, dict[int, Value]()
        for tap in range(taps):
            weight = own.vector(tap * form.lanes, form.lanes)
            for output, total in enumerate(sums):
                slot = output * form.stride[2] + tap * form.dilation[2]
                if slot not in held:
                    held[slot] = self._slot(row, slot)
                total.set(f.fma(held[slot], weight, total.get()))

    def _slot(self, row: Pointer, slot: int) -> Value:
        group, step = divmod(slot // self.form.finest, STEPS)
        at = row + self.jump * (STEPS * group) if group else row
        return (at + self.jump * step if step else at).vector(0, self.form.lanes)

    def _straight(self, to: Pointer, sums: list[Variable]) -> list[Store]:
        """All outputs, each in its place."""
        stores: list[Store] = []
        residual = self.plan.residual and not self.results.blocked
        for output, total in enumerate(sums):
            group, step = divmod(output, STEPS)
            place = to + self.right * (STEPS * group) if group else to
            place = place + self.right * step if step else place
            added = apart(place, self.unit["residual"]) if residual else None
            stores.append((place, self.results.result(total), added))
        return stores

    def _chosen(self, to: Pointer, sums: list[Variable]) -> list[Store]:
        """The outputs that there are, each in its place, the others where nobody reads."""
        f, stores = self.f, []
        dump = (self.unit.pointer("scratch", I8) + self.job["at_dump"]).cast(to.element)
        for output, total in enumerate(sums):
            there = self.r + output < self.unit["length", 2]
            place = to + self.right * output if output else to
            added = self.results.residual_of(place, there, dump)
            place = f.select_pointer(there, place, dump)
            stores.append((place, self.results.result(total), added))
        return stores

    def _store(self, stores: list[Store]) -> None:
        self.results.put(stores, None)

    def _fetch(self, n: Value, at: Pointer, to: Pointer) -> None:
        """Ask for what the tile in the next row reads and this one does not, and for the places of
        its results; of a volume in all its planes, which lie too far apart for caches to hold them
        (Zen 3: 3x3x3 54@16x56x56 5.7 to 3.3 ms, in steps of two 3.2 to 1.9; 108@16x28x28 2.2 to
        1.5; 216@16x14x14 as before).
        """
        f, form, mr = self.f, self.form, self.plan.pixels
        # Lines in a line of cache
        shared = max(1, LINE // (form.lanes * SIZE[at.element]))
        with f.when((n & (shared - 1)) < self.job["far"]):
            below = form.stride[1] + (form.kernel[1] - 1) * form.dilation[1]
            for plane in range(form.kernel[0]):
                deep = at + self.steps[0] * (plane * form.dilation[0]) if plane else at
                for row in range(form.stride[1]):
                    line = f.opaque(deep + self.steps[1] * (below - row))
                    for slot in range(mr * form.stride[2]):
                        f.prefetch(line + self.steps[2] * slot)
            out = f.opaque(to + self.results.out_steps[1])
            for output in range(mr):
                f.prefetch(out + self.results.out_steps[2] * output)

    def _look_ahead(self, n: Value, at: Pointer, outputs: int) -> None:
        """Ask for the last row under the tile in the next line of cache, from the second-level
        cache; of strides that is more than it gives. 3x3 144@56 8.4 to 7.5 cycles, 192@28 9.1 to
        8.3, but 960@7 9.4 to 9.8 and of four lines 6.3 to 6.6: see konv.kernels.strips.cut.
        """
        f, form = self.f, self.form
        if form.stride[2] > 1 or not self.unrolled(self.plan.pixels):
            return
        shared = max(1, LINE // (form.lanes * SIZE[at.element]))
        with f.when((n & (shared - 1)) < self.job["ahead"]):
            below = (form.kernel[1] - 1) * form.dilation[1]
            row = f.opaque(at + (self.steps[1] * below + shared * form.lanes))
            for slot in form.uses(outputs):
                f.prefetch(row + self.steps[2] * slot)
