"""One pixel and one tap: a matrix times a vector, with the weights read as they lie.

Where a layer has no more to do than that - the last layer of a classifier, squeeze and excite -
each weight is used once. To pack it, and at each call to prove that the packed ones are still
true, costs more than the products do. Here outputs stand in the lanes as in konv.kernels.direct,
and a few channels of as many rows of the weight as a vector has lanes are transposed in registers:

    for unit in units: up to 32 rows, in groups of as many as a vector has lanes
        for 16 bytes of channels:
            for group in groups: load, transpose, multiply-adds

Every output is the one chain of multiply-adds that direct and planar compute, from the bias on, in
the order of the channels: the bits are the same, so this may stand in for them wherever it fits.

Rows are read 16 bytes at a time, a vector's rows together with those of some more: 6.5
cycles for 16 bytes of 8 rows (llvm-mca, Zen 3). A whole call of 1152 x 48 weights takes 13 us, with
digest and packed product 20; of 1500 x 1500, 270 and 840, or 120 and 270 with two threads. More
than 32 rows at once are more than prefetchers follow: 64 took 960 x 1280 from 104 us to 148, 1280 x
1000 from 108 to 131 (from the third-level cache, in turns with PyTorch; AVX-512, Granite Rapids).
"""

from __future__ import annotations

from konv.geometry import Conv
from konv.kernels.epilogue import activate
from konv.kernels.region import emit_entry, emit_units
from konv.kernels.scratch import LINE
from konv.kernels.words import Words
from konv.llvm import I64, REAL, SIZE, Function, Module, Pointer, Routine, Value, Variable
from konv.plan import Plan, Strides
from konv.target import BYTES, Target

# `row`: numbers from one output's weights to the next's; `each`: groups in a unit.
SINGLE_JOB = ("units", "ci", "co", "row", "each")
ALIKE = (
    "direct",
    "panels",
    "planar",
    "planes",
)  # algorithms with that chain; of one tap, they differ in none
GROUPS = 4  # at most: chains that hide the four cycles of a multiply-add, and registers for them
ROWS = 32  # at most, in all groups of a unit
PIECE = 16  # bytes of a row that are transposed together
# Bytes from row to row: in such steps, 32 rows have room for 16 lines in a first-level cache of 64
# sets of 8. Then a whole line of a row is taken at a time, lest each be fetched four times (2048 x
# 256: 300 us instead of 55; packed weights and their digest 75; Zen 3).
CROWDED = 2048
# AVX-512 takes lines of all rows of so many bytes: by calls one after the other 960 -> 1280 75 us
# instead of 88, 512 -> 512 13.8 and 14.5; but of short rows 48 -> 1152 7.8 and 6.8 (Granite
# Rapids).
LONG = 2048
# Lines by which a group of such rows is behind the one before it, so that those of one group alone
# meet in a set: 2048 x 256 takes 47 us then, as prefetchers can follow; with all groups abreast and
# lines asked for 1024 bytes in advance 59, without asking 55 (Zen 3, two threads; by 4 lines 52).
BEHIND = 7
# Multiply-adds that are worth a second thread: 1152 x 48 takes 5.7 us alone and 4.5 by two, 48 x
# 1152 7.0 and 5.6; 64 x 512 4.1 and 4.4 (Zen 3).
SHARED = 50_000
PARAMETERS = ("x", "weights", "bias", "y", "count", "row", "ci")

name = "single"


def fits(conv: Conv, plan: Plan, x: Strides, weight: Strides) -> bool:
    """Whether this computes a layer by a plan, on arrays of such strides in elements, and is the
    quicker way.
    """
    one = all(a.size == a.kernel == a.up == 1 and a.lo == a.hi == 0 for a in conv.axes)
    return (
        one
        and conv.n == conv.groups == 1
        and not (conv.transposed or plan.residual)
        and plan.algorithm in ALIKE
        and plan.dtype in ("float32", "float64")
        and (conv.ci == 1 or x[1] == weight[1] == 1)
    )


def plan_like(plan: Plan, target: Target, weight: Strides) -> Plan:
    """The plan that stands for this kernel instead of one of direct, on a weight of such strides in
    elements.
    """
    row = weight[0] * BYTES[plan.dtype]
    lines = row % CROWDED == 0 or (target.vector_bytes == 64 and row >= LONG)
    return Plan(
        name, plan.dtype, False, False, 1, _most(plan.dtype, target),
        form=(LINE // PIECE if lines else 1,),
        activation=plan.activation, slope=plan.slope,
    )  # fmt: skip


def _most(dtype: str, target: Target) -> int:
    """Groups of rows in a unit."""
    return min(GROUPS, ROWS // target.lanes(dtype))


def job(conv: Conv, target: Target, weight: Strides) -> list[int]:
    """The words of SINGLE_JOB: units as even as may be."""
    groups = -(-conv.co // target.lanes(conv.dtype))
    units = -(-groups // _most(conv.dtype, target))
    return [units, conv.ci, conv.co, weight[0], -(-groups // units)]


def threads(conv: Conv, at_hand: int) -> int:
    """How many are worth waking."""
    return 1 if conv.exact_macs < SHARED else at_hand


def emit(plan: Plan, target: Target) -> Module:
    """Exports `run`; in the place of the scratch memory it takes the bias, or 0."""
    module = Module(target, name)
    lanes, real = target.lanes(plan.dtype), REAL[plan.dtype]
    tiles = [_emit_tile(module, plan, groups) for groups in range(1, plan.vectors + 1)]

    def work(f: Function, call: Words, thread: Value) -> None:
        job = Words(call.pointer("job", I64), SINGLE_JOB)
        row, bias = job["row"] * SIZE[real], call["scratch"]

        def body(unit: Value) -> None:
            first = unit * job["each"] * lanes
            count = f.least(job["each"] * lanes, job["co"] - first)
            own = f.select(bias.equals(0), bias, bias + first * SIZE[real])
            weights, y = call["weights"] + first * row, call["y"] + first * SIZE[real]
            for groups, tile in enumerate(tiles, 1):
                least, most = (groups - 1) * lanes, groups * lanes
                with f.when((count > least) & (count <= most)):
                    f.call(tile, [call["x"], weights, own, y, count, row, job["ci"]])

        emit_units(f, call, thread, job["units"], body)

    emit_entry(module, work)
    return module


def _emit_tile(module: Module, plan: Plan, groups: int) -> Routine:
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
