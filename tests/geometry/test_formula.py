"""The textbook formulas with the numbers put in: right to the eye and to the calculator."""

from __future__ import annotations

import math
import re

import pytest
from geometry.strategies import convs
from hypothesis import given

from konv.geometry import Conv


@pytest.mark.parametrize(
    ("line", "formula"),
    [
        ("conv1d 1x1x56 o1 k3 s2 p1", "W2 = floor((56 + 2*1 - 3) / 2) + 1 = 28"),
        ("conv1d 1x1x56 o1 k3", "W2 = floor((56 - 3) / 1) + 1 = 54"),
        ("conv1d 1x1x56 o1 k3 p2 d2", "W2 = floor((56 + 2*2 - 2*(3 - 1) - 1) / 1) + 1 = 56"),
        ("conv1d 1x1x56 o1 k2 p0:1", "W2 = floor((56 + 0 + 1 - 2) / 1) + 1 = 56"),
        ("tconv1d 1x1x8 o1 k4 s2 p1", "W2 = (8 - 1)*2 - 2*1 + (4 - 1) + 1 = 16"),
        ("tconv1d 1x1x8 o1 k3 s2 p1 r1", "W2 = (8 - 1)*2 - 2*1 + (3 - 1) + 1 + 1 = 16"),
        ("tconv1d 1x1x8 o1 k3 s2 d2", "W2 = (8 - 1)*2 + 2*(3 - 1) + 1 = 19"),
        ("tconv1d 1x1x8 o1 k3 s2 p0:1", "W2 = (8 - 1)*2 - 0 - 1 + (3 - 1) + 1 = 16"),
        (
            "conv3d 1x1x8x9x10 o1 k1",
            "D2 = floor((8 - 1) / 1) + 1 = 8\n"
            "H2 = floor((9 - 1) / 1) + 1 = 9\n"
            "W2 = floor((10 - 1) / 1) + 1 = 10",
        ),
    ],
)
def test_formula(line: str, formula: str) -> None:
    assert Conv.parse(line).formula() == formula


@given(convs())
def test_formula_says_what_is_true(conv: Conv) -> None:
    """Whatever the numbers, the right-hand sides evaluate to each other."""
    lines = conv.formula().splitlines()
    assert [line[:2] for line in lines] == ["D2", "H2", "W2"][-conv.dims :]
    for line, out in zip(lines, conv.out_shape[2:], strict=True):
        assert re.fullmatch(r"[DHW]2 = [-+*/()\d floor]+ = \d+", line)
        _, side, result = line.split(" = ")
        assert eval(side, {"floor": math.floor}) == int(result) == out
