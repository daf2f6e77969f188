"""Who is faster, by how much: the one definition behind the table, the means and the figure.

    against one competitor   its median over konv's in the same layout (konv's best, if konv does
                             not run in that layout): what a user gains who changes nothing else
    best                     the fastest of all others over the fastest konv
    toughest                 the fastest of all others over the *slowest* konv: above 1, konv wins
                             whatever layout a user has

Above 1, konv is faster. A mean of ratios is geometric: half and double make 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import exp, log

from konv.bench.results import FAMILIES, Competitor, Measured, Report, Row

OURS = "konv"

Ratio = Callable[[Measured], float | None]
Share = Callable[[Report, Row, Measured], float | None]


def rivals(competitors: Iterable[Competitor]) -> list[Competitor]:
    """Return those that are not konv."""
    return [competitor for competitor in competitors if competitor.library != OURS]


def ours(measured: Measured) -> list[float]:
    """Return konv's medians."""
    return _of(measured, OURS)


def _of(measured: Measured, library: str) -> list[float]:
    return [t.median for name, t in measured.times.items() if name.split()[0] == library]


def theirs(measured: Measured) -> list[float]:
    """Return all others' medians."""
    return [t.median for name, t in measured.times.items() if name.split()[0] != OURS]


def fastest(measured: Measured) -> str:
    """Return the library that is fastest of all others, "" if there is none."""
    others = {name: t.median for name, t in measured.times.items() if name.split()[0] != OURS}
    return min(others, key=others.__getitem__).split()[0] if others else ""


def against(rival: Competitor) -> Ratio:
    """Return the ratio to one competitor; None on a line that either was not timed on."""
    same = Competitor(OURS, rival.layout).name

    def ratio(measured: Measured) -> float | None:
        mine = [measured.times[same].median] if same in measured.times else ours(measured)
        if rival.name not in measured.times or not mine:
            return None
        return measured.times[rival.name].median / min(mine)

    return ratio


def best(measured: Measured) -> float | None:
    """Return the ratio of the best of all others to konv's best."""
    mine, others = ours(measured), theirs(measured)
    return min(others) / min(mine) if mine and others else None


def over(library: str) -> Ratio:
    """Return the ratio of the best of one library to konv's best."""

    def ratio(measured: Measured) -> float | None:
        mine, others = ours(measured), _of(measured, library)
        return min(others) / min(mine) if mine and others else None

    return ratio


def toughest(measured: Measured) -> float | None:
    """Return the ratio of the best of all others to konv's worse layout."""
    mine, others = ours(measured), theirs(measured)
    return min(others) / max(mine) if mine and others else None


def of_peak(report: Report, row: Row, measured: Measured) -> float | None:
    """Return konv's best speed over the measured peak of multiply-adds, by nominal MACs.

    Winograd does fewer than those, and may exceed 1.
    """
    conv, mine = row.conv, ours(measured)
    roofline = report.rooflines.get(conv.dtype)
    return 2 * conv.macs / min(mine) / roofline.peak_flops if mine and roofline else None


def of_bandwidth(report: Report, row: Row, measured: Measured) -> float | None:
    """Return the bytes that konv's best call must move over those that memory moves in that time.

    Warm arrays lie in the caches, and may exceed 1.
    """
    conv, mine = row.conv, ours(measured)
    roofline = report.rooflines.get(conv.dtype)
    return conv.bytes / min(mine) / roofline.bandwidth if mine and roofline else None


def mean(values: Iterable[float | None]) -> float | None:
    """Return the geometric mean of those that are not None, None if all are.

    >>> mean([0.5, None, 2.0])
    1.0
    """
    logs = [log(value) for value in values if value]
    return exp(sum(logs) / len(logs)) if logs else None


def pairs(report: Report, working_set: str, family: str = "") -> list[tuple[Row, Measured]]:
    """Return the rows measured warm or cold, of one family or of all."""
    return [
        (row, measured)
        for row in report.rows
        for measured in row.measured
        if measured.working_set == working_set and family in ("", row.family)
    ]


def families(report: Report) -> list[str]:
    """Return the families that occur, in the order in which they are always told."""
    found = {row.family for row in report.rows}
    return [family for family in FAMILIES if family in found]
