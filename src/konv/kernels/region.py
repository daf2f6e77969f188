"""The way into a kernel: one call from Python, a team of threads, flush-to-zero around the work.

    run(job, x, weights, y, scratch, team, threads)   exported; starts the team or goes on alone
      region(call, thread, threads)                   on every thread: flush-to-zero on, work,
                                                      restored
        work(call, thread)  noinline                  takes unit after unit until none is left

`team` points at three addresses: parallel, thread_num, num_threads. With an OpenMP runtime they are
GOMP_parallel, omp_get_thread_num and omp_get_num_threads; for konv's own pool the last two are 0
and parallel passes the thread's number itself. Units are taken from a shared counter, or from
several that all threads come to in the end, so the work is shared by the threads that really came,
whatever number was asked for; which thread does what changes no result.
"""

from __future__ import annotations

from collections.abc import Callable

from konv.kernels.words import Words
from konv.llvm import I8, I32, I64, PTR, VOID, Function, Module, Pointer, Routine, Value, pointer_to

CALL = ("job", "x", "weights", "y", "scratch", "next", "threads")
RUN = ("job", "x", "weights", "y", "scratch", "team", "threads")
LINE = 8  # words of a cache line
SHARES = 32  # counters of units at most, each on a cache line of its own
FLUSH = 0x8040  # MXCSR: results (bit 15) and operands (bit 6) that are denormal count as zero
FPCR_FLUSH = 1 << 24

Work = Callable[[Function, Words, Value], None]


def emit_entry(module: Module, emit_work: Work, shares: bool = False) -> None:
    """Add `run` to the module; `emit_work(f, call, thread)` writes what one thread does, and takes
    its units by `emit_units`, or by `emit_shares` if `shares`.
    """
    with module.function("work", [("call", pointer_to(I64)), ("thread", I64)], inline=False) as (
        f,
        (call, thread),
    ):
        emit_work(f, Words(call, CALL), thread)
    work = f.fn
    with module.function(
        "region", [("call", pointer_to(I64)), ("thread", I64), ("threads", I64)]
    ) as (f, args):
        saved = _flush(f)
        f.call(work, args[:2])
        _restore(f, saved)
    region = f.fn
    openmp = _emit_openmp_region(module, region)
    params = [(name, I64) for name in RUN]
    with module.function("run", params, exported=True) as (f, values):
        a = dict(zip(RUN, values, strict=True))
        data = f.array(I64, len(CALL) + 1)
        call = Words(data, (*CALL, "team"))
        for name in ("job", "x", "weights", "y", "scratch", "team", "threads"):
            call[name] = a[name]
        call["next"] = 0
        if shares:
            counters = f.array(I64, SHARES * LINE)
            with f.loop(f.least(a["threads"], SHARES)) as share:
                counters[share * LINE] = 0
            call["next"] = counters.address()
        with f.choose(a["threads"] <= 1) as (alone, together):
            with alone:
                f.call(region, [data, f.integer(0), f.integer(1)])
            with together:
                _start_team(f, a, data, region, openmp)


def _start_team(
    f: Function, a: dict[str, Value], data: Pointer, region: Routine, openmp: Routine
) -> None:
    team = a["team"].to_pointer(I64)
    own = team[1].equals(0)
    entry = f.select(own, f.address_of(region), f.address_of(openmp))
    count = Value(f, f.b.trunc(a["threads"].ir, I32))
    parallel = team.pointer(0, I8)
    f.call_pointer(parallel, VOID, [entry, data, count, Value(f, I32(0))])


def _emit_openmp_region(module: Module, region: Routine) -> Routine:
    """What GOMP_parallel calls on every thread: it passes the data only, the rest is asked for."""
    with module.function("openmp_region", [("call", pointer_to(I64))]) as (f, (call,)):
        team = call.pointer(len(CALL), I64)
        thread, threads = (
            Value(f, f.b.sext(f.call_pointer(team.pointer(i, I8), I32, []).ir, I64)) for i in (1, 2)
        )
        f.call(region, [call, thread, threads])
        return f.fn


def emit_units(f: Function, call: Words, units: Value, body: Callable[[Value], None]) -> None:
    """Take units from the call's counter until none is left."""
    counter = call.base + call.index["next"]
    with f.forever() as done:
        unit = Value(f, f.b.atomic_rmw("add", counter.ir, I64(1), "monotonic"))
        f.leave_if(done, unit >= units)
        body(unit)


def emit_shares(
    f: Function, call: Words, thread: Value, units: Value, body: Callable[[Value], None]
) -> None:
    """Take units from a share of one's own, then from those that others have not finished.

    The same units go to the same threads call after call, as far as they come in time: what one
    layer wrote, or the same layer's arrays, are then still in the second-level cache of the core
    that reads them.
    """
    shares = f.least(call["threads"], SHARES)
    counters = call.pointer("next", I64)
    with f.loop(shares) as turn:
        share = (thread + turn) % shares
        first, end = share * units // shares, (share + 1) * units // shares
        counter = counters + share * LINE
        with f.forever() as done:
            seen = Value(f, f.b.load_atomic(counter.ir, "monotonic", 8, typ=I64))
            f.leave_if(done, first + seen >= end)
            unit = Value(f, f.b.atomic_rmw("add", counter.ir, I64(1), "monotonic")) + first
            f.leave_if(done, unit >= end)
            body(unit)


def _flush(f: Function) -> Pointer | Value | None:
    arch = f.module.target.arch
    if arch == "x86_64":
        saved = f.array(I32, 2, align=8)
        void = VOID
        f.b.call(f.module.declare("llvm.x86.sse.stmxcsr", void, [PTR]), [saved.ir])
        saved[1] = saved[0] | FLUSH
        f.b.call(f.module.declare("llvm.x86.sse.ldmxcsr", void, [PTR]), [(saved + 1).ir])
        return saved
    if arch == "aarch64":
        state = Value(f, f.b.call(f.module.declare("llvm.aarch64.get.fpcr", I64, []), []))
        setter = f.module.declare("llvm.aarch64.set.fpcr", VOID, [I64])
        f.b.call(setter, [(state | FPCR_FLUSH).ir])
        return state
    return None


def _restore(f: Function, saved: Pointer | Value | None) -> None:
    if isinstance(saved, Pointer):
        f.b.call(f.module.declare("llvm.x86.sse.ldmxcsr", VOID, [PTR]), [saved.ir])
    elif saved is not None:
        setter = f.module.declare("llvm.aarch64.set.fpcr", VOID, [I64])
        f.b.call(setter, [saved.ir])
