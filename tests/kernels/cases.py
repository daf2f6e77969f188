"""A case of a layer between arrays of one of four pairs of memory formats."""

from __future__ import annotations

from dataclasses import replace

import pytest
from functional.case import Case
from functional.test_problems import LAYOUTS

every_layout = pytest.mark.parametrize("layouts", LAYOUTS, ids=str)


def case_of(line: str, layouts: tuple[bool, bool], words: str = "bias=contiguous") -> Case:
    return replace(Case.parse(f"{line} / {words}"), **LAYOUTS[layouts])
