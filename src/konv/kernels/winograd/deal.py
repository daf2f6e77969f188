"""When the last of a call's threads ends: its units dealt out as konv.kernels.region does it, to
threads that are not equally fast, for other programs and neighbours of a virtual machine.
"""

from __future__ import annotations

from typing import NamedTuple

# One of the threads is taken to be so much slower, or none, and units by which others can help it
# are worth something (with 1/16, most layers had one unit a thread).
SLOWER = 1 / 4


class Unit(NamedTuple):
    """Some blocks of output channels over a box of tiles, by its number; cycles where its thread
    has yet to make V, and where it has it from its last unit.
    """

    box: int
    fresh: float
    knowing: float


def at_least(work: float, threads: int) -> float:
    """Cycles until so many are done, if all threads end at once; a mean as of `at_last`."""
    return work * (1 / threads + 2 / (threads - SLOWER)) / 3


def at_last(units: list[Unit], threads: int) -> float:
    """Cycles until the last thread ends, the mean of whether none, the first or the last is slower.

    >>> units = [Unit(0, 9.0, 3.0), Unit(0, 9.0, 3.0)]
    >>> at_last(units, 1), at_last(units, 2)
    (14.666666666666666, 11.0)
    """
    slow = (threads, 0, threads - 1)
    speeds = ([1 - SLOWER if i == who else 1.0 for i in range(threads)] for who in slow)
    return sum(_ends(units, each) for each in speeds) / 3


def _ends(units: list[Unit], speeds: list[float]) -> float:
    """Cycles until the last of threads of these speeds ends: each has a range of the units, then
    takes from the next that has any left.
    """
    threads = len(speeds)
    begins = [i * len(units) // threads for i in range(threads + 1)]
    ends = begins[1:]
    times, at = [0.0] * threads, [-1] * threads
    for _ in units:
        who = queue = times.index(min(times))
        while begins[queue] == ends[queue]:
            queue = (queue + 1) % threads
        unit = units[begins[queue]]
        begins[queue] += 1
        times[who] += (unit.knowing if at[who] == unit.box else unit.fresh) / speeds[who]
        at[who] = unit.box
    return max(times)
