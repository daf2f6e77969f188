"""konv's own threads: Python threads that live in compiled code until told to leave.

Python starts them, once, and has nothing to do with them afterwards: a call goes from kernel to
worker and back in compiled code (konv.kernels.pool).
"""

from __future__ import annotations

import atexit
import ctypes
import os
from array import array
from functools import cache
from threading import Thread
from time import monotonic, perf_counter_ns
from typing import Any

from konv import llvm
from konv.kernels import pool as code
from konv.runtime.code import compiled
from konv.runtime.cores import allowed

SPIN = 50_000
"""Nanoseconds that a thread looks at its bell before it sleeps: about what waking it costs (10 us
in who wakes it, 40 us until it has come), so that waiting is never much worse than not to wait."""
ROUND = 2_000  # ns of it after which a thread yields
CROWDED = 10  # more threads than cores look for a tenth of that: each keeps another from its work
TURNS = 1000  # of the loop that are timed: about 30 us
GOODBYE = 0.5  # seconds that the end of the process waits for workers in the middle of a call

PTHREAD = {
    "lock": "pthread_mutex_lock", "unlock": "pthread_mutex_unlock",
    "wait": "pthread_cond_wait", "signal": "pthread_cond_signal", "yield": "sched_yield",
    "new mutex": "pthread_mutex_init", "new condition": "pthread_cond_init",
}  # fmt: skip

_pools: list[Pool] = []  # for ever: workers and calls may be at work on a record no longer in use


class Pool:
    """`threads` - 1 workers and the record they work from; `words` are those of a Team."""

    def __init__(self, threads: int, pthread: dict[str, Any]) -> None:
        self.threads, self.pid = threads, os.getpid()
        self._loaded = _compiled()
        size = code.BELLS + threads * code.BELL_WORDS
        self._memory = (ctypes.c_int64 * (size + code.LINE))()
        start = ctypes.addressof(self._memory)
        self._record = start + -start % (8 * code.LINE)
        self._fill((ctypes.c_int64 * size).from_address(self._record), pthread)
        self.words = array("q", (self._loaded.address("parallel"), 0, 0, self._record))
        self._serve = self._loaded.function("serve", 1)
        self._workers: list[Thread] = []
        _pools.append(self)

    @classmethod
    def start(cls, threads: int) -> Pool | None:
        """A pool for so many threads, the caller's too; None where there is no pthread (Windows).

        The workers come when they come: the first calls run on fewer threads.
        """
        pthread = _pthread()
        if pthread is None:
            return None
        pool = cls(threads, pthread)
        for number in range(1, threads):
            name, args = f"konv-{number}", (pool._record,)
            worker = Thread(target=pool._serve, args=args, name=name, daemon=True)
            try:
                worker.start()
            except RuntimeError:  # the system allows no more, or the process is at its end
                break
            pool._workers.append(worker)
        return pool

    def leave(self) -> None:
        """Send the workers home, after the call in progress; later calls run alone."""
        self._loaded.function("leave", 1)(self._record)

    def _fill(self, record: Any, pthread: dict[str, Any]) -> None:
        for bell in range(code.BELLS, len(record), code.BELL_WORDS):
            record[bell] = code.IDLE
            for what, at in (("new mutex", code.MUTEX), ("new condition", code.CONDITION)):
                pthread[what](ctypes.c_void_p(self._record + 8 * (bell + at)), None)
        numbers = {
            "turns": self._turns(ROUND),
            "rounds": SPIN // ROUND // (CROWDED if self.threads > allowed() else 1),
        }
        for at, name in enumerate(code.FIXED, start=code.LINE):
            record[at] = numbers[name] if name in numbers else _address(pthread[name])

    def _turns(self, duration: int) -> int:
        """How many turns the waiting loop makes in so many nanoseconds."""
        look, bell = self._loaded.function("look", 2), self._record + 8 * code.BELLS
        best = 100 * TURNS
        for _ in range(3):
            begin = perf_counter_ns()
            look(bell, TURNS)
            best = min(best, perf_counter_ns() - begin)
        return max(1, TURNS * duration // best)


@cache
def _compiled() -> llvm.Loaded:
    target = llvm.detect()
    return compiled("pool", "pool", target, lambda: code.emit(target))


def _pthread() -> dict[str, Any] | None:
    """The functions of the process's own C library; they are all there, or none is used."""
    try:
        library = ctypes.CDLL(None)
        return {name: getattr(library, symbol) for name, symbol in PTHREAD.items()}
    except (OSError, TypeError, AttributeError):
        return None


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


@atexit.register
def _goodbye() -> None:
    """Let the workers go: Python's end is no place to come back to.

    A forked child has inherited the records, but no workers, and perhaps a locked mutex.
    """
    here = [pool for pool in _pools if pool.pid == os.getpid()]
    for pool in here:
        pool.leave()
    end = monotonic() + GOODBYE
    for pool in here:
        for worker in pool._workers:
            worker.join(max(0.0, end - monotonic()))
        if any(worker.is_alive() for worker in pool._workers):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(pool))  # it still works from the record
