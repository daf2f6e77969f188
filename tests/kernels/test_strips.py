"""Depthwise kernels that work from strips: what they pack, how they cut, and all their roads."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any

import numpy as np
import pytest
from functional.case import Case
from functional.check import check, pinned, plans, small_units, threads
from functional.forms import numbers
from functional.test_invariance import result
from kernels.layers import TARGETS

from konv import llvm, prepare
from konv.arrays import dense_strides
from konv.geometry import Conv
from konv.kernels import pencils, planes
from konv.kernels.pack import HEADER
from konv.kernels.strips.costs import BROAD, DEEP_BROAD, FAR_BROAD
from konv.kernels.strips.form import ABREAST, Form, at_hand, banded, halved, stepping
from konv.kernels.strips.job import JOB
from konv.plan import Algorithm
from konv.runtime import weights
from konv.runtime.code import kernel
from konv.runtime.typical import typical

# Algorithm, layouts, forms of the arrays, number of the plan
ROADS: dict[str, tuple[Any, tuple[bool, bool], str, int]] = {
    "planes": (planes, (True, True), "", 0),
    "planes, other plan": (planes, (True, True), "", 1),
    "planes, third plan": (planes, (True, True), "", 2),
    "pencils": (pencils, (False, False), "x=last out=last", 0),
    "pencils, second plan": (pencils, (False, False), "x=last out=last", 1),
    "pencils, third plan": (pencils, (False, False), "x=last out=last", 2),
    "pencils, packed": (pencils, (True, False), "out=last", 0),
    "pencils, blocked": (pencils, (False, True), "x=last out=contiguous", 0),
    "pencils, both": (pencils, (True, True), "", 0),
}
every_road = pytest.mark.parametrize("road", ROADS)

# Two tiles and a tail of rows, columns and vectors of channels each, for 16 lanes and 7 outputs;
# maps smaller than a tile; every step; taps that miss the image; more channels out than in.
MAPS = [
    "conv2d 2x35x17x35 o35 k3 p1 g35",
    "conv2d 1x18x33x70 o18 k3 s2 p1 g18",
    "conv2d 1x18x15x116 o18 k5 p2 g18",
    "conv2d 1x17x7x7 o17 k3 p1 g17",
    "conv2d 1x33x3x5 o33 k7 p3 g33",
    "conv2d 1x16x16x34 o16 k7 p3 g16",
    "conv2d 1x19x40x36 o19 k3 p2 d2 g19",
    "conv2d 1x19x20x36 o19 k3 s2 p3 d3 g19",
    "conv2d 1x17x90x44 o17 k3 s2 p1 g17",
    "conv2d 1x17x70x19 o17 k3x2 p3x1 d2x1 g17",
    "conv2d 1x19x20x36 o19 k4x3 s3x1 p2:1x0:3 d2x1 g19",
    "conv2d 1x17x9x40 o17 k1x5 s1x2 p0x2 g17",
    "conv2d 1x17x40x9 o17 k5x1 s2x1 p2x0 g17",
    "conv2d 2x17x29x5 o17 k9x1 s2x1 p8:0x0 d2x1 g17",
    "conv2d 1x33x20x9 o33 k13x1 s1x2 p6x1 g33",
    "conv2d 1x17x9x50 o17 k3x37 p1x18 g17",
    "conv2d 1x19x81x5 o19 k31x1 p40x0 d2x1 g19",
    "conv2d 1x33x31x33 o33 k13 p6 g33",
    "conv2d 1x16x40x40 o16 k31 p15 g16",
    "conv2d 1x16x8x9 o16 k11x9 s2x1 p9:2x4:8 g16",
    "conv2d 1x17x14x15 o34 k3 p1 g17",
    "conv2d 1x9x23x37 o18 k5x7 s2 p2x3 g9",
    "conv2d 1x17x28x43 o17 k5 p4 d2 g17",
    "conv1d 1x17x300 o17 k3 p1 g17",
    "conv1d 1x17x2500 o17 k9 s2 p8:0 d3 g17",
    "conv1d 2x17x190 o17 k41 s2 p20 g17",
    "conv1d 1x17x400 o17 k37 d3 p50 g17",
    "conv3d 1x17x6x9x20 o17 k3 p1 g17",
    "conv3d 1x17x6x11x20 o17 k3x4x4 p1x2x1 g17",
    "conv3d 1x17x3x5x20 o17 k1x3x3 p2 g17",
    "conv3d 1x16x7x8x19 o16 k2x3x5 s2x1x2 p1x0x2 d1x2x1 g16",
    "tconv2d 1x18x17x35 o18 k3 p1 g18",
    "tconv2d 1x18x23x5 o18 k9x1 p4x0 g18",
]
every_map = pytest.mark.parametrize("line", MAPS)


def takes(line: str, road: str, dtype: str = "float32") -> tuple[Case, Algorithm] | None:
    """The case in the layout of a road, if its algorithm takes it, and has so many plans."""
    algorithm, layouts, forms, which = ROADS[road]
    conv, target = replace(Conv.parse(line), dtype=dtype), llvm.detect()
    refused = algorithm.why_not(conv, target) is not None
    if refused or len(algorithm.plans(conv, target, *layouts)) <= which:
        return None
    return Case.parse(f"{conv} / bias=contiguous {forms}"), algorithm


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@every_road
@every_map
def test_maps(line: str, road: str, dtype: str) -> None:
    """Right, in units of any size, and the same bits in all of them."""
    found = takes(line, road, dtype)
    if found is None:
        assert road != "planes", "planes take all of them"
        return
    case, algorithm = found
    with pinned(algorithm, ROADS[road][3]):
        with threads(1):
            once = numbers(check(case))
        assert plans[case.conv].algorithm == algorithm.name
        for count, pixels in ((2, 16), (3, 100), (2, 100_000)):
            with threads(count), small_units(pixels):
                assert np.array_equal(once, numbers(check(case))), f"{case}: other bits"


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@every_road
@every_map
def test_modes(line: str, road: str, mode: Any) -> None:
    """Padding that is not zeros comes from the strip."""
    found = takes(line, road)
    if found is None or found[0].conv.transposed:
        return
    case, algorithm = found
    try:
        case = replace(case, conv=replace(case.conv, mode=mode))
    except ValueError:  # the image has too little for the mode
        return
    with pinned(algorithm, ROADS[road][3]):
        check(case)


@every_road
@every_map
def test_strips_and_images_give_the_same_bits(line: str, road: str) -> None:
    """A weight that is not finite sends all through the strip; other channels keep their bits."""
    found = takes(line, road)
    if found is None:
        return
    case, algorithm = found
    x, w, b = case.arrays()
    with pinned(algorithm, ROADS[road][3]), threads(2):
        once = result(case, x, w, b)
        broken = w.copy()
        broken[0] = np.inf
        got = result(case, x, broken, b)
    one = case.conv.co // case.conv.ci
    assert got[:, one:].tobytes() == once[:, one:].tobytes()
    assert not np.isfinite(got[:, :1]).all()


FEW_TAPS = ["k3 p1", "k3 s2 p1", "k2", "k3x2 p3x1", "k2x4 s1x2 p0:1x2:5", "k3 p2 d2", "k3 s2 p3 d3"]
MORE_TAPS = [
    "k5 p2",
    "k4 p1:2 d2",
    "k3x9 s1x2 p1x4",
    "k3x3x3 p1",
    "k3x3x3 s1x2x2 p1",
    "k2x3x3 p1 d2",
]


@pytest.mark.parametrize("size", ["4x5", "7x16", "9x17", "21x40", "5x300", "64x64"])
@pytest.mark.parametrize("form", FEW_TAPS + MORE_TAPS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_plan_of_planes_changes_bits(size: str, form: str, dtype: str) -> None:
    """Bands neither those of what slides nor of tiles: they go where there are many columns, of
    some layers fewer. Nor tiles of half vectors, which go where there are few.
    """
    target, deep = llvm.detect(), form.split()[0].count("x") > 1
    text = f"conv3d 2x18x3x{size}" if deep else f"conv2d 2x18x{size}"
    conv = replace(Conv.parse(f"{text} o18 {form} g18"), dtype=dtype)
    offered = planes.plans(conv, target, True, True)
    if not any(map(banded, offered)):
        assert target.vector_bytes < 32, "no plan has bands"
        return
    row = conv.axes[-1]
    assert banded(offered[0]) == (row.size >= (DEEP_BROAD if deep else BROAD))
    if at_hand(offered[0]):
        far = planes.plans(conv.with_size(1000, FAR_BROAD), target, True, True)
        assert banded(far[0])
        if not stepping(offered[0]):  # the order of what slides is not that of tiles
            few = row.out < ABREAST * target.lanes(dtype)
            offered = tuple(plan for plan in offered if not (banded if few else halved)(plan))
    case, bits = Case(conv, bias="contiguous", whole=False), set[bytes]()
    every = planes.plans(typical(conv), target, True, True)
    for plan in offered:
        with pinned(planes, every.index(plan)), small_units() if banded(plan) else nullcontext():
            bits.add(numbers(check(case)).tobytes())
            check(replace(case, activation="relu", residual="out", out="contiguous"))
    assert len(bits) == 1


@pytest.mark.parametrize("form", ["steps", "inside"])
@every_map
def test_strided_inputs(line: str, form: str) -> None:
    """Columns that do not lie side by side come through the strip, too."""
    case = Case.parse(f"{line} / bias=contiguous x={form} out=contiguous")
    with pinned(planes):
        check(case)


@every_road
@pytest.mark.parametrize("line", MAPS[::3])
def test_packing(line: str, road: str) -> None:
    """Taps of a line together, the axis across outside the axis along, then all biases."""
    found = takes(line, road)
    if found is None:
        return
    conv, target = found[0].conv, llvm.detect()
    _, layouts, *_ = ROADS[road]
    plan, *_ = found[1].plans(conv, target, *layouts)
    rng = np.random.default_rng(0)
    w = rng.permutation(conv.params).astype(conv.dtype).reshape(conv.weight_shape) + 1
    bias = -1 - np.arange(conv.co, dtype=conv.dtype)
    strides = tuple(s // w.itemsize for s in w.strides)
    packed = weights.pack(conv, plan, kernel(plan), w.ctypes.data, strides, bias.ctypes.data)
    begin = packed.address - packed.array.ctypes.data
    got = packed.array[begin + HEADER : begin + packed.size].view(conv.dtype)
    flat = w[:, 0] if not conv.transposed else np.flip(w[:, 0], axis=range(1, w.ndim - 1))
    taps = flat.reshape(conv.co, *(1,) * (3 - conv.dims), *flat.shape[1:])
    if found[1] is planes:  # rows run fastest
        want = [taps.swapaxes(2, 3).ravel(), bias]
    else:
        lanes = target.lanes(conv.dtype)
        firsts = [min(k, conv.co - lanes) for k in range(0, conv.co, lanes)]
        own = taps.reshape(conv.co, -1)
        want = [own[k : k + lanes].T.ravel() for k in firsts]
        want += [bias[k : k + lanes] for k in firsts]
    assert np.array_equal(got, np.concatenate(want))
    assert packed.array[begin : begin + 8].view(np.int64)[0] == 1


@pytest.mark.parametrize("count", [1, 2, 13])
@every_road
@every_map
def test_all_work_once(line: str, road: str, count: int) -> None:
    """Every image, line and output by exactly one unit, and strips that hold what tiles read."""
    found = takes(line, road)
    if found is None:
        return
    conv, target = found[0].conv, llvm.detect()
    _, layouts, *_ = ROADS[road]
    plans = found[1].plans(conv, target, *layouts)
    for pixels, plan in product((16, 300, 10**6), plans):
        with small_units(pixels):
            work = found[1].work(conv, plan, target, *strides_of(conv, layouts), count)
        words = dict(zip(JOB, work.words, strict=True))
        out = [words[f"out{a}"] for a in range(3)]
        done = np.zeros((conv.n, words["lines"], *out), np.int8)
        box = [words[f"box{a}"] for a in range(3)]
        boxes = [range(0, out[a], box[a]) for a in range(3)]
        assert [len(b) for b in boxes] == [words[f"boxes{a}"] for a in range(3)]
        chunks = range(0, words["lines"], words["chunk"])
        assert words["units"] == conv.n * words["chunks"] * prod(map(len, boxes))
        assert len(chunks) == words["chunks"]
        for n, line0, z, y, x in product(range(conv.n), chunks, *boxes):
            done[
                n, line0 : line0 + words["chunk"], z : z + box[0], y : y + box[1], x : x + box[2]
            ] += 1
        assert (done == 1).all()
        holds(plan, target, words, box)


def holds(plan: Any, target: Any, words: dict[str, int], box: list[int]) -> None:
    """The last slot that a tile of the largest unit reads lies in the strip."""
    if plan.algorithm == planes.name:
        target = planes.as_seen(plan, target)
    form = Form.of(plan, target.lanes(plan.dtype))
    slots = [form.slots(a, box[a]) for a in range(3)]
    u = form.along
    tile = plan.pixels * form.apart
    ends = -(-box[u] // tile) * tile + form.apart - 1
    deepest = list(slots)
    deepest[u] = form.slots(u, ends)
    room = (words["at_dump"] - words["at_strip"]) // (4 if plan.dtype == "float32" else 8)
    if form.planes:
        row = form.row(plan.pixels == 1)
        last = ((slots[0] - 1) * slots[1] + deepest[1]) * row
    else:
        last = (slots[0] - 1) * slots[1] * slots[2] + (slots[1] - 1) * slots[2] + deepest[2]
        last *= form.lanes
    assert last <= room, f"a strip holds {room} numbers, a tile reads {last}"


@pytest.mark.parametrize("size", ["7x7", "14x5", "6x4", "9x3", "16x7", "28x28"])
def test_residual_in_place(size: str) -> None:
    """Rows narrower than a vector are stored over the ends of each other, and what is added to them
    may lie where they go.
    """
    conv = Conv.parse(f"conv2d 1x18x{size} o18 k3 p1 g18")
    draw = np.random.default_rng(0)
    x, w, r = (
        draw.standard_normal(shape).astype("float32")
        for shape in (conv.in_shape, conv.weight_shape, conv.out_shape)
    )
    layer = prepare(conv, w, plan="planes")
    apart, into = layer(x, residual=r), r.copy()
    layer(x, out=into, residual=into)
    assert np.array_equal(apart, into)
    assert np.allclose(apart, layer(x) + r, atol=1e-5)


def strides_of(conv: Conv, layouts: tuple[bool, bool]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of a dense input and output."""
    return (
        dense_strides(conv.in_shape, not layouts[0]),
        dense_strides(conv.out_shape, not layouts[1]),
    )


def test_cost_grows_with_the_work() -> None:
    """And is the same for any batch."""
    target = llvm.detect()
    for algorithm, layouts, *_ in ROADS.values():
        small = Conv.parse("conv2d 1x32x28x28 o32 k9 p4 g32")
        for plan in algorithm.plans(small, target, *layouts):
            once = algorithm.cost(small, plan, target)
            assert once > 0
            assert algorithm.cost(small.with_batch(5), plan, target) == once
            assert algorithm.cost(small.with_size(56, 56), plan, target) > 3 * once


FAR = "takes up to 31 taps a column and rows of taps over 256 columns; here more"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("conv2d 1x8x9x9 o8 k3", "takes one input channel a group; here 8"),
        ("tconv2d 1x8x9x9 o8 k3 s2 g8", "takes no transposed layer with a stride"),
        ("conv2d 1x8x9x9 o8 k3 s3 g8", "takes strides of 1 and 2 along the last axis; here 3"),
        ("conv2d 1x8x99x99 o8 k33 g8", FAR),
        (
            "conv1d 1x8x999 o8 k3 d200 g8",
            FAR,
        ),
        ("conv2d 1x8x9x9 o16 k3 g8", None),
    ],
)
def test_why_planes_do_not(line: str, why: str | None) -> None:
    assert planes.why_not(Conv.parse(line), llvm.detect()) == why


@pytest.mark.parametrize(
    ("taps", "layouts"), [("k3x19", (True, True)), ("k3", (True, True)), ("k35x1", (True, False))]
)
def test_no_pencils(taps: str, layouts: tuple[bool, bool]) -> None:
    """Few taps between contiguous images, and long columns that cannot be turned."""
    conv = Conv.parse(f"conv2d 1x64x60x60 o64 {taps} g64")
    assert pencils.why_not(conv, TARGETS["avx2"]) is None
    assert not pencils.plans(conv, TARGETS["avx2"], *layouts)
    assert pencils.plans(conv, TARGETS["avx2"], False, False)


@pytest.mark.parametrize(
    ("line", "cpu", "layouts", "form"),
    [
        ("k21x1 p10x0", "avx2", (False, False), (1, 1, 21, 1)),  # turned, and read where it lies
        ("k1x21 p0x10", "avx2", (False, False), (1, 1, 21, 1)),
        ("k5x1 p2x0", "avx2", (False, False), (1, 1, 5, 1)),
        ("k3x1 p1x0", "avx2", (False, False), (1, 3, 1, 1)),
        ("k21x1 p10x0", "avx2", (True, False), (1, 21, 1, 0)),  # a row of the image is a row
        ("k7 p3", "avx2", (False, False), (1, 7, 7, 1)),
        ("k9 p4", "avx2", (False, False), (1, 9, 9, 0)),  # many rows of many taps: a strip
        ("k9 p4", "avx512", (False, False), (1, 9, 9, 0)),
        ("k1x21 p0x10", "avx2", (True, True), (1, 1, 21, 0)),
        ("k5 p2", "avx2", (True, True), (1, 5, 5, 1)),  # in a strip, whose padding is left out
    ],
)
def test_how_pencils_read(
    line: str, cpu: str, layouts: tuple[bool, bool], form: tuple[int, ...]
) -> None:
    """Taps and whether the image is read where it lies; small maps are with AVX-512, whatever."""
    target = TARGETS[cpu]
    plan, *_ = pencils.plans(Conv.parse(f"conv2d 1x64x28x28 o64 {line} g64"), target, *layouts)
    assert (*plan.form[:3], plan.form[9]) == form
    small, *_ = pencils.plans(Conv.parse(f"conv2d 1x64x14x14 o64 {line} g64"), target, *layouts)
    assert small.form[9] == (form[3] or (cpu == "avx512" and not layouts[0]))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("conv2d 1x64x9x9 o128 k3 g64", "takes one channel in and out a group; here 1 and 2"),
        ("tconv2d 1x64x9x9 o64 k3 s2 g64", "takes no transposed layer with a stride"),
        (
            "conv3d 1x64x3x60x9 o64 k1x35x1 g64",
            "takes up to 31 taps down a column of a volume alone; here 35",
        ),
        ("conv2d 1x64x9x9 o64 k3 s3 g64", None),
    ],
)
def test_why_pencils_do_not(line: str, why: str | None) -> None:
    assert pencils.why_not(Conv.parse(line), llvm.detect()) == why
