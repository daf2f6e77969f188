"""Rows of the weight are outputs: a few channels of as many rows as a vector has lanes are turned
in registers.
"""

from __future__ import annotations

from konv.kernels.epilogue import activate
from konv.llvm import I64, REAL, SIZE, Function, Module, Pointer, Routine, Value, Variable
from konv.plan import Plan

PIECE = 16  # bytes of a row that are transposed together
# Lines by which a group of such rows is behind the one before it, so that those of one group alone
# meet in a set: 2048 x 256 takes 47 us then, as prefetchers can follow; with all groups abreast and
# lines asked for 1024 bytes in advance 59, without asking 55 (Zen 3, two threads; by 4 lines 52).
BEHIND = 7
PARAMETERS = ("x", "weights", "bias", "y", "count", "row", "ci")


def emit_along(module: Module, plan: Plan, groups: int) -> Routine:
    """tile(x, weights, bias, y, count, row, ci): `count` outputs, in so many groups. The last group
    ends with them, so it may share some with the one before; both compute the same.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    params = [(p, I64) for p in PARAMETERS]
    with module.function(f"single_{groups}", params, inline=False) as (f, arguments):
        a = dict(zip(PARAMETERS, arguments, strict=True))
        x, few = a["x"].to_pointer(real), PIECE // SIZE[real]
        begins = [f.integer(g * lanes) for g in range(groups)]
        if groups > 1:
            begins[-1] = a["count"] - lanes
        # Of a single group's missing rows each is the last one again.
        rows = [f.least(f.integer(i), a["count"] - 1) * a["row"] for i in range(lanes)]
        aside = [begin * a["row"] for begin in begins]
        some = f.below(a["count"], lanes) if groups == 1 else None
        sums = [f.var_of(f.zero(real, lanes)) for _ in begins]
        with f.when(a["bias"].differs(0)):
            for total, begin in zip(sums, begins, strict=True):
                bias = a["bias"].to_pointer(real) + begin
                total.set(f.load_masked(bias, some) if some else bias.vector(0, lanes))

        done: Value = f.integer(0)
        if plan.form[0] > 1:
            done = a["ci"] & -(few * plan.form[0])
            _add_lines(f, sums, x, a["weights"], aside, rows, done, plan.form[0])
        for wide in dict.fromkeys((few, 1)):
            end = a["ci"] & -wide
            with f.loop(end, start=done, step=wide) as c:
                at = a["weights"] + c * SIZE[real]
                for total, far in zip(sums, aside, strict=True):
                    here = [(at + far + row).to_pointer(real) for row in rows]
                    _add(f, total, x + c, here, wide, 1)
            done = end
        for total, begin in zip(sums, begins, strict=True):
            value, y = activate(f, plan, total.get() + 0.0), a["y"].to_pointer(real) + begin
            if some:
                f.store_masked(y, value, some)
            else:
                y.put(0, value)
        return f.fn


def _add_lines(
    f: Function,
    sums: list[Variable],
    x: Pointer,
    weights: Value,
    aside: list[Value],
    rows: list[Value],
    end: Value,
    pieces: int,
) -> None:
    """The products of whole lines of the rows, up to a channel; each group of rows is BEHIND lines
    behind the one before it.
    """
    size, few = SIZE[x.element], PIECE // SIZE[x.element]
    step = few * pieces
    with f.loop(end + (len(sums) - 1) * BEHIND * step, step=step) as ahead:
        for group, (total, far) in enumerate(zip(sums, aside, strict=True)):
            c = ahead - group * BEHIND * step
            with f.when((c >= 0) & (c < end)):
                at = weights + far + c * size
                here = [(at + row).to_pointer(x.element) for row in rows]
                _add(f, total, x + c, here, few, pieces)


def _add(
    f: Function, total: Variable, x: Pointer, rows: list[Pointer], wide: int, pieces: int
) -> None:
    """The products of so many pieces, so many numbers wide, of some rows of the weight."""
    for first in range(0, wide * pieces, wide):
        here = [row + first for row in rows]
        for n, weights in enumerate(_transposed(f, here, wide), first):
            total.set(f.fma(f.splat(x[n], len(rows)), weights, total.get()))
        # One after the other, or LLVM needs more registers than there are.
        total.set(f.now(total.get()))


def _transposed(f: Function, rows: list[Pointer], few: int) -> list[Value]:
    """The first numbers (1, 2 or 4) of each row, as vectors with a row in each lane."""
    if few == 1:
        return [f.join([f.splat(row[0], 1) for row in rows])]
    pieces = [row.vector(0, few) for row in rows]
    # In each 16 bytes of a vector a piece of another row: of rows 0, 4, ... in the first vector.
    wide = [f.join(pieces[i::few]) for i in range(few)]
    if few == 2:
        return [_woven(f, wide[0], wide[1], order) for order in ("aA", "bB")]
    ab = [_woven(f, wide[0], wide[1], order) for order in ("aAbB", "cCdD")]
    cd = [_woven(f, wide[2], wide[3], order) for order in ("aAbB", "cCdD")]
    pairs = zip(ab, cd, strict=True)
    return [_woven(f, low, high, order) for low, high in pairs for order in ("abAB", "cdCD")]


def _woven(f: Function, first: Value, second: Value, order: str) -> Value:
    """Numbers of two vectors in each 16 bytes: a, b, ... of the first, A, B, ... of the second."""
    lanes, few = first.lanes, len(order)
    at = ["abcd".find(n) if n.islower() else lanes + "ABCD".find(n) for n in order]
    return f.shuffle(first, second, [piece + i for piece in range(0, lanes, few) for i in at])
