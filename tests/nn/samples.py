"""PyTorch's own tests of its convolutions: the samples, errors and layers it registers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

import konv.nn

DIMS = (1, 2, 3)
FUNCTIONS = [f"conv{kind}{dims}d" for kind in ("", "_transpose") for dims in DIMS]
LAYERS = [f"{lazy}Conv{kind}{dims}d" for lazy in ("", "Lazy") for kind in ("", "Transpose")
          for dims in DIMS]  # fmt: skip


@cache
def operator(name: str) -> Any:
    """PyTorch's OpInfo of a function. Loading them takes seconds, so only the tests do it."""
    with warnings.catch_warnings(action="ignore"):
        from torch.testing._internal.common_methods_invocations import op_db
    return next(op for op in op_db if op.name == f"nn.functional.{name}")


@cache
def module(name: str) -> Any:
    """PyTorch's ModuleInfo of a layer."""
    with warnings.catch_warnings(action="ignore"):
        from torch.testing._internal.common_modules import module_db
    return next(info for info in module_db if info.module_cls is getattr(torch.nn, name))


def samples(name: str, dtype: torch.dtype, requires_grad: bool = False) -> list[Any]:
    """SampleInputs of a function, the same in every run."""
    torch.manual_seed(0)
    found = list(operator(name).sample_inputs("cpu", dtype, requires_grad=requires_grad))
    assert len(found) > 3
    return found


def ours(name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(konv.nn, name)
    return function


def theirs(name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(torch.nn.functional, name)
    return function


def double(a: Any) -> Any:
    """The same in float64, where it is a tensor of real numbers."""
    return a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a


TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 2e-4,  # of numbers up to 9, in sums of some dozens
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}


def near(got: Any, expected: Any, dtype: torch.dtype) -> None:
    """Equal but for the rounding of `dtype`, relative to the largest number."""
    __tracebackhide__ = True
    assert got.shape == expected.shape
    assert got.dtype == dtype
    largest = expected.abs().max().item() if expected.numel() else 0.0
    atol = TOLERANCE[dtype] * max(1.0, largest) / 10
    torch.testing.assert_close(got.double(), expected.double(), rtol=0, atol=atol)
