"""The layers, on PyTorch's own inputs (ModuleInfo): forward, gradients, copies, names."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from nn.samples import LAYERS, module, near
from torch.autograd import gradcheck, gradgradcheck

import konv.nn

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning", "ignore:Lazy modules:UserWarning"
)
DTYPES = (torch.float32, torch.float64)


def inputs(name: str, dtype: torch.dtype, requires_grad: bool = False) -> list[Any]:
    info = module(name)
    found = info.module_inputs_func(
        info, device="cpu", dtype=dtype, requires_grad=requires_grad, training=True
    )
    assert len(found) >= 2
    return list(found)


def pair(name: str, given: Any, dtype: torch.dtype) -> tuple[Any, Any]:
    """PyTorch's layer and konv's, made from the same seed."""
    made = []
    for home in (torch.nn, konv.nn):
        torch.manual_seed(1)
        arguments = given.constructor_input
        made.append(getattr(home, name)(*arguments.args, **arguments.kwargs, dtype=dtype))
    return made[0], made[1]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_forward_and_gradients(name: str, dtype: torch.dtype) -> None:
    """The same weights from the same seed; the same repr and state_dict; PyTorch's results."""
    for given in inputs(name, dtype):
        theirs, ours = pair(name, given, dtype)
        assert repr(theirs) == repr(ours)
        x = given.forward_input.args[0].detach().requires_grad_()
        torch.manual_seed(2)
        expected = theirs(x)
        torch.manual_seed(2)
        got = ours(x)
        near(got, expected, dtype)
        assert repr(theirs) == repr(ours)
        assert type(ours) is getattr(konv.nn, name.removeprefix("Lazy"))
        for key, value in theirs.state_dict().items():
            assert torch.equal(value, ours.state_dict()[key])
        dy = torch.randn_like(got)
        wanted = torch.autograd.grad(expected, [x, *theirs.parameters()], dy)
        grads = torch.autograd.grad(got, [x, *ours.parameters()], dy)
        for a, b in zip(grads, wanted, strict=True):
            near(a, b, dtype)
        theirs.load_state_dict(ours.state_dict())
        ours.load_state_dict(theirs.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in LAYERS if not name.startswith("Lazy")])
def test_gradcheck(name: str) -> None:
    for given in inputs(name, torch.float64, requires_grad=True):
        layer: Any = pair(name, given, torch.float64)[1]
        x = given.forward_input.args[0]
        tensors = (x, *layer.parameters())
        names = [key for key, _ in layer.named_parameters()]

        def function(x: Any, *values: Any, layer: Any = layer, names: Any = names) -> Any:
            return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

        assert gradcheck(function, tensors, fast_mode=True, check_forward_ad=True)
        assert gradgradcheck(function, tensors, fast_mode=True)


@pytest.mark.parametrize("name", LAYERS)
def test_copies(name: str) -> None:
    """deepcopy, pickle and another dtype; each computes as before."""
    given = inputs(name, torch.float32)[0]
    ours = pair(name, given, torch.float32)[1]
    x = given.forward_input.args[0].detach()
    expected = ours(x)
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(copied) is type(ours)
        assert torch.equal(copied(x), expected)
    assert ours.to(torch.float64)(x.double()).dtype == torch.float64
