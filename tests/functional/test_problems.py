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
from konv.kernels import ALGORITHMS, by_name, direct
from konv.plan import Algorithm

FOLDER = Path(__file__).resolve().parents[2] / "problems"
# (contiguous input, contiguous output) -> how the arrays lie that make it so
LAYOUTS: dict[tuple[bool, bool], dict[str, Any]] = {
    (True, True): {},
    (True, False): {"out": "last", "w": "last"},
    (False, True): {"x": "last", "out": "contiguous"},
    (False, False): {"x": "last", "out": "last", "w": "steps"},
}


def alike(conv: Conv, algorithm: Algorithm) -> tuple[object, ...]:
    """What two problems have in common that differ in nothing but sizes and numbers of channels,
    and get the same register tiles.
    """
    plans = [algorithm.plans(conv, llvm.detect(), *layouts)[:1] for layouts in LAYOUTS]
    tiles = [(plan.algorithm, plan.pixels, plan.vectors) for some in plans for plan in some]
    axes = [replace(axis, size=10**6) for axis in conv.axes]
    return (*tiles, *axes, conv.mode, conv.transposed, conv.groups == 1)


# What is awkward comes first: those two lists are run as they are.
FILES = sorted(FOLDER.glob("*.txt"), key=lambda file: file.stem not in ("article", "shapes"))
PROBLEMS = [conv for file in FILES for _, conv in read_problems(file.read_text("utf-8"))]
AWKWARD = {  # in order
    conv: None for file in FILES[:2] for _, conv in read_problems(file.read_text("utf-8"))
}
WHOLE = [
    pytest.param(conv, algorithm, id=f"{algorithm.name}: {conv}")
    for conv in dict.fromkeys(PROBLEMS)
    for algorithm in ALGORITHMS
    if algorithm.why_not(conv, llvm.detect()) is None
]
# Layers of networks differ in little but size: of those that do, one is enough.
PAIRS = [pair for pair in WHOLE if pair.values[0] in AWKWARD]
KNOWN = {alike(*pair.values) for pair in PAIRS}
PAIRS += {key: pair for pair in WHOLE if (key := alike(*pair.values)) not in KNOWN}.values()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.function is test_problem:
        whole = metafunc.config.getoption("--whole")
        metafunc.parametrize(("conv", "algorithm"), WHOLE if whole else PAIRS)


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: str(a.name))
def test_every_algorithm_has_problems(algorithm: Algorithm) -> None:
    """So that registering one is enough to have it tested."""
    assert sum(pair.values[1] is algorithm for pair in PAIRS) >= 5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_problem(conv: Conv, algorithm: Algorithm, dtype: str, whole: bool) -> None:
    """Right in all four layouts, and the same bits with one thread, two and three."""
    conv = replace(conv, dtype=dtype)
    for layouts in LAYOUTS:
        run(conv, algorithm, layouts, 0, whole)


@pytest.mark.parametrize("layouts", LAYOUTS, ids=str)
@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: str(a.name))
def test_every_tile(algorithm: Algorithm, layouts: tuple[bool, bool], whole: bool) -> None:
    """The register tiles that an algorithm offers but would not choose here are right too."""
    target = llvm.detect()
    mine = [
        conv
        for conv in AWKWARD
        if algorithm.why_not(conv, target) is None and keeps_plans(conv, algorithm, layouts)
    ]
    some = any(algorithm.plans(conv, target, *layouts) for conv in mine)
    assert mine, f"{algorithm.name} keeps its plans of no problem"
    for conv in {mine[0], mine[len(mine) // 2], mine[-1]} if some else ():
        for which in range(len(algorithm.plans(conv, target, *layouts))):
            run(conv, algorithm, layouts, which, whole)


def keeps_plans(conv: Conv, algorithm: Algorithm, layouts: tuple[bool, bool]) -> bool:
    """Whether a problem has as many plans when it is small."""
    target = llvm.detect()
    plans = algorithm.plans(conv, target, *layouts)
    small = [algorithm.plans(shrunk(conv, plan, target), target, *layouts) for plan in plans]
    return all(len(each) == len(plans) for each in small)


def run(
    conv: Conv, algorithm: Algorithm, layouts: tuple[bool, bool], which: int, whole: bool
) -> None:
    """One plan on one problem, in small units with many threads and, whole, as it would be run."""
    target = llvm.detect()
    if algorithm.why_not(conv, target) or not algorithm.plans(conv, target, *layouts):
        return
    if not whole:
        conv = shrunk(conv, algorithm.plans(conv, target, *layouts)[which], target)
    case = Case(conv, bias="contiguous", whole=conv.dtype == "float64", **LAYOUTS[layouts])
    with pinned(algorithm, which):
        with threads(1):
            once = numbers(check(case))
        plan = plans[conv]
        packed = layouts[0] or (plan.packed and may_pack_all(conv, by_name(plan.algorithm)))
        laid = (plan.packed, plan.blocked) == (packed, layouts[1])
        assert laid or ambiguous(conv), f"{case}: {plan}"
        for count in (2, 3):
            with threads(count), small_units():
                again = numbers(check(case))
            assert np.array_equal(once, again), f"{case}: other bits with {count} threads"


def may_pack_all(conv: Conv, algorithm: Algorithm) -> bool:
    """Whether channels-last images may be packed too: few channels, so taps of a row are a run, or
    tiles go along rows.
    """
    return algorithm is direct and conv.groups == 1 and conv.ci <= direct.MORE


def ambiguous(conv: Conv) -> bool:
    """Whether contiguous and channels-last arrays are the same thing: one channel or one pixel,
    or no image.
    """
    return any(
        shape[0] == 0 or shape[1] == 1 or prod(shape[2:]) == 1
        for shape in (conv.in_shape, conv.out_shape)
    )
