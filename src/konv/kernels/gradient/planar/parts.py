"""What a box of a planar weight gradient needs, and how its sums leave.

    strip   [channel][image][slot d][slot h][phase][slot w]   rows filled up with zeros
    panel   [output channel][image][d][h][w]                  dy, rows filled up with zeros
    places  [vector of outputs]                               where its first tap reads in a channel
    sums    [group][tile][row][output channel][lane]

Slot w of a row is dealt out to phase w % stride, place w // stride.
"""

from __future__ import annotations

from konv.kernels.gradient.records import RECORDS
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
    turned = None if plan.packed else _emit_turned_row(module, plan, turn)
    with part_function(module, "strip", records=RECORDS) as (f, piece, _):
        job, unit = piece.job, piece.unit
        tables = [piece.part(("at_slots", axis), I64) for axis in AXES]
        first = unit["group"] * job["ci"] * job["x_channel"]
        # A contiguous image is read channel by channel, another one pixel by pixel.
        each = f.integer(1) if plan.packed else unit["channels"]
        row = _Row(f, plan, piece)
        with (
            f.loop(unit["channels"], step=each) as channel,
            f.loop(unit["images"]) as image,
            f.loop(unit["slots", 0]) as d,
            f.loop(unit["slots", 1]) as h,
        ):
            deep, high = tables[0][d], tables[1][h]
            to = piece.part("at_strip", real) + channel * job["plane"]
            to = to + (image * job["volume"] + d * job["face"] + h * job["pitch"])
            at = deep + high + image * job["x_batch"] + channel * job["x_channel"]
            source = unit["x"] + (at + first) * size
            with f.choose((deep | high) < 0) as (zeros, pixels):
                with zeros, f.loop(each) as c:
                    f.clear(to + c * job["plane"], job["pitch"])
                with pixels:
                    if turned:
                        f.call(turned, [job.base, unit.base, source, to])
                    else:
                        row.copy(source.to_pointer(element(plan.dtype)) + unit["raw", 2], to)
        return f.fn


def _phase(f: Function, piece: Piece, p: Value) -> tuple[Value, Value]:
    """The places of a phase that lie in the image: from, to."""
    job, raw, width = piece.job, piece.unit["raw", 2], piece.unit["slots", 2]
    stride, begin = job["jump", 2], f.least(f.most(0 - raw, 0), width)
    end = f.most(f.least(job["size", 2] - raw, width), begin)
    # Both are counted in slots; the first place at or behind them, never below 0.
    first, last = ((f.most(at - p, 0) + (stride - 1)) // stride for at in (begin, end))
    return first, last


class _Row:
    """Copies rows of a contiguous image, in steps of 1 and 2 by vectors, which are masked where not
    all lanes lie in the image; what is the same for all rows is computed where it is made.
    """

    def __init__(self, f: Function, plan: Plan, piece: Piece) -> None:
        self.f, self.plan, self.piece = f, plan, piece
        self.lanes, self.vectors = f.module.target.lanes(plan.dtype), 2 if plan.form[0] else 1
        job, raw, half = piece.job, piece.unit["raw", 2], piece.job["half"]
        begin, step = f.most(0 - raw, 0), self.lanes * self.vectors
        end = f.least(job["size", 2] - raw, piece.unit["slots", 2])
        self.begin, self.end, self.half = begin, end, half
        self.head = f.least((begin + (step - 1)) // step * self.lanes, half)
        inside = f.most(end, 0) // step * self.lanes
        self.tail = f.most(f.least(inside, half), self.head)
        self.by_vectors = job["jump", 2] <= self.vectors

    def copy(self, line: Pointer, out: Pointer) -> None:
        """From the first slot of a row, which may lie before the image, on."""
        if self.plan.dtype in HALVES:  # few machines mask those
            self._number_by_number(line, out)
            return
        with self.f.choose(self.by_vectors) as (quick, slow):
            with quick:
                self._by_vectors(line, out)
            with slow:
                self._number_by_number(line, out)

    def _by_vectors(self, line: Pointer, out: Pointer) -> None:
        f, lanes, vectors = self.f, self.lanes, self.vectors
        for first, last in ((f.integer(0), self.head), (self.tail, self.half)):
            with f.loop(last, start=first, step=lanes) as q:
                places = [q * vectors + v * lanes for v in range(vectors)]
                masks = [f.between(lanes, self.begin - at, self.end - at) for at in places]
                pairs = zip(places, masks, strict=True)
                loaded = [f.load_masked(line + at, mask) for at, mask in pairs]
                _deal(f, loaded, out + q, self.half)
        with f.loop(self.tail, start=self.head, step=lanes) as q:
            loaded = [line.vector(q * vectors + v * lanes, lanes) for v in range(vectors)]
            _deal(f, loaded, out + q, self.half)

    def _number_by_number(self, line: Pointer, out: Pointer) -> None:
        f, stride, half = self.f, self.piece.job["jump", 2], self.half
        with f.loop(stride) as p:
            first, last = _phase(f, self.piece, p)
            f.clear(out + p * half, half)
            with f.loop(last, start=first) as q:
                out[p * half + q] = read(f, self.plan.dtype, line + (q * stride + p))


def _deal(f: Function, loaded: list[Value], out: Pointer, half: Value) -> None:
    """One vector as it is, two as their even numbers and their odd ones."""
    if len(loaded) == 1:
        out.put(0, loaded[0])
    else:
        lanes = loaded[0].lanes
        for p in range(2):
            dealt = f.shuffle(loaded[0], loaded[1], range(p, 2 * lanes, 2))
            out.put(half * p, dealt)


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
        job, unit = piece.job, piece.unit
        panel, channels = piece.part("at_panel", real), unit["groups"] * job["co"]
        first, length = unit["group"] * job["co"] * job["y_channel"], unit["length", 2]
        across, whole = unit["across"], unit["length", 2] & -lanes
        each = f.integer(1) if plan.blocked else channels
        with f.loop(channels, step=each) as channel:
            at = f.var(channel * job["panel"])
            with (
                f.loop(unit["images"]) as image,
                f.loop(unit["length", 0]) as d,
                f.loop(unit["length", 1]) as h,
            ):
                place = first + channel * job["y_channel"] + image * job["y_batch"]
                place = place + d * job["y_stride", 0] + h * job["y_stride", 1]
                line = (unit["y"] + place * size).to_pointer(element(plan.dtype))
                out = panel + at.get()
                at.add(across)
                if plan.blocked:
                    with f.loop(whole, step=lanes) as q:
                        out.put(q, read(f, plan.dtype, line + q, lanes))
                    with f.when(whole < length):
                        _copy_rest(f, plan, line + whole, out + whole, length - whole)
                else:
                    with f.when(whole < length), f.loop(channels) as c:
                        (out + c * job["panel"]).put(whole, f.zero(real, lanes))
                    step = job["y_stride", 2]
                    f.call(turn, [line, step, out, job["panel"], length, channels])
        return f.fn


def _copy_rest(f: Function, plan: Plan, line: Pointer, out: Pointer, count: Value) -> None:
    """Less than a vector, and zeros behind it."""
    lanes = f.module.target.lanes(plan.dtype)
    if plan.dtype in HALVES:
        out.put(0, f.zero(out.element, lanes))
        with f.loop(count) as q:
            out[q] = read(f, plan.dtype, line + q)
    else:
        out.put(0, f.load_masked(line, f.below(count, lanes)))


def emit_leave(module: Module, plan: Plan) -> Routine:
    """leave(job, unit, to): vectors of sums, each added up, into a weight that begins at `to`."""
    real, lanes, mr, nc = (
        REAL[plan.dtype], module.target.lanes(plan.dtype), plan.pixels, plan.vectors,
    )  # fmt: skip
    with part_function(module, "leave", ("to",), records=RECORDS) as (f, piece, args):
        job, unit, weight = piece.job, piece.unit, args[0].to_pointer(real)
        rows = job["ci"] * job["taps"]
        sums = piece.part("at_sums", real)
        blocks, last = (job["co"] + (nc - 1)) // nc, job["w_last"].differs(0)
        # A row is (channel, tap); from one tap to the next, and from the last to the next channel.
        step = f.select(last, job["ci"], f.integer(1))
        back = f.select(last, 1 - (job["taps"] - 1) * job["ci"], f.integer(1))
        places = f.array(I64, mr)
        with f.loop(unit["groups"]) as g:
            own = sums + g * job["padded_rows"] * lanes
            out = weight + (unit["group"] + g) * job["co"] * rows
            tap, place = f.var(0), f.var(0)
            with f.loop(rows, step=mr) as row:
                for m in range(mr):
                    places[m] = place.get()
                    ends = (tap.get() + 1).equals(job["taps"])
                    place.add(f.select(ends, back, step))
                    tap.set(f.select(ends, f.integer(0), tap.get() + 1))
                with f.loop(job["co"], step=nc) as k:
                    tile = own + (row * blocks * nc + k * mr) * lanes
                    for m in range(mr):
                        for n in range(nc):
                            with f.when((row + m < rows) & (k + n < job["co"])):
                                vector = tile.vector((m * nc + n) * lanes, lanes)
                                out[(k + n) * rows + places[m]] = added_up(f, vector)
        return f.fn


def added_up(f: Function, vector: Value) -> Value:
    """The sum of all lanes, halves onto halves."""
    while vector.lanes > 1:
        low, high = f.split(vector, 2)
        vector = low + high
    return Value(f, f.b.extract_element(vector.ir, I64(0)))
