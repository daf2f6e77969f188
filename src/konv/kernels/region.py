"""The way into a kernel: one call from Python, a team of threads, flush-to-zero around the work.

    run(job, x, weights, y, scratch, team, threads)   exported; starts the team or goes on alone;
                                                      plans with a residual take one word more
      region(call, thread, threads)                   on every thread: flush-to-zero on, work,
                                                      restored
        work(call, thread)  noinline                  takes unit after unit until none is left

`team` points at three addresses: parallel, thread_num, num_threads. With an OpenMP runtime they are
GOMP_parallel, omp_get_thread_num and omp_get_num_threads; for konv's own pool the last two are 0
and parallel passes the thread's number itself.

Units are cut into as many ranges as threads are asked for, each with a counter. A thread takes the
units of its own range, then helps with those of the others: so the work is shared by the threads
that really came, whatever number was asked for, and from call to call a thread meets the same part
of an image, which its second-level cache may still hold. Which thread does what changes no result.
"""

from __future__ import annotations

from collections.abc import Callable

from konv.kernels.words import Words
from konv.llvm import I8, I32, I64, PTR, VOID, Function, Module, Pointer, Routine, Value, pointer_to

CALL = ("job", "x", "weights", "y", "scratch", "ranges", "residual")
RUN = ("job", "x", "weights", "y", "scratch", "team", "threads")
RUN_WITH_RESIDUAL = (*RUN, "residual")  # bytes from y to what is added to it
FLUSH = 0x8040  # MXCSR: results (bit 15) and operands (bit 6) that are denormal count as zero
FPCR_FLUSH = 1 << 24
RANGES = 16  # at most; with more threads, some begin in the same range
APART = 8  # words: each counter has a cache line of its own

Work = Callable[[Function, Words, Value], None]


def emit_entry(
    module: Module,
    emit_work: Work,
    residual: bool = False,
    name: str = "run",
    cold: bool = True,
    plain: bool = False,
) -> None:
    """Add `run`, or a function of another name, to the module; `emit_work(f, call, thread)` writes
    what one thread does. `cold` is false if that holds loops that take time, which functions that
    it calls do else; `plain`, if not cold: as of Routine.

    `residual`: run takes one argument more. Without it there is none, as passing an argument from
    Python takes 0.15 us where ctypes does it.
    """
    own = "" if name == "run" else f"{name}_"  # the names of what it is made of
    params = [("call", pointer_to(I64)), ("thread", I64)]
    with module.function(f"{own}work", params, inline=False, cold=cold, plain=plain) as (
        f,
        (call, thread),
    ):
        emit_work(f, Words(call, CALL), thread)
    work = f.fn
    with module.function(f"{own}region", [*params, ("threads", I64)], cold=True) as (f, args):
        saved = _flush(f)
        f.call(work, args[:2])
        _restore(f, saved)
    region = f.fn
    openmp = _emit_openmp_region(module, region, own)
    names = RUN_WITH_RESIDUAL if residual else RUN
    with module.function(name, [(n, I64) for n in names], exported=True, cold=True) as (f, values):
        a = dict(zip(names, values, strict=True))
        data = f.array(I64, APART * (RANGES + 2))
        call = Words(data, (*CALL, "team"))
        for word in ("job", "x", "weights", "y", "scratch", "team"):
            call[word] = a[word]
        if residual:
            call["residual"] = a["residual"]
        call["ranges"] = f.most(f.least(a["threads"], RANGES), f.integer(1))
        with f.loop(call["ranges"]) as i:
            _counters(data)[i * APART] = 0
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
    count = Value(f, f.b.convert("trunc", a["threads"].ir, I32))
    parallel = team.pointer(0, I8)
    f.call_pointer(parallel, VOID, [entry, data, count, Value(f, I32(0))])


def _emit_openmp_region(module: Module, region: Routine, own: str) -> Routine:
    """What GOMP_parallel calls on every thread: it passes the data only, the rest is asked for."""
    params = [("call", pointer_to(I64))]
    with module.function(f"{own}openmp_region", params, cold=True) as (f, (call,)):
        team = call.pointer(len(CALL), I64)
        thread, threads = (
            Value(f, f.b.convert("sext", f.call_pointer(team.pointer(i, I8), I32, []).ir, I64))
            for i in (1, 2)
        )
        f.call(region, [call, thread, threads])
        return f.fn


def emit_units(
    f: Function, call: Words, thread: Value, units: Value, body: Callable[[Value], None]
) -> None:
    """Take units from the thread's own range, then from the other ranges, until none is left."""
    ranges = call["ranges"]
    with f.loop(ranges) as i:
        own = (thread + i) % ranges
        first, end = own * units // ranges, (own + 1) * units // ranges
        counter = _counters(call.base) + own * APART
        with f.forever() as done:
            taken = Value(f, f.b.atomic_rmw("add", counter.ir, I64(1), "monotonic"))
            f.leave_if(done, taken >= end - first)
            body(first + taken)


def _counters(data: Pointer) -> Pointer:
    """Behind the words of a call, on lines of their own."""
    return data + 2 * APART


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
