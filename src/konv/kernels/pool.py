"""konv's own threads, for a process without OpenMP: how a team is called, waits and goes home.

    parallel(fn, data, n, 0)    GOMP_parallel's signature, but calls fn(data, thread, threads)
    serve(record)               a worker lives in here until the pool is told to leave
    leave(record)               workers go home; a call in progress is finished first
    pauses(n)                   n turns of the waiting loop, to be timed

Code and state are apart: all state is in the pool's record, which `parallel` finds behind the team word
of `data` (kernels.region: `team[3]`). The record also brings the addresses of the pthread functions.

A worker waits at a *bell*: a word that is 0 while there is something to do. It looks at the word for
`spins` turns, then sleeps in pthread_cond_wait. Whoever sets the word to 0 reads `sleepers` afterwards;
both sides are sequentially consistent, so either the worker sees the 0 or the caller sees the sleeper.
Bell 0 is the caller's own: its word counts the workers that are not yet done.

A worker accepts a call by turning its bell from 0 back to 1, and the caller, when its own part is done,
takes back in the same way what nobody has accepted. So a worker that is late - asleep, or without a core -
delays nobody: the call ends without it. Therefore fn must take its work from a counter, as region.emit_units
does, and never wait for another thread. The only lock is `busy`: a second Python thread that calls
meanwhile, and fn itself when it calls again, go on alone. Once the pool is told to leave, whoever
holds `busy` last rings all the bells and keeps it for good, so a later call goes on alone too.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from konv.kernels.region import CALL
from konv.kernels.words import Words
from konv.llvm import I32, I64, Function, Module, Pointer, Value, pointer_to
from konv.target import Target

LINE = 16  # words apart what different threads write: two cache lines, as they are fetched in pairs
CALLERS = ("busy", "closing", "present")  # the lock; whether to leave; workers that have come
FIXED = ("lock", "unlock", "wait", "signal", "spins")  # pthread_mutex_*, pthread_cond_*; set once
TASK = ("fn", "data", "threads")  # the call in progress
BELL = ("word", "sleepers")  # then, a line further, a mutex and a condition of 64 bytes at most
BELLS, BELL_WORDS, MUTEX, CONDITION = 3 * LINE, 2 * LINE, LINE, LINE + 8
IDLE = 1  # a bell's word while there is nothing to do


def emit(target: Target) -> Module:
    """The four functions above."""
    module = Module(target, "pool")
    parts = Parts(_emit_pause(module), _emit_await(module), _emit_wake(module))
    _emit_pauses(module, parts)
    dismiss = _emit_dismiss(module, parts)
    _emit_parallel(module, parts, dismiss)
    _emit_serve(module, parts)
    with module.function("leave", [("record", pointer_to(I64))], exported=True) as (f, (record,)):
        _swap(_word(Words(record, CALLERS), "closing"), 1)
        f.call(dismiss, [record])
    return module


@dataclass(frozen=True, slots=True)
class Parts:
    """Functions that several others call: await(record, bell) until it rings, wake(record, bell) who sleeps there."""

    pause: ir.Function
    wait: ir.Function
    wake: ir.Function


def _emit_parallel(module: Module, parts: Parts, dismiss: ir.Function) -> None:
    params = [("fn", I64), ("data", pointer_to(I64)), ("n", I32), ("flags", I32)]
    with module.function("parallel", params, exported=True) as (f, (fn, data, n, _)):
        record = data.pointer(len(CALL), I64).pointer(3, I64)
        callers = Words(record, CALLERS)
        with f.choose(_turn(_word(callers, "busy"), 0, 1)) as (together, alone):
            with together:
                came = _read(_word(callers, "present")) + 1
                wanted = Value(f, f.b.sext(n.ir, I64))
                _share(f, parts, record, fn, data, f.least(wanted, came))
                _swap(_word(callers, "busy"), 0)
                f.call(dismiss, [record])
            with alone:
                _call(fn, data, f.int(0), f.int(1))


def _share(f: Function, parts: Parts, record: Pointer, fn: Value, data: Pointer, threads: Value) -> None:
    """Ring for the workers, do a thread's part, take back what none accepted, wait for the others."""
    task, own = Words(record + 2 * LINE, TASK), _bell(record, 0)
    task["fn"], task["data"], task["threads"] = fn, data.address(), threads
    own["word"] = threads - 1
    with f.loop(threads, start=1) as worker:
        _ring(f, parts, record, worker)
    _call(fn, data, f.int(0), threads)
    back = f.var(0)
    with f.loop(threads, start=1) as worker, f.when(_turn(_word(_bell(record, worker), "word"), 0, IDLE)):
        back.add(1)
    left = _add(_word(own, "word"), f.int(0) - back.get()) - back.get()
    with f.when(left > 0):
        f.call(parts.wait, [record, own.base])


def _emit_serve(module: Module, parts: Parts) -> None:
    with module.function("serve", [("record", pointer_to(I64))], exported=True) as (f, (record,)):
        callers, task, caller = Words(record, CALLERS), Words(record + 2 * LINE, TASK), _bell(record, 0)
        worker = _add(_word(callers, "present"), 1) + 1
        bell = _bell(record, worker)
        with f.forever() as done:
            # Told to leave after it has come and before it looks: `leave` may have missed it.
            f.leave_if(done, _read(_word(callers, "closing")).differs(0))
            f.call(parts.wait, [record, bell.base])
            with f.when(_turn(_word(bell, "word"), 0, IDLE)):
                with f.when(_read(_word(callers, "closing")).equals(0)):
                    _call(task["fn"], task.pointer("data", I64), worker, task["threads"])
                left = _add(_word(caller, "word"), -1) - 1
                with f.when(left.equals(0)):
                    f.call(parts.wake, [record, caller.base])


def _emit_dismiss(module: Module, parts: Parts) -> ir.Function:
    """Ring every bell and keep the lock, if the pool is told to leave and nobody holds it."""
    with module.function("dismiss", [("record", pointer_to(I64))], inline=False) as (f, (record,)):
        callers = Words(record, CALLERS)
        closing = _read(_word(callers, "closing")).differs(0)
        with f.when(closing), f.when(_turn(_word(callers, "busy"), 0, 1)):
            with f.loop(_read(_word(callers, "present")) + 1, start=1) as worker:
                _ring(f, parts, record, worker)
        return f.fn


def _emit_await(module: Module) -> ir.Function:
    raise NotImplementedError
