"""Competitors take turns; medians count; noise is found, tried again, and told.

A turn is some calls one after the other (about 4 ms of them, the first two not counted, as they
find the caches full of another's arrays and threads asleep); a round is a turn of each, in the
opposite order every other time.

Threads of most libraries spin for a while after a call, in case another follows: OpenMP's for 5 ms,
ONNX Runtime's for 35. Whoever comes next finds one core less. Measured on two cores, 64@56x56 3x3:
OpenVINO right behind ONNX Runtime or OpenMP took 1.8 times as long as behind itself. Users run one
library, with its defaults; so all defaults stay, and a turn of another library waits until nobody
spins any more (`settle`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter, process_time, sleep
from typing import Any

from konv.bench.noise import Times, noise_of, seconds_of_others

AGAIN = 3  # times that a noisy line is run again
ROUNDS = 5  # at least: quartiles of fewer calls say nothing
TURN = 4e-3  # seconds
LONG = 20e-3  # seconds: what takes longer brings its own arrays in; no call is spent on it
MOST = 200  # calls in a turn
WINDOW = 5e-3  # seconds: systems count what threads consume in ticks of 4 ms
WINDOWS = 20  # at most; whoever spins for longer is left to
LATE = 5  # times a turn's time: it then ends, as what was to take 10 us takes 16 ms just now

Run = Callable[[], Any]
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Timed:
    """The quietest of `attempts` measurements of a line; `noise` says what was wrong with it."""

    times: dict[str, Times]
    attempts: int
    noise: tuple[str, ...] = ()

    @property
    def spread(self) -> float:
        """The widest of all competitors'."""
        return max((each.spread for each in self.times.values()), default=0.0)


def measure(
    runs: Mapping[str, Run],
    budget: float,
    threads: int,
    before: Run | None = None,
    clock: Clock = perf_counter,
    others: Clock | None = None,
    pause: Run | None = None,
) -> Timed:
    """Return the times of calls by name, taken again up to AGAIN times while they are noisy.

    budget   seconds for all of them together, each time; ROUNDS rounds are run in any case
    threads  that a call uses: other programs may have the remaining cores
    before   called before each call, while no clock runs
    others   seconds of the cores that other programs have taken so far; only differences count
    pause    called before the turn of another library, to let the threads of the last one sleep
    """
    others = others or seconds_of_others
    tried: list[Timed] = []
    while not tried or (tried[-1].noise and len(tried) <= AGAIN):
        begin, taken = clock(), others()
        times = alternate(runs, budget, before, clock, pause)
        noise = noise_of(times, clock() - begin, others() - taken, threads)
        tried.append(Timed(times, len(tried) + 1, noise))
    quietest = min(tried, key=lambda each: (len(each.noise), each.spread))
    return Timed(quietest.times, len(tried), quietest.noise)


def alternate(
    runs: Mapping[str, Run],
    budget: float,
    before: Run | None = None,
    clock: Clock = perf_counter,
    pause: Run | None = None,
) -> dict[str, Times]:
    """Return the times of one measurement."""
    paces = {name: _pace(run, before, clock) for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    order, rounds, begin, last = list(runs), 0, clock(), ""
    while rounds < ROUNDS or clock() - begin < budget:
        for name in order:
            library = name.split()[0]
            if pause and library != last:
                pause()
            last = library
            _turn(runs[name], paces[name], before, clock, seconds[name])
        order.reverse()
        rounds += 1
    return {name: Times.of(each) for name, each in seconds.items()}


def settle() -> None:
    """Wait until no thread of this process consumes time."""
    for _ in range(WINDOWS):
        consumed = process_time()
        sleep(WINDOW)
        if process_time() - consumed < WINDOW / 2:
            return


def _pace(run: Run, before: Run | None, clock: Clock) -> tuple[int, int]:
    """Return how many calls of a turn are not counted, and how many are."""
    run()  # compiles, packs weights, touches memory
    took = float("inf")
    for _ in range(2):
        start = clock()
        if before:
            before()
        run()
        took = min(took, clock() - start)
    return 2 if took < TURN else int(took < LONG), max(1, min(MOST, int(TURN / max(took, 1e-9))))


def _turn(
    run: Run, pace: tuple[int, int], before: Run | None, clock: Clock, seconds: list[float]
) -> None:
    begin = clock()
    for call in range(sum(pace)):
        if call > pace[0] and clock() - begin > LATE * TURN:
            return
        if before:
            before()
        start = clock()
        run()
        took = clock() - start
        if call >= pace[0]:
            seconds.append(took)
