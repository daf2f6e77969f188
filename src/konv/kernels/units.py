"""A unit of work: tables, packing, phases, blocks of output channels, tiles. What algorithms on
tiles share.

    for unit in units, taken by threads one after the other:  a box of output pixels, some output
                                                              channels
        tables of the unit's sources                          konv.kernels.tables
        contiguous input: pack the box, channels last         konv.kernels.packing
        for phase of the outputs:                             one, or `up` per axis when transposed
            for group, block of output channels:              one block's weights stay in the
                                                              second-level cache
                for tile of pixels:                           the algorithm's own function
                contiguous output: the block out              konv.kernels.results

An algorithm brings the function that computes one tile, with the parameters
konv.kernels.microtile.parameters names.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

from konv.kernels import in_place
from konv.kernels.block_weights import emit_weights
from konv.kernels.pack import HEADER
from konv.kernels.packing import emit_image
from konv.kernels.region import emit_entry, emit_units
from konv.kernels.results import emit_output as emit_channels
from konv.kernels.rows import emit_rows
from konv.kernels.stored import element
from konv.kernels.sweep import emit_tile_sweep
from konv.kernels.tables import emit_places, emit_slots, emit_taps
from konv.kernels.words import AXES, JOB, PHASE, UNIT, Piece, Words, part_function
from konv.llvm import I64, REAL, SIZE, Function, Module, Routine, Value
from konv.plan import Plan
from konv.target import Target

Parts = dict[Any, Routine]
EmitTile = Callable[[Module, int, int], Routine]
EmitWeights = Callable[[Module, str, int], None]
EmitOutput = Callable[[Module, int], Routine]
EmitSweep = Callable[[Module, Plan, int, int], Routine]


def emit_kernel(
    plan: Plan,
    target: Target,
    emit_tile: EmitTile,
    per_channel: bool = False,
    emit_weights: EmitWeights = emit_weights,
    emit_output: EmitOutput | None = None,
    sweeps: int = 1,
    passes: bool = False,
    emit_sweep: EmitSweep | None = None,
    ends: bool = False,
    at_once: bool = False,
) -> Module:
    """The module of a plan: `run` and `pack`. emit_tile(module, vectors, odd) writes the function
    of a tile; the others, where given, replace those of their own files. A block is computed in so
    many sweeps over the tiles, whose results lie side by side in scratch; `passes`: as
    konv.kernels.passes says; `emit_sweep` has sweeps of its own, which need no tables;
    `ends`: they read images that lie channels last where they lie (konv.kernels.in_place);
    `at_once`: results of contiguous outputs leave without a block.
    """
    module = Module(target, plan.algorithm)
    lanes, real = target.lanes(plan.dtype), REAL[plan.dtype]
    size, width = SIZE[element(plan.dtype)], plan.vectors * lanes * sweeps
    result = SIZE[real] if plan.blocked else size
    emit_weights(module, plan.dtype, plan.vectors)
    parts = {"slots": emit_slots(module), "taps": emit_taps(module, size, plan.packed)}
    if not emit_sweep:
        parts["rows"] = emit_rows(module, plan.pixels, size, plan.packed)
        parts["places"] = emit_places(module, plan.pixels, result, width if plan.blocked else None)
    if plan.packed:
        parts["image"] = emit_image(module, plan.dtype, passes, ends=ends)
    if ends:
        parts["lines"] = in_place.emit_lines(module, plan)
    if plan.blocked and not at_once:
        if emit_output:
            parts["output"] = emit_output(module, width)
        else:
            parts["output"] = emit_channels(module, plan, width)

    def sweep(vectors: int, odd: int) -> Routine:
        if emit_sweep:
            return emit_sweep(module, plan, vectors, odd)
        tile = emit_tile(module, vectors, odd)
        return emit_tile_sweep(module, plan, vectors, tile, per_channel, passes)

    parts["full"] = sweep(plan.vectors, 0)
    if plan.tail:
        parts["last"] = sweep(plan.tail, plan.odd)
    parts["blocks"] = _emit_blocks(module, plan, parts, per_channel, sweeps, passes)
    parts["phases"] = _emit_phases(module, plan, parts, passes)
    emit_entry(module, partial(_emit_work, plan, parts, passes, ends), plan.residual)
    return module


def _emit_work(
    plan: Plan, parts: Parts, passes: bool, ends: bool, f: Function, call: Words, thread: Value
) -> None:
    """All the units that this thread gets hold of."""
    job = Words(call.pointer("job", I64), JOB)
    unit = Words(f.array(I64, len(UNIT)), UNIT)
    piece = Piece(job, unit)
    unit["scratch"] = call["scratch"] + thread * job["thread_bytes"]
    unit["skip"] = call.pointer("weights", I64)[0]
    unit["weights"] = call["weights"] + HEADER
    if not plan.packed:
        f.clear(piece.part("at_zeros", REAL[plan.dtype]), job["groups"] * job["ci"])

    def body(number: Value) -> None:
        _place_unit(f, plan, call, job, unit, number)
        inside = _measure(f, job, unit)
        if ends:
            in_place.measure(f, plan, job, unit)
        if plan.packed:
            _list_slots(f, parts, piece, ends)
        else:
            with f.when(inside.equals(0)):  # else all tiles are even and read no slots
                _list_slots(f, parts, piece)
        if passes:
            _emit_passes(plan, parts, f, piece)
            return
        if plan.packed:
            f.call(parts["image"], [job.base, unit.base])
        f.call(parts["phases"], [job.base, unit.base])

    emit_units(f, call, thread, job["units"], body)


def _emit_passes(plan: Plan, parts: Parts, f: Function, piece: Piece) -> None:
    """A unit, some channels after the others."""
    job, unit = piece.job, piece.unit
    with f.loop(job["passes"]) as number:
        unit["from"] = number * job["share"]
        unit["some"] = f.least(job["share"], job["ci"] - unit["from"])
        unit["begun"], unit["ends"] = f.least(number, 1), 0
        with f.when(number.equals(job["passes"] - 1)):
            unit["ends"] = 1
        if plan.packed:
            with f.when(job["sliced"].differs(0) | number.equals(0)):
                f.call(parts["image"], [job.base, unit.base])
        f.call(parts["phases"], [job.base, unit.base])


def _place_unit(
    f: Function, plan: Plan, call: Words, job: Words, unit: Words, number: Value
) -> None:
    """Unit number -> chunk of output channels, image and box; chunks vary slowest: where there are
    several, weights are more than a core's caches hold, and each thread should see part of them.
    """
    each = f.most(job["units"] // job["chunks"], 1)
    chunk, rest = number // each, number % each
    for axis in reversed(AXES):
        unit["j", axis] = rest % job["boxes", axis] * job["box", axis]
        rest = rest // job["boxes", axis]
    size = SIZE[element(plan.dtype)]
    unit["x"] = call["x"] + rest * job["x_batch"] * size
    unit["y"] = call["y"] + rest * job["y_batch"] * size
    if plan.residual:
        unit["residual"] = call["residual"]
    unit["block0"] = chunk * job["chunk_blocks"]
    every = job["blocks"] + f.least(job["tail"], 1)
    unit["block1"] = f.least(unit["block0"] + job["chunk_blocks"], every)


def _measure(f: Function, job: Words, unit: Words) -> Value:
    """Set the unit's first raw sources and numbers of slots; whether all sources are pixels."""
    inside = f.integer(1)
    for axis in AXES:
        raw = unit["j", axis] * job["jump", axis] + job["least", axis]
        more = f.least(job["box", axis], job["count", axis] - unit["j", axis]) - 1
        unit["raw", axis] = raw
        unit["slots", axis] = more * job["ahead", axis] + job["first_slots", axis]
        last = raw + more * job["jump", axis] + job["span", axis]
        inside = f.select((raw >= 0) & (last < job["size", axis]), inside, 0)
    return inside


def _list_slots(f: Function, parts: Parts, piece: Piece, ends: bool = False) -> None:
    """Where the sources of the unit's slots lie, axis by axis; nobody asks for those of a row of an
    image that is read where it lies.
    """
    job, unit = piece.job, piece.unit
    for axis in AXES:
        table, raws = piece.part(("at_slots", axis), I64), job.base + job["at_raws", axis]
        seen = unit["raw", axis], unit["slots", axis]
        shape = job["size", axis], job["x_stride", axis], job["mode"]
        with f.when(job["lies"].equals(0)) if ends and axis == 2 else nullcontext():
            f.call(parts["slots"], [table, raws, *seen, *shape])


def _emit_phases(module: Module, plan: Plan, parts: Parts, passes: bool) -> Routine:
    """phases(job, unit): every phase of the outputs in the unit's box. There is one where there are
    several `passes`, and its tables are those of the first.
    """
    with part_function(module, "phases", writes=True, cold=True) as (f, piece, _):
        job, unit = piece.job, piece.unit
        with (
            f.loop(job["phases", 0]) as a,
            f.loop(job["phases", 1]) as b,
            f.loop(job["phases", 2]) as c,
        ):
            for axis, phase in zip(AXES, (a, b, c), strict=True):
                unit["phase", axis] = job["at_phases", axis] + phase * len(PHASE)
                record = piece.phase(axis)
                unit["first", axis] = record["first"]
                rest = f.least(job["box", axis], record["outputs"] - unit["j", axis])
                unit["length", axis] = f.most(rest, f.integer(0))
            unit["pixels"] = unit["length", 0] * unit["length", 1] * unit["length", 2]
            unit["tiles"] = (unit["pixels"] + (plan.pixels - 1)) // plan.pixels
            tables = [parts[part] for part in ("taps", "rows", "lines", "places") if part in parts]
            with f.when(unit["pixels"] > 0):
                with f.when(unit["begun"].equals(0)) if passes else nullcontext():
                    for table in tables:
                        f.call(table, [job.base, unit.base])
                f.call(parts["blocks"], [job.base, unit.base])
        return f.fn


def _apart(job: Words) -> Value:
    """Whether no two outputs read the same pixel."""
    first, *others = (job["span", axis] < job["jump", axis] for axis in AXES)
    for other in others:
        first = first & other
    return first


def _emit_blocks(
    module: Module, plan: Plan, parts: Parts, per_channel: bool, sweeps: int, passes: bool
) -> Routine:
    """blocks(job, unit): every group and block of output channels over the unit's tiles."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    wide = plan.vectors * lanes
    with part_function(module, "blocks", cold=True) as (f, piece, _):
        job, unit = piece.job, piece.unit
        padded = job["blocks"] * (wide * sweeps) + job["tail"] * lanes
        reduction = job["reduction"]
        weights = unit.pointer("weights", real)
        biases = weights + job["groups"] * padded * reduction
        once = unit["taps"].equals(1) | _apart(job)
        with f.loop(job["groups"]) as g, f.loop(unit["block1"], start=unit["block0"]) as block:
            k = block * (wide * sweeps)
            channel, valid = g * job["co"] + k, job["co"] - k
            first = k if per_channel else g * job["ci"]
            if passes:
                first = first + unit["from"] * ((1 - job["sliced"]) if plan.packed else 1)
            with f.loop(sweeps) as sweep:
                column, aside = g * padded + k + sweep * wide, sweep * wide
                block_weights, bias = weights + column * reduction, biases + column
                to = aside if "output" in parts else channel
                new = once & block.equals(unit["block0"]) & (not per_channel)
                places = first, to, f.extend(new, I64)
                arguments = [job.base, unit.base, block_weights, bias, *places]
                if passes:
                    number = g * (unit["block1"] - unit["block0"]) + (block - unit["block0"])
                    sums = number * unit["tiles"] * (plan.pixels * wide)
                    arguments.append(piece.part("at_sums", real) + sums)
                if not plan.tail:
                    f.call(parts["full"], arguments)
                else:
                    with f.choose(block < job["blocks"]) as (full, last):
                        with full:
                            f.call(parts["full"], arguments)
                        with last:
                            f.call(parts["last"], arguments)
            if "output" in parts:
                valid = f.least(valid, wide * sweeps)
                results = [job.base, unit.base, channel, valid]
                if passes:
                    with f.when(unit["ends"].differs(0)):
                        f.call(parts["output"], results)
                else:
                    f.call(parts["output"], results)
        return f.fn
