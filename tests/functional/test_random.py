"""Random problems of every kind, in every form that arrays and arguments take, equal what is
right.
"""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from functools import partial

import pytest
from functional.case import Case
from functional.check import (
    check,
    few_kernels,
    first_of,
    plans,
    recording,
    small_units,
    units,
)
from functional.draw import Dice, Hypothesis, accepted, blocking, case, tiled
from hypothesis import assume, given
from hypothesis import strategies as st

from konv import llvm
from konv.errors import ProblemError
from konv.kernels import ALGORITHMS, by_name
from konv.runtime.job import Job

PROBLEMS = 10_000
EACH = 300  # times that every algorithm is reached, at least
KERNELS = 50  # of an algorithm in 5,000 problems; `make check-full` takes as many as there are
SAMPLED = 25  # one of so many is held against konv.reference itself


@pytest.mark.slow
@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_ten_thousand(large: bool, whole: bool) -> None:
    """Half of them large: two register tiles and a tail on each axis that the plan blocks, for
    each algorithm in turn.

    One in three is cut into small units, which with such problems takes more of them than there
    are threads.
    """
    target, dice, failed = llvm.detect(), Dice(11 + large), list[str]()
    reached, taken, kinds, shared = Counter[str](), Counter[str](), Counter[str](), 0
    with few_kernels(PROBLEMS if whole else KERNELS):
        for number in range(PROBLEMS // 2):
            jobs = list[Job]()

            def run(drawn: Case, number: int = number, jobs: list[Job] = jobs) -> None:
                with recording() as made, small_units() if number % 3 == 0 else nullcontext():
                    try:
                        check(drawn, thorough=number % SAMPLED == 0)
                    except AssertionError as error:
                        failed.append(str(error))
                jobs += made

            # Who computes a large one stays, or those with many kernels would come too seldom.
            by = dice.one(blocking("float32", target)) if large else None
            drawn = first_of(partial(accepted, dice, target, large, by), run)
            plan = plans[drawn.conv]
            mine = not drawn.by or plan.algorithm == drawn.by
            named = by_name(drawn.by or plan.algorithm)
            assert mine or not named.plans(drawn.conv, target, plan.packed, plan.blocked)
            assert not (large and mine) or tiled(drawn.conv, plan, target), f"{drawn}: {plan}"
            reached[plan.algorithm] += 1
            taken.update(a.name for a in ALGORITHMS if a.why_not(drawn.conv, target) is None)
            kinds.update(drawn.conv.kind | {drawn.conv.mode, f"{drawn.conv.dims} axes"})
            shared += any(job.threads > 1 and units(job) > 2 for job in jobs)
    assert not failed, f"{len(failed)} failed\n" + "\n".join(failed[:5])
    print(*reached.items(), *kinds.items(), f"{shared} shared by threads", sep="\n")  # noqa: T201
    for name in [a.name for a in blocking("float32", target)] if large else taken:
        least = EACH if large else taken[name] / (4 * len(ALGORITHMS))
        assert reached[name] >= least, f"{name} is reached too seldom: {reached} of {taken}"
    assert min(kinds.values()) >= EACH, kinds
    assert shared >= (1000 if large else 300)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    d = Hypothesis(draw)
    try:
        return case(d, llvm.detect(), large=d.number(0, 3) == 3)
    except ProblemError:
        assume(False)
        raise


@given(cases())
def test_shrinking(drawn: Case) -> None:
    """The same by hypothesis, which finds the smallest case that fails."""
    check(drawn)


@given(cases())
def test_a_line_is_all_there_is(drawn: Case) -> None:
    """What a failing test prints brings back the same call."""
    again = Case.parse(str(drawn))
    assert again == drawn
    assert str(again) == str(drawn)
    assert again.arguments == drawn.arguments
