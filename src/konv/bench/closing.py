"""What stands below the rows of a report: means by family, what to doubt, how to read it all."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap

from konv.bench import ratios
from konv.bench.results import COLD, WARM, Measured, Report, Row
from konv.bench.text import SHORT, WIDTH, Line, factor, few, opening, row_lines

LEGEND = """
Times are medians, in ms, of calls that take turns, everything included. A ratio is how many times
as fast konv is as that competitor in the same layout; best: the fastest of all others over the
fastest konv; toughest: over the slowest konv. peak, mem: konv's fastest in % of the multiply-adds
(nominal, so Winograd may exceed 100) and of the memory traffic (warm arrays lie in caches and may
exceed it too) that this machine was measured to do. *: noisy, the reasons are above.
"""
MANY = "Of a library with two layouts, times and means are those of the faster one."
NOT_TAKEN = "-: that algorithm does not take the layer; konv explain LAYER says why."
PINNED = "plan="  # how konv begins to say that an algorithm asked for does not take a layer
FAMILY = 14  # columns for the name of a family


def closing(report: Report) -> list[Line]:
    """Return what stands below the rows: means by family, noise, errors, how to read it all."""
    lines: list[Line] = []
    for working_set in (WARM, COLD):
        lines += _means(report, working_set)
    doubts = [line for row in report.rows for line in _doubts(row)]
    lines += [[], *doubts] if doubts else []
    lines += _warning(report)
    legend = [LEGEND.strip()]
    legend += [] if few(report) else [MANY]
    refused = (why for row in report.rows for why in row.refused.values())
    legend += [NOT_TAKEN] if any(why.startswith(PINNED) for why in refused) else []
    return [*lines, [], *([(part, "dim")] for part in wrap(" ".join(legend), WIDTH))]


def _means(report: Report, working_set: str) -> Iterator[Line]:
    """Yield the geometric means of ratios over each family, over all, over all that is quiet."""
    every = [measured for _, measured in ratios.pairs(report, working_set)]
    heads = _heads(report)
    if not heads or not every:
        return
    yield []
    titles = "".join(_right(head, head) for head in heads)
    yield [(f"{f'mean, {working_set}':<{FAMILY}}{titles}   lines  noisy", "bold")]
    for family in ratios.families(report):
        found = [measured for _, measured in ratios.pairs(report, working_set, family)]
        yield _mean(family, found, heads)
    yield _mean("all", every, heads)
    quiet = [measured for measured in every if not measured.noise]
    if len(quiet) < len(every):
        yield _mean("all but noisy", quiet, heads)


def _mean(title: str, found: list[Measured], heads: dict[str, ratios.Ratio]) -> Line:
    line: Line = [(f"{title:<{FAMILY}}", "")]
    for head, ratio in heads.items():
        text, style = factor(ratios.mean(ratio(measured) for measured in found))
        line.append((_right(text, head), style))
    noisy = sum(bool(measured.noise) for measured in found)
    return [*line, (f"{len(found):>8}{noisy:>7}", "")]


def _heads(report: Report) -> dict[str, ratios.Ratio]:
    """Return headings and ratios of the table of means; nothing where konv is alone."""
    rivals = ratios.rivals(report.competitors)
    if not rivals:
        return {}
    both = {"best": ratios.best, "toughest": ratios.toughest}
    if few(report):
        named = {f"{c.library} {SHORT.get(c.layout, c.layout)}": ratios.against(c) for c in rivals}
        return named | both
    return {c.library[:7]: ratios.over(c.library) for c in rivals} | both


def _right(text: str, head: str) -> str:
    """Return text at the right of the column below a heading."""
    return text.rjust(max(8, len(head) + 2))


def _doubts(row: Row) -> Iterator[Line]:
    """Yield what was wrong, refused or noisy in a row."""
    found = [(f"{name} is WRONG: {why}", "bold red") for name, why in row.wrong.items()]
    refused = {name: why for name, why in row.refused.items() if not why.startswith(PINNED)}
    found += [(f"{name}: {why}", "dim") for name, why in refused.items()]
    for measured in row.measured:
        if measured.noise:
            again = f"* {measured.working_set}, the quietest of {measured.attempts}: "
            found.append((again + "; ".join(measured.noise), "yellow"))
    for text, style in found:
        for part in wrap(f"{row.name}: {text}", WIDTH, subsequent_indent="    "):
            yield [(part, style)]


def _warning(report: Report) -> list[Line]:
    """Return that a report is not worth keeping, if most of it is noise."""
    every = [measured for row in report.rows for measured in row.measured]
    noisy = sum(bool(measured.noise) for measured in every)
    if 2 * noisy <= len(every):
        return []
    said = (
        f"{noisy} of {len(every)} measurements are noisy: do not rely on them. Use an idle machine."
    )
    return [[], [(said, "bold red")]]


def render(report: Report) -> list[Line]:
    """Return a whole report, as a file that was committed is shown."""
    rows = [line for row in report.rows for line in row_lines(report, row)]
    return [*opening(report), *rows, *closing(report)]
