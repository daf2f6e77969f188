"""Weight gradients of depthwise layers between contiguous arrays: outputs of a row in the lanes.

    for unit in units: some channels of one part
        for box in boxes of the part:
            for channel, image, depth, kernel plane:
                for band of rows of outputs:
                    for some rows of the kernel:           konv.kernels.gradient.rows.tile
                        sums of their taps, in registers over the band
        each vector of sums is added up, and leaves

x and dy are read where they lie, by whole vectors: nothing is copied. Vectors at the ends of a row,
some of whose taps meet padding, are masked; which, and with which masks, is listed once for a box.
A row of x that lies in the padding reads zeros, always the same.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from math import prod

from konv.geometry import Conv
from konv.kernels.gradient import depthwise
from konv.kernels.gradient.depthwise import even, saved, spans
from konv.kernels.gradient.planar.parts import added_up
from konv.kernels.gradient.records import RECORDS
from konv.kernels.gradient.rows.tile import HEAD, Form, emit_pass, entry_words, room, turns
from konv.kernels.gradient.sums import emit_add
from konv.kernels.gradient.units import emit_box_words, emit_frame
from konv.kernels.strips.form import form_of
from konv.kernels.words import Piece, Words, part_function
from konv.llvm import I64, INTEGER, REAL, SIZE, Function, Module, Routine, Value
from konv.plan import Plan
from konv.target import Target

name = "gradient_rows"
exact = True

NOWHERE = -(2**40)  # a row that no kernel row brings back into the image
MOST = 4  # rows of outputs in a tile
POINTERS = 14  # rows of x and dy that a tile reads: each has its address in one of 16 registers
PRODUCTS = 64  # vectors' products in all passes that a kernel consists of: 3 ms of compiling each
# Cycles of a row of outputs and of a call of a pass, beside its vectors; how many times as long a
# masked vector takes.
ROW, PASS, MASKED = 20, 80, 1.5


def why_not(conv: Conv) -> str | None:
    """Only depthwise layers whose rows are read in steps of one or two."""
    if conv.axes[-1].stride > 2:
        return "takes rows in steps of one or two"
    return depthwise.why_not(conv)


def plan(conv: Conv, target: Target, packed: bool, blocked: bool) -> Plan | None:
    """The cheapest tile: rows of outputs, rows of the kernel and taps of each. None where x or dy
    is not contiguous.
    """
    if not (packed and blocked):
        return None
    form = form_of(conv)
    registers = room(target, form[5])
    sizes = {
        (outputs, even(form[1], rows), even(form[2], taps))
        for outputs in range(1, MOST + 1)
        for rows in range(1, form[1] + 1)
        for taps in range(1, form[2] + 1)
        if rows * taps + outputs <= registers
    }
    sizes = {size for size in sizes if size[0] == 1 or _pointers(form, *size) <= POINTERS}
    products = {size: sum(map(prod, _passes(form, *size))) for size in sizes}
    least = min(products.values())
    sizes = {size for size in sizes if products[size] <= max(PRODUCTS, least)}

    def price(size: tuple[int, int, int]) -> float:
        found = Plan(name, conv.dtype, True, True, size[0], 1, form=(*form, *size[1:]))
        return cost(conv, found, target)

    outputs, *rest = min(sorted(sizes), key=price)
    return Plan(name, conv.dtype, True, True, outputs, 1, form=(*form, *rest))


def _pointers(form: tuple[int, ...], outputs: int, rows: int, taps: int) -> int:
    lines = Form(form[:3], form[3:6], form[6:9], rows, taps, outputs, 0).lines(outputs, rows)
    return len(lines) + outputs


def _passes(form: tuple[int, ...], outputs: int, rows: int, taps: int) -> list[tuple[int, ...]]:
    """The kinds of passes: rows of outputs, rows of the kernel, taps of each."""
    across, along = spans(form[1], rows), spans(form[2], taps)
    return [(*size,) for size in product(sorted({outputs, 1}, reverse=True), across, along)]


def cost(conv: Conv, plan: Plan, target: Target) -> float:
    """Cycles of the loop for each output of all groups: two multiply-adds, two loads, two moves of
    lanes a cycle, and three of these together.

    What others take to bring x into their form is saved.
    """
    lanes, last = target.lanes(plan.dtype), conv.axes[-1]
    form = Form.of(plan, lanes)
    high = conv.axes[-2].out if conv.dims > 1 else 1
    inside = max(0, (last.size - 1 - form.reach) // form.ahead + 1)
    inside = min(inside, last.out // lanes)
    vectors = inside + MASKED * (-(-last.out // lanes) - inside)
    cycles = 0.0
    sizes = product(_counts(form.kernel[1], form.rows), _counts(form.kernel[2], form.taps))
    for (rows, row_passes), (taps, tap_passes) in sizes:
        for outputs, tiles in ((plan.pixels, high // plan.pixels), (1, high % plan.pixels)):
            tile = _vector_cost(form, outputs, rows, taps, target) * vectors + ROW * outputs
            cycles += (tile * tiles + PASS) * row_passes * tap_passes
    return conv.co * form.kernel[0] * cycles / (high * last.out) - saved(conv, last=False)


def _counts(count: int, most: int) -> list[tuple[int, int]]:
    """(how many at a time, how often)."""
    return [(size, (end - begin) // size) for size, (begin, end) in spans(count, most).items()]


def _vector_cost(form: Form, outputs: int, rows: int, taps: int, target: Target) -> float:
    """Cycles for a vector of each row of a tile."""
    lines, step = len(form.lines(outputs, rows)), form.stride[2]
    split = 1.67 if target.vector_bytes == 64 else 1.33  # loads that straddle cache lines
    adds = outputs * rows * taps
    moves = lines * taps + outputs if step == 2 else 0
    loads = split * lines * step * sum(not odd for _, odd in form.sources(taps)) + outputs
    chains = 4 * outputs / turns(outputs, rows * taps, room(target, step))
    return max(adds / 2, moves / 2, (adds + moves) / 3, loads / 2, chains) + 1


def emit(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run`."""
    module = Module(target, plan.algorithm)
    parts = {"leave": _emit_leave(module, plan), "add": emit_add(module, plan)}
    parts["box"] = _emit_box(module, plan, _emit_plane(module, plan))
    emit_frame(module, plan, parts, partial(_emit_unit, plan))
    return module


def _emit_unit(plan: Plan, f: Function, job: Words, unit: Words, number: Value) -> Value:
    """Which part, which channels; clears their sums. Returns the part."""
    lanes, real = f.module.target.lanes(plan.dtype), REAL[plan.dtype]
    part, chunk = number // job["ranges_co"], number % job["ranges_co"]
    unit["group"] = chunk * job["lines_each"]
    unit["groups"] = f.least(job["lines_each"], job["groups"] - unit["group"])
    piece = Piece(job, unit)
    f.clear(piece.part("at_sums", real), unit["groups"] * job["taps"] * lanes)
    f.clear(piece.part("at_zeros", real), job["size", 2])
    return part


def _emit_box(module: Module, plan: Plan, plane: Routine) -> Routine:
    """box(job, unit, x, dy, number): add the products of one box to the unit's sums."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    form, size = Form.of(plan, lanes), SIZE[REAL[plan.dtype]]
    labels = ("x", "dy", "number")
    with part_function(module, "box", labels, writes=True, cold=True, records=RECORDS) as (
        f,
        piece,
        args,
    ):
        job, unit = piece.job, piece.unit
        emit_box_words(f, plan, piece, None, args)
        _list_beside(f, piece, form, plan)
        taps = form.kernel[1] * form.kernel[2] * lanes * size
        with f.loop(unit["groups"]) as g, f.loop(unit["images"]) as image:
            channel = unit["group"] + g
            x = unit["x"] + (image * job["x_batch"] + channel * job["x_channel"]) * size
            dy = unit["y"] + (image * job["y_batch"] + channel * job["y_channel"]) * size
            own = piece.part("at_sums", real) + g * job["taps"] * lanes
            with f.loop(unit["length", 0]) as d, f.loop(form.kernel[0]) as kd:
                deep = unit["raw", 0] + d * form.stride[0] + kd * form.dilation[0]
                there = f.below_unsigned(deep, job["size", 0])
                source = x + deep * job["x_stride", 0] * size
                high = f.select(there, unit["raw", 1], NOWHERE)
                gradient, sums = dy + d * job["y_stride", 0] * size, own.address() + kd * taps
                f.call(plane, [job.base, unit.base, source, high, gradient, sums])
        return f.fn


def _list_beside(f: Function, piece: Piece, form: Form, plan: Plan) -> None:
    """Tell vectors of outputs that only read pixels from those beside them, and write down for each
    of these what it may load (konv.kernels.gradient.rows.tile.entry_words).
    """
    job, unit, lanes, ahead = piece.job, piece.unit, form.lanes, form.ahead
    integer = INTEGER[REAL[plan.dtype]]
    raw, length = unit["raw", 2], unit["length", 2]
    vectors = (length + (lanes - 1)) // lanes
    first = f.least((f.most(0 - raw, 0) + (ahead - 1)) // ahead, vectors)
    room = job["size", 2] - raw - (form.reach + 1)
    end = f.select(room < 0, f.integer(0), f.most(room, 0) // ahead + 1)
    end = f.most(f.least(end, length // lanes), first)
    unit["inner0"], unit["inner1"] = first * lanes, end * lanes
    unit["beside"] = vectors - (end - first)
    words = entry_words(form, SIZE[integer])
    with f.loop(unit["beside"]) as number:
        i = f.select(number < first, number, number + (end - first)) * lanes
        entry = piece.part("at_beside", I64) + number * words
        entry[0] = i
        masks = (entry + HEAD).cast(integer)

        def put(at: Value | int, begin: Value | int, stop: Value) -> None:
            mask = f.between(lanes, begin, stop)
            minus, none = (f.constant(masks.vector(0, lanes).type, n) for n in (-1, 0))
            masks.put(at, f.select(mask, minus, none))

        put(0, 0, length - i)
        with f.loop(form.kernel[2]) as tap, f.loop(form.stride[2]) as n:
            column = raw + i * form.stride[2] + tap * form.dilation[2] + n * lanes
            outputs = (length - i) * form.stride[2] - n * lanes
            at = (tap * form.stride[2] + n + 1) * lanes
            put(at, 0 - column, f.least(job["size", 2] - column, outputs))


def _emit_plane(module: Module, plan: Plan) -> Routine:
    """plane(job, unit, x, raw, dy, sums): the rows of outputs of one channel, image and depth
    with one plane of the kernel, band by band.
    """
    form = Form.of(plan, module.target.lanes(plan.dtype))
    across, along = spans(form.kernel[1], form.rows), spans(form.kernel[2], form.taps)
    sizes = _passes(plan.form, plan.pixels, form.rows, form.taps)
    passes = {size: emit_pass(module, plan, *size) for size in sizes}
    labels = ("x", "raw", "dy", "sums")
    with part_function(module, "plane", labels, cold=True, records=RECORDS) as (f, piece, args):
        (x, raw, dy, sums), job, unit = args, piece.job, piece.unit
        length, band = unit["length", 1], job["segment"]
        with f.loop(length, step=band) as begin:
            end = f.least(begin + band, length)
            tiled = begin + (end - begin) // plan.pixels * plan.pixels
            for (outputs, rows, width), routine in passes.items():
                (row0, row1), (tap0, tap1) = across[rows], along[width]
                tiles = plan.pixels == outputs
                first, last = (begin, tiled) if tiles else (tiled, end)
                with (
                    f.when(first < last),
                    f.loop(row1, start=row0, step=rows) as row,
                    f.loop(tap1, start=tap0, step=width) as tap,
                ):
                    arguments = [row, tap, x, raw, dy, sums, first, last]
                    f.call(routine, [job.base, unit.base, *arguments])
        return f.fn


def _emit_leave(module: Module, plan: Plan) -> Routine:
    """leave(job, unit, to): vectors of sums, each added up, into a weight that begins at `to`; one
    of a single channel in and out lies the same way in either layout.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    with part_function(module, "leave", ("to",), records=RECORDS) as (f, piece, args):
        job, unit = piece.job, piece.unit
        out = args[0].to_pointer(real) + unit["group"] * job["taps"]
        sums = piece.part("at_sums", real)
        with f.loop(unit["groups"] * job["taps"]) as number:
            out[number] = added_up(f, sums.vector(number * lanes, lanes))
        return f.fn
