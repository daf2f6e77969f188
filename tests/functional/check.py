"""Run a case and compare it with what is right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from functional.case import Case
from functional.witness import Array, expected, tolerance

from konv import arrays, functional, reference
from konv.geometry import Conv
from konv.plan import Plan
from konv.runtime import execute

plans: dict[Conv, Plan] = {}
"""The plan that `recording` last saw chosen for a problem."""


def check(case: Case | str, thorough: bool = False) -> Any:
    """Call konv as the case says; the result is as konv promises. Returns it.

    `thorough`: what is right comes from konv.reference itself rather than from PyTorch.
    """
    case = Case.parse(case) if isinstance(case, str) else case
    x, w, b = case.arrays()
    out = case.output()
    before = [np.array(a) for a in (x, w, b) if a is not None]
    with nan_results():
        y = case.function(x, w, b, **case.arguments, **({} if out is None else {"out": out}))
    compare(case, x, w, b, y, thorough)
    assert out is None or y is out, f"{case}: the result is not out"
    after = [np.array(a) for a in (x, w, b) if a is not None]
    same = all(np.array_equal(a, c) for a, c in zip(before, after, strict=True))
    assert same, f"{case}: an input was written to"
    return y


def compare(case: Case, x: Any, w: Any, b: Any, y: Any, thorough: bool = False) -> None:
    """The result of a call has the right shape, dtype and kind, and numbers within the bound."""
    conv = case.conv
    assert isinstance(y, torch.Tensor if case.torch else np.ndarray), f"{case}: gives a {type(y)}"
    x, got = case.canonical(x), case.canonical(y)
    w, b = np.array(w, conv.dtype), None if b is None else np.array(b, conv.dtype)
    assert str(np.asarray(y).dtype.name) == conv.dtype, f"{case}: gives {np.asarray(y).dtype}"
    assert got.shape == conv.out_shape, f"{case}: has shape {got.shape}, not {conv.out_shape}"
    want = (reference.im2col if thorough else expected)(conv, x, w, b)
    if case.whole:
        bound: Any = 0
    else:
        algorithm = plans[conv].algorithm if conv in plans else "direct"
        name = algorithm if algorithm in reference.ROUNDING else "direct"
        bound = (reference.tolerance if thorough else tolerance)(conv, x, w, b, name)
    wrong = ~(np.abs(got - want) <= bound)  # NaN is wrong too
    assert not wrong.any(), f"{case}\n{_where(wrong, got, want, bound)}"


def _where(wrong: Array, got: Array, want: Array, bound: Any) -> str:
    """The first outputs that are wrong."""
    bounds = np.broadcast_to(bound, wrong.shape)
    lines = [f"{wrong.sum()} of {wrong.size} outputs are wrong:"]
    for at in np.argwhere(wrong)[:6]:
        i = tuple(map(int, at))
        lines.append(f"  y{list(i)} = {got[i]!r}, right: {want[i]!r} +- {bounds[i]!r}")
    return "\n".join(lines)


@contextmanager
def nan_results() -> Iterator[None]:
    """New results are full of NaN, so an output that nobody writes is seen."""

    def numpy_empty(self: Any, shape: Any, dtype: str) -> Any:
        return np.full(shape, np.nan, dtype)

    def torch_empty(self: Any, shape: Any, dtype: str) -> Any:
        return torch.full(shape, torch.nan, dtype=getattr(torch, dtype))

    with (
        patch.object(arrays.NumpyKind, "empty", numpy_empty),
        patch.object(arrays.TorchKind, "empty", torch_empty),
    ):
        yield


@contextmanager
def recording() -> Iterator[list[Plan]]:
    """Keep the plans that are chosen, in `plans` and in the list given."""
    choose, seen = execute.choose, list[Plan]()

    def remember(conv: Conv, *rest: Any) -> Plan:
        plan = choose(conv, *rest)
        plans[conv] = plan
        seen.append(plan)
        return plan

    with patch.object(execute, "choose", remember):
        yield seen


@contextmanager
def pinned(plan: Plan) -> Iterator[None]:
    """Every call is computed by this plan."""
    functional._layers.clear()
    with patch.object(execute, "choose", lambda conv, *_: plans.setdefault(conv, plan)):
        yield
    functional._layers.clear()


@contextmanager
def small_units(pixels: int = 24, fewest: int = 4, alone: int = 0) -> Iterator[None]:
    """Cut work as if it were large: several units, and as many threads as there are, whatever the size."""
    from konv.runtime import schedule

    functional._layers.clear()
    with (
        patch.object(schedule, "PIXELS", pixels),
        patch.object(schedule, "FEWEST", fewest),
        patch.object(schedule, "ALONE", alone),
    ):
        yield
    functional._layers.clear()
