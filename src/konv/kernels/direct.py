"""Direct convolution: every kind, any stride, dilation, groups, padding and mode, 1 to 3 dimensions.

    for unit in units, taken by threads one after the other:      a box of output pixels, some output channels
        tables of the unit's sources                              konv.kernels.tables
        contiguous input: pack the box, channels last             konv.kernels.packing
        for phase of the outputs:                                 one, or `up` per axis when transposed
            for group, block of output channels:                  one block's weights stay in the second-level cache
                for tile of pixels:                               konv.kernels.microtile
                contiguous output: transpose the block out

Output channels stand in the lanes, so weights are packed and inputs are broadcast one number at a time: stride,
dilation and phases are then only addresses. Lanes are wasted where a group has fewer output channels than
a vector; kernels for such layers stand before this one in ALGORITHMS.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from llvmlite import ir

from konv.geometry import Conv
from konv.kernels.microtile import emit_tile
from konv.kernels.packing import HEADER, emit_image, emit_output, emit_weights
from konv.kernels.region import emit_entry, emit_units
from konv.kernels.tables import emit_places, emit_rows, emit_slots, emit_taps
from konv.kernels.words import AXES, JOB, PHASE, UNIT, Piece, Words, part_function
from konv.llvm import I64, REAL, SIZE, Function, Module, Value
from konv.plan import Plan
from konv.target import Target

Parts = dict[Any, ir.Function]

name = "direct"
exact = True

# Register tiles, pixels x vectors of output channels, by the number of vector registers; all leave
# registers for the weights and one broadcast.
TILES = {16: ((4, 3), (6, 2), (8, 1)), 32: ((6, 4), (8, 3), (10, 2), (10, 1))}


def why_not(conv: Conv, target: Target) -> str | None:
    """Never: what nothing else takes is computed here."""
    return None


def plans(conv: Conv, target: Target, packed: bool, blocked: bool) -> tuple[Plan, ...]:
    """One plan for each register tile, cheapest first by `cost`."""
    vectors = -(-(conv.co // conv.groups) // target.lanes(conv.dtype))
    tiles = sorted(TILES[target.registers], key=lambda tile: cost(vectors, *tile))
    return tuple(Plan(name, conv.dtype, mr, nr, vectors % nr, packed, blocked) for mr, nr in tiles)


def cost(vectors: int, mr: int, nr: int) -> float:
    """Cycles per pixel, channel and tap for `vectors` vectors of output channels, two loads and two
    multiply-adds a cycle, results 4 cycles late: a block of n vectors takes the longest of the three."""
    full, tail = divmod(vectors, nr)
    widths = [nr] * full + [tail] * (tail > 0)
    return sum(max(mr * n / 2, (mr + n) / 2, 4) for n in widths) / mr


def emit(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run` and `pack`."""
    module = Module(target, name)
    lanes, real = target.lanes(plan.dtype), REAL[plan.dtype]
    size, width = SIZE[real], plan.vectors * lanes
    emit_weights(module, plan.dtype, plan.vectors)
    parts = {
        "slots": emit_slots(module),
        "taps": emit_taps(module),
        "rows": emit_rows(module, plan.pixels, size, plan.packed),
        "places": emit_places(module, plan.pixels, size, width if plan.blocked else None),
    }
    if plan.packed:
        parts["image"] = emit_image(module, real)
    if plan.blocked:
        parts["output"] = emit_output(module, real, width)
    tiles = {nr: emit_tile(module, plan.dtype, plan.pixels, nr, not plan.blocked) for nr in plan.widths}
    sweeps = {nr: _emit_sweep(module, plan, nr, tile) for nr, tile in tiles.items()}
    parts["blocks"] = _emit_blocks(module, plan, sweeps, parts.get("output"))
    parts["phases"] = _emit_phases(module, plan, parts)
    emit_entry(module, partial(_emit_work, plan, parts))
    return module


def _emit_work(plan: Plan, parts: Parts, f: Function, call: Words, thread: Value) -> None:
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
        for axis in AXES:
            raw = unit["j", axis] * job["jump", axis] + job["least", axis]
            width = f.least(job["box", axis], job["count", axis] - unit["j", axis])
            slots = (width - 1) * job["jump", axis] + job["span", axis] + 1
            unit["slots", axis] = slots
            table = piece.part(("at_slots", axis), I64)
            f.call(parts["slots"], [table, raw, slots, job["size", axis], job["x_stride", axis], job["mode"]])
        if plan.packed:
            f.call(parts["image"], [job.base, unit.base])
        f.call(parts["phases"], [job.base, unit.base])

    emit_units(f, call, job["units"], body)


def _place_unit(f: Function, plan: Plan, call: Words, job: Words, unit: Words, number: Value) -> None:
    """Unit number -> image, box and chunk of output channels; chunks vary fastest, images slowest."""
    chunk, rest = number % job["chunks"], number // job["chunks"]
    for axis in reversed(AXES):
        unit["j", axis] = rest % job["boxes", axis] * job["box", axis]
        rest = rest // job["boxes", axis]
    size = SIZE[REAL[plan.dtype]]
    unit["x"] = call["x"] + rest * job["x_batch"] * size
    unit["y"] = call["y"] + rest * job["y_batch"] * size
    unit["block0"] = chunk * job["chunk_blocks"]
    every = job["blocks"] + f.least(job["tail"], 1)
    unit["block1"] = f.least(unit["block0"] + job["chunk_blocks"], every)


def _emit_phases(module: Module, plan: Plan, parts: Parts) -> ir.Function:
    """phases(job, unit): every phase of the outputs in the unit's box."""
    with part_function(module, "phases", writes=True) as (f, piece, _):
        job, unit = piece.job, piece.unit
        with f.loop(job["phases", 0]) as a, f.loop(job["phases", 1]) as b, f.loop(job["phases", 2]) as c:
            for axis, phase in zip(AXES, (a, b, c), strict=True):
                unit["phase", axis] = job["at_phases", axis] + phase * len(PHASE)
                record = piece.phase(axis)
                unit["first", axis] = record["first"]
                rest = f.least(job["box", axis], record["outputs"] - unit["j", axis])
                unit["length", axis] = f.most(rest, f.int(0))
            unit["pixels"] = unit["length", 0] * unit["length", 1] * unit["length", 2]
            unit["tiles"] = (unit["pixels"] + (plan.pixels - 1)) // plan.pixels
            with f.when(unit["pixels"] > 0):
                for part in ("taps", "rows", "places", "blocks"):
                    f.call(parts[part], [job.base, unit.base])
        return f.fn


def _emit_blocks(module: Module, plan: Plan, sweeps: Parts, output: ir.Function | None) -> ir.Function:
    """blocks(job, unit): every group and block of output channels over the unit's tiles."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    with part_function(module, "blocks") as (f, piece, _):
        job, unit = piece.job, piece.unit
        padded = (job["blocks"] * plan.vectors + job["tail"]) * lanes
        reduction = job["taps"] * job["ci"]
        weights = unit.pointer("weights", real)
        biases = weights + job["groups"] * padded * reduction
        with f.loop(job["groups"]) as g, f.loop(unit["block1"], start=unit["block0"]) as block:
            k = block * (plan.vectors * lanes)
            block_weights, bias = weights + (g * padded + k) * reduction, biases + (g * padded + k)
            channel, valid = g * job["co"] + k, job["co"] - k
            to = f.int(0) if plan.blocked else channel
            arguments = [job.base, unit.base, block_weights, bias, g * job["ci"], to, valid]
            full = block < job["blocks"]
            for nr, sweep in sweeps.items():
                with f.when(full if nr == plan.vectors else full.equals(0)):
                    f.call(sweep, arguments)
            if output is not None:
                valid = f.least(valid, plan.vectors * lanes)
                f.call(output, [job.base, unit.base, channel, valid])
        return f.fn


def _emit_sweep(module: Module, plan: Plan, nr: int, tile: ir.Function) -> ir.Function:
    """sweep(job, unit, weights, bias, first, to, valid): one block of nr vectors over the unit's tiles."""
    mr, lanes = plan.pixels, module.target.lanes(plan.dtype)
    labels = ("weights", "bias", "first", "to", "valid")
    with part_function(module, f"sweep_{nr}", labels) as (f, piece, (weights, bias, first, to, valid)):
        job, unit = piece.job, piece.unit
        row, counts = piece.part("at_rows", I64), piece.part("at_counts", I64)
        places, stride = piece.part("at_places", I64), job["ci"] * (nr * lanes)
        weights, bias = weights.to_pointer(REAL[plan.dtype]), bias.to_pointer(REAL[plan.dtype])
        with f.loop(unit["tiles"]) as t:
            arguments = [
                row + t * unit["taps"] * (mr + 1), counts[t], weights, stride, bias, first, job["ci"],
                places + t * mr, to, valid,
            ]  # fmt: skip
            f.call(tile, arguments)
        return f.fn
