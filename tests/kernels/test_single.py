"""One pixel and one tap: the same bits as the packed way, from the weights as they lie."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from llvm.assembly import MACHINES, Machine, functions
from llvm.test_strip_targets import loops, spills

import konv
from konv import dispatch, layer
from konv.geometry import Conv
from konv.kernels import single
from konv.llvm import assembly, describe
from konv.plan import Plan
from konv.runtime import weights

CHANNELS = (1, 2, 3, 8, 17, 33, 48, 100)
# The last: rows that crowd a cache, and long ones that do not.
PAIRS = [*product(CHANNELS, CHANNELS), (512, 33), (1024, 8), (512, 64), (600, 70)]


def arrays(ci: int, co: int, dtype: str, bias: bool = True) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(ci * 1000 + co)
    x, w = rng.standard_normal((1, ci, 1, 1)), rng.standard_normal((co, ci, 1, 1))
    b = rng.standard_normal(co) if bias else None
    return x.astype(dtype), w.astype(dtype), None if b is None else b.astype(dtype)


def taken() -> bool:
    """Whether the last layer was computed so."""
    *_, last = dispatch._layers.values()
    return last.single is not None


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("activation", [None, "relu", "silu"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_are_those_of_packed_weights(
    dtype: str, activation: str | None, transposed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is left over of channels, on one thread and on several; rows of the weight are
    outputs, or inputs if it is transposed, and runs of outputs long and short.
    """
    monkeypatch.setattr(single, "SHARED", 0)
    monkeypatch.setattr(single, "NUMBERS", 64)
    before = konv.get_num_threads()
    results: list[list[bytes]] = []
    try:
        real = layer.made
        for threads, way in ((1, real), (3, real), (1, lambda *_: None)):
            monkeypatch.setattr(layer, "made", way)
            konv.set_num_threads(threads)
            dispatch.forget()
            results.append([])
            for i, (ci, co) in enumerate(PAIRS):
                x, w, b = arrays(ci, co, dtype, i % 3 > 0)
                if transposed:
                    w = w.reshape(ci, co, 1, 1)
                conv = konv.conv_transpose2d if transposed else konv.conv2d
                y = conv(x, w, b, activation=activation)
                results[-1].append(y.tobytes())
                assert taken() == (way is real)
    finally:
        konv.set_num_threads(before)
    assert results[0] == results[1] == results[2]


def test_nothing_is_packed_and_changes_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, b = arrays(20, 30, "float32")
    konv.conv2d(x, w, b)
    monkeypatch.setattr(weights, "pack", None)
    for _ in range(3):
        expected = (w[:, :, 0, 0].astype("float64") @ x[0, :, 0, 0] + b).astype("float32")
        assert np.allclose(konv.conv2d(x, w, b)[0, :, 0, 0], expected, rtol=1e-4, atol=1e-5)
        w *= -2
        b += 1


def test_tensors_of_either_format() -> None:
    """The result lies as PyTorch's."""
    for memory in (torch.contiguous_format, torch.channels_last):
        x, w, b = (torch.from_numpy(a) for a in arrays(20, 30, "float32"))
        x, w = x.to(memory_format=memory), w.to(memory_format=memory)
        y, expected = konv.conv2d(x, w, b), torch.conv2d(x, w, b)
        assert taken()
        assert y.stride() == expected.stride()
        assert torch.allclose(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "line",
    [
        "conv2d 2x20x1x1 o30 k1", "conv2d 1x20x1x2 o30 k1", "conv2d 1x20x1x1 o30 k3 p1",
        "conv2d 1x20x1x1 o30 k1 g2", "tconv2d 1x20x1x1 o30 k2", "conv2d 1x20x1x1 o30 k1 f16",
    ],
)  # fmt: skip
def test_what_it_leaves_to_others(line: str) -> None:
    """Other pixels, taps, groups, precisions."""
    conv = Conv.parse(line)
    plan = Plan("direct", conv.dtype, False, False, 4, 3)
    strides = conv.ci, 1, 1, 1
    assert not single.fits(conv, plan, strides, strides)


def test_crowded_rows_of_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows 2048 bytes apart, which need not be full."""
    monkeypatch.setattr(weights, "pack", None)
    for ci in (1, 15, 16, 37, 512):
        x, w, b = arrays(512, 45, "float32")
        x, w = x[:, :ci], w[:, :ci]
        expected = (w[:, :, 0, 0].astype("float64") @ x[0, :, 0, 0] + b).astype("float32")
        assert np.allclose(konv.conv2d(x, w, b)[0, :, 0, 0], expected, rtol=1e-4, atol=1e-4)


def test_strides_that_it_leaves_to_others() -> None:
    conv = Conv.parse("conv2d 1x20x1x1 o30 k1")
    plan, dense = Plan("direct", "float32", False, False, 4, 3), (20, 1, 1, 1)
    assert single.fits(conv, plan, dense, dense)
    assert not single.fits(conv, plan, (40, 2, 1, 1), dense)
    assert not single.fits(conv, plan, dense, (1, 30, 1, 1))
    assert not single.fits(conv, Plan("another", "float32", True, True, 4, 3), dense, dense)
    assert not single.fits(
        conv, Plan("direct", "float32", False, False, 4, 3, residual=True), dense, dense
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("row", [30, 512, 600, 0])
@pytest.mark.parametrize("machine", MACHINES, ids=str)
def test_sums_stay_in_registers(machine: Machine, row: int, dtype: str) -> None:
    """0: of a transposed layer."""
    target = describe(machine.triple, machine.cpu, "")
    like = Plan("direct", dtype, False, False, 4, 3)
    plan = single.plan_like(like, target, (row, 1, 1, 1), transposed=not row)
    found = functions(assembly(single.emit(plan, target)))
    for name, lines in found.items():
        assert not spills(loops(lines)), name
