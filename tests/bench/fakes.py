"""Competitors, clocks and reports made up for the tests of the benchmark."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import Any

import numpy as np

from konv.bench.noise import Times
from konv.bench.results import COLD, WARM, Competitor, Measured, Report, Row
from konv.geometry import Conv
from konv.reference import im2col
from konv.runtime.roofline import Roofline


class Fake:
    """A competitor that computes with the reference; `spoil` changes its answer."""

    layout, compiles = "contiguous", False

    def __init__(self, library: str = "fake", spoil: Callable[[Any], Any] = lambda y: y) -> None:
        self.library, self.spoil, self.calls = library, spoil, 0
        self.inputs: list[Any] = []

    def why_not(self, conv: Conv) -> str | None:
        return None

    def prepare(self, conv: Conv, x: Any, weight: Any, bias: Any) -> Callable[[], Any]:
        answer = self.spoil(im2col(conv, x, weight, bias).astype(conv.dtype))

        def run() -> Any:
            self.calls += 1
            self.inputs.append(x)
            return answer

        return run


class FakeClock:
    """Time passes only when a run takes it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def run(self, seconds: Sequence[float]) -> Callable[[], None]:
        """A call that takes these times, one after the other, over and over."""
        turns: Iterator[float] = cycle(seconds)

        def run() -> None:
            self.now += next(turns)

        return run


def times(seconds: float) -> Times:
    """Times without spread."""
    return Times(seconds, seconds, seconds, seconds, 9)


def report(
    problems: Sequence[tuple[str, Conv]], libraries: Sequence[str], cold: bool = False
) -> Report:
    """A report: konv takes 1 ms, the n-th other library n + 1 ms, twice that where cold."""
    competitors = tuple(
        Competitor(library, layout)
        for library in libraries
        for layout in ("contiguous", "channels-last")
    )
    rows = []
    for label, conv in problems:
        measured = [
            Measured(
                working_set,
                {
                    c.name: times(scale * 1e-3 * (libraries.index(c.library) + 1))
                    for c in competitors
                },
                1,
                ("other programs took 50% of a core",) if "7x7" in label else (),
                conv.bytes,
            )
            for working_set, scale in ((WARM, 1), (COLD, 2))[: 1 + cold]
        ]
        rows.append(Row(label, str(conv), "all", measured=tuple(measured)))
    return Report(
        {"processor": "a processor", "versions": "some"},
        {"threads": 2, "budget": 1.0, "date": "2026-01-01"},
        competitors,
        {"float32": Roofline(1e11, 1e10, 2)},
        tuple(rows),
    )


def nan(y: Any) -> Any:
    """The answer with one NaN."""
    y = y.copy()
    y.flat[-1] = np.nan
    return y


def one_off(y: Any) -> Any:
    """The answer with one output off by a thousandth."""
    y = y.copy()
    y.flat[y.size // 3] += 1e-3
    return y
