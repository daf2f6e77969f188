"""PyTorch's quantized models stay as they are; what is to be quantized is given back first."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao import quantization

import konv

X = torch.randn(1, 3, 12, 13, generator=torch.Generator().manual_seed(0))
pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch moves this to a package of its own


def model() -> Any:
    torch.manual_seed(0)
    inner = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)
    m = nn.Sequential(quantization.QuantStub(), *inner, quantization.DeQuantStub()).eval()
    m.qconfig = quantization.get_default_qconfig("x86")
    return m


def quantized(m: Any) -> Any:
    prepared = quantization.prepare(m)
    prepared(X)
    return quantization.convert(prepared)


def test_a_quantized_model_is_left_alone() -> None:
    """In place or frozen, nothing of it is konv's and it returns the same bits."""
    m = quantized(model())
    kinds, right = [type(part) for part in m.modules()], m(X)
    frozen = konv.accelerate(m, X, freeze=True)
    assert torch.equal(frozen(X), right)
    assert konv.accelerate(m) is m
    assert [type(part) for part in m.modules()] == kinds
    assert torch.equal(m(X), right)


def test_quantized_after_it_was_given_back() -> None:
    """The same model as if it had never been accelerated."""
    m = model()
    right: Tensor = quantized(copy.deepcopy(m))(X)
    konv.accelerate(m)(X)
    assert torch.equal(quantized(konv.restore(m))(X), right)
