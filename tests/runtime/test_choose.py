"""Choosing: which plan, for what reason, and what it must not look at."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import fields, replace
from functools import cache
from itertools import product
from math import prod
from typing import Any

import numpy as np
import pytest
from functional.check import forget, recording, threads
from functional.check import plans as recorded
from geometry.strategies import convs
from hypothesis import given
from kernels.layers import LAYOUTS, PROBLEMS, SIZES, TARGETS, sized

import konv
from konv import llvm
from konv.errors import ProblemError
from konv.geometry import Conv
from konv.kernels import ALGORITHMS, by_name, direct
from konv.kernels.fourier.lengths import LENGTHS, ROWS, SQUARES
from konv.kernels.strips.form import banded, beside, halved
from konv.kernels.winograd.transforms import transforms
from konv.plan import Algorithm, Plan
from konv.runtime import choose as module
from konv.runtime.choose import (
    PRODUCTS,
    choices,
    choose,
    current_precision,
    modelled,
    pin,
    precision,
)
from konv.runtime.typical import (
    ABOVE,
    APART,
    BETWEEN,
    FEW,
    FILLED,
    FLAT,
    HALF,
    LARGE,
    MIDDLE,
    NARROW,
    NEARLY,
    SCANT,
    SMALL,
    SPREADS,
    VOLUME,
    WHOLE,
    WIDE,
    of_many_taps,
    typical,
)
from konv.target import Target

every_target = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


def kind(conv: Conv) -> float | tuple[int, ...]:
    """-1: of hardly any outputs, 0: small, 1: middling, 2: not large for many taps; outputs along
    each axis, 0 for many, of what is thin. More outputs than ABOVE, of a transposed layer those
    from an input to the next are one, and more than APART for each pixel from tap to tap: at how
    many of these it is seen.
    """
    few = tuple(in_few(a.out / a.up) for a in conv.axes)
    thin = 0 < few.count(0) < len(few)
    counted = [a for a, some in zip(conv.axes, few, strict=True) if not (thin and some)]
    apart = [a.out / a.up / a.dilation for a in counted if a.dilation > 1]
    outputs = prod(a.out / a.up for a in conv.axes)
    share = conv.ci // conv.groups
    filled = conv.groups > 1 and (share == 1 or share >= FILLED)
    if outputs <= (NARROW if filled else SCANT):
        return -1
    if min(apart, default=WIDE) <= APART or outputs <= BETWEEN:
        return 0
    if thin and (outputs > ABOVE or few.count(0) == 1):
        return few
    cube = conv.dims == len(FLAT) and min(a.out / a.up for a in conv.axes) > FLAT[0]
    if outputs <= (MIDDLE if conv.dims == 1 and share > 1 else ABOVE) and not cube:
        return 1
    if outputs <= NEARLY and of_many_taps(conv):
        return 2
    return next((count for most, count in SPREADS if min(apart, default=WIDE) <= most), WIDE)


def in_few(out: float) -> int:
    """As how many an axis of few outputs counts: 3 as 4, 6 as 5."""
    return next((few for most, few in FEW if out <= most), 0)


_cheapest = cache(module._cheapest)


@pytest.fixture
def remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was chosen for a layer as choosing sees it is not worked out again, in all tests that
    use this: all sizes and batches of a layer lead to four of those, and each takes 1 ms. Not for
    what patches a model.
    """
    monkeypatch.setattr(module, "_cheapest", _cheapest)


# What it must not look at


@pytest.mark.usefixtures("remembered")
@every_target
def test_the_batch_is_not_looked_at(target: Target) -> None:
    for conv, layouts in product(PROBLEMS, LAYOUTS):
        plan = choose(conv, target, *layouts)
        assert {choose(conv.with_batch(n), target, *layouts) for n in (0, 1, 7)} == {plan}


def usual(plans: set[Plan]) -> set[Plan]:
    """Without those of broad and of narrow images, which give the same bits: one more of each, for
    any number of them. Transforms of any length are one, as they are chosen for the image itself,
    and of products beside those that are taken where images are too small for them.
    """
    bands = {plan for plan in plans if banded(plan) and not beside(plan)}
    halves = {plan for plan in plans if halved(plan)}
    assert len(bands) <= 1
    assert len(halves) <= 1
    lengths = {plan for plan in plans if plan.algorithm == "fourier"}
    assert len({plan.form for plan in lengths}) <= len(LENGTHS)
    rows = {plan for plan in plans if plan.algorithm == "spectrum"}
    assert len({plan.form for plan in rows}) <= len(ROWS)
    squares = {plan for plan in plans if plan.algorithm == "spectra"}
    assert len({plan.form for plan in squares}) <= len(SQUARES)
    return plans - bands - halves - set(list(lengths)[1:]) - rows - squares


@pytest.mark.usefixtures("remembered")
@pytest.mark.parametrize(
    ("line", "bands"),
    [
        ("conv2d 1x32x256x256 o32 k3 p1 g32", True),
        ("conv2d 1x96x112x112 o96 k3 p1 g96", True),  # from memory
        ("conv2d 1x32x112x112 o32 k3 p1 g32", False),
        ("conv2d 8x32x112x112 o32 k3 p1 g32", False),  # no image of them
        ("conv3d 1x54x16x56x56 o54 k3 p1 g54", True),
        ("conv3d 1x54x16x14x14 o54 k3 p1 g54", False),
    ],
)
def test_broad_images_go_along_bands(line: str, bands: bool) -> None:
    """The size decides, as both plans give the same bits (kernels.test_strips)."""
    conv, target = Conv.parse(line), TARGETS["avx2"]
    assert banded(choose(conv, target, True, True)) == bands
    assert banded(modelled(conv, target, True, True)) == bands
    assert banded(pin("planes", conv, target, True, True)) == bands
    assert any(map(banded, choices(conv, target, True, True)))
    assert not banded(choose(conv, target, False, False))


@pytest.mark.usefixtures("remembered")
@pytest.mark.parametrize(
    ("line", "halves"),
    [
        ("conv2d 1x960x7x7 o960 k3 p1 g960", True),
        ("conv2d 1x960x70x8 o960 k3 p1 g960", True),
        ("conv2d 1x960x7x9 o960 k3 p1 g960", False),
        ("conv2d 1x320x19x19 o320 k3 s2 p1 g320", False),  # 10 columns
        ("conv2d 1x672x14x14 o672 k3 s2 p1 g672", True),
        ("conv2d 1x64x7x7 o64 k3 p1 g64 f64", False),
        ("conv2d 1x64x7x4 o64 k3 p1 g64 f64", True),
    ],
)
def test_narrow_images_take_half_vectors(line: str, halves: bool) -> None:
    """With AVX-512 only, and as bands do."""
    conv, target = Conv.parse(line), TARGETS["avx512"]
    assert halved(choose(conv, target, True, True)) == halves
    assert halved(pin("planes", conv, target, True, True)) == halves
    assert any(map(halved, choices(conv, target, True, True)))
    assert not halved(choose(conv, TARGETS["avx2"], True, True))


@pytest.mark.usefixtures("remembered")
@every_target
def test_four_plans_at_most(target: Target) -> None:
    """One for tiny images, for small, for middling and for large ones, of dilated layers some more;
    which is which is decided in one place.
    """
    for conv, layouts in product(PROBLEMS, LAYOUTS):
        found: dict[float | tuple[int, ...], set[Plan]] = {}
        for size in SIZES:
            other = sized(conv, size)
            if other is not None:
                found.setdefault(kind(other), set()).add(choose(other, target, *layouts))
        assert all(len(usual(plans)) <= 1 for plans in found.values()), f"{conv}: {found}"
        dilated = any(axis.dilation > 1 for axis in conv.axes)
        assert len(found) <= 4 + of_many_taps(conv) or dilated


@pytest.mark.parametrize(("size", "name"), [(28, "direct"), (30, "direct"), (40, "winograd")])
def test_tiles_of_a_dilated_layer_are_mostly_full(size: int, name: str) -> None:
    """Else its taps mostly meet padding, which tiles multiply and others leave out."""
    conv = Conv.parse("conv2d 1x256x9x9 o256 k3 p12 d12").with_size(size, size)
    assert choose(conv, TARGETS["avx2"], True, True).algorithm == name


@pytest.mark.parametrize(
    ("size", "m"), [(31, 3), (38, 3), (39, 4), (55, 4), (57, 3), (65, 3), (76, 3), (78, 4), (99, 4)]
)
def test_tiles_of_a_dilated_layer_fit_its_interleaved_axes(size: int, m: int) -> None:
    """Of 3 outputs one tile of 3, of 4 one of 4, of 5 or 6 two of 3, of more tiles of 4."""
    conv = Conv.parse("conv2d 1x256x9x9 o256 k3 p12 d12").with_size(size, size)
    for layouts in LAYOUTS:
        plan = choose(conv, TARGETS["avx2"], *layouts)
        assert (plan.algorithm, transforms(plan)[0].m) == ("winograd", m)


@pytest.mark.usefixtures("remembered")
@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("conv2d 1x128x160x160 o128 k11 s4 p40 d8 g128", "planar"),  # a strip holds few outputs
        ("conv2d 1x128x160x160 o128 k11 s4 p5 g128", "pencils"),
        ("tconv2d 1x32x128x128 o16 k4 s2 p1", "winograd"),  # few channels, transformed soon
        ("tconv2d 1x64x64x64 o32 k4 s2 p1", "winograd"),
        ("conv2d 1x16x128x128 o32 k3 s2 p1", "direct"),  # too few
    ],
)
def test_what_models_were_fitted_to(line: str, name: str) -> None:
    """Measured to be the faster: 13 times, 1.1, 1.1 to 1.3, 1.35, 1.3 beside the next
    (konv.kernels.strips.costs, winograd.cut).
    """
    assert choose(Conv.parse(line), TARGETS["avx2"], True, True).algorithm == name


@pytest.mark.usefixtures("remembered")
@pytest.mark.parametrize(
    ("line", "contiguous", "name"),
    [
        ("tconv2d 1x512x28x28 o256 k2 s2", True, "subpixel"),  # 1.7 times as fast as planar
        ("conv1d 1x256x800 o256 k11 p5", True, "spectrum"),  # 1.9 as direct
        ("conv1d 1x768x499 o768 k128 p64 g16", False, "spectrum"),  # 5.8, with AVX2 6.7
        ("conv1d 1x80x86 o512 k7 p3", True, "direct"),  # 1.7 as spectrum
        ("conv2d 1x128x46x46 o128 k7 p3", True, "spectra"),  # 1.5 as spectrum, 2.3 as direct
        ("conv2d 1x64x56x56 o64 k7 p3", False, "spectra"),  # 1.8 as spectrum, 2.8 as direct
        ("conv2d 1x3x96x96 o64 k9 p4", True, "spectra"),  # 2.2 as direct, with AVX2 3.5
        ("conv2d 1x24x64x64 o96 k15 p7", True, "spectra"),  # 1.9 as spectrum, 6 as direct
        ("conv2d 1x64x64x64 o64 k5 p2", True, "winograd"),  # 1.6 as spectra
        ("conv2d 1x64x14x14 o64 k7 p3", True, "direct"),  # 1.7 as spectra
        ("conv2d 1x128x14x14 o128 k7 p3", True, "direct"),  # 1.8 as spectrum, at 20 x 20 .6
        ("conv2d 1x192x12x12 o192 k1x7 p0x3", True, "direct"),  # 1.06
        ("conv2d 1x192x17x17 o192 k1x7 p0x3", True, "spectrum"),  # 1.12
        ("conv2d 1x96x35x35 o96 k1x7 p0x3", True, "spectrum"),  # 1.6
        ("conv1d 1x128x80 o128 k11 p5", True, "spectrum"),  # 1.9
        ("conv1d 1x768x49 o768 k128 p64 g16", True, "direct"),  # 1.07
        ("tconv2d 1x1024x16x16 o256 k4 s2 p1", True, "winograd"),  # 1.7
        ("conv2d 1x512x28x28 o512 k3 s2 p1", True, "winograd"),  # 1.3
        ("conv2d 1x512x14x14 o512 k3 s2 p1", True, "direct"),  # 1.09
        ("conv2d 1x128x3x3 o128 k3 p1", True, "direct"),  # 1.3, 2 x 2 2.3
        ("conv2d 1x128x4x4 o128 k3 p1", True, "winograd"),  # .7, of 8 images 2.0
        ("conv2d 1x512x4x4 o512 k3 p1 g8", True, "direct"),  # 1.9
        ("conv2d 1x512x4x4 o512 k3 p1 g512", True, "depthwise"),  # 2.2
        ("conv1d 1x64x4000 o64 k5 p2", True, "winograd"),  # 1.1
        ("conv2d 1x192x28x28 o384 k2 s2", True, "direct"),  # 1.5
        ("conv2d 1x3x224x224 o64 k3 p1", True, "planar"),  # 1.9 times as fast as direct
        ("conv2d 1x1x270x480 o64 k5 p2", False, "planar"),  # 1.4
        ("conv2d 1x512x14x14 o512 k3 p1 g32", True, "abreast"),  # 1.8 times as fast as winograd
        ("tconv2d 1x128x28x28 o128 k3 s2 p1 g32", False, "subpixel"),  # 1.6
        ("conv2d 1x96x56x56 o96 k51x5 p25x2 g96", True, "pencils"),  # 2.1, with AVX2 1.3
        ("conv2d 1x128x7x7 o128 k3 p1", True, "winograd"),  # 1.3 as direct, 8 images 2.2
        ("conv3d 1x512x2x7x7 o512 k3 p1", True, "direct"),  # 1.9 as winograd
        ("conv2d 1x384x14x14 o384 k9 p4 g384", True, "pencils"),  # 2.2 as planes
        ("conv2d 1x384x14x14 o384 k11 p5 g384", False, "pencils"),  # 1.8 as upright
        ("conv2d 1x96x56x56 o96 k7 p3 g96", False, "pencils"),  # 1.05, and exact
        ("conv2d 1x3x224x224 o64 k7 s2 p3", True, "direct"),  # 1.04 as planar
        ("conv2d 1x3x224x224 o96 k4 s4", True, "direct"),  # 1.4
        ("conv1d 1x512x500 o512 k51 p25 g512", True, "pencils"),  # 1.9 as planes
        ("conv2d 1x1024x7x7 o1024 k7 p3 g1024", True, "pencils"),  # 1.6 as planes
        ("conv2d 1x384x10x10 o384 k7 p6 d2 g384", True, "pencils"),  # 3.6
        ("conv2d 1x96x56x56 o96 k7 p3 g96", True, "planes"),  # 1.3 as pencils
        ("conv2d 1x128x48x48 o128 k7 p72 d24 g128", True, "planes"),  # a strip for each tile else
        ("conv1d 1x256x500 o256 k17 p8 g256", True, "planes"),  # 1.24 as pencils
        ("conv2d 1x96x56x56 o96 k5x51 p2x25 g96", True, "pencils"),  # 1.7 as planes
        ("conv2d 1x96x56x56 o96 k5x51 p2x25 g96", False, "pencils"),  # 3.1 as depthwise
        ("conv2d 1x128x28x28 o128 k35x1 p17x0 g128", False, "pencils"),  # 2.4 as depthwise
        ("conv3d 1x45x16x56x56 o64 k3x1x1 p1x0x0", True, "direct"),  # 1.3 as winograd
        ("conv3d 1x45x16x56x56 o64 k3x1x1 p1x0x0", False, "direct"),  # 1.2
        ("conv3d 1x144x16x56x56 o64 k3x1x1 p1x0x0", False, "winograd"),  # 1.3 as direct
        ("conv3d 1x16x24x48x48 o16 k5 p2", True, "winograd"),  # 2.9
        ("conv3d 1x16x16x28x28 o16 k3 p1", True, "winograd"),  # 1.6
        ("conv3d 1x1x32x64x64 o16 k3 p1", True, "planar"),  # 1.3 as planes
        ("conv2d 1x1280x8x8 o1280 k3 p1", True, "winograd"),  # 1.7 as direct
        ("conv2d 1x1024x7x7 o1024 k3 p1", False, "winograd"),  # 1.7
        ("conv2d 1x64x28x28 o64 k5 p2 g4", True, "winograd"),  # 1.3 as spectrum
        ("conv2d 1x784x7x7 o784 k3 p1 g49", True, "abreast"),  # 2.0 as direct
        ("conv2d 1x1x49x10 o64 k10x4 s2 p4x1", True, "planar"),  # 3.5 as planes
        ("conv2d 1x1x40x500 o32 k5 s2 p2", True, "planar"),  # 2.6
        ("conv2d 1x32x128x128 o1 k1", False, "direct"),  # 3.7 as planar
        ("tconv2d 1x32x128x128 o1 k2 s2", False, "shifted"),  # 1.7 as subpixel
        ("tconv1d 1x1x8000 o1 k160 s80", True, "subpixel"),  # 2.4 as planar
    ],
)
def test_what_models_were_fitted_to_with_avx512(line: str, contiguous: bool, name: str) -> None:
    """Measured, beside the next on Granite Rapids; volumes on Emerald Rapids."""
    layouts = contiguous, contiguous
    assert choose(Conv.parse(line), TARGETS["avx512"], *layouts).algorithm == name


def test_taps_beyond_the_image_are_left_out_of_zeros_alone() -> None:
    """Of other paddings each is computed."""
    target = TARGETS["avx512"]
    line = "conv2d 1x64x5x5 o64 k7 p3"
    zeros, others = Conv.parse(line), Conv.parse(f"{line} replicate")
    (plan, *_), whole = direct.plans(zeros, target, True, True), zeros.with_size(7, 7)
    assert direct.cost(zeros, plan, target) < direct.cost(others, plan, target)
    same = replace(whole, mode="replicate")
    assert direct.cost(whole, plan, target) == direct.cost(same, plan, target)


@pytest.mark.usefixtures("remembered")
@pytest.mark.parametrize("line", ["o64 k7 s2 p3", "o128 k4 s4"])
def test_tiles_of_eight_pixels_go_out_in_planes(line: str) -> None:
    """With AVX-512, whose runs of eight results are stored at once."""
    conv, target = Conv.parse(f"conv2d 1x3x224x224 {line}"), TARGETS["avx512"]
    assert choose(conv, target, True, True).pixels == 8
    assert choose(conv, target, False, False).pixels < 8


@given(convs(most=9))
def test_four_plans_at_most_of_anything(conv: Conv) -> None:
    conv, target = replace(conv, dtype="float32"), TARGETS["avx2"]
    found: dict[float | tuple[int, ...], set[Plan]] = {}
    for other in (conv, *(sized(conv, size) for size in SIZES)):
        if other is not None:
            found.setdefault(kind(other), set()).add(choose(other, target, True, True))
    assert max(len(usual(plans)) for plans in found.values()) <= 1, found


@pytest.mark.parametrize(
    ("line", "tiny", "small", "large"),
    [
        ("conv2d 1x8x9x9 o8 k3 p1", "3x3", "7x7", "32x32"),
        ("conv2d 3x8x9x9 o8 k3 s2 p1", "5x5", "13x13", "63x63"),
        ("conv2d 1x8x9x9 o8 k5 d2", "11x11", "15x15", "40x40"),
        ("conv2d 1x8x9x9 o8 k5 d12 p24", "3x3", "7x7", "47x47"),
        ("conv2d 1x8x9x9 o8 k5 d8x1 p16x2", "3x3", "7x7", "44x32"),
        ("conv2d 1x8x9x9 o8 k5 d6 p12", "3x3", "7x7", "48x48"),
        ("tconv2d 1x8x9x9 o8 k2 s2", "3x3", "7x7", "16x16"),
        ("tconv2d 1x8x9x9 o8 k4 s4", "3x3", "7x7", "16x16"),
        ("conv1d 1x8x50 o8 k3 p1", "9", "49", "1024"),
        ("conv3d 1x8x5x5x5 o8 k3 p1", "2x2x2", "3x3x3", "7x12x12"),
        ("conv2d 1x8x12x12 o8 k3 p9 reflect", "16x16", "16x16", "16x16"),
    ],
)
def test_typical_sizes(line: str, tiny: str, small: str, large: str) -> None:
    """About 9 outputs a channel for what has no more than 12, 49 for no more than 60, else about
    1024, of a transposed layer so many inputs; one image.
    """
    given = Conv.parse(line)
    every = [conv for size in range(1, 51) if (conv := sized(given, size))]
    every.append(given.with_size(500) if given.dims == 1 else every[-1])
    small_one = next(c for c in every if prod(a.out / a.up for a in c.axes) > SCANT)
    for conv, want in ((every[0], tiny), (small_one, small), (every[-1], large)):
        layer = typical(conv)
        assert "x".join(str(axis.size) for axis in layer.axes) == want
        assert replace(layer, n=conv.n, axes=conv.axes) == conv
        assert layer.n == 1


def test_where_small_and_middling_end() -> None:
    conv = Conv.parse("conv2d 1x8x6x10 o8 k3 p1")
    assert typical(conv).axes[0].out ** 2 == SMALL
    assert typical(conv.with_size(7, 9)).axes[0].out ** 2 == MIDDLE
    assert typical(conv.with_size(10, 10)).axes[0].out ** 2 == MIDDLE
    assert typical(conv.with_size(10, 11)).axes[0].out ** 2 == LARGE
    conv = Conv.parse("tconv2d 1x8x6x10 o8 k2 s2")
    assert typical(conv).axes[0].size ** 2 == SMALL
    assert typical(conv.with_size(7, 9)).axes[0].size ** 2 == MIDDLE
    assert typical(conv.with_size(10, 11)).axes[0].out ** 2 == LARGE
    conv = Conv.parse("conv2d 1x8x10x10 o8 k15 p7 g8")  # depthwise with many taps
    assert typical(conv).axes[0].out ** 2 == MIDDLE
    assert typical(conv.with_size(10, 11)).axes[0].out ** 2 == HALF
    assert typical(conv.with_size(20, 25)).axes[0].out ** 2 == HALF < NEARLY == 20 * 25
    assert typical(conv.with_size(20, 26)).axes[0].out ** 2 == WHOLE
    conv = Conv.parse("conv1d 1x8x64 o8 k3 p1")
    assert typical(conv).axes[0].out == MIDDLE
    assert typical(conv.with_size(65)).axes[0].out == LARGE
    assert typical(Conv.parse("conv1d 1x8x80 o8 k3 p1 g8")).axes[0].out == MIDDLE
    conv = Conv.parse("conv3d 1x8x2x7x7 o8 k3 p1")  # flat volumes only have a middle
    assert tuple(axis.out for axis in typical(conv).axes) == FLAT
    assert tuple(axis.out for axis in typical(conv.with_size(7, 2, 7)).axes) == FLAT
    assert tuple(axis.out for axis in typical(conv.with_size(3, 5, 5)).axes) == VOLUME
    assert tuple(axis.out for axis in typical(conv.with_size(2, 7, 8)).axes) == (2, 19, 19)


@pytest.mark.parametrize(
    ("line", "outs"),
    [
        ("conv2d 1x1x49x10 o64 k10x4 s2 p4x1", (156, 5)),  # bands of a spectrogram
        ("conv2d 1x8x1x2000 o8 k1x9 p0x4", (1, 784)),
        ("conv2d 1x8x61x1 o8 k3 p1", (784, 1)),
        ("conv2d 1x8x100x3 o8 k3 p1", (196, 4)),
        ("conv2d 1x8x100x3 o8 k3 p3 d3", (196, 4)),
        ("conv2d 1x8x2x45 o8 k3 p20 d20", (7, 7)),  # taps too far apart along the long axis
        ("conv2d 1x8x2x400 o8 k3x1 p40x0 d40x1", (2, 392)),
        ("tconv2d 1x8x2x100 o8 k4 s2 p1", (4, 784)),
        ("conv2d 1x8x6x10 o8 k3 p1", (7, 7)),  # which is small
        ("conv2d 1x8x7x100 o8 k3 p1", (32, 32)),
        ("conv3d 1x8x4x20x20 o8 k3 p1", (4, 14, 14)),
        ("conv3d 1x8x9x2x200 o8 k3 p1", (19, 2, 19)),
        ("conv3d 1x8x2x7x7 o8 k3 p1", FLAT),
        ("conv3d 1x8x5x6x6 o8 k3 p1", VOLUME),  # no axis is longer
    ],
)
def test_what_is_thin(line: str, outs: tuple[int, ...]) -> None:
    layer = typical(Conv.parse(line))
    assert tuple(axis.out for axis in layer.axes) == outs


def test_the_same_plan_for_any_number_of_threads() -> None:
    """Nor by cache, which only says how much a thread takes at a time."""
    x, w = np.ones((2, 5, 40, 40), "float32"), np.ones((20, 5, 3, 3), "float32")
    plans = set[Plan]()
    for count in (1, 2, 5):
        with threads(count), recording() as jobs:
            forget()
            konv.conv2d(x, w)
            plans.add(recorded[Conv.of(x.shape, 20, 3)])
            assert [job.threads for job in jobs] == [count]
    assert len(plans) == 1
    target = llvm.detect()
    for conv in PROBLEMS:
        small = choose(conv, replace(target, l2=1), True, True)
        assert small == choose(conv, replace(target, l2=2**40), True, True)


def test_plans_have_no_field_for_it() -> None:
    assert {field.name for field in fields(Plan)} == {
        "algorithm", "dtype", "packed", "blocked", "pixels", "vectors", "tail", "odd", "depth",
        "alignment", "form", "activation", "slope", "residual",
    }  # fmt: skip


# The cheapest


@pytest.mark.usefixtures("remembered")
def test_the_cheapest_is_chosen() -> None:
    """Of the first plans of all that do not refuse the layer at its typical size."""
    layers = {typical(conv): conv for conv in PROBLEMS}  # one of those that look alike
    for target, (layer, conv), layouts in product(TARGETS.values(), layers.items(), LAYOUTS):
        costs = dict[Plan, float]()
        for algorithm in ALGORITHMS:
            if algorithm.why_not(layer, target) is None:
                for plan in algorithm.plans(layer, target, *layouts)[:1]:
                    costs[plan] = algorithm.cost(layer, plan, target)
        found = choose(conv, target, *layouts)
        for plan in sorted(costs, key=lambda plan: costs[plan]):
            if plan.algorithm not in PRODUCTS or plan.algorithm == found.algorithm:
                break
            # The image is smaller than it was chosen for.
            own = (by_name(each.algorithm).cost(conv, each, target) for each in (plan, found))
            assert next(own) >= next(own), f"{conv}: {plan}, {found}"
            del costs[plan]
        if found.algorithm in ("planes", "fourier", *PRODUCTS):  # perhaps for the first of them
            found = next(plan for plan in costs if plan.algorithm == found.algorithm)
        assert costs[found] == min(costs.values()), f"{conv}: {costs}"


def takes(algorithm: Algorithm, conv: Conv) -> bool:
    """Whether it may be chosen for contiguous images."""
    layer, target = typical(conv), llvm.detect()
    if algorithm.why_not(layer, target) is not None:
        return False
    return bool(algorithm.plans(layer, target, True, True))


def test_the_more_special_of_equals(monkeypatch: pytest.MonkeyPatch) -> None:
    for algorithm in ALGORITHMS:
        monkeypatch.setattr(algorithm, "cost", lambda *_: 1.0)
    for conv in PROBLEMS:
        takers = [a.name for a in ALGORITHMS if takes(a, conv)]
        assert choose(conv, llvm.detect(), True, True).algorithm == takers[0]


def test_a_lower_cost_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each algorithm is chosen wherever its own model says so, and never where it refuses."""
    for algorithm in ALGORITHMS:
        with monkeypatch.context() as patch:
            patch.setattr(algorithm, "cost", lambda *_: 0.0)
            for conv in PROBLEMS:
                found = choose(conv, llvm.detect(), True, True)
                assert (found.algorithm == algorithm.name) == takes(algorithm, conv)


@pytest.mark.usefixtures("remembered")
def test_every_algorithm_is_chosen_for_some_problem() -> None:
    chosen = {choose(c, llvm.detect(), *pair).algorithm for c in PROBLEMS for pair in LAYOUTS}
    assert chosen == {algorithm.name for algorithm in ALGORITHMS}


# Precision


class Rough:
    """Direct, told to be an algorithm whose error bound is larger."""

    name, exact, words = "rough", False, direct.words
    emit, work, packing, blocks = map(
        staticmethod, (direct.emit, direct.work, direct.packing, direct.blocks)
    )

    def why_not(self, conv: Conv, target: Target) -> str | None:
        return None

    def cost(self, conv: Conv, plan: Plan, target: Target) -> float:
        return 1.0

    def plans(self, conv: Conv, target: Target, *layouts: bool) -> tuple[Plan, ...]:
        return tuple(replace(p, algorithm="rough") for p in direct.plans(conv, target, *layouts))


@pytest.fixture
def rough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.kernels, "ALGORITHMS", (Rough(), *ALGORITHMS))


def chosen() -> str:
    return choose(PROBLEMS[0], llvm.detect(), True, True).algorithm


@pytest.mark.usefixtures("rough")
def test_exact_forbids_what_is_rough() -> None:
    assert (current_precision(), chosen()) == ("fast", "rough")
    with precision("exact"):
        assert current_precision() == "exact"
        assert by_name(chosen()).exact
        with precision("fast"):
            assert chosen() == "rough"
        assert by_name(chosen()).exact
    assert chosen() == "rough"


@pytest.mark.usefixtures("remembered")
def test_choices_are_all_the_plans_of_a_layer() -> None:
    """At whatever size. Images that are thin along an axis, of which there are many kinds, have two
    more at most.
    """
    for conv, layouts in product(PROBLEMS, LAYOUTS):
        every = choices(conv, llvm.detect(), *layouts)
        others = filter(None, (conv, *(sized(conv, size) for size in SIZES)))
        assert {choose(other, llvm.detect(), *layouts) for other in others} <= set(every)
        dilated = any(axis.dilation > 1 for axis in conv.axes)
        most = 4 + 2 * (conv.dims > 1) + dilated * len(SPREADS) + of_many_taps(conv)
        assert 1 <= len(usual(set(every))) <= most


def test_as_a_function() -> None:
    """It holds from there on; another call puts it back."""
    with precision("fast"):
        konv.precision("exact")
        assert current_precision() == "exact"
        konv.precision("fast")
        assert current_precision() == "fast"
        konv.precision("exact")
    assert current_precision() == "fast"


def test_an_error_in_the_block_puts_it_back() -> None:
    with pytest.raises(KeyError), precision("exact"):
        raise KeyError
    assert current_precision() == "fast"


def test_belongs_to_the_thread_that_set_it() -> None:
    seen = dict[str, str]()
    inside, checked = threading.Event(), threading.Event()

    def exact() -> None:
        precision("exact")
        inside.set()
        checked.wait(10)
        seen["own"] = current_precision()

    def other() -> None:
        inside.wait(10)
        seen["other"] = current_precision()
        checked.set()

    crowd = [threading.Thread(target=f) for f in (exact, other)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert seen == {"own": "exact", "other": "fast"}
    assert current_precision() == "fast"


def test_belongs_to_the_task_that_set_it() -> None:
    async def one(mode: Any) -> str:
        with precision(mode):
            await asyncio.sleep(0.001)
            return current_precision()

    async def both() -> list[str]:
        return list(await asyncio.gather(one("exact"), one("fast"), one("exact")))

    assert asyncio.run(both()) == ["exact", "fast", "exact"]


@pytest.mark.parametrize("mode", ["Exact", "", None, 1, "high", ["exact"]])
def test_bad_mode(mode: Any) -> None:
    with pytest.raises(ProblemError, match=r'is no precision\. Use "exact" or "fast"\.'):
        precision(mode)
    assert current_precision() == "fast"
