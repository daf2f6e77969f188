"""The threads that kernels run on: whose they are, how many, and where a kernel finds them.

With an OpenMP runtime in the process (PyTorch brings one) kernels run on its threads, else on our
own (konv.runtime.pool). PyTorch may be imported later: from then on its threads are used, and ours
leave.

A forked child runs on one thread for good: it has inherited the pool but not the threads in it, and
whoever calls those waits for ever.

Microseconds of a call from Python on two cores (EPYC, virtual), medians, the call before it just
over / 0.1 ms / 1 ms ago; of these 1.2 / 1.7 / 2.2 are Python's:

    kernel                  one thread          our own pool        libgomp
    empty                    1.2   1.7   2.2     1.2   9.4  10.5     2.0   2.6   3.2
    8 units of 3 us         23.1  23.6  24.1    12.4  28.7  30.2    13.1  13.7  14.2
    the same, busy cores    23.1  23.6  24.2    23.1  23.7  25.9    14.6  15.4 18906

Ours goes to sleep after 50 us, so a call after a pause pays for waking it; libgomp keeps its core
for milliseconds, which other programs, or Python's next step, then wait for (the last line).
"""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import RLock

from konv.errors import ProblemError
from konv.geometry.bounds import integer
from konv.runtime import openmp
from konv.runtime.cores import allowed
from konv.runtime.pool import Pool

LIMIT = 1024  # threads; more than any machine this is for has cores, and few enough to start


@dataclass(frozen=True, slots=True)
class Team:
    """What a kernel's `run` is given: where region.py finds the team, and how many to ask for.

    `threads` 1 means: start no team. Fewer threads than asked for may come.
    """

    address: int
    threads: int
    words: array[int] = field(repr=False, compare=False)  # what stands at the address, kept alive

    @classmethod
    def of(cls, words: array[int], threads: int) -> Team:
        return cls(words.buffer_info()[0], threads, words)


ALONE = Team.of(array("q", (0, 0, 0)), 1)


@dataclass(frozen=True, slots=True)
class _Source:
    """Where threads come from for as long as PyTorch is there, or is not (`torch`)."""

    torch: object
    openmp: array[int] | None
    count: Callable[[], int]  # how many, if the user has not said it
    teams: dict[int, Team] = field(default_factory=dict)


_UNKNOWN = object()
_lock = RLock()
_source = _Source(_UNKNOWN, None, allowed)
_pool: Pool | None = None
_asked = 0  # by set_num_threads
_forked = False


def team(wanted: int | None = None) -> Team:
    """The team for a call that wants so many threads, or as many as get_num_threads() says.

    To be asked for at every call, which takes 0.2 us: PyTorch may have come, or a fork.
    """
    if _forked:
        return ALONE
    source = _source
    if sys.modules.get("torch") is not source.torch:
        source = _find()
    threads = wanted or _asked or source.count()
    return source.teams.get(threads) or _form(threads)


def get_num_threads() -> int:
    """How many threads a call is given, if it is large enough to share.

    What set_num_threads was given; else what PyTorch says, if it is imported; else OMP_NUM_THREADS;
    else the cores that affinity and control group allow. In a forked child 1.
    """
    return 1 if _forked else min(LIMIT, _asked or _find().count())


def set_num_threads(n: int) -> None:
    """Give calls `n` threads from now on, in the whole process, whatever PyTorch and OpenMP say.

    May be more than there are cores. ProblemError unless 1 <= n <= 1024, TypeError unless it is an
    integer. A forked child stays at 1.
    """
    global _asked
    n = integer(n, "num_threads")
    if not 1 <= n <= LIMIT:
        raise ProblemError(
            f"num_threads={n} is not between 1 and {LIMIT}. Use 1 for the calling thread alone, "
            f"{allowed()} for all cores that this process may use."
        )
    _asked = n


def _find() -> _Source:
    """The source for PyTorch as it is now; without get_num_threads it is still being imported."""
    global _source
    torch = sys.modules.get("torch")
    count = getattr(torch, "get_num_threads", None)
    if count is None:
        torch = None
    with _lock:
        if torch is not _source.torch:
            default = _default()
            _source = _Source(torch, openmp.find(torch), count or (lambda: default))
            if _source.openmp:
                _change_pool(None)
        return _source


def _form(threads: int) -> Team:
    """A team that was not asked for before, with workers of our own where there is no OpenMP."""
    with _lock:
        source, most = _source, min(threads, LIMIT)
        if most <= 1:
            made = ALONE
        elif source.openmp:
            made = Team.of(source.openmp, most)
        else:
            if _pool is None or _pool.threads < most:
                _change_pool(Pool.start(most))
                source.teams.clear()
            made = Team.of(_pool.words, most) if _pool else ALONE
        source.teams[threads] = made
        return made


def _change_pool(pool: Pool | None) -> None:
    global _pool
    old, _pool = _pool, pool
    if old:
        old.leave()


def _default() -> int:
    """The first number of OMP_NUM_THREADS, else the cores; at most OMP_THREAD_LIMIT."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    limit = os.environ.get("OMP_THREAD_LIMIT", "").strip()
    wanted = int(first) if first.isdecimal() and int(first) else allowed()
    return min(wanted, int(limit)) if limit.isdecimal() and int(limit) else wanted


def _after_fork() -> None:
    global _forked, _lock
    _forked, _lock = True, RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
