"""Run a case and compare it with what is right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from functional.case import Case
from functional.forms import numbers
from functional.witness import Array, expected, tolerance

import konv
from konv import arrays, dispatch, kernels, llvm, reference
from konv.geometry import Conv
from konv.kernels import schedule, winograd_cut, winograd_schedule
from konv.kernels.words import JOB
from konv.plan import Algorithm, Plan
from konv.runtime import execute
from konv.runtime.choose import choose
from konv.runtime.job import Job

plans: dict[Conv, Plan] = {}
"""The plan that `recording` last saw chosen for a problem."""


def check(case: Case | str, thorough: bool = False) -> Any:
    """Call konv as the case says; the result is as konv promises. Returns it.

    `thorough`: what is right comes from konv.reference itself rather than from PyTorch.
    """
    __tracebackhide__ = True
    case = Case.parse(case) if isinstance(case, str) else case
    x, w, b = case.arrays()
    out = case.output()
    before = [numbers(a) for a in (x, w, b) if a is not None]
    with nan_results():
        y = case.function(x, w, b, **case.arguments, **({} if out is None else {"out": out}))
    compare(case, x, w, b, y, thorough)
    assert out is None or y is out, f"{case}: the result is not out"
    after = [numbers(a) for a in (x, w, b) if a is not None]
    same = all(np.array_equal(a, c) for a, c in zip(before, after, strict=True))
    assert same, f"{case}: an input was written to"
    return y


def compare(case: Case, x: Any, w: Any, b: Any, y: Any, thorough: bool = False) -> None:
    """The result of a call has the right shape, dtype and kind, and numbers within the bound."""
    __tracebackhide__ = True
    conv = case.conv
    assert isinstance(y, torch.Tensor if case.torch else np.ndarray), f"{case}: gives a {type(y)}"
    x, got = case.canonical(x), case.canonical(y)
    w, b = numbers(w), None if b is None else numbers(b)
    assert got.dtype.name == conv.dtype, f"{case}: gives {got.dtype}"
    assert got.shape == conv.out_shape, f"{case}: has shape {got.shape}, not {conv.out_shape}"
    want = (reference.im2col if thorough else expected)(conv, x, w, b)
    chosen = plans.get(conv) or choose(conv, llvm.detect(), True, True)
    algorithm = chosen.algorithm
    if case.whole and kernels.by_name(algorithm).exact:
        bound: Any = 0
    else:
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
def recording() -> Iterator[list[Job]]:
    """Keep the plans that are chosen in `plans`, and the jobs that are made in the list given."""
    before, schedule, jobs = execute.choose, execute.schedule, list[Job]()

    def remember(conv: Conv, *rest: Any) -> Plan:
        plans[conv] = before(conv, *rest)
        return plans[conv]

    def keep(*arguments: Any) -> Job:
        jobs.append(schedule(*arguments))
        return jobs[-1]

    with patch.object(execute, "choose", remember), patch.object(execute, "schedule", keep):
        yield jobs


def units(job: Job) -> int:
    """Pieces that the work of a job is cut into."""
    return int(job.words[JOB.index("units")])


def forget() -> None:
    """Let the next call of every layer be its first."""
    dispatch._layers.clear()


@contextmanager
def pinned(algorithm: Algorithm, which: int = 0) -> Iterator[None]:
    """Every call is computed by this algorithm, by its plan of that number."""

    def pin(conv: Conv, *rest: Any) -> Plan:
        plans[conv] = algorithm.plans(conv, *rest)[which]
        return plans[conv]

    forget()
    with patch.object(execute, "choose", pin):
        yield
    forget()
    plans.clear()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Calls are given so many threads."""
    before = konv.get_num_threads()
    konv.set_num_threads(count)
    try:
        yield
    finally:
        konv.set_num_threads(before)


@contextmanager
def small_units(pixels: int = 16, fewest: int = 4, alone: int = 0) -> Iterator[None]:
    """Cut work as if it were large: several units, and as many threads as there are, whatever the
    size.
    """
    forget()
    with (
        patch.object(schedule, "PIXELS", pixels),
        patch.object(schedule, "FEWEST", fewest),
        patch.object(schedule, "ALONE", alone),
        patch.object(winograd_schedule, "ALONE", alone),
        patch.object(winograd_cut, "MOST", max(1, min(pixels // 4, winograd_cut.MOST))),
    ):
        yield
    forget()
