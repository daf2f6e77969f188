"""Images that lie channels last, read where they lie: only pixels whose tiles meet a border are
packed.

    outputs of a row read:  packed, left padding | the image | packed, what is behind the row

Tiles along rows (konv.kernels.direct.row_tile) read a few rows of the image in equal steps, so they
need of each row where it begins: in scratch or in the image. Both ends of a row are packed to where
all of it would be packed, with what a tile reads; a row of padding is all in scratch. Copying all
of each row took a sixth of 3->16 s2 @512x1024 (Zen 3).
"""

from __future__ import annotations

from konv.geometry import Conv
from konv.kernels.stored import HALVES, element
from konv.kernels.tables import TAP
from konv.kernels.words import Words, part_function
from konv.llvm import I64, SIZE, Function, Module, Routine, Value
from konv.plan import Plan, Strides
from konv.target import BYTES

WORDS = 2  # of a tap: where the row's first pixel would read it in scratch, and in the image
PARTS = 3  # of a row, from left to right
# Bytes of a row below which it is copied as quickly (3->32 s2 @33, 400 bytes: 13 us, in place 14).
LEAST = 1024


def lies(conv: Conv, x: Strides) -> bool:
    """Whether an image lies as it would be packed, channels last, in rows worth it."""
    row = conv.axes[-1].size * conv.ci * BYTES[conv.dtype]
    plain = conv.mode == "zeros" and conv.dtype not in HALVES and row >= LEAST
    return plain and x[1] == 1 and x[-1] == conv.ci


def measure(f: Function, plan: Plan, job: Words, unit: Words) -> None:
    """Set which pixels of the unit's rows are read where they lie, in whole tiles, and which slots
    the others read; an image that lies otherwise is packed.
    """
    width = unit["slots", 2]
    for word in ("lie", "end", "left", "right"):  # all of a row is packed
        unit[word] = width
    with f.when(job["lies"].differs(0)):
        mr, jump, raw, span = plan.pixels, job["jump", 2], unit["raw", 2], job["span", 2]
        pixels = (width - 1 - span) // jump + 1
        every = (pixels + (mr - 1)) // mr * mr
        outside = (f.most(0 - raw, 0) + (jump * mr - 1)) // (jump * mr) * mr
        inside = f.most(job["size", 2] - span - raw + (jump - 1), 0) // jump // mr * mr
        first = f.least(outside, every)
        last = f.most(f.least(inside, every), first)
        unit["lie"], unit["end"] = first, last
        unit["left"] = f.select(first > 0, (first - 1) * jump + span + 1, 0)
        unit["right"] = f.select(last < pixels, last * jump, width)


def emit_lines(module: Module, plan: Plan) -> Routine:
    """lines(job, unit): where the first pixel of each row of the unit reads its taps."""
    size = SIZE[element(plan.dtype)]
    with part_function(module, "lines", plain=True) as (f, piece, _):
        job, unit = piece.job, piece.unit
        taps, lines, filled = piece.part("at_taps", I64), piece.part("at_lines", I64), f.var(0)
        slots = [piece.part(("at_slots", axis), I64) for axis in range(2)]
        image = unit["scratch"] + job["at_image"]
        with f.loop(unit["length", 0]) as a, f.loop(unit["length", 1]) as b:
            down = [row * job["ahead", axis] for axis, row in enumerate((a, b))]
            row = image + down[0] * job["apart", 0] + down[1] * job["apart", 1]
            with f.loop(unit["taps"]) as t:
                tap, line = taps + t * TAP, lines + filled.get() * WORDS
                deep, high = (slots[axis][down[axis] + tap[1 + axis]] for axis in range(2))
                along = (unit["raw", 2] + tap[3]) * job["x_stride", 2]
                packed, there = row + tap[4], unit["x"] + (deep + high + along) * size
                line[0], line[1] = packed, f.select((deep | high) < 0, packed, there)
                filled.add(1)
        return f.fn


def extent(f: Function, unit: Words, part: Value) -> tuple[Value, Value, Value]:
    """Of one of the PARTS of a row: its first pixel, the first behind it, and 1 if it is read where
    it lies, else 0.
    """
    length = unit["length", 2]
    lie, end = f.least(unit["lie"], length), f.least(unit["end"], length)
    first = f.select(part.equals(0), f.integer(0), f.select(part.equals(1), lie, end))
    last = f.select(part.equals(0), lie, f.select(part.equals(1), end, length))
    return first, last, f.select(part.equals(1), f.integer(1), 0)
