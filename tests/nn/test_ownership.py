"""Batch normalisation's gradient takes the place of the one it comes from where nobody else has
that, and never where somebody does: the same numbers either way, whoever looks on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import Function

from konv.nn import BatchNorm2d, norm

Step = Callable[[Tensor, Any, Any], list[Tensor]]
SIZE = (8, 64, 17, 19)  # as many numbers as are worth it


class Kept(Function):
    """Keeps the gradient that it gives on, as an array."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, to: list[Any]) -> Tensor:
        ctx.to = to
        return x.clone()

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:
        ctx.to.append((found := dy * 2).numpy())
        return found, None


class Saved(Function):
    """Gives what forward has saved as the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, saved: Tensor) -> Tensor:
        ctx.save_for_backward(saved)
        return x * 3

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:  # noqa: ARG004 - as Function
        return ctx.saved_tensors[0], None


def chain(x: Tensor, one: Any, two: Any) -> list[Tensor]:
    two(one(x * 1)).pow(2).sum().backward()
    return []


def activation(x: Tensor, one: Any, _: Any) -> list[Tensor]:
    torch.relu_(one(x * 1)).pow(2).sum().backward()
    return []


def retained(x: Tensor, one: Any, _: Any) -> list[Tensor]:
    y = one(x * 1)
    y.retain_grad()
    y.pow(2).sum().backward()
    return [y.grad]


def residual(x: Tensor, one: Any, _: Any) -> list[Tensor]:
    a = x * 1
    (one(a) + a).pow(2).sum().backward()
    return []


def hook(x: Tensor, one: Any, _: Any) -> list[Tensor]:
    seen: list[Tensor] = []
    y = one(x * 1)
    y.register_hook(seen.append)
    y.pow(2).sum().backward()
    return seen


def module_hook(x: Tensor, one: Any, _: Any) -> list[Tensor]:
    seen: list[Tensor] = []
    one.register_full_backward_hook(lambda _, dx, dy: seen.extend([*dx, *dy]))
    one(x * 1).pow(2).sum().backward()
    return seen


def given(x: Tensor, one: Any, _: Any) -> list[Tensor]:
    dy = torch.ones_like(x)
    one(x * 1).backward(dy)
    return [dy]


def asked_for(x: Tensor, one: Any, _: Any) -> list[Tensor]:
    y = one(x * 1)
    return list(torch.autograd.grad(y.pow(2).sum(), [y, x]))


def kept(x: Tensor, one: Any, _: Any) -> list[Tensor]:
    arrays: list[Any] = []
    Kept.apply(one(x * 1), arrays).pow(2).sum().backward()
    return [torch.from_numpy(a) for a in arrays]


def saved(x: Tensor, one: Any, _: Any) -> list[Tensor]:
    own = torch.ones_like(x)
    Saved.apply(one(x * 1), own).sum().backward()
    return [own]


FREE: list[Step] = [chain, activation, retained]
OTHERS: list[Step] = [residual, hook, module_hook, given, asked_for, kept, saved]


def run(step: Step, layout: torch.memory_format) -> list[Tensor]:
    torch.manual_seed(0)
    x = torch.randn(SIZE).contiguous(memory_format=layout).requires_grad_()
    layers = BatchNorm2d(64), BatchNorm2d(64)
    found = step(x, *layers)
    return [a.clone() for a in (*found, x.grad, layers[0].weight.grad) if a is not None]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("step", FREE + OTHERS)
def test_overwritten_where_nobody_sees_it(
    step: Step, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, free = norm._gradients, list[bool]()
    monkeypatch.setattr(norm, "_gradients", lambda *a: (free.append(a[-1]), real(*a))[1])
    found = run(step, layout)
    assert free
    assert all(free) is (step in FREE)
    monkeypatch.setattr(norm, "is_free", lambda _: False)
    expected = run(step, layout)
    assert len(found) == len(expected)
    assert all(map(torch.equal, found, expected))
