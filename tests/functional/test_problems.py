"""Every algorithm on every problem of problems/*.txt, in every pair of memory layouts, type and
number of threads.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from functional.case import Case
from functional.check import check, pinned, plans, small_units, threads
from functional.forms import numbers
from functional.shrink import shrunk

from konv import llvm
from konv.geometry import Conv, read_problems
from konv.kernels import ALGORITHMS
from konv.plan import Algorithm

FOLDER = Path(__file__).resolve().parents[2] / "problems"
PROBLEMS = [
    conv
    for file in sorted(FOLDER.glob("*.txt"))
    for _, conv in read_problems(file.read_text("utf-8"))
]
PAIRS = [
    pytest.param(conv, algorithm, id=f"{algorithm.name}: {conv}")
    for conv in PROBLEMS
    for algorithm in ALGORITHMS
    if algorithm.why_not(conv, llvm.detect()) is None
]
TYPED = [
    pytest.param(replace(conv, dtype=dtype), algorithm, id=f"{algorithm.name}: {conv} {dtype}")
    for conv, algorithm in (pair.values for pair in PAIRS)
    for dtype in ("float32", "float64")
    if algorithm.why_not(replace(conv, dtype=dtype), llvm.detect()) is None
]
# (contiguous input, contiguous output) -> how the arrays lie that make it so
LAYOUTS: dict[tuple[bool, bool], dict[str, Any]] = {
    (True, True): {},
    (True, False): {"out": "last", "w": "last"},
    (False, True): {"x": "last", "out": "contiguous"},
    (False, False): {"x": "last", "out": "last", "w": "steps"},
}


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: str(a.name))
def test_every_algorithm_has_problems(algorithm: Algorithm) -> None:
    """So that registering one is enough to have it tested."""
    assert sum(pair.values[1] is algorithm for pair in PAIRS) >= 5


@pytest.mark.parametrize(("conv", "algorithm"), TYPED)
def test_problem(conv: Conv, algorithm: Algorithm, whole: bool) -> None:
    """Right in all four layouts, and the same bits with one thread, two and three."""
    for layouts in LAYOUTS:
        run(conv, algorithm, layouts, 0, whole)


@pytest.mark.parametrize("layouts", LAYOUTS, ids=str)
@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: str(a.name))
def test_every_tile(algorithm: Algorithm, layouts: tuple[bool, bool], whole: bool) -> None:
    """The register tiles that an algorithm offers but would not choose here are right too."""
    target = llvm.detect()
    mine = [conv for conv in PROBLEMS if algorithm.why_not(conv, target) is None]
    for conv in (mine[0], mine[len(mine) // 2], mine[-1]):
        for which in range(len(algorithm.plans(conv, target, *layouts))):
            run(conv, algorithm, layouts, which, whole)


def run(
    conv: Conv, algorithm: Algorithm, layouts: tuple[bool, bool], which: int, whole: bool
) -> None:
    """One plan on one problem, in small units with many threads and, whole, as it would be run."""
    target = llvm.detect()
    if not whole:
        conv = shrunk(conv, algorithm.plans(conv, target, *layouts)[which], target)
    case = Case(conv, bias="contiguous", whole=conv.dtype == "float64", **LAYOUTS[layouts])
    with pinned(algorithm, which):
        with threads(1):
            once = numbers(check(case))
        plan = plans[conv]
        assert (plan.packed, plan.blocked) == layouts or ambiguous(conv), f"{case}: {plan}"
        for count in (2, 3):
            with threads(count), small_units():
                again = numbers(check(case))
            assert np.array_equal(once, again), f"{case}: other bits with {count} threads"


def ambiguous(conv: Conv) -> bool:
    """Whether contiguous and channels-last arrays are the same thing: one channel or one pixel,
    or no image.
    """
    return any(
        shape[0] == 0 or shape[1] == 1 or prod(shape[2:]) == 1
        for shape in (conv.in_shape, conv.out_shape)
    )
