"""Products of taps into outputs, each so many pixels from where it was made.

for filter: for phase of the rows: for row of outputs:
    for phase of the columns: for vectors of it:             a row of sums in scratch
        for row of taps: for tap: add its products, those of padding at the border
    the row leaves, its phases in turns
"""

from __future__ import annotations

from konv.kernels.epilogue import activate, apart, finish
from konv.kernels.panels.copy import UNIT as PANELS_UNIT
from konv.kernels.planar.pair import weave
from konv.kernels.shifted.cut import JOB, PHASE, TAP
from konv.kernels.words import Piece, Words, part_function
from konv.llvm import I64, REAL, Function, Module, Pointer, Routine, Value, Variable
from konv.plan import Plan

UNIT = (
    *PANELS_UNIT,
    "image", "out",  # the first pixel that the box reads; the output's image
    "edges", "biases",  # what each row of the weight makes of padding; of the filters
    *(f"{name}_{axis}" for axis in range(2) for name in (
        "j", "width",  # first output of a phase, and how many
        "first", "seen",  # first pixel that they read, and how many
    )),
)  # fmt: skip
RECORDS = (JOB, UNIT)
TOGETHER = 4  # vectors of sums: additions are 4 cycles late


def emit_sums(module: Module, plan: Plan) -> Routine:
    """sums(job, unit, apart): all outputs of the unit's box; `apart`: bytes to their residual."""
    real = REAL[plan.dtype]
    add, leave = _emit_add(module, plan), _emit_leave(module, plan)
    with part_function(module, "sums", ("apart",), cold=True, records=RECORDS) as (f, piece, args):
        job, unit = piece.job, piece.unit
        out, row = unit.pointer("out", real), piece.part("at_row", real)
        with f.loop(job["filters"]) as k, f.loop(job["phases_0"]) as p:
            phase = Words(job.base + job["at_phases_0"] + p * len(PHASE), PHASE)
            some = f.least(unit["width_0"], phase["outputs"] - unit["j_0"])
            with f.loop(some) as i:
                j = unit["j_0"] + i
                with f.loop(job["phases_1"]) as q:
                    beside = job["at_phases_1"] + q * len(PHASE)
                    numbers = k, j, phase.base.address(), job.base.address() + beside * 8
                    f.call(add, [job.base, unit.base, *numbers, (row + q * job["line"]).address()])
                at = phase["first"] + phase["step"] * j
                line = out + (k * job["out_channel"] + at * job["out_0"])
                f.call(leave, [job.base, unit.base, line.address(), args[0]])
        return f.fn


def _emit_add(module: Module, plan: Plan) -> Routine:
    """add(job, unit, filter, j, rows, columns, to): the sums of one phase of a row of outputs;
    `rows`, `columns`: the records of its phases, j: its number on the first axis.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    labels = ("filter", "j", "rows", "columns", "to")
    with part_function(module, "add", labels, records=RECORDS) as (f, piece, args):
        k, j, rows, columns = args[0], args[1], *(a.to_pointer(I64) for a in args[2:4])
        unit, to = piece.unit, args[4].to_pointer(real)
        along = Words(columns, PHASE)
        count = f.least(unit["width_1"], along["outputs"] - unit["j_1"])
        whole = f.most(count, 0) // (TOGETHER * lanes) * (TOGETHER * lanes)
        for vectors, first, end in ((TOGETHER, f.integer(0), whole), (1, whole, count)):
            with f.loop(end, start=first, step=vectors * lanes) as i:
                bias = f.splat(unit.pointer("biases", real)[k], lanes)
                sums = [f.var_of(bias) for _ in range(vectors)]
                _taps(f, piece, sums, (k, j, unit["j_1"] + i), Words(rows, PHASE), along)
                for n, total in enumerate(sums):
                    (to + i).put(n * lanes, total.get() + 0.0)
        return f.fn


def _taps(
    f: Function,
    piece: Piece,
    sums: list[Variable],
    at: tuple[Value, Value, Value],
    rows: Words,
    columns: Words,
) -> None:
    """Add all taps of some vectors of outputs; `at`: filter, and outputs of the two phases."""
    job, unit, lanes = piece.job, piece.unit, sums[0].type.count
    real = sums[0].type.element
    products, edges = piece.part("at_products", real), unit.pointer("edges", real)
    k, j, i = at
    with f.loop(rows["reach"]) as t:
        tap = job.base + rows["at_taps"] + t * TAP
        row, number = j + tap[1], (k * job["kernel_0"] + tap[0]) * job["kernel_1"]
        inside = (row >= 0) & (row < job["size_0"])
        here = products + ((row - unit["first_0"]) * unit["seen_1"] - unit["first_1"])
        with f.loop(columns["reach"]) as u:
            beside = job.base + columns["at_taps"] + u * TAP
            each, column = number + beside[0], i + beside[1]
            line = here + each * job["y_channel"] + column
            within = (column >= 0) & (column + len(sums) * lanes <= job["size_1"])
            with f.choose(inside & within) as (plain, border):
                with plain:
                    for n, total in enumerate(sums):
                        total.set(total.get() + line.vector(n * lanes, lanes))
                with border:
                    edge = f.splat(edges[each], lanes)
                    end = f.select(inside, job["size_1"] - column, 0)
                    for n, total in enumerate(sums):
                        mask = f.between(lanes, 0 - column - n * lanes, end - n * lanes)
                        value = f.load_masked(line + n * lanes, mask)
                        total.set(total.get() + f.select(mask, value, edge))


def _emit_leave(module: Module, plan: Plan) -> Routine:
    """leave(job, unit, line, apart): a row of sums to the output, which begins at `line`."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    labels = ("line", "apart")
    with part_function(module, "leave", labels, records=RECORDS) as (f, piece, args):
        job, unit, distance = piece.job, piece.unit, args[1]
        line, row = args[0].to_pointer(real), piece.part("at_row", real)
        phases, step, first = job["phases_1"], job["out_1"], unit["j_1"]
        end = f.least((first + unit["width_1"]) * phases, job["outputs_1"])
        width, to = end - first * phases, line + first * phases * step
        dense = step.equals(1)
        vectors = f.select(dense & (phases <= 2), width, 0)
        second = row + job["line"]
        with f.choose(phases.equals(2)) as (two, one):
            with two, f.loop(vectors, step=2 * lanes) as i:
                woven = weave(f, [row.vector(i >> 1, lanes)], [second.vector(i >> 1, lanes)])
                for n, value in enumerate(woven):
                    _put(f, plan, to + (i + n * lanes), value, width - i - n * lanes, distance)
            with one, f.loop(vectors, step=lanes) as i:
                _put(f, plan, to + i, row.vector(i, lanes), width - i, distance)
        with f.loop(phases) as q:
            some = f.select(vectors > 0, f.integer(0), (width - q + (phases - 1)) // phases)
            with f.loop(some) as i:
                place = to + (i * phases + q) * step
                place[0] = finish(f, plan, row[q * job["line"] + i], place, distance)
        return f.fn


def _put(
    f: Function, plan: Plan, place: Pointer, value: Value, left: Value, distance: Value
) -> None:
    """A vector of a row of which so many numbers are left."""
    with f.choose(left >= value.lanes) as (whole, part):
        with whole:
            place.put(0, finish(f, plan, value, place, distance))
        with part:
            mask = f.below(f.most(left, 0), value.lanes)
            if plan.residual:
                value = value + f.load_masked(apart(place, distance), mask)
            f.store_masked(place, activate(f, plan, value), mask)
