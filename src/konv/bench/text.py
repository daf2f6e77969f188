"""A report as text that fits 100 columns: what stands above, and the rows as they come.

A line of text is a list of (words, style) pieces, so that a terminal can colour what a pipe gets
plain; this file knows neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from textwrap import wrap

from konv.bench import ratios
from konv.bench.results import WARM, Competitor, Measured, Report, Row

WIDTH = 100
MANY = 4  # competitors that each get columns; of more, the faster layout of each library gets one

Piece = tuple[str, str]
Line = list[Piece]

SHORT = {"contiguous": "contig.", "channels-last": "ch-last"}
TITLES = {  # of libraries whose names are longer than a column, in the two lines of a heading
    "compiled": ("torch", "compil"),
    "onnxruntime": ("onnx", "rt"),
    "openvino": ("open", "vino"),
}


@dataclass(frozen=True, slots=True)
class Column:
    """Two lines of heading, and what stands below them."""

    over: str
    head: str
    width: int
    cell: Callable[[Row, Measured], Piece]


def columns(report: Report) -> list[Column]:
    """Return the columns that suit the competitors of a report."""
    made = [_times(names, over, head) for over, head, names in _timed(report.competitors)]
    rivals = ratios.rivals(report.competitors)
    narrow = not few(report)
    if not narrow:
        for i, rival in enumerate(rivals):
            over = f"konv vs {rival.library}" if i == 0 else ""
            made.append(_ratio(over, SHORT.get(rival.layout, ""), ratios.against(rival)))
    if rivals:
        made.append(_ratio("", "best", ratios.best, 8 - narrow))
    width = 6 - narrow
    return [
        *made,
        _share("% of", "peak", report, ratios.of_peak, width),
        _share("", "mem", report, ratios.of_bandwidth, width),
    ]


def name_width(report: Report) -> int:
    """Return how many columns there are for the name of a line."""
    return 26 if few(report) else 22


def few(report: Report) -> bool:
    """Whether each competitor can have a column of its own."""
    return len(report.competitors) <= MANY


def _timed(competitors: tuple[Competitor, ...]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield headings and the competitors whose best stands below them."""
    for library in dict.fromkeys(c.library for c in competitors):
        mine = [c for c in competitors if c.library == library]
        if len(competitors) > MANY and library != ratios.OURS:
            over, head = TITLES.get(library, ("", library[:6]))
            yield over.rjust(5), head, [c.name for c in mine]
            continue
        for i, competitor in enumerate(mine):
            head = SHORT.get(competitor.layout, competitor.layout)
            yield library if i == 0 else "", head, [competitor.name]


def _times(names: list[str], over: str, head: str) -> Column:
    width = 8 if head in SHORT.values() else 7

    def cell(row: Row, measured: Measured) -> Piece:
        known = [measured.times[name].median for name in names if name in measured.times]
        if known:
            first = min(known) == min(ratios.theirs(measured), default=0.0)
            return milliseconds(min(known)), "bold" if first else ""
        wrong = any(name in row.wrong for name in names)
        return ("WRONG", "bold red") if wrong else ("-", "dim")

    return Column(over, head, width, cell)


def _ratio(over: str, head: str, ratio: ratios.Ratio, width: int = 8) -> Column:
    return Column(over, head, width, lambda _, measured: factor(ratio(measured)))


def _share(over: str, head: str, report: Report, share: ratios.Share, width: int) -> Column:
    def cell(row: Row, measured: Measured) -> Piece:
        value = share(report, row, measured)
        return ("" if value is None else f"{100 * value:.0f}"), ""

    return Column(over, head, width, cell)


def factor(value: float | None) -> Piece:
    """Write a ratio: green where konv wins, red where it loses.

    >>> factor(1.936), factor(0.5)
    (('1.94', 'green'), ('0.50', 'red'))
    """
    if value is None:
        return "", ""
    return (f"{value:.2f}" if value < 100 else f"{value:.0f}"), "green" if value >= 1 else "red"


def milliseconds(seconds: float) -> str:
    """Write a time in six columns at most.

    >>> milliseconds(6.17e-6), milliseconds(1.234e-3), milliseconds(0.30612)
    ('0.0062', '1.234', '306.1')
    """
    ms = seconds * 1e3
    return f"{ms:.{4 if ms < 1 else 3 if ms < 10 else 2 if ms < 100 else 1}f}"


def opening(report: Report) -> list[Line]:
    """Return what stands above the rows: machine, settings, headings."""
    settings = report.settings
    said = {**report.machine, "threads": f"{settings['threads']}"}
    for dtype, roof in report.rooflines.items():
        peak, moved = roof.peak_flops / 1e9, roof.bandwidth / 1e9
        said[dtype] = f"{peak:.0f} GFLOP/s, {moved:.1f} GB/s (measured in this run)"
    if settings.get("prepared"):
        said["konv"] = "prepared layers: weights packed once, before the first call"
    said["measured"] = f"{settings['date']}, {settings['budget']:g} s a line"
    lines: list[Line] = []
    for label, value in said.items():
        for i, part in enumerate(wrap(value, WIDTH - 12)):
            lines.append([(f"{label if i == 0 else '':<12}", "green"), (part, "")])
    width = name_width(report)
    over, head = "".ljust(width), "layer".ljust(width)
    for column in columns(report):
        over += _under(column.over, column.width)
        head += column.head.rjust(column.width)
    return [*lines, [], [(over.rstrip(), "bold")], [(head, "bold")]]


def _under(over: str, width: int) -> str:
    """Return an upper heading; a long one runs on over its right neighbour's empty one."""
    return f"  {over}".ljust(width)


def row_lines(report: Report, row: Row) -> list[Line]:
    """Return one row, warm and cold one below the other."""
    made, width = columns(report), name_width(report)
    first, *more = row.measured or (Measured(WARM, {}, 0, (), 0),)
    long = len(row.name) >= width
    lines: list[Line] = [[(row.name, "")]] if long else []
    named = [("" if long else row.name, first), *((f"  {each.working_set}", each) for each in more)]
    return lines + [_row_line(made, row, each, name.ljust(width)) for name, each in named]


def _row_line(made: list[Column], row: Row, measured: Measured, name: str) -> Line:
    line: Line = [(name, "")]
    for column in made:
        text, style = column.cell(row, measured)
        line.append((text.rjust(column.width), style))
    return [*line, (" *" if measured.noise else "", "yellow")]


def plain(line: Line) -> str:
    """Return a line without its styles."""
    return "".join(words for words, _ in line).rstrip()
