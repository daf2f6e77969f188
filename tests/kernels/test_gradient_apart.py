"""Weight gradients tap by tap: which outputs a tap has, when, and that nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from geometry.strategies import axes
from hypothesis import given
from kernels.test_gradient import arrays, pinned, small_boxes

from konv import llvm, reference, weight_gradient
from konv.geometry import Axis, Conv
from konv.kernels import gradient
from konv.kernels.gradient import apart as gradient_apart
from konv.kernels.gradient.apart import share, spans
from konv.kernels.gradient.records import JOB


@given(axes(ups=1))
def test_spans_are_the_outputs_with_a_pixel(axis: Axis) -> None:
    for k, (first, count, source) in enumerate(spans(axis)):
        reads = [o for o in range(axis.out) if axis.source(o, k) is not None]
        assert reads == list(range(first, first + count))
        assert not reads or axis.source(first, k) == source


@pytest.mark.parametrize(
    ("line", "apart"),
    [
        ("conv2d 8x64x17x17 o64 k3 p12 d12", True),
        ("conv2d 1x64x65x65 o64 k3 p36 d36", True),
        ("conv2d 64x64x2x2 o64 k3 p1", True),
        ("conv2d 1x64x2x2 o64 k3 p1", False),  # a few outputs do not pay for runs
        ("conv2d 8x64x17x17 o64 k3 p2 d2", False),
        ("conv2d 8x8x17x17 o64 k3 p12 d12", False),
        ("conv2d 8x64x17x17 o64 k1", False),
    ],
)
def test_when_taps_are_taken_apart(line: str, apart: bool) -> None:
    """Where most products would be with padding; a run of the kernel each, and one at the end."""
    conv, target = Conv.parse(line), llvm.detect()
    assert (share(conv) < 1) == apart
    plan = gradient.plan(conv, target, True, True)
    work = gradient_apart.work(conv, plan, target, (1,) * 4, (1,) * 4, 2)
    runs = [words[JOB.index("adding")] for words in (work.words, *work.then)]
    assert (2 in runs) == apart
    if apart:
        live = sum(n > 0 for _, n, _ in spans(conv.axes[0])) ** 2
        assert runs == [0] * live + [2]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize(
    "line", ["conv2d 2x32x17x9 o19 k3 p12x8 d12x8", "conv2d 9x34x2x3 o34 k3 p2 g2"]
)
def test_every_dtype(line: str, dtype: str) -> None:
    """Taps that meet padding only are 0."""
    torch = pytest.importorskip("torch")
    conv = replace(Conv.parse(line), dtype=dtype)
    x, dy = arrays(replace(conv, dtype="float32"), False)
    with small_boxes(), pinned(gradient):
        got = weight_gradient(
            conv, *(torch.from_numpy(a).to(getattr(torch, dtype)) for a in (x, dy))
        )
    want = torch.from_numpy(reference.weight_gradient(conv, x, dy)).to(getattr(torch, dtype))
    assert torch.equal(got, want)


def test_padding_is_not_multiplied() -> None:
    """An infinity reaches the taps that meet it, and no other."""
    conv = Conv.parse("conv2d 8x32x17x17 o24 k3 p12 d12")
    x, dy = arrays(conv, True)
    dy[0, 0, 0, 0] = np.inf
    with pinned(gradient):
        got = weight_gradient(conv, x, dy)
    odd = ~np.isfinite(got)
    assert not odd[1:].any()
    assert not odd[0, :, :1].any()
    assert not odd[0, :, :, :1].any()
    assert odd[0, :, 1:, 1:].any()
