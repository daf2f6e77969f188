"""Rows of addresses: for every tile of pixels and every tap, where each pixel's channels lie
(konv.kernels.tables says what else there is).
"""

from __future__ import annotations

from konv.kernels.tables import TAP
from konv.kernels.words import AXES, Piece, Words, part_function
from konv.llvm import I64, Function, Module, Routine, Value, pointer_to


def emit_rows(module: Module, mr: int, size: int, packed: bool) -> Routine:
    """rows(job, unit): mr + 1 words a tap and tile, the tap's number and an address per pixel.

    A tile's missing pixels repeat its last one. `packed`: addresses go into the packed image, which
    holds padding as zeros; otherwise into the input itself, and padding reads a row of zeros.
    `size` is a number's bytes.

    A tile is *even* if all its addresses are those of its pixels plus those of the taps: inside the
    image, or in a packed image of no sparse axis and little padding. Its rows take 1 cycle an
    address, those of other tiles about 5. There, a tap that lies in the padding for all pixels of a
    tile is left out where `skip` allows it. Pixels in one row of the image are found together; one
    by one they take 25 cycles each, as many as the multiply-adds of a 1x1 layer of 24 channels by
    16.
    """
    even = _emit_even_rows(module, mr)
    mixed = _emit_mixed_rows(module, mr, size, packed, even)
    with part_function(module, "rows") as (f, piece, _):
        job, unit = piece.job, piece.unit
        taps, rows, counts = unit["taps"], piece.part("at_rows", I64), piece.part("at_counts", I64)
        bases, walk = f.array(I64, mr), Walk(f, unit)
        ahead = job["ahead", 2] * job["apart", 2] if packed else job["jump", 2] * job["x_stride", 2]
        ahead = ahead if packed else ahead * size
        with f.loop(unit["tiles"]) as tile:
            row = rows + tile * taps * (mr + 1)
            base, inside = _pixel(piece, walk, size, packed, mr - 1)
            together = inside & (walk.j[2].get() + mr <= unit["length", 2])
            with f.choose(together) as (yes, no):
                with yes:
                    for m in range(mr):
                        bases[m] = base + ahead * m
                    f.call(even, [row, bases, piece.part("at_taps", I64), taps])
                    counts[tile] = taps
                    walk.step(mr)
                with no:
                    j = [walk.j[axis].get() for axis in AXES]
                    left = f.least(unit["pixels"] - tile * mr, f.integer(mr))
                    counts[tile] = f.call(mixed, [job.base, unit.base, row, *j, left])
                    with f.loop(left):
                        walk.step()
        return f.fn


def _pixel(piece: Piece, walk: Walk, size: int, packed: bool, more: int = 0) -> tuple[Value, Value]:
    """The address of the first source of the pixel that `walk` is at, and whether all sources of it
    and of `more` pixels behind it in its row are such addresses plus those of taps.
    """
    job, unit = piece.job, piece.unit
    base = unit["scratch"] + job["at_image"] if packed else unit["x"]
    inside = job["even"].differs(0)
    for axis in AXES:
        j = walk.j[axis].get()
        if packed:
            base = base + j * job["ahead", axis] * job["apart", axis]
        else:
            raw = unit["raw", axis] + j * job["jump", axis]
            base = base + raw * job["x_stride", axis] * size
            last = raw + job["span", axis] + (job["jump", 2] * more if axis == 2 else 0)
            within = (raw >= 0) & (last < job["size", axis])
            inside = inside & within if axis else within
    return base, inside


def _emit_mixed_rows(module: Module, mr: int, size: int, packed: bool, even: Routine) -> Routine:
    """mixed(job, unit, row, j0, j1, j2, left) -> taps kept: the rows of a tile of `left` pixels
    from this one on, wherever they lie.
    """
    uneven = _emit_uneven_rows(module, mr, size, packed)
    labels = ("row", "j0", "j1", "j2", "left")
    with part_function(module, "mixed", labels, returns=I64) as (f, piece, (row, *first, left)):
        job, unit = piece.job, piece.unit
        at, bases, walk = f.array(I64, 3 * mr), f.array(I64, mr), Walk(f, unit)
        every, kept = f.var(1), f.var_of(unit["taps"])
        for j, start in zip(walk.j, first, strict=True):
            j.set(start)
        with f.loop(mr) as m:
            bases[m], inside = _pixel(piece, walk, size, packed)
            every.set(f.select(inside, every.get(), 0))
            for axis in AXES:
                at[m * 3 + axis] = walk.j[axis].get() * job["ahead", axis]
            with f.when(m < left - 1):
                walk.step()
        with f.choose(every.get().differs(0)) as (yes, no):
            with yes:
                f.call(even, [row.to_pointer(I64), bases, piece.part("at_taps", I64), unit["taps"]])
            with no:
                kept.set(f.call(uneven, [job.base, unit.base, row, at]))
        f.give(kept.get())
        return f.fn


def _emit_even_rows(module: Module, mr: int) -> Routine:
    """even(row, bases, taps, count): each address is a pixel's base plus the tap's bytes."""
    params = [(name, pointer_to(I64)) for name in ("row", "bases", "listed")]
    with module.function("even", [*params, ("taps", I64)], inline=False) as (f, args):
        row, bases, listed, taps = args
        pixels = [bases[m] for m in range(mr)]
        with f.loop(taps) as t:
            tap, out = listed + t * TAP, row + t * (mr + 1)
            out[0], apart = tap[0], tap[4]
            for m, base in enumerate(pixels):
                out[1 + m] = base + apart
        return f.fn


def _emit_uneven_rows(module: Module, mr: int, size: int, packed: bool) -> Routine:
    """uneven(job, unit, row, at) -> taps kept: each address by the slots of its pixel and tap.

    A run of taps may begin in the padding and end in the image, so where it lies on its own axis
    says nothing.
    """
    with part_function(module, "uneven", ("row", "at"), returns=I64) as (f, piece, (to, slots_at)):
        job, unit = piece.job, piece.unit
        row, at, listed = to.to_pointer(I64), slots_at.to_pointer(I64), piece.part("at_taps", I64)
        tables = [piece.part(("at_slots", axis), I64) for axis in AXES]
        image, zeros = unit["scratch"] + job["at_image"], unit["scratch"] + job["at_zeros"]
        must_keep, kept = 1 - unit["skip"], f.var(0)
        with f.loop(unit["taps"]) as t:
            tap, out, seen = listed + t * TAP, row + kept.get() * (mr + 1), f.var(must_keep)
            offsets = [tap[1 + axis] for axis in AXES]
            out[0] = tap[0]
            with f.loop(mr) as m:
                slots = [at[m * 3 + axis] + offsets[axis] for axis in AXES]
                sources = [table[slot] for table, slot in zip(tables, slots, strict=True)]
                along = f.select(job["run"] > 1, f.integer(0), sources[2]) if packed else sources[2]
                inside = (sources[0] | sources[1] | along) >= 0
                if packed:
                    places = [slots[axis] * job["apart", axis] for axis in AXES]
                    out[m + 1] = image + places[0] + places[1] + places[2]
                else:
                    address = unit["x"] + (sources[0] + sources[1] + sources[2]) * size
                    out[m + 1] = f.select(inside, address, zeros)
                seen.set(f.select(inside, f.integer(1), seen.get()))
            kept.add(seen.get())
        f.give(kept.get())
        return f.fn


class Walk:
    """From pixel to pixel of a unit: `j` on each axis, counted from the unit's first, the last axis
    fastest. Counting takes a cycle where dividing the pixel's number takes forty.
    """

    def __init__(self, f: Function, unit: Words) -> None:
        self.f, self.unit, self.j = f, unit, [f.var(0) for _ in AXES]

    def step(self, pixels: int = 1) -> None:
        """Go so many pixels on, which are in the same row, or to the row behind it; from the last
        one to nowhere that is read.
        """
        f, length = self.f, self.unit
        self.j[2].add(pixels)
        for inner, outer in ((2, 1), (1, 0)):
            with f.when(self.j[inner].get() >= length["length", inner]):
                self.j[inner].set(0)
                self.j[outer].add(1)
