"""One pixel and one tap: a matrix times a vector, with the weights read as they lie.

Where a layer has no more to do than that - the last layer of a classifier, squeeze and excite -
each weight is used once. To pack it, and at each call to prove that the packed ones are still
true, costs more than the products do. Here outputs stand in the lanes as in konv.kernels.direct,
and a few channels of as many rows of the weight as a vector has lanes are transposed in registers
(konv.kernels.single.along):

    for unit in units: up to 32 rows, in groups of as many as a vector has lanes
        for 16 bytes of channels:
            for group in groups: load, transpose, multiply-adds

Rows of a transposed layer's weight are input channels, and nothing is turned
(konv.kernels.single.across).

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
from konv.kernels.region import emit_entry, emit_units
from konv.kernels.scratch import LINE
from konv.kernels.single.across import NUMBERS, emit_across
from konv.kernels.single.along import PIECE, emit_along
from konv.kernels.words import Words
from konv.llvm import I64, REAL, SIZE, Function, Module, Value
from konv.plan import Plan, Strides
from konv.target import BYTES, Target

# `row`: numbers from one output's weights to the next's, or from one input channel's if the layer
# is transposed; `each`: vectors of outputs in a unit. Of a transposed layer `alike` outputs in a
# row have one bias, of which there are so many `biases`.
SINGLE_JOB = ("units", "ci", "co", "row", "each", "alike", "biases")
ALIKE = (
    "direct",
    "panels",
    "planar",
    "planes",
)  # algorithms with that chain; of one tap, they differ in none
GROUPS = 4  # at most: chains that hide the four cycles of a multiply-add, and registers for them
ROWS = 32  # at most, in all groups of a unit
# Bytes from row to row: in such steps, 32 rows have room for 16 lines in a first-level cache of 64
# sets of 8. Then a whole line of a row is taken at a time, lest each be fetched four times (2048 x
# 256: 300 us instead of 55; packed weights and their digest 75; Zen 3).
CROWDED = 2048
# AVX-512 takes lines of all rows of so many bytes: by calls one after the other 960 -> 1280 75 us
# instead of 88, 512 -> 512 13.8 and 14.5; but of short rows 48 -> 1152 7.8 and 6.8 (Granite
# Rapids).
LONG = 2048
# Multiply-adds that are worth a second thread: 1152 x 48 takes 5.7 us alone and 4.5 by two, 48 x
# 1152 7.0 and 5.6; 64 x 512 4.1 and 4.4 (Zen 3).
SHARED = 50_000

name = "single"


def fits(conv: Conv, plan: Plan, x: Strides, weight: Strides) -> bool:
    """Whether this computes a layer by a plan, on arrays of such strides in elements, and is the
    quicker way.
    """
    run = conv.co if conv.transposed else conv.ci
    one = all(a.size == a.kernel == a.up == 1 and a.lo == a.hi == 0 for a in conv.axes)
    return (
        one
        and conv.n == conv.groups == 1
        and not plan.residual
        and plan.algorithm in ALIKE
        and plan.dtype in ("float32", "float64")
        and (conv.ci == 1 or x[1] == 1)
        and (run == 1 or weight[1] == 1)
    )


def plan_like(plan: Plan, target: Target, weight: Strides, transposed: bool = False) -> Plan:
    """The plan that stands for this kernel instead of one of direct, on a weight of such strides in
    elements.
    """
    if transposed:
        return Plan(
            name, plan.dtype, False, False, 1, 1, activation=plan.activation, slope=plan.slope
        )
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


def job(conv: Conv, target: Target, weight: Strides, biased: tuple[int, int] = (1, 1)) -> list[int]:
    """The words of SINGLE_JOB: units as even as may be; `biased` as of konv.runtime.flat."""
    vectors = -(-conv.co // target.lanes(conv.dtype))
    each = NUMBERS // target.lanes(conv.dtype) if conv.transposed else _most(conv.dtype, target)
    units = -(-vectors // each)
    if conv.transposed:
        units = min(vectors, max(units, 2))  # a thread each
    biases = biased[0], conv.co // (biased[0] * biased[1])
    return [units, conv.ci, conv.co, weight[0], -(-vectors // units), *biases]


def threads(conv: Conv, at_hand: int) -> int:
    """How many are worth waking."""
    return 1 if conv.exact_macs < SHARED else at_hand


def emit(plan: Plan, target: Target) -> Module:
    """Exports `run`; in the place of the scratch memory it takes the bias, or 0."""
    module = Module(target, name)
    lanes, real, across = target.lanes(plan.dtype), REAL[plan.dtype], plan.form == ()
    if across:
        tiles = [emit_across(module, plan)]
    else:
        tiles = [emit_along(module, plan, groups) for groups in range(1, plan.vectors + 1)]

    def work(f: Function, call: Words, thread: Value) -> None:
        job = Words(call.pointer("job", I64), SINGLE_JOB)
        row, bias = job["row"] * SIZE[real], call["scratch"]

        def body(unit: Value) -> None:
            first = unit * job["each"] * lanes
            count, ci = f.least(job["each"] * lanes, job["co"] - first), job["ci"]
            x, y = call["x"], call["y"] + first * SIZE[real]
            if across:
                weights, biases = (
                    call["weights"] + first * SIZE[real],
                    (job["alike"], job["biases"]),
                )
                f.call(tiles[0], [x, weights, bias, y, count, row, ci, first, *biases])
                return
            own = f.select(bias.equals(0), bias, bias + first * SIZE[real])
            weights = call["weights"] + first * row
            for groups, tile in enumerate(tiles, 1):
                least, most = (groups - 1) * lanes, groups * lanes
                with f.when((count > least) & (count <= most)):
                    f.call(tile, [x, weights, own, y, count, row, ci])

        emit_units(f, call, thread, job["units"], body)

    emit_entry(module, work)
    return module
