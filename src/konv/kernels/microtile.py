"""The register tile: mr pixels x nr vectors of output channels, all in registers over the whole
reduction.

    for tap in the row list of this tile:                  THE LOOP
        for c in channels of the group:
            load nr vectors of packed weights              shared by all pixels
            for m in mr pixels: broadcast x[m][c]; nr multiply-adds

Bound by multiply-adds, not by loads, as long as mr * nr >= 2 (mr + nr) on a machine with two of
each a cycle; 4 x 3 on 16 registers (12 sums, 3 weights, 1 broadcast) and 6 x 4 on 32 satisfy it.
Every output is one chain of multiply-adds in the order taps, channels: the same whatever tile,
thread or batch it is in. Of deep layers a tile computes one pass (konv.kernels.passes).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from konv.kernels.epilogue import activate, add_residual
from konv.kernels.scratch import LINE
from konv.kernels.stored import element, write
from konv.llvm import (
    I64,
    REAL,
    SIZE,
    Function,
    Module,
    Pointer,
    Routine,
    Type,
    Value,
    Variable,
    pointer_to,
)
from konv.plan import Plan

UNROLL = 4  # channels per trip: the loop's own three instructions cost 25 % at 1, 6 % at 4

# Channels of the tiles between a result's place asked for and its store, at least, where it comes
# from memory (8 images, channels-last: 16->96@112 1.04 to 1.09 times as fast as one tile ahead,
# 24->144@56 1.05 to 1.08; of 64 channels no difference, Zen 3).
LEAD = 128

PARAMETERS = (
    "rows", "count",  # the tile's row list and its length
    "weights", "tap_stride",  # packed weights of this block, elements from one tap to the next
    "bias",  # of this block
    "first", "channels",  # channels of the group in the input: where they begin, how many
    "places", "to",  # results: address per pixel, offset in elements
)  # fmt: skip
PASS = (
    "sums",  # of this tile, between passes
    "begun", "ends",  # as in UNIT
)  # fmt: skip
APART = "apart"  # one more where a tile adds the residual: bytes from a result to its own


def parameters(plan: Plan, passes: bool = False) -> tuple[str, ...]:
    """What the function of a tile takes."""
    apart = (APART,) if plan.residual and not plan.blocked else ()
    return (*PARAMETERS, *(PASS if passes else ()), *apart)


def emit_tile(module: Module, plan: Plan, nr: int, odd: int, passes: bool = False) -> Routine:
    """The function that computes one tile of nr vectors; `odd`: channels of the last one, 0 if it
    is full; `passes`: or what one pass adds to it.
    """
    with tile_function(module, plan, nr, odd, passes) as (f, sums, a):
        with f.loop(a["count"]) as t:
            row = a["rows"] + t * (plan.pixels + 1)
            add_channels(f, plan, sums, a, row, a["weights"] + row[0] * a["tap_stride"])
        return f.fn


def add_channels(
    f: Function,
    plan: Plan,
    sums: list[list[Variable]],
    a: dict[str, Any],
    row: Pointer,
    weights: Pointer,
    masks: list[Value] | None = None,
) -> None:
    """All channels of one tap: its row of addresses, its weights; `masks`: lanes that have it, for
    each vector.
    """
    pixels = [row.pointer(1 + m, REAL[plan.dtype]) + a["first"] for m in range(plan.pixels)]
    channels = f.integer(plan.depth) if plan.depth else a["channels"]
    whole = channels & -UNROLL
    if plan.depth >= UNROLL or not plan.depth:
        with f.loop(whole, step=UNROLL) as c:
            for u in range(UNROLL):
                multiply_add(f, sums, weights, pixels, c + u, masks)
    for channel in range(plan.depth & -UNROLL, plan.depth):
        multiply_add(f, sums, weights, pixels, f.integer(channel), masks)
    if not plan.depth:
        with f.loop(channels, start=whole) as c:
            multiply_add(f, sums, weights, pixels, c, masks)


@contextmanager
def tile_function(
    module: Module, plan: Plan, nr: int, odd: int, passes: bool = False
) -> Iterator[tuple[Function, list[list[Variable]], dict[str, Any]]]:
    """The frame of a tile: sums begin as the bias, the block adds to them, then they are stored."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    pointers = {"rows": I64, "weights": real, "bias": real, "places": I64, "sums": real}
    names, wide = parameters(plan, passes), nr * lanes
    params = [(p, pointer_to(pointers[p]) if p in pointers else I64) for p in names]
    name = f"tile_{plan.pixels}x{nr}" + (f"_{odd}" if odd else "")
    with module.function(name, params, inline=False) as (f, args):
        a = dict(zip(names, args, strict=True))
        if not passes:
            bias = [a["bias"].vector(n * lanes, lanes) for n in range(nr)]
            sums = [[Variable(f, b) for b in bias] for _ in range(plan.pixels)]
            yield f, sums, a
            _store(f, plan, sums, a, odd)
            return
        begun, at = a["begun"].differs(0), [n * lanes for n in range(nr)]
        begin = f.select_pointer(begun, a["sums"], a["bias"])
        step = f.select(begun, f.integer(wide), 0)  # all pixels begin as the bias
        sums = [
            [Variable(f, begin.vector(step * m + n, lanes)) for n in at] for m in range(plan.pixels)
        ]
        yield f, sums, a
        with f.choose(a["ends"].differs(0)) as (last, others):
            with last:
                _store(f, plan, sums, a, odd)
            with others:
                for m, row in enumerate(sums):
                    for n, total in zip(at, row, strict=True):
                        a["sums"].put(m * wide + n, total.get())


def multiply_add(
    f: Function,
    sums: list[list[Variable]],
    weights: Pointer,
    pixels: list[Pointer],
    c: Value,
    masks: list[Value] | None = None,
) -> None:
    """One channel: its vectors of weights times its number of each pixel."""
    nr, lanes = len(sums[0]), sums[0][0].type.count
    vectors = [weights.vector(c * (nr * lanes) + n * lanes, lanes) for n in range(nr)]
    for row, pixel in zip(sums, pixels, strict=True):
        x = f.splat(pixel[c], lanes)
        for n, (total, vector) in enumerate(zip(row, vectors, strict=True)):
            added = f.fma(x, vector, total.get())
            total.set(f.select(masks[n], added, total.get()) if masks else added)


@dataclass(frozen=True, slots=True)
class Beside:
    """What else a tile asks for: so many numbers of a line at each trip, lines `step` apart from
    the one at `at` on.
    """

    at: Variable
    step: Value
    numbers: int

    def ask(self, f: Function, element: Type) -> None:
        """The next line."""
        line = self.at.get().to_pointer(element)
        for number in range(0, self.numbers, LINE // SIZE[element]):
            f.prefetch(line + number, level=2)
        self.at.add(self.step)


def add_run(
    f: Function,
    sums: list[list[Variable]],
    weights: Pointer,
    pixels: list[Pointer],
    channels: Value,
    behind: Pointer,
    beside: Beside | None = None,
) -> None:
    """Channels whose numbers of each pixel follow one another; as many numbers `behind` the tile's,
    which the next one reads, are asked for.
    """
    whole = channels & -UNROLL
    with f.loop(whole, step=UNROLL) as c:
        line = behind + c * len(pixels)
        for number in range(0, UNROLL * len(pixels), LINE // SIZE[line.element]):
            f.prefetch(line + number, level=2)
        if beside:
            beside.ask(f, line.element)
        for u in range(UNROLL):
            multiply_add(f, sums, weights, pixels, c + u)
    with f.loop(channels, start=whole) as c:
        multiply_add(f, sums, weights, pixels, c)


def tiles_ahead(f: Function, channels: Value) -> Value:
    """Tiles of so many channels from one to that whose places it asks for."""
    return f.most(f.integer(LEAD) // channels, 1)


def _store(
    f: Function, plan: Plan, sums: list[list[Variable]], a: dict[str, Any], odd: int
) -> None:
    kind = a["weights"].element if plan.blocked else element(plan.dtype)
    places = [a["places"].pointer(m, kind) + a["to"] for m in range(len(sums))]
    store(f, plan, sums, places, a.get(APART), odd)


def store(
    f: Function,
    plan: Plan,
    sums: list[list[Variable]],
    places: list[Pointer],
    apart: Value | None,
    odd: int,
    offsets: Sequence[Value] = (),
) -> None:
    """Write the tile, its vectors one after the other or at `offsets`; adding 0 turns -0 into 0, so
    that leaving out a tap of padding changes no bit.

    All of the residual is read before anything is written: missing pixels are the last one again.
    """
    lanes, last = sums[0][0].get().lanes, len(sums[0]) - 1

    ats: Sequence[Value | int] = offsets or [n * lanes for n in range(last + 1)]
    added = plan.residual and not plan.blocked
    if added:
        for to, row in zip(places, sums, strict=True):
            for n, total in enumerate(row):
                count = odd if n == last else 0
                value = total.get() + 0.0
                total.set(add_residual(f, plan, value, to + ats[n], apart, count))
    for to, row in zip(places, sums, strict=True):
        for n, total in enumerate(row):
            value = total.get() if added else total.get() + 0.0
            if added or not plan.residual:  # else: on the way from the block to the output
                value = activate(f, plan, value)
            write(f, plan.dtype, to + ats[n], value, odd if n == last else 0)
