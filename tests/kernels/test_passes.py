"""Deep layers in passes: the channels of a pass are the layer's own, whatever image is computed,
and together they are all.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from unittest.mock import patch

import numpy as np
import pytest
from kernels.layers import TARGETS

import konv
from konv import llvm
from konv.dispatch import forget
from konv.geometry import Conv
from konv.kernels import direct, schedule
from konv.kernels.passes import Passes, is_deep

DEEP = ("conv2d 1x256x9x11 o20 k3 p1", "conv2d 1x201x9x11 o20 k3 p1", "conv2d 1x520x9x11 o8 k3 g2")


@pytest.mark.parametrize("ci", [1, 63, 64, 65, 192, 193, 257, 1024, 4095])
@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_all_channels_are_in_one_pass_each(ci: int, kernel: int) -> None:
    conv = Conv.of((1, ci, 9, 9), 8, kernel)
    passes = Passes.of(conv, 1, is_deep(conv))
    assert passes.share * (passes.count - 1) < ci <= passes.share * passes.count
    assert passes.held in (ci, passes.share)
    assert passes.held == ci or ci % passes.share == 0
    assert (passes.count > 1) == (ci * kernel**2 > 1536 and ci > 64)


@pytest.mark.parametrize("text", DEEP)
def test_passes_are_those_of_the_layer(text: str) -> None:
    """Not of the image, nor of the batch."""
    conv = Conv.parse(text)
    others = (conv.with_batch(5), replace(conv, axes=tuple(replace(a, size=40) for a in conv.axes)))
    assert Passes.of(conv, conv.groups, True).count > 1
    for other in others:
        assert Passes.of(other, conv.groups, True) == Passes.of(conv, conv.groups, True)


def test_channels_last_goes_in_one_pass() -> None:
    conv = Conv.parse(DEEP[0])
    forms = {
        packed: direct.plans(conv, llvm.detect(), packed, True)[0].form for packed in (True, False)
    }
    assert forms == {True: direct.PASSES, False: ()}


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("conv2d 1x192x9x11 o64 k7 p3", direct.PASSES),
        ("conv2d 1x1024x9x11 o64 k3 s2 p1", ()),  # few outputs for each number that is packed
        ("conv2d 1x1024x99x99 o64 k3 p12 d12", ()),  # boxes may leave out taps
        ("conv2d 1x160x9x11 o64 k7 p3", ()),
        ("conv2d 1x192x9x11 o20 k7 p3", ()),
    ],
)
def test_channels_last_goes_in_passes_where_weights_fill_a_cache(
    text: str, form: tuple[int, ...]
) -> None:
    """With AVX-512, and then the image is packed; whatever its size."""
    conv = Conv.parse(text)
    larger = replace(conv, axes=tuple(replace(a, size=400) for a in conv.axes))
    for each in (conv, larger):
        plan = direct.plans(each, TARGETS["avx512"], False, False)[0]
        assert (plan.form, plan.packed) == (form, form == direct.PASSES)
        assert not direct.plans(each, TARGETS["avx2"], False, False)[0].packed


@pytest.mark.parametrize("text", DEEP)
def test_bits_and_bound(text: str) -> None:
    """One thread or two, a crop or the whole: the same bits; bias, residual and activation once."""
    conv, rng = Conv.parse(text), np.random.default_rng(7)
    x, z = (rng.standard_normal(s, np.float32) for s in (conv.in_shape, conv.out_shape))
    w, b = (rng.standard_normal(s, np.float32) for s in (conv.weight_shape, (conv.co,)))
    lo = conv.axes[0].lo
    options = {"padding": lo, "groups": conv.groups, "plan": "direct"}
    results = []
    for threads in (1, 2):
        konv.set_num_threads(threads)
        results.append(konv.conv2d(x, w, b, activation="relu", residual=z, **options))
    crop = konv.conv2d(
        np.ascontiguousarray(x[:, :, :, :6]), w, b, activation="relu",
        residual=np.ascontiguousarray(z[..., : 6 + 2 * lo - conv.axes[1].kernel + 1]), **options,
    )  # fmt: skip
    assert np.array_equal(*results)
    inside = 5 if lo else 4  # columns that see nothing of what the crop lacks
    assert np.array_equal(crop[..., :inside], results[0][..., :inside])

    wide = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (lo, lo), (lo, lo)))
    plain, k, g = np.zeros(conv.out_shape), conv.axes[0].kernel, conv.groups
    high, low = conv.out_shape[2:]
    for dy, dx in product(range(k), range(k)):
        seen = wide[:, :, dy : dy + high, dx : dx + low].reshape(1, g, -1, high, low)
        taps = w[:, :, dy, dx].astype(np.float64).reshape(g, conv.co // g, -1)
        plain += np.einsum("goc,ngchw->ngohw", taps, seen).reshape(plain.shape)
    wanted = np.maximum(plain + b[:, None, None] + z, 0)
    assert np.abs(results[0] - wanted).max() < 1e-3


def test_tiles_without_taps_ask_for_no_weights() -> None:
    """Far in the padding there is nothing to read, and no tap whose weights to ask for."""
    x, w = (np.ones(s, np.float32) for s in ((1, 200, 3, 3), (20, 200, 3, 3)))
    forget()
    with patch.object(schedule, "FAR", 0):
        y = konv.conv2d(x, w, np.arange(20, dtype=np.float32), padding=9, plan="direct")
    forget()
    assert np.array_equal(y[0, :, 0, 0], np.arange(20)), "corner"
    assert y[0, 3, 9, 9] == 200 * 9 + 3, "middle"
