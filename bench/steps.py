"""Training steps, layer by layer: forward and both gradients, konv.nn beside torch.nn.

    python bench/steps.py                                problems/article.txt, batch 1
    python bench/steps.py problems/dcgan.txt --batch 8 --seconds 0.5

The weight is changed before every step that is timed, as an optimizer does, so konv packs it anew
each time. Gradients are compared with PyTorch's before anything is timed. Medians of alternating
runs in milliseconds; `ratio` is PyTorch's better layout over konv's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from statistics import geometric_mean, median
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import torch

import konv.nn
from konv.geometry import Conv, read_problems
from konv.geometry.terms import Terms

PROBLEMS = Path(__file__).resolve().parents[1] / "problems/article.txt"
FORMATS = (torch.contiguous_format, torch.channels_last)


class Step:
    """A layer of one library, its input and the gradient of its result, all in one layout."""

    def __init__(self, layer: Any, x: Any, dy: Any, layout: Any) -> None:
        self.layer = deepcopy(layer)
        if layout is torch.channels_last:
            self.layer = self.layer.to(memory_format=layout)
        self.x = x.clone(memory_format=layout).requires_grad_()
        self.dy = dy.contiguous(memory_format=layout)

    def __call__(self) -> float:
        """Milliseconds of forward and backward, the weight having changed just before."""
        with torch.no_grad():
            self.layer.weight.mul_(0.9999)
        self.x.grad = self.layer.weight.grad = None
        begin = perf_counter()
        self.layer(self.x).backward(self.dy)
        return 1e3 * (perf_counter() - begin)


def module(conv: Conv, library: Any) -> Any:
    """The layer of konv.nn or torch.nn that computes a Conv, the same weight in both."""
    terms = [Terms.of(axis, conv.transposed) for axis in conv.axes]
    names = {"stride": "stride", "padding": "lo", "dilation": "dilation"}
    more = {name: tuple(getattr(t, field) for t in terms) for name, field in names.items()}
    if conv.transposed:
        more["output_padding"] = tuple(t.output_padding for t in terms)
    kind = f"Conv{'Transpose' * conv.transposed}{conv.dims}d"
    kernel = tuple(axis.kernel for axis in conv.axes)
    torch.manual_seed(0)
    return getattr(library, kind)(conv.ci, conv.co, kernel, groups=conv.groups, bias=False, **more)


def steps(conv: Conv) -> list[Step]:
    """konv's in each layout, then PyTorch's."""
    x, dy = torch.randn(conv.in_shape), torch.randn(conv.out_shape)
    layouts = FORMATS[: 1 + (conv.dims == 2)]
    layers = module(conv, konv.nn), module(conv, torch.nn)
    return [Step(layer, x, dy, layout) for layer in layers for layout in layouts]


def check(conv: Conv, runs: list[Step]) -> None:
    """The gradients of all are those of the last."""
    for run in runs:
        run()
    for run in runs[:-1]:
        for ours, right in ((run.x, runs[-1].x), (run.layer.weight, runs[-1].layer.weight)):
            error = float((ours.grad - right.grad).abs().max() / right.grad.abs().max())
            assert error < 1e-4, f"{conv}: off by {error}"


def medians(runs: list[Callable[[], float]], seconds: float) -> list[float]:
    """Milliseconds of each, in turns; the first of three runs of one warms its caches."""
    times: list[list[float]] = [[] for _ in runs]
    end = perf_counter() + seconds
    while perf_counter() < end or len(times[0]) < 4:
        for run, taken in zip(runs, times, strict=True):
            run()
            taken += [run(), run()]
    return [median(taken) for taken in times]


def main() -> None:
    """As the arguments say."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    asked.add_argument("file", nargs="?", default=str(PROBLEMS))
    asked.add_argument("--batch", type=int, default=1)
    asked.add_argument("--only", default="", help="lines whose name or kind contains it")
    asked.add_argument("--seconds", type=float, default=1.0, help="for each line")
    given = asked.parse_args()
    ratios = []
    for name, line in read_problems(Path(given.file).read_text("utf-8")):
        conv = line.with_batch(given.batch)
        if given.only not in name and given.only not in conv.kind:
            continue
        runs = steps(conv)
        check(conv, runs)
        found = medians(list(runs), given.seconds)
        half = len(runs) // 2
        ratios.append(min(found[half:]) / min(found[:half]))
        times = "  ".join(f"{ms:8.2f}" for ms in found)
        print(f"{name:28s} {times}  ratio {ratios[-1]:5.2f}", flush=True)
    print(f"geometric mean {geometric_mean(ratios):.2f}, least {min(ratios):.2f}")


if __name__ == "__main__":
    main()
