"""The register tile: mr pixels x nr vectors of output channels, all in registers over the whole reduction.

    for tap in the row list of this tile:                  THE LOOP
        for c in channels of the group:
            load nr vectors of packed weights              shared by all pixels
            for m in mr pixels: broadcast x[m][c]; nr multiply-adds

Bound by multiply-adds, not by loads, as long as mr * nr >= 2 (mr + nr) on a machine with two of each a
cycle; 4 x 3 on 16 registers (12 sums, 3 weights, 1 broadcast) and 6 x 4 on 32 satisfy it. Every output is
one chain of multiply-adds in the order taps, channels: the same whatever tile, thread or batch it is in.
"""

from __future__ import annotations

from llvmlite import ir

from konv.llvm import I64, REAL, Function, Module, Pointer, Value, Variable, pointer_to

UNROLL = 4  # channels per trip: the loop's own three instructions cost 25 % at 1, 6 % at 4

PARAMETERS = (
    "rows", "count",  # the tile's row list and its length
    "weights", "tap_stride",  # packed weights of this block, elements from one tap to the next
    "bias",  # of this block
    "first", "channels",  # channels of the group in the input: where they begin, how many
    "places", "to", "valid",  # results: address per pixel, offset in elements, channels that exist
)  # fmt: skip


def emit_tile(module: Module, dtype: str, mr: int, nr: int, masked: bool) -> ir.Function:
    """The function that computes one tile; `masked`: stores of the last vector stop at `valid` channels."""
    real, lanes = REAL[dtype], module.target.lanes(dtype)
    pointers = {"rows": I64, "weights": real, "bias": real, "places": I64}
    params = [(p, pointer_to(pointers[p]) if p in pointers else I64) for p in PARAMETERS]
    with module.function(f"tile_{mr}x{nr}", params, inline=False) as (f, args):
        a = dict(zip(PARAMETERS, args, strict=True))
        bias = [a["bias"].vector(n * lanes, lanes) for n in range(nr)]
        sums = [[Variable(f, b) for b in bias] for _ in range(mr)]
        with f.loop(a["count"]) as t:
            row = a["rows"] + t * (mr + 1)
            weights = a["weights"] + row[0] * a["tap_stride"]
            pixels = [row.pointer(1 + m, real) + a["first"] for m in range(mr)]
            whole = a["channels"] & -UNROLL
            with f.loop(whole, step=UNROLL) as c:
                for u in range(UNROLL):
                    _multiply_add(f, sums, weights, pixels, c + u, lanes)
            with f.loop(a["channels"], start=whole) as c:
                _multiply_add(f, sums, weights, pixels, c, lanes)
        _store(f, sums, a, real, lanes, masked)
        return f.fn


def _multiply_add(
    f: Function, sums: list[list[Variable]], weights: Pointer, pixels: list[Pointer], c: Value, lanes: int
) -> None:
    nr = len(sums[0])
    vectors = [weights.vector(c * (nr * lanes) + n * lanes, lanes) for n in range(nr)]
    for row, pixel in zip(sums, pixels, strict=True):
        x = f.splat(pixel[c], lanes)
        for total, vector in zip(row, vectors, strict=True):
            total.set(f.fma(x, vector, total.get()))


def _store(
    f: Function, sums: list[list[Variable]], a: dict[str, Pointer], real: ir.Type, lanes: int, masked: bool
) -> None:
    """Write the tile; adding 0 turns -0 into 0, so that leaving out a tap of padding changes no bit."""
    nr = len(sums[0])
    zero = f.zero(real, lanes)
    places = [a["places"].pointer(m, real) + a["to"] for m in range(len(sums))]
    for place, row in zip(places, sums, strict=True):
        for n, total in enumerate(row[: nr - 1 if masked else nr]):
            place.put(n * lanes, total.get() + zero)
    if not masked:
        return
    last = (nr - 1) * lanes
    with f.choose(a["valid"] >= nr * lanes) as (whole, part):
        with whole:
            for place, row in zip(places, sums, strict=True):
                place.put(last, row[-1].get() + zero)
        with part:
            for place, row in zip(places, sums, strict=True):
                f.store_masked(place, last, row[-1].get() + zero, a["valid"] - last)
