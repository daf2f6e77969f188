"""konv.kernels.spread of contiguous images: neighbouring cells of a row in the lanes.

Each row of sub-pixels has as many vectors of sums as a cell is wide; lane by lane in turns they are
a run of outputs. A row that is not a multiple of them ends with a vector that overlaps the one
before; where an image ends within a cell stores are masked. Rows narrower than such a run, of which
two fill one, are stored whole, one over the end of the other, but for the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from konv.kernels.epilogue import activate, apart
from konv.kernels.spread.form import Place, Spread, cells_plan
from konv.kernels.strips.fill import emit_rows_fill
from konv.kernels.strips.form import Form, strip_steps
from konv.kernels.strips.job import strip_function, strip_of
from konv.kernels.words import AXES, Words
from konv.llvm import REAL, Function, Module, Pointer, Routine, Value
from konv.plan import Plan

SWEEP = ("weights", "bias", "y")


def emit_rows(module: Module, plan: Plan) -> Routine:
    """lines(job, unit): the channels of a unit, one after the other."""
    real, spread = REAL[plan.dtype], Spread.of(plan)
    fill = emit_rows_fill(module, cells_plan(plan))
    sweep = _emit_sweep(module, plan)
    taps = spread.kernel[0] * spread.kernel[1] * spread.kernel[2]
    with strip_function(module, "lines") as (f, job, unit, _):
        weights, x, y = (unit.pointer(name, real) for name in ("weights", "x", "y"))
        biases = weights + job["lines"] * taps
        for axis in AXES:
            y = y + unit["j", axis] * job["y_stride", axis] * spread.up[axis]
        with f.loop(unit["line1"], start=unit["line0"]) as line:
            f.call(fill, [job.base, unit.base, x + line * job["x_channel"]])
            to = y + line * job["y_channel"]
            f.call(sweep, [job.base, unit.base, weights + line * taps, biases + line, to])
        return f.fn


def _emit_sweep(module: Module, plan: Plan) -> Routine:
    """sweep(job, unit, weights, bias, y): all cells of one channel."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    cells = cells_plan(plan)
    with strip_function(module, "sweep", SWEEP, inline=True) as (f, job, unit, args):
        weights, bias, y = (a.to_pointer(real) for a in args)
        steps = strip_steps(cells, Form.of(cells, lanes), unit)
        tile = _Tile(f, job, unit, plan, weights, f.splat(bias[0], lanes), steps)
        last = f.most(unit["length", 2] - lanes, f.integer(0))
        with f.loop(unit["length", 0]) as z, f.loop(unit["length", 1]) as r:
            source = strip_of(job, unit, real) + z * steps[0] + r * steps[1]
            with f.loop(unit["length", 2], step=lanes) as c:
                tile.run(source, y, (z, r, f.least(c, last)))
        return f.fn


class _Tile:
    """A vector of cells while it is emitted."""

    def __init__(
        self,
        f: Function,
        job: Words,
        unit: Words,
        plan: Plan,
        weights: Pointer,
        start: Value,
        steps: Sequence[Value | int],
    ) -> None:
        self.f, self.job, self.unit, self.plan, self.start = f, job, unit, plan, start
        self.spread, self.lanes, self.steps = Spread.of(plan), start.lanes, steps
        # Packed by columns, then rows
        _, high, wide = self.spread.kernel
        self.weights: dict[Place, Value] = {
            (kz, ky, kx): f.splat(weights[(kz * wide + kx) * high + ky], self.lanes)
            for kz, ky, kx in product(*map(range, self.spread.kernel))
        }
        # Outputs that there are from the unit's first on
        self.outputs = [job["outputs", a] - unit["j", a] * self.spread.up[a] for a in AXES]
        width, rows = job["outputs", 2], unit["length", 1] * self.spread.up[1]
        self.rows = f.least(rows, self.outputs[1])
        dense = width.equals(job["y_stride", 1]) & width.equals(self.outputs[2])
        run = self.lanes * self.spread.up[2]
        self.dense = dense & (width <= run) & (width * 2 >= run)

    def run(self, source: Pointer, y: Pointer, at: tuple[Value, Value, Value]) -> None:
        """All sub-pixels of the cells from one on, whose row of slots begins at `source`."""
        f, up = self.f, self.spread.up
        columns = self.outputs[2] - at[2] * up[2]
        for fz, fy in product(range(up[0]), range(up[1])):
            plane, row = at[0] * up[0] + fz, at[1] * up[1] + fy
            there = (plane < self.outputs[0]) & (row < self.outputs[1])
            sums = self._sums(source + at[2], fz, fy)
            to = y + plane * self.job["y_stride", 0] + row * self.job["y_stride", 1]
            whole = columns >= self.lanes * up[2]
            if not self.plan.residual:  # which may lie where results go
                whole = whole | (self.dense & (row + 1 < self.rows))
            with f.when(there):
                self._store(to + at[2] * up[2], woven(f, sums), columns, whole)

    def _sums(self, at: Pointer, fz: int, fy: int) -> list[Value]:
        """One vector for each sub-pixel of a row."""
        f, found, known = self.f, [], dict[Place, Value]()
        for fx in range(self.spread.up[2]):
            total = self.start
            for tap, slot in self.spread.taps((fz, fy, fx)):
                if slot not in known:
                    row = at + self.steps[0] * slot[0] + self.steps[1] * slot[1]
                    known[slot] = row.vector(slot[2], self.lanes)
                total = f.fma(known[slot], self.weights[tap], total)
            found.append(total + 0.0)
        return found

    def _store(self, to: Pointer, values: list[Value], columns: Value, whole: Value) -> None:
        """A run of outputs, of which so many are there; `whole`: all, or what is behind them is
        written later.
        """
        f, lanes = self.f, self.lanes
        with f.choose(whole) as (every, part):
            with every:
                for n, value in enumerate(values):
                    self._put(to + n * lanes, value, None)
            with part:
                for n, value in enumerate(values):
                    mask = f.below(f.most(columns - n * lanes, f.integer(0)), lanes)
                    self._put(to + n * lanes, value, mask)

    def _put(self, to: Pointer, value: Value, mask: Value | None) -> None:
        f, plan = self.f, self.plan
        if plan.residual:
            added = apart(to, self.unit["residual"])
            value = value + (f.load_masked(added, mask) if mask else added.vector(0, self.lanes))
        value = activate(f, plan, value)
        if mask:
            f.store_masked(to, value, mask)
        else:
            to.put(0, value)


def woven(f: Function, parts: list[Value]) -> list[Value]:
    """Vectors of which each has every so-manieth lane, as the run that they are."""
    if len(parts) == 1:
        return parts
    lanes, found = parts[0].lanes, []
    for n in range(len(parts)):
        places = [divmod(n * lanes + lane, len(parts)) for lane in range(lanes)]  # lane, part
        value = parts[0]
        for number, part in enumerate(parts[1:], start=1):
            take = [
                lanes + at if own == number else at if number == 1 else lane
                for lane, (at, own) in enumerate(places)
            ]
            value = f.shuffle(value, part, take)
        found.append(value)
    return found
