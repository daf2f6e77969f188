"""konv's own threads, for a process without OpenMP: how a team is called, waits and goes home.

    parallel(fn, data, n, 0)    GOMP_parallel's signature, but calls fn(data, thread, threads)
    serve(record)               a worker lives in here until the pool is told to leave
    leave(record)               workers go home; a call in progress is finished first
    look(bell, turns)           the waiting loop, to be timed

All state is in the pool's record, which `parallel` finds behind the team word of `data` (`team[3]`,
see kernels.region); so are the pthread functions' addresses.

A worker waits at a *bell*: a word that is 0 while there is something to do. It looks at the word
for some `rounds`, then sleeps in pthread_cond_wait. Whoever sets the word to 0 reads `sleepers`
afterwards; all of it is sequentially consistent, so either the worker sees the 0 or the caller
sees the sleeper. Bell 0 is the caller's own: its word counts the workers that are not yet done.

A worker accepts a call by turning its bell from 0 back to 1, and the caller, when its own part is
done, takes back in the same way what nobody has accepted. So a worker that is late - asleep, or
without a core - delays nobody: the call ends without it. Therefore fn must take its work from a
counter, as region.emit_units does, and never wait for another thread. The only lock is `busy`: a
second Python thread that calls meanwhile, and fn itself when it calls again, go on alone. When told
to leave, whoever holds `busy` last rings all bells and never gives it back: later calls are alone.
"""

from __future__ import annotations

from typing import NamedTuple

from konv.kernels.region import CALL
from konv.kernels.shared import Shared
from konv.kernels.words import Words
from konv.llvm import I32, I64, VOID, Function, Module, Pointer, Routine, Value, pointer_to
from konv.target import Target

LINE = 16  # words between what different threads write: two cache lines, as they come in pairs
CALLERS = ("busy", "closing", "present")  # the lock; whether to leave; how many workers have come
FIXED = ("lock", "unlock", "wait", "signal", "yield", "turns", "rounds")  # set once
TASK = ("fn", "data", "threads")  # the call in progress
BELL = ("word", "sleepers")  # then, a line further, a mutex and a condition of up to 64 bytes
BELLS, BELL_WORDS, MUTEX, CONDITION = 3 * LINE, 2 * LINE, LINE, LINE + 8
IDLE = 1  # a bell's word while there is nothing to do

RECORD = [("record", pointer_to(I64))]
RECORD_BELL = [*RECORD, ("bell", pointer_to(I64))]


class Parts(NamedTuple):
    """Functions of (record, bell) that several others call."""

    wait: Routine
    wake: Routine


def emit(target: Target) -> Module:
    """The four functions above."""
    module = Module(target, "pool")
    parts = Parts(_emit_wait(module, _emit_look(module)), _emit_wake(module))
    dismiss = _emit_dismiss(module, parts)
    _emit_parallel(module, parts, dismiss)
    _emit_serve(module, parts)
    with module.function("leave", RECORD, exported=True) as (f, (record,)):
        Shared(record, CALLERS).put("closing", 1)
        f.call(dismiss, [record])
    return module


def _emit_parallel(module: Module, parts: Parts, dismiss: Routine) -> None:
    params = [("fn", I64), ("data", pointer_to(I64)), ("n", I32), ("flags", I32)]
    with module.function("parallel", params, exported=True) as (f, (fn, data, n, _)):
        record = data.pointer(len(CALL), I64).pointer(3, I64)
        callers = Shared(record, CALLERS)
        with f.choose(callers.turn("busy", 0, 1)) as (together, alone):
            with together:
                wanted = Value(f, f.b.convert("sext", n.ir, I64))
                threads = f.least(wanted, callers.get("present") + 1)
                _share(f, parts, record, fn, data, threads)
                callers.put("busy", 0)
                f.call(dismiss, [record])
            with alone:
                _run(f, fn, data, f.integer(0), f.integer(1))


def _share(
    f: Function, parts: Parts, record: Pointer, fn: Value, data: Pointer, threads: Value
) -> None:
    """Ring for the workers, do a part, take back what none has accepted, wait for the others."""
    task, own = Words(record + 2 * LINE, TASK), _bell(record, f.integer(0))
    task["fn"], task["data"], task["threads"] = fn, data.address(), threads
    own["word"] = threads - 1
    with f.loop(threads, start=1) as worker:
        _ring(f, parts, record, worker)
    _run(f, fn, data, f.integer(0), threads)
    late = f.var(0)
    with f.loop(threads, start=1) as worker, f.when(_bell(record, worker).turn("word", 0, IDLE)):
        late.add(1)
    left = own.add("word", f.integer(0) - late.get())
    with f.when(left > 0):
        f.call(parts.wait, [record, own.base])


def _emit_serve(module: Module, parts: Parts) -> None:
    with module.function("serve", RECORD, exported=True) as (f, (record,)):
        callers, task = Shared(record, CALLERS), Words(record + 2 * LINE, TASK)
        caller = _bell(record, f.integer(0))
        number = callers.add("present", f.integer(1))
        bell = _bell(record, number)
        with f.forever() as done:
            # `leave` has rung for those present; who came just after it sees it here.
            f.leave_if(done, callers.get("closing").differs(0))
            f.call(parts.wait, [record, bell.base])
            with f.when(bell.turn("word", 0, IDLE)):
                with f.when(callers.get("closing").equals(0)):
                    _run(f, task["fn"], task.pointer("data", I64), number, task["threads"])
                with f.when(caller.add("word", f.integer(-1)).equals(0)):
                    f.call(parts.wake, [record, caller.base])


def _emit_dismiss(module: Module, parts: Parts) -> Routine:
    """If the pool is told to leave and nobody is in a call: ring every bell and keep the lock."""
    with module.function("dismiss", RECORD, inline=False) as (f, (record,)):
        callers = Shared(record, CALLERS)
        told = callers.get("closing").differs(0)
        with f.when(told), f.when(callers.turn("busy", 0, 1)):
            everyone = callers.get("present") + 1
            with f.loop(everyone, start=1) as worker:
                _ring(f, parts, record, worker)
        return f.fn


def _emit_look(module: Module) -> Routine:
    """Look at a bell until it rings, `turns` times at most; exported to be timed."""
    params = [("bell", pointer_to(I64)), ("turns", I64)]
    with module.function("look", params, exported=True) as (f, (bell, most)):
        turns = f.var(most)
        with f.forever() as done:
            f.leave_if(done, Shared(bell, BELL).get("word").equals(0))
            f.leave_if(done, turns.get() <= 0)
            _pause(f)
            turns.add(-1)
        return f.fn


def _emit_wait(module: Module, look: Routine) -> Routine:
    """Return when the bell's word is 0: look at it for some rounds, then sleep, and so on.

    Between rounds it yields: a woken worker may stand on its caller's core, in the caller's way. It
    looks again for as long, though the call that woke it may be over: more may follow.
    """
    with module.function("wait", RECORD_BELL, inline=False) as (f, (record, at)):
        fixed, bell, mutex = Words(record + LINE, FIXED), Shared(at, BELL), at + MUTEX
        with f.forever() as rung:
            rounds = f.var(fixed["rounds"])
            with f.forever() as looked:
                f.call(look, [at, fixed["turns"]])
                rounds.add(-1)
                f.leave_if(looked, bell.get("word").equals(0) | (rounds.get() <= 0))
                f.call_pointer(fixed.pointer("yield", I64), I32, [])
            f.leave_if(rung, bell.get("word").equals(0))
            f.call_pointer(fixed.pointer("lock", I64), I32, [mutex])
            bell.add("sleepers", f.integer(1))
            with f.when(bell.get("word").differs(0)):
                f.call_pointer(fixed.pointer("wait", I64), I32, [at + CONDITION, mutex])
            bell.add("sleepers", f.integer(-1))
            f.call_pointer(fixed.pointer("unlock", I64), I32, [mutex])
        return f.fn


def _emit_wake(module: Module) -> Routine:
    """Wake who sleeps at a bell whose word has just become 0.

    Holding the mutex for a moment outwaits who has read the word before, and not gone to sleep yet.
    The signal comes after it: a thread woken earlier would run into the mutex.
    """
    with module.function("wake", RECORD_BELL, inline=False) as (f, (record, at)):
        fixed = Words(record + LINE, FIXED)
        with f.when(Shared(at, BELL).get("sleepers") > 0):
            f.call_pointer(fixed.pointer("lock", I64), I32, [at + MUTEX])
            f.call_pointer(fixed.pointer("unlock", I64), I32, [at + MUTEX])
            f.call_pointer(fixed.pointer("signal", I64), I32, [at + CONDITION])
        return f.fn


def _pause(f: Function) -> None:
    """What the processor has for a waiting loop; nothing, if none is known."""
    declare, void = f.module.declare, VOID
    if f.module.target.arch == "x86_64":
        f.b.call(declare("llvm.x86.sse2.pause", void, []), [])
    elif f.module.target.arch == "aarch64":
        f.b.call(declare("llvm.aarch64.hint", void, [I32]), [I32(1)])  # yield


def _bell(record: Pointer, number: Value) -> Shared:
    return Shared(record + (number * BELL_WORDS + BELLS), BELL)


def _ring(f: Function, parts: Parts, record: Pointer, worker: Value) -> None:
    bell = _bell(record, worker)
    bell.put("word", 0)
    f.call(parts.wake, [record, bell.base])


def _run(f: Function, fn: Value, data: Pointer, thread: Value, threads: Value) -> None:
    f.call_pointer(fn.to_pointer(I64), VOID, [data, thread, threads])
