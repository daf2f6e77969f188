"""What this machine can do at best, measured: the two lines under which every kernel stays.

A convolution of F operations that must move B bytes takes at least max(F / peak, B / bandwidth)
seconds (Williams, Waterman, Patterson, "Roofline", 2009). Peak and bandwidth come from kernels of
konv's own (konv.kernels.roofline) on konv's own threads, not from a data sheet: clock rates, shared
machines and containers make those wrong. Measured once per process, dtype and number of threads, in
about 0.5 s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from time import perf_counter
from typing import Any

import numpy as np

from konv import llvm
from konv.kernels import roofline as emitted
from konv.kernels.region import RUN
from konv.runtime.code import compiled
from konv.runtime.threads import Team, team
from konv.target import BYTES, Target

Array = np.ndarray[Any, Any]

ENOUGH = (
    0.06  # seconds for each of the two; the best run counts: what disturbs can only slow one down
)
FEWEST = 5  # runs, where a busy machine makes each of them long
CALL = 2e-3  # seconds of one run on one thread: starting a team, some microseconds, is then nothing
TRIPS = 2_000  # of a unit of the peak, some 10 us: the counter is then nothing
COPIED = 16_384  # numbers in a unit of the copy: a few pages
# Bytes read and written by a copy: past the last cache of most machines. Of one of 504 MB that
# others use as well, 128 were copied at 16 to 20 GB/s by one thread and at 35 to 52 by two; 256 and
# more at 16.5 and 31.
MOVED = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Roofline:
    """`peak_flops` a second (a multiply-add is two), `bandwidth` in bytes a second, read and
    written.

    >>> Roofline(peak_flops=100e9, bandwidth=20e9, threads=2).best_seconds(flops=1e9, moved=1e9)
    0.05
    """

    peak_flops: float
    bandwidth: float
    threads: int
    dtype: str = "float32"

    @property
    def ridge(self) -> float:
        """Operations per byte above which arithmetic is the limit, not memory."""
        return self.peak_flops / self.bandwidth

    def best_seconds(self, flops: float, moved: float) -> float:
        """Return the least time that so many operations and bytes moved can take."""
        return max(flops / self.peak_flops, moved / self.bandwidth)


def measure(threads: int | None = None, dtype: str = "float32") -> Roofline:
    """Return the roofline of this machine for a number of threads; None: as many as konv uses.

    Half precision is summed in float32, whose peak is its own; bytes move as fast.
    """
    crew = team() if threads is None else team(threads)
    if BYTES[dtype] < BYTES["float32"]:
        return replace(_measure(crew, "float32"), dtype=dtype)
    return _measure(crew, dtype)


@cache
def _measure(crew: Team, dtype: str) -> Roofline:
    # Where others keep the cores busy, two threads may do less than one.
    peak = max(_peak(crew, dtype), _peak(team(1), dtype))
    return Roofline(peak, _bandwidth(crew, dtype), crew.threads, dtype)


@cache
def _peak(crew: Team, dtype: str) -> float:
    """Operations a second; each thread gets as many units as take it the time of a call."""
    seconds, operations = _multiply_adds(crew, dtype)
    alone, units = team(1), 1
    while min(seconds(units, alone) for _ in range(3)) < CALL:
        units *= 2
    units *= crew.threads
    best = _best(lambda: seconds(units, crew))
    return units * operations / best


def multiply_adds(threads: int, seconds: float) -> Callable[[int], float]:
    """Float32 multiply-adds on numbers in registers, which take one thread about so many seconds:
    called with a number of threads, at most `threads`, the seconds that they take together.
    """
    run, _ = _multiply_adds(team(threads), "float32")
    units = max(threads, round(seconds / min(run(1, team(1)) for _ in range(FEWEST))))
    return lambda number: run(units, team(number))


def _multiply_adds(crew: Team, dtype: str) -> tuple[Callable[[int, Team], float], int]:
    """What takes a team the seconds for so many units, and the operations of a unit."""
    target = llvm.detect()
    lanes, chains = target.lanes(dtype), emitted.chains(target)
    factors = np.array([0.5, 0.5], dtype)  # s / 2 + 1 / 2 tends to 1: no overflow, no denormals
    sums = np.empty(crew.threads * chains * lanes, dtype)
    run = _function(f"roofline peak {dtype}", target, lambda: emitted.emit_peak(target, dtype))

    def seconds(units: int, team: Team) -> float:
        return _seconds(run, team, (units, TRIPS), factors, sums)

    return seconds, 2 * TRIPS * chains * lanes


def _bandwidth(crew: Team, dtype: str) -> float:
    """Bytes a second, those read and those written."""
    target = llvm.detect()
    units = MOVED // (2 * COPIED * BYTES[dtype])
    x, y = np.ones(
        (2, units * COPIED), dtype
    )  # written once, or all of x would be one page of zeros
    run = _function(f"roofline copy {dtype}", target, lambda: emitted.emit_copy(target, dtype))
    return MOVED / _best(lambda: _seconds(run, crew, (units, COPIED), x, y))


def _function(what: str, target: Target, emit: Callable[[], llvm.Module]) -> Callable[..., Any]:
    """The exported `run`; it keeps the machine code that it is part of alive."""
    loaded = compiled(what, what, target, emit)
    run = loaded.function("run", len(RUN))
    run.loaded = loaded
    return run  # type: ignore[no-any-return]  # ctypes has no types


def _seconds(
    run: Callable[..., Any],
    crew: Team,
    words: tuple[int, int],
    x: np.ndarray[Any, Any],
    y: np.ndarray[Any, Any],
) -> float:
    job = np.array(words, np.int64)
    begin = perf_counter()
    run(job.ctypes.data, x.ctypes.data, 0, y.ctypes.data, 0, crew.address, crew.threads)
    return perf_counter() - begin


def _best(once: Callable[[], float]) -> float:
    """The least of as many runs as `ENOUGH` has room for, after one that does not count."""
    once()
    begin, best, runs = perf_counter(), float("inf"), 0
    while runs < FEWEST or perf_counter() - begin < ENOUGH:
        best, runs = min(best, once()), runs + 1
    return best
