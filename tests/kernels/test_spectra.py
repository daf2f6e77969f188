"""Many taps along both axes by Fourier transforms of squares: right, the same bits however it is
cut, and when not.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from unittest.mock import patch

import numpy as np
import pytest
from functional.check import check, forget, pinned, plans, threads
from functional.forms import numbers
from kernels.cases import case_of, every_layout
from kernels.layers import TARGETS

from konv import llvm
from konv.geometry import Conv
from konv.kernels import spectra
from konv.kernels.fourier.lengths import SQUARES
from konv.kernels.spectra import cut
from konv.kernels.strips.job import JOB
from konv.runtime import execute, weights

# Tiles that fill register tiles and not, fewer channels in than lanes and a tail of them, a tail of
# outputs, blocks of one vector, taps that lie apart, more taps than pixels, padding that crops
LAYERS = [
    "conv2d 2x3x29x50 o35 k9 p4",
    "conv2d 1x1x17x13 o16 k6 p2",
    "conv2d 1x2x20x40 o20 k7 p3",
    "conv2d 2x17x21x31 o70 k7x9 p3x4",
    "conv2d 1x33x40x23 o40 k6 p3",
    "conv2d 1x66x20x31 o40 k9x7 p4x3 g2",
    "conv2d 1x6x20x31 o40 k8x7 p4x3 g2",
    "conv2d 1x16x24x23 o48 k6x7 p4 d2x1",
    "conv2d 1x16x5x9 o16 k7 p6",
    "conv3d 1x5x3x20x21 o20 k1x7x7 p1x3x3",
    "tconv2d 1x18x20x19 o33 k7 p3",
    "tconv2d 1x18x20x19 o33 k7 p8",
    "tconv2d 1x6x20x19 o40 k7 p3 g2",
]
every_layer = pytest.mark.parametrize("line", LAYERS)


@every_layout
@every_layer
def test_results(line: str, layouts: tuple[bool, bool]) -> None:
    """Right, and the same bits for any threads, and so units."""
    case = case_of(line, layouts)
    with pinned(spectra):
        with threads(1):
            once = numbers(check(case))
        for count in (2, 5):
            forget()
            with threads(count):
                assert np.array_equal(once, numbers(check(case))), f"{case}: other bits"


@pytest.mark.parametrize("length", SQUARES)
def test_every_length(length: int) -> None:
    """Whichever is cheapest."""
    case = case_of("conv2d 1x17x41x60 o35 k9 p4", (True, True))
    others = {other: (10.0**6,) * 2 for other in cut.TIMES if other != length}
    with patch.dict(cut.TIMES, others), pinned(spectra):
        check(case)
        (plan,) = spectra.plans(case.conv, llvm.detect(), True, True)
        assert plan.form[-1] == length


def test_lengths_are_those_that_have_been_measured() -> None:
    assert set(cut.TIMES) == set(SQUARES)


@every_layout
@pytest.mark.parametrize("line", ["conv2d 2x20x23x90 o70 k7", "conv2d 1x6x60x61 o36 k9 p4 g2"])
def test_boxes_and_ranges(line: str, layouts: tuple[bool, bool]) -> None:
    """Parts of rows of tiles, some rows of several, and ranges of the outputs of groups."""
    case = case_of(line, layouts)
    with pinned(spectra), threads(1):
        once = numbers(check(case))
    plan, target = plans[case.conv], llvm.detect()
    rows, columns = cut.tiles_of(case.conv, plan)
    shapes = {(rows, columns), (1, columns), (1, max(1, columns // 2)), (1, 1)}
    for (high, wide), vectors in product(sorted(shapes), (plan.vectors, 8 * plan.vectors)):
        forget()
        shape = cut.Cut(high, wide, vectors)
        with (
            patch.object(cut, "cut_of", lambda *_, shape=shape: shape),
            patch.object(execute, "choose", lambda *_: plan),
            threads(2),
        ):
            strides = (1,) * (2 + case.conv.dims)
            words = spectra.work(case.conv, plan, target, strides, strides, 2).words
            found = dict(zip(JOB, words, strict=True))
            assert found["boxes1"] * found["boxes2"] == -(-rows // high) * -(-columns // wide)
            assert np.array_equal(once, numbers(check(case))), f"{case}: other bits"
    forget()


def test_few_tiles_share_out_channels() -> None:
    """Where there are less tiles than threads, each has some of the outputs."""
    conv = Conv.parse("conv2d 1x80x13x13 o512 k7 p3")
    (plan,) = spectra.plans(conv, llvm.detect(), True, True)
    plan = spectra.for_image(conv, plan, llvm.detect())
    assert cut.tiles_of(conv, plan) == (1, 1)
    for count in (1, 4):
        found = cut.cut_of(conv, plan, llvm.detect(), count)
        vectors = -(-conv.co // llvm.detect().lanes(conv.dtype))
        assert -(-vectors // found.vectors) == count
        assert found.vectors % plan.vectors == 0


@pytest.mark.parametrize(
    "line", ["conv2d 1x3x3000x120 o64 k9 p4", "conv2d 1x32x6000x480 o32 k15 p7"]
)
def test_tall_images_are_cut(line: str) -> None:
    """There are more rows of tiles than heights of units that are weighed."""
    conv = Conv.parse(line)
    for target, l2 in product(TARGETS.values(), (1, 2**19, 2**21, 2**40)):
        sized = replace(target, l2=l2)
        (plan,) = spectra.plans(conv, sized, True, True)
        for count in (1, 2, 64):
            found = cut.cut_of(conv, plan, sized, count)
            assert found.high * found.wide <= max(cut.BOX, cut.MANY)


def test_deep_layers_keep_scratch_bounded() -> None:
    """Fewer tiles of a unit, or another algorithm."""
    target, conv = TARGETS["avx512"], Conv.parse("conv2d 1x1000x60x60 o16 k31")
    (plan,) = spectra.plans(conv, target, True, True)
    for each in spectra.of_other_images(conv, plan):
        work = spectra.work(conv, each, target, (1,) * 4, (1,) * 4, 2)
        assert work.scratch < 1.2 * cut.HELD, f"{conv}: {work.scratch}"
    assert "MiB of pixels" in str(spectra.why_not(replace(conv, ci=9532), target))


def test_weights_beyond_the_cache_are_read_for_many_tiles() -> None:
    conv, target = Conv.parse("conv2d 1x64x200x200 o64 k7 p3"), TARGETS["avx512"]
    target = replace(target, l2=2 << 20)
    (plan,) = spectra.plans(conv, target, True, True)
    found = cut.cut_of(conv, plan, target, 2)
    assert cut.MANY // 2 < found.high * found.wide <= cut.MANY
    few = replace(conv, ci=3)
    (plan,) = spectra.plans(few, target, True, True)
    found = cut.cut_of(few, plan, target, 2)
    assert found.high * found.wide < cut.MANY // 2


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("conv1d 1x64x99 o64 k9", "takes 6 taps or more along rows and columns, and none"),
        ("conv2d 1x64x99x99 o64 k5x9", "takes 6 taps or more along rows and columns, and none"),
        ("conv3d 1x64x9x99x99 o64 k3x9x9", "takes 6 taps or more along rows and columns, and none"),
        ("conv2d 1x64x99x99 o64 k9 f64", "takes float32 only, whose errors it is measured for"),
        ("conv2d 1x64x99x99 o64 k9 s2", "takes steps of one only"),
        ("tconv2d 1x64x99x99 o64 k9 s2", "takes steps of one only"),
        (
            "conv2d 1x64x99x99 o64 k9x45",
            "takes taps that reach over 43 pixels at most a side; here 9 x 45",
        ),
        ("conv2d 1x64x99x99 o3 k9", "channels out a group or more; here 3"),
        (
            "conv2d 1x2048x99x99 o2048 k9",
            "takes 256 MiB of transformed weights and 64 MiB of pixels under 6 tiles at most",
        ),
        ("conv2d 1x1x99x99 o64 k43x6", None),
    ],
)
def test_why_not(line: str, why: str | None) -> None:
    says = spectra.why_not(Conv.parse(line), llvm.detect())
    assert says == why or (why and says and why in says)


@every_layer
def test_cost_and_memory(line: str) -> None:
    """Cost grows with the image, not with the batch; packed weights are as long as said."""
    conv, target = Conv.parse(line), llvm.detect()
    (plan,) = spectra.plans(conv, target, True, True)
    once = spectra.cost(conv, plan, target)
    assert once == spectra.cost(conv.with_batch(7), plan, target)
    larger = conv.with_size(*(axis.size + 40 for axis in conv.axes))
    assert once < spectra.cost(larger, plan, target)
    lanes, ci, co = target.lanes("float32"), conv.ci // conv.groups, conv.co // conv.groups
    outputs = conv.groups * -(-co // lanes) * lanes
    points = 2 * plan.form[-1] * (plan.form[-1] // 2 + 1) * ci
    assert weights.packed_bytes(conv, plan, target) == 64 + 4 * outputs * (points + 1)
