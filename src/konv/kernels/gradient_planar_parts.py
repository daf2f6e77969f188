"""What a box of a planar weight gradient needs, and how its sums leave.

    strip   [channel][image][slot d][slot h][phase][slot w]   rows filled up with zeros
    panel   [output channel][image][d][h][w]                  dy, rows filled up with zeros
    places  [vector of outputs]                               where its first tap reads in a channel
    sums    [group][tile][row][output channel][lane]

Slot w of a row is dealt out to phase w % stride, place w // stride.
"""

from __future__ import annotations

from konv.kernels.gradient_words import RECORDS
from konv.kernels.stored import HALVES, element, read
from konv.kernels.words import AXES, Piece, part_function
from konv.llvm import I64, REAL, SIZE, Function, Module, Pointer, Routine, Value
from konv.plan import Plan


def emit_places(module: Module, lanes: int) -> Routine:
    """places(job, unit): for each vector of outputs; sets the unit's `across` and `pixels` (which
    counts vectors here).
    """
    with part_function(module, "places", writes=True, records=RECORDS) as (f, piece, _):
        job, unit, at = piece.job, piece.unit, f.var(0)
        places = piece.part("at_pixels", I64)
        across = (unit["length", 2] + (lanes - 1)) // lanes
        unit["across"] = across * lanes
        with (
            f.loop(unit["images"]) as image,
            f.loop(unit["length", 0]) as d,
            f.loop(unit["length", 1]) as h,
        ):
            line = d * job["ahead", 0] * job["face"] + h * job["ahead", 1] * job["pitch"]
            line = line + image * job["volume"]
            with f.loop(across) as v:
                places[at.get() + v] = line + v * lanes
            at.add(across)
        unit["pixels"] = at.get()
        return f.fn


def emit_strip(module: Module, plan: Plan, turn: Routine) -> Routine:
    """strip(job, unit): the unit's channels under the box at hand."""
    real, size = REAL[plan.dtype], SIZE[element(plan.dtype)]
    row = _emit_row(module, plan) if plan.packed else _emit_turned_row(module, plan, turn)
    with part_function(module, "strip", records=RECORDS) as (f, piece, _):
        job, unit = piece.job, piece.unit
        tables = [piece.part(("at_slots", axis), I64) for axis in AXES]
        strip = piece.part("at_strip", real)
        first = unit["group"] * job["ci"] * job["x_channel"]
        with (
            f.loop(unit["images"]) as image,
            f.loop(unit["slots", 0]) as d,
            f.loop(unit["slots", 1]) as h,
        ):
            deep, high = tables[0][d], tables[1][h]
            to = strip + (image * job["volume"] + d * job["face"] + h * job["pitch"])
            source = unit["x"] + (deep + high + image * job["x_batch"] + first) * size
            with f.choose((deep | high) < 0) as (zeros, pixels):
                with zeros, f.loop(unit["channels"]) as c:
                    f.clear(to + c * job["plane"], job["pitch"])
                with pixels:
                    f.call(row, [job.base, unit.base, source, to])
        return f.fn


def _phase(f: Function, piece: Piece, p: Value) -> tuple[Value, Value]:
    """The places of a phase that lie in the image: from, to."""
    job, raw, width = piece.job, piece.unit["raw", 2], piece.unit["slots", 2]
    stride, begin = job["jump", 2], f.least(f.most(0 - raw, 0), width)
    end = f.most(f.least(job["size", 2] - raw, width), begin)
    # Both are counted in slots; the first place at or behind them, never below 0.
    first, last = ((f.most(at - p, 0) + (stride - 1)) // stride for at in (begin, end))
    return first, last


def _emit_row(module: Module, plan: Plan) -> Routine:
    """row(job, unit, source, to): a row of a contiguous image, every channel; in steps of 1 and 2
    by vectors.
    """
    lanes, real = module.target.lanes(plan.dtype), REAL[plan.dtype]
    vectors = 2 if plan.form[0] else 1
    with part_function(module, "row", ("source", "to"), records=RECORDS) as (f, piece, args):
        source, to = args[0].to_pointer(element(plan.dtype)), args[1].to_pointer(real)
        job, unit = piece.job, piece.unit
        raw, stride = unit["raw", 2], job["jump", 2]
        by_vectors = stride <= vectors
        with f.loop(unit["channels"]) as c:
            line, out = source + c * job["x_channel"] + raw, to + c * job["plane"]
            if plan.dtype in HALVES:  # few machines mask those
                _read_row(f, plan, piece, line, out)
            else:
                with f.choose(by_vectors) as (quick, slow):
                    with quick:
                        _copy_row(f, piece, line, out, vectors, lanes)
                    with slow:
                        _read_row(f, plan, piece, line, out)
        return f.fn


def _read_row(f: Function, plan: Plan, piece: Piece, line: Pointer, out: Pointer) -> None:
    """A row number by number."""
    stride, half = piece.job["jump", 2], piece.job["half"]
    with f.loop(stride) as p:
        first, last = _phase(f, piece, p)
        f.clear(out + p * half, half)
        with f.loop(last, start=first) as q:
            out[p * half + q] = read(f, plan.dtype, line + (q * stride + p))


def _copy_row(
    f: Function, piece: Piece, line: Pointer, out: Pointer, vectors: int, lanes: int
) -> None:
    """A row in vectors, in steps of 2 dealt out by pairs of them; masked where not all lanes lie in
    the image.
    """
    job, raw, width = piece.job, piece.unit["raw", 2], piece.unit["slots", 2]
    begin, end = f.most(0 - raw, 0), f.least(job["size", 2] - raw, width)
    with f.loop(job["half"], step=lanes) as q:
        at = q * vectors
        loaded = [f.var_of(f.zero(out.element, lanes)) for _ in range(vectors)]
        with f.choose((at >= begin) & (at + vectors * lanes <= end)) as (plain, edge):
            with plain:
                for v, variable in enumerate(loaded):
                    variable.set(line.vector(at + v * lanes, lanes))
            with edge:
                for v, variable in enumerate(loaded):
                    first = at + v * lanes
                    mask = f.between(lanes, begin - first, end - first)
                    variable.set(f.load_masked(line + first, mask))
        if vectors == 1:
            out.put(q, loaded[0].get())
        else:
            both = [variable.get() for variable in loaded]
            for p in range(2):
                dealt = f.shuffle(both[0], both[1], range(p, 2 * lanes, 2))
                out.put(q + p * job["half"], dealt)


def _emit_turned_row(module: Module, plan: Plan, turn: Routine) -> Routine:
    """row(job, unit, source, to): a row of a channels-last image, every channel."""
    real = REAL[plan.dtype]
    with part_function(module, "row", ("source", "to"), records=RECORDS) as (f, piece, args):
        source, to = args[0].to_pointer(element(plan.dtype)), args[1].to_pointer(real)
        job, unit = piece.job, piece.unit
        raw, stride, half = unit["raw", 2], job["jump", 2], job["half"]
        step = job["x_stride", 2]
        with f.loop(stride) as p:
            first, last = _phase(f, piece, p)
            out = to + p * half
            with f.loop(unit["channels"]) as c:
                line = out + c * job["plane"]
                with f.loop(first) as q:
                    line[q] = 0.0
                with f.loop(half, start=last) as q:
                    line[q] = 0.0
            begin = source + (raw + first * stride + p) * step
            count = f.most(last - first, 0)
            arguments = [begin, step * stride, out + first, job["plane"], count, unit["channels"]]
            f.call(turn, arguments)
        return f.fn


def emit_panel(module: Module, plan: Plan, turn: Routine) -> Routine:
    """panel(job, unit): dy of the box at hand, the unit's output channels."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    size = SIZE[element(plan.dtype)]
    with part_function(module, "panel", records=RECORDS) as (f, piece, _):
        job, unit, at = piece.job, piece.unit, f.var(0)
        panel, channels = piece.part("at_panel", real), unit["groups"] * job["co"]
        first, length = unit["group"] * job["co"] * job["y_channel"], unit["length", 2]
        across, whole = unit["across"], unit["length", 2] & -lanes
        with (
            f.loop(unit["images"]) as image,
            f.loop(unit["length", 0]) as d,
            f.loop(unit["length", 1]) as h,
        ):
            place = first + image * job["y_batch"] + d * job["y_stride", 0]
            place = place + h * job["y_stride", 1]
            source = (unit["y"] + place * size).to_pointer(element(plan.dtype))
            to = panel + at.get()
            at.add(across)
            if plan.blocked:
                with f.loop(channels) as c:
                    line, out = source + c * job["y_channel"], to + c * job["panel"]
                    with f.loop(whole, step=lanes) as q:
                        out.put(q, read(f, plan.dtype, line + q, lanes))
                    with f.when(whole < length):
                        if plan.dtype in HALVES:
                            out.put(whole, f.zero(real, lanes))
                            with f.loop(length, start=whole) as q:
                                out[q] = read(f, plan.dtype, line + q)
                        else:
                            mask = f.below(length - whole, lanes)
                            out.put(whole, f.load_masked(line + whole, mask))
            else:
                with f.when(whole < length), f.loop(channels) as c:
                    (to + c * job["panel"]).put(whole, f.zero(real, lanes))
                step = job["y_stride", 2]
                f.call(turn, [source, step, to, job["panel"], length, channels])
        return f.fn


def emit_leave(module: Module, plan: Plan) -> Routine:
    """leave(job, unit, to): vectors of sums, each added up, into a weight that begins at `to`."""
    real, lanes, mr, nc = (
        REAL[plan.dtype], module.target.lanes(plan.dtype), plan.pixels, plan.vectors,
    )  # fmt: skip
    with part_function(module, "leave", ("to",), records=RECORDS) as (f, piece, args):
        job, unit, weight = piece.job, piece.unit, args[0].to_pointer(real)
        rows = job["ci"] * job["taps"]
        sums = piece.part("at_sums", real)
        blocks = (job["co"] + (nc - 1)) // nc
        with f.loop(unit["groups"]) as g:
            own = sums + g * job["padded_rows"] * lanes
            out = weight + (unit["group"] + g) * job["co"] * rows
            with f.loop(rows, step=mr) as row, f.loop(job["co"], step=nc) as k:
                tile = own + (row * blocks * nc + k * mr) * lanes
                for m in range(mr):
                    for n in range(nc):
                        with f.when((row + m < rows) & (k + n < job["co"])):
                            vector = tile.vector((m * nc + n) * lanes, lanes)
                            out[(k + n) * rows + row + m] = _added_up(f, vector)
        return f.fn


def _added_up(f: Function, vector: Value) -> Value:
    """The sum of all lanes, halves onto halves."""
    while vector.lanes > 1:
        low, high = f.split(vector, 2)
        vector = low + high
    return Value(f, f.b.extract_element(vector.ir, I64(0)))
