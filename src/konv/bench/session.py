"""One run: lines of text in, a report out. A line's trouble ends that line only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from time import perf_counter
from typing import Any

from konv.bench import noise, timing
from konv.bench.answers import answers
from konv.bench.lines import Problem, select
from konv.bench.machine import describe
from konv.bench.peers import OURS, Peer, Run, installed, konv, name
from konv.bench.peers.konv import Konv
from konv.bench.results import COLD, WARM, Competitor, Measured, Report, Row
from konv.bench.working import Rotation, draw, rotating, sweeper
from konv.errors import KonvError
from konv.geometry import Conv
from konv.runtime import roofline
from konv.runtime.threads import get_num_threads, set_num_threads

MEASURED = {"float32", "float64", "float16"}  # dtypes that konv measures the peak of
# What a competitor may raise; konv's own errors, and those of the arrays, are among them.
TROUBLE = (ArithmeticError, KonvError, MemoryError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Settings:
    """What to measure, and for how long.

    threads  None: as many as konv and PyTorch use by themselves
    batch    None: that of each line
    budget   seconds for a line, warm or cold; noise may take it four times
    cold     measure with arrays that are in no cache, too
    only     a part of the name or the text of the lines that are wanted
    peers    libraries to compare with; none named: all that are installed
    prepared konv as layers whose weights are packed once, as of libraries that make a model
    """

    threads: int | None = None
    batch: int | None = None
    budget: float = 1.0
    cold: bool = False
    only: str = ""
    peers: tuple[str, ...] = ()
    prepared: bool = False


def bench(
    problems: Sequence[Problem],
    settings: Settings = Settings(),
    peers: Sequence[Peer] | None = None,
    started: Callable[[Report], None] = lambda _: None,
    heard: Callable[[Report, Row], None] = lambda *_: None,
) -> Report:
    """Measure konv and its peers on each problem; `heard` gets each row as soon as it is there.

    `started` gets the report without rows. ProblemError if no line is left to measure.
    """
    peers = _asked(settings) if peers is None else peers
    chosen = select(problems, settings.only, settings.batch)
    peers = [peer for peer in peers if not _idle(peer, chosen)]
    with _threads(settings.threads) as threads:
        report = _begin(chosen, settings, peers, threads)
        started(report)
        for label, conv in chosen:
            row = _measure(label, conv, settings, peers, threads)
            heard(report, row)
            report = replace(report, rows=(*report.rows, row))
    return report


def _asked(settings: Settings) -> list[Peer]:
    """The competitors; konv as the settings want it."""
    others = [peer for peer in installed(settings.peers) if peer.library != OURS]
    return [*konv.peers(settings.prepared), *others]


def _idle(peer: Peer, problems: Sequence[Problem]) -> bool:
    """Whether it is an algorithm of konv that takes none of the layers: there is nothing to say."""
    pinned = isinstance(peer, Konv) and peer.plan is not None
    return pinned and all(peer.why_not(conv) for _, conv in problems)


def _begin(
    problems: Sequence[Problem], settings: Settings, peers: Sequence[Peer], threads: int
) -> Report:
    dtypes = {conv.dtype for _, conv in problems} & MEASURED
    date = datetime.now(UTC).isoformat(timespec="seconds")
    said = {"date": date, **asdict(settings), "threads": threads}
    del said["peers"]  # the competitors say it
    begin, taken = perf_counter(), noise.seconds_of_others()
    rooflines = {dtype: roofline.measure(threads, dtype) for dtype in sorted(dtypes)}
    wall, others = perf_counter() - begin, noise.seconds_of_others() - taken
    machine = describe(peer.library for peer in peers if peer.library != OURS)
    busy = noise.why_busy(wall, others, threads)
    if busy:
        machine["disturbed"] = f"peak and bandwidth were measured while {busy}"
    competitors = tuple(Competitor(peer.library, peer.layout) for peer in peers)
    return Report(machine, said, competitors, rooflines)


@contextmanager
def _threads(wanted: int | None) -> Iterator[int]:
    """Let konv and PyTorch use so many threads, and as many as before afterwards.

    PyTorch is imported first: from then on konv uses its threads, and by default as many.
    """
    torch: Any = import_module("torch") if find_spec("torch") else None
    before = (get_num_threads(), torch.get_num_threads() if torch else 0)
    if wanted is None:
        yield before[0]
        return
    set_num_threads(wanted)
    try:
        if torch:
            torch.set_num_threads(wanted)
        yield wanted
    finally:
        set_num_threads(before[0])
        if torch:
            torch.set_num_threads(before[1])


def _measure(
    label: str, conv: Conv, settings: Settings, peers: Sequence[Peer], threads: int
) -> Row:
    """Return the row of one line."""
    try:
        arrays = draw(conv)
        right = answers(conv, arrays)
    except TROUBLE as error:
        return Row(label, str(conv), "not at all", refused={name(p): _said(error) for p in peers})
    row = Row(label, str(conv), right.said)
    runs: dict[str, Run] = {}
    for peer in peers:
        why = peer.why_not(conv)
        try:
            run = None if why else peer.prepare(conv, *arrays)
            wrong = right.why_wrong(run()) if run else None
        except TROUBLE as error:
            run, wrong, why = None, None, _said(error)
        if why:
            row.refused[name(peer)] = why
        elif wrong:
            row.wrong[name(peer)] = wrong
        elif run:
            runs[name(peer)] = run
    if not runs:
        return row
    measured = [_timed(WARM, runs, settings, threads, conv.bytes)]
    if settings.cold:
        able = [peer for peer in peers if name(peer) in runs and not peer.compiles]
        measured += [_cold(conv, settings, able, threads)] if able else []
    return replace(row, measured=tuple(measured))


def _cold(conv: Conv, settings: Settings, peers: Sequence[Peer], threads: int) -> Measured:
    rotation = Rotation.of(conv)
    runs = {name(peer): rotating(peer, conv, rotation) for peer in peers}
    for run in runs.values():  # konv packs each weight at first sight; nobody does at the second
        for _ in range(rotation.sets):
            run()
    return _timed(COLD, runs, settings, threads, rotation.bytes, sweeper(rotation))


def _timed(
    working_set: str,
    runs: dict[str, Run],
    settings: Settings,
    threads: int,
    moved: int,
    before: Run | None = None,
) -> Measured:
    timed = timing.measure(runs, settings.budget, threads, before, pause=timing.settle)
    return Measured(working_set, timed.times, timed.attempts, timed.noise, moved)


def _said(error: BaseException) -> str:
    """Return the first line of an error: PyTorch's go on with its own stack."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
