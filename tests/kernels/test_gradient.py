"""The kernels of weight gradients: each on every kind of layer, cut into many boxes, parts and
units; the same bits for any number of threads; nothing touched beyond the arrays.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from functional.check import nan_results, threads
from functional.test_guard_pages import child_of

from konv import gradient as front
from konv import llvm, reference, rounding, weight_gradient
from konv.geometry import Conv
from konv.kernels import gradient, schedule
from konv.kernels.fourier import fit
from konv.kernels.fourier.lengths import LENGTHS
from konv.kernels.gradient import boxes as gradient_boxes
from konv.kernels.gradient import cut as gradient_cut
from konv.kernels.gradient import fourier as gradient_fourier
from konv.kernels.gradient import pencils as gradient_pencils
from konv.kernels.gradient import planar as gradient_planar
from konv.kernels.gradient import rows as gradient_rows
from konv.kernels.gradient import winograd as gradient_winograd
from konv.kernels.gradient.pencils import cut as gradient_pencils_cut
from konv.kernels.gradient.planar import cut as gradient_planar_cut
from konv.kernels.gradient.rows import cut as gradient_rows_cut
from konv.kernels.gradient.winograd import cut as gradient_winograd_cut
from konv.kernels.gradient.winograd import runs
from konv.runtime import gradient as runtime

KERNELS: tuple[Any, ...] = (
    gradient, gradient_planar, gradient_rows, gradient_pencils, gradient_winograd,
    gradient_fourier,
)  # fmt: skip
LINES = (
    "conv1d 3x4x70 o5 k4 s3 p2:0",
    "conv2d 2x6x9x8 o8 k3 s2 p1 g2",
    "conv2d 2x19x13x12 o37 k3 p1",
    "conv2d 3x5x8x17 o5 k3 p2 d2 g5",
    "conv2d 1x6x20x9 o6 k5 s3 p2 g6",
    "conv2d 2x16x16x16 o48 k1",
    "conv2d 2x19x15x16 o40 k1 s2",
    "conv2d 3x17x7x7 o34 k1",
    "conv3d 2x20x3x4x5 o24 k1",
    "conv2d 1x2x33x40 o3 k3 p12 d12",
    "conv2d 2x3x24x23 o17 k7 s2 p3",
    "conv2d 1x20x5x8 o40 k3 p1 g20",
    "conv3d 2x4x5x6x9 o3 k3x1x2 p1",
    "conv2d 2x17x17x9 o24 k3 p12x8 d12x8",
    "conv2d 3x34x5x2 o34 k3 s2x1 p1x2 d1x2 g2",
)  # fmt: skip
DEPTHWISE = (
    "conv2d 2x16x12x11 o16 k3 p1 g16",
    "conv2d 3x19x14x19 o19 k3 s2 p1 g19",
    "conv2d 1x40x11x14 o40 k3 p2 d2 g40",
    "conv2d 2x24x13x15 o24 k5 s2 p2 g24",
    "conv2d 2x16x9x17 o16 k7 p3 g16",
    "conv2d 2x17x3x30 o17 k1x5 p0x2 g17",
    "conv2d 2x16x30x4 o16 k5x1 p2x0 g16",
    "conv2d 5x18x2x2 o18 k5 p2 g18",
    "conv2d 2x16x7x9 o16 k3 s4x3 p0x5 g16",
    "conv2d 1x16x9x23 o16 k3x11 p1x5 g16",
    "conv2d 2x16x6x7 o16 k1 g16",
    "conv3d 2x20x4x5x9 o20 k3 p1 g20",
    "conv1d 3x20x37 o20 k9 s2 p4 g20",
)  # fmt: skip
WINOGRAD = (
    "conv2d 3x24x9x30 o33 k5 p2",
    "conv1d 2x40x77 o50 k3 p1",
    "conv1d 3x16x31 o16 k5",
    "conv1d 2x17x900 o16 k3 p1",
    "conv2d 2x64x21x19 o48 k3 g2",
    "conv2d 9x33x7x7 o70 k3 p1",
    "conv2d 1x16x3x2 o16 k3 p2:1x0:3",
    "conv2d 2x17x1x9 o16 k3 p1",
    "conv2d 1x16x70x23 o16 k3 p4",
    "tconv2d 2x16x9x8 o24 k3 p1",
    "conv2d 2x17x16x19 o20 k3 s2 p1",
    "conv2d 2x16x33x12 o18 k4 s2 p1",
    "conv2d 1x32x14x31 o34 k5 s2 p2 g2",
    "conv1d 3x16x90 o20 k4 s2 p1",
    "tconv2d 2x18x7x9 o16 k4 s2 p1",
    "tconv2d 1x16x8x5 o17 k3 s2 p1 r1",
    "conv2d 2x17x21x30 o20 k3 p2 d2",
    "conv2d 3x16x14x9 o33 k3 p4x3 d4x3",
    "conv2d 2x32x13x40 o32 k5 p6 d3 g2",
    "conv2d 2x16x9x26 o16 k3 p12 d12",
    "conv2d 1x16x20x7 o18 k3 p2x1 d2x1",
    "conv1d 3x16x90 o20 k3 p7:2 d7",
)
# One tile and several, more padding than image, taps unlike
FOURIER = (
    "conv2d 2x19x20x22 o19 k13 p6 g19",
    "conv2d 3x16x9x12 o16 k9 g16",
    "conv2d 1x17x130x20 o17 k9x12 p4x5 g17",
    "conv2d 2x16x12x125 o16 k10x11 p5x0:3 g16",
    "conv2d 2x16x6x7 o16 k11x9 p9x8 g16",
    "conv2d 1x33x40x24 o33 k31x9 p15x4:2 g33",
    "tconv2d 2x16x14x15 o16 k9 p3 g16",
)
EVERY = LINES + DEPTHWISE + WINOGRAD + FOURIER

AVX2 = llvm.describe("x86_64-unknown-linux-gnu", "haswell", "")  # choices hang on lanes


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
        "PANEL": 2048, "STRIP": 2048, "SUMS": 2048, "OUTPUTS_OF_PART": 32, "ALONE": 0,
        "PIECE": 64,
    }  # fmt: skip
    with ExitStack() as stack:
        for name, number in numbers.items():
            stack.enter_context(patch.object(gradient_cut, name, number))
        stack.enter_context(patch.object(gradient_boxes, "PARTIAL", 10**6))
        planar = {"OUTPUTS": 24, "OUTPUTS_LAST": 24, "GROUPS": 512, "TOGETHER": 2}
        for name, number in planar.items():
            stack.enter_context(patch.object(gradient_planar_cut, name, number))
        pencils = {"NEAR": 512, "SEGMENT": 6, "STEP": 4, "OUTPUTS": 24, "OUTPUTS_OF_PART": 32}
        for name, number in pencils.items():
            stack.enter_context(patch.object(gradient_pencils_cut, name, number))
        rows = {"OUTPUTS": 24, "OUTPUTS_OF_PART": 32, "NEAR": 64}
        for name, number in rows.items():
            stack.enter_context(patch.object(gradient_rows_cut, name, number))
        winograd = {
            "WIDE": 8, "WIDE_LAST": 16, "DEEP": 5, "POINTS": 2**17,
            "CHUNK": 2**17, "FEW": 0, "LEAVING": 8,
        }  # fmt: skip
        for name, number in winograd.items():
            stack.enter_context(patch.object(gradient_winograd_cut, name, number))
        for name, number in {"BOX": 6, "WIDEST": 3}.items():
            stack.enter_context(patch.object(runs, name, number))
        stack.enter_context(patch.object(schedule, "FAR", 0))
        yield


def takes(kernel: Any, conv: Conv, last: bool) -> bool:
    """Whether a kernel computes a layer between arrays of this layout."""
    if kernel.why_not(conv) is not None:
        return False
    return kernel.plan(conv, llvm.detect(), not last, not last) is not None


def arrays(conv: Conv, last: bool) -> tuple[Any, Any]:
    """Integers, whose sums are exact in any order."""
    rng = np.random.default_rng(5)
    x, dy = (
        rng.integers(-4, 5, shape).astype(conv.dtype) for shape in (conv.in_shape, conv.out_shape)
    )
    return (_last(x), _last(dy)) if last else (x, dy)


def _last(a: Any) -> Any:
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)


def right(conv: Conv, kernel: Any, x: Any, dy: Any, got: Any) -> bool:
    """Exactly, on integers, or by the bound of what rounds otherwise."""
    want = reference.weight_gradient(conv, x, dy)
    if kernel.exact:
        return bool(np.array_equal(got, want))
    way = kernel.name.removeprefix("gradient_")
    bound = rounding.weight_gradient_tolerance(conv, x, dy, way)
    return bool((abs(got - want) <= bound).all())


@pytest.mark.parametrize("small", [False, True], ids=["as it is", "in small boxes"])
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "last"])
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: str(k.name))
@pytest.mark.parametrize("line", EVERY)
def test_right(line: str, kernel: ModuleType, last: bool, small: bool) -> None:
    """With one thread, two and three."""
    for dtype in ("float32", "float64"):
        conv = replace(Conv.parse(line), dtype=dtype)
        if not takes(kernel, conv, last):
            continue
        x, dy = arrays(conv, last)
        with ExitStack() as stack:
            stack.enter_context(nan_results())
            if small:
                stack.enter_context(small_boxes())
            stack.enter_context(pinned(kernel))
            for count in (1, 2, 3):
                with threads(count):
                    got = weight_gradient(conv, x, dy)
                assert right(conv, kernel, x, dy, got), f"{conv}, {count} threads"


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: str(k.name))
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "last"])
@pytest.mark.parametrize("line", EVERY)
def test_threads_change_no_bit(line: str, last: bool, kernel: ModuleType) -> None:
    """With several parts, whose sums are added up in one order."""
    conv, rng = Conv.parse(line), np.random.default_rng(1)
    if not takes(kernel, conv, last):
        return
    x, dy = (rng.standard_normal(s).astype("float32") for s in (conv.in_shape, conv.out_shape))
    x, dy = (_last(x), _last(dy)) if last else (x, dy)
    with small_boxes(), pinned(kernel):
        found = []
        for count in (1, 2, 3, 5):
            with threads(count):
                found.append(weight_gradient(conv, x, dy))
    assert all(np.array_equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "last"])
def test_transforms_of_every_length(length: int, last: bool) -> None:
    """Whichever is cheapest."""
    conv = Conv.parse("conv2d 2x17x33x21 o17 k9x7 p4x3 g17")
    others = {other: 10.0**6 for other in LENGTHS if other != length}
    x, dy = arrays(conv, last)
    with patch.dict(fit.TIMES, others), pinned(gradient_fourier):
        got = weight_gradient(conv, x, dy)
        plan, _ = runtime.choose(conv, llvm.detect(), not last, not last)
    assert plan.form[-1] == length
    assert right(conv, gradient_fourier, x, dy, got)


def test_nan_stays_in_its_channel() -> None:
    conv = Conv.parse("conv2d 2x17x33x21 o17 k9 p4 g17")
    x, dy = arrays(conv, False)
    with pinned(gradient_fourier):
        once = weight_gradient(conv, x, dy)
        x[1, 3, 5, 6], dy[0, 16, 2, 2] = np.nan, np.inf
        got = weight_gradient(conv, x, dy)
    for channel in range(17):
        if channel in (3, 16):
            assert not np.isfinite(got[channel]).any()
        else:
            assert np.array_equal(once[channel], got[channel])


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


@pytest.mark.parametrize("cut", [nullcontext, small_boxes], ids=["as it is", "in small boxes"])
@pytest.mark.parametrize("odd", [np.inf, np.nan], ids=str)
@pytest.mark.parametrize("kernel", [gradient_rows, gradient_pencils], ids=lambda k: str(k.name))
@pytest.mark.parametrize("line", DEPTHWISE)
def test_nothing_is_multiplied_that_the_layer_does_not_read(
    line: str, kernel: ModuleType, odd: float, cut: Any
) -> None:
    """Numbers that are not finite reach the taps that meet them, and no other."""
    conv, last = Conv.parse(line), kernel is gradient_pencils
    if not takes(kernel, conv, last):
        return
    for seed in range(4):
        x, dy = arrays(conv, last)
        rng = np.random.default_rng(seed)
        for a in (x, dy)[seed % 2 : seed % 2 + 1]:
            for c in range(0, conv.co, 2):
                at = tuple(rng.choice((0, n - 1, rng.integers(n))) for n in a.shape)
                a[(at[0], c, *at[2:])] = odd
        pads = [(0, 0), (0, 0), *(axis.overhang() for axis in conv.axes)]
        with np.errstate(invalid="ignore"):  # padding counts as zeros that are multiplied
            want = reference.weight_gradient(conv.padded(), np.pad(x, pads), dy)
        with cut(), pinned(kernel):
            got = weight_gradient(conv, x, dy)
        assert np.array_equal(got, want, equal_nan=True), f"{conv}, {seed}"


def test_layouts_of_pencils() -> None:
    """Not where channels are no neighbours, fill no vector, or are stored in halves."""
    conv, target = Conv.parse(DEPTHWISE[0]), llvm.detect()
    for layout in ((True, True), (True, False), (False, True)):
        assert gradient_pencils.plan(conv, target, *layout) is None
    lanes = target.lanes("float32")
    few = conv_of_channels(lanes - 1)
    assert gradient_pencils.plan(few, target, False, False) is None
    assert gradient_pencils.plan(conv_of_channels(lanes), target, False, False)
    assert gradient_pencils.why_not(Conv.parse("conv2d 1x16x9x9 o32 k3 g16"))
    assert gradient_pencils.why_not(replace(conv, dtype="float16"))


def test_layouts_of_rows() -> None:
    """Only where pixels are neighbours in both arrays, each group has one channel in and out, rows
    go in steps of one or two, and numbers are not stored in halves.
    """
    conv, target = Conv.parse(DEPTHWISE[0]), llvm.detect()
    assert gradient_rows.plan(conv, target, True, True)
    for layout in ((False, False), (True, False), (False, True)):
        assert gradient_rows.plan(conv, target, *layout) is None
    for line in ("conv2d 1x16x9x9 o32 k3 g16", "conv2d 1x16x9x9 o16 k3 s3 g16"):
        assert gradient_rows.why_not(Conv.parse(line))
    assert gradient_rows.why_not(replace(conv, dtype="float16"))


def conv_of_channels(count: int) -> Conv:
    return Conv.parse(f"conv2d 1x{count}x9x9 o{count} k3 g{count}")


@pytest.mark.parametrize(
    ("line", "kernel"),
    [
        ("conv2d 1x64x56x56 o64 k3 p1", gradient_winograd),
        ("tconv2d 8x64x28x28 o64 k3 p1", gradient_winograd),
        ("conv2d 8x512x7x7 o512 k3 p1", gradient_winograd),
        ("conv2d 1x256x7x7 o256 k3 p1", gradient),
        ("conv2d 8x64x32x32 o128 k4 s2 p1", gradient_winograd),
        ("conv2d 1x64x14x14 o64 k3 s2 p1", gradient),
        ("conv2d 1x64x56x56 o64 k3 p1 f64", gradient),
        ("conv2d 1x32x112x112 o32 k3 p1 g32", gradient_rows),
        ("conv2d 1x672x14x14 o672 k5 s2 p2 g672", gradient_rows),
        ("conv2d 1x128x56x56 o128 k31 p15 g128", gradient_fourier),
        ("conv2d 1x128x56x56 o128 k3 p1 g32", gradient_planar),
        ("conv2d 1x3x224x224 o64 k7 s2 p3", gradient),
    ],
)
def test_chosen(line: str, kernel: ModuleType) -> None:
    """Outputs stand in the lanes where channels would not fill them; tiles are transformed where
    that pays.
    """
    plan, _ = runtime.choose(Conv.parse(line), llvm.detect(), True, True)
    assert plan.algorithm == kernel.name


@pytest.mark.parametrize(
    ("line", "kernel"),
    [
        ("conv2d 8x960x7x7 o960 k3 p1 g960", gradient_pencils),
        ("conv2d 1x96x112x112 o96 k3 s2 p1 g96", gradient_pencils),
        ("conv2d 1x240x14x14 o240 k5 p2 g240", gradient_pencils),
        ("conv2d 1x64x56x56 o64 k31 p15 g64", gradient_fourier),
        ("conv2d 1x64x56x56 o64 k3 p1", gradient_winograd),
    ],
)
def test_chosen_channels_last(line: str, kernel: ModuleType) -> None:
    """Channels of depthwise layers do, where both arrays have them last; large kernels
    are transformed.
    """
    plan, _ = runtime.choose(Conv.parse(line), AVX2, False, False)
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
