"""How the sums of a weight gradient leave, and how those of several parts become one.

sums    [block][row][vector][lane]                 ->  [output channel][row], as the weight lies

A row is (channel, tap), of a weight that lies channels-last (tap, channel). What parts leave lies
as the weight does; only taps apart (konv.kernels.gradient.apart) leave theirs one after the other.
"""

from __future__ import annotations

from konv.kernels.gradient.records import JOB, RECORDS
from konv.kernels.stored import element, read, write
from konv.kernels.words import Words, part_function
from konv.llvm import (
    I16,
    I64,
    REAL,
    Function,
    Module,
    Pointer,
    Routine,
    Value,
    pointer_to,
)
from konv.plan import Plan


def emit_leave(module: Module, plan: Plan, turn: Routine) -> Routine:
    """leave(job, unit, to): the unit's sums go where they belong in a weight that begins at
    `to`.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    with part_function(module, "leave", ("to",), records=RECORDS, plain=True) as (f, piece, args):
        job, unit, width = piece.job, piece.unit, plan.vectors * lanes
        weight, reduction = args[0].to_pointer(real), job["ci"] * job["taps"]
        with f.loop(unit["block1"], start=unit["block0"]) as block:
            wide = f.select(block < job["blocks"], f.integer(width), job["tail"] * lanes)
            first, number = block * width, block - unit["block0"]
            sums = piece.part("at_sums", real) + number * job["padded_rows"] * width
            channel = unit["group"] * job["co"] + first
            to = weight + channel * reduction
            valid = f.least(job["co"] - first, wide)
            with f.choose(job["w_last"].differs(0)) as (last, contiguous):
                with last, f.loop(job["taps"]) as tap:
                    own, place = sums + tap * wide, to + (tap * job["ci"] + unit["channel"])
                    step = job["taps"] * wide
                    f.call(turn, [own, step, place, reduction, unit["channels"], valid])
                with contiguous:
                    place, rows = to + unit["channel"] * job["taps"], unit["channels"] * job["taps"]
                    f.call(turn, [sums, wide, place, reduction, rows, valid])
        return f.fn


def emit_add(module: Module, plan: Plan) -> Routine:
    """add(job, partial, y, unit): a piece of the weight, the sums of all parts in their order."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    params = [("job", pointer_to(I64)), ("partial", pointer_to(real))]
    params += [("y", pointer_to(element(plan.dtype))), ("unit", I64)]
    with module.function("add", params, inline=False) as (f, (job_at, partial, y, unit)):
        job = Words(job_at, JOB, frozen=True)
        begin = unit * job["piece"]
        end = f.least(begin + job["piece"], job["numbers"])
        whole = begin + ((end - begin) & -lanes)

        def total(i: Value, lanes: int) -> Value:
            return _total(f, plan, partial + i, job["parts"], job["numbers"], lanes)

        with f.loop(whole, start=begin, step=lanes) as i:
            write(f, plan.dtype, y + i, total(i, lanes))
        with f.loop(end, start=whole) as i:
            write(f, plan.dtype, y + i, total(i, 0))
        return f.fn


def emit_weave(module: Module, plan: Plan) -> Routine:
    """weave(job, partial, y, unit): a piece of a weight whose taps have parts of their own each;
    those of a tap that meets padding only are none, and it is 0.

    Tap by tap, as long as the piece stays in the first-level cache. Of a weight that lies
    channels-last a run of input channels at a time.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    params = [("job", pointer_to(I64)), ("partial", pointer_to(real))]
    params += [("y", pointer_to(element(plan.dtype))), ("unit", I64)]
    with module.function("weave", params, inline=False, plain=True) as (
        f,
        (job_at, partial, y, unit),
    ):
        job = Words(job_at, JOB, frozen=True)
        begin, count, taps = unit * job["piece"], f.var(0), job["taps"]
        end = f.least(begin + job["piece"], job["numbers"])
        aside, each = f.array(real, lanes), job.base + job["at_taps"]
        with f.loop(taps) as tap:
            first, parts = partial + count.get() * job["numbers"], each[tap]
            count.add(parts)

            def put(i: Value, lanes: int, out: Pointer, apart: Value | None) -> None:
                """Totals of neighbouring numbers, to places next to each other or so far apart."""
                found = _total(f, plan, first + i, parts, job["numbers"], lanes)
                if apart is None or not lanes:
                    write(f, plan.dtype, out + (i if apart is None else i * apart), found)
                    return
                aside.put(0, found)
                for lane in range(lanes):
                    write(f, plan.dtype, out + (i + lane) * apart, aside[lane])

            def run(begin: Value, end: Value, out: Pointer, apart: Value | None) -> None:
                whole = begin + ((end - begin) & -lanes)
                with f.choose(parts.equals(0)) as (none, some):
                    with none, f.loop(end, start=begin) as i:
                        out[i if apart is None else i * apart] = 0 if y.element == I16 else 0.0
                    with some:
                        with f.loop(whole, start=begin, step=lanes) as i:
                            put(i, lanes, out, apart)
                        with f.loop(end, start=whole) as i:
                            put(i, 0, out, apart)

            with f.choose(job["w_last"].differs(0)) as (last, contiguous):
                with last:
                    ci, at = job["ci"], f.var_of(begin)
                    with f.loop((end - 1) // ci - begin // ci + 1):
                        co = at.get() // ci
                        stop = f.least((co + 1) * ci, end)
                        run(at.get(), stop, y + (co * (taps - 1) + tap) * ci, None)
                        at.set(stop)
                with contiguous:
                    run(begin, end, y + tap, taps)
        return f.fn


def _total(
    f: Function, plan: Plan, first: Pointer, parts: Value, numbers: Value, lanes: int
) -> Value:
    """The sum of what all parts have at a place, in their order; of neighbouring ones if lanes."""
    found = f.var_of(read(f, plan.dtype, first, lanes))
    with f.loop(parts, start=1) as part:
        found.add(read(f, plan.dtype, first + part * numbers, lanes))
    return found.get()
