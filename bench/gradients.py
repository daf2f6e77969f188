"""Weight gradients: konv's beside PyTorch's, and beside konv's own forward, in both layouts.

    python bench/gradients.py                                     problems/article.txt, batch 1
    python bench/gradients.py --batch 8 --only depthwise --seconds 0.5

Medians of alternating runs in milliseconds; every answer is checked before it is timed. `ratio` is
PyTorch's better layout over konv's, `forward` konv's gradient over konv's forward.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import geometric_mean, median
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import torch

import konv
from konv.geometry import Conv, read_problems
from konv.geometry.terms import Terms

PROBLEMS = Path(__file__).resolve().parents[1] / "problems/article.txt"


def calls(conv: Conv) -> list[Any]:
    """konv's gradient, konv's forward and PyTorch's gradient, each contiguous and channels-last."""
    terms = [Terms.of(axis, conv.transposed) for axis in conv.axes]
    steps = [[getattr(t, n) for t in terms] for n in ("stride", "lo", "dilation")]
    more = [t.output_padding for t in terms]
    x, w = torch.randn(conv.in_shape), torch.randn(conv.weight_shape)
    dy = torch.randn(conv.out_shape)
    layer = konv.prepare(conv, w)

    def theirs(x: Any, dy: Any, w: Any) -> Any:
        arguments = dy, x, w, None, *steps, conv.transposed, more, conv.groups
        return torch.ops.aten.convolution_backward(*arguments, [False, True, False])[1]

    both = [(x, dy, w), tuple(_last(a) for a in (x, dy, w))]
    return [
        *(lambda x=x, dy=dy: konv.weight_gradient(conv, x, dy) for x, dy, _ in both),
        *(lambda x=x: layer(x) for x, _, _ in both),
        *(lambda some=some: theirs(*some) for some in both),
    ]


def _last(a: Any) -> Any:
    return a.to(memory_format=torch.channels_last) if a.ndim == 4 else a


def medians(runs: list[Any], seconds: float) -> list[float]:
    """Milliseconds of each, in turns."""
    times: list[list[float]] = [[] for _ in runs]
    end = perf_counter() + seconds
    while perf_counter() < end or len(times[0]) < 3:
        for run, taken in zip(runs, times, strict=True):
            begin = perf_counter()
            run()
            taken.append(1e3 * (perf_counter() - begin))
    return [median(taken) for taken in times]


def check(conv: Conv, runs: list[Any]) -> None:
    """Both of konv's gradients are PyTorch's."""
    right = runs[4]()
    for run in runs[:2]:
        error = float((run() - right).abs().max() / right.abs().max())
        assert error < 1e-4, f"{conv}: off by {error}"


def main() -> None:
    """As the arguments say."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    asked.add_argument("file", nargs="?", default=str(PROBLEMS))
    asked.add_argument("--batch", type=int, default=1)
    asked.add_argument("--only", default="", help="lines whose name or kind contains it")
    asked.add_argument("--seconds", type=float, default=0.25, help="for each line")
    given = asked.parse_args()
    ratios, forwards = [], []
    for name, line in read_problems(Path(given.file).read_text("utf-8")):
        conv = line.with_batch(given.batch)
        if given.only not in name and given.only not in conv.kind:
            continue
        runs = calls(conv)
        check(conv, runs)
        found = medians(runs, given.seconds)
        ratio, forward = min(found[4:]) / min(found[:2]), min(found[:2]) / min(found[2:4])
        ratios.append(ratio)
        forwards.append(forward)
        times = "  ".join(f"{ms:8.3f}" for ms in found)
        print(f"{name:28s} {times}  ratio {ratio:5.2f}  forward {forward:5.2f}", flush=True)
    means = f"ratio {geometric_mean(ratios):.2f}, forward {geometric_mean(forwards):.2f}"
    print(f"geometric means: {means}, least ratio {min(ratios):.2f}")


if __name__ == "__main__":
    main()
