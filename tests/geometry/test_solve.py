"""The formulas backwards, against trying every value."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from konv.errors import ProblemError
from konv.geometry import Conv, solve
from konv.geometry.solve import GREATEST

UNKNOWNS = ("size", "kernel", "stride", "padding", "dilation", "output_padding")
TRIED = range(40)


def outputs(numbers: dict[str, int], transposed: bool) -> int | None:
    """Return the output size by asking Conv, None where there is no such layer."""
    size, rest = numbers["size"], {k: v for k, v in numbers.items() if k != "size"}
    try:
        return Conv.of((1, 1, size), 1, transposed=transposed, **rest).out_shape[2]
    except ProblemError:
        return None


@st.composite
def questions(draw: st.DrawFn) -> tuple[str, dict[str, int], bool]:
    transposed = draw(st.booleans())
    unknown = draw(st.sampled_from(UNKNOWNS if transposed else UNKNOWNS[:-1]))
    numbers = {
        "size": draw(st.integers(1, 20)),
        "kernel": draw(st.integers(1, 5)),
        "stride": draw(st.integers(1, 4)),
        "padding": draw(st.integers(0, 4)),
        "dilation": draw(st.integers(1, 3)),
        "output_padding": draw(st.integers(0, 2)) if transposed else 0,
    }
    return unknown, numbers, transposed


@settings(max_examples=300)
@given(questions(), st.integers(1, 30))
def test_solve_finds_what_trying_finds(
    question: tuple[str, dict[str, int], bool], out: int
) -> None:
    unknown, numbers, transposed = question
    given: dict[str, Any] = numbers | {unknown: None, "transposed": transposed}
    tried = {value: outputs(numbers | {unknown: value}, transposed) for value in TRIED}
    right = [value for value, found in tried.items() if found == out]
    try:
        solutions = solve(out=out, **given)
    except ProblemError as error:
        assert not right
        if "Nearest" in str(error):
            check_nearest(str(error), unknown, numbers, transposed, out)
        return
    assert (
        [value for value in solutions if value in TRIED] == right
        if len(solutions) < 99
        else (list(solutions[: len(right)]) == right)
    )
    for value in (solutions[0], solutions[-1]):
        assert outputs(numbers | {unknown: value}, transposed) == out


def check_nearest(
    message: str, unknown: str, numbers: dict[str, int], transposed: bool, out: int
) -> None:
    """Hold the outputs offered to be reachable, and none nearer to be."""
    offers = [tuple(map(int, m)) for m in re.findall(rf"{unknown}=(\d+) gives (\d+)", message)]
    assert offers
    for value, gives in offers:
        assert outputs(numbers | {unknown: value}, transposed) == gives
    reachable = {outputs(numbers | {unknown: value}, transposed) for value in TRIED} - {None}
    below = [gives for _, gives in offers if gives < out]
    above = [gives for _, gives in offers if gives > out]
    assert len(below) <= 1
    assert len(above) <= 1
    assert max((r for r in reachable if r is not None and r < out), default=0) <= max(
        below, default=0
    )
    nearest_above = min((r for r in reachable if r is not None and r > out), default=GREATEST)
    assert nearest_above >= min(above, default=GREATEST)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ({"out": 28, "size": None, "kernel": 3, "stride": 2, "padding": 1}, range(55, 57)),
        ({"out": 56, "size": 56, "kernel": 3, "padding": None}, range(1, 2)),
        ({"out": 56, "size": 56, "kernel": 3, "padding": None, "dilation": 12}, range(12, 13)),
        ({"out": 1, "size": 7, "kernel": None}, range(7, 8)),
        ({"out": 1, "size": 7, "kernel": 7, "stride": None}, range(1, GREATEST + 1)),
        ({"out": 7, "size": 7, "kernel": 1, "dilation": None}, range(1, GREATEST + 1)),
        (
            {"out": 64, "size": 32, "kernel": 4, "stride": 2, "padding": None, "transposed": True},
            range(1, 2),
        ),
        (
            {
                "out": 16,
                "size": 8,
                "kernel": 3,
                "stride": 2,
                "padding": 1,
                "output_padding": None,
                "transposed": True,
            },
            range(1, 2),
        ),
        (
            {"out": 572, "size": None, "kernel": 2, "stride": 2, "transposed": True},
            range(286, 287),
        ),
    ],
)
def test_answers(question: dict[str, Any], answer: range) -> None:
    assert solve(**question) == answer


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (
            {"out": 30, "size": 56, "kernel": 3, "stride": None, "padding": 1},
            "no stride gives out=30 (size=56, kernel=3, padding=1, dilation=1). "
            "Nearest: stride=2 gives 28, stride=1 gives 56.",
        ),
        (
            {"out": 57, "size": 56, "kernel": 3, "padding": None},
            "no padding gives out=57 (size=56, kernel=3, stride=1, dilation=1). "
            "Nearest: padding=1 gives 56, padding=2 gives 58.",
        ),
        (
            {"out": 9, "size": 5, "kernel": 9, "stride": None, "padding": 0},
            "no stride gives out=9 (size=5, kernel=9, padding=0, dilation=1). "
            "Nor does any give another output. Change more than the stride.",
        ),
        (
            {"out": 5, "size": None, "kernel": None},
            "2 unknowns (size, kernel): solve() finds one. Set exactly one of size, kernel, "
            "stride, padding, dilation, output_padding to None.",
        ),
        (
            {"out": 5, "size": 5, "kernel": 3},
            "0 unknowns (none): solve() finds one. Set exactly one of size, kernel, stride, "
            "padding, dilation, output_padding to None.",
        ),
        (
            {"out": 5, "size": 5, "kernel": 3, "output_padding": None},
            "output_padding is for transposed convolutions only. Set transposed=True, or "
            "output_padding=0.",
        ),
        (
            {"out": 5, "size": None, "kernel": 3, "output_padding": 2, "transposed": True},
            "output_padding=2 must be smaller than stride or dilation. Use at most 0.",
        ),
        ({"out": 0, "size": None, "kernel": 3}, "out=0 is too small: out must be >= 1."),
        (
            {"out": 5, "size": None, "kernel": 0},
            "kernel=0 is too small: kernel must be >= 1.",
        ),
    ],
)
def test_questions_without_an_answer(question: dict[str, Any], message: str) -> None:
    with pytest.raises(ProblemError) as raised:
        solve(**question)
    assert str(raised.value) == message


def test_wrong_types_are_type_errors() -> None:
    with pytest.raises(TypeError, match=r"kernel must be an integer, got 3\.0"):
        solve(out=5, size=None, kernel=3.0)  # type: ignore[arg-type]
