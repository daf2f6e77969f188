"""Padding, stride, dilation and phases become tables of addresses here, so that inner loops see
none.

    slots    per axis: where each raw source of the unit lies in the input, or -1 for padding
    taps     of the phase at hand: number of the tap in the kernel, its slot offset on each axis
    rows     per tile of pixels and tap: the tap's number and the address of each pixel's channels
    places   per pixel: where its result goes

A table is built once per unit and used for every block of output channels. XNNPACK's indirection
buffer is the idea (Dukhan, "The Indirect Convolution Algorithm", 2019, section 3); here it lives
for one unit only, so it stays in the first-level cache and no image-sized table exists.
"""

from __future__ import annotations

from konv.kernels.words import AXES, Words, part_function
from konv.llvm import I64, Function, Module, Routine, Value, Variable, pointer_to

SLOTS = ("raw", "slots", "size", "stride", "mode")


def emit_slots(module: Module) -> Routine:
    """slots(table, raw, slots, size, stride, mode): one axis' element offsets, -1 where there is no
    source.
    """
    params = [("table", pointer_to(I64)), *((name, I64) for name in SLOTS)]
    with module.function("slots", params, inline=False) as (
        f,
        (table, raw, slots, size, stride, mode),
    ):
        with f.loop(slots) as slot:
            source = f.var(raw + slot)
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


def emit_taps(module: Module) -> Routine:
    """taps(job, unit): four words a tap of the phase at hand; sets the unit's `taps`."""
    with part_function(module, "taps", writes=True) as (f, piece, _):
        table, count = piece.part("at_taps", I64), f.var(0)
        phases = [piece.phase(axis) for axis in AXES]
        reach = [phase["reach"] for phase in phases]
        pairs = [piece.job.base + phase["at_pairs"] for phase in phases]
        with f.loop(reach[0]) as a, f.loop(reach[1]) as b, f.loop(reach[2]) as c:
            entry = table + count.get() * 4
            entry[0] = pairs[0][a * 2] + pairs[1][b * 2] + pairs[2][c * 2]
            for axis, i in zip(AXES, (a, b, c), strict=True):
                entry[1 + axis] = pairs[axis][i * 2 + 1]
            count.add(1)
        piece.unit["taps"] = count.get()
        return f.fn


def emit_rows(module: Module, mr: int, size: int, packed: bool) -> Routine:
    """rows(job, unit): mr + 1 words a tap and tile, the tap's number and an address per pixel.

    A tile's missing pixels repeat its last one. A tap that lies in the padding for all pixels of a
    tile is left out where `skip` allows it. `packed`: addresses go into the packed image, which
    holds padding as zeros; otherwise into the input itself, and padding reads a row of zeros.
    `size` is a number's bytes.
    """
    with part_function(module, "rows") as (f, piece, _):
        job, unit = piece.job, piece.unit
        taps, listed, counts = (
            unit["taps"],
            piece.part("at_taps", I64),
            piece.part("at_counts", I64),
        )
        rows, at = piece.part("at_rows", I64), f.array(I64, 3 * mr)
        tables = [piece.part(("at_slots", axis), I64) for axis in AXES]
        places = [job.base + job["at_bytes", axis] for axis in AXES]
        image, zeros = unit["scratch"] + job["at_image"], unit["scratch"] + job["at_zeros"]
        must_keep = 1 - unit["skip"]
        with f.loop(unit["tiles"]) as tile:
            with f.loop(mr) as m:
                index = f.least(tile * mr + m, unit["pixels"] - 1)
                for axis, j in zip(AXES, split(index, unit), strict=True):
                    at[m * 3 + axis] = j * job["jump", axis]
            row, kept = rows + tile * taps * (mr + 1), f.var(0)
            with f.loop(taps) as t:
                tap, out, seen = listed + t * 4, row + kept.get() * (mr + 1), f.var(must_keep)
                offsets = [tap[1 + axis] for axis in AXES]
                out[0] = tap[0]
                with f.loop(mr) as m:
                    slots = [at[m * 3 + axis] + offsets[axis] for axis in AXES]
                    sources = [table[slot] for table, slot in zip(tables, slots, strict=True)]
                    inside = (sources[0] | sources[1] | sources[2]) >= 0
                    if packed:
                        begins = [table[slot] for table, slot in zip(places, slots, strict=True)]
                        out[m + 1] = image + begins[0] + begins[1] + begins[2]
                    else:
                        address = unit["x"] + (sources[0] + sources[1] + sources[2]) * size
                        out[m + 1] = f.select(inside, address, zeros)
                    seen.set(f.select(inside, f.integer(1), seen.get()))
                kept.add(seen.get())
            counts[tile] = kept.get()
        return f.fn


def emit_places(module: Module, mr: int, size: int, width: int | None) -> Routine:
    """places(job, unit): where each pixel's result goes; a tile's missing pixels write where nobody
    reads.

    `width`: results go to a block of that many channels a pixel in scratch; None: to the output
    itself.
    """
    with part_function(module, "places") as (f, piece, _):
        job, unit = piece.job, piece.unit
        places, block = piece.part("at_places", I64), unit["scratch"] + job["at_block"]
        with f.loop(unit["tiles"] * mr) as pixel:
            if width is not None:
                places[pixel] = block + pixel * (width * size)
            else:
                offset = f.integer(0)
                for axis, j in zip(AXES, split(pixel, unit), strict=True):
                    out = (unit["j", axis] + j) * job["step", axis] + unit["first", axis]
                    offset = offset + out * job["y_stride", axis]
                real = pixel < unit["pixels"]
                places[pixel] = f.select(real, unit["y"] + offset * size, block)
        return f.fn


def split(index: Value, unit: Words) -> list[Value]:
    """The number of a pixel within the unit -> its j on each axis, counted from the unit's
    first.
    """
    width, plane = unit["length", 2], unit["length", 1] * unit["length", 2]
    rest = index % plane
    return [index // plane, rest // width, rest % width]
