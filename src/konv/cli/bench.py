"""konv bench: the time of convolutions here, in konv and in the other libraries installed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from konv.cli.examples import examples

if TYPE_CHECKING:
    from collections.abc import Callable

    from konv.bench import Report, Row, Settings
    from konv.bench.text import Line

LIST = Path("problems/article.txt")  # in a clone; what `konv bench` alone measures there

EPILOG = examples(
    "konv bench 'conv2d 1x64x56x56 o64 k3 p1'",
    "konv bench 'conv2d 1x64x56x56 o64 k3 p1' --threads 1 --batch 8 --cold",
    "konv bench problems/resnet50.txt --peers torch,onnxruntime",
    "konv bench problems/article.txt --only depthwise --json depthwise.json",
    "konv bench depthwise.json --plot depthwise.png",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EPILOG)(bench)


def bench(
    problems: Annotated[
        list[str] | None,
        typer.Argument(
            help="A convolution in one line of text, a file of such lines, or a report written "
            f"by --json, which is shown. Default: {LIST}."
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Default: as many as konv uses.", min=1)
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Images, instead of each line's own.", min=1)
    ] = None,
    budget: Annotated[
        float, typer.Option(help="Seconds for a line; noise may take it four times.")
    ] = 1.0,
    cold: Annotated[
        bool, typer.Option("--cold", help="Measure with arrays that are in no cache, too.")
    ] = False,
    only: Annotated[str, typer.Option(help="Only lines whose name or text contains this.")] = "",
    peers: Annotated[
        str,
        typer.Option(
            help="Libraries to compare with, joined by commas; own: konv's algorithms, each "
            "pinned. Default: all libraries here."
        ),
    ] = "",
    prepared: Annotated[
        bool,
        typer.Option(
            "--prepared",
            help="konv as layers that konv.prepare has packed, beside libraries that make a model.",
        ),
    ] = False,
    json: Annotated[Path | None, typer.Option(help="Write the report to this file.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw a figure into this file (konv[viz]).")
    ] = None,
) -> None:
    """Time convolutions in konv, and in the other libraries that are installed here.

    Every answer is checked before it is timed. The libraries take turns in one run; medians count,
    and a line that other programs disturb is measured again, then marked. Use an idle machine.
    """
    from konv.bench import Settings
    from konv.bench.closing import render

    show = _printer()
    report = _stored(problems)
    if report:
        for line in render(report):
            show(line)
    else:
        chosen = tuple(filter(None, (peer.strip() for peer in peers.split(","))))
        settings = Settings(threads, batch, budget, cold, only, chosen, prepared)
        report = _measured(problems, settings, show)
    if json:
        report.write(json)
    if plot:
        from konv.bench import plot as figure

        figure.draw(report, plot)
    if any(row.wrong for row in report.rows):
        raise typer.Exit(1)


def _measured(
    problems: list[str] | None, settings: Settings, show: Callable[[Line], None]
) -> Report:
    """Measure, and print each row as soon as it is there."""
    from konv import bench as session
    from konv.bench import text
    from konv.bench.closing import closing
    from konv.errors import ProblemError

    if not problems and not LIST.is_file():
        raise ProblemError(
            f"Nothing to measure: {LIST} is not here. Name a file of convolutions, or write one: "
            f"konv bench 'conv2d 1x64x56x56 o64 k3 p1'."
        )

    def started(report: Report) -> None:
        for line in text.opening(report):
            show(line)

    def heard(report: Report, row: Row) -> None:
        for line in text.row_lines(report, row):
            show(line)

    lines = session.read(problems or [str(LIST)])
    report = session.bench(lines, settings, started=started, heard=heard)
    for line in closing(report):
        show(line)
    return report


def _stored(problems: list[str] | None) -> Report | None:
    """Return the report in a file, if that is what is named."""
    if not problems or len(problems) > 1 or not problems[0].endswith(".json"):
        return None
    from konv.bench import Report
    from konv.errors import ProblemError

    path = Path(problems[0])
    if not path.is_file():
        raise ProblemError(f"There is no file {path}. Write one: konv bench --json {path}.")
    return Report.read(path)


def _printer() -> Callable[[Line], None]:
    """Return what prints a line: in colours in a terminal, plain in a pipe."""
    from rich.console import Console
    from rich.text import Text

    from konv.bench.text import plain

    console = Console(highlight=False)

    def show(line: Line) -> None:
        if console.is_terminal:
            console.print(Text.assemble(*line), soft_wrap=True)
        else:
            typer.echo(plain(line))

    return show
