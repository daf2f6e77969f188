"""Depthwise convolution from strips: what konv.kernels.planes and konv.kernels.pencils share.

    for unit in units, taken by threads from shares of their own:  a box of outputs, some lines
        for line in lines:                             a channel, or a vector of channels
            where the input cannot be read as it lies: fill the strip
            for tile of outputs in the box:            konv.kernels.strips.tile

The *strip* is the line's input under the box, padded, in scratch that fits into the first-level
cache. It is made for padding modes, for weights that are not finite (a tap of padding is 0 x
weight), for contiguous images whose channels are to be in the lanes, for many rows of many taps,
whose vectors are then aligned, and on machines that mask no loads. Elsewhere the input is read
where it lies and padding is left out. Copying all of it cost half of the time (192@28 contiguous, 2
x Emerald Rapids: 48 us, 26 without). Some planes of many taps are copied all the same
(konv.kernels.strips.turns).

One filter a channel leaves nothing to sum over but taps, so a kernel that loads its input for every
tap is bound by loads. Here a tile is several outputs along one axis, `along`, that lie as far apart
as its dilation asks, so that they read each other's slots: of R outputs and K taps each loaded
vector serves R * K / (R + K - 1) multiply-adds.

    planes    lanes are pixels of a row, lines are channels; tiles along the rows; weights are splat
    pencils   lanes are channels, lines are vectors of them; tiles along the columns

An output is one chain of multiply-adds: outer taps, then taps along the tile, the same wherever it
lies.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from konv.kernels.pack import HEADER
from konv.kernels.region import emit_entry, emit_units
from konv.kernels.strips.ahead import fetch_line, fetch_rows
from konv.kernels.strips.bands import Band
from konv.kernels.strips.form import (
    ENDLESS,
    Form,
    banded,
    beside,
    copies,
    paired,
    slides,
    stepping,
    strip_steps,
    walks,
)
from konv.kernels.strips.job import JOB, UNIT, strip_function, strip_of
from konv.kernels.strips.lane_rows import emit_block_out
from konv.kernels.strips.pairs import emit_pairs
from konv.kernels.strips.slide import BAND, Slide
from konv.kernels.strips.stacks import emit_stacks
from konv.kernels.strips.tile import Tile
from konv.kernels.strips.turns import emit_copied
from konv.kernels.strips.walk import SWEEP, emit_walk
from konv.kernels.words import AXES, Words
from konv.llvm import I1, I8, I32, I64, REAL, SIZE, Function, Module, Routine, Value, Variable
from konv.plan import Plan


def emit_kernel(plan: Plan, fill: Routine, module: Module) -> Module:
    """Complete a module that has `pack` and `fill(job, unit, x)`: add `run`."""
    if copies(plan):
        return emit_run(module, plan, emit_copied(module, plan, fill))
    if slides(plan) and (stepping(plan) or beside(plan)):
        sweeps = [_emit_slide(module, plan, "sweep")]
    elif paired(plan):
        sweeps = [emit_pairs(module, plan), emit_stacks(module, plan)][: 1 + walks(plan)]
    elif plan.algorithm != "planes" and plan.form[9]:
        sweeps = [emit_walk(module, plan)]
    else:
        ways = (False, True)[: 1 + (walks(plan) and not slides(plan))]
        sweeps = [_emit_sweep(module, plan, walking) for walking in ways]
        if slides(plan):
            sweeps.append(_emit_slide(module, plan, "slide"))
    out = emit_block_out(module, plan) if plan.blocked and plan.algorithm != "planes" else None
    return emit_run(module, plan, _emit_lines(module, plan, fill, sweeps, out))


def emit_run(module: Module, plan: Plan, lines: Routine) -> Module:
    """Add `run` to a module: lines(job, unit) computes one unit."""
    emit_entry(module, partial(_emit_work, plan, lines), plan.residual)
    return module


def _emit_work(plan: Plan, lines: Routine, f: Function, call: Words, thread: Value) -> None:
    """All the units that this thread gets hold of."""
    form, size = Form.of(plan, f.module.target.lanes(plan.dtype)), SIZE[REAL[plan.dtype]]
    job, unit = Words(call.pointer("job", I64), JOB), Words(f.array(I64, len(UNIT)), UNIT)
    unit["scratch"] = call["scratch"] + thread * job["thread_bytes"]
    unit["weights"] = call["weights"] + HEADER
    finite = call.pointer("weights", I64)[0]
    unit["skip"] = job["zeros"] & finite
    unit["direct"] = unit["skip"] & job["dense"] if form.direct else f.integer(0)
    if form.planes and form.direct:
        zeros = (unit.pointer("scratch", I8) + job["at_zeros"]).cast(REAL[plan.dtype])
        f.clear(zeros, form.zeros(job["box", 2]))

    def body(number: Value) -> None:
        chunk, rest = number % job["chunks"], number // job["chunks"]
        for axis in reversed(AXES):
            unit["j", axis] = rest % job["boxes", axis] * job["box", axis]
            rest = rest // job["boxes", axis]
            length = f.least(job["box", axis], job["out", axis] - unit["j", axis])
            unit["length", axis] = length
            unit["raw", axis] = unit["j", axis] * form.stride[axis] - job["lo", axis]
            unit["slots", axis] = (length - 1) * form.stride[axis] + form.extent(axis)
        _place_slots(plan, form, f, job, unit)
        if form.direct and not form.planes and not paired(plan):
            _list_columns(f, form, job, unit, plan.pixels)
        unit["x"] = call["x"] + rest * job["x_batch"] * size
        unit["y"] = call["y"] + rest * job["y_batch"] * size
        unit["line0"] = chunk * job["chunk"]
        unit["line1"] = f.least(unit["line0"] + job["chunk"], job["lines"])
        unit["residual"] = call["residual"] if plan.residual else 0
        f.call(lines, [job.base, unit.base])

    emit_units(f, call, thread, job["units"], body)


def _place_slots(plan: Plan, form: Form, f: Function, job: Words, unit: Words) -> None:
    """Where the slots of the unit lie, in the input or in the strip, and which there are."""
    skip, direct = unit["skip"].differs(0), unit["direct"].differs(0)
    for axis, step in zip(AXES, strip_steps(plan, form, unit), strict=True):
        unit["before", axis] = f.select(skip, unit["raw", axis], 0)
        unit["most", axis] = f.select(skip, job["size", axis], ENDLESS)
        unit["step", axis] = f.select(direct, job["x_stride", axis], step)


def _list_columns(f: Function, form: Form, job: Words, unit: Words, outputs: int) -> None:
    """For each slot of a row under a unit, and under a tile beyond it: whether it is there."""
    lanes = form.lanes
    table = (unit.pointer("scratch", I8) + job["at_there"]).cast(I32)
    first, end = (f.splat_low(unit[word, 2], lanes) for word in ("before", "most"))
    yes, no = f.splat(f.constant(I32, 1), lanes), f.splat(f.constant(I32, 0), lanes)
    with f.loop(form.columns(unit["slots", 2], outputs), step=lanes) as slot:
        table.put(slot, f.select(f.counted(first, slot, 0) < end, yes, no))


def _emit_lines(
    module: Module, plan: Plan, fill: Routine, sweeps: list[Routine], out: Routine | None
) -> Routine:
    """lines(job, unit): each line of the unit, its strip filled if it needs one, and swept."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    form = Form.of(plan, lanes)
    taps = form.kernel[0] * form.kernel[1] * form.kernel[2]
    width = form.numbers
    with strip_function(module, "lines") as (f, job, unit, _):
        weights = unit.pointer("weights", real)
        biases = weights + job["lines"] * (taps * width)
        x, y = unit.pointer("x", real), unit.pointer("y", real)
        for axis in AXES:
            y = y + unit["j", axis] * job["y_stride", axis]
        walk = unit["direct"] & job["walk"]
        alone = walk.equals(0) | form.planes
        together = f.select(alone, f.integer(1), unit["line1"] - unit["line0"])
        with f.loop(unit["line1"], start=unit["line0"], step=together) as line:
            if form.planes:
                source, begin = line // job["multiplier"], line
                own = x + source * job["x_channel"]
                fresh = line.equals(source * job["multiplier"]) | line.equals(unit["line0"])
            else:
                begin = f.least(line * lanes, job["channels"] - lanes)
                own, fresh = x + begin * job["x_channel"], f.constant(I1, 1)
            with f.when(fresh & unit["direct"].equals(0)):
                f.call(fill, [job.base, unit.base, own])
            if form.direct:
                for axis in AXES:
                    own = own + unit["raw", axis] * job["x_stride", axis]
                strip = strip_of(job, unit, real)
                own = f.select_pointer(unit["direct"].differs(0), own, strip)
            else:
                own = strip_of(job, unit, real)
            numbers = weights + line * (taps * width), biases + line * width
            to = y + begin * job["y_channel"]
            block = (unit.pointer("scratch", I8) + job["at_block"]).cast(real)
            where = own, *numbers, block if out else to, line, together
            with ExitStack() as stack:
                if slides(plan) and len(sweeps) > 1:
                    usual, sliding = stack.enter_context(f.choose(job["slide"].equals(0)))
                    with sliding:
                        f.call(sweeps[-1], [job.base, unit.base, *where])
                    stack.enter_context(usual)
                    if walks(plan):
                        with f.when(walk.differs(0)):
                            fetch_line(f, job, unit, own, to)
                elif walks(plan) and len(sweeps) > 1:
                    other = walk & job["stack"] if paired(plan) else walk
                    usual, walking = stack.enter_context(f.choose(other.equals(0)))
                    with walking:
                        f.call(sweeps[1], [job.base, unit.base, *where])
                    stack.enter_context(usual)
                f.call(sweeps[0], [job.base, unit.base, *where])
            if out:
                size = [unit["length", 0], unit["length", 1], unit["length", 2]]
                f.call(out, [job.base, unit.base, to, *size])
        return f.fn


def _emit_slide(module: Module, plan: Plan, name: str) -> Routine:
    """The same as `_emit_sweep` of one line, where vectors slide down or bands go along."""
    real, form = REAL[plan.dtype], Form.of(plan, module.target.lanes(plan.dtype))
    with strip_function(module, name, SWEEP, inline=True) as (f, job, unit, args):
        slots, weights, bias, y = (a.to_pointer(real) for a in args[:4])
        # A sum that begins with no -0 is none, but for what rounds to it: instructions bind here
        start, q, rows = f.splat(bias[0] + 0.0, form.lanes), form.apart, unit["length", 1]
        with ExitStack() as stack:
            z = stack.enter_context(f.loop(unit["length", 0]))
            phase = stack.enter_context(f.loop(f.least(rows, q))) if q > 1 else f.integer(0)
            rows_at_once = plan.pixels if banded(plan) else BAND
            r = stack.enter_context(f.loop(rows, start=phase, step=rows_at_once * q))
            given = f, job, unit, plan, form, weights, (z, r), start
            if banded(plan):
                Band(*given, bias).run(slots, y)
            else:
                Slide(*given).run(slots, y)
        return f.fn


def _emit_sweep(module: Module, plan: Plan, walking: bool) -> Routine:
    """sweep(job, unit, slots, weights, bias, y, line, count): all outputs of one line; `walking`:
    of one that comes from memory.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    form = Form.of(plan, lanes)
    u, o, q, mr = form.along, form.across, form.apart, plan.pixels
    # Inlined: what does not depend on the line is computed once, which small maps notice.
    name = "walk" if walking else "sweep"
    with strip_function(module, name, SWEEP, inline=True) as (f, job, unit, args):
        slots, weights, bias, y = (a.to_pointer(real) for a in args[:4])
        rest = unit["length", u]
        last = f.most(unit["length", 2] - lanes, f.integer(0)) if form.planes else None
        start = f.splat(bias[0], lanes) if form.planes else bias.vector(0, lanes)
        with ExitStack() as stack:
            z = stack.enter_context(f.loop(unit["length", 0]))
            c = None if form.planes else stack.enter_context(f.loop(unit["length", o]))
            phase = stack.enter_context(f.loop(f.least(rest, q))) if q > 1 else f.integer(0)
            r = stack.enter_context(f.loop(rest, start=phase, step=mr * q))
            tile = Tile(f, job, unit, plan, form, weights, (z, r))
            if c is None:
                tile.enter(slots, y)
                c = stack.enter_context(f.loop(unit["length", o], step=plan.vectors * lanes))
            if walking:
                fetch_rows(f, job, unit, form, (slots, y), (z, r, c), mr)
            places = [f.least(c + n * lanes, last) for n in range(plan.vectors)] if last else [c]
            sums = [[Variable(f, start) for _ in places] for _ in range(mr)]
            if not form.planes:
                tile.enter(slots, y)
            tile.place(sums, places)
            tile.add_all()
            tile.store()
        return f.fn
