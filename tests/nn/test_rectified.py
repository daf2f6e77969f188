"""A ReLU in place behind a sum: its gradient goes over the one that comes in, if nobody sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from konv.nn import rectified
from konv.nn.gradients import _eager
from konv.nn.norm import WORTH
from konv.nn.rectified import ReLU

SHAPE = (4, 16, 48, 48)
LAST = torch.channels_last
assert torch.Size(SHAPE).numel() >= WORTH

torch_relu, ours = nn.ReLU(inplace=True), ReLU(inplace=True)
Step = Callable[[nn.Module, Tensor], Any]


def image(seed: int = 0) -> Tensor:
    made = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
    return made.to(memory_format=LAST).requires_grad_()


def behind_a_sum(relu: nn.Module, x: Tensor) -> Tensor:
    y = x * 2
    y += x.flip(0)
    found: Tensor = relu(y)
    assert found is y, "in place"
    return found


def plain(relu: nn.Module, x: Tensor) -> Any:
    y = behind_a_sum(relu, x)
    (y * y + y * 3).sum().backward()
    return y.detach(), x.grad


def gradient_is_kept(relu: nn.Module, x: Tensor) -> Any:
    y, dy = behind_a_sum(relu, x), image(1).detach()
    y.backward(dy)
    assert torch.equal(dy, image(1)), "it is the caller's"
    return x.grad


def gradient_is_seen(relu: nn.Module, x: Tensor) -> Any:
    y, seen = behind_a_sum(relu, x), []
    y.register_hook(seen.append)
    (y * y).sum().backward()
    assert torch.equal(seen[0], 2 * y.detach()), "what came in, not what went on"
    return x.grad


def gradient_is_another_ones_too(relu: nn.Module, x: Tensor) -> Any:
    other = image(2)
    y = behind_a_sum(relu, x)
    z = y + other  # one gradient goes to both
    (z * z).sum().backward()
    return x.grad, other.grad


def expanded(relu: nn.Module, x: Tensor) -> Any:
    behind_a_sum(relu, x).mean().backward()
    return x.grad


def twice(relu: nn.Module, x: Tensor) -> Any:
    y = behind_a_sum(relu, x)
    (g,) = torch.autograd.grad((y * y * y).sum(), x, create_graph=True)
    (g * g).sum().backward()
    return g.detach(), x.grad


def again(relu: nn.Module, x: Tensor) -> Any:
    y = behind_a_sum(relu, x)
    loss = (y * y).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    return x.grad


STEPS = (
    plain, gradient_is_kept, gradient_is_seen, gradient_is_another_ones_too, expanded, twice, again,
)  # fmt: skip


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_as_pytorch_has_it(step: Step) -> None:
    theirs, found = step(torch_relu, image()), step(ours, image())
    for a, b in zip(*([r] if isinstance(r, Tensor) else r for r in (theirs, found)), strict=True):
        assert torch.equal(a, b)


def test_who_has_a_gradient_alone_writes_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """That no transform is at work is asked of a gradient that is free, and of no other."""
    asked = 0

    def eager() -> bool:
        nonlocal asked
        asked += 1
        return _eager()

    monkeypatch.setattr(rectified, "_eager", eager)
    y = behind_a_sum(ours, image())
    (y * y).sum().backward()
    assert asked == 2, "once there and once back"
    gradient_is_kept(ours, image())
    assert asked == 3


def test_what_is_left_to_pytorch() -> None:
    small = ours(torch.ones(2, requires_grad=True) * 2)
    view = ours((image() * 2)[:, :15])
    kept = image() * 2
    kept.retain_grad()
    for y in (small, view, ours(kept)):
        assert "Clipped" not in str(y.grad_fn)
    assert "Clipped" in str(ours(image() * 2).grad_fn)
    with torch.no_grad():
        assert ours(image() * 2).min() == 0
    with pytest.raises(RuntimeError, match="leaf"):
        ours(image())
