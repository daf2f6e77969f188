"""What test_threads.py plays in processes of their own: threads, forks and imports leave traces.

`play(name, kind)` is the child's program. Kinds: `own` (no OpenMP in the process) and `openmp` (the
libgomp that PyTorch brings, without PyTorch).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from runtime.counting import Counting

from konv.kernels.region import CALL
from konv.runtime import threads
from konv.runtime.threads import get_num_threads, set_num_threads, team

LONG = 5_000  # turns: 6 us a unit, so that every thread gets one


def play(name: str, kind: str) -> None:
    if kind == "openmp":
        ctypes.CDLL(os.environ.get("OTHER_OPENMP") or str(torch_openmp()))
    globals()[name]()
    sys.stdout.write(f"done {time.monotonic()}\n")


def torch_openmp() -> Path:
    spec = find_spec("torch")
    assert spec
    assert spec.origin
    return next((Path(spec.origin).parent / "lib").glob("libgomp*"))


def uses_openmp() -> bool:
    return team(2).words[1] != 0


def own_workers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("konv-")]


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def ended(child: int, seconds: float) -> int:
    """The status of a forked child; one that takes longer is killed."""
    killer = threading.Timer(seconds, os.kill, (child, signal.SIGKILL))
    killer.start()
    status = os.waitpid(child, 0)[1]
    killer.cancel()
    return status


def seen(counting: Counting, n: int) -> set[int]:
    """The threads that take part, of `n` asked for, in calls that grow until all do.

    Where other programs keep the other cores busy all threads may share one, and then take turns:
    who begins a call of 0.1 ms has done it when the next is let in, 100 times of 100. One of 10 ms
    is longer than such a turn; the longest, of seconds, than any wait for a core.
    """
    found: set[int] = set()
    for doubled in range(15):
        rows = counting.run(team(n), 8 * n, LONG << doubled)
        assert (rows[:, 0] == 1).all()
        found |= set(rows[:, 1].tolist())
        if len(found) == n:
            break
    return found


def every_unit_once() -> None:
    counting = Counting()
    for n in (None, 1, 2, 3, 5):
        for units in (0, 1, 2, 13, 500):
            for _ in range(20):
                rows = counting.run(team(n), units)
                assert (rows[:, 0] == 1).all()
                assert set(rows[:, 1].tolist()) <= set(range(n or get_num_threads()))


def all_take_part() -> None:
    counting = Counting()
    for n in (2, 3):
        assert seen(counting, n) == set(range(n))
    set_num_threads(1)
    assert team().threads == 1
    assert (counting.run(team(), 9)[:, 1] == 0).all()


def openmp_gives_one() -> None:
    """OMP_THREAD_LIMIT=1: whoever asks for three gets one."""
    assert get_num_threads() == 1
    assert uses_openmp()
    rows = Counting().run(team(3), 50, LONG)
    assert (rows[:, :2] == (1, 0)).all()


def openmp_gives_fewer() -> None:
    """OMP_DYNAMIC=true: never more than there are cores."""
    rows = Counting().run(team(64), 500, 100)
    assert (rows[:, 0] == 1).all()
    assert rows[:, 1].max() < (os.cpu_count() or 1)


def many_callers() -> None:
    counting = Counting()

    def caller(number: int) -> int:
        right = 0
        for i in range(1000):
            turns = i % 10 * 1000 if i % 4 else 50_000  # long enough for others to come meanwhile
            rows = counting.run(team(2), units=(number + i) % 7, turns=turns)
            right += bool((rows[:, 0] == 1).all())
        return right

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(caller, range(8))) == [1000] * 8


def nested() -> None:
    """A call from within a region of the same runtime, on each of its threads."""
    counting = Counting()
    seen(counting, 2)
    now = team(2)
    results: list[list[int]] = []

    def inner(*_: int) -> None:
        results.append(counting.run(team(2), 100, 10)[:, 0].tolist())

    arguments = 1 if uses_openmp() else 3
    callback = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * arguments)(inner)
    call = (ctypes.c_int64 * (len(CALL) + 1))(*[0] * len(CALL), now.address)
    parallel = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
    for _ in range(20):
        parallel(now.words[0])(callback, call, 2, 0)
    assert len(results) >= 20
    assert all(counts == [1] * 100 for counts in results)


def pauses() -> None:
    """Calls that come just as the workers fall asleep; three threads, so that some lack a core."""
    counting, now = Counting(), team(3)
    for i in range(4000):
        rows = counting.run(now, units=i % 9, turns=i % 3 * 1000)
        assert (rows[:, 0] == 1).all()
        end = time.perf_counter() + i % 40 * 4e-6
        while time.perf_counter() < end:
            pass


def fork(times: int = 4) -> None:
    """After first use, and while another thread is in a call."""
    counting = Counting()
    seen(counting, 2)
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            counting.run(team(2), 20, LONG)

    other = threading.Thread(target=busy)
    for _ in range(times):
        child = os.fork()
        if not child:
            set_num_threads(4)
            assert team() is team(8) is threads.ALONE
            assert get_num_threads() == 1
            assert (counting.run(team(), 100)[:, :2] == (1, 0)).all()
            return  # and through atexit, as any other process
        assert ended(child, seconds=30) == 0
        if not other.is_alive():
            other.start()
    stop.set()
    other.join()
    assert seen(counting, 2) == {0, 1}


def flush_to_zero() -> None:
    """On in the kernel on every thread; the caller's state is as it was."""
    counting, x86 = Counting(), os.uname().machine == "x86_64"
    flush, odd = (0x8040, 0x3FA1) if x86 else (1 << 24, 1 << 22)  # rounding down, inexact seen
    before = counting.state()
    for n in (1, 2):
        seen(counting, n)
        for state in (before, odd):
            counting.set_state(state)
            rows = counting.run(team(n), 40, LONG)
            after = counting.state()
            counting.set_state(before)
            assert after == state
            assert ((rows[:, 2] & flush) == flush).all()
    assert not before & flush


def interrupt() -> None:
    """Ctrl-C in a long call arrives when it is over; this call and the next are whole."""
    counting = Counting()
    seen(counting, 2)
    rows = np.zeros((40, 4), np.int64)
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    begin = time.monotonic()
    try:
        # Long enough for the timer to have its turn where all cores are busy.
        counting.run(team(2), 40, turns=45_000_000, rows=rows)
    except KeyboardInterrupt:
        assert time.monotonic() - begin > 0.2
    else:
        raise AssertionError("no interrupt")
    assert (rows[:, 0] == 1).all()
    assert seen(counting, 2) == {0, 1}


def parked() -> None:
    """The process ends with many workers asleep or still looking."""
    set_num_threads(64)
    counting = Counting()
    counting.run(team(), 1000)
    assert uses_openmp() or len(own_workers()) == 63


def end_in_a_call() -> None:
    """The process ends while a daemon thread is in a call."""
    counting = Counting()
    seen(counting, 2)
    call = (team(2), 1000, 5_000_000)
    threading.Thread(target=counting.run, args=call, daemon=True).start()
    time.sleep(0.1)


def grow() -> None:
    """A larger team replaces the pool; the old one computes on, alone, and its workers go."""
    counting, small = Counting(), team(2)
    for n in (3, 4):
        assert seen(counting, n) == set(range(n))
        assert team(2).words is team(n).words
        assert within(1, lambda n=n: len(own_workers()) == n - 1)  # type: ignore[misc]
        assert (counting.run(small, 50, LONG)[:, :2] == (1, 0)).all()


def leave_in_a_call() -> None:
    """Workers told to leave while a call is on finish it first."""
    counting = Counting()
    for _ in range(20):
        threads._change_pool(None)
        threads._source.teams.clear()
        now = team(3)
        results: list[Any] = []

        def calls(now: Any = now, results: list[Any] = results) -> None:
            results.extend(counting.run(now, 30, 2000) for _ in range(20))

        caller = threading.Thread(target=calls)
        caller.start()
        time.sleep(0.0005)
        threads._change_pool(None)
        caller.join()
        assert all((rows[:, 0] == 1).all() for rows in results)
        assert within(1, lambda: not own_workers())


def half_imported() -> None:
    """PyTorch while another thread imports it, and a PyTorch without OpenMP."""
    sys.modules["torch"] = torch = ModuleType("torch")
    default = get_num_threads()
    assert not uses_openmp()
    vars(torch)["get_num_threads"] = lambda: default + 3
    assert team().threads == get_num_threads() == default + 3
    assert seen(Counting(), 2) == {0, 1}
    del sys.modules["torch"]
    assert team().threads == default
    sys.modules["torch"] = None  # type: ignore[assignment]
    assert team().threads == default


def torch_never() -> None:
    assert seen(Counting(), 2) == {0, 1}
    assert own_workers()
    assert not uses_openmp()
    assert "torch" not in sys.modules


def torch_after() -> None:
    """From its import on PyTorch's threads are used; before, there were two other pools."""
    counting, own = Counting(), team(2)
    assert seen(counting, 2) == {0, 1}
    assert not uses_openmp()
    import torch

    assert uses_openmp()
    assert team(2).words[0] == _torch_parallel()
    assert within(1, lambda: not own_workers())
    assert seen(counting, 2) == {0, 1}
    assert (counting.run(own, 50, LONG)[:, :2] == (1, 0)).all()
    for n in (1, 2, 5):
        torch.set_num_threads(n)
        assert team().threads == get_num_threads() == n
    set_num_threads(3)
    torch.set_num_threads(1)
    assert team().threads == get_num_threads() == 3


def torch_before() -> None:
    """PyTorch's runtime wins over one that was there first; its threads are shared with it."""
    other = team(2).words[0]
    import torch

    assert team(2).words[0] == _torch_parallel() != other
    a = torch.ones(300, 300)
    assert (a @ a).sum() == 300**3
    assert team().threads == torch.get_num_threads()
    many_callers()
    fork(times=2)  # a child with PyTorch takes a second to end


def _torch_parallel() -> int:
    library = ctypes.CDLL(str(torch_openmp()), mode=os.RTLD_NOLOAD)
    return ctypes.cast(library.GOMP_parallel, ctypes.c_void_p).value or 0
