"""Axes of one pixel, one tap and one output say nothing: images of one row are signals."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from functional.case import Case
from functional.check import check, recording
from functional.flat import EITHER

import konv
from konv import dispatch, llvm
from konv.analyze import explain
from konv.arrays import dense_strides
from konv.bench.tuning import tune
from konv.errors import UnsupportedError
from konv.geometry import Conv
from konv.runtime import tuned
from konv.runtime.choose import choose
from konv.runtime.flat import form_of, leaner, slim

# With the same layer of fewer axes
SIGNALS = [
    ("conv2d 3x20x1x50 o35 k1x3 p0x1", "conv1d 3x20x50 o35 k3 p1"),
    ("conv2d 3x20x50x1 o35 k3x1 p1x0", "conv1d 3x20x50 o35 k3 p1"),
    ("conv2d 2x40x61x1 o40 k5x1 s2x3 p3:1x0:2 d2x1 g40", "conv1d 2x40x61 o40 k5 s2 p3:1 d2 g40"),
    ("conv2d 2x12x1x40 o18 k1x4 p0x3 g2 reflect", "conv1d 2x12x40 o18 k4 p3 g2 reflect"),
    ("tconv2d 2x20x30x1 o33 k4x1 s2x3 p1x0", "tconv1d 2x20x30 o33 k4 s2 p1"),
    ("conv3d 2x16x1x14x13 o20 k1x3x3 p0x1x1", "conv2d 2x16x14x13 o20 k3 p1"),
    ("conv3d 2x16x9x1x1 o20 k3x1x1 p1x0x0", "conv1d 2x16x9 o20 k3 p1"),
    ("conv2d 1x3x1x1 o5 k1", "conv1d 1x3x1 o5 k1"),
]
# With an axis of one pixel that says something: it has padding, other taps, more outputs.
TELLING = [
    "conv2d 1x20x1x50 o35 k3 p1", "conv2d 1x20x1x50 o35 k1x3 p1x1", "conv2d 1x20x2x50 o35 k1x3 s2",
    "tconv2d 1x20x1x50 o35 k1x3 s2 p0x1 r1x0", "conv1d 1x20x50 o35 k3", "conv1d 1x20x1 o3 k1",
]  # fmt: skip


@pytest.mark.parametrize(("line", "signal"), SIGNALS)
def test_which_axes_say_nothing(line: str, signal: str) -> None:
    """One axis stays at least."""
    assert slim(Conv.parse(line)) == Conv.parse(signal)


@pytest.mark.parametrize("line", TELLING)
def test_which_say_something(line: str) -> None:
    assert slim(Conv.parse(line)) == Conv.parse(line)


@pytest.mark.parametrize(("x", "out"), list(product(EITHER, EITHER)))
@pytest.mark.parametrize("line", [line for line, _ in SIGNALS] + TELLING[:4])
def test_results(line: str, x: str, out: str) -> None:
    """In either format, with a residual; of tensors and arrays."""
    for torched, residual in product(("", " torch"), ("", " residual=out activation=relu")):
        check(Case.parse(f"{line} / x={x} out={out} w=last bias=contiguous{torched}{residual}"))


@pytest.mark.parametrize(("line", "signal"), SIGNALS)
def test_bits_and_plans_are_those_of_signals(line: str, signal: str) -> None:
    image, other = Conv.parse(line), Conv.parse(signal)
    rng = np.random.default_rng(3)
    x, w = (rng.standard_normal(s).astype("f4") for s in (image.in_shape, image.weight_shape))

    def run(conv: Conv) -> tuple[Any, Any]:
        with recording() as jobs:
            y = konv.prepare(conv, w.reshape(conv.weight_shape))(x.reshape(conv.in_shape))
        return y, jobs[-1].words

    (got, words), (want, those) = run(image), run(other)
    assert np.array_equal(got, want.reshape(got.shape))
    assert np.array_equal(words, those)
    for layout in ("contiguous", "channels_last"):
        assert explain.plan_of(image, layout) == explain.plan_of(other, layout)
        assert set(explain.plans_of(image, layout)) >= set(explain.plans_of(other, layout))


def test_a_column_that_lies_channels_last() -> None:
    """PyTorch calls (n, c, length, 1) of step 1 along the last axis contiguous, whatever others."""
    conv = Conv.parse("conv2d 2x20x50x1 o35 k3x1 p1x0")
    dense, last = (dense_strides(conv.in_shape, last) for last in (False, True))
    y, w = (dense_strides(shape, False) for shape in (conv.out_shape, conv.weight_shape))
    assert form_of(conv, dense, y, w, llvm.detect()).conv.dims == 1
    assert form_of(conv, last, y, w, llvm.detect()).conv.dims == 1
    apart = (4000, 200, 2, 1)  # neither pixels nor channels side by side
    assert form_of(conv, apart, y, w, llvm.detect()).conv.dims == 2
    signal = torch.randn(2, 50, 20).transpose(1, 2)
    w1 = torch.randn(35, 20, 3)
    for x in (signal.unsqueeze(3), signal.unsqueeze(3).contiguous(), signal.unsqueeze(3)[:, ::2]):
        weight = w1[:, : x.shape[1], :, None]
        want = torch.conv2d(x, weight, padding=(1, 0))
        got = konv.conv2d(x, weight, padding=(1, 0))
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_gradients() -> None:
    x = torch.randn(2, 20, 1, 50, requires_grad=True)
    w = torch.randn(36, 20, 1, 3, requires_grad=True)
    want = torch.autograd.grad(torch.conv2d(x, w, padding=(0, 1)).square().sum(), (x, w))
    got = torch.autograd.grad(konv.conv2d(x, w, padding=(0, 1)).square().sum(), (x, w))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-2)


def test_a_plan_that_is_named_is_of_the_signal() -> None:
    """So what is chosen can be named: sequences go by tiles where rows of images would not."""
    conv = Conv.parse("conv2d 1x512x1x1599 o512 k1x3 s1x2 p0x1")
    x, w = torch.randn(conv.in_shape), torch.randn(conv.weight_shape) / 40
    want = torch.conv2d(x, w, stride=(1, 2), padding=(0, 1))
    assert explain.plan_of(conv, "contiguous").algorithm == "winograd"
    for plan in ("direct", "winograd"):
        prepared = konv.prepare(conv, w, plan=plan)(x)
        for got in (konv.conv2d(x, w, stride=(1, 2), padding=(0, 1), plan=plan), prepared):
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)
    with pytest.raises(UnsupportedError, match="winograd"):
        konv.prepare(conv.with_size(2, 1599), w, plan="winograd")


@pytest.mark.parametrize(("line", "signal"), SIGNALS)
def test_it_is_explained(line: str, signal: str) -> None:
    conv, other = Conv.parse(line), Conv.parse(signal)
    found = explain.explain(conv)
    assert found.refusals == explain.explain(other).refusals
    said = {road.layer for road in found.roads.values()}
    assert said == {str(other)}
    assert all(road.layer is None for road in explain.explain(other).roads.values())


def test_plans_over_all_sizes_are_those_of_signals_too() -> None:
    """Whichever size is asked about: each may be called with one row."""
    conv = Conv.parse("conv2d 1x64x56x56 o64 k1x3 p0x1 g64")
    for layout, packed in (("contiguous", True), ("channels_last", False)):
        sizes = [conv, conv.with_size(1, 1000), conv.with_size(1, 1), conv.with_size(9, 1)]
        every = [set(explain.plans_of(each, layout)) for each in sizes]
        for size in sizes:
            chosen = choose(slim(size), llvm.detect(), packed, packed)
            assert all(chosen in plans for plans in every), (size, chosen)
    lines = ("conv3d 1x4x9x9x9 o4 k1x3x1", "conv2d 1x4x9x9 o4 k1 p1", "conv1d 1x4x9 o4 k1")
    assert [len(leaner(Conv.parse(line))) for line in lines] == [4, 1, 1]


def test_what_tuning_finds_is_for_signals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that calls, which compute those, use it."""
    monkeypatch.setenv("KONV_CACHE_DIR", str(tmp_path))
    tuned.renew()
    (found,) = tune("conv2d 1x22x1x64 o26 k1x3", layouts=["contiguous"], seconds=0.01)
    signal = explain.plan_of(Conv.parse("conv1d 1x22x64 o26 k3"), "contiguous")
    assert not found.refused
    assert signal == found.decisions["fast"].plan
    monkeypatch.undo()
    tuned.renew()
    dispatch.forget()
