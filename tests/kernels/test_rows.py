"""Rows of a weight as the user has them: the same bits as of packed ones, and nothing packed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from functional.check import threads

import konv
from konv import dispatch, llvm
from konv.geometry import Conv
from konv.kernels import panels
from konv.runtime import straight, weights
from konv.runtime.choose import choices, choose
from konv.runtime.rows import Rows, rows_of
from konv.runtime.weights import CACHE

HOST = llvm.detect()
# Rows that crowd a cache, that begin in the middle of a line, of one channel; maps that panels take
# only for the sake of the digest; groups.
LINES = (
    "conv2d 1x512x9x9 o37 k1",
    "conv2d 2x67x13x11 o45 k1",
    "conv2d 1x1x16x20 o9 k1",
    "conv2d 1x48x20x20 o1 k1",
    "conv2d 1x320x7x7 o640 k1",
    "conv2d 1x90x12x12 o66 k1 g3",
)

pytestmark = pytest.mark.skipif(
    panels.why_not(Conv.parse(LINES[0]), HOST) is not None, reason="too few registers"
)


def arrays(conv: Conv) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(conv.ci)
    shapes = conv.in_shape, conv.weight_shape, (conv.co,)
    x, w, b = (rng.standard_normal(shape).astype(conv.dtype) for shape in shapes)
    return x, w, b


def of_rows() -> Rows | None:
    """What the last layer takes its weights from."""
    *_, layer = dispatch._layers.values()
    return layer.rows


@pytest.fixture(autouse=True)
def _fresh() -> None:
    CACHE.clear()
    dispatch.forget()


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("line", LINES)
def test_the_bits_of_a_prepared_layer(line: str, dtype: str, biased: bool) -> None:
    """With and without a residual and a place of the result; other image sizes and batches."""
    conv = Conv.parse(f"{line} f64" if dtype == "float64" else line)
    x, w, b = arrays(conv)
    b = b if biased else None
    layer = konv.prepare(conv, w, b, activation="relu")
    for count in (1, 3):
        with threads(count):
            expected = layer(x)
            y = konv.conv2d(x, w, b, groups=conv.groups, activation="relu")
            assert y.tobytes() == expected.tobytes()
            r, out = -2 * expected, np.empty_like(y)
            konv.conv2d(x, w, b, groups=conv.groups, activation="relu", residual=r, out=out)
            assert out.tobytes() == layer(x, residual=r).tobytes()
    assert of_rows() is not None
    assert not CACHE.entries, "a weight was packed"


def test_changes_are_seen_and_nothing_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, b = arrays(Conv.parse(LINES[1]))
    konv.conv2d(x, w, b)
    monkeypatch.setattr(weights, "pack", None)
    for change in (w, b, w):
        change *= -1.5
        expected = np.einsum("ncij,oc->noij", x, w[:, :, 0, 0]) + b[:, None, None]
        np.testing.assert_allclose(konv.conv2d(x, w, b), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("biased", [True, False])
def test_repeated_calls_see_changes(biased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In machine code from end to end, as of a weight of any size."""
    if straight._bridge() is None:
        pytest.skip("not CPython")
    x, w, b = (torch.from_numpy(a) for a in arrays(Conv.parse("conv2d 1x512x8x8 o1024 k1")))
    b = b if biased else None
    for _ in range(12):
        y = konv.conv2d(x, w, b)
    assert id(w) in straight.KNOWN
    monkeypatch.setattr(dispatch, "_looked_up", None)
    assert torch.equal(konv.conv2d(x, w, b), y)
    for change in (w, w if b is None else b):
        change.data.mul_(-2)
        expected = torch.conv2d(x, w, b)
        torch.testing.assert_close(konv.conv2d(x, w, b), expected, rtol=1e-4, atol=1e-3)


def test_a_result_in_the_place_of_its_weight() -> None:
    """Which is read until the last number is written."""
    x, w, _ = arrays(Conv.parse("conv2d 1x64x8x8 o64 k1"))
    out = w.reshape(1, 64, 8, 8)
    expected = konv.conv2d(x, w.copy())
    assert konv.conv2d(x, w, out=out) is out
    assert out.tobytes() == expected.tobytes()


def test_weights_that_it_leaves_to_be_packed() -> None:
    """Whose channels are no neighbours, as of an adjoint, or of a transposed layer."""
    conv = Conv.parse("conv2d 1x40x12x12 o30 k1")
    plan = choose(conv, HOST, True, True)
    assert plan.algorithm == "panels"
    assert rows_of(conv, plan, (40, 1, 1, 1)) is not None
    assert rows_of(conv, plan, (1, 30, 1, 1)) is None
    assert rows_of(Conv.parse("tconv2d 1x40x12x12 o30 k1"), plan, (30, 1, 1, 1)) is None
    x, w, _ = arrays(Conv.parse("tconv2d 1x40x12x12 o30 k1"))
    expected = np.einsum("ncij,co->noij", x, w[:, :, 0, 0])
    np.testing.assert_allclose(konv.conv_transpose2d(x, w), expected, rtol=1e-4, atol=1e-4)
    assert CACHE.entries


@pytest.mark.parametrize(("batch", "algorithm"), [(1, "panels"), (64, "direct")])
def test_small_maps_for_the_sake_of_the_digest(batch: int, algorithm: str) -> None:
    """What is packed is faster by itself, and is taken where more images share its digest."""
    conv = Conv.parse("conv2d 1x320x7x7 o1280 k1").with_batch(batch)
    assert choose(conv, HOST, True, True).algorithm == "direct"
    assert choose(conv, HOST, True, True, reads=True).algorithm == algorithm
    assert choose(conv, HOST, False, False, reads=True).algorithm == "direct"
    for size in range(1, 30):
        plan = choose(conv.with_size(size, size + 1), HOST, True, True, reads=True)
        assert plan in choices(conv, HOST, True, True)
