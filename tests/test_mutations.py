"""Tests that can fail: konv is broken on purpose, in one place at a time, and the suite's own check
must say so. Nothing here may write outside its memory, so outputs and sizes stay as they are.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from functional.case import Case
from functional.check import check, forget, small_units, threads

from konv import llvm
from konv.geometry import Axis
from konv.geometry.phase import Phase
from konv.kernels import ALGORITHMS, by_name
from konv.kernels.pack import NUMBERS, WEIGHTS
from konv.plan import Algorithm
from konv.runtime import execute, weights
from konv.runtime.job import Job
from konv.runtime.weights import CACHE
from konv.target import BYTES

# Few and small, of each kind, in both memory formats: each mutation meets what it harms. All are
# computed from phases and tables; tests/kernels/test_strips.py has what works otherwise.
CASES = [
    "conv2d 1x5x7x8 o18 k3 s2x1 p1 d1x2 / bias=contiguous",
    "conv2d 2x5x7x8 o18 k3x2 p1x0 / bias=contiguous x=last w=last whole",
    "conv2d 1x6x6x7 o10 k3 p1 g2 / bias=contiguous",
    "conv2d 1x6x6x7 o10 k3 p1 g2 / x=last out=last whole",
    "tconv2d 1x18x4x5 o18 k3 s2 p1 g18 / bias=contiguous",
    "tconv2d 1x5x4x5 o18 k4x3 s2 p1 / bias=contiguous whole",
    "tconv2d 1x5x4x5 o18 k4 s2 p1 / bias=contiguous whole",
    "tconv2d 1x5x4x5 o18 k4 s2 p1 / bias=contiguous x=last out=last",
    "conv1d 1x5x20 o18 k3 p2 reflect / torch",
    "conv3d 1x2x4x4x5 o18 k2 p1 / bias=contiguous",
]

PHASES = Axis.phases
Mutation = Callable[[], AbstractContextManager[Any]]


@contextmanager
def forgotten() -> Iterator[None]:
    """Nothing is remembered, before and after, of layers and of packed weights."""
    for clear in (forget, CACHE.clear):
        clear()
    yield
    for clear in (forget, CACHE.clear):
        clear()


def taken(algorithm: Algorithm) -> list[Case]:
    """The cases that an algorithm takes, computed by it."""
    cases = [replace(Case.parse(line), by=algorithm.name) for line in CASES]
    return [case for case in cases if algorithm.why_not(case.conv, llvm.detect()) is None]


# Those that work from no phases: a case of its own for each, and what harms any algorithm.
OTHERS = {
    "abreast": "conv2d 1x32x9x8 o32 k3x2 p1x0 g8 / bias=contiguous",
    "cells": "tconv2d 1x20x10x11 o3 k16 s8 / bias=contiguous",
    "spectra": "conv2d 1x20x23x25 o20 k7x6 p3 / bias=contiguous",
    "spectrum": "conv1d 1x20x203 o35 k9 p4 / bias=contiguous",
    "fourier": "conv2d 1x20x30x31 o20 k28x29 p14 g20 / bias=contiguous",
    "panels": "tconv2d 1x20x9x8 o40 k1 / bias=contiguous",  # packed, as its rows lie across
    "pencils": "conv2d 1x20x9x8 o20 k3x2 p1x0 g20 / x=last out=last bias=contiguous",
    "planes": "conv2d 1x20x9x8 o20 k3x2 p1x0 g20 / bias=contiguous",
    "shifted": "tconv2d 1x20x9x8 o3 k4x3 s2x1 p1 / bias=contiguous",
    "spread": "tconv2d 1x20x5x6 o20 k3x2 s2 p1x0 g20 / x=last out=last bias=contiguous",
    "upright": "conv2d 1x20x13x12 o20 k7x8 p3 g20 / bias=contiguous",
    "winograd": "conv2d 1x20x12x13 o40 k3 p1 / bias=contiguous",
}
HARMED = [a for a in ALGORITHMS if taken(a) and a.name not in OTHERS]
ANY = ("flip the kernel", "ignore the bias", "weights instead of the bias", "forget the last unit")


def noticing(algorithm: Algorithm) -> list[str]:
    """The cases that the suite's check calls wrong."""
    found = []
    # What nobody has written may be anything, infinite too: it is wrong, not a reason to warn.
    with forgotten(), threads(2), small_units(16, 4), np.errstate(all="ignore"):
        for case in taken(algorithm):
            try:
                check(case)
            except AssertionError:
                found.append(str(case))
    return found


# Geometry: what the taps of an axis read


def phases(change: Callable[[Axis, Phase], Phase]) -> Mutation:
    """Each phase of each axis is another, with as many outputs in the same places."""

    def wrong(axis: Axis) -> Iterator[Phase]:
        for phase in PHASES(axis):
            yield change(axis, phase)

    return lambda: patch.object(Axis, "phases", wrong)


def swapped_steps(axis: Axis, phase: Phase) -> Phase:
    """Stride and dilation, where both are plain."""
    if axis.up > 1:
        return phase
    sources = tuple(k * axis.stride - axis.lo for k in phase.taps)
    return replace(phase, stride=axis.dilation, sources=sources)


def without_last_tap(axis: Axis, phase: Phase) -> Phase:
    return replace(phase, taps=phase.taps[:-1], sources=phase.sources[:-1])


def without_first_tap(axis: Axis, phase: Phase) -> Phase:
    return replace(phase, taps=phase.taps[1:], sources=phase.sources[1:])


def shifted(by: int) -> Callable[[Axis, Phase], Phase]:
    def change(axis: Axis, phase: Phase) -> Phase:
        return replace(phase, sources=tuple(source + by for source in phase.sources))

    return change


def fewer_outputs(axis: Axis, phase: Phase) -> Phase:
    return replace(phase, count=max(1, phase.count - 1))


def stride_of_one(axis: Axis, phase: Phase) -> Phase:
    return replace(phase, stride=1)


def same_phase(axis: Axis, phase: Phase) -> Phase:
    """Every phase uses the taps of the first, as far as it has as many."""
    first = next(PHASES(axis))
    count = min(len(first.taps), len(phase.taps))
    return replace(phase, taps=first.taps[:count], sources=first.sources[:count])


# Schedule: which work there is


def words(**changes: Callable[[int], int]) -> Mutation:
    """Words of each job are others, where its algorithm has such words."""
    right = execute.schedule

    def wrong(*arguments: Any) -> Job:
        job, names = right(*arguments), by_name(arguments[1].algorithm).words
        for name, change in changes.items():
            if name in names:
                at = names.index(name)
                job.words[at] = change(int(job.words[at]))
        return job

    return lambda: patch.object(execute, "schedule", wrong)


def fewer(n: int) -> int:
    return max(0, n - 1)


# Weights: what is packed


def packing(change: Callable[[dict[str, int], int], None]) -> Mutation:
    """`pack` is given other arguments: their names are in WEIGHTS; and a number's bytes."""
    right = weights.pack

    def wrong(conv: Any, plan: Any, kernel: Any, *rest: Any) -> Any:
        def pack(job: int, *arguments: int) -> None:
            # A copy: konv remembers the job, and packs by it again.
            numbers = (ctypes.c_int64 * len(NUMBERS)).from_buffer_copy(
                ctypes.string_at(job, 8 * len(NUMBERS))
            )
            named = dict(zip(WEIGHTS, (*arguments[:3], *numbers), strict=True))
            change(named, BYTES[plan.dtype])
            addresses, numbers[:] = list(named.values())[:3], list(named.values())[3:]
            kernel.pack(ctypes.addressof(numbers), *addresses, *arguments[3:])

        return right(conv, plan, SimpleNamespace(target=kernel.target, pack=pack), *rest)

    return lambda: patch.object(weights, "pack", wrong)


def turn_kernel(a: dict[str, int], size: int) -> None:
    a["weights"] += (a["taps"] - 1) * a["by_tap"] * size
    a["by_tap"] *= -1


def turn_groups(a: dict[str, int], size: int) -> None:
    a["weights"] += (a["groups"] - 1) * a["by_group"] * size
    a["by_group"] *= -1


def turn_inputs(a: dict[str, int], size: int) -> None:
    a["weights"] += (a["ci"] - 1) * a["by_ci"] * size
    a["by_ci"] *= -1


def turn_outputs(a: dict[str, int], size: int) -> None:
    a["weights"] += (a["co"] - 1) * a["by_co"] * size
    a["by_co"] *= -1


def no_bias(a: dict[str, int], size: int) -> None:
    a["bias"] = 0


def weights_as_bias(a: dict[str, int], size: int) -> None:
    if a["bias"]:
        a["bias"] = a["weights"]


def never(*_: Any) -> int:
    """A digest that is always the same: whatever was packed first stays."""
    return 0


MUTATIONS: dict[str, Mutation] = {
    "flip the kernel": packing(turn_kernel),
    "swap stride and dilation": phases(swapped_steps),
    "drop the last tap": phases(without_last_tap),
    "drop the first tap": phases(without_first_tap),
    "padding is one more": phases(shifted(-1)),
    "padding is one less": phases(shifted(1)),
    "stride is one": phases(stride_of_one),
    "all phases alike": phases(same_phase),
    "mix up two groups": packing(turn_groups),
    "mix up input channels": packing(turn_inputs),
    "mix up output channels": packing(turn_outputs),
    "ignore the bias": packing(no_bias),
    "weights instead of the bias": packing(weights_as_bias),
    "forget the last output channel": words(co=fewer),
    "forget the last input channel": words(ci=fewer),
    "forget the last unit": words(units=fewer),
    "forget the last outputs": phases(fewer_outputs),
    "forget the padding mode": words(mode=lambda _: 0),
    "another padding mode": words(mode=lambda mode: 2 if mode else 0),
    "all images are the first": words(x_batch=lambda _: 0),
    "all results go to the first image": words(y_batch=lambda _: 0),
    "forget the last row of pixels": words(size1=fewer),
}

# Of strips: words that only planar's jobs have.
STRIPS: dict[str, Mutation] = {
    "rows of a strip are too near": words(pitch=fewer),
    "depths of a strip are too near": words(face=fewer),
    "channels of a strip are too near": words(plane=fewer),
    "a strip keeps one phase of a stride": words(kept1=lambda _: 1),
    "the last row of a strip is not filled": words(reach1=fewer),
    "outputs of a phase are beside each other": words(step2=lambda _: 1),
}
MUTATIONS |= STRIPS

EVERY = {
    "drop the last tap", "drop the first tap", "padding is one more", "padding is one less",
    "flip the kernel", "forget the last unit",
}  # fmt: skip


def least(name: str, algorithm: Algorithm) -> int:
    """The cases that a mutation harms with an algorithm, at least: one, if it takes all kinds."""
    cases = taken(algorithm)
    if name in EVERY:
        return len(cases)
    if name == "ignore the bias":
        return sum(bool(case.bias) for case in cases)
    if name in STRIPS and "pitch" not in algorithm.words:
        return 0
    every_kind = len(cases) == len(CASES)
    return 2 if every_kind and name == "mix up two groups" else int(every_kind)


@pytest.mark.parametrize("algorithm", HARMED, ids=lambda a: str(a.name))
def test_unharmed(algorithm: Algorithm) -> None:
    """Without a mutation none of the cases is called wrong, before and after."""
    assert noticing(algorithm) == []


@pytest.mark.parametrize("algorithm", HARMED, ids=lambda a: str(a.name))
@pytest.mark.parametrize("name", MUTATIONS)
def test_noticed(name: str, algorithm: Algorithm) -> None:
    with MUTATIONS[name]():
        found = noticing(algorithm)
    assert len(found) >= least(name, algorithm), f"{name!r} is noticed by {found} only"


def test_every_algorithm_is_here() -> None:
    assert {*OTHERS, *(a.name for a in HARMED)} == {a.name for a in ALGORITHMS}


@pytest.mark.parametrize("mutation", ANY)
@pytest.mark.parametrize("name", OTHERS)
def test_noticed_without_phases(name: str, mutation: str) -> None:
    case = replace(Case.parse(OTHERS[name]), by=name)
    if mutation == "flip the kernel" and all(axis.kernel == 1 for axis in case.conv.axes):
        pytest.skip("a kernel of one tap is its own mirror image")
    for harm, right in ((nullcontext, True), (MUTATIONS[mutation], False), (nullcontext, True)):
        with forgotten(), harm():
            try:
                check(case)
                found = True
            except AssertionError:
                found = False
        assert found is right, f"{mutation!r}: {case}"


def test_a_stale_weight_is_noticed() -> None:
    """Without the digest the second of two weights at one address is taken for the first."""
    case = Case.parse(CASES[0])
    x, w, b = case.arrays()

    def twice() -> Any:
        with ExitStack() as stack:
            stack.enter_context(forgotten())
            stack.enter_context(patch.object(Case, "arrays", lambda _: (x, w, b)))
            for _ in range(2):
                check(case)
                w[...] = -w

    twice()
    with (
        patch.object(weights, "digest", never),  # of large ones, which threads share, and of small
        patch.object(execute, "digests", lambda: SimpleNamespace(digest=never)),
        pytest.raises(AssertionError, match="are wrong"),
    ):
        twice()
