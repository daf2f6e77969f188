"""The loops of Winograd's convolution around its three steps.

for unit in units, taken by threads one after the other:   a box of tiles, a group, some blocks
                                                           of its output channels
    for plane that the box reads, unless of the unit before:   of a volume; else an image
        tables                                                       konv.kernels.winograd.tables
        for vector of the group's channels: the packed image, V
    for block of output channels:
        for point: for tap across planes: for register tile of tiles: product    V, U -> M
        for tile: transform out                                                  M -> y

The taps across planes are more channels to sum over: tiles of one plane after the other follow each
other in V, so the tap of the next plane is as many places further on for all tiles of M.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from konv.kernels.pack import HEADER
from konv.kernels.packing import emit_image
from konv.kernels.region import emit_entry, emit_units
from konv.kernels.winograd.outputs import emit_outputs
from konv.kernels.winograd.parts import emit_inputs
from konv.kernels.winograd.records import TILES_JOB, TILES_UNIT, tiles_function
from konv.kernels.winograd.sweeps import Ends, emit_block
from konv.kernels.winograd.tables import emit_axes, emit_tables
from konv.kernels.winograd.transforms import Pair
from konv.kernels.winograd.weights import emit_weights
from konv.kernels.words import AXES, Piece, Words
from konv.llvm import F32, I64, Function, Module, Routine, Value
from konv.plan import Plan
from konv.target import Target

EmitWeights = Callable[[Module, Pair, int, int], None]


def emit_kernel(
    plan: Plan,
    target: Target,
    transforms: Pair,
    weights: EmitWeights = emit_weights,
    ends: Ends | None = None,
) -> Module:
    """The module of a plan: `run` and `pack`, which `weights` adds."""
    module = Module(target, plan.algorithm)
    weights(module, transforms, plan.vectors, plan.tail)
    axes = emit_axes(module, transforms)
    tables = emit_tables(module, plan, transforms, ends is not None)
    planes = _emit_planes(module, plan, tables, _emit_v(module, plan, transforms))
    outputs = emit_outputs(module, plan, transforms, ends is not None)
    edge = ends.edge(module) if ends else None
    blocks = [
        emit_block(module, plan, transforms, nr, (outputs, edge), ends)
        for nr in ([plan.vectors, plan.tail] if plan.tail else [plan.vectors])
    ]
    unit = _emit_unit(module, plan, transforms, axes, planes, blocks)
    emit_entry(module, partial(_emit_work, plan, unit), plan.residual)
    return module


def _emit_work(plan: Plan, each: Routine, f: Function, call: Words, thread: Value) -> None:
    """All the units that this thread gets hold of."""
    job = Words(call.pointer("job", I64), TILES_JOB)
    unit = Words(f.array(I64, len(TILES_UNIT)), TILES_UNIT)
    unit["scratch"] = call["scratch"] + thread * job["thread_bytes"]
    unit["weights"] = call["weights"] + HEADER
    unit["place"] = -1
    unit["residual"] = call["residual"] if plan.residual else 0
    if not plan.packed:
        f.clear(Piece(job, unit).part("at_zeros", F32), job["groups"] * job["ci"])

    def body(number: Value) -> None:
        f.call(each, [job.base, unit.base, number, call["x"], call["y"]])

    emit_units(f, call, thread, job["units"], body)


def _emit_unit(
    module: Module,
    plan: Plan,
    transforms: Pair,
    axes: Routine,
    planes: Routine,
    blocks: list[Routine],
) -> Routine:
    """unit(job, unit, number, x, y): chunks of output channels vary fastest, images slowest."""
    lanes = module.target.lanes(plan.dtype)
    points = transforms[0].n * transforms[1].n
    labels = ("number", "x", "y")
    with tiles_function(module, "unit", labels, writes=True, cold=True) as (f, piece, args):
        number, x, y = args
        job, unit = piece.job, piece.unit
        chunk, rest = number % job["chunks"], number // job["chunks"]
        g, place = rest % job["groups"], rest // job["groups"]
        new = unit["place"].differs(place)
        with f.when(new):
            unit["place"], unit["group"] = place, -1
            rest = place
            for axis in reversed(AXES):
                line = rest % job["boxes", axis] * job["box", axis]
                unit["line", axis] = line
                unit["lines", axis] = f.least(job["box", axis], job["count", axis] - line)
                rest = rest // job["boxes", axis]
            f.call(axes, [job.base, unit.base])
        with f.when(unit["group"].differs(g)):
            unit["group"] = g
            image = place // (job["boxes", 0] * job["boxes", 1] * job["boxes", 2])
            y, first = y + image * job["y_batch"] * 4, x + image * job["x_batch"] * 4
            if plan.packed:
                first = first + g * (job["ci"] * job["x_channel"] * 4)
            unit["x"] = first
            f.call(planes, [job.base, unit.base, y, f.extend(new, I64)])
        # Of a half, which may be all: blocks, and the vectors that they have.
        some = job["blocks"] + job["tail"]
        half = job["blocks"] * plan.vectors + job["tail"] * plan.tail
        padded = job["every"] // some * half * lanes
        each = job["ci"] * (job["span", 0] + 1) * points
        weights = unit.pointer("weights", F32)
        biases = weights + job["groups"] * padded * each + g * padded
        begin = chunk * job["chunk_blocks"]
        end = f.least(begin + job["chunk_blocks"], job["every"])
        with f.loop(end, start=begin) as block:
            at = block % some
            narrow = f.most(at - job["blocks"], 0) * (plan.vectors - plan.tail)
            vector = block // some * half + at * plan.vectors - narrow
            u, bias = weights + (g * padded + vector * lanes) * each, biases + vector * lanes
            arguments = [job.base, unit.base, u, bias, vector]
            if len(blocks) == 1:
                f.call(blocks[0], arguments)
            else:
                with f.choose(at < job["blocks"]) as (full, last):
                    with full:
                        f.call(blocks[0], arguments)
                    with last:
                        f.call(blocks[1], arguments)
        return f.fn


def _emit_planes(module: Module, plan: Plan, tables: Routine, v: Routine) -> Routine:
    """planes(job, unit, y, new): V of the unit's group in all planes that the box reads. Tables are
    those of one plane: they serve several groups if there is only this one.

    A packed image has a vector of channels, or the last ones, of which V is made before the next:
    all channels of a box are as many bytes as half of its V, and went through the second-level
    cache, or out of it (contiguous, one thread: 128@28 1.12 times as fast, 128@56 in steps of two
    1.09, 256@56 and 64@224 1.06 to 1.08, Granite Rapids; with AVX2 code 1.05 to 1.1).
    """
    image = emit_image(module, plan.dtype, passes=True) if plan.packed else None
    labels = ("y", "new")
    with tiles_function(module, "planes", labels, writes=True, cold=True) as (f, piece, (y, new)):
        job, unit = piece.job, piece.unit
        slots, sources = piece.part(("at_slots", 0), I64), piece.part("at_planes", I64)
        each, count = unit["lines", 1] * unit["lines", 2], unit["lines", 0] + job["span", 0]
        unit["tiles"] = 0
        with f.loop(count) as plane:
            with f.when(new.differs(0) | (count > 1)):
                slots[0] = sources[plane]
                unit["y"] = y + (unit["line", 0] + plane) * job["y_stride", 0] * 4
                f.call(tables, [job.base, unit.base])
            with f.loop(job["ci"], step=job["held"]) as channel:
                if image is not None:
                    unit["from"] = f.least(channel, job["ci"] - job["held"])
                    f.call(image, [job.base, unit.base])
                f.call(v, [job.base, unit.base, plane * each, channel])
        unit["tiles"] = unit["lines", 0] * each
        return f.fn


def _emit_v(module: Module, plan: Plan, transforms: Pair) -> Routine:
    """v(job, unit, before, channel): V of the box's tiles in the plane at hand, the channels of the
    group that are held from one on; `before`: tiles of other planes.
    """
    lanes = module.target.lanes("float32")
    pixels = transforms[0].inputs * transforms[1].inputs
    inputs = emit_inputs(module, transforms)
    labels = ("before", "channel")
    with tiles_function(module, "v", labels, plain=True) as (f, piece, (before, channel)):
        job, unit = piece.job, piece.unit
        ins, v = piece.part("at_ins", I64), piece.part("at_v", F32)
        first = f.integer(0) if plan.packed else unit["group"] * job["ci"]
        v_vector = job["v_vector"]
        v = v + (before * lanes + channel // lanes * v_vector)
        with f.loop(unit["lines", 1] * unit["lines", 2]) as tile:
            end = job["v_point"], v_vector
            f.call(inputs, [ins + tile * pixels, first, job["held"], v + tile * lanes, *end])
        return f.fn
