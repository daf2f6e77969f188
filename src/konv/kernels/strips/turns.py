"""Many taps in planes that are always copied: register tiles, a tap for all outputs in turn.

    for column of taps:                                     a loop
        for tap along the rows:
            splat its weight
            multiply-add it into every output in turn       the slot that comes in takes the
                                                            register of the one that goes out

Eight sums are as many as two multiply-adds a cycle of four cycles need, if none comes twice in a
row. A slot for all outputs that read it, as in konv.kernels.strips.tile, begins with one output and
then two: 7 sums took 30.6 cycles a vector of 7x7 results, 8 so 28.2, and in turn 25.9, where their
49 multiply-adds take 24.5 (Zen 3, a loop of assembly, all in the first-level cache).

Reading the strip, tiles ask nothing at a border, and addresses are one pointer and constants. What
the next line's strip is made of is asked for meanwhile.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from math import prod

from konv.kernels.scratch import LINE
from konv.kernels.strips.form import TALL, Form, strip_steps
from konv.kernels.strips.job import strip_function, strip_of
from konv.kernels.strips.refill import emit_refill, emit_rim
from konv.kernels.strips.results import Results
from konv.kernels.words import AXES, Words
from konv.llvm import REAL, SIZE, Function, Module, Pointer, Routine, Value, Variable
from konv.plan import Plan

SWEEP = ("slots", "weights", "bias", "y", "ahead")


def emit_copied(module: Module, plan: Plan, fill: Routine) -> Routine:
    """lines(job, unit): each line of the unit, copied and swept."""
    real, form = REAL[plan.dtype], Form.of(plan, module.target.lanes(plan.dtype))
    taps, sweeps = prod(form.kernel), [_emit_sweep(module, plan, tall) for tall in TALL]
    rim, refill = emit_rim(module, plan), emit_refill(module, plan)
    with strip_function(module, "lines") as (f, job, unit, _):
        x, y, weights = (unit.pointer(word, real) for word in ("x", "y", "weights"))
        biases, strip = weights + job["lines"] * taps, strip_of(job, unit, real)
        quick = (job["zeros"] & job["dense"]).differs(0)
        with f.when(quick):
            f.call(rim, [job.base, unit.base])
        for axis in AXES:
            y = y + unit["j", axis] * job["y_stride", axis]
        with f.loop(unit["line1"], start=unit["line0"]) as line:
            source = line // job["multiplier"]
            image = x + source * job["x_channel"]
            fresh = line.equals(source * job["multiplier"]) | line.equals(unit["line0"])
            with f.when(fresh), f.choose(quick) as (known, any_mode):
                with known:
                    f.call(refill, [job.base, unit.base, image])
                with any_mode:
                    f.call(fill, [job.base, unit.base, image])
            top = f.most(unit["raw", 1], f.integer(0)) * job["x_stride", 1]
            ahead = image + (job["x_channel"] + top)
            numbers = weights + line * taps, biases + line
            where = strip, *numbers, y + line * job["y_channel"], ahead
            with f.choose(job["tall"].equals(TALL[0])) as ways:
                for way, sweep in zip(ways, sweeps, strict=True):
                    with way:
                        f.call(sweep, [job.base, unit.base, *where])
        return f.fn


def _emit_sweep(module: Module, plan: Plan, tall: int) -> Routine:
    """sweep(job, unit, slots, weights, bias, y, ahead): all outputs of one line, by tiles of so
    many rows; `ahead` is where the image of the next one lies.
    """
    plan = replace(plan, pixels=tall)
    real, form = REAL[plan.dtype], Form.of(plan, module.target.lanes(plan.dtype))
    lanes, q, mr = form.lanes, form.apart, plan.pixels
    with strip_function(module, f"sweep_{tall}", SWEEP, inline=True) as (f, job, unit, args):
        slots, weights, bias, y, ahead = (a.to_pointer(real) for a in args)
        turns = _Turns(f, unit, plan, form, weights)
        last, rows = f.most(unit["length", 2] - lanes, f.integer(0)), unit["length", 1]
        start, asked = f.splat(bias[0], lanes), f.var(0)
        with ExitStack() as stack:
            z = stack.enter_context(f.loop(unit["length", 0]))
            phase = stack.enter_context(f.loop(f.least(rows, q))) if q > 1 else f.integer(0)
            r = stack.enter_context(f.loop(rows, start=phase, step=mr * q))
            results = Results(f, job, unit, plan, form, (z, r))
            results.enter(y)
            at = slots + z * form.stride[0] * turns.steps[0]
            at = at + r * form.stride[1] * turns.steps[1]
            c = stack.enter_context(f.loop(unit["length", 2], step=plan.vectors * lanes))
            turns.ask(ahead, asked)
            places = [f.least(c + n * lanes, last) for n in range(plan.vectors)]
            sums = [[Variable(f, start) for _ in places] for _ in range(mr)]
            turns.add_all([at + place for place in places], sums)
            results.store(sums, places)
        return f.fn


class _Turns:
    """What all tiles of a line share."""

    def __init__(self, f: Function, unit: Words, plan: Plan, form: Form, weights: Pointer) -> None:
        self.f, self.plan, self.form, self.weights = f, plan, form, weights
        self.steps = [f.integer(step) for step in strip_steps(plan, form, unit)]
        self.half = form.half(plan.pixels == 1)

    def ask(self, ahead: Pointer, asked: Variable) -> None:
        """Ask for as much of the next line's image as a tile's outputs stand for. 7x7 96@56 from
        the third-level cache: 30.3 to 27.6 cycles a vector of results.
        """
        form, line = self.form, LINE // SIZE[ahead.element]
        pixels = self.plan.pixels * self.plan.vectors * form.lanes
        for _ in range(pixels * form.stride[1] * form.stride[2] // line):
            self.f.prefetch(ahead + asked.get(), level=2)
            asked.add(line)

    def add_all(self, at: list[Pointer], sums: list[list[Variable]]) -> None:
        """All taps of a tile whose vectors begin in these slots."""
        f, form, (depth, high, wide) = self.f, self.form, self.form.kernel
        with ExitStack() as stack:
            kz = stack.enter_context(f.loop(depth)) if depth > 1 else f.integer(0)
            kx = stack.enter_context(f.loop(wide))
            column = kx * form.dilation[2]
            if form.phases > 1:
                column = column % form.phases * self.half + column // form.phases
            column = column + kz * form.dilation[0] * self.steps[0]
            own = self.weights + (kz * wide + kx) * high
            self._add_column([pointer + column for pointer in at], own, sums)

    def _add_column(self, at: list[Pointer], own: Pointer, sums: list[list[Variable]]) -> None:
        """The taps of one column."""
        f, form = self.f, self.form
        held = dict[int, list[Value]]()
        for number, (tap, uses) in enumerate(form.turns(len(sums))):
            weight = f.splat(own[tap], form.lanes)
            for output, slot in uses:
                if slot not in held:
                    held[slot] = self._slot(at, slot, sums[0] if number else [])
                for x, total in zip(held[slot], sums[output], strict=True):
                    total.set(f.fma(x, weight, total.get()))

    def _slot(self, at: list[Pointer], slot: int, behind: list[Variable]) -> list[Value]:
        """The vectors of a slot, which come in behind the first output of a tap: it has left
        registers to them. LLVM would load them earlier, and spill.
        """
        f, form, step = self.f, self.form, self.steps[1]
        places = [f.after(at[n], total.get()) for n, total in enumerate(behind)] or at
        return [pointer.vector(step * slot, form.lanes) for pointer in places]
