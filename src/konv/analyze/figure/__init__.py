"""The figure of `konv compare`: the lens, the taps, the channels, the feature maps, the cost.

From top to bottom:

    lens      a window slides over the photograph: what it sees, times the kernel, is a pixel
    taps      per kind, what one output pixel reads, drawn on the photograph
    wiring    which input channel reaches which output channel
    maps      four feature maps of each kind, the same filters wherever a kind can have them
    cost      parameters, multiply-adds, measured time
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from konv.analyze.figure import cost, lens, maps, taps, wiring
from konv.analyze.figure.look import FAINT, INK, WIDTH, split
from konv.analyze.layer import outputs
from konv.analyze.photograph import missing
from konv.errors import KonvError, ProblemError

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

    from konv.analyze.compare import Comparison

TITLE, TAPS, WIRING, COST = 0.9, 4.2, 1.7, 2.5  # inches


def check(path: Path) -> None:
    """Raise before any work if a figure cannot be drawn, or not to this path.

    UnsupportedError where matplotlib is missing, ProblemError for the path.
    """
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError:
        raise missing("matplotlib", "the figure") from None
    endings = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in endings:
        raise ProblemError(f"out={path} has no ending of an image. Use .png, .svg or .pdf.")
    if not path.parent.is_dir():
        raise ProblemError(
            f"out={path}: there is no folder {path.parent}. Make it, or use another."
        )


def draw(found: Comparison, path: Path) -> Path:
    """Draw the figure and save it; the path's ending says how (png, svg, pdf).

    KonvError where the file cannot be written; for what else may be in the way see `check`.
    """
    from matplotlib.figure import Figure

    figure = Figure(facecolor="white")
    compose(found, figure)
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise KonvError(f"the figure cannot be written to {path}: {error.strerror}.") from None
    return path


def compose(found: Comparison, figure: Figure) -> None:
    """Draw all parts; rows that hold the photograph are as high as its shape asks for."""
    column = WIDTH / len(found.layers)
    heights = (TITLE, lens.height(found), TAPS + WIRING, maps.height(found, column * 0.88), COST)
    figure.set_size_inches(WIDTH, sum(heights))
    title, *rows = split(figure, rows=len(heights), heights=heights)
    _title(found, title)
    results = [outputs(layer, found.image) for layer in found.layers]
    lens.draw(rows[0], found, results[0][-1])
    columns = split(rows[1], columns=len(found.layers))
    for part, layer in zip(columns, found.layers, strict=True):
        upper, lower = split(part, rows=2, heights=(TAPS, WIRING))
        taps.draw(upper, layer, found)
        wiring.draw(lower, layer)
    maps.draw(rows[2], found.layers, [result[-1] for result in results])
    cost.draw(rows[3], found)


def _title(found: Comparison, part: SubFigure) -> None:
    s, (height, width) = found.settings, found.image.shape[2:]
    part.text(
        0.012,
        0.62,
        "Five convolutions on one photograph",
        fontsize=24,
        weight="bold",
        color=INK,
        va="center",
    )
    part.text(
        0.012, 0.18, f"{found.photograph.name}, {height} x {width} pixels; "
        f"{s.in_channels} channels to {s.out_channels}, kernel {s.kernel} x {s.kernel}",
        fontsize=13, color=FAINT, va="center",
    )  # fmt: skip


__all__ = ["compose", "draw"]
