"""The register tile of the planar kernel: nc output channels x up to nv vectors of pixels; and its
weights, packed [group][block][channel][tap][nc].
"""

from __future__ import annotations

from functools import partial
from typing import Any

from konv.kernels.epilogue import activate, apart, finish
from konv.kernels.pack import HEADER, Arguments, alone, emit_pack
from konv.kernels.planar.pair import Pair, in_pairs, weave
from konv.kernels.planar.strip import TAP
from konv.kernels.results import AHEAD
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
from konv.target import Target

PARAMETERS = (
    "x", "weights", "bias",  # of the first pixel and the first output channel
    "list", "count",  # the taps of the phase at hand
    "channels", "plane",  # of a group in the strip: how many, numbers from one to the next
    "taps",  # of the whole kernel
    "to", "apart",  # results: where, numbers from one output channel to the next
    # Of outputs that go out at once: a row in the strip, pixels in a row, from row to row
    # of the output, and how many rows; 0: they go to a block.
    "pitch", "width", "row", "rows",
    "residual",  # bytes from a result to what is added to it
)  # fmt: skip


def emit_tiles(module: Module, plan: Plan, nc: int, pair: Pair | None = None) -> Routine:
    """tiles(*PARAMETERS, vectors): so many vectors of pixels, in tiles as even as can be: a last
    tile of one vector would have too few sums in flight.
    """
    real, lanes, most = REAL[plan.dtype], module.target.lanes(plan.dtype), plan.vectors
    tiles = [_emit_tile(module, plan, nc, nv, pair) for nv in range(1, most + 1)]
    params = [*_parameters(real), ("vectors", I64)]
    with module.function(f"tiles_{nc}", params, inline=False) as (f, args):
        x, vectors = args[0], args[-1]
        count = (vectors + (most - 1)) // most
        each, more = vectors // count, vectors % count
        at = f.var(0)
        with f.loop(count) as tile:
            now = each + f.select(tile < more, f.integer(1), 0)
            pixel = at.get() * lanes
            for nv, fn in enumerate(tiles, 1):
                with f.when(now.equals(nv)):
                    f.call(fn, [x + pixel, *args[1:-1], pixel])
            at.add(now)
        return f.fn


def _parameters(real: Type) -> list[tuple[str, object]]:
    pointers = {"x": real, "weights": real, "bias": real, "list": I64, "to": real}
    return [(p, pointer_to(pointers[p]) if p in pointers else I64) for p in PARAMETERS]


def _emit_tile(module: Module, plan: Plan, nc: int, nv: int, pair: Pair | None) -> Routine:
    """One tile: sums begin as the bias; adding 0 at the end turns -0 into 0. Both phases of a
    `pair` are computed, and all that a tile is told is of phase 0.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    params = [*_parameters(real), ("pixel", I64)]
    with module.function(f"tile_{nc}x{nv}", params, inline=False) as (f, args):
        a, pixel = dict(zip(PARAMETERS, args, strict=False)), args[-1]
        sums = [
            [[Variable(f, f.splat(a["bias"][k], lanes)) for _ in range(nv)] for k in range(nc)]
            for _ in range(2 if pair else 1)
        ]
        # Taps of a row are listed one after the other; pairs take those of a row at once.
        row = pair.taps[0] if pair else 1
        with f.loop(a["channels"]) as c:
            x, weights = a["x"] + c * a["plane"], a["weights"] + c * (a["taps"] * nc)
            with f.loop(a["count"], step=row) as t:
                tap = a["list"] + t * TAP
                if pair:
                    pair.add_row(f, sums, x + tap[0], weights + tap[1] * nc, lanes, a["plane"] * 4)
                else:
                    _multiply_add(f, sums[0], x + tap[0], weights + tap[1] * nc, lanes)
        done = [[[total.get() + 0.0 for total in row] for row in each] for each in sums]
        results = done[0]
        if pair:
            results = [weave(f, *rows) for rows in zip(*done, strict=True)]
            pixel = pixel * 2
        if not (at_once(plan, module.target) or by_rows(plan, module.target)):
            _to_block(f, plan, a, results, pixel)
            return f.fn
        with f.choose(a["rows"] > 0) as (yes, no):
            with yes:
                to = _to_output if at_once(plan, module.target) else _to_row
                to(f, plan, a, results, pixel)
            with no:
                _to_block(f, plan, a, results, pixel)
        return f.fn


def at_once(plan: Plan, target: Target) -> bool:
    """Whether results may go to the output from registers, which takes masked stores. Those of AVX2
    are slow on some processors, other machines have none.
    """
    return plan.blocked and target.vector_bytes == 64 and not in_pairs(plan)


def by_rows(plan: Plan, target: Target) -> bool:
    """Whether tiles may take a row at a time, whose results then go to the output from registers;
    masked stores are for its last vector, if it is not full.
    """
    wide = target.vector_bytes == 32 or (target.vector_bytes == 64 and in_pairs(plan))
    return plan.blocked and wide


def _to_block(
    f: Function, plan: Plan, a: dict[str, Any], results: list[list[Value]], pixel: Value
) -> None:
    """Activated here, unless a residual is to be added first, on the way out of the block."""
    for k, row in enumerate(results):
        for v, vector in enumerate(row):
            value = vector if plan.residual else activate(f, plan, vector)
            (a["to"] + pixel + k * a["apart"]).put(v * vector.lanes, value)


def _to_output(
    f: Function, plan: Plan, a: dict[str, Any], results: list[list[Value]], pixel: Value
) -> None:
    """Vectors that run over the end of a row leave in two masked stores, all others in one: the
    pitch is no less than a vector.
    """
    pitch, width, lanes = a["pitch"], a["width"], results[0][0].lanes
    store = partial(_store_part, f, plan, a)
    row, column = f.var(pixel // pitch), f.var(pixel % pitch)
    for v in range(len(results[0])):
        here, at = row.get(), column.get()
        line = a["to"] + here * a["row"]
        left = f.between(lanes, 0, width - at)
        for k, vectors in enumerate(results):
            store(line + k * a["apart"] + at, vectors[v], left)
        with f.when((at + lanes > pitch) & (here + 1 < a["rows"])):
            turn = pitch - at
            right = f.between(lanes, turn, turn + width)
            for k, vectors in enumerate(results):
                store(line + k * a["apart"] + (a["row"] - turn), vectors[v], right)
        over = at + lanes >= pitch
        column.set(f.select(over, at + lanes - pitch, at + lanes))
        row.set(f.select(over, here + 1, here))


def _to_row(
    f: Function, plan: Plan, a: dict[str, Any], results: list[list[Value]], pixel: Value
) -> None:
    """Vectors of one row."""
    lanes = results[0][0].lanes
    for v in range(len(results[0])):
        at = pixel + v * lanes
        with f.choose(at + lanes <= a["width"]) as (full, part):
            with full:
                for k, row in enumerate(results):
                    place = a["to"] + k * a["apart"] + at
                    place.put(0, finish(f, plan, row[v], place, a["residual"]))
                    f.prefetch(place + AHEAD // SIZE[place.element])
            with part:
                mask = f.between(lanes, 0, a["width"] - at)
                for k, row in enumerate(results):
                    _store_part(f, plan, a, a["to"] + k * a["apart"] + at, row[v], mask)


def _store_part(
    f: Function, plan: Plan, a: dict[str, Any], place: Pointer, value: Value, mask: Value
) -> None:
    if plan.residual:
        value = value + f.load_masked(apart(place, a["residual"]), mask)
    f.store_masked(place, activate(f, plan, value), mask)


def _multiply_add(
    f: Function, sums: list[list[Variable]], x: Pointer, weights: Pointer, lanes: int
) -> None:
    vectors = [x.vector(v * lanes, lanes) for v in range(len(sums[0]))]
    for k, row in enumerate(sums):
        w = f.splat(weights[k], lanes)
        for total, vector in zip(row, vectors, strict=True):
            total.set(f.fma(vector, w, total.get()))


def emit_weights(module: Module, dtype: str, nc: int) -> None:
    """Add `pack`: blocks of nc output channels, each [channel][tap][nc], then the biases."""
    real = REAL[dtype]

    def body(f: Function, a: Arguments, unit: Value) -> None:  # noqa: ARG001 - there is one
        out = f.var(HEADER // SIZE[real])

        def add(value: Value) -> None:
            (a["packed"] + out.get())[0] = value
            out.add(1)

        with f.loop(a["groups"]) as g, f.loop(a["co"], step=nc) as k0:
            corner = a["weights"] + g * a["by_group"] + k0 * a["by_co"]
            with f.loop(a["ci"]) as c, f.loop(a["taps"]) as t:
                source = corner + t * a["by_tap"] + c * a["by_ci"]
                with f.loop(f.least(a["co"] - k0, nc)) as k:
                    add(source[k * a["by_co"]])
        with f.loop(a["groups"] * a["co"]) as k:
            bias = f.var_of(f.constant(real, 0.0))
            with f.when(a["bias"].address().differs(0)):
                bias.set(a["bias"][k] + 0.0)
            add(bias.get())

    emit_pack(module, dtype, alone, body)
