"""The kernels of batch normalisation: nothing beyond arrays; how rows become units."""

from __future__ import annotations

import pytest
from functional.test_guard_pages import child_of

from konv.kernels import norm
from konv.kernels.norm.rows import TILE


@pytest.mark.parametrize("end", ["end", "start"])
def test_nothing_beyond(end: str) -> None:
    """Arrays, results, table and scratch memory end, or begin, at a page without access; all of
    them are NaN before.
    """
    code, said = child_of("kernels.norm_fences", end)
    assert code == 0, f"exit code {code}; it said last:\n{said}"
    assert said.endswith("done")


def test_beyond_kills() -> None:
    """The test above can fail: scratch memory that is a line too short."""
    code, said = child_of("kernels.norm_fences", "end", "64")
    assert code < 0, f"exit code {code}; it said last:\n{said}"


@pytest.mark.parametrize("sizes", [(1, 1, 2), (8, 24, 3136), (1, 100_000, 2), (8, 2048, 49)])
def test_units_hold_every_row_once(sizes: tuple[int, int, int]) -> None:
    """In whole tiles, and long enough that the sums of all of them are few beside what is read."""
    units, channels, padded, count, share, *_ = norm.job("float32", False, *sizes)
    assert (units - 1) * share < count <= units * share
    assert share % TILE == 0
    assert channels <= padded < channels + 16
    assert units * padded * 4 <= max(padded * 4, count * channels)
