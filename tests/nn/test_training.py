"""Networks learn as they do with PyTorch's layers: the loss of every one of 20 steps."""

from __future__ import annotations

import pytest
import torch
from nn.networks import NETWORKS, losses

import konv
import konv.nn

STEPS = 20
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def same(got: list[float], expected: list[float], rtol: float) -> None:
    __tracebackhide__ = True
    assert len(got) == len(expected) == STEPS
    assert expected[-1] < 0.9 * expected[0]
    assert max(abs(a - b) / abs(b) for a, b in zip(got, expected, strict=True)) < rtol


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_loss(name: str) -> None:
    """Within 1e-5 in exact mode, 1e-3 in fast mode."""
    expected = losses(torch.nn, name, STEPS)
    with konv.precision("exact"):
        same(losses(konv.nn, name, STEPS), expected, 1e-5)
    with konv.precision("fast"):
        same(losses(konv.nn, name, STEPS), expected, 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_loss_compiled(name: str) -> None:
    """The same through torch.compile, as one graph."""
    torch._dynamo.reset()
    expected = losses(torch.nn, name, STEPS)
    with konv.precision("exact"):
        same(losses(konv.nn, name, STEPS, compiled="aot_eager"), expected, 1e-5)
