"""The figures of a measurement, and what is wrong with it.

Three signs of noise, as no one of them sees everything:

- the quartiles of a competitor lie further apart than SPREAD of its median;
- its median is more than STALL times its fastest call;
- other programs took more than OTHERS of a core that this one needed. That one matters most: two
  programs whose OpenMP threads spin on the same core give a flat 16.0 ms where 0.5 was meant,
  every time, without any spread.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from time import process_time

SPREAD = 0.10
STALL = 2.0
OTHERS = 0.10
LEAST_OTHERS = 0.05  # seconds: the system counts in hundredths


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


def noise_of(
    times: Mapping[str, Times], wall: float, others: float, threads: int
) -> tuple[str, ...]:
    """Return what is wrong with a measurement, in words; nothing if it is quiet."""
    found = []
    for name, each in times.items():
        if each.spread > SPREAD:
            found.append(f"{name}: quartiles {each.spread:.0%} of the median apart")
        if each.median > STALL * each.least:
            found.append(f"{name}: median {each.median / each.least:.1f} times the fastest call")
    busy = why_busy(wall, others, threads)
    return (*found, busy) if busy else tuple(found)


def why_busy(wall: float, others: float, threads: int) -> str | None:
    """Return that other programs took cores that `threads` threads needed, None if they did not."""
    needed = others - wall * max(0, len(_cores()) - threads)
    if needed <= max(OTHERS * wall, LEAST_OTHERS):
        return None
    return f"other programs took {needed / wall:.0%} of a core"


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
