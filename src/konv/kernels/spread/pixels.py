"""konv.kernels.spread of channels-last images: a vector of channels in the lanes.

The strip holds all lines of the unit, one behind the other. A tile is some neighbouring cells of a
row: each sub-pixel of them in turn, whose weights are loaded once for all; it is computed for all
lines before the next tile.
"""

from __future__ import annotations

from contextlib import ExitStack
from itertools import product

from konv.kernels.epilogue import activate, apart
from konv.kernels.spread.form import Spread, cells_plan
from konv.kernels.strips.job import strip_function, strip_of
from konv.kernels.strips.lane_rows import emit_row_in
from konv.kernels.words import AXES, Words
from konv.llvm import I8, REAL, Function, Module, Pointer, Routine, Value
from konv.plan import Plan


def emit_pixels(module: Module, plan: Plan) -> Routine:
    """lines(job, unit): the lines of a unit together."""
    real, lanes, spread = REAL[plan.dtype], module.target.lanes(plan.dtype), Spread.of(plan)
    fill, tile = _emit_fill(module, plan), _emit_tile(module, plan)
    taps = spread.kernel[0] * spread.kernel[1] * spread.kernel[2]
    with strip_function(module, "lines") as (f, job, unit, _):
        f.call(fill, [job.base, unit.base])
        weights, y = unit.pointer("weights", real), unit.pointer("y", real)
        biases = weights + job["lines"] * (taps * lanes)
        for axis in AXES:
            y = y + unit["j", axis] * job["y_stride", axis] * spread.up[axis]
        row = unit["slots", 2] * lanes
        last = f.most(unit["length", 2] - plan.pixels, f.integer(0))
        with ExitStack() as stack:
            z = stack.enter_context(f.loop(unit["length", 0]))
            r = stack.enter_context(f.loop(unit["length", 1]))
            c = stack.enter_context(f.loop(unit["length", 2], step=plan.pixels))
            c = f.least(c, last)
            corner = (z * unit["slots", 1] + r) * row + c * lanes
            line = stack.enter_context(f.loop(unit["line1"], start=unit["line0"]))
            strip = strip_of(job, unit, I8) + (line - unit["line0"]) * job["line_bytes"]
            own = weights + line * (taps * lanes), biases + line * lanes
            to = y + f.least(line * lanes, job["channels"] - lanes)
            f.call(tile, [job.base, unit.base, strip.cast(real) + corner, *own, to, z, r, c])
        return f.fn


def _emit_fill(module: Module, plan: Plan) -> Routine:
    """fill(job, unit): the strips of all lines, a row of the input after the other."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    row_in = emit_row_in(module, cells_plan(plan))
    with strip_function(module, "fill") as (f, job, unit, _):
        width, x = unit["slots", 2], unit.pointer("x", real)
        with ExitStack() as stack:
            z = stack.enter_context(f.loop(unit["slots", 0]))
            r = stack.enter_context(f.loop(unit["slots", 1]))
            line = stack.enter_context(f.loop(unit["line1"], start=unit["line0"]))
            strip = strip_of(job, unit, I8) + (line - unit["line0"]) * job["line_bytes"]
            to = strip.cast(real) + (z * unit["slots", 1] + r) * width * lanes
            source = x + f.least(line * lanes, job["channels"] - lanes)
            f.call(row_in, [job.base, unit.base, to, source, z, r, width])
        return f.fn


def _emit_tile(module: Module, plan: Plan) -> Routine:
    """tile(job, unit, slots, weights, bias, y, z, r, c): some cells of one line from (z, r, c) on;
    the slots of the first begin at `slots`.
    """
    real, lanes, spread = REAL[plan.dtype], module.target.lanes(plan.dtype), Spread.of(plan)
    names = ("slots", "weights", "bias", "y", "z", "r", "c")
    with strip_function(module, "tile", names) as (f, job, unit, args):
        slots, weights, bias, y = (a.to_pointer(real) for a in args[:4])
        z, r, c = args[4:]
        start, up = bias.vector(0, lanes), spread.up
        ends = [job["outputs", a] - unit["j", a] * up[a] for a in AXES]
        whole = ((c + plan.pixels) * up[2] <= ends[2]) & (c + plan.pixels <= unit["length", 2])
        for fz, fy in product(range(up[0]), range(up[1])):
            plane, row = z * up[0] + fz, r * up[1] + fy
            line = y + plane * job["y_stride", 0] + row * job["y_stride", 1]
            with f.when((plane < ends[0]) & (row < ends[1])):
                for fx in range(up[2]):
                    sums = _sums(f, unit, plan, slots, weights, start, (fz, fy, fx))
                    column = c * up[2] + fx
                    with f.choose(whole) as (all_cells, some):
                        with all_cells:
                            for m, value in enumerate(sums):
                                at = (column + m * up[2]) * job["y_stride", 2]
                                _put(f, unit, plan, line + at, value)
                        with some:
                            for m, value in enumerate(sums):
                                with f.when(column + m * up[2] < ends[2]):
                                    at = (column + m * up[2]) * job["y_stride", 2]
                                    _put(f, unit, plan, line + at, value)
        return f.fn


def _sums(
    f: Function,
    unit: Words,
    plan: Plan,
    slots: Pointer,
    weights: Pointer,
    start: Value,
    place: tuple[int, int, int],
) -> list[Value]:
    """One sub-pixel of each cell of a tile."""
    spread, lanes = Spread.of(plan), start.lanes
    _, high, wide = spread.kernel
    row = unit["slots", 2] * lanes
    sums = [start] * plan.pixels
    for (kz, ky, kx), (sz, sy, sx) in spread.taps(place):
        w = weights.vector(((kz * high + ky) * wide + kx) * lanes, lanes)
        at = slots + row * sy + row * unit["slots", 1] * sz
        for m, total in enumerate(sums):
            sums[m] = f.fma(at.vector((m + sx) * lanes, lanes), w, total)
    return [total + 0.0 for total in sums]


def _put(f: Function, unit: Words, plan: Plan, to: Pointer, value: Value) -> None:
    if plan.residual:
        value = value + apart(to, unit["residual"]).vector(0, value.lanes)
    to.put(0, activate(f, plan, value))
