"""What is particular to Winograd's weight gradients: refusals, runs, odd numbers, the bound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from kernels.test_gradient import pinned, small_boxes

from konv import llvm, reference, rounding, weight_gradient
from konv.geometry import Conv
from konv.kernels import gradient
from konv.kernels.gradient import cut as gradient_cut
from konv.kernels.gradient import winograd as gradient_winograd
from konv.kernels.gradient.winograd import cut as gradient_winograd_cut
from konv.runtime import gradient as runtime
from konv.runtime.choose import precision

AVX2 = llvm.describe("x86_64-unknown-linux-gnu", "haswell", "")  # runs hang on lanes


def test_exact_forbids_winograd() -> None:
    """For calls in that precision, before and after others."""
    conv, rng = Conv.parse("conv2d 1x32x57x50 o32 k3 p1"), np.random.default_rng(4)
    x, dy = (rng.standard_normal(s).astype("float32") for s in (conv.in_shape, conv.out_shape))
    fast = weight_gradient(conv, x, dy)
    with precision("exact"):
        assert runtime.choose(conv, llvm.detect(), True, True)[0].algorithm == gradient.name
        exact = weight_gradient(conv, x, dy)
    assert not np.array_equal(fast, exact)
    assert np.array_equal(fast, weight_gradient(conv, x, dy))
    want = reference.weight_gradient(conv, x, dy)
    assert (abs(exact - want) <= rounding.weight_gradient_tolerance(conv, x, dy)).all()


STEPS = "takes kernels of 3, 4 or 5 taps in steps of one or two, the same on every axis"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("conv2d 1x16x14x14 o16 k3 p1", None),
        ("conv1d 1x16x14 o16 k5 p1", None),
        ("conv2d 1x16x14x14 o16 k3 p1 f64", "takes float32 only, for its rounding"),
        ("conv2d 1x30x14x14 o32 k3 p1 g2", "takes 16 channels in and out a group or more"),
        ("conv3d 1x16x9x9x9 o16 k3 p1", "takes one or two axes"),
        ("conv2d 1x16x14x14 o16 k4 s2 p1", None),
        ("conv2d 1x16x14x14 o16 k3 p1 d2", None),
        ("conv2d 1x16x14x14 o16 k3 s2 p1 d2", "takes dilation in steps of one only"),
        ("conv2d 1x16x14x14 o16 k3x1", STEPS),
        ("conv2d 1x16x14x14 o16 k4", STEPS),
        ("conv2d 1x16x14x14 o16 k3 s3", STEPS),
        ("conv2d 1x16x14x14 o16 k3 s2x1 p1", STEPS),
    ],
)
def test_why_winograd_does_not(line: str, says: str | None) -> None:
    assert gradient_winograd.why_not(Conv.parse(line)) == says


@pytest.mark.parametrize(
    "line",
    ["conv2d 5x17x70x19 o40 k3 p1", "conv2d 40x16x7x7 o64 k3 p1", "conv2d 2x16x9x400 o64 k3 p1"],
)
def test_runs_of_winograd_depend_on_sizes_alone(line: str) -> None:
    """All tiles in turn, the same for any number of threads and any cache."""
    conv, target = Conv.parse(line), AVX2
    plan, at = gradient_winograd.plan(conv, target, True, True), gradient_cut.JOB.index
    with small_boxes():
        found = [
            gradient_winograd_cut.work(conv, plan, replace(target, l2=l2), (1,) * 4, (1,) * 4, n)
            for n, l2 in ((1, 2**18), (2, 2**20), (7, 2**22))
        ]
    runs = [
        [tuple(words[at(name)] for name in ("step", "box", "boxes", "base", "tiles", "fresh"))
         for words in (work.words, *work.then)]
        for work in found
    ]  # fmt: skip
    assert runs[0] == runs[1] == runs[2]
    products = [run[1:] for run in runs[0] if run[0] == gradient_winograd_cut.PRODUCTS]
    again = len([run for run in products if run[-1]])
    once, box, tile = products[: len(products) // again], 0, 0
    assert len(once) > 1
    assert again > 1
    for first, boxes, base, tiles, fresh in once:
        assert (first, base, fresh) == (box, tile, int(box == 0))
        box, tile = box + boxes, tile + tiles
    assert tile == conv.n * -(-conv.axes[0].out // 4) * -(-conv.axes[1].out // 4)


@pytest.mark.parametrize("line", ["conv2d 2x17x11x9 o18 k3 p1", "conv2d 2x64x9x8 o32 k3 p1 g2"])
def test_odd_numbers_stay_in_their_channels(line: str) -> None:
    """A NaN of x makes the taps of its input channel NaN, one of dy those of its output channel."""
    conv, rng = Conv.parse(line), np.random.default_rng(3)
    x, dy = (rng.standard_normal(s).astype("float32") for s in (conv.in_shape, conv.out_shape))
    inner, outer = conv.ci // conv.groups, conv.co // conv.groups
    with pinned(gradient_winograd):
        want = weight_gradient(conv, x, dy)
        for c in (0, inner - 1, conv.ci - 1):
            odd, taken = x.copy(), np.zeros(conv.weight_shape, bool)
            odd[1, c, 4, 4] = np.nan
            group = c // inner
            taken[group * outer : (group + 1) * outer, c % inner] = True
            got = weight_gradient(conv, odd, dy)
            assert np.array_equal(np.isnan(got), taken)
            assert np.array_equal(got[~taken], want[~taken])
        for c in (0, outer - 1, conv.co - 1):
            odd, taken = dy.copy(), np.zeros(conv.weight_shape, bool)
            odd[0, c, 5, 3], taken[c] = np.nan, True
            got = weight_gradient(conv, x, odd)
            assert np.array_equal(np.isnan(got), taken)
            assert np.array_equal(got[~taken], want[~taken])


DRAWN = (
    "conv2d 2x16x20x20 o16 k3 p1",
    "conv2d 2x16x20x20 o16 k5 p2",
    "conv1d 4x32x200 o16 k3 p1",
    "conv2d 4x16x32x32 o16 k3 s2 p1",
    "conv2d 4x16x32x32 o16 k4 s2 p1",
    "conv2d 4x16x31x31 o16 k5 s2 p2",
    "conv2d 4x16x31x31 o16 k3 p2 d2",
    "conv2d 4x16x24x24 o16 k3 p8 d8",
    "conv2d 4x16x22x22 o16 k3 p12 d12",
)


@pytest.mark.parametrize("line", DRAWN)
def test_the_bound_of_winograd(line: str) -> None:
    """Errors stay under half of what its constant allows, whatever the numbers: random, positive,
    of very different size, all equal, and few of them not zero.
    """
    conv, most = Conv.parse(line), 0.0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        x, dy = rng.standard_normal(conv.in_shape), rng.standard_normal(conv.out_shape)
        if seed % 5 == 1:
            x, dy = abs(x), abs(dy)
        if seed % 5 == 2:
            x *= 10.0 ** rng.integers(-3, 4, (1, 1, conv.axes[0].size) + (1,) * (conv.dims - 1))
        if seed % 5 == 3:
            x, dy = np.full_like(x, x.flat[0]), np.full_like(dy, dy.flat[0])
        if seed % 5 == 4:
            x, dy = (a * (rng.random(a.shape) < 0.02) for a in (x, dy))
        x, dy = x.astype("float32"), dy.astype("float32")
        with pinned(gradient_winograd):
            error = abs(weight_gradient(conv, x, dy) - reference.weight_gradient(conv, x, dy))
        allowed = rounding.weight_gradient_tolerance(conv, x, dy, "winograd")
        most = max(most, float((error / allowed).max()))
    assert 0.01 < most < 0.5, most
