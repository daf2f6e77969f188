"""The table of `konv compare`: a column a kind, a row a number, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from konv.analyze import units

if TYPE_CHECKING:
    from konv.analyze.compare import Comparison
    from konv.analyze.layer import Layer
    from konv.analyze.timing import Times

Row = tuple[str, ...]

LAYOUTS = {"contiguous": "contiguous", "channels_last": "channels-last"}


def rows(found: Comparison) -> list[Row | None]:
    """Return the rows, None for a line of space."""
    counted: dict[str, Callable[[Layer], str]] = {
        "output": lambda layer: units.times(layer.out_shape[2:]),
        "parameters": lambda layer: units.count(layer.params),
        "MACs": lambda layer: units.count(layer.macs),
        "exact MACs": lambda layer: units.count(layer.exact_macs),
        "receptive field": lambda layer: units.times(layer.receptive_field),
        "memory": lambda layer: units.size(layer.bytes),
    }
    made: list[Row | None] = [
        (label, *(value(layer) for layer in found.layers)) for label, value in counted.items()
    ]
    for layout in LAYOUTS if found.times else ():
        made += [None, *_measured(found, layout)]
    return made


def _measured(found: Comparison, layout: str) -> list[Row]:
    """Return the rows of one memory layout."""
    assert found.times
    assert found.roofline
    pairs = list(zip(found.layers, found.times, strict=True))
    speeds = [2 * layer.macs / took.konv[layout] for layer, took in pairs]
    made = [
        (LAYOUTS[layout],),
        ("  time", *(units.duration(took.konv[layout]) for took in found.times)),
        ("  GFLOP/s", *(f"{speed / 1e9:.1f}" for speed in speeds)),
        ("  of the peak", *(f"{speed / found.roofline.peak_flops:.1%}" for speed in speeds)),
    ]
    theirs = [took.torch[layout] for took in found.times if took.torch]
    if theirs:
        ours = [took.konv[layout] for took in found.times]
        made.append(("  PyTorch", *map(units.duration, theirs)))
        ratios = (b / a for a, b in zip(ours, theirs, strict=True))
        made.append(("  speed-up", *(f"{ratio:.2f} x" for ratio in ratios)))
    return made


def findings(found: Comparison) -> list[tuple[str, object]]:
    """Return what the count of MACs promises against what the clock says, for each other kind."""
    assert found.times
    ordinary, took = found.layers[0], found.times[0]
    return [
        (layer.concept.title, _finding(layer, mine, ordinary, took))
        for layer, mine in zip(found.layers[1:], found.times[1:], strict=True)
    ]


def _finding(layer: Layer, mine: Times, ordinary: Layer, took: Times) -> str:
    macs = layer.macs / ordinary.macs
    clock = mine.konv["contiguous"] / took.konv["contiguous"]
    return f"{_factor(macs)} the MACs of ordinary, {_factor(clock)} its time"


def _factor(ratio: float) -> str:
    """Write a ratio as people say it: 1/3.0 rather than 0.33."""
    return f"{ratio:.2f} x" if ratio >= 0.995 else f"1/{1 / ratio:.1f}"


def measured_how(found: Comparison) -> str:
    """Return how times were taken, and what the answers were compared with before."""
    assert found.times
    least = min(took.checked for took in found.times)
    share = "all" if least == 1 else f"{least:.0%} or more"
    torch = ", and all of them with PyTorch's" if found.times[0].torch else ""
    return busy(found) + (
        "Contiguous is NCHW, channels-last NHWC. Times are medians of calls that allocate their "
        "output, the libraries in turn; speed-up is PyTorch's time over konv's. Before, "
        f"{share} of the outputs were compared with konv.reference{torch}."
    )


def busy(found: Comparison) -> str:
    """Return a warning where a layer beats the peak that was measured; nothing else can do that."""
    assert found.times
    assert found.roofline
    for layer, took in zip(found.layers, found.times, strict=True):
        if 2 * layer.macs / min(took.konv.values()) > found.roofline.peak_flops:
            return (
                "The machine was busy while its peak was measured: take no share of it literally. "
            )
    return ""
