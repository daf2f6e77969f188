"""Rows of the weight are input channels: a run of outputs stands in memory, and some rows at a time
are added to it, so that each is read as far as the run goes.

Sums of a few vectors of outputs in registers would read as many numbers of each row, and leave
prefetchers behind at every step.
"""

from __future__ import annotations

from collections.abc import Callable

from konv.kernels.epilogue import activate
from konv.llvm import I64, REAL, Function, Module, Pointer, Routine, Value
from konv.plan import Plan

NUMBERS = 2048  # of a run: outputs and what is read meanwhile are to stay in a first-level cache
ROWS = 4  # at a time
PARAMETERS = ("x", "weights", "bias", "y", "count", "row", "ci", "first", "alike", "biases")


def emit_across(module: Module, plan: Plan) -> Routine:
    """run(x, weights, bias, y, count, row, ci, first, alike, biases): `count` outputs, from the
    layer's `first` on. `bias`: where all of them begin, or 0.
    """
    real = REAL[plan.dtype]
    params = [(p, I64) for p in PARAMETERS]
    with module.function("single_across", params, inline=False) as (f, arguments):
        a = dict(zip(PARAMETERS, arguments, strict=True))
        x, y = a["x"].to_pointer(real), a["y"].to_pointer(real)
        run = _Run(f, plan, y, a["count"])
        with f.choose(a["bias"].differs(0)) as (some, none):
            with some:
                bias = a["bias"].to_pointer(real)
                _begin(f, bias, y, a["count"], a["first"], a["alike"], a["biases"])
            with none:
                run.each(lambda at, some: f.zero(real, run.lanes))  # noqa: ARG005

        def add(c: Value, rows: int) -> None:
            """The products of some channels."""
            those = [f.splat(x[c + i], run.lanes) for i in range(rows)]
            lines = [(a["weights"] + (c + i) * a["row"]).to_pointer(real) for i in range(rows)]

            def sums(at: Value, some: Value | None) -> Value:
                total = _load(f, y + at, some, run.lanes)
                for number, line in zip(those, lines, strict=True):
                    total = f.fma(number, _load(f, line + at, some, run.lanes), total)
                return total

            run.each(sums)

        whole = a["ci"] // ROWS * ROWS
        with f.loop(whole, step=ROWS) as c:
            add(c, ROWS)
        with f.loop(a["ci"], start=whole) as c:
            add(c, 1)
        run.each(lambda at, some: activate(f, plan, _load(f, y + at, some, run.lanes) + 0.0))
        return f.fn


def _begin(
    f: Function, bias: Pointer, y: Pointer, count: Value, first: Value, alike: Value, biases: Value
) -> None:
    """Each output is its bias."""
    channel, left = f.var(first // alike % biases), f.var(alike - first % alike)
    with f.loop(count) as i:
        y[i] = bias[channel.get()]
        over = left.get().equals(1)
        after = channel.get() + 1
        after = f.select(after.equals(biases), f.integer(0), after)
        left.set(f.select(over, alike, left.get() - 1))
        channel.set(f.select(over, after, channel.get()))


class _Run:
    """Outputs in a row, in vectors; the last of them may be part of one."""

    def __init__(self, f: Function, plan: Plan, y: Pointer, count: Value) -> None:
        self.f, self.y, self.lanes = f, y, f.module.target.lanes(plan.dtype)
        self.count, self.whole = count, count // self.lanes * self.lanes

    def each(self, value: Callable[[Value, Value | None], Value]) -> None:
        """Store what value(at, mask) gives for the outputs from `at` on, those of a mask if any."""
        f = self.f
        with f.loop(self.whole, step=self.lanes) as at:
            (self.y + at).put(0, value(at, None))
        with f.when(self.whole < self.count):
            some = f.below(self.count - self.whole, self.lanes)
            f.store_masked(self.y + self.whole, value(self.whole, some), some)


def _load(f: Function, at: Pointer, some: Value | None, lanes: int) -> Value:
    return f.load_masked(at, some) if some else at.vector(0, lanes)
