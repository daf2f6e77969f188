"""What is particular to Winograd's convolution: transforms, the bound, how boxes are cut."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from functional.check import small_units, threads
from kernels.layers import TARGETS

import konv
from konv import llvm, reference, rounding
from konv.geometry import Axis, Conv
from konv.kernels import winograd
from konv.kernels.winograd.cache import SMALL
from konv.kernels.winograd.count import widths
from konv.kernels.winograd.cut import BOX, Model, even
from konv.kernels.winograd.points import Short
from konv.kernels.winograd.schedule import Lines
from konv.kernels.winograd.transforms import Transform
from konv.runtime.choose import choose, precision
from konv.target import Target

LAYERS = [
    "conv2d 1x16x20x20 o16 k3 p1",
    "conv2d 1x256x12x12 o32 k3 p1",
    "conv2d 1x16x20x20 o16 k5 p2",
    "conv1d 1x64x200 o16 k3 p1",
    "conv2d 1x16x38x38 o16 k3 s2 p1",
    "conv2d 1x64x24x24 o32 k4 s2 p1",
    "conv2d 1x16x31x31 o16 k5 s2 p2",
    "tconv2d 1x64x12x12 o16 k4 s2 p1",
    "tconv2d 1x16x12x12 o16 k3 s2 p1 r1",
    "tconv2d 1x16x15x15 o16 k5 s2 p2 r1",
    "conv3d 1x16x6x12x12 o24 k3 p1",
    "conv3d 1x32x3x14x14 o16 k1x3x3 p0x1x1",
    "tconv3d 1x16x5x12x9 o16 k5 p2",
    "conv3d 1x16x12x5x7 o16 k3x1x1",
    "conv2d 1x32x12x20 o16 k1x5 p0x2",
    "conv2d 1x16x17x17 o16 k3 p3 d3",
    "conv2d 1x16x35x35 o16 k3 p12 d12",
    "conv1d 1x64x70 o16 k3 d12",
    "conv1d 1x64x201 o24 k3 s2",
    "conv1d 2x32x163 o16 k3 s2 p1",
    "tconv1d 1x32x102 o24 k3 s2 p1",
]


def draws(conv: Conv, seed: int) -> tuple[Any, Any]:
    """Random, positive, rows of very different size, all equal."""
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal(conv.in_shape), rng.standard_normal(conv.weight_shape)
    if seed % 4 == 1:
        x, w = abs(x), abs(w)
    if seed % 4 == 2:
        x *= 10.0 ** rng.integers(-3, 4, (1, 1, conv.axes[0].size) + (1,) * (conv.dims - 1))
    if seed % 4 == 3:
        x, w = np.full_like(x, x.flat[0]), np.full_like(w, w.flat[0])
    return x.astype("float32"), w.astype("float32")


@pytest.mark.parametrize("line", LAYERS)
def test_the_bound(line: str) -> None:
    """Errors stay under half of what the constant of Winograd allows, whatever the numbers, and
    the constant is not generous: they exceed a hundredth of it.
    """
    conv, most = Conv.parse(line), 0.0
    assert winograd.why_not(conv, llvm.detect()) is None
    for seed in range(8):
        x, w = draws(conv, seed)
        y = konv.prepare(conv, w, plan="winograd")(x)
        error = abs(y - reference.im2col(conv, x, w))
        allowed = rounding.tolerance(conv, x, w, None, "winograd")
        most = max(most, float((error / allowed).max()))
    assert 0.01 < most < 0.5


@pytest.mark.parametrize(
    ("m", "r"), [(4, 3), (3, 3), (2, 3), (4, 5), (2, 5), (4, 2), (3, 2), (2, 2)]
)
def test_filters_of_a_short_convolution(m: int, r: int) -> None:
    """A polynomial's values at the points, over products of their distances; infinity last."""
    short = Short(m, r)
    rows = short.filters()
    assert len(rows) == short.n == len(short.points) + 1
    assert len(set(short.points)) == len(short.points)
    assert rows[-1] == (0.0,) * (r - 1) + (1.0,)


def test_one_tap_needs_no_points() -> None:
    assert Short(4, 1).filters() == ((1.0,),) * 4


STEPS = [(3, 1, 1, 1, 1), (3, 2, 1, 1, 0), (5, 2, 1, 2, 2), (4, 1, 2, 2, 2), (4, 1, 2, 1, 1)]
STEPS += [(3, 1, 2, 1, 2), (5, 1, 2, 2, 3), (3, 1, 2, 2, 2)]


@pytest.mark.parametrize(("r", "stride", "up", "lo", "hi"), STEPS)
@pytest.mark.parametrize("m", [2, 3, 4])
def test_the_parts_of_a_tile_are_the_axis(
    r: int, stride: int, up: int, lo: int, hi: int, m: int
) -> None:
    """Every tap of every output of a tile reads what the axis says, through one part each."""
    axis = Axis(40, r, stride, lo=lo, hi=hi, up=up)
    t = Transform.of(axis, m)
    reads = {
        (part.outputs[j], k): part.inputs[j + i]
        for part in t.parts
        for j in range(m)
        for i, k in enumerate(part.taps)
    }
    line = Lines(axis, t).lines[2]
    first, real, source = line
    assert (first, real) == (2 * t.outputs, t.outputs)
    for o in range(t.outputs):
        for k in range(r):
            at = axis.source(first + o, k)
            assert at == (source + reads[o, k] if (o, k) in reads else None)
    assert max(reads.values()) < t.inputs
    assert Lines(axis, t).lines[3][2] - source == t.step


@pytest.mark.parametrize(
    ("line", "box"),
    [
        ("conv2d 1x256x28x28 o512 k3 p1", (7, 7)),  # 1.07 to 1.19 times as fast as 4 x 7
        ("conv2d 1x512x44x44 o512 k3 p1", (3, 11)),  # 1.08 as 4 x 11: M has room beside V
    ],
)
def test_boxes_that_a_large_cache_was_measured_to_like(line: str, box: tuple[int, int]) -> None:
    """Two megabytes (Granite Rapids), two threads; with a small cache's numbers they are others."""
    conv, target = Conv.parse(line), replace(TARGETS["avx512"], l2=2 << 20)
    plan = choose(conv, target, False, False)
    cut, other = (Model(conv, plan, target, cache).best(2, 1) for cache in (None, SMALL))
    assert (cut.rows, cut.columns) == box != (other.rows, other.columns)


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize(
    "line",
    [
        *LAYERS,
        "conv2d 3x64x99x301 o64 k3 p1",
        "conv2d 2x32x40x40 o96 k3 p12 d12",
        "conv2d 0x16x9x9 o20 k3 p1",
        "conv2d 9x16x9x10 o20 k3 p1",
        "conv3d 2x256x9x40x40 o20 k3 p1",
    ],
)
def test_boxes_cover_the_grid(line: str, threads: int) -> None:
    """Whatever the threads and layouts, no box is larger than may be, and none is missing."""
    conv, target = Conv.parse(line), llvm.detect()
    for layouts in product((True, False), repeat=2):
        for plan in winograd.plans(conv, target, *layouts):
            model = Model(conv, plan, target)
            cut = model.best(threads, conv.n)
            down, along = zip(model.axes, model.transforms, strict=True)
            assert 1 <= cut.planes <= max(1, conv.n if conv.dims < 3 else model.deep.out)
            assert cut.planes * cut.rows * cut.columns <= BOX
            assert 1 <= cut.rows <= model.lines[0]
            assert 1 <= cut.columns <= model.lines[1]
            assert 1 <= cut.chunk_blocks <= model.blocks
            assert cut.cycles > 0 or not conv.n
            # As long as the model says they are.
            for axis, box in zip((down, along), (cut.rows, cut.columns), strict=True):
                lines = Lines(*axis)
                lines.cut(box)
                assert lines.box == box


def test_no_block_is_narrow_for_a_single_vector() -> None:
    """Unless there is no other: where one vector would be left, two blocks have two. Of many, both
    halves are alike.
    """
    target = TARGETS["avx2"]
    wanted = {128: [3, 3, 2, 3, 3, 2], 256: [3] * 10 + [2], 136: [3, 3, 3, 3, 3, 2]}
    wanted |= {32: [2, 2], 64: [3, 3, 2], 72: [3, 3, 3], 56: [3, 2, 2], 144: [3] * 6}
    for co, want in wanted.items():
        plan = winograd.plans(Conv.parse(f"conv2d 1x16x9x9 o{co} k3"), target, True, True)[0]
        assert widths(co // 8, plan) == want
    for target in TARGETS.values():
        for co in range(16, 400, 16):
            for plan in winograd.plans(Conv.parse(f"conv2d 1x16x9x9 o{co} k3"), target, True, True):
                vectors = -(-co // target.lanes("float32"))
                blocks = widths(vectors, plan)
                assert sum(blocks) == vectors
                assert len(blocks) == -(-vectors // plan.vectors)
                assert set(blocks) <= {plan.vectors, plan.tail}
                assert plan.tail in blocks or not plan.tail


@pytest.mark.parametrize("co", [32, 50, 64, 80, 128, 136, 250, 320])
@pytest.mark.parametrize("groups", [1, 2])
def test_narrow_blocks(co: int, groups: int) -> None:
    """Results are right whatever blocks are left, and however many a unit takes."""
    conv = Conv.parse(f"conv2d 1x{16 * groups}x14x14 o{co * groups} k3 p1 g{groups}")
    x, w = draws(conv, 0)
    close = rounding.tolerance(conv, x, w, None, "winograd")
    layer = konv.prepare(conv, w, plan="winograd")
    results = []
    for count in (1, 2, 5):
        with threads(count):
            results.append(layer(x))
    assert (abs(results[0] - reference.im2col(conv, x, w)) <= close).all()
    assert all(np.array_equal(y, results[0]) for y in results)


def test_weights_are_read_once_where_they_are_many() -> None:
    """By one thread or the other, rather than all of them by each for half of the tiles."""
    target = TARGETS["avx2"]
    for line in ("256x14x14 o256", "512x7x7 o512"):
        conv = Conv.parse(f"conv2d 1x{line} k3 p1")
        model = Model(conv, choose(conv, target, False, False), target)
        cut = model.best(2, 1)
        assert (cut.rows, cut.columns) == model.lines
        assert cut.chunk_blocks <= -(-model.blocks // 2)


@pytest.mark.parametrize(
    "line", ["16x9x10 o20 k3 p1", "16x12x9 o17 k5 p2", "20x16x16 o16 k3 s2 p1"]
)
@pytest.mark.parametrize("n", [0, 1, 2, 9])
def test_small_images_share_a_box(line: str, n: int) -> None:
    """And their results are what each is alone, whatever the memory format and the threads."""
    conv = Conv.parse(f"conv2d {n}x{line}")
    x, w = draws(conv, 0)
    layer = konv.prepare(conv, w, plan="winograd")
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    for a in (x, last):
        each = [layer(a[i : i + 1]) for i in range(n)]
        for count in (1, 2, 5):
            with threads(count):
                y = layer(a)
            assert y.shape == conv.out_shape
            assert all(np.array_equal(y[i : i + 1], each[i]) for i in range(n))


@pytest.mark.parametrize(
    "case", ["o20 k3 p1", "o32 k5x3x3 p2x0x1 g2", "o16 k2x3x3 p1x2x1 reflect", "o17 k3x1x1 p1x0x0"]
)
def test_planes_of_a_volume(case: str) -> None:
    """However many of them share a box, with threads, groups, padding modes and memory formats."""
    conv = Conv.parse(f"conv3d 2x32x7x9x14 {case}")
    x, w = draws(conv, 0)
    layer = konv.prepare(conv, w, plan="winograd")
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    close = rounding.tolerance(conv, x, w, None, "winograd")
    want = reference.im2col(conv, x, w)
    for a in (x, last):
        results = []
        for count in (1, 2, 5):
            with threads(count):
                results.append(layer(a))
        with small_units():
            results.append(konv.prepare(conv, w, plan="winograd")(a))
        assert (abs(results[0] - want) <= close).all()
        assert all(np.array_equal(y, results[0]) for y in results)


def test_even() -> None:
    assert list(even(14, 14)) == [14, 7, 5, 4, 3, 2]
    assert list(even(33, 16)) == [11, 9, 7, 6, 5, 4, 3]
    assert list(even(1, 9)) == [1]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("conv2d 1x16x14x14 o16 k3 p1", None),
        ("conv2d 1x64x14x14 o32 k3 p1 g2", None),
        ("conv2d 1x16x14x14 o16 k5 p2", None),
        ("conv2d 1x16x65x65 o16 k3 p12 d12", None),
        ("conv1d 1x16x140 o16 k3 p1", None),
        ("tconv2d 1x16x14x14 o16 k3 p1", None),
        ("conv2d 1x16x14x14 o16 k3 p1 f64", "takes float32 only, for its rounding; here float64"),
        ("conv2d 1x15x14x14 o16 k3 p1", "takes 16 channels in and out a group or more; here 15"),
        ("conv2d 1x64x14x14 o32 k3 p1 g4", "takes 16 channels in and out a group or more; here"),
        ("conv3d 1x16x9x9x9 o16 k3 p1", None),
        ("conv3d 1x16x9x9x9 o16 k2x3x3 p1", None),
        ("conv3d 1x16x1x9x9 o16 k3 p1", "would save a factor of 0.8 of the multiplications, less"),
        ("conv3d 1x16x9x9x9 o16 k3x1x1", None),
        ("conv3d 1x16x9x9x9 o16 k3x3x1", None),
        ("conv3d 1x16x9x9x9 o16 k3x1x1 s1x2x1", "takes the planes of a volume in steps of one on"),
        ("conv3d 1x16x9x9x9 o16 k3 s2x1x1", "takes the planes of a volume in steps of one only"),
        ("tconv3d 1x16x9x9x9 o16 k4 s2 p1", "takes the planes of a volume in steps of one only"),
        ("conv3d 1x16x9x9x9 o16 k3 d2x1x1", "takes the planes of a volume in steps of one only"),
        ("conv2d 1x16x32x32 o16 k3 s2 p1", None),
        ("conv2d 1x16x32x32 o16 k5 s2 p2", None),
        ("tconv2d 1x16x16x16 o16 k4 s2 p1", None),
        ("tconv2d 1x16x16x16 o16 k3 s2 p1 r1", None),
        ("conv2d 1x16x32x32 o16 k3 s3 p1", "takes kernels of 3, 4 or 5 taps in steps of one or"),
        ("conv2d 1x16x32x32 o16 k3 s2x1 p1", "takes kernels of 3, 4 or 5 taps in steps of one or"),
        ("conv2d 1x16x32x32 o16 k3 s2 p2 d2", "takes dilation in steps of one only; here 2"),
        ("tconv2d 1x16x14x14 o16 k3 s4 p1", "takes kernels of 3, 4 or 5 taps in steps of one or"),
        ("conv2d 1x16x14x14 o16 k3x1", None),
        ("conv2d 1x16x14x14 o16 k1x5", None),
        ("conv2d 1x16x14x14 o16 k1", "takes kernels of 3, 4 or 5 taps in steps of one or"),
        ("conv2d 1x16x14x14 o16 k3x5", "takes kernels of 3, 4 or 5 taps in steps of one or"),
        ("conv2d 1x16x14x14 o16 k3x1 s1x2", "takes kernels of 3, 4 or 5 taps in steps of one or"),
        ("conv2d 1x16x14x14 o16 k4", "takes kernels of 3, 4 or 5 taps in steps of one or"),
        ("conv2d 1x16x14x14 o16 k7", "takes kernels of 3, 4 or 5 taps in steps of one or"),
        ("conv2d 1x16x5x5 o16 k3 p1", "would save a factor of 1.6 of the multiplications, less"),
        ("conv2d 1x512x7x7 o512 k3 p1", None),
        ("conv2d 1x1024x7x7 o1024 k3 p1", None),  # U of 64 MiB, 12 are saved by each number
        ("conv2d 1x1024x4x4 o1024 k3 p1", "would read 144 MiB of transformed weights for 1 tiles"),
        ("conv2d 1x256x14x14 o256 k3 s2 p1", "would save a factor of 1.4 of the multiplications"),
        ("conv2d 1x256x28x28 o256 k3 s2 p1", None),
        ("tconv2d 1x1024x8x8 o1024 k4 s2 p1", None),  # U of 144 MiB, 12 are saved by each number
        ("tconv2d 1x1024x6x6 o1024 k4 s2 p1", "would read 400 MiB of transformed weights for 4 "),
        ("tconv2d 1x1024x8x8 o2048 k4 s2 p1", "would read 800 MiB of transformed weights for 4 "),
        ("conv1d 1x512x799 o512 k3 s2", None),
        ("conv1d 1x512x61 o512 k3 s2", "would save a factor of 1.2 of the multiplications, less"),
    ],
)
def test_why_winograd_does_not(line: str, says: str | None) -> None:
    refusal = winograd.why_not(Conv.parse(line), llvm.detect())
    assert refusal is None if says is None else (refusal or "").startswith(says)


def test_what_winograd_costs() -> None:
    """More channels, more pixels or fewer lanes cost more; it is an image's, so batch nothing."""
    few, many, large = (
        Conv.parse(f"conv2d 1x{line} k3 p1")
        for line in ("32x28x28 o32", "64x28x28 o32", "32x56x56 o32")
    )

    def cost(conv: Conv, target: Target) -> float:
        return winograd.cost(conv, winograd.plans(conv, target, True, True)[0], target)

    for target in TARGETS.values():
        assert cost(few, target) < cost(many, target) < 2.5 * cost(few, target)
        assert 3 * cost(few, target) < cost(large, target) < 5 * cost(few, target)
        assert cost(few, target) == cost(few.with_batch(9), target)
    assert cost(few, TARGETS["avx512"]) < cost(few, TARGETS["avx2"]) < cost(few, TARGETS["sse"])


def test_groups_cost_what_one_alone_costs() -> None:
    """Each packs its own channels only, of a volume too."""
    conv, target = Conv.parse("conv3d 1x512x8x28x28 o512 k3 p1 g32"), llvm.detect()
    alone = Conv.parse("conv3d 1x16x8x28x28 o16 k3 p1")

    def cost(layer: Conv, packed: bool) -> float:
        return winograd.cost(layer, winograd.plans(layer, target, packed, True)[0], target)

    for packed in (True, False):
        assert cost(conv, packed) == pytest.approx(32 * cost(alone, packed), rel=0.05)


def test_groups_whose_weights_pass_by_read_them_once() -> None:
    """All of their tiles are one box: of several, each would read the weights of all groups."""
    conv, target = Conv.parse("conv2d 1x512x14x14 o512 k3 p1 g32"), llvm.detect()
    model = Model(conv, winograd.plans(conv, target, True, True)[0], replace(target, l2=2**19))
    cut = model.best(2, 1)
    assert (cut.rows, cut.columns) == model.lines


def test_exact_forbids_winograd() -> None:
    conv, target = Conv.parse("conv2d 1x64x56x56 o64 k3 p1"), llvm.detect()
    assert choose(conv, target, True, True).algorithm == "winograd"
    with precision("exact"):
        assert choose(conv, target, True, True).algorithm == "direct"
