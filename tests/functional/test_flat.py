"""Layers that are matrix products: which these are, their numbers, their bits."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from functional.case import Case
from functional.check import check, forget, recording, threads
from functional.flat import EITHER, LINES, flat_cases

import konv
from konv import llvm
from konv.analyze import explain
from konv.arrays import dense_strides
from konv.bench.tuning import tune
from konv.geometry import Conv
from konv.runtime import execute, weights
from konv.runtime.flat import Form, flattened


def form(line: str, x: bool = False, weight: bool = False, y: bool = False) -> Form | None:
    """What a layer is as a product, its arrays contiguous or channels-last."""
    conv = Conv.parse(line)
    arrays = ((conv.in_shape, x), (conv.out_shape, y), (conv.weight_shape, weight))
    return flattened(conv, *(dense_strides(*array) for array in arrays), llvm.detect())


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("line", LINES)
def test_which_are(line: str, n: int) -> None:
    """Input, output and weight of one tap; images are pixels."""
    conv = Conv.parse(line.format(n))
    found = form(str(conv))
    assert found is not None
    assert found.conv.params == conv.params
    assert [axis.kernel for axis in found.conv.axes] == [1]
    assert found.conv.in_shape == (1, conv.ci * _pixels(conv.in_shape), n)
    assert found.conv.out_shape == (1, conv.co * _pixels(conv.out_shape), n)


def _pixels(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape[2:]))


@pytest.mark.parametrize(
    "line",
    [
        "conv2d 1x40x4x4 o40 k3", "conv2d 1x40x4x4 o40 k4 p1", "conv2d 1x40x4x4 o40 k4 p0:1x0",
        "conv2d 1x40x3x3 o40 k2 d2", "conv2d 1x40x4x4 o40 k4 g2", "conv2d 1x40x4x5 o40 k4",
        "conv2d 1x40x4x4 o3 k4", "tconv2d 1x40x1x2 o40 k4", "tconv2d 1x40x1x1 o40 k4 p1",
        "tconv2d 1x40x1x1 o40 k4 s2 r1", "tconv2d 1x40x1x1 o40 k3 d2", "tconv2d 1x40x1x1 o40 k4 g2",
        "tconv2d 1x40x1x1 o1 k1",
    ],
)  # fmt: skip
def test_which_are_not(line: str) -> None:
    """Taps that miss pixels or meet padding, groups, too few outputs to fill a vector."""
    assert form(line) is None


def test_arrays_that_do_not_lie_so() -> None:
    """Images with gaps, and images to be written in another order than the weight lies."""
    conv, target = Conv.parse("conv2d 1x7x4x3 o37 k4x3"), llvm.detect()
    dense = dense_strides(conv.weight_shape, False)
    assert flattened(conv, (84, 12, 3, 1), (37, 1, 1, 1), dense, target) is not None
    assert flattened(conv, (999, 12, 3, 1), (37, 1, 1, 1), dense, target) is not None
    for x in ((168, 24, 3, 1), (168, 12, 4, 1), (168, 12, 1, 4), (168, 24, 6, 2)):
        assert flattened(conv, x, (37, 1, 1, 1), dense, target) is None
    spread = "tconv2d 1x7x1x1 o9 k4x3"
    assert form(spread, weight=True) is None
    assert form(spread, y=True) is None
    assert form(spread, weight=True, y=True) is not None
    assert form("tconv2d 1x20x1x1 o40 k1", y=True) is not None


@pytest.mark.parametrize("dtype", ["", "f64", "f16"])
def test_numbers(dtype: str) -> None:
    """Of functions, in every layout, with and without bias."""
    for case in flat_cases((dtype,)):
        with recording():
            forget()
            check(case)


def test_epilogues() -> None:
    """Biases, activations and residuals are those of the channels that the user sees."""
    for case in flat_cases():
        for residual in ("contiguous", "last", "out"):
            out = "contiguous" if residual == "out" else ""
            check(replace(case, activation="silu", residual=residual, out=out))


def test_prepared_layers_have_the_bits_of_functions() -> None:
    for case in flat_cases():
        x, w, b = case.arrays()
        y = case.function(x, w, b, **case.arguments)
        layer = konv.prepare(case.conv, w, b)
        for each in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            z = each(x)
            assert (z.tobytes(), z.strides) == (y.tobytes(), y.strides), str(case)
            assert np.array_equal(each.weight, w)


def test_no_bit_depends_on_batch_or_threads() -> None:
    for case in flat_cases():
        if case.conv.n == 1:
            continue
        x, w, b = case.arrays()
        whole = []
        for count in (1, 2, 3):
            with threads(count):
                whole.append(case.function(x, w, b, **case.arguments))
        alone = [case.function(x[i : i + 1], w, b, **case.arguments) for i in range(len(x))]
        assert whole[0].tobytes() == whole[1].tobytes() == whole[2].tobytes()
        assert np.array_equal(whole[0], np.concatenate(alone)), str(case)


def test_weights_are_read_as_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one image whose numbers lie as its weights; so their changes are seen."""
    monkeypatch.setattr(weights, "pack", None)
    for case in flat_cases():
        if case.conv.n > 1 or (case.x != case.w and case.conv.in_shape[2:] != (1, 1)):
            continue
        if case.conv.transposed and case.x != case.w:
            continue
        x, w, b = case.arrays()
        x, w = (np.array(a, copy=True) for a in (x, w))
        for _ in range(2):
            y = case.function(x, w, b, **case.arguments)
            assert np.allclose(y, _right(case, x, w, b), rtol=1e-4, atol=1e-4), str(case)
            w *= -2


def _right(case: Case, x: Any, w: Any, b: Any) -> Any:
    x, w, b = (None if a is None else torch.from_numpy(np.asarray(a)) for a in (x, w, b))
    dims, terms = case.conv.dims, case.terms
    name = f"conv{'_transpose' * case.conv.transposed}{dims}d"
    stride = tuple(term.stride for term in terms)
    return getattr(torch.nn.functional, name)(x, w, b, stride)[
        (..., *[slice(axis.out) for axis in case.conv.axes])
    ].numpy()


def test_a_pinned_plan_computes_the_layer_as_it_is() -> None:
    x, w = np.ones((1, 20, 3, 3), "f4"), np.ones((30, 20, 3, 3), "f4")
    with recording() as jobs:
        konv.conv2d(x, w)
        konv.conv2d(x, w, plan="direct")
    assert jobs[0].words.tolist() != jobs[1].words.tolist()


def test_gradients_are_products_too() -> None:
    """Of the layer between an image and a pixel the input's gradient is one from pixel to image."""
    made = list[Form]()
    real = execute.form_of

    def kept(*arguments: Any) -> Form:
        made.append(real(*arguments))
        return made[-1]

    x = torch.randn(3, 20, 4, 4, requires_grad=True)
    w = torch.randn(30, 20, 4, 4, requires_grad=True)
    want = torch.autograd.grad(torch.conv2d(x, w).square().sum(), (x, w))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute, "form_of", kept)
        forget()
        got = torch.autograd.grad(konv.conv2d(x, w).square().sum(), (x, w))
    assert [form.conv.transposed for form in made if form.plan] == [False, True]
    for a, b in zip(got, want, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-2)


def test_it_is_explained_and_not_tuned() -> None:
    found = explain.explain(Conv.parse("conv2d 3x20x4x4 o30 k4"))
    assert [road.product for road in found.roads.values()] == [(3, 320, 30)] * 2
    assert [road.plan.algorithm for road in found.roads.values()] == ["direct"] * 2
    assert explain.explain(Conv.parse("conv2d 1x20x4x4 o30 k3")).roads["contiguous"].product is None
    tuned = tune("conv2d 1x20x4x4 o30 k4", layouts=["contiguous"], seconds=0.01)
    assert tuned[0].refused == "it is a matrix product, computed in one way"


@pytest.mark.parametrize("memory", EITHER)
def test_prepared_results_lie_as_those_of_functions(memory: str) -> None:
    """A weight that lies channels-last asks for it, of a layer that is no product, too."""
    case = Case.parse(f"conv2d 2x3x7x6 o5 k3 / w={memory}")
    x, w, _ = case.arrays()
    assert konv.prepare(case.conv, w)(x).strides == konv.conv2d(x, w).strides
