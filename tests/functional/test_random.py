"""Random problems of every kind, in every form that arrays and arguments take, equal what is right."""

from __future__ import annotations

from collections import Counter
from time import perf_counter

import pytest
from functional.case import Case
from functional.check import check, plans, recording, small_units
from functional.draw import Dice, Hypothesis, accepted, case, tiled
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from konv import llvm
from konv.errors import ProblemError
from konv.kernels import ALGORITHMS

PROBLEMS = 10_000
EACH = 200  # times that every algorithm is reached, at least
SAMPLED = 25  # one of so many is held against konv.reference itself


def problems(seed: int, large: bool, count: int) -> list[Case]:
    """So many different cases; large ones are those that have two tiles and a tail whatever the plan's."""
    dice, target = Dice(seed), llvm.detect()
    return [accepted(dice, target, large) for _ in range(count)]


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_ten_thousand(large: bool) -> None:
    """Half of them by two register tiles and a tail on every blocked axis; every algorithm hundreds of times."""
    target, reached, two_tiles, begin = llvm.detect(), Counter[str](), 0, perf_counter()
    for number, drawn in enumerate(problems(7 + large, large, PROBLEMS // 2)):
        with recording():
            check(drawn, thorough=number % SAMPLED == 0)
        plan = plans[drawn.conv]
        reached[plan.algorithm] += 1
        two_tiles += tiled(drawn.conv, plan, target)
    print(f"{reached}, two tiles and a tail: {two_tiles}, {perf_counter() - begin:.1f} s")  # noqa: T201
    assert all(reached[algorithm.name] >= EACH for algorithm in ALGORITHMS), reached


