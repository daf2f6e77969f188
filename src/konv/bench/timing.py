"""Competitors take turns; medians count; noise is found, tried again, and told.

A turn is some calls one after the other (about 4 ms of them, the first not counted, as it finds the
caches full of another's arrays); a round is a turn of each, in the opposite order every other time.

Three signs of noise, as no one of them sees everything:

- the quartiles of a competitor lie further apart than SPREAD of its median;
- its median is more than STALL times its fastest call: two programs whose OpenMP threads spin on
  the same core give a flat 16.0 ms where 0.5 was meant, without any spread;
- other programs took more than OTHERS of a core that this one needed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from time import perf_counter, process_time
from typing import Any

SPREAD = 0.10
STALL = 2.0
OTHERS = 0.10
LEAST_OTHERS = 0.05  # seconds: the system counts in hundredths
AGAIN = 3  # times that a noisy line is run again
ROUNDS = 5  # at least: quartiles of fewer calls say nothing
TURN = 4e-3  # seconds
LONG = 20e-3  # seconds: what takes longer brings its own arrays in; no call is spent on it
MOST = 200  # calls in a turn

Run = Callable[[], Any]
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of one competitor's calls: median, quartiles, the fastest; how many they were.

    >>> Times.of([1.0, 2.0, 3.0, 4.0, 5.0])
    Times(median=3.0, low=2.0, high=4.0, least=1.0, calls=5)
    """

    median: float
    low: float
    high: float
    least: float
    calls: int

    @classmethod
    def of(cls, seconds: list[float]) -> Times:
        """Return the figures of at least two calls."""
        low, median, high = quantiles(seconds, n=4, method="inclusive")
        return cls(median, low, high, min(seconds), len(seconds))

    @property
    def spread(self) -> float:
        """How far the quartiles lie apart, as a share of the median."""
        return (self.high - self.low) / self.median if self.median else 0.0


@dataclass(frozen=True, slots=True)
class Timed:
    """The quietest of `attempts` measurements of a line; `noise` says what was wrong with it."""

    times: dict[str, Times]
    attempts: int
    noise: tuple[str, ...] = ()


def measure(
    runs: Mapping[str, Run],
    budget: float,
    threads: int,
    before: Run | None = None,
    clock: Clock = perf_counter,
    others: Clock | None = None,
) -> Timed:
    """Return the times of calls by name, taken again up to AGAIN times while they are noisy.

    budget   seconds for all of them together, each time; ROUNDS rounds are run in any case
    threads  that a call uses: other programs may have the remaining cores
    before   called before each call, while no clock runs
    others   seconds of the cores that other programs have taken so far; only differences count
    """
    others = others or seconds_of_others
    tried: list[tuple[int, float, Timed]] = []
    for attempt in range(1, AGAIN + 2):
        begin, taken = clock(), others()
        times = alternate(runs, budget, before, clock)
        noise = _noise(times, clock() - begin, others() - taken, threads)
        worst = max((each.spread for each in times.values()), default=0.0)
        tried.append((len(noise), worst, Timed(times, attempt, noise)))
        if not noise:
            break
    quietest = min(tried, key=lambda entry: entry[:2])[2]
    return Timed(quietest.times, len(tried), quietest.noise)


def alternate(
    runs: Mapping[str, Run], budget: float, before: Run | None = None, clock: Clock = perf_counter
) -> dict[str, Times]:
    """Return the times of one measurement."""
    paces = {name: _pace(run, clock) for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    order, rounds, begin = list(runs), 0, clock()
    while rounds < ROUNDS or clock() - begin < budget:
        for name in order:
            _turn(runs[name], paces[name], before, clock, seconds[name])
        order.reverse()
        rounds += 1
    return {name: Times.of(each) for name, each in seconds.items()}


def _pace(run: Run, clock: Clock) -> tuple[int, int]:
    """Return how many calls of a turn are not counted, and how many are."""
    run()  # compiles, packs weights, touches memory
    took = float("inf")
    for _ in range(2):
        start = clock()
        run()
        took = min(took, clock() - start)
    return int(took < LONG), max(1, min(MOST, int(TURN / max(took, 1e-9))))


def _turn(
    run: Run, pace: tuple[int, int], before: Run | None, clock: Clock, seconds: list[float]
) -> None:
    for call in range(sum(pace)):
        if before:
            before()
        start = clock()
        run()
        took = clock() - start
        if call >= pace[0]:
            seconds.append(took)


def _noise(
    times: Mapping[str, Times], wall: float, others: float, threads: int
) -> tuple[str, ...]:
    """Return what is wrong with a measurement, in words; nothing if it is quiet."""
    found = []
    for name, each in times.items():
        if each.spread > SPREAD:
            found.append(f"{name}: quartiles {each.spread:.0%} of the median apart")
        if each.median > STALL * each.least:
            found.append(f"{name}: median {each.median / each.least:.1f} times the fastest call")
    needed = others - wall * max(0, len(_cores()) - threads)
    if needed > max(OTHERS * wall, LEAST_OTHERS):
        found.append(f"other programs took {needed / wall:.0%} of a core")
    return tuple(found)


def _cores() -> set[int]:
    """Return the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def seconds_of_others(stat: Path = Path("/proc/stat")) -> float:
    """Return the seconds of our cores that other programs have had; 0 where nobody counts them.

    What a hypervisor gave to other machines (the eighth number of Linux's /proc/stat) counts too.
    """
    try:
        lines = stat.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return 0.0
    wanted = {f"cpu{core}" for core in _cores()}
    rows = [words[1:9] for line in lines if (words := line.split()) and words[0] in wanted]
    ticks = sum(sum(map(int, row)) - sum(map(int, row[3:5])) for row in rows)  # but idle, iowait
    return ticks / os.sysconf("SC_CLK_TCK") - process_time()
