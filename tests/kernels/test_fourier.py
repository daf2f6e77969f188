"""Depthwise convolution by Fourier transforms: right, the same bits however it is cut, and when
not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from functional.check import check, compare, forget, plans, threads
from functional.forms import numbers
from hypothesis import given
from hypothesis import strategies as st
from kernels.cases import case_of, every_layout

from konv import llvm
from konv.geometry import Axis, Conv
from konv.kernels import fourier
from konv.kernels.fourier import dft, fit
from konv.kernels.fourier.fit import WHOLE, outputs_of
from konv.kernels.fourier.lengths import EACH, LENGTHS, Length
from konv.kernels.strips.job import JOB
from konv.plan import Plan
from konv.runtime import execute, weights
from konv.runtime.choose import choices, choose

# A tile, two and a tail, one output, taps unlike, images smaller than the taps, more padding than
# image, padding that crops; channels on and one past a vector.
MAPS = [
    "conv2d 2x17x37x61 o17 k9 p4 g17",
    "conv2d 1x33x20x20 o33 k13 p6 g33",
    "conv2d 1x16x9x9 o16 k9 g16",
    "conv2d 1x16x40x30 o16 k31 p15 g16",
    "conv2d 1x19x12x70 o19 k10x12 p3:5x8:0 g19",
    "conv2d 1x16x3x2 o16 k11 p9 g16",
    "tconv2d 1x16x14x15 o16 k9 p3 g16",
    "tconv2d 1x16x24x25 o16 k9 p10 g16",
]
every_map = pytest.mark.parametrize("line", MAPS)


def every(conv: Conv, *layouts: bool) -> list[Plan]:
    """Its plans for an image of this size: of tiles, and those of one tile that holds it."""
    (plan,) = fourier.plans(conv, llvm.detect(), *layouts)
    return fit.able(conv, plan)


@contextmanager
def planned(plan: Plan) -> Iterator[None]:
    """Every call is computed by this plan."""

    def choose(conv: Conv, *_: Any) -> Plan:
        plans[conv] = plan
        return plan

    forget()
    with patch.object(execute, "choose", choose):
        yield
    forget()


@every_layout
@every_map
def test_maps(line: str, layouts: tuple[bool, bool]) -> None:
    """With transforms of each length, in tiles and as one; the same bits for any threads."""
    case = case_of(line, layouts)
    found = every(case.conv, *layouts)
    assert len({plan.form[-1] for plan in found}) >= 3
    for plan in found:
        with planned(plan):
            with threads(1):
                once = numbers(check(case))
            for count in (2, 5):
                forget()
                with threads(count):
                    assert np.array_equal(once, numbers(check(case))), f"{case}: other bits"


def test_whole_images_and_tiles_are_met() -> None:
    found = [plan for line in MAPS for plan in every(Conv.parse(line), True, True)]
    kinds = {(plan.form[-1], plan.alignment == WHOLE) for plan in found}
    assert len(kinds) == 2 * len(LENGTHS)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@every_map
def test_modes(line: str, mode: Any) -> None:
    """Of padding that is no zeros only tiles are computed."""
    case = case_of(line, (True, True))
    if case.conv.transposed:
        return
    try:
        case = replace(case, conv=replace(case.conv, mode=mode))
    except ValueError:  # the image has too little for the mode
        return
    for plan in every(case.conv, True, True):
        assert plan.alignment != WHOLE
        with planned(plan):
            check(case)


@pytest.mark.parametrize("words", ["activation=silu", "activation=relu residual=contiguous"])
@every_layout
def test_epilogue(layouts: tuple[bool, bool], words: str) -> None:
    """Of whole images, too, which are chosen by size alone."""
    case = case_of("conv2d 2x19x30x33 o19 k13 p6 g19", layouts, f"bias=contiguous {words}")
    for plan in every(case.conv, *layouts):
        with planned(plan):
            check(case)


def test_no_image() -> None:
    case = case_of("conv2d 0x19x30x33 o19 k13 p6 g19", (True, True))
    for plan in every(case.conv, True, True):
        with planned(plan):
            check(case)


def test_padding_that_repeats_pixels() -> None:
    """The bound counts them as often as they are read."""
    case = case_of("conv2d 1x16x2x2 o16 k63 p70 g16 replicate", (True, True), "")
    x, w, _ = case.arrays()
    x, w = abs(x), abs(w)
    for plan in every(case.conv, True, True):
        with planned(plan):
            compare(case, x, w, None, case.function(x, w, **case.arguments))


@pytest.mark.parametrize(("x", "w"), [(1.0, 1e-33), (1e3, 1e-34), (1e-33, 1.0), (1e30, 1.0)])
def test_small_and_large_numbers(x: float, w: float) -> None:
    """Nothing is lost as denormal on the way that results are not, nor does anything overflow."""
    case = case_of("conv2d 1x16x40x40 o16 k31 p15 g16", (True, True), "")
    arrays = case.arrays()
    a, b = (arrays[0] * x).astype("float32"), (arrays[1] * w).astype("float32")
    for plan in every(case.conv, True, True):
        with planned(plan):
            compare(case, a, b, None, case.function(a, b, **case.arguments))


def test_rows_of_very_different_size() -> None:
    """The bound holds where a tile mixes large outputs with small ones."""
    case = case_of("conv2d 1x16x40x40 o16 k13 p6 g16", (True, True))
    x, w, b = case.arrays()
    x *= np.where(np.arange(40) < 20, 1000, 1).astype("float32")[:, None]
    for plan in every(case.conv, True, True):
        with planned(plan):
            compare(case, x, w, b, case.function(x, w, b, **case.arguments))


def test_nan_stays_in_its_channel_and_tile() -> None:
    case = case_of("conv2d 1x16x60x60 o16 k9 p4 g16", (True, True), "")
    x, w, _ = case.arrays()
    broken = x.copy()
    broken[0, 3, 30, 2] = np.nan
    for plan in every(case.conv, True, True):
        with planned(plan):
            once, got = (case.function(a, w, **case.arguments) for a in (x, broken))
        tall, wide = outputs_of(case.conv, plan)
        near = np.zeros(got.shape, bool)  # whole tiles, of all outputs that reach it
        near[0, 3, 26 // tall * tall : (34 // tall + 1) * tall, : (6 // wide + 1) * wide] = True
        assert np.isnan(got[near]).all()
        assert np.array_equal(got[~near], once[~near])


class Plain:
    """What transforms are written with, of numbers: a function under construction, and a value."""

    type = None

    def __init__(self, number: Any = 0.0) -> None:
        self.number = number

    def constant(self, _: Any, number: float) -> Plain:
        return Plain(number)

    def fma(self, a: Plain, b: Plain, c: Plain) -> Plain:
        return Plain(a.number * b.number + c.number)

    def __add__(self, other: Plain) -> Plain:
        return Plain(self.number + other.number)

    def __sub__(self, other: Plain) -> Plain:
        return Plain(self.number - other.number)

    def __mul__(self, other: Plain | float) -> Plain:
        return Plain(self.number * (other.number if isinstance(other, Plain) else other))


def pairs(numbers: Any) -> Any:
    return [(Plain(a.real), Plain(a.imag)) for a in numbers]


def complexes(found: Any) -> Any:
    return np.array([re.number + 1j * im.number for re, im in found])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9, 11, 13, 15, 16, 18, 27])
def test_transforms(count: int) -> None:
    """As NumPy has them, there and back, of complex numbers and of real ones."""
    f: Any = Plain()
    parts = np.random.default_rng(count).standard_normal((2, count))
    x, reals = parts[0] + 1j * parts[1], parts[0]
    ends = [0, count // 2] if count % 2 == 0 else [0]  # of which only the real part is said
    np.testing.assert_allclose(complexes(dft.transform(f, pairs(x))), np.fft.fft(x), atol=1e-12)
    back = complexes(dft.inverse(f, pairs(np.fft.fft(x))))
    np.testing.assert_allclose(back, count * x, atol=1e-12)
    bins = complexes(dft.of_reals(f, [Plain(a) for a in reals]))
    bins[ends] = bins[ends].real
    np.testing.assert_allclose(bins, np.fft.rfft(reals), atol=1e-12)
    again = [value.number for value in dft.to_reals(f, pairs(np.fft.rfft(reals)), count)]
    np.testing.assert_allclose(again, count * reals, atol=1e-12)


@pytest.mark.parametrize("length", [Length(*each) for each in EACH], ids=str)
def test_lengths_have_no_factor_in_common(length: Length) -> None:
    """So each number has one place among the even and odd transforms, and each bin."""
    numbers = range(length.all)
    found = {
        (length.odd * a + length.even * b) % length.all
        for a in range(length.even)
        for b in range(length.odd)
    }
    assert found == set(numbers)
    assert len({(k % length.even, k % length.odd) for k in numbers}) == length.all
    assert 2 * length.half + (length.even // 2 - 1) * length.odd == length.bins


@given(
    size=st.integers(1, 60), taps=st.integers(1, 40), lo=st.integers(-4, 40), hi=st.integers(-4, 40)
)
def test_what_fits_comes_round_to_zeros(size: int, taps: int, lo: int, hi: int) -> None:
    """One transform holds an image if, and only if, pixels that come round meet only padding."""
    if size + lo + hi < taps or lo >= taps or hi >= taps:
        return
    axis = Axis(size=size, kernel=taps, lo=lo, hi=hi)
    conv = Conv.parse("conv2d 1x16x9x9 o16 k9 g16")
    conv = replace(conv, axes=(axis, axis))
    for length in LENGTHS:
        if length < taps:
            continue
        reads = {(o, t): o + t - lo for o in range(axis.out) for t in range(taps)}
        # Pixels lie from `lo` on; a tap beyond the length reads what lies at the other end
        held = {i + lo for i in range(size) if 0 <= i + lo < min(length, axis.out + taps - 1)}
        right = axis.out <= length and all(
            ((o + t) % length in held) == (0 <= i < size) and (o + t < length or i >= size)
            for (o, t), i in reads.items()
        )
        assert fit.fits(conv, length) == right, (axis, length)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("conv2d 1x64x9x9 o64 k31 p15", "takes one channel in and out a group; here 64 and 64"),
        (
            "conv2d 1x64x9x9 o64 k31 p15 g64 f64",
            "takes float32 only, whose errors it is measured for",
        ),
        ("conv2d 1x64x9x9 o64 k31x8 p15 g64", "takes two axes with 9 to 96 taps each"),
        ("conv2d 1x64x9x9 o64 k97 p48 g64", "takes two axes with 9 to 96 taps each"),
        ("conv1d 1x64x99 o64 k31 g64", "takes two axes with 9 to 96 taps each"),
        ("conv2d 1x64x64x64 o64 k15x12 p7 g64", None),
        ("conv2d 1x64x19x19 o64 k31 s2 p15 g64", "takes no stride and no dilation"),
        ("conv2d 1x3x64x64 o3 k31 p15 g3", "channels or more; here 3"),
        ("conv2d 1x64x19x19 o64 k31 p15 g64", None),
    ],
)
def test_why_not(line: str, why: str | None) -> None:
    says = fourier.why_not(Conv.parse(line), llvm.detect())
    assert says == why or (why and says and says.endswith(why))


@pytest.mark.parametrize(
    ("line", "length", "whole"),
    [
        ("conv2d 1x128x56x56 o128 k31 p15 g128", 72, True),
        ("conv2d 1x256x28x28 o256 k29 p14 g256", 42, True),
        ("conv2d 1x512x14x14 o512 k27 p13 g512", 28, True),
        ("conv2d 1x64x86x86 o64 k31 g64", 90, True),  # padded by hand
        ("conv2d 1x64x320x320 o64 k31 p15 g64", 112, False),
        ("conv2d 1x64x28x28 o64 k29 p14 g64 reflect", 56, False),
    ],
)
def test_an_image_has_the_length_that_holds_it(line: str, length: int, whole: bool) -> None:
    """Measured 1.3 to 4 times as fast as longer ones."""
    conv, target = Conv.parse(line), llvm.detect()
    plan = choose(conv, target, True, True)
    assert (plan.algorithm, plan.form[-1], plan.alignment == WHOLE) == ("fourier", length, whole)
    assert plan in choices(conv, target, True, True)


@every_map
def test_cost_and_memory(line: str) -> None:
    """Cost grows with the image, not with the batch; packed weights are as long as said."""
    conv, target = Conv.parse(line), llvm.detect()
    (plan,) = fourier.plans(conv, target, True, True)
    once = fourier.cost(conv, plan, target)
    assert once == fourier.cost(conv.with_batch(7), plan, target)
    assert once < fourier.cost(conv.with_size(200, 200), plan, target)
    lanes = target.lanes("float32")
    channels, length = -(-conv.co // lanes) * lanes, plan.form[-1]
    points = (length // 2 + 1) * 2 * (length + 1)
    assert weights.packed_bytes(conv, plan, target) == 64 + 4 * channels * (points + 1)


@pytest.mark.parametrize("count", [1, 2, 7])
@every_map
def test_all_tiles_once(line: str, count: int) -> None:
    """Units begin at whole tiles, and cover the output."""
    conv = Conv.parse(line)
    for plan in every(conv, True, True):
        strides = (1, 1, 1, 1)
        work = fourier.work(conv, plan, llvm.detect(), strides, strides, count)
        words = dict(zip(JOB, work.words, strict=True))
        for axis, outputs in enumerate(outputs_of(conv, plan), start=1):
            boxes, box, out = (words[f"{name}{axis}"] for name in ("boxes", "box", "out"))
            assert box == outputs
            assert (boxes - 1) * box < out <= boxes * box
        tiles = conv.n * words["boxes1"] * words["boxes2"]
        assert words["units"] == words["chunks"] * tiles
        assert (words["chunks"] - 1) * words["chunk"] < words["lines"]
        assert words["chunks"] * words["chunk"] >= words["lines"]
