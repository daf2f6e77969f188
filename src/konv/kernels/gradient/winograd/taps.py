"""The last step of konv.kernels.gradient.winograd: gradients from U, and what the steps share.

U      [point][group][block][input channel][vector of output channels][lane]
sums   [input channel, tap][vector of output channels][lane]   of a thread
"""

from __future__ import annotations

from collections.abc import Callable

from konv.kernels.gradient.records import RECORDS
from konv.kernels.winograd.transforms import Pair
from konv.kernels.words import Piece, Words, part_function
from konv.llvm import F32, I64, Function, Module, Routine, Value, pointer_to
from konv.plan import Plan

AHEAD = 4  # input channels for which U is asked for in advance: 256@14 1.4 to 0.75 ms (Zen 3)


def emit_leaving(module: Module, plan: Plan, taps: Widths, leave: Routine) -> Routine:
    """leaving(job, unit, number, shared, weight): G' U G of some input channels and a block of
    output channels, and on into the weight.
    """
    lanes, labels = module.target.lanes(plan.dtype), ("number", "shared", "weight")
    with part_function(module, "leaving", labels, writes=True, cold=True, records=RECORDS) as (
        f,
        piece,
        args,
    ):
        number, shared, weight = args
        job, unit = piece.job, piece.unit
        block = emit_own_channels(f, job, unit, number)
        c, channels = unit["channel"], unit["channels"]
        u = (shared + job["at_u"]).to_pointer(F32) + block_of_u(piece, plan, lanes, block)
        arguments = [u, c, channels, job["u_point"], piece.part("at_sums", F32)]
        call_by_width(f, plan, piece, unit["block0"], taps, arguments)
        f.call(leave, [job.base, unit.base, weight])
        return f.fn


def emit_own_channels(f: Function, job: Words, unit: Words, number: Value) -> Value:
    """The words of a unit that takes some input channels and a block of output channels. Returns
    the block, counted from the first at hand.
    """
    block, rest = number % job["ranges_co"], number // job["ranges_co"]
    c, unit["group"] = rest % job["ranges_ci"] * job["ci_each"], rest // job["ranges_ci"]
    unit["channel"], unit["channels"] = c, f.least(job["ci_each"], job["ci"] - c)
    unit["block0"] = job["chunk"] + block
    unit["block1"] = unit["block0"] + 1
    return block


def block_of_u(piece: Piece, plan: Plan, lanes: int, block: Value) -> Value:
    """Where a block of output channels of the unit's group, counted from the first at hand, begins
    in a point of U.
    """
    vector: Value = piece.unit["group"] * piece.job["vectors_co"] + block * plan.vectors
    return vector * piece.job["vectors_ci"] * (lanes * lanes)


Widths = dict[int, Routine]


def emit_widths(plan: Plan, emit: Callable[[int], Routine]) -> Widths:
    """A routine for full blocks of output channels, and one for the last."""
    return {nr: emit(nr) for nr in dict.fromkeys((plan.vectors, plan.tail or plan.vectors))}


def call_by_width(
    f: Function, plan: Plan, piece: Piece, block: Value, routines: Widths, arguments: list[Value]
) -> None:
    """The routine for full blocks, or that for the last one."""
    if not plan.tail:
        f.call(routines[plan.vectors], arguments)
        return
    with f.choose(block < piece.job["blocks"]) as (full, last):
        with full:
            f.call(routines[plan.vectors], arguments)
        with last:
            f.call(routines[plan.tail], arguments)


def emit_taps(module: Module, both: Pair, nr: int) -> Routine:
    """taps(u, first, channels, point, sums): G' U G of a block, from an input channel on; `point`:
    numbers from one point to the next.
    """
    lanes, (over, along) = module.target.lanes("float32"), both
    params = [("u", pointer_to(F32)), ("first", I64), ("channels", I64), ("point", I64)]
    params += [("sums", pointer_to(F32))]
    with module.function(f"taps_{nr}", params, inline=False) as (f, args):
        u, first, channels, point, sums = args
        half = f.array(F32, over.r * along.n * lanes)
        with f.loop(channels) as c, f.loop(nr) as n:
            begin = u + ((first + c) * nr + n) * lanes
            with f.loop(along.n) as q:
                column = begin + q * point
                v = []
                for i in range(over.n):
                    place = column + point * (i * along.n)
                    f.prefetch(place + AHEAD * nr * lanes)
                    v.append(place.vector(0, lanes))
                for i, value in enumerate(over.emit_taps(f, v)):
                    half.put((q + i * along.n) * lanes, value)
            out = sums + (c * (over.r * along.r * nr) + n) * lanes
            with f.loop(over.r) as r:
                line = half + r * (along.n * lanes)
                v = [line.vector(q * lanes, lanes) for q in range(along.n)]
                for i, value in enumerate(along.emit_taps(f, v)):
                    out.put((r * along.r + i) * (nr * lanes), value)
        return f.fn
