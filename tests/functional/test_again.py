"""A weight that is met again: whatever has changed about a call since the last one is seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad
from torch.nn import functional as F  # noqa: N812 - as everyone writes it
from torch.utils._python_dispatch import TorchDispatchMode

import konv
from konv import arrays, dispatch
from konv.arrays import recall
from konv.arrays.of_torch import allocator
from konv.layer import REPEATED

Conv = Callable[..., torch.Tensor]


class Counting(TorchDispatchMode):
    """Sees which operators are called."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), named: Any = None):  # type: ignore[no-untyped-def]
        self.seen = True
        return function(*args, **(named or {}))


def _inference(conv: Conv, x: Any, w: Any, b: Any) -> Any:
    with torch.inference_mode():
        y = conv(x, w, b)
    assert y.is_inference()
    return y


def _autocast(conv: Conv, x: Any, w: Any, b: Any) -> Any:
    with torch.autocast("cpu"):
        return conv(x, w, b)


def _mode(conv: Conv, x: Any, w: Any, b: Any) -> Any:
    with Counting() as mode:
        y = conv(x, w, b)
    assert mode.seen
    return y


def _dual(conv: Conv, x: Any, w: Any, b: Any) -> Any:
    with forward_ad.dual_level():
        y = conv(forward_ad.make_dual(x, torch.ones_like(x)), w, b)
        return forward_ad.unpack_dual(y).tangent.clone()


def _gradient(conv: Conv, x: Any, w: Any, b: Any) -> Any:
    wanted = w.detach().requires_grad_()
    return torch.autograd.grad(conv(x, wanted, b).sum(), wanted)[0]


def _own_gradient(conv: Conv, x: Any, w: Any, b: Any) -> Any:
    w.requires_grad_()
    try:
        with torch.no_grad():
            assert not conv(x, w, b).requires_grad
        return torch.autograd.grad(conv(x, w, b).sum(), w)[0]
    finally:
        w.requires_grad_(False)


def _other_numbers(conv: Conv, x: Any, w: Any, b: Any) -> Any:
    before = w.data
    w.data = w.double()
    try:
        return conv(x.double(), w, b.double())
    finally:
        w.data = before


def _turned(conv: Conv, x: Any, w: Any, b: Any) -> Any:
    before = w.data
    w.data = w.data.transpose(2, 3)
    try:
        return conv(x, w, b)
    finally:
        w.data = before


def _traced(conv: Conv, x: Any, w: Any, b: Any) -> Any:
    graph = torch.jit.trace(lambda image: conv(image, w, b), x, check_trace=False)
    return graph(2 * x)


CHANGES: dict[str, Callable[[Conv, Any, Any, Any], Any]] = {
    "inference": _inference,
    "autocast": _autocast,
    "mode": _mode,
    "dual": _dual,
    "gradient": _gradient,
    "own gradient": _own_gradient,
    "float64": _other_numbers,
    "turned": _turned,
    "traced": _traced,
    "no bias": lambda conv, x, w, _: conv(x, w),
    "negated": lambda conv, x, w, b: conv(torch._neg_view(x), w, b),
    "channels-last": lambda conv, x, w, b: conv(
        x.contiguous(memory_format=torch.channels_last), w, b
    ),
    "rows apart": lambda conv, x, w, b: conv(x[..., ::2, :], w, b),
    "larger": lambda conv, x, w, b: conv(F.pad(x, (1, 2, 3, 4)), w, b),
    "no batch": lambda conv, x, w, b: conv(x[0], w, b),
    "vmap": lambda conv, x, w, b: torch.func.vmap(lambda each: conv(each, w, b))(x[:, None]),
    "func.grad": lambda conv, x, w, b: torch.func.grad(lambda k: conv(x, k, b).sum())(w),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch warns of its own
@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_since_the_last_call_is_seen(change: str) -> None:
    x, w, b = torch.randn(2, 4, 9, 8), torch.randn(6, 4, 3, 3), torch.randn(6)
    plain = F.conv2d(x, w, b)
    for _ in range(3):
        for _ in range(REPEATED):  # then they go straight (konv.runtime.straight)
            torch.testing.assert_close(konv.conv2d(x, w, b), plain)
        for _ in range(3):
            ours, theirs = (CHANGES[change](conv, x, w, b) for conv in (konv.conv2d, F.conv2d))
            near: Any = {"atol": 0.1, "rtol": 0.1} if change == "autocast" else {}
            assert ours.dtype == theirs.dtype
            torch.testing.assert_close(ours, theirs, check_stride=False, **near)


def test_equal_tensors_are_recognised_by_one_question(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, b = torch.randn(1, 4, 5, 5), torch.randn(6, 4, 3, 3), torch.randn(6)
    kind: Any = arrays.kind_of(x)
    monkeypatch.setattr(recall, "REMEMBERED", 1 + len(kind.recall._tokens))  # the first fills it
    seen = [kind.recognize(x, w, b) for _ in range(2)]
    monkeypatch.setattr(kind, "glance", None)
    assert kind.recognize(x.clone(), w, b.clone()) == seen[0] == seen[1]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall, "REMEMBERED", 4)
    kept = [torch.randn(3, 2, 1, 1) for _ in range(9)]
    kind: Any = arrays.kind_of(kept[0])
    for n, weight in enumerate(kept, 1):
        x = torch.randn(1, 2, n, n)
        torch.testing.assert_close(konv.conv2d(x, weight), F.conv2d(x, weight))
    assert len(kind.recall.bare) <= 4


def test_without_these_parts_of_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch._C._dynamo.guards, "TensorGuards")
    monkeypatch.delattr(torch._C._dynamo.guards, "_empty_strided_cpu")
    x, w = torch.randn(1, 4, 5, 5), torch.randn(6, 4, 3, 3)
    kind: Any = arrays.kind_of(x)
    monkeypatch.setattr(kind, "recall", recall.Recall(torch))
    monkeypatch.setattr(kind, "allocate", allocator(torch))
    dispatch.forget()
    for _ in range(3):
        y = konv.conv2d(x, w)
        torch.testing.assert_close(y, F.conv2d(x, w))
        np.testing.assert_array_equal(y, konv.conv2d(x.numpy(), w.numpy()))
    assert not kind.recall.bare


class Changing:
    """An integer that is another one later."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __index__(self) -> int:
        return self.number

    def fill_(self, number: int) -> None:
        self.number = number


@pytest.mark.parametrize("make", [Changing, torch.tensor])
@pytest.mark.parametrize("wants", [False, True])
def test_arguments_that_say_something_else_later(make: Any, wants: bool) -> None:
    """An integer is what it is at the call, in a tuple as well."""
    x, w = torch.randn(1, 3, 8, 8), torch.randn(4, 3, 3, 3).requires_grad_(wants)
    padding, stride = make(1), make(1)
    for amount, expected in ((1, 8), (3, 12), (0, 6)):
        padding.fill_(amount)
        for _ in range(6):
            assert konv.conv2d(x, w, None, stride, padding).shape[-1] == expected
            assert konv.conv2d(x, w, None, 1, (padding, padding)).shape[-1] == expected
            assert konv.conv2d(x, w, None, 1, padding, padding_mode="reflect").shape[-1] == expected
    assert konv.conv2d(x, w, padding=iter((1, 2))).shape[-2:] == (8, 10)


def _met(residual: torch.Tensor) -> tuple[Any, ...]:
    """An image, a weight and a bias that have been met with a residual, and were plain."""
    x, w, b = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3), torch.randn(4)
    for _ in range(REPEATED + 1):
        y = konv.conv2d(x, w, b, padding=1, residual=residual)
    assert torch.allclose(y, F.conv2d(x, w, b, padding=1) + residual, atol=1e-4)
    return x, w, b


def test_a_residual_is_looked_at_at_every_call() -> None:
    """Beside tensors that are as they were: one that wants a gradient, one that vmap has wrapped, a
    negated, a stretched one, and one of another type.
    """
    r = torch.randn(2, 4, 8, 8)
    x, w, b = _met(r)

    def added(residual: Any) -> torch.Tensor:
        y: torch.Tensor = konv.conv2d(x, w, b, padding=1, residual=residual)
        return y

    plain = added(torch.zeros_like(r))
    wanted = r.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(added(wanted).sum(), wanted)
    assert torch.equal(gradient, torch.ones_like(r))
    with torch.no_grad():
        assert not added(wanted).requires_grad
    several = torch.stack([r, 2 * r])
    got = torch.vmap(added)(several)
    assert torch.allclose(got, torch.stack([plain + each for each in several]), atol=1e-4)
    negated = torch.view_as_complex(torch.stack([r, r], -1)).conj().imag
    assert negated.is_neg()
    assert torch.allclose(added(negated), plain - r, atol=1e-4)
    last = r.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(added(last), plain + r, atol=1e-4)
    with pytest.raises(konv.ProblemError, match="residual"):
        added(r[:1])
    with pytest.raises(konv.ProblemError, match="residual"):
        added(r.double())
    with pytest.raises(konv.UnsupportedError, match="residual"):
        added(r.to_sparse())
    assert torch.equal(added(r), added(r.clone()))


def test_an_out_is_looked_at_at_every_call() -> None:
    x, w, b = _met(torch.zeros(2, 4, 8, 8))
    out = torch.empty(2, 4, 8, 8)
    for _ in range(REPEATED + 1):
        assert konv.conv2d(x, w, b, padding=1, out=out) is out
    version = out._version
    konv.conv2d(x, w, b, padding=1, out=out)
    assert out._version > version
    last = out.clone(memory_format=torch.channels_last)
    last.zero_()
    assert torch.allclose(konv.conv2d(x, w, b, padding=1, out=last), out, atol=1e-4)
    with pytest.raises(konv.UnsupportedError, match="out requires grad"):
        konv.conv2d(x, w, b, padding=1, out=torch.empty(2, 4, 8, 8, requires_grad=True))
    with pytest.raises(konv.ProblemError, match="out"):
        konv.conv2d(x, w, b, padding=1, out=out[:1])
    with pytest.raises(konv.UnsupportedError, match="weight requires grad"):
        konv.conv2d(x, w.clone().requires_grad_(), b, padding=1, out=out)
