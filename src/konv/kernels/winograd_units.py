"""The loops of Winograd's convolution around its three steps.

for unit in units, taken by threads one after the other:   a box of tiles, a group, some blocks
                                                           of its output channels
    for plane that the box reads, unless of the unit before:   of a volume; else an image
        tables                                                       konv.kernels.winograd_tables
        the packed image of the group, V
    for block of output channels:
        for point: for tap across planes: for register tile of tiles: product    V, U -> M
        for tile: transform out                                                  M -> y

The taps across planes are more channels to sum over: tiles of one plane after the other follow each
other in V, so the tap of the next plane is as many places further on for all tiles of M.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from konv.kernels.pack import HEADER
from konv.kernels.packing import emit_image
from konv.kernels.region import emit_entry, emit_units
from konv.kernels.winograd_cut import RESTS
from konv.kernels.winograd_parts import (
    emit_flush,
    emit_inputs,
    emit_outputs,
    emit_product,
    offset,
)
from konv.kernels.winograd_tables import OUTS, emit_axes, emit_tables
from konv.kernels.winograd_transforms import Pair
from konv.kernels.winograd_weights import emit_weights
from konv.kernels.winograd_words import EDGE, TILE_AXES, TILES_JOB, TILES_UNIT, tiles_function
from konv.kernels.words import AXES, Piece, Words
from konv.llvm import F32, I64, Function, Module, Routine, Value
from konv.plan import Plan
from konv.target import Target

EmitWeights = Callable[[Module, Pair, int, int], None]
Out = tuple[Routine, Routine | None]

AHEAD = 2  # vectors of columns: a cache line, or two rows of 8 sub-pixels
DEPTH = 64  # channels of a product; more, and U and V of a point leave the first-level cache


@dataclass(frozen=True)
class Ends:
    """Where results go that do not simply follow a pixel's first: those of cells."""

    place: Callable[[Function, Piece, Value], Value]  # of a vector of channels, from there
    edge: Callable[[Module], Routine]  # edge(job, unit, tile, vector), as konv.kernels.cells_edge


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
    axes, tables = (
        emit_axes(module, transforms),
        emit_tables(module, plan, transforms, ends is not None),
    )
    planes = _emit_planes(module, plan, tables, _emit_v(module, plan, transforms))
    outputs = emit_outputs(module, plan, transforms, ends is not None)
    edge = ends.edge(module) if ends else None
    blocks = [
        _emit_block(module, plan, transforms, nr, (outputs, edge), ends)
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
    those of one plane: they serve several groups if there is only this one. The packed image is the
    group's own: one of all groups was made by each thread, and left the second-level cache
    (contiguous, in 32 groups: 512@14 0.244 to 0.219 ms, 1024@7 0.219 to 0.167, Zen 3).
    """
    image = emit_image(module, plan.dtype, alone=True) if plan.packed else None
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
            if image is not None:
                f.call(image, [job.base, unit.base])
            f.call(v, [job.base, unit.base, plane * each])
        unit["tiles"] = unit["lines", 0] * each
        return f.fn


def _emit_v(module: Module, plan: Plan, transforms: Pair) -> Routine:
    """v(job, unit, before): V of the box's tiles in the plane at hand, all channels of the group;
    `before`: tiles of other planes.
    """
    lanes = module.target.lanes("float32")
    pixels = transforms[0].inputs * transforms[1].inputs
    inputs = emit_inputs(module, transforms)
    with tiles_function(module, "v", ("before",)) as (f, piece, (before,)):
        job, unit = piece.job, piece.unit
        ins, v = piece.part("at_ins", I64), piece.part("at_v", F32)
        first = f.integer(0) if plan.packed else unit["group"] * job["ci"]
        v_vector = job["v_vector"]
        with f.loop(unit["lines", 1] * unit["lines", 2]) as tile:
            place = v + (before + tile) * lanes
            end = job["v_point"], v_vector
            f.call(inputs, [ins + tile * pixels, first, job["ci"], place, *end])
        return f.fn


def _emit_block(
    module: Module, plan: Plan, transforms: Pair, nr: int, out: Out, ends: Ends | None
) -> Routine:
    """block(job, unit, u, bias, vector): one block of output channels over the box's tiles;
    `vector`: its first.
    """
    lanes = module.target.lanes(plan.dtype)
    products = _emit_products(module, plan, transforms, nr)
    labels = ("u", "bias", "vector")
    store = _emit_stores(module, plan, transforms, nr, out)
    with tiles_function(module, f"block_{nr}", labels, cold=True) as (f, piece, args):
        u, bias, vector = args
        job, unit = piece.job, piece.unit
        f.call(products, [job.base, unit.base, u])
        with f.loop(nr) as n:
            arguments = [job.base, unit.base, n, bias + n * (lanes * 4)]
            if ends:
                channel, most = ends.place(f, piece, vector + n), job["co"] // lanes - 1
                coming = ends.place(f, piece, f.least(vector + n + AHEAD, most))
                arguments += [channel, coming - channel, vector + n]
            else:
                first = unit["group"] * job["co"]
                arguments.append(first + offset(f, vector + n, job["co"], lanes))
            f.call(store, arguments)
        return f.fn


def _emit_stores(module: Module, plan: Plan, transforms: Pair, nr: int, out: Out) -> Routine:
    """stores(job, unit, n, bias, channel): vector n of a block, from M to the output; of cells
    `ahead` as konv.kernels.winograd_parts.emit_outputs says, and the vector's number.
    """
    lanes, (outputs, edge) = module.target.lanes(plan.dtype), out
    each = transforms[0].outputs * transforms[1].outputs
    places = each + EDGE * (edge is not None)
    flush = emit_flush(module, plan) if plan.blocked and nr == plan.vectors else None
    flush = flush or (module.routines.get("flush") if plan.blocked else None)
    labels = ("n", "bias", "channel", *(("ahead", "vector") if edge else ()))
    with tiles_function(module, f"stores_{nr}", labels) as (f, piece, (n, bias, channel, *more_of)):
        job, unit, outs = piece.job, piece.unit, piece.part("at_outs", I64)
        m, number = piece.part("at_m", F32) + n * lanes, f.var(0)
        if flush is None:
            with f.loop(unit["tiles"]) as tile:
                at = m + tile * (nr * lanes)
                f.call(
                    outputs,
                    [
                        at, job["m_point"], bias.to_pointer(F32), outs + tile * places, channel,
                        unit["scratch"] + job["at_dump"], unit["residual"], *more_of[:1],
                    ],
                )  # fmt: skip
                if edge:
                    with f.when(outs[tile * places + (places - 1)].differs(0)):
                        f.call(edge, [job.base, unit.base, tile, more_of[1]])
            return f.fn
        down, right = (job["dilation", a] * job["y_stride", a] for a in TILE_AXES)
        stage, plane, y = piece.part("at_stage", F32), job["y_channel"], channel * job["y_channel"]

        def more(last: int) -> list[Value]:
            return [unit["residual"], f.integer(last)] if plan.residual else []

        with f.loop(unit["tiles"] // unit["lines", 2]):
            first = outs + number.get() * OUTS
            with f.loop(unit["lines", 2]):
                tile = number.get()
                record = outs + tile * OUTS
                arguments = [m + tile * (nr * lanes), job["m_point"], bias.to_pointer(F32)]
                with f.choose(job["sparse", 2].equals(0)) as (dense, scattered):
                    with dense:
                        to, width = stage + record[3], unit["width", 2]
                        end = job["stage_plane"], width, job["dilation", 2]
                        f.call(
                            outputs,
                            [*arguments, to, record + 1, *end, *more(0)],
                        )
                    with scattered:
                        to = record.pointer(0, F32) + y
                        end = plane, down, right
                        f.call(
                            outputs,
                            [*arguments, to, record + 1, *end, *more(1)],
                        )
                number.add(1)
            with f.when(job["sparse", 2].equals(0)):
                to, width = first.pointer(0, F32) + y, unit["width", 2]
                apart = job["stage_plane"], plane, first[1], width, down
                f.call(flush, [stage, to, *apart, unit["residual"]])
        return f.fn


def _emit_products(module: Module, plan: Plan, transforms: Pair, nr: int) -> Routine:
    """products(job, unit, u): M of one block, point after point."""
    lanes, mr = module.target.lanes(plan.dtype), plan.pixels
    sizes = (mr, *RESTS.get(mr, ()))
    tiles = [emit_product(module, size, nr) for size in sizes]
    points = transforms[0].n * transforms[1].n
    with tiles_function(module, f"products_{nr}", ("u",)) as (f, piece, (address,)):
        job, unit = piece.job, piece.unit
        u, v, m = address.to_pointer(F32), piece.part("at_v", F32), piece.part("at_m", F32)
        v_vector, ci, taps = job["v_vector"], job["ci"], job["span", 0] + 1
        apart = unit["lines", 1] * unit["lines", 2] * lanes
        with f.loop(points) as point, f.loop(taps) as tap, f.loop(ci, step=DEPTH) as c:
            here = u + ((point * taps + tap) * ci + c) * (nr * lanes)
            channels, more = f.least(ci - c, DEPTH), tap + c
            v_here = v + (point * job["v_point"] + tap * apart + c // lanes * v_vector)
            m_here, panel = m + point * job["m_point"], channels * (nr * lanes)
            at, coming = f.var(0), f.var(0)
            coming.set(panel * 2)
            for size, tile in zip(sizes, tiles, strict=True):
                # The smallest computes places beyond the last tile too, which nobody reads.
                least = size if size != sizes[-1] else 1
                with f.loop((unit["tiles"] - at.get() + (size - least)) // size):
                    where = v_here + at.get() * lanes, m_here + at.get() * (nr * lanes)
                    ahead = here + coming.get()
                    f.call(tile, [where[0], v_vector, here, channels, where[1], ahead, more])
                    at.add(size)
                    # No further than that panel: of many tiles most have nothing to ask for.
                    coming.set(f.least(coming.get() + (panel >> 2), panel * 3 - (panel >> 2)))
        return f.fn
