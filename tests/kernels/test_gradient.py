"""The kernels of weight gradients: each on every kind of layer, cut into many boxes, parts and
units; the same bits for any number of threads; nothing touched beyond the arrays.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from functional.check import nan_results, threads
from functional.test_guard_pages import child_of

from konv import gradient as front
from konv import llvm, reference, weight_gradient
from konv.geometry import Conv
from konv.kernels import gradient, gradient_cut, gradient_planar
from konv.runtime import gradient as runtime

KERNELS: tuple[Any, ...] = (gradient, gradient_planar)
LINES = (
    "conv1d 3x4x70 o5 k4 s3 p2:0",
    "conv2d 2x6x9x8 o8 k3 s2 p1 g2",
    "conv2d 2x19x13x12 o37 k3 p1",
    "conv2d 3x5x8x17 o5 k3 p2 d2 g5",
    "conv2d 1x6x20x9 o6 k5 s3 p2 g6",
    "conv2d 2x16x16x16 o48 k1",
    "conv2d 1x2x33x40 o3 k3 p12 d12",
    "conv2d 2x3x24x23 o17 k7 s2 p3",
    "conv2d 1x20x5x8 o40 k3 p1 g20",
    "conv3d 2x4x5x6x9 o3 k3x1x2 p1",
)  # fmt: skip


@contextmanager
def pinned(kernel: ModuleType) -> Iterator[None]:
    """Every gradient is computed by this kernel."""
    front._layers.clear()
    with patch.object(runtime, "CUT", {kernel: runtime.CUT[kernel]}):
        yield
    front._layers.clear()


@contextmanager
def small_boxes() -> Iterator[None]:
    """Cut work as if it were large: boxes of a few outputs, parts of a few boxes, small units."""
    numbers = {
        "PANEL": 2048, "PLANAR_OUTPUTS": 24, "PLANAR_OUTPUTS_LAST": 24, "GROUPS": 512,
        "TOGETHER": 2, "STRIP": 2048, "SUMS": 2048, "OUTPUTS_OF_PART": 32, "ALONE": 0,
        "PIECE": 64, "PARTIAL": 10**6,
    }  # fmt: skip
    with ExitStack() as stack:
        for name, number in numbers.items():
            stack.enter_context(patch.object(gradient_cut, name, number))
        yield


def arrays(conv: Conv, last: bool) -> tuple[Any, Any]:
    """Integers, whose sums are exact in any order."""
    rng = np.random.default_rng(5)
    x, dy = (
        rng.integers(-4, 5, shape).astype(conv.dtype) for shape in (conv.in_shape, conv.out_shape)
    )
    return (_last(x), _last(dy)) if last else (x, dy)


def _last(a: Any) -> Any:
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)


@pytest.mark.parametrize("small", [False, True], ids=["as it is", "in small boxes"])
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "last"])
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: str(k.name))
@pytest.mark.parametrize("line", LINES)
def test_right(line: str, kernel: ModuleType, last: bool, small: bool) -> None:
    """Exactly, on integers; with one thread, two and three."""
    for dtype in ("float32", "float64"):
        conv = replace(Conv.parse(line), dtype=dtype)
        if kernel.why_not(conv):
            continue
        x, dy = arrays(conv, last)
        want = reference.weight_gradient(conv, x, dy)
        with ExitStack() as stack:
            stack.enter_context(nan_results())
            if small:
                stack.enter_context(small_boxes())
            stack.enter_context(pinned(kernel))
            for count in (1, 2, 3):
                with threads(count):
                    got = weight_gradient(conv, x, dy)
                assert np.array_equal(got, want), f"{conv}, {count} threads"


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: str(k.name))
@pytest.mark.parametrize("line", LINES)
def test_threads_change_no_bit(line: str, kernel: ModuleType) -> None:
    """With several parts, whose sums are added up in one order."""
    conv, rng = Conv.parse(line), np.random.default_rng(1)
    if kernel.why_not(conv):
        return
    x, dy = (rng.standard_normal(s).astype("float32") for s in (conv.in_shape, conv.out_shape))
    with small_boxes(), pinned(kernel):
        found = []
        for count in (1, 2, 3, 5):
            with threads(count):
                found.append(weight_gradient(conv, x, dy))
    assert all(np.array_equal(found[0], other) for other in found[1:])


def test_boxes_depend_on_sizes_alone() -> None:
    """And there are parts, so that the tests above add some up."""
    conv, target = Conv.parse(LINES[2]), llvm.detect()
    plan = gradient.plan(conv, target, True, True)
    strides = [np.empty(shape).strides for shape in (conv.in_shape, conv.out_shape)]
    x, y = (tuple(s // 8 for s in some) for some in strides)
    with small_boxes():
        works = [gradient_cut.work(conv, plan, target, x, y, n) for n in (1, 2, 7)]
    at = {name: gradient_cut.JOB.index(name) for name in ("parts", "boxes", "images", "units")}
    for name in ("parts", "boxes", "images"):
        assert len({work.words[at[name]] for work in works}) == 1
    assert works[0].words[at["parts"]] > 1
    assert works[2].words[at["units"]] >= works[2].words[at["parts"]]


@pytest.mark.parametrize(
    ("line", "kernel"),
    [
        ("conv2d 1x64x56x56 o64 k3 p1", gradient),
        ("conv2d 1x32x112x112 o32 k3 p1 g32", gradient_planar),
        ("conv2d 1x128x56x56 o128 k3 p1 g32", gradient_planar),
        ("conv2d 1x3x224x224 o64 k7 s2 p3", gradient),
    ],
)
def test_chosen(line: str, kernel: ModuleType) -> None:
    """Outputs stand in the lanes where channels would not fill them."""
    plan, _ = runtime.choose(Conv.parse(line), llvm.detect(), True, True)
    assert plan.algorithm == kernel.name


@pytest.mark.parametrize("end", ["end", "start"])
def test_nothing_beyond(end: str) -> None:
    """Arrays, results and every part of scratch memory end, or begin, at a page without access."""
    code, said = child_of("kernels.gradient_fences", end)
    assert code == 0, f"exit code {code}; it said last:\n{said}"
    assert said.endswith("done")


def test_beyond_kills() -> None:
    """The test above can fail: scratch memory that is a line too short."""
    code, said = child_of("kernels.gradient_fences", "end", "64")
    assert code < 0, f"exit code {code}; it said last:\n{said}"
