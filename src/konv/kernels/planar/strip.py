"""Strips: a unit's input in scratch, [channel][phase][depth][row][column], padding as zeros.

Rows of a contiguous image are copied a vector at a time, those of stride 2 dealt out to even and
odd ones on the way; lanes outside the image are masked, so padding costs nothing. Channels-last
images are transposed in squares. What is neither - other padding modes, larger strides, odd views -
is copied number by number through tables of sources (konv.kernels.tables.emit_slots).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from konv.kernels.packing import transpose
from konv.kernels.words import AXES, Piece, part_function, per_axis
from konv.llvm import I64, REAL, SIZE, Function, Module, Pointer, Routine, Value, Variable
from konv.plan import Plan

JOB = (
    "units",
    "chunks", "chunk",  # of groups: how many, groups in each
    "mode", "groups", "ci", "co", "taps",
    "x_batch", "x_channel", "y_batch", "y_channel",
    "pitch", "face", "plane",  # numbers in a row, in the rows of one depth, in a channel
    "block",  # numbers of one channel in the block of results
    "at_phases",  # word where the records of the phases of outputs begin
    "thread_bytes", "at_rows", "at_strip", "at_block",
    *per_axis(
        "size", "x_stride", "y_stride", "count", "box", "boxes", "jump", "least", "step", "phases",
        "kept",  # phases of the sources that some tap reads; the first one always is
        "length", "reach",  # of one phase: places in a strip; those beyond the last output's first
        "apart", "inside",  # numbers from one phase to the next, and from one place
        "at_raws", "at_slots",
    ),
)  # fmt: skip

# Number of taps, word where their list begins; per axis the first output and how many there are.
PHASE = ("reach", "at_taps", *(f"{name}{a}" for a in AXES for name in ("first", "outputs")))
ROW = 2  # words: where a row of a channel comes from, where it goes
# (stride, its phases that some tap reads) of rows that are copied by vectors.
DEALT: dict[tuple[int, ...], tuple[int, int]] = {(1, 1): (1, 1), (2, 1): (2, 1), (2, 2): (2, 2)}
Masks = tuple[list[Value], Value]  # lanes of an image, of each vector; lanes of a strip's row
TAP = 2  # words: where it reads in a strip, its number in the kernel

UNIT = (
    "x", "y", "weights", "scratch", "group", "groups",  # first group and how many
    "residual",  # bytes from a result to what is added to it
    "row",  # outputs of a row: of both phases where they go together
    "phase", *per_axis("j", "width", "length", "raw"),
)  # fmt: skip
RECORDS = (JOB, UNIT)


def emit_strip(module: Module, plan: Plan) -> Routine:
    """strip(job, unit): fill the strip of the unit's box and groups."""
    real = REAL[plan.dtype]
    fill = _emit_straight(module, plan) if plan.packed else _emit_squares(module, plan)
    slow = _emit_slow(module, plan)
    with part_function(module, "strip", records=RECORDS) as (f, piece, _):
        job, unit = piece.job, piece.unit
        rows = _list_rows(f, piece)
        first = unit["group"] * job["ci"]
        x = unit.pointer("x", real) + first * job["x_channel"]
        arguments = [job.base, unit.base, x, unit["groups"] * job["ci"], rows]
        beside = job["x_stride", 2] if plan.packed else job["x_channel"]
        plain = job["mode"].equals(0) & beside.equals(1)
        if plan.packed and plan.form[2:4] not in DEALT:
            plain = plain & job["mode"].equals(-1)
        with f.choose(plain) as (yes, no):
            with yes:
                f.call(fill, arguments)
            with no:
                f.call(slow, arguments)
        return f.fn


def _list_rows(f: Function, piece: Piece) -> Value:
    """List where each row of a channel comes from (-1: padding) and goes to; how many they are."""
    job, unit = piece.job, piece.unit
    tables = [piece.part(("at_slots", a), I64) for a in AXES]
    counts = [job["reach", a] + unit["width", a] for a in AXES]
    listed, count = piece.part("at_rows", I64), f.var(0)
    with (
        f.loop(job["kept", 0]) as p0,
        f.loop(counts[0]) as q0,
        f.loop(job["kept", 1]) as p1,
        f.loop(counts[1]) as q1,
    ):
        deep = tables[0][p0 * job["length", 0] + q0]
        high = tables[1][p1 * job["length", 1] + q1]
        at = p0 * job["apart", 0] + q0 * job["face"]
        row = listed + count.get() * ROW
        row[0] = f.select((deep | high) >= 0, deep + high, f.integer(-1))
        row[1] = at + p1 * job["apart", 1] + q1 * job["pitch"]
        count.add(1)
    return count.get()


@contextmanager
def _filler(module: Module, plan: Plan, name: str) -> Iterator[tuple[Function, Piece, list[Any]]]:
    """A function `name(job, unit, x, channels, rows)`; the list of rows is there instead of the
    last.
    """
    labels = ("x", "channels", "rows")
    with part_function(module, name, labels, records=RECORDS) as (f, piece, (x, channels, rows)):
        yield f, piece, [x.to_pointer(REAL[plan.dtype]), channels, rows]


def _emit_straight(module: Module, plan: Plan) -> Routine:
    """Rows of a contiguous image, a vector (for stride 2: two) at a time.

    Vectors that lie in the image are copied as they are, those before and behind it masked. Row by
    row and channel by channel: with the places of a row outermost, which needs fewer masks, loads
    wait for older stores to addresses that look alike (10 cycles a vector instead of 5).
    """
    lanes, jump, kept = module.target.lanes(plan.dtype), *DEALT.get(plan.form[2:4], (1, 1))
    with _filler(module, plan, "straight") as (f, piece, (x, channels, rows)):
        job, unit = piece.job, piece.unit
        listed, strip = piece.part("at_rows", I64), piece.part("at_strip", x.element)
        raw, pitch, size = unit["raw", 2], job["pitch"], job["size", 2]
        width = unit["width", 2] + job["reach", 2]
        # Vectors from `head` up to `tail` lie in the image, and in the row.
        step = lanes * jump
        head = f.most(0 - raw, 0) + (step - 1)
        head = f.least(head // step * lanes, width)
        inside = f.least(f.most(size - raw, 0) // step, pitch // lanes) * lanes
        tail = f.most(f.least(inside, width), head)

        def masks_at(q: Value) -> Masks:
            """Lanes of each vector read at q that lie in the image, and those that lie in a row."""
            places = [q * jump + v * lanes for v in range(jump)]
            seen = [f.between(lanes, 0 - raw - at, size - raw - at) for at in places]
            return seen, f.between(lanes, 0, pitch - q)

        def masked(source: Pointer, to: Pointer, q: Value, masks: Masks) -> None:
            seen, room = masks
            vectors = [
                f.load_masked(source + (q * jump + v * lanes), mask) for v, mask in enumerate(seen)
            ]
            for p, vector in enumerate(_dealt(f, vectors, kept)):
                # What lies behind a row is read and written again: a masked store takes 12 cycles
                # on Zen 3.
                place = to + p * job["apart", 2] + q
                place.put(0, f.select(room, vector, place.vector(0, lanes)))

        # One vector at either end is the rule, whose masks are the same for all rows.
        usual = [masks_at(f.integer(0)), masks_at(tail)]
        with f.loop(channels) as c, f.loop(rows) as r:
            source = x + listed[r * ROW] + c * job["x_channel"] + raw
            to = strip + listed[r * ROW + 1] + c * job["plane"]
            begin = f.select(listed[r * ROW] < 0, pitch, f.integer(0))
            with f.when(begin > 0):
                for p in range(kept):
                    f.clear(to + p * job["apart", 2], pitch)
            edges = (f.integer(0), f.least(head, width)), (tail, width)
            for (first, end), masks in zip(edges, usual, strict=True):
                with f.when((first >= begin) & (first < end)):
                    masked(source, to, first, masks)
                with f.loop(end, start=f.most(first + lanes, begin), step=lanes) as q:
                    masked(source, to, q, masks_at(q))
            with f.loop(tail, start=f.most(head, begin), step=lanes) as q:
                vectors = [(source + q * jump).vector(v * lanes, lanes) for v in range(jump)]
                for p, vector in enumerate(_dealt(f, vectors, kept)):
                    (to + p * job["apart", 2] + q).put(0, vector)
        return f.fn


def _dealt(f: Function, vectors: list[Value], kept: int) -> list[Value]:
    """One vector as it is; two as the even numbers of both and the odd ones, if they are kept."""
    if len(vectors) == 1:
        return vectors
    lanes = vectors[0].type.count
    return [f.shuffle(vectors[0], vectors[1], range(odd, 2 * lanes, 2)) for odd in range(kept)]


def _emit_squares(module: Module, plan: Plan) -> Routine:
    """Rows of a channels-last image: squares of as many pixels as channels, transposed."""
    real = REAL[plan.dtype]
    with _filler(module, plan, "squares") as (f, piece, (x, channels, rows)):
        listed, strip = piece.part("at_rows", I64), piece.part("at_strip", real)
        with f.loop(rows) as r:
            source, to = listed[r * ROW], strip + listed[r * ROW + 1]
            with f.choose(source < 0) as (padding, pixels):
                with padding:
                    _clear_row(f, piece, to, channels)
                with pixels:
                    _squares(f, piece, x + source, to, channels)
        return f.fn


def _emit_slow(module: Module, plan: Plan) -> Routine:
    """Rows number by number, by the table of their sources."""
    real = REAL[plan.dtype]
    with _filler(module, plan, "slow") as (f, piece, (x, channels, rows)):
        job, slots = piece.job, piece.part(("at_slots", 2), I64)
        listed, strip = piece.part("at_rows", I64), piece.part("at_strip", real)
        with f.loop(rows) as r:
            source, to = listed[r * ROW], strip + listed[r * ROW + 1]
            with f.choose(source < 0) as (padding, pixels):
                with padding:
                    _clear_row(f, piece, to, channels)
                with (
                    pixels,
                    f.loop(channels) as c,
                    f.loop(job["kept", 2]) as p,
                    f.loop(job["pitch"]) as q,
                ):
                    at = slots[p * job["pitch"] + q]
                    number = _number(f, x + source, at, c * job["x_channel"])
                    (to + c * job["plane"] + p * job["apart", 2])[q] = number
        return f.fn


def _clear_row(f: Function, piece: Piece, to: Pointer, channels: Value) -> None:
    job = piece.job
    with f.loop(channels) as c, f.loop(job["kept", 2]) as p:
        f.clear(to + c * job["plane"] + p * job["apart", 2], job["pitch"])


def _squares(f: Function, piece: Piece, x: Pointer, to: Pointer, channels: Value) -> None:
    """A row of a channels-last image: squares of as many pixels as channels, transposed."""
    job, side = piece.job, 16 // SIZE[x.element]
    whole, pitch = channels & -side, job["length", 2]
    slots = piece.part(("at_slots", 2), I64)
    with f.loop(job["kept", 2]) as p, f.loop(pitch, step=side) as q:
        places, line = slots + (p * pitch + q), to + p * job["apart", 2] + q
        with f.choose(q + side <= pitch) as (square, rest):
            with square:
                sources = [places[i] for i in range(side)]
                with f.loop(whole, step=side) as c:
                    rows = [_pixel(f, x, source, c, side) for source in sources]
                    for i, column in enumerate(transpose(f, rows)):
                        (line + (c + i) * job["plane"]).put(0, column)
                with f.loop(channels, start=whole) as c:
                    for i, source in enumerate(sources):
                        line[c * job["plane"] + i] = _number(f, x, source, c)
            with rest, f.loop(pitch - q) as last, f.loop(channels) as c:
                line[c * job["plane"] + last] = _number(f, x, places[last], c)


def _pixel(f: Function, x: Pointer, source: Value, c: Value, side: int) -> Value:
    """`side` channels of a pixel, zeros where it lies in the padding."""
    vector: Variable = f.var_of(f.zero(x.element, side))
    with f.when(source >= 0):
        vector.set((x + source).vector(c, side))
    return vector.get()


def _number(f: Function, x: Pointer, source: Value, at: Value) -> Value:
    number = f.var_of(f.constant(x.element, 0.0))
    with f.when(source >= 0):
        number.set(x[source + at])
    return number.get()
