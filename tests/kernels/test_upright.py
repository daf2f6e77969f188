"""Depthwise convolution by blocks of rows: right, the same bits however it is cut, and when not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from functional.check import check, compare, pinned, plans, small_units, threads
from functional.forms import numbers
from kernels.cases import case_of, every_layout

from konv import llvm
from konv.geometry import Conv
from konv.kernels import upright
from konv.kernels.strips.job import JOB
from konv.runtime import weights

# Two tiles of products and a tail, one output, taps that are no multiple of four or unlike, images
# smaller than a block, more padding than image; channels on and one past a vector.
MAPS = [
    "conv2d 2x17x37x61 o17 k8 p4 g17",
    "conv2d 1x33x20x20 o33 k7 p3 g33",
    "conv2d 1x16x9x9 o16 k8 g16",
    "conv2d 1x16x40x30 o16 k11 p5 g16",
    "conv2d 1x19x12x70 o19 k11x8 p3:5x8:0 g19",
    "conv2d 1x16x3x2 o16 k11 p9 g16",
    "tconv2d 1x16x14x15 o16 k8x9 p3 g16",
]
every_map = pytest.mark.parametrize("line", MAPS)


@contextmanager
def alone() -> Iterator[None]:
    """Every call is computed by it."""
    plans.clear()
    with pinned(upright):
        yield
    assert {plan.algorithm for plan in plans.values()} == {"upright"}


@every_layout
@every_map
def test_maps(line: str, layouts: tuple[bool, bool]) -> None:
    """Right, and the same bits for any threads, so bands."""
    case = case_of(line, layouts)
    with alone():
        with threads(1):
            once = numbers(check(case))
        for count in (2, 3, 5):
            with threads(count), small_units(16, 4):
                assert np.array_equal(once, numbers(check(case))), f"{case}: other bits"


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@every_map
def test_modes(line: str, mode: Any) -> None:
    case = case_of(line, (True, True))
    if case.conv.transposed:
        return
    try:
        case = replace(case, conv=replace(case.conv, mode=mode))
    except ValueError:  # the image has too little for the mode
        return
    with alone():
        check(case)


def test_rows_of_very_different_size() -> None:
    """The bound holds where a tile mixes large outputs with small ones."""
    case = case_of("conv2d 1x16x40x40 o16 k11 p5 g16", (True, True))
    x, w, b = case.arrays()
    x *= np.where(np.arange(40) % 8 < 4, 1000, 1).astype("float32")[:, None]
    with alone():
        y = case.function(x, w, b, **case.arguments)
        compare(case, x, w, b, y)


def test_batch_and_crops() -> None:
    """An image alone; a crop from rows in fours, away from its own border by a tile."""
    case = case_of("conv2d 3x16x64x60 o16 k8x9 p4 g16", (True, True))
    x, w, b = case.arrays()
    with alone(), threads(2):
        whole = case.function(x, w, b, **case.arguments)
        for n in range(3):
            assert np.array_equal(
                whole[n : n + 1], case.function(x[n : n + 1], w, b, padding=4, groups=16)
            )
        part = case.function(np.ascontiguousarray(x[:, :, 8:56, 13:50]), w, b, padding=4, groups=16)
        assert np.array_equal(whole[:, :, 16:48, 21:40], part[:, :, 8:40, 8:27])


def test_nan_stays_near() -> None:
    """It spreads over four rows of outputs and the blocks' rounded-up reach, no further."""
    case = case_of("conv2d 1x16x64x64 o16 k8x9 p4 g16", (True, True), "")
    x, w, _ = case.arrays()
    with alone():
        once = case.function(x, w, **case.arguments)
        x[0, 3, 32, 32] = np.nan
        got = case.function(x, w, **case.arguments)
    near = np.zeros(got.shape, bool)
    near[0, 3, 20:44, 28:37] = True
    assert np.isnan(got[0, 3, 28:37, 28:37]).all()
    assert np.array_equal(got[~near], once[~near])


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("conv2d 1x64x9x9 o64 k7 p3", "takes one channel in and out a group; here 64 and 64"),
        (
            "conv2d 1x64x9x9 o64 k7 p3 g64 f64",
            "takes float32 only, whose errors it is measured for",
        ),
        ("conv2d 1x64x9x9 o64 k7x5 p2 g64", "takes 7, 8 or 11 rows of 7 to 11 taps"),
        ("conv2d 1x64x9x9 o64 k9 p4 g64", "takes 7, 8 or 11 rows of 7 to 11 taps"),
        ("conv2d 1x64x9x9 o64 k7x12 p2 g64", "takes 7, 8 or 11 rows of 7 to 11 taps"),
        ("conv1d 1x64x99 o64 k7 g64", "takes 7, 8 or 11 rows of 7 to 11 taps"),
        ("conv2d 1x64x19x19 o64 k7 s2 p3 g64", "takes no stride and no dilation"),
        ("conv2d 1x4x19x19 o4 k7 p3 g4", "takes {lanes} channels or more; here 4"),
        ("conv2d 1x64x19x19 o64 k7 p3 g64", None),
    ],
)
def test_why_not(line: str, why: str | None) -> None:
    target = llvm.detect()
    lanes = target.lanes("float32")
    if why and "{lanes}" in why:
        why = why.format(lanes=lanes) if lanes > 4 else None
    assert upright.why_not(Conv.parse(line), target) == why


@every_map
def test_cost_and_memory(line: str) -> None:
    """Cost grows with the image, not with the batch; packed weights are as long as said."""
    conv, target = Conv.parse(line), llvm.detect()
    (plan,) = upright.plans(conv, target, True, True)
    once = upright.cost(conv, plan, target)
    assert once == upright.cost(conv.with_batch(7), plan, target)
    assert once < upright.cost(conv.with_size(100, 100), plan, target)
    blocks = -(-conv.axes[0].kernel // 4) * conv.axes[1].kernel
    lanes = target.lanes("float32")
    channels = -(-conv.co // lanes) * lanes
    assert weights.packed_bytes(conv, plan, target) == 64 + 4 * channels * (7 * blocks + 1)


@pytest.mark.parametrize("count", [1, 2, 16])
@every_map
def test_all_rows_once(line: str, count: int) -> None:
    """Bands begin at whole tiles, and cover the output."""
    conv, target = Conv.parse(line), llvm.detect()
    (plan,) = upright.plans(conv, target, True, True)
    work = upright.work(conv, plan, target, (1, 1, 1, 1), (1, 1, 1, 1), count)
    words = dict(zip(JOB, work.words, strict=True))
    assert words["box1"] % 4 == 0 or words["boxes1"] == 1
    assert (words["boxes1"] - 1) * words["box1"] < words["out1"] <= words["boxes1"] * words["box1"]
    assert words["units"] == conv.n * words["chunks"] * words["boxes1"]
