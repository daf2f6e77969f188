"""Padding, stride, dilation and phases become tables of addresses here, so that inner loops see
none.

    slots    per axis: where each raw source of the unit lies in the input, or -1 for padding
    taps     of the phase at hand: number of the tap in the kernel, where it lies from a pixel
    rows     per tile of pixels and tap: the tap's number and the address of each pixel's channels
             (konv.kernels.rows)
    places   per pixel: where its result goes

A table is built once per unit and used for every block of output channels. XNNPACK's indirection
buffer is the idea (Dukhan, "The Indirect Convolution Algorithm", 2019, section 3); here it lives
for one unit only, so it stays in the first-level cache and no image-sized table exists.
"""

from __future__ import annotations

from konv.kernels.words import AXES, TRIPLE, Words, part_function
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


def split(index: Value, unit: Words) -> list[Value]:
    """The number of a pixel within the unit -> its j on each axis, counted from the unit's
    first.
    """
    width, plane = unit["length", 2], unit["length", 1] * unit["length", 2]
    rest = index % plane
    return [index // plane, rest // width, rest % width]
