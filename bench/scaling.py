"""What more threads and larger problems cost, layer by layer: konv beside itself.

    python bench/scaling.py                          one thread and all, on problems/article.txt
    python bench/scaling.py problems/vgg16.txt --only 3x3 --seconds 0.5
    python bench/scaling.py --doubled                each layer and the same doubled in size

Threads. `wanted` is 1.8 times one thread's speed where arithmetic is the limit and one thread takes
over a millisecond; elsewhere 0.9 of what a copy in memory gains, or of 1 where a call is too short
to be shared (16 us on one thread). Two clocks of one run decide nothing by a hair: what is marked
`<` missed by more than 3 %. `machine` is what multiply-adds on registers alone gain, in the same
turns: on a virtual machine whose neighbours share its cores often less than the cores are.

Doubled. Rows, images and output channels are doubled in turn; `times` is what the double costs over
the single. Up to 2 is what nobody has to think about; what no longer fits in a cache costs more, so
the roofline's share of both is printed: memory's or arithmetic's, whichever is the limit.

NumPy arrays; medians of alternating calls, measured again while other programs disturb.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import geometric_mean
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from konv.bench import lines, timing  # noqa: E402 - from this clone, installed or not
from konv.bench.peers.konv import Konv  # noqa: E402
from konv.bench.peers.peer import LAYOUTS  # noqa: E402
from konv.bench.working import draw  # noqa: E402
from konv.geometry import Conv  # noqa: E402
from konv.runtime import roofline  # noqa: E402
from konv.runtime.threads import get_num_threads, set_num_threads  # noqa: E402

PROBLEMS = str(ROOT / "problems" / "article.txt")
SHARED = 1.8  # times as fast with two threads, where arithmetic is the limit
LONG = 1e-3  # seconds
SHORT = 16e-6  # seconds: starting a team takes 2 of them, each of two units as much again
KEPT = 0.9  # of what a copy gains
HAIR = 0.97


class Call:
    """A layer on arrays of one layout, with so many threads."""

    def __init__(self, conv: Conv, layout: str, threads: int) -> None:
        self.run, self.threads = Konv(layout, tensors=False).prepare(conv, *draw(conv)), threads

    def __call__(self) -> Any:
        set_num_threads(self.threads)
        return self.run()


class Arithmetic:
    """Multiply-adds without memory, on so many threads."""

    def __init__(self, run: Callable[[int], float], threads: int) -> None:
        self.run, self.threads = run, threads

    def __call__(self) -> float:
        return self.run(self.threads)


def medians(calls: Mapping[str, Call | Arithmetic], seconds: float) -> list[float]:
    """Seconds of each, in turns."""
    most = max(call.threads for call in calls.values())
    timed = timing.measure(calls, seconds, most, pause=timing.settle)
    return [timed.times[name].median for name in calls]


def wanted(conv: Conv, alone: float, threads: int) -> float:
    """How many times as fast as one thread `threads` should be."""
    one, all_ = roofline.measure(1, conv.dtype), roofline.measure(threads, conv.dtype)
    bound_by_arithmetic = 2 * conv.exact_macs / conv.bytes > all_.ridge
    if bound_by_arithmetic and alone > LONG:
        return 1 + (SHARED - 1) * (threads - 1)
    return KEPT * (all_.bandwidth / one.bandwidth if alone > SHORT else 1.0)


def by_threads(name: str, conv: Conv, layout: str, threads: int, seconds: float) -> float:
    """Print a row; how many times as fast as wanted it is."""
    counts, adds = (1, threads), roofline.multiply_adds(threads, LONG)
    calls = {f"{n} threads": Call(conv, layout, n) for n in counts}
    control = {f"machine, {n} threads": Arithmetic(adds, n) for n in counts}
    alone, together, *machine = medians(calls | control, seconds)
    want, got = wanted(conv, alone, threads), alone / together
    row = (
        f"{name:28.28} {layout:14} {1e3 * alone:9.3f} {1e3 * together:9.3f} {got:6.2f} {want:7.2f}"
    )
    print(f"{row} {machine[0] / machine[1]:8.2f} {'<' * (got < HAIR * want)}", flush=True)
    return got / want


def doubled(conv: Conv) -> Iterator[tuple[str, Conv]]:
    """The same layer with twice the rows, images, output channels: those there are."""
    first, *rest = conv.in_shape[2:]
    yield "rows", conv.with_size(2 * first, *rest)
    yield "images", conv.with_batch(2 * conv.n)
    if conv.groups == 1:
        yield "outputs", replace(conv, co=2 * conv.co)


def by_size(name: str, conv: Conv, layout: str, threads: int, seconds: float) -> float:
    """Print a row; 2 over the worst factor."""
    larger = dict(doubled(conv))
    calls = {f"{what} {layout}": Call(c, layout, threads)
             for what, c in {"single": conv, **larger}.items()}  # fmt: skip
    single, *found = medians(calls, seconds)
    roof = roofline.measure(threads, conv.dtype)
    least = [roof.best_seconds(2 * c.exact_macs, c.bytes) for c in (conv, *larger.values())]
    row = f"{name:28.28} {layout:14} {1e3 * single:9.3f} ({least[0] / single:4.0%})"
    for what, took, floor in zip(larger, found, least[1:], strict=True):
        row += f"  {what} {took / single:5.2f} ({floor / took:4.0%})"
    print(row, flush=True)
    return 2 * single / max(found)


def main() -> None:
    """As the arguments say."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    asked.add_argument("problems", nargs="*", help="files of lines, or lines")
    asked.add_argument("--only", default="", help="lines whose name or text contains it")
    asked.add_argument("--seconds", type=float, default=0.4, help="for each row")
    asked.add_argument("--doubled", action="store_true", help="sizes instead of threads")
    given = asked.parse_args()
    threads, row = get_num_threads(), by_size if given.doubled else by_threads
    if not given.doubled:
        heads = f"{'ms of':28} {'':14} {'1 thread':>9} {threads:>9} {'ratio':>6} {'wanted':>7}"
        print(f"{heads} {'machine':>8}")
    shares = [
        row(name, conv, layout, threads, given.seconds)
        for name, conv in lines.select(lines.read(given.problems or [PROBLEMS]), given.only)
        for layout in LAYOUTS[: 1 + (conv.dims > 1)]
    ]
    mean, least = geometric_mean(shares), min(shares)
    print(f"to what is wanted: geometric mean {mean:.2f}, least {least:.2f}")


if __name__ == "__main__":
    main()
