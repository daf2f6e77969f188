"""Packed weights, number by number: what `pack` writes is what a few lines of NumPy say."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import pytest
from functional.forms import FORMS
from functional.shrink import shrunk

from konv import llvm
from konv.geometry import Conv
from konv.kernels import ALGORITHMS as ALL
from konv.kernels import by_name, depthwise, direct
from konv.kernels.pack import HEADER
from konv.plan import Plan
from konv.runtime import weights
from konv.runtime.code import kernel
from konv.runtime.threads import team
from konv.target import BYTES

ALGORITHMS = (depthwise, direct)  # tests/kernels/test_strips.py has the others
Array = np.ndarray[Any, Any]
LAYOUTS = ((True, True), (False, False))
FILL = 0xAB

# Channel counts around a vector, several blocks and a tail; grouped; depthwise; both dtypes; every
# number of axes; kernels that are 1 on some axes, where a weight has no one step between taps.
PROBLEMS = [
    "conv2d 1x5x9x9 o1 k3",
    "conv2d 1x3x9x9 o15 k3x2",
    "conv2d 1x4x9x9 o16 k2x3",
    "conv2d 1x7x9x9 o83 k3",
    "conv2d 1x6x9x9 o150 k1",
    "conv2d 1x5x9x9 o18 k1x3",
    "conv2d 1x5x9x9 o18 k3x1",
    "conv2d 1x12x9x9 o51 k3 g3",
    "conv2d 1x6x9x9 o6 k2 g2",
    "conv2d 1x4x9x9 o40 k3 g4",
    "conv2d 1x83x9x9 o83 k3 g83",
    "conv2d 1x2x9x9 o2 k1x3 g2",
    "conv1d 1x5x20 o20 k4",
    "conv3d 1x3x5x5x5 o20 k2x3x2",
    "conv3d 1x3x5x5x5 o20 k2x1x2",
    "tconv2d 1x5x9x9 o19 k3x2 s2",
    "tconv2d 1x12x9x9 o51 k3 s2 g3",
    "tconv2d 1x35x9x9 o35 k3x4 s2 g35",
    "tconv2d 1x5x9x9 o18 k1x3 s2",
    "tconv1d 1x5x9 o19 k4 s2",
    "tconv3d 1x3x4x4x4 o9 k2x1x3 s2 g3",
]
every_problem = pytest.mark.parametrize("line", PROBLEMS)
every_dtype = pytest.mark.parametrize("dtype", ["", " f64"], ids=["float32", "float64"])


def model(conv: Conv, plan: Plan, lanes: int, w: Array, bias: Array | None) -> Array:
    """The packed numbers after the header, by a plan's algorithm."""
    taps = prod(axis.kernel for axis in conv.axes)
    ci, co, groups = conv.ci // conv.groups, conv.co // conv.groups, conv.groups
    if conv.transposed:
        w = np.flip(w, axis=tuple(range(2, w.ndim)))
        w = w.reshape(groups, ci, co, taps).swapaxes(1, 2)
    return MODELS[plan.algorithm](plan, lanes, w.reshape(groups, co, ci, taps), bias)


def blocks_of_one_group(plan: Plan, lanes: int, w: Array, bias: Array | None) -> Array:
    """As `blocks`, the channels of all groups side by side."""
    groups, co, ci, taps = w.shape
    assert ci == co == 1
    return blocks(plan, lanes, w.reshape(1, groups, 1, taps), bias)


def blocks(plan: Plan, lanes: int, w: Array, bias: Array | None) -> Array:
    """A block has all its taps and channels, then come biases.

    Per group and block of up to `vectors` vectors of output channels: [tap][ci][channel], zeros in
    the lanes that no channel fills. Taps in the order of the axes: transposed weights are turned.
    """
    groups, co, _, taps = w.shape
    padded, block = -(-co // lanes) * lanes, plan.vectors * lanes
    full = np.zeros((groups, padded, w.shape[2], taps), w.dtype)
    full[:, :co] = w
    parts = [
        full[g, k : k + block].transpose(2, 1, 0).ravel()
        for g in range(groups)
        for k in range(0, padded, block)
    ]
    biases = np.zeros((groups, padded), w.dtype)
    if bias is not None:
        biases[:, :co] = bias.reshape(groups, co)
    return np.concatenate([*parts, biases.ravel()])


def narrow_blocks(plan: Plan, lanes: int, w: Array, bias: Array | None) -> Array:
    """Per group and block of up to nc output channels: [ci][tap][channel], then the biases; nothing
    is rounded up.
    """
    groups, co, _, _ = w.shape
    parts = [
        w[g, k : k + plan.form[0]].transpose(1, 2, 0).ravel()
        for g in range(groups)
        for k in range(0, co, plan.form[0])
    ]
    biases = np.zeros(groups * co, w.dtype) if bias is None else bias
    return np.concatenate([*parts, biases])


MODELS = {"depthwise": blocks_of_one_group, "planar": narrow_blocks, "direct": blocks}
BY_TAP = {depthwise.name, direct.name}  # whose kernels may leave out taps of padding


def packed(conv: Conv, plan: Plan, w: Array, bias: Array | None) -> tuple[Array, int]:
    """The numbers that konv packs, and the word before them; every byte of them was written."""
    strides = tuple(s // w.itemsize for s in w.strides)
    address = 0 if bias is None else bias.ctypes.data
    found = weights.pack(conv, plan, kernel(plan), w.ctypes.data, strides, address)
    assert found.address % 64 == 0
    assert found.size == weights.packed_bytes(conv, plan, llvm.detect())
    begin = found.address - found.array.ctypes.data
    body = found.array[begin + HEADER : begin + found.size]
    outside = np.concatenate([found.array[:begin], found.array[begin + found.size :]])
    assert (outside == FILL).all(), "written beside"
    return body.view(conv.dtype), int(found.array[begin : begin + 8].view(np.int64)[0])


@pytest.fixture(autouse=True)
def filled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for packed weights is full of FILL, which are no numbers of these tests."""

    def fresh(self: weights.Packed, size: int, digest: int) -> None:
        before(self, size, digest)
        self.array[:] = FILL

    before = weights.Packed.__init__
    monkeypatch.setattr(weights.Packed, "__init__", fresh)


def drawn(conv: Conv, form: str) -> tuple[Array, Array]:
    """A weight that lies in some form, and a bias; every number is another one, none is 0."""
    count = conv.params + conv.co
    numbers = np.random.default_rng(0).permutation(np.arange(1, count + 1)).astype(conv.dtype)
    w: Any = numbers[: conv.params].reshape(conv.weight_shape)
    return FORMS[form](w, Any), np.ascontiguousarray(numbers[conv.params :])  # type: ignore[arg-type]


def plans(conv: Conv, all_of_them: bool = False) -> list[tuple[Conv, Plan]]:
    """Plans of every algorithm that is modelled here and takes it."""
    target, found = llvm.detect(), list[tuple[Conv, Plan]]()
    for algorithm in map(by_name, MODELS):
        if algorithm.why_not(conv, target) is None:
            some = algorithm.plans(conv, target, *LAYOUTS[0])
            found += [(conv, plan) for plan in (some if all_of_them else some[:1])]
    return found


@pytest.mark.parametrize("form", ["contiguous", "last"])
@every_dtype
@every_problem
def test_layout(line: str, dtype: str, form: str) -> None:
    """With a bias and without, from either memory format."""
    for conv, plan in plans(Conv.parse(line + dtype)):
        w, bias = drawn(conv, form)
        lanes = llvm.detect().vector_bytes // BYTES[conv.dtype]
        for given in (bias, None):
            got, finite = packed(conv, plan, w, given)
            want = model(conv, plan, lanes, w, given)
            assert got.shape == want.shape, f"{conv}, {plan}"
            assert np.array_equal(got, want), f"{conv}, {plan}: from {np.argmax(got != want)} on"
            assert finite == 1


@pytest.mark.parametrize("line", ["conv2d 1x7x9x9 o83 k3", "conv2d 1x83x9x9 o83 k3 g83"])
def test_every_register_tile(line: str) -> None:
    """Blocks of any number of vectors."""
    for conv, plan in plans(Conv.parse(line), all_of_them=True):
        w, bias = drawn(conv, "contiguous")
        want = model(conv, plan, llvm.detect().lanes(conv.dtype), w, bias)
        assert np.array_equal(packed(conv, plan, w, bias)[0], want), str(plan)


def test_both_layouts_of_images_share() -> None:
    """Plans of one algorithm with as many vectors pack alike, whatever their inputs and outputs."""
    target = llvm.detect()
    for line in PROBLEMS[3:11:3]:
        conv = Conv.parse(line)
        w, bias = drawn(conv, "contiguous")
        for algorithm in map(by_name, MODELS):
            if algorithm.why_not(conv, target) is None:
                ways = [algorithm.plans(conv, target, *layouts)[0] for layouts in LAYOUTS]
                assert ways[0].vectors == ways[1].vectors
                bodies = [packed(conv, plan, w, bias)[0] for plan in ways]
                assert np.array_equal(*bodies)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
@every_dtype
@pytest.mark.parametrize("line", [PROBLEMS[1], PROBLEMS[7], PROBLEMS[10], PROBLEMS[16]])
def test_finite(line: str, dtype: str, odd: float) -> None:
    """The flag falls for any weight that is not, wherever; large and denormal ones are. Where no
    tap is ever left out it says nothing.
    """
    for conv, plan in plans(Conv.parse(line + dtype)):
        w, bias = drawn(conv, "contiguous")
        limits = np.finfo(conv.dtype)
        w[:] = np.resize(
            [limits.max, -limits.max, limits.tiny, limits.smallest_subnormal, 0], w.shape
        )
        assert packed(conv, plan, w, bias)[1] == 1
        flat = w.reshape(-1)
        for at in {0, 1, flat.size // 2, flat.size - 2, flat.size - 1}:
            old, flat[at] = flat[at], odd
            got, finite = packed(conv, plan, w, bias)
            assert finite == (plan.algorithm not in BY_TAP), f"{conv}: number {at}"
            want = model(conv, plan, llvm.detect().lanes(conv.dtype), w, bias)
            assert np.array_equal(got, want, equal_nan=True)
            flat[at] = old


SHARED = [
    "conv2d 1x40x9x9 o180 k3",
    "conv2d 1x64x9x9 o166 k3 g2",
    "conv2d 1x64x30x30 o64 k3 p1",
    "tconv2d 1x50x9x9 o45 k4 s2",
    "tconv2d 1x40x9x9 o33 k5 s3",
]


@pytest.mark.parametrize("form", ["contiguous", "last"])
@pytest.mark.parametrize("line", SHARED)
def test_threads_share_the_work(line: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of threads packs the same bytes, and the flag, by every algorithm."""
    monkeypatch.setattr(weights, "LARGE", 1)
    conv, target = Conv.parse(line), llvm.detect()
    w, bias = drawn(conv, form)
    strides = tuple(s // w.itemsize for s in w.strides)
    for algorithm in ALL:
        if algorithm.why_not(conv, target) is not None:
            continue
        for plan in algorithm.plans(conv, target, *LAYOUTS[0])[:1]:
            for odd in (1.0, np.nan):
                w.reshape(-1)[-1] = odd
                address = w.ctypes.data, strides, bias.ctypes.data
                found = [
                    weights.pack(
                        conv, plan, kernel(plan), *address, 0, replace(team(), threads=count)
                    )
                    for count in (1, 2, 5)
                ]
                bodies = [
                    each.array[each.address - each.array.ctypes.data :][: each.size].tobytes()
                    for each in found
                ]
                assert bodies[0] == bodies[1] == bodies[2], f"{plan}"


def test_zeros_and_their_signs() -> None:
    """A bias of -0 becomes 0; one that is not finite says nothing of the weights."""
    for conv, plan in plans(Conv.parse(PROBLEMS[1])):
        w, bias = drawn(conv, "contiguous")
        w[:], bias[:] = -0.0, -0.0
        body, finite = packed(conv, plan, w, bias)
        assert finite == 1
        assert not np.signbit(body[-conv.co :]).any()
        bias[0] = np.inf
        assert packed(conv, plan, w, bias)[1] == 1


@every_problem
def test_bytes_are_few(line: str) -> None:
    """As many as are written, and no more than the weight and bias with every group's channels
    rounded up to a vector.
    """
    target = llvm.detect()
    for conv, plan in plans(Conv.parse(line)):
        groups = 1 if plan.algorithm == "depthwise" else conv.groups
        lanes, co = target.lanes(conv.dtype), conv.co // groups
        rounded = groups * -(-co // lanes) * lanes
        each = conv.params // conv.co + 1
        numbers = len(model(conv, plan, lanes, *drawn(conv, "contiguous")))
        assert weights.packed_bytes(conv, plan, target) == HEADER + numbers * 4
        assert numbers <= rounded * each
        small = shrunk(conv, plan, target)
        assert weights.packed_bytes(small, plan, target) <= HEADER + rounded * each * 4
