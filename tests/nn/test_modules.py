"""Layers beyond PyTorch's own: padding, names, hooks, changed weights, errors."""

from __future__ import annotations

import builtins
import inspect
import pickle
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from nn.samples import LAYERS
from torch import nn
from torch.nn.utils import parametrizations, prune

import konv
import konv.nn


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", LAYERS)
def test_the_constructor_is_pytorchs(name: str) -> None:
    ours, theirs = getattr(konv.nn, name), getattr(nn, name)
    assert issubclass(ours, theirs)
    assert inspect.signature(ours) == inspect.signature(theirs)
    assert ours.__doc__
    assert name in konv.nn.__all__


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_padding_beyond_pytorchs(mode: str) -> None:
    """The layer is konv's function with these arguments; pickled and shown with them."""
    x = images(2, 3, 8, 7)
    for options in ({"padding": "same", "stride": 2}, {"padding": "causal"},
                    {"padding": ((0, 1), (2, 0)), "stride": 2}):  # fmt: skip
        layer = konv.nn.Conv2d(3, 4, 3, padding_mode=mode, **options)
        expected = konv.conv2d(x, layer.weight, layer.bias, padding_mode=mode, **options)
        assert torch.equal(layer(x), expected)
        assert f"padding={options['padding']}" in repr(layer)
    for padding in (1, ((0, 1), (1, 0))):
        up = konv.nn.ConvTranspose2d(3, 4, 3, 2, padding, padding_mode=mode)
        expected = konv.conv_transpose2d(x, up.weight, up.bias, 2, padding, padding_mode=mode)
        assert torch.equal(up(x), expected)
        size = (expected.shape[2] + 1, expected.shape[3])
        assert up(x, output_size=size).shape[2:] == size


def test_numbers_that_fit_no_layer() -> None:
    with pytest.raises(konv.ProblemError, match="padding='casual' is unknown"):
        konv.nn.Conv2d(3, 4, 3, padding="casual")
    with pytest.raises(konv.ProblemError, match="undefined for a transposed"):
        konv.nn.ConvTranspose2d(3, 4, 3, padding="same")
    with pytest.raises(konv.ProblemError, match="padding_mode='mirror' is unknown"):
        konv.nn.ConvTranspose2d(3, 4, 3, padding_mode="mirror")
    with pytest.raises(ValueError, match="divisible by groups"):
        konv.nn.Conv2d(3, 4, 3, groups=2)
    with pytest.raises(TypeError):
        konv.nn.Conv2d(3, 4)


def test_after_an_error_all_is_as_before() -> None:
    layer, x = konv.nn.Conv2d(3, 4, 3, padding=1), images(2, 3, 6, 6)
    expected = layer(x)
    with pytest.raises(konv.ProblemError, match="x has 5 channels"):
        layer(images(2, 5, 6, 6))
    with pytest.raises(RuntimeError):
        layer(x.double())
    with pytest.raises(RuntimeError):
        layer(images(2, 3))
    assert torch.equal(layer(x), expected)
    layer(x).sum().backward()
    assert layer.weight.grad is not None


def test_a_bias_that_moved_is_not_lost() -> None:
    """Also where the layer is remembered."""
    x, w, b = images(2, 3, 6, 6), images(4, 3, 3, 3).requires_grad_(), images(4)
    konv.conv2d(x, w, b, padding=1, padding_mode="circular")
    with pytest.raises(konv.UnsupportedError, match=r"bias is a .* on meta"):
        konv.conv2d(x, w, b.to("meta"), padding=1, padding_mode="circular")


def test_depthwise_separable() -> None:
    """Two layers in one, with every number where it belongs."""
    layer = konv.nn.DepthwiseSeparableConv2d(
        4, 6, 3, 2, 1, dilation=1, padding_mode="reflect", depth_multiplier=2
    )
    x = images(2, 4, 8, 8)
    between = torch.nn.functional.pad(x, (1, 1, 1, 1), "reflect")
    between = torch.nn.functional.conv2d(between, layer.depthwise.weight, None, 2, groups=4)
    expected = torch.nn.functional.conv2d(between, layer.pointwise.weight, layer.pointwise.bias)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    assert layer.depthwise.bias is None
    assert konv.nn.DepthwiseSeparableConv2d(4, 6, 3, bias=False).pointwise.bias is None


def test_hooks_pruning_and_weight_norm() -> None:
    seen: list[Any] = []
    layer, theirs = konv.nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    theirs.load_state_dict(layer.state_dict())
    layer.register_forward_hook(lambda *a: seen.append(a[2].shape))
    x = images(1, 3, 6, 6)
    for change in (
        lambda m: prune.l1_unstructured(m, "weight", amount=0.5),
        lambda m: prune.remove(m, "weight"),
        parametrizations.weight_norm,
    ):
        for m in (layer, theirs):
            change(m)
        torch.testing.assert_close(layer(x), theirs(x), rtol=1e-5, atol=1e-5)
    assert len(seen) == 3
    assert layer.state_dict().keys() == theirs.state_dict().keys()


def _step(layer: Any) -> None:
    torch.optim.SGD(layer.parameters(), lr=0.5).step()


def _data(layer: Any) -> None:
    layer.weight.data[1, 2, 0, 1] += 1


def _numpy(layer: Any) -> None:
    layer.weight.detach().numpy()[0, 0, 0, 0] += 1


def _load(layer: Any) -> None:
    layer.load_state_dict({k: v + 1 for k, v in layer.state_dict().items()})


def _inference(layer: Any) -> None:
    with torch.inference_mode():
        layer.weight.copy_(layer.weight * 2)


@pytest.mark.parametrize("change", [_step, _data, _numpy, _load, _inference])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_changed_weight_is_seen(change: Callable[[Any], None], transposed: bool) -> None:
    """Forward and backward, whichever way it changed."""
    name = "ConvTranspose2d" if transposed else "Conv2d"
    layer = getattr(konv.nn, name)(16, 16, 3, padding=1)
    theirs = getattr(nn, name)(16, 16, 3, padding=1)
    x = images(1, 16, 8, 8).requires_grad_()
    before = layer(x)
    before.square().sum().backward()
    for _ in range(2):
        change(layer)
        theirs.load_state_dict(layer.state_dict())
        results = []
        for m in (layer, theirs):
            y = m(x)
            results.append((y, *torch.autograd.grad(y.square().sum(), (x, m.weight))))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.detach().abs().max()))
        assert not np.array_equal(results[0][0].detach(), before.detach())


def test_an_overwritten_weight_is_an_error_in_the_backward_pass() -> None:
    """As everywhere in PyTorch: what is saved for it may not change before it."""
    layer = konv.nn.Conv2d(3, 4, 3)
    y = layer(images(1, 3, 6, 6).requires_grad_())
    with torch.no_grad():
        layer.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_without_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra."""
    for name in [n for n in sys.modules if n == "konv.nn" or n.startswith("konv.nn.")]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'konv\[torch\]'"):
        __import__("konv.nn")


def test_settings_may_change_after_calls() -> None:
    """Settings are read at each call: other tuples, equal ones, lists; after pickling too."""
    x = torch.ones(1, 2, 9, 9)
    layer, theirs = konv.nn.Conv2d(2, 3, 3), nn.Conv2d(2, 3, 3)
    theirs.load_state_dict(layer.state_dict())
    for name, value in (
        ("padding", (1, 1)), ("stride", (2, 2)), ("stride", tuple(map(int, "22"))),
        ("dilation", (2, 2)), ("stride", (1, 1)), ("padding", [0, 0]),
    ):  # fmt: skip
        setattr(layer, name, value)
        setattr(theirs, name, value)
        for each in (layer, pickle.loads(pickle.dumps(layer))):
            for _ in range(2):
                torch.testing.assert_close(each(x), theirs(x), rtol=1e-4, atol=1e-4)
    layer.stride = (True, True)
    with pytest.raises(TypeError, match="stride"):
        layer(x)


def test_equal_layers_share_their_settings() -> None:
    """So that a call of either recognises the objects; also where a layer was unpickled."""
    a, b = (konv.nn.Conv2d(2, 3, 3, stride=(2, 1)) for _ in range(2))
    c = pickle.loads(pickle.dumps(a))
    assert a.stride is b.stride is c.stride
    assert a.padding is b.padding is c.padding
