"""The two references against each other, against PyTorch, and against the adjoint identities."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch
from geometry.strategies import convs, layers
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812  # its usual name

from konv.errors import ProblemError
from konv.geometry import MODES, Axis, Conv, Mode, Tile
from konv.geometry.terms import Terms
from konv.reference import im2col, sliding_window
from konv.rounding import ROUNDING, tolerance

Array = NDArray[Any]
some = settings(max_examples=60, deadline=None)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small are only slowed down by more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def whole(conv: Conv, seed: int = 0) -> tuple[Array, Array, Array, Array]:
    """Draw x, w, bias and dy as small integers, so that every sum is exact."""
    rng = np.random.default_rng(seed)
    shapes = (conv.in_shape, conv.weight_shape, (conv.co,), conv.out_shape)
    x, w, bias, dy = (rng.integers(-4, 5, shape) for shape in shapes)
    return x, w, bias, dy


def pytorch(conv: Conv, x: Any, w: Any, bias: Any = None) -> torch.Tensor:
    """Compute with PyTorch, padding explicitly where it knows only the same on both sides."""
    terms = [Terms.of(axis, conv.transposed) for axis in conv.axes]
    steps = {"stride": [t.stride for t in terms], "dilation": [t.dilation for t in terms]}
    assert all(t.up == 1 for t in terms)
    x, w = (torch.as_tensor(a, dtype=torch.float64) for a in (x, w))
    bias = None if bias is None else torch.as_tensor(bias, dtype=torch.float64)
    if conv.transposed:
        assert all(t.lo == t.hi for t in terms)
        extra = [t.output_padding for t in terms]
        apply = getattr(F, f"conv_transpose{conv.dims}d")
        pads = [t.lo for t in terms]
        out = apply(x, w, bias, steps["stride"], pads, extra, conv.groups, steps["dilation"])
    else:
        mode = "constant" if conv.mode == "zeros" else conv.mode
        for dim, t in enumerate(terms):  # F.pad folds only the last axes, so one at a time
            x = x.movedim(2 + dim, -1)
            line = x.reshape(x.shape[0], -1, x.shape[-1])
            x = F.pad(line, (t.lo, t.hi), mode=mode).reshape(*x.shape[:-1], -1).movedim(-1, 2 + dim)
        apply = getattr(F, f"conv{conv.dims}d")
        out = apply(x, w, bias, groups=conv.groups, **steps)
    return torch.as_tensor(out)


def swapped(array: Array, group: int, groups: int) -> Array:
    """Take the channels of one group and let batch and channels change places."""
    each = array.shape[1] // groups
    return array[:, group * each : (group + 1) * each].swapaxes(0, 1)


def weight_gradient(conv: Conv, x: Array, dy: Array) -> Array:
    """Compute dw with the reference, group by group, as `weight_adjoint` describes."""
    gradient, (data, weight) = conv.weight_adjoint(), ((dy, x) if conv.transposed else (x, dy))
    parts = [
        im2col(gradient, swapped(data, j, conv.groups), swapped(weight, j, conv.groups))
        for j in range(conv.groups)
    ]
    return np.concatenate([part.swapaxes(0, 1) for part in parts])


@some
@given(convs(), st.booleans())
def test_the_sliding_window_is_the_matrix_product(conv: Conv, with_bias: bool) -> None:
    x, w, bias, _ = whole(conv)
    slid = sliding_window(conv, x, w, bias if with_bias else None)
    multiplied = im2col(conv, x, w, bias if with_bias else None)
    assert slid.shape == multiplied.shape == conv.out_shape
    assert slid.dtype == multiplied.dtype == np.int64
    np.testing.assert_array_equal(slid, multiplied)


@some
@given(convs())
def test_floats_are_computed_in_float64(conv: Conv) -> None:
    x, w, bias, _ = whole(conv)
    y = im2col(conv, x.astype(np.float32), w, bias)
    assert y.dtype == np.float64
    np.testing.assert_array_equal(y, im2col(conv, x, w, bias))


@settings(max_examples=150, deadline=None)
@given(layers(), st.booleans())
def test_pytorch_computes_the_same(conv: Conv, with_bias: bool) -> None:
    x, w, bias, _ = whole(conv)
    bias_or_none = bias if with_bias else None
    expected = pytorch(conv, x, w, bias_or_none).numpy()
    np.testing.assert_array_equal(im2col(conv, x, w, bias_or_none), expected)


@settings(max_examples=100, deadline=None)
@given(layers())
def test_pytorch_has_the_same_gradients(conv: Conv) -> None:
    x, w, _, dy = whole(conv)
    leaves = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (x, w)]
    expected_dx, expected_dw = torch.autograd.grad(pytorch(conv, *leaves), leaves, torch.tensor(dy))
    np.testing.assert_array_equal(im2col(conv.adjoint(), dy, w), expected_dx.numpy())
    np.testing.assert_array_equal(weight_gradient(conv, x, dy), expected_dw.numpy())


@some
@given(st.sampled_from(MODES), st.integers(1, 3), st.integers(0, 4), st.integers(0, 4), st.data())
def test_pytorch_pads_the_same_in_every_mode(
    mode: Mode, dims: int, lo: int, hi: int, data: st.DataObject
) -> None:
    kernel = tuple(data.draw(st.integers(1, 3)) for _ in range(dims))
    shape = (1, 2, *(5 + d for d in range(dims)))
    conv = Conv.of(shape, 2, kernel, 2, ((lo, hi),) * dims, 1, 2, padding_mode=mode)
    x, w, _, dy = whole(conv)
    np.testing.assert_array_equal(im2col(conv, x, w), pytorch(conv, x, w).numpy())
    leaf = torch.tensor(w, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(pytorch(conv, x, leaf), leaf, torch.tensor(dy))
    np.testing.assert_array_equal(weight_gradient(conv, x, dy), expected.numpy())


@some
@given(convs(modes=("zeros",)))
def test_adjoint_identity(conv: Conv) -> None:
    """<A x, y> = <x, A' y>, exactly, for convolutions of every kind; and A'' is A."""
    x, w, _, y = whole(conv)
    forward, backward = im2col(conv, x, w), im2col(conv.adjoint(), y, w)
    assert (forward * y).sum() == (x * backward).sum()
    np.testing.assert_array_equal(im2col(conv.adjoint().adjoint(), x, w), forward)


@some
@given(convs(modes=("zeros",)))
def test_weight_adjoint_identity(conv: Conv) -> None:
    """<A_w x, y> = <w, dw>: the convolution is linear in the weight, too."""
    if conv.n:
        x, w, _, y = whole(conv)
        assert (im2col(conv, x, w) * y).sum() == (w * weight_gradient(conv, x, y)).sum()


@some
@given(convs())
def test_padded_computes_the_same_of_the_padded_image(conv: Conv) -> None:
    x, w, _, _ = whole(conv)
    names = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    width = [(0, 0), (0, 0), *(axis.overhang() for axis in conv.axes)]
    if x.size:
        x_padded = np.pad(x, width, mode=names[conv.mode])  # type: ignore[call-overload]
        np.testing.assert_array_equal(im2col(conv.padded(), x_padded, w), im2col(conv, x, w))


@some
@given(convs(dims=(1, 2)))
def test_exact_macs_are_the_multiplications_that_meet_a_pixel(conv: Conv) -> None:
    """An image of ones and a kernel of ones: each output counts its multiplications."""
    counted = im2col(conv, np.ones(conv.in_shape, int), np.ones(conv.weight_shape, int))
    assert counted.sum() == conv.exact_macs


@some
@given(convs(modes=("zeros",)))
def test_phases_compute_the_whole(conv: Conv) -> None:
    """Outputs of a phase are sums over its taps alone, each a strided view of the image."""
    x, w, _, _ = whole(conv)
    expected, (first, *others) = im2col(conv, x, w), conv.axes
    for phase in first.phases():
        summed = np.zeros_like(expected[:, :, phase.first :: phase.step])
        for k, source in zip(phase.taps, phase.sources, strict=True):
            end = source + (phase.count - 1) * phase.stride + 1
            view = Axis(first.size, 1, phase.stride, lo=-source, hi=end - first.size)
            place = first.kernel - 1 - k if conv.transposed else k  # as the weight is stored
            tap = replace(conv, axes=(view, *others))
            summed += im2col(tap, x, w[:, :, place : place + 1])
        np.testing.assert_array_equal(expected[:, :, phase.first :: phase.step], summed)


@some
@given(convs(), st.data())
def test_tiles_put_together_are_the_whole(conv: Conv, data: st.DataObject) -> None:
    x, w, bias, _ = whole(conv)
    y = np.full(conv.out_shape, 99)
    cuts = [data.draw(st.sets(st.integers(0, a.out)).map(sorted)) for a in conv.axes]
    edges = [sorted({0, *cut, a.out}) for cut, a in zip(cuts, conv.axes, strict=True)]
    for box in product(*(pairwise(along) for along in edges)):
        part = Tile.of(conv, box)
        crop = x[..., *(slice(*ends) for ends in part.inputs)]
        y[..., *(slice(*ends) for ends in part.outputs)] = im2col(part.conv, crop, w, bias)
    np.testing.assert_array_equal(y, im2col(conv, x, w, bias))


def test_padding_is_a_zero_that_is_multiplied_but_transposed_layers_have_none() -> None:
    """Infinite weights tell the difference, here as in PyTorch."""
    for line in ("conv2d 1x1x5x5 o1 k3 p1", "tconv2d 1x1x5x5 o1 k3 s2", "tconv2d 1x1x5x5 o1 k3"):
        conv = Conv.parse(line)
        x, w = np.ones(conv.in_shape), np.full(conv.weight_shape, np.inf)
        with np.errstate(invalid="ignore"):
            y = sliding_window(conv, x, w)
        np.testing.assert_array_equal(y, pytorch(conv, x, w).numpy())
        assert np.isnan(y).any() != conv.transposed


def test_im2col_is_fast_enough_to_test_against() -> None:
    conv = Conv.parse("conv2d 1x64x56x56 o64 k3 p1")
    x, w, _, _ = whole(conv)
    began = time.perf_counter()
    im2col(conv, x.astype(float), w.astype(float))
    assert time.perf_counter() - began < 1.0


@pytest.mark.parametrize(
    ("x", "w", "bias", "message"),
    [
        ((1, 1, 4), (1, 1, 3), None, r"x has shape \(1, 1, 4\). conv1d .* needs \(1, 1, 5\)"),
        ((1, 1, 5), (1, 3), None, r"w has shape \(1, 3\). conv1d .* needs \(1, 1, 3\)"),
        ((1, 1, 5), (1, 1, 3), (2,), r"bias has shape \(2,\). conv1d .* needs \(1,\)"),
    ],
)
def test_arrays_of_the_wrong_shape(
    x: tuple[int, ...], w: tuple[int, ...], bias: tuple[int, ...] | None, message: str
) -> None:
    conv = Conv.of((1, 1, 5), 1, 3)
    for compute in (sliding_window, im2col):
        with pytest.raises(ProblemError, match=message):
            compute(conv, np.ones(x), np.ones(w), None if bias is None else np.ones(bias))


def draws(conv: Conv) -> list[tuple[Array, Array, Array]]:
    """Random, positive, equal and unevenly scaled data: the ways rounding errors add up."""
    rng = np.random.default_rng(1)
    x, w, bias = (
        rng.standard_normal(s).astype(np.float32)
        for s in (conv.in_shape, conv.weight_shape, (conv.co,))
    )
    uneven = x * np.float32(1e-4) ** (np.arange(conv.ci).reshape(-1, *(1,) * conv.dims) % 2)
    equal = np.full_like(x, x.flat[0]), np.full_like(w, w.flat[0])
    return [(x, w, bias), (abs(x), abs(w), abs(bias)), (*equal, bias), (uneven, w, bias)]


LAYERS = [
    "conv1d 2x1x50 o3 k1",
    "conv1d 2x7x50 o3 k3 p1",
    "conv2d 1x64x9x9 o8 k3 p1",
    "conv2d 1x64x12x12 o8 k3 p1 g4",
    "tconv2d 1x16x6x6 o8 k4 s2 p1",
]


def summed_one_by_one(conv: Conv, x: Array, w: Array, bias: Array) -> Array:
    """Add one product after another in float32: the order with the largest error."""
    total = np.zeros(conv.out_shape, np.float32)
    inputs, group = np.arange(conv.ci), conv.ci // conv.groups
    for channel in range(group):
        one_each = (inputs % group == channel).reshape(-1, *(1,) * conv.dims)  # of every group
        for tap in np.ndindex(w.shape[2:]):
            only = np.zeros_like(w)
            only[..., *tap] = w[..., *tap]
            total = (total + im2col(conv, x * one_each, only)).astype(np.float32)
    return (total + bias.reshape(-1, *(1,) * conv.dims)).astype(np.float32)


@pytest.mark.parametrize("line", LAYERS)
def test_float32_sums_stay_within_the_tolerance(line: str) -> None:
    conv = Conv.parse(line)
    for x, w, bias in draws(conv):
        allowed = tolerance(conv, x, w, bias)
        assert allowed.shape == conv.out_shape
        error = abs(summed_one_by_one(conv, x, w, bias) - im2col(conv, x, w, bias))
        assert (error <= allowed).all()
        assert (allowed <= tolerance(conv, x, w, bias, "winograd")).all()


@pytest.mark.parametrize("line", LAYERS)
def test_one_tap_left_out_is_far_outside_the_tolerance(line: str) -> None:
    """Among the outputs that use the tap, which are not all where zeros are inserted."""
    conv = Conv.parse(line)
    x, w, bias = draws(conv)[0]
    wrong = w.copy()
    wrong[..., -1] = 0
    error = abs(im2col(conv, x, wrong, bias) - im2col(conv, x, w, bias))
    assert (error > tolerance(conv, x, w, bias))[error > 0].mean() > 0.99


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_rounding_the_result_as_it_is_stored_is_within_the_tolerance(dtype: str) -> None:
    conv = Conv.of((1, 8, 20), 4, 3, dtype=dtype)
    rng = np.random.default_rng(2)
    for scale in (1.0, 1e-4):  # 1e-4: the results are denormals of float16
        x = (scale * rng.standard_normal(conv.in_shape)).astype(dtype)
        w = (scale * rng.standard_normal(conv.weight_shape)).astype(dtype)
        exact = im2col(conv, x, w)
        assert (abs(exact.astype(dtype) - exact) <= tolerance(conv, x, w)).all()


def test_tolerance_of_nothing_is_a_few_denormals() -> None:
    conv = Conv.of((1, 1, 5), 1, 3)
    allowed = tolerance(conv, np.zeros((1, 1, 5)), np.zeros((1, 1, 3)))
    assert (allowed == 3 * float(np.finfo(np.float32).tiny)).all()


def test_an_algorithm_without_a_bound_is_refused() -> None:
    conv = Conv.of((1, 1, 5), 1, 3)
    with pytest.raises(
        ProblemError, match=r"algorithm='fft' has no bound\. Use direct or winograd"
    ):
        tolerance(conv, np.zeros((1, 1, 5)), np.zeros((1, 1, 3)), algorithm="fft")
    assert set(ROUNDING) == {
        "direct",
        "winograd",
        "cells",
        "upright",
        "fourier",
        "spectra",
        "spectrum",
    }
