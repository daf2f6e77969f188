"""Run a case and compare it with what is right."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import cache
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from functional.case import Case
from functional.forms import numbers
from functional.witness import Array, expected, tolerance

import konv
from konv import arrays, dispatch, reference, rounding
from konv.geometry import Conv
from konv.kernels import by_name
from konv.plan import Algorithm, Epilogue, Plan
from konv.runtime import execute
from konv.runtime.flat import Form
from konv.runtime.job import Job
from konv.runtime.pages import opened
from konv.runtime.typical import typical

EXACT = ("", "relu", "relu6")  # what gives integers of integers

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
    residual = case.added(out)
    extra = {"out": out, "residual": residual}
    given = {name: a for name, a in extra.items() if a is not None}
    before = [numbers(a) for a in (x, w, b) if a is not None]
    r = None if residual is None else case.canonical(residual)
    by = pinned(by_name(case.by)) if case.by else nullcontext()
    with nan_results(), by, recording():
        y = case.function(x, w, b, **case.arguments, **given)
    compare(case, x, w, b, y, thorough, r)
    assert residual is None or residual is out or np.array_equal(case.canonical(residual), r)
    assert out is None or y is out, f"{case}: the result is not out"
    after = [numbers(a) for a in (x, w, b) if a is not None]
    same = all(np.array_equal(a, c) for a, c in zip(before, after, strict=True))
    assert same, f"{case}: an input was written to"
    return y


def compare(
    case: Case, x: Any, w: Any, b: Any, y: Any, thorough: bool = False, r: Any = None
) -> None:
    """The result of a call has the right shape, dtype and kind, and numbers within the bound."""
    __tracebackhide__ = True
    conv = case.conv
    assert isinstance(y, torch.Tensor if case.torch else np.ndarray), f"{case}: gives a {type(y)}"
    x, got = case.canonical(x), case.canonical(y)
    w, b = numbers(w), None if b is None else numbers(b)
    assert got.dtype.name == conv.dtype, f"{case}: gives {got.dtype}"
    assert got.shape == conv.out_shape, f"{case}: has shape {got.shape}, not {conv.out_shape}"
    want = right(conv, x, w, b, thorough)
    if case.whole and (conv not in plans or by_name(plans[conv].algorithm).exact):
        bound: Any = 0
    else:
        algorithm = plans[conv].algorithm if conv in plans else "direct"
        name = algorithm if algorithm in rounding.ROUNDING else "direct"
        bound = right(conv, x, w, b, thorough, name)
    epilogue = case.epilogue
    if epilogue != Epilogue():
        if not case.whole or epilogue.activation not in EXACT:
            bound = rounding.finished_tolerance(bound, want, epilogue, r, conv.dtype)
        want = reference.finish(want, epilogue, r)
    wrong = ~(np.abs(got - want) <= bound)  # NaN is wrong too
    assert not wrong.any(), f"{case}\n{_where(wrong, got, want, bound)}"


_right = dict[tuple[Any, ...], Array]()


def right(
    conv: Conv, x: Array, w: Array, b: Array | None, thorough: bool, bound: str = ""
) -> Array:
    """What is right, or how far off an algorithm may be, for these very numbers: the last two
    answers are kept, for whoever computes the same again with other threads and units.
    """
    given = tuple((a.shape, a.dtype.str, a.tobytes()) for a in (x, w, b) if a is not None)
    key = (conv, b is None, thorough, bound, given)
    if key not in _right:
        if bound:
            found = (rounding.tolerance if thorough else tolerance)(conv, x, w, b, bound)
        else:
            found = (reference.im2col if thorough else expected)(conv, x, w, b)
        for oldest in list(_right)[:-1]:
            del _right[oldest]
        _right[key] = found
    return _right[key]


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
    kinds = (arrays.NumpyKind.empty, arrays.TorchKind.empty)
    maker = arrays.TorchKind.maker

    def numpy_empty(*of: Any) -> Any:
        made = kinds[0](*of)
        made.fill(np.nan)
        return made

    def torch_empty(*of: Any) -> Any:
        return kinds[1](*of).fill_(torch.nan)

    def torch_maker(*of: Any) -> Any:
        make = maker(*of)
        return lambda: make().fill_(torch.nan)

    with (
        patch.object(arrays.NumpyKind, "empty", numpy_empty),
        patch.object(arrays.TorchKind, "empty", torch_empty),
        patch.object(arrays.TorchKind, "maker", torch_maker),
    ):
        yield


@contextmanager
def recording() -> Iterator[list[Job]]:
    """Keep the plans that are chosen in `plans`, and the jobs that are made in the list given."""
    choose, schedule, jobs = execute.choose, execute.schedule, list[Job]()
    form_of, layers = execute.form_of, dict[Conv, Conv]()

    def remember(conv: Conv, *rest: Any) -> Plan:
        plan = choose(conv, *rest)
        plans[layers.get(conv, conv)] = plan
        return plan

    def formed(conv: Conv, *rest: Any) -> Form:
        form = form_of(conv, *rest)
        layers[form.conv] = conv
        if form.plan:
            plans[conv] = form.plan
        return form

    def keep(*arguments: Any) -> Job:
        jobs.append(schedule(*arguments))
        return jobs[-1]

    with (
        patch.object(execute, "choose", remember),
        patch.object(execute, "form_of", formed),
        patch.object(execute, "schedule", keep),
    ):
        yield jobs


class OneKernelMore(Exception):  # noqa: N818 - nothing is wrong
    """A call needs another kernel than those that `few_kernels` allows."""


@contextmanager
def few_kernels(most: int) -> Iterator[None]:
    """Calls may use `most` different kernels of each algorithm, those that are asked for first;
    others raise OneKernelMore before anything is compiled. A kernel takes 0.4 s, a case 8 ms.
    """
    kernel, known = execute.kernel, defaultdict[str, set[Plan]](set)

    def of_those(plan: Plan) -> Any:
        code = replace(plan, alignment=1)  # which does not depend on it
        mine = known[plan.algorithm]
        if code not in mine and len(mine) == most:
            raise OneKernelMore(str(plan))
        mine.add(code)
        return kernel(plan)

    with patch.object(execute, "kernel", of_those):
        yield


def first_of(draw: Callable[[], Case], run: Callable[[Case], Any] = check) -> Case:
    """Draw cases until one runs with the kernels that there are; return it."""
    while True:
        drawn = draw()
        with suppress(OneKernelMore):
            run(drawn)
            return drawn


def units(job: Job) -> int:
    """Pieces that the work of a job is cut into: the first word, whatever the algorithm."""
    return int(job.words[0])


def forget() -> None:
    """Let the next call of every layer be its first."""
    dispatch._layers.clear()


@contextmanager
def pinned(algorithm: Algorithm, which: int = 0) -> Iterator[None]:
    """Every call is computed by this algorithm, by its plan of that number; by the one that is
    chosen where it has none for such layouts. None is a matrix product (konv.runtime.flat).
    """
    otherwise = execute.choose

    def choose(conv: Conv, *rest: Any) -> Plan:
        refused = algorithm.why_not(conv, rest[0])
        layer = typical(conv)  # as choosing sees it
        with usual_numbers():
            offered = () if refused else algorithm.plans(layer, *rest[:3])
        plans[conv] = offered[which] if offered else otherwise(conv, *rest)
        return plans[conv]

    def as_it_is(*layer: Any) -> Form:
        return Form.of(*layer[:4])

    forget()
    with patch.object(execute, "choose", choose), patch.object(execute, "form_of", as_it_is):
        yield
    forget()


@cache
def watches() -> bool:
    """Whether the system says what was written to (konv.runtime.pages)."""
    found = opened()
    if found is not None:
        found.close()
    return found is not None


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Calls are given so many threads."""
    before = konv.get_num_threads()
    konv.set_num_threads(count)
    try:
        yield
    finally:
        konv.set_num_threads(before)


@cache
def _having(numbers: tuple[str, ...], _: int) -> list[tuple[Any, str]]:
    """The modules of kernels that have some of those numbers; looked for when there are others."""
    return [
        (module, number)
        for name, module in list(sys.modules.items())
        if name.startswith("konv.kernels.")
        for number in numbers
        if number in vars(module)
    ]


@contextmanager
def small_units(pixels: int = 16, fewest: int = 4, alone: int = 0) -> Iterator[None]:
    """Cut work as if it were large: several units, and as many threads as there are, whatever the
    size and whichever algorithm: the modules that cut have these numbers by these names.
    """
    forget()
    numbers = {"PIXELS": pixels, "FEWEST": fewest, "ALONE": alone}
    numbers |= {"ROOM": 40 * pixels, "HALO": 10**6, "BOX": max(1, pixels // 4)}
    numbers |= {"NEAR": 40 * pixels, "FAR": 0}
    found = _having(tuple(numbers), len(sys.modules))
    before = [(*each, getattr(*each)) for each in found]

    def unpatched(choosing: Callable[..., Any]) -> Callable[..., Any]:
        def choose(*arguments: Any) -> Any:
            with usual_numbers():
                return choosing(*arguments)

        return choose

    with ExitStack() as stack:
        for module, number in found:
            stack.enter_context(patch.object(module, number, numbers[number]))
        stack.enter_context(patch.object(sys.modules[__name__], "_usual", before))
        for name in ("choose", "pin", "form_of"):
            how = unpatched(getattr(execute, name))
            stack.enter_context(patch.object(execute, name, how))
        yield
    forget()


_usual = list[tuple[Any, str, Any]]()  # what `small_units` has changed: module, number, value


@contextmanager
def usual_numbers() -> Iterator[None]:
    """As if `small_units` had changed nothing: plans and models of cost may know its numbers."""
    with ExitStack() as stack:
        for each in _usual:
            stack.enter_context(patch.object(*each))
        yield
