"""The register tile of konv.kernels.panels: mr output channels x nv vectors of pixels; and its
weights, rows as they lie in the weight: in the user's array, or copied.

    [group][output channel][ci], each row on cache lines of its own, then all biases
"""

from __future__ import annotations

from typing import Any

from konv.kernels.epilogue import activate, add_residual, apart
from konv.kernels.microtile import UNROLL, Beside, add_run, multiply_add, tiles_ahead
from konv.kernels.pack import HEADER, Arguments, emit_pack
from konv.kernels.panels.copy import AHEAD
from konv.kernels.panels.cut import HEAD
from konv.kernels.scratch import LINE
from konv.kernels.words import Words
from konv.llvm import I8, I64, REAL, SIZE, Function, Module, Pointer, Routine, Value, Variable
from konv.plan import Plan

PARAMETERS = (
    "x", "channels",  # a panel, and how many of the group
    "weights", "row", "bias",  # of the first output channel; numbers from a row to the next
    "y", "plane",  # the first result; numbers from an output channel to the next
    "rows",  # output channels
    "valid",  # pixels of the panel that there are
    "far",  # not 0 if images and results come from memory and go there
    "next", "step",  # of the image: where the next panel begins, numbers from channel to channel
    "panels", "panel",  # side by side that are multiplied, and numbers from one to the next
    "apart",  # bytes from a result to its residual
)  # fmt: skip
FEWER = 2  # channels per trip of a tile that fills its panel, which does more for each
PACKED = 8  # rows of the weight that a thread packs at once


def emit_first(module: Module, plan: Plan, mr: int, nv: int) -> Routine:
    """first(image, *PARAMETERS): the first tile of a panel, which is filled on the way from the
    image.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    params = [(p, I64) for p in ("image", *PARAMETERS)]
    with module.function(f"first_{mr}x{nv}", params, inline=False) as (f, args):
        a: dict[str, Any] = dict(zip(("image", *PARAMETERS), args, strict=True))
        image, x, y = (a[name].to_pointer(real) for name in ("image", "x", "y"))
        weights, bias = a["weights"].to_pointer(real), a["bias"].to_pointer(real)
        ats = [f.least(a["rows"] - 1, m) for m in range(mr)]
        rows, places = (
            [p + a[step] * at for at in ats] for p, step in ((weights, "row"), (y, "plane"))
        )
        starts = [f.splat(bias[at], lanes) for at in ats]
        sums = [[Variable(f, start) for _ in range(nv)] for start in starts]

        def channel(c: Value) -> None:
            line, panel = image + c * a["step"], x + c * (nv * lanes)
            ahead = (line + a["step"] * AHEAD).cast(I8)
            for byte in range(0, nv * lanes * SIZE[real], LINE):
                f.prefetch(ahead + byte)
            for n in range(nv):
                panel.put(n * lanes, line.vector(n * lanes, lanes))
            multiply_add(f, sums, x, rows, c)

        whole = a["channels"] & -FEWER
        with f.loop(whole, step=FEWER) as c:
            for u in range(FEWER):
                channel(c + u)
        with f.loop(a["channels"], start=whole) as c:
            channel(c)
        _store(f, plan, sums, places, a["apart"])
        return f.fn


def emit_rows(module: Module, plan: Plan, mr: int, nv: int) -> Routine:
    """rows(*PARAMETERS): all tiles of panels of nv vectors, row by row; rows missing in the last
    tile are its last row again.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    params = [(p, I64) for p in PARAMETERS]
    with module.function(f"rows_{mr}x{nv}", params, inline=False) as (f, args):
        a: dict[str, Any] = dict(zip(PARAMETERS, args, strict=True))
        x, y = a["x"].to_pointer(real), a["y"].to_pointer(real)
        weights, bias = a["weights"].to_pointer(real), a["bias"].to_pointer(real)
        ats = [f.var(m) for m in range(mr)]
        steps = [f.var(a["row"] * m) for m in range(mr)]
        planes = [f.var(a["plane"] * m) for m in range(mr)]
        ahead = tiles_ahead(f, a["channels"])
        asks = a["far"].differs(0) & (a["panels"] <= 1)
        with f.loop(a["rows"], step=mr) as row:
            left = a["rows"] - row
            with f.when(left < mr):
                for m in range(1, mr):
                    at = f.least(left - 1, m)
                    ats[m].set(at)
                    steps[m].set(a["row"] * at)
                    planes[m].set(a["plane"] * at)
            begin = weights + row * a["row"]
            rows = [begin + step.get() for step in steps]
            with f.loop(a["panels"]) as p:
                to = y + (row * a["plane"] + p * (nv * lanes))
                places = [to + step.get() for step in planes]
                with f.when(a["far"].differs(0)), f.choose(a["panels"] > 1) as (several, one):
                    with several:
                        _ask(f, to + ahead * (nv * lanes), a["plane"], mr, nv * lanes)
                    with one:
                        _ask_places(f, a, y, row + ahead * mr, mr, nv * lanes)
                first = [f.splat(bias[row + at.get()], lanes) for at in ats]
                sums = [[Variable(f, start) for _ in range(nv)] for start in first]
                panel = x + p * a["panel"]
                beside = _image(f, a, panel, row // mr, asks, nv * lanes) if nv > 1 else None
                add_run(f, sums, panel, rows, a["channels"], begin + a["row"] * mr, beside)
                _put(f, plan, a, sums, places)
        return f.fn


def _ask_places(
    f: Function, a: dict[str, Any], y: Pointer, row: Value, mr: int, numbers: int
) -> None:
    """Ask for where results of a later tile go, of this panel or the next: `first` writes the rows
    before this one's first.
    """
    over = row >= a["rows"]
    to = y + a["plane"] * f.select(over, row - a["rows"] - mr, row)
    to = to + f.select(over, f.integer(numbers), 0)
    _ask(f, to, a["plane"], mr, numbers)


def _ask(f: Function, to: Pointer, plane: Value, mr: int, numbers: int) -> None:
    """Ask for the places of so many results in each of mr planes."""
    for m in range(mr):
        place = (to + plane * m).cast(I8)
        for byte in range(0, numbers * SIZE[to.element], LINE):
            f.prefetch(place + byte, write=True)


def _image(
    f: Function, a: dict[str, Any], panel: Pointer, tile: Value, asks: Value, numbers: int
) -> Beside:
    """The next panel's pixels, a channel at each trip: four tiles ask for all of them, fewer for as
    many quarters. All at once between tiles they came as late as if nobody had asked (256->21@88
    1.25 times as fast so, 2048->256@65 1.14, 256->64@129 1.1; of nearer images .97 to 1.02; Granite
    Rapids).
    """
    size, trips = SIZE[panel.element], a["channels"] // UNROLL
    asks = asks & ((tile + 1) * trips <= a["channels"])
    step = f.select(asks, a["step"] * size, 0)
    begin = f.select(asks, a["next"], panel.address())
    return Beside(f.var(begin + tile * trips * step), step, numbers)


def _put(
    f: Function,
    plan: Plan,
    a: dict[str, Any],
    sums: list[list[Variable]],
    places: list[Pointer],
) -> None:
    """Write a tile, of its last vector the pixels that there are."""
    lanes = sums[0][0].get().lanes
    last = a["valid"] - (len(sums[0]) - 1) * lanes
    with f.choose(last >= lanes) as (whole, part):
        with whole:
            _store(f, plan, sums, places, a["apart"])
        with part:
            _store(f, plan, sums, places, a["apart"], f.below(last, lanes))


def _store(
    f: Function,
    plan: Plan,
    sums: list[list[Variable]],
    places: list[Pointer],
    distance: Value,
    mask: Value | None = None,
) -> None:
    """Write the tile, of its last vector the lanes of a mask; adding 0 turns -0 into 0. All of the
    residual is read before anything is written: missing rows are the last one again.
    """
    lanes, last = sums[0][0].get().lanes, len(sums[0]) - 1
    each = [
        (to + n * lanes, total.get() + 0.0, mask if n == last else None)
        for to, row in zip(places, sums, strict=True)
        for n, total in enumerate(row)
    ]
    if plan.residual:
        each = [
            (to, _with_residual(f, plan, value, to, distance, some), some)
            for to, value, some in each
        ]
    for to, value, some in each:
        done = activate(f, plan, value)
        if some is None:
            to.put(0, done)
        else:
            f.store_masked(to, done, some)


def _with_residual(
    f: Function, plan: Plan, value: Value, to: Pointer, distance: Value, mask: Value | None
) -> Value:
    if mask is None:
        return add_residual(f, plan, value, to, distance)
    return value + f.load_masked(apart(to, distance), mask)


def emit_weights(module: Module, dtype: str) -> None:
    """Add `pack`: rows are copied where channels are neighbours, else some are filled at once,
    as the weight of an adjoint lies.
    """
    real = REAL[dtype]
    line = LINE // SIZE[real]

    def units(f: Function, a: Arguments) -> Value:  # noqa: ARG001 - as emit_pack asks
        every: Value = a["groups"] * ((a["co"] + (PACKED - 1)) // PACKED)
        return every

    def body(f: Function, a: Arguments, unit: Value) -> None:
        each = (a["co"] + (PACKED - 1)) // PACKED
        g, k = unit // each, unit % each * PACKED
        row, count = (((a["ci"] + (line - 1)) // line) | 1) * line, f.least(a["co"] - k, PACKED)
        first, every = g * a["co"] + k, a["groups"] * a["co"]
        rows = a["packed"] + HEADER // SIZE[real]
        biases = rows + every * row
        with f.when(unit.equals(0)):
            head = Words(a["packed"].cast(I64), HEAD)
            head["rows"], head["biases"], head["row"] = rows.address(), biases.address(), row
        source = a["weights"] + g * a["by_group"] + k * a["by_co"]
        to = rows + first * row
        with f.choose(a["by_ci"].equals(1)) as (neighbours, others):
            with neighbours, f.loop(count) as r:
                f.copy(to + r * row, source + r * a["by_co"], a["ci"])
            with others, f.loop(a["ci"]) as c, f.loop(count) as r:
                to[r * row + c] = source[r * a["by_co"] + c * a["by_ci"]]
        with f.choose(a["bias"].address().differs(0)) as (some, none):
            with some, f.loop(count) as r:
                biases[first + r] = a["bias"][first + r] + 0.0
            with none:
                f.clear(biases + first, count)

    emit_pack(module, dtype, units, body)
