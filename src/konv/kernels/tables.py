"""Padding, stride, dilation and phases become tables of addresses here, so that inner loops see
none.

    slots    per axis: where each raw source of the unit lies in the input, or -1 for padding
    taps     of the phase at hand: number of the tap in the kernel, where it lies from a pixel
    rows     per tile of pixels and tap: the tap's number and the address of each pixel's channels
    places   per pixel: where its result goes

A table is built once per unit and used for every block of output channels. XNNPACK's indirection
buffer is the idea (Dukhan, "The Indirect Convolution Algorithm", 2019, section 3); here it lives
for one unit only, so it stays in the first-level cache and no image-sized table exists.
"""

from __future__ import annotations

from konv.kernels.words import AXES, TRIPLE, Piece, Words, part_function
from konv.llvm import I64, Function, Module, Routine, Value, Variable, pointer_to

TAP = 5  # words
SLOTS = ("raw", "slots", "size", "stride", "mode")


def emit_slots(module: Module) -> Routine:
    """slots(table, raws, raw, ...): one axis' element offsets, -1 where there is no source."""
    params = [("table", pointer_to(I64)), ("raws", pointer_to(I64)), *((n, I64) for n in SLOTS)]
    with module.function("slots", params, inline=False, plain=True) as (f, args):
        table, raws, raw, slots, size, stride, mode = args
        with f.loop(slots) as slot:
            source = f.var(raw + raws[slot])
            with f.when(mode.differs(0)):
                _fold(f, source, size, mode)
            i = source.get()
            inside = (i >= 0) & (i < size)
            table[slot] = f.select(inside, i * stride, -1)
        return f.fn


def _fold(f: Function, source: Variable, size: Value, mode: Value) -> None:
    """Bring a source outside the image back by the padding mode, as geometry.Axis.source does."""
    with f.when(mode.equals(1)):  # reflect: about the first and the last pixel
        i = source.get()
        i = f.select(i < 0, 0 - i, i)
        source.set(f.select(i >= size, (size - 1) * 2 - i, i))
    with f.when(mode.equals(2)):  # replicate
        source.set(f.most(f.least(source.get(), size - 1), f.integer(0)))
    with f.when(mode.equals(3)):  # circular
        i = source.get()
        i = f.select(i < 0, i + size, i)
        source.set(f.select(i >= size, i - size, i))


def emit_taps(module: Module, size: int, packed: bool) -> Routine:
    """taps(job, unit): the taps of the phase at hand; sets the unit's `taps`.

    TAP words each: its number in the kernel, its slot on each axis counted from a pixel's first
    slot, and the same as bytes, which holds wherever neighbouring slots lie evenly.
    """
    with part_function(module, "taps", writes=True, plain=True) as (f, piece, _):
        table, count, job = piece.part("at_taps", I64), f.var(0), piece.job
        phases = [piece.phase(axis) for axis in AXES]
        reach = [phase["reach"] for phase in phases]
        triples = [job.base + phase["at_triples"] for phase in phases]
        with f.loop(reach[0]) as a, f.loop(reach[1]) as b, f.loop(reach[2]) as c:
            entry = table + count.get() * TAP
            number, apart = f.integer(0), f.integer(0)
            for axis, i in zip(AXES, (a, b, c), strict=True):
                tap, slot, raw = (triples[axis][i * len(TRIPLE) + n] for n in range(len(TRIPLE)))
                number, entry[1 + axis] = number + tap, slot
                step = job["apart", axis] if packed else job["x_stride", axis] * size
                apart = apart + (slot if packed else raw) * step
            entry[0], entry[4] = number, apart
            count.add(1)
        piece.unit["taps"] = count.get()
        return f.fn


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


def emit_places(module: Module, mr: int, size: int, width: int | None) -> Routine:
    """places(job, unit): where each pixel's result goes; a tile's missing pixels are the last one
    again, and write its result to its place.

    `width`: results go to a block of that many channels a pixel in scratch, where missing pixels
    have a place of their own; None: to the output itself.
    """
    with part_function(module, "places", plain=True) as (f, piece, _):
        job, unit = piece.job, piece.unit
        places, block = piece.part("at_places", I64), unit["scratch"] + job["at_block"]
        if width is not None:
            with f.loop(unit["tiles"] * mr) as pixel:
                places[pixel] = block + pixel * (width * size)
            return f.fn
        step = [job["step", axis] * job["y_stride", axis] * size for axis in AXES]
        first, filled = unit["y"], f.var(0)
        for axis in AXES:
            first = first + unit["j", axis] * step[axis]
            first = first + unit["first", axis] * job["y_stride", axis] * size
        with f.loop(unit["length", 0]) as a, f.loop(unit["length", 1]) as b:
            row, at = first + a * step[0] + b * step[1], places + filled.get()
            with f.loop(unit["length", 2]) as c:
                at[c] = row + c * step[2]
            filled.add(unit["length", 2])
        last = places[unit["pixels"] - 1]
        with f.loop(unit["tiles"] * mr, start=unit["pixels"]) as missing:
            places[missing] = last
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


def split(index: Value, unit: Words) -> list[Value]:
    """The number of a pixel within the unit -> its j on each axis, counted from the unit's
    first.
    """
    width, plane = unit["length", 2], unit["length", 1] * unit["length", 2]
    rest = index % plane
    return [index // plane, rest // width, rest % width]
