"""The functions, on PyTorch's own samples (OpInfo): forward, gradients of all kinds, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nn.samples import FUNCTIONS, double, near, operator, ours, samples, theirs
from torch.autograd import gradcheck, gradgradcheck

import konv

REAL = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Legacy parts of PyTorch that its own checks pass through.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning", "ignore:Using padding='same' with even:UserWarning"
)


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_forward(name: str, dtype: torch.dtype) -> None:
    """Also of tensors with steps between their numbers, and by konv.conv2d and its kin."""
    for sample in samples(name, dtype):
        expected = theirs(name)(*map(double, (sample.input, *sample.args)), **sample.kwargs)
        near(ours(name)(sample.input, *sample.args, **sample.kwargs), expected, dtype)
        apart = sample.noncontiguous()
        near(ours(name)(apart.input, *apart.args, **apart.kwargs), expected, dtype)
        near(getattr(konv, name)(sample.input, *sample.args, **sample.kwargs), expected, dtype)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64], ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_other_dtypes_are_pytorchs(name: str, dtype: torch.dtype) -> None:
    assert dtype in operator(name).dtypes
    for sample in samples(name, dtype):
        expected = theirs(name)(sample.input, *sample.args, **sample.kwargs)
        got = ours(name)(sample.input, *sample.args, **sample.kwargs)
        torch.testing.assert_close(got, expected)


def call(name: str, sample: Any) -> tuple[Any, tuple[Any, ...]]:
    """A function of the sample's tensors alone, as the checks take it, and these."""
    every = (sample.input, *sample.args)
    where = [i for i, a in enumerate(every) if isinstance(a, torch.Tensor)]

    def function(*tensors: torch.Tensor) -> Any:
        full = list(every)
        for i, a in zip(where, tensors, strict=True):
            full[i] = a
        return ours(name)(*full, **sample.kwargs)

    return function, tuple(every[i] for i in where)


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients(name: str) -> None:
    """Backward and forward mode, and vmap over both."""
    for sample in samples(name, torch.float64, requires_grad=True):
        assert gradcheck(
            *call(name, sample), fast_mode=True, check_forward_ad=True, check_batched_grad=True,
            check_batched_forward_grad=True,
        )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_of_gradients(name: str) -> None:
    """Backward over backward, forward over backward, vmap over it."""
    for sample in samples(name, torch.float64, requires_grad=True):
        assert gradgradcheck(
            *call(name, sample), fast_mode=True, check_fwd_over_rev=True, check_batched_grad=True
        )


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_are_pytorchs(name: str, dtype: torch.dtype) -> None:
    """In every dtype: of every tensor, also where dy has steps or is one number (strides of 0)."""
    for sample in samples(name, dtype, requires_grad=True):
        every = (sample.input, *sample.args)
        tensors = [a for a in every if isinstance(a, torch.Tensor)]
        wide = [
            double(a).detach().requires_grad_() if isinstance(a, torch.Tensor) else a for a in every
        ]
        y, expected = ours(name)(*every, **sample.kwargs), theirs(name)(*wide, **sample.kwargs)
        steps = torch.randn(*y.shape[:-1], 2 * y.shape[-1], dtype=dtype)[..., ::2]
        for dy in (torch.ones((), dtype=dtype).expand(y.shape), steps):
            got = torch.autograd.grad(y, tensors, dy, retain_graph=True)
            wanted = torch.autograd.grad(
                expected, [a for a in wide if isinstance(a, torch.Tensor)], dy.double(),
                retain_graph=True,
            )  # fmt: skip
            for a, b in zip(got, wanted, strict=True):
                near(a, b, dtype)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_errors(name: str) -> None:
    """An error of the same type, or of one derived from it, wherever PyTorch raises one."""
    found = list(operator(name).error_inputs("cpu")) if operator(name).error_inputs_func else []
    assert found or name.startswith("conv_transpose") or name == "conv3d"
    for error in found:
        sample = error.sample_input
        with pytest.raises(error.error_type):
            theirs(name)(sample.input, *sample.args, **sample.kwargs)
        if "for strided" in error.error_regex:  # padding "same" with a stride, which konv has
            continue
        with pytest.raises(error.error_type):
            ours(name)(sample.input, *sample.args, **sample.kwargs)
