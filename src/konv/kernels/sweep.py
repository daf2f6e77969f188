"""One block of output channels over the tiles of a unit: asks for what the next tile needs, and
calls the algorithm's tile.
"""

from __future__ import annotations

from konv.kernels.microtile import APART, parameters
from konv.kernels.scratch import LINE
from konv.kernels.stored import element
from konv.kernels.words import part_function
from konv.llvm import I8, I64, REAL, SIZE, Function, Module, Pointer, Routine, Value
from konv.plan import Plan


def emit_tile_sweep(
    module: Module, plan: Plan, nr: int, tile: Routine, per_channel: bool, passes: bool
) -> Routine:
    """sweep(job, unit, weights, bias, first, to, new[, sums]): one block of nr vectors over the
    unit's tiles; `new`: nothing has read these channels of its pixels before, and nothing else
    will.
    """
    mr, lanes, real = plan.pixels, module.target.lanes(plan.dtype), REAL[plan.dtype]
    labels = ("weights", "bias", "first", "to", "new", *(("sums",) if passes else ()))
    with part_function(module, f"sweep_{tile.name}", labels, plain=True) as (f, piece, given):
        job, unit = piece.job, piece.unit
        weights, bias, first, to, new = given[:5]
        channels = f.integer(1) if per_channel else job["ci"] * job["run"]
        row, counts = piece.part("at_rows", I64), piece.part("at_counts", I64)
        places, stride = piece.part("at_places", I64), channels * (nr * lanes)
        weights, bias = weights.to_pointer(real), bias.to_pointer(real)
        if passes:
            weights, channels = weights + unit["from"] * (nr * lanes), unit["some"]
        with f.loop(unit["tiles"]) as t:
            if not plan.packed:
                with f.when(new.differs(0)):
                    tile_after = f.least(t + 1, unit["tiles"] - 1)
                    following = row + tile_after * unit["taps"] * (mr + 1)
                    with f.loop(counts[tile_after]) as tap:
                        pixels = following + tap * (mr + 1)
                        _fetch(f, pixels, mr, first, channels, SIZE[element(plan.dtype)])
            if not plan.blocked:
                with f.when(job["far"].differs(0)):
                    after = places + f.least(t + 1, unit["tiles"] - 1) * mr
                    _fetch_places(f, after, mr, to, nr * lanes, SIZE[element(plan.dtype)])
            taps = row + t * unit["taps"] * (mr + 1)
            if passes:
                with f.when(job["asks"].differs(0) & (counts[t] > 0)):
                    following = weights + job["reduction"] * (nr * lanes)
                    tap, part = t % counts[t], t // counts[t]
                    following = following + taps[tap * (mr + 1)] * stride
                    parts = f.most(unit["tiles"] // counts[t], 1)
                    _fetch_weights(f, following, channels * (nr * lanes), part, parts)
            arguments = [
                taps, counts[t],
                weights, stride, bias, first, channels, places + t * mr, to,
            ]  # fmt: skip
            if passes:
                sums = given[5].to_pointer(real) + t * (mr * nr * lanes)
                arguments += [sums, unit["begun"], unit["ends"]]
            if APART in parameters(plan):
                arguments.append(unit["residual"])
            f.call(tile, arguments)
        return f.fn


def _fetch(f: Function, row: Pointer, mr: int, first: Value, channels: Value, size: int) -> None:
    """Ask for the channels of a tile's pixels. They lie in many short runs, which no prefetcher of
    a processor follows: 64 channels of 388 x 388 came at 6.5 GB/s without, 10 with.
    """
    for m in range(mr):
        pixel = row.pointer(1 + m, I8) + first * size
        with f.loop(channels * size, step=LINE) as byte:
            f.prefetch(pixel + byte)


def _fetch_weights(
    f: Function, weights: Pointer, numbers: Value, part: Value, parts: Value
) -> None:
    """Ask for one of the parts of a tap's numbers in the next block: tiles take taps in turn. In a
    pass they are no run that prefetchers follow (3x3 512->512 of 9 MB: @28 in steps of two 1.08
    and 1.05 times as fast with one and two threads, @14 1.05 and 1.03, @7 1.08 and 1.03; of 2 MB
    and less .96 to 1.0, Zen 3).
    """
    share = (numbers + (parts - 1)) // parts
    begun = part * share
    with f.loop(f.least(numbers - begun, share), step=LINE // SIZE[weights.element]) as i:
        f.prefetch(weights + (begun + i), level=2)


def _fetch_places(
    f: Function, places: Pointer, mr: int, to: Value, channels: int, size: int
) -> None:
    """Ask for the memory that a tile's results go to: a store would wait for it, and the next."""
    for m in range(mr):
        place = places.pointer(m, I8) + to * size
        for byte in range(0, channels * size, LINE):
            f.prefetch(place + byte)
