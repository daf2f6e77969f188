"""What this machine can do at best: multiply-adds in registers, and a copy of more than the caches
hold.

    peak   s = s * a + b in as many independent chains as registers allow; no memory
    copy   y = x in vectors, with plain stores, as kernels that are bound by memory do it

Both are cut into units that the team takes one after another, so `units` says how much work was
done whatever number of threads came. konv.runtime.roofline measures them.
"""

from __future__ import annotations

from konv.kernels.region import emit_entry, emit_units
from konv.kernels.words import Words
from konv.llvm import I64, REAL, Function, Module, Value
from konv.target import Target

JOB = ("units", "length")  # length of one unit: trips of the loop, or numbers to copy
UNROLL = 4  # vectors in one trip of the copy; `length` is a multiple of that


def chains(target: Target) -> int:
    """Return how many sums are in flight: a register each, four left for the two factors.

    A multiply-add takes 4 cycles on most machines, and two to four can begin in each cycle: 8 to 16
    chains keep them busy, 12 (of 16 registers) and 28 (of 32) are on the safe side.
    """
    return target.registers - 4


def emit_peak(target: Target, dtype: str) -> Module:
    """Return a module whose `run` takes x: the numbers a and b, y: one row of sums a thread."""
    module = Module(target, "roofline_peak")
    lanes, real = target.lanes(dtype), REAL[dtype]

    def work(f: Function, call: Words, thread: Value) -> None:
        job, x = Words(call.pointer("job", I64), JOB), call.pointer("x", real)
        a, b = f.splat(x[0], lanes), f.splat(x[1], lanes)
        sums = [f.var(b) for _ in range(chains(target))]

        def body(_: Value) -> None:
            with f.loop(job["length"]):
                for total in sums:
                    total.set(f.fma(total.get(), a, b))

        emit_units(f, call, thread, job["units"], body)
        row = call.pointer("y", real) + thread * (lanes * len(sums))
        for i, total in enumerate(sums):  # sums that nobody reads would not be computed
            row.put(i * lanes, total.get())

    emit_entry(module, work, cold=False)
    return module


def emit_copy(target: Target, dtype: str) -> Module:
    """Return a module whose `run` copies units of `length` numbers from x to y."""
    module = Module(target, "roofline_copy")
    lanes, real = target.lanes(dtype), REAL[dtype]

    def work(f: Function, call: Words, thread: Value) -> None:
        job = Words(call.pointer("job", I64), JOB)

        def body(unit: Value) -> None:
            first = unit * job["length"]
            x, y = call.pointer("x", real) + first, call.pointer("y", real) + first
            with f.loop(job["length"], step=UNROLL * lanes) as i:
                vectors = [x.vector(i + n * lanes, lanes) for n in range(UNROLL)]
                for n, vector in enumerate(vectors):
                    y.put(i + n * lanes, vector)

        emit_units(f, call, thread, job["units"], body)

    emit_entry(module, work, cold=False)
    return module
