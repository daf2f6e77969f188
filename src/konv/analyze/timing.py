"""How long layers take here, in konv and in PyTorch where it is installed - once they agree.

The candidates of a layer run in turn, round after round, so that a slow moment of the machine meets
all of them; the median of each counts. Each call allocates its output, in both libraries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from konv.analyze.filters import Array
from konv.analyze.layer import Layer, arguments, function_name, outputs
from konv.errors import KonvError
from konv.geometry import Axis, Conv
from konv.reference import im2col
from konv.rounding import tolerance

SECONDS = 0.5  # for all candidates of a layer together
ROUNDS = 7  # at least: a median of fewer says little
ENTRIES = 4_000_000  # of the reference's matrix of columns: 32 MB, a quarter of a second
AGREE = 1e-4  # of the largest output: how far two float32 sums in different order may lie apart

LAYOUTS = ("contiguous", "channels_last")
Run = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Times:
    """Median seconds by layout; `checked` is the share of the outputs compared with the reference.

    Where there are times of PyTorch, all outputs were compared with its.
    """

    konv: dict[str, float]
    torch: dict[str, float] | None
    checked: float


def measure(layer: Layer, image: Array, seconds: float = SECONDS) -> Times:
    """Return the times of a layer on an image; KonvError if its answers are wrong."""
    checked = check(layer, image)
    runs = {("konv", layout): _konv(layer, image, layout) for layout in LAYOUTS}
    if find_spec("torch"):
        runs |= {("torch", layout): _torch(layer, image, layout) for layout in LAYOUTS}
        _agree(layer, np.asarray(runs["torch", "contiguous"]()), runs["konv", "contiguous"]())
    found = _medians(runs, seconds)
    times = {
        library: {layout: found[library, layout] for layout in LAYOUTS if (library, layout) in runs}
        for library in ("konv", "torch")
    }
    return Times(times["konv"], times["torch"] or None, checked)


def _medians(runs: dict[tuple[str, str], Run], seconds: float) -> dict[tuple[str, str], float]:
    for run in runs.values():  # compile, pack weights, touch memory
        run()
    found: dict[tuple[str, str], list[float]] = {name: [] for name in runs}
    begin = perf_counter()
    while len(next(iter(found.values()))) < ROUNDS or perf_counter() - begin < seconds:
        for name, run in runs.items():
            start = perf_counter()
            run()
            found[name].append(perf_counter() - start)
    return {name: median(times) for name, times in found.items()}


def _konv(layer: Layer, image: Array, layout: str) -> Run:
    x = image
    if layout == "channels_last":
        x = np.ascontiguousarray(image.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    return lambda: outputs(layer, x)[-1]


def _torch(layer: Layer, image: Array, layout: str) -> Run:
    import torch

    form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    first = torch.from_numpy(image).contiguous(memory_format=form)
    steps = [
        (
            getattr(torch.nn.functional, function_name(conv)),
            torch.from_numpy(weight).contiguous(memory_format=form),
            arguments(conv),
        )
        for conv, weight in zip(layer.convs, layer.weights, strict=True)
    ]

    def run() -> Any:
        with torch.no_grad():
            x = first
            for function, weight, keywords in steps:
                x = function(x, weight, **keywords)
            return x

    return run


def check(layer: Layer, image: Array) -> float:
    """Compare konv with the reference, or raise KonvError; return the share of the outputs."""
    x, shares = image, []
    for conv, weight, y in zip(layer.convs, layer.weights, outputs(layer, image), strict=True):
        shares.append(_check_corner(conv, x, weight, y))
        x = y
    return min(shares)


def _check_corner(conv: Conv, x: Array, weight: Array, y: Array) -> float:
    """Check the outputs of as large a corner as there is room for; return their share of all."""
    corner = _corner(conv)
    every = (slice(None), slice(None))
    x = x[(*every, *(slice(axis.size) for axis in corner.axes))]
    pairs = zip(conv.axes, corner.axes, strict=True)
    known = (*every, *(slice(_known(whole, part)) for whole, part in pairs))
    error = np.abs(im2col(corner, x, weight)[known] - y[known])
    allowed = tolerance(corner, x, weight)[known]
    if not (error <= allowed).all():
        raise KonvError(
            f"{conv} is wrong by up to {error.max():.3g} where {allowed.min():.3g} is allowed. "
            f"This is a bug of konv: please report it with what `konv doctor` prints."
        )
    return float(error.size / y.size)


def _corner(conv: Conv) -> Conv:
    """Return the layer on the first rows and columns of the image, as many as there is room for."""
    sizes = [axis.size for axis in conv.axes]
    least = [min(axis.size, axis.extent) for axis in conv.axes]
    while True:
        corner = conv.with_size(*sizes)
        entries = corner.ci * prod(axis.kernel * axis.out for axis in corner.axes)
        if entries <= ENTRIES or sizes == least:
            return corner
        sizes = [max(low, size // 2) for low, size in zip(least, sizes, strict=True)]


def _known(whole: Axis, corner: Axis) -> int:
    """Return how many outputs of the corner read nothing beyond it, and so equal the whole's."""
    if corner.size == whole.size:
        return whole.out
    last = (corner.size - 1) * whole.up + whole.lo - (whole.extent - 1)
    return max(0, min(last // whole.stride + 1, corner.out))


def _agree(layer: Layer, theirs: Array, ours: Array) -> None:
    error, largest = float(np.abs(theirs - ours).max()), float(np.abs(theirs).max())
    if error > AGREE * largest:
        raise KonvError(
            f"the {layer.kind} layer differs from PyTorch's by up to {error:.3g}, its largest "
            f"output is {largest:.3g}. Please report it with what `konv doctor` prints."
        )
