"""Linear layers over channels-last maps: PyTorch's results, gradients, and when they are taken."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import konv
import konv.nn
from konv.nn import faster as timing
from konv.nn.freeze.measure import CLEARLY


def pair(dtype: torch.dtype = torch.float64, bias: bool = True) -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(0)
    theirs = nn.Linear(6, 5, bias=bias, dtype=dtype)
    ours = konv.nn.Linear(6, 5, bias=bias, dtype=dtype)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


SHAPES = [(2, 3, 4, 6), (2, 7, 6), (1, 1, 1, 6), (4, 6), (6,), (0, 3, 6), (2, 0, 3, 6)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_results_and_gradients(shape: tuple[int, ...], bias: bool) -> None:
    theirs, ours = pair(bias=bias)
    found = []
    for layer in (theirs, ours):
        x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        y = layer(x.requires_grad_())
        grads = torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])
        assert y.is_contiguous()
        found.append((y, *grads))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype: torch.dtype) -> None:
    theirs, ours = pair(dtype)
    x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
    torch.testing.assert_close(ours(x), theirs(x))


def test_gradients_of_gradients() -> None:
    _, ours = pair()
    x = torch.randn(1, 2, 6, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor, *parameters: Tensor) -> Any:
        names = dict(zip(("weight", "bias"), parameters, strict=True))
        return torch.func.functional_call(ours, names, x)

    assert torch.autograd.gradcheck(run, (x, *ours.parameters()))
    assert torch.autograd.gradgradcheck(run, (x, *ours.parameters()))


def test_views_are_not_copied_wrongly() -> None:
    """Maps that lie channels-first, or have gaps."""
    theirs, ours = pair(torch.float32)
    x = torch.randn(2, 6, 3, 4).permute(0, 2, 3, 1)
    torch.testing.assert_close(ours(x), theirs(x))
    x = torch.randn(2, 3, 4, 9)[:, ::2, :, 1:7]
    torch.testing.assert_close(ours(x), theirs(x))


def test_wrong_sizes_raise_pytorchs_error() -> None:
    for layer in pair(torch.float32):
        for x in (torch.ones(2, 3, 5), torch.ones(2, 3, 6, dtype=torch.int64)):
            with pytest.raises(RuntimeError):
                layer(x)


def test_compiled() -> None:
    theirs, ours = pair(torch.float32)
    x = torch.randn(2, 3, 6)
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), theirs(x))


class Block(nn.Module):
    """A pointwise pair as in ConvNeXt, over maps, and a classifier over rows."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.wide, self.narrow, self.head = nn.Linear(6, 9), nn.Linear(9, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depth(x).permute(0, 2, 3, 1)
        y = self.narrow(input=self.wide(y).relu())
        out: Tensor = self.head(y.mean((1, 2)))
        return out


@pytest.mark.parametrize("faster", ["konv", "PyTorch"])
def test_taken_where_it_pays(faster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over maps, if the example shows konv to be faster; the classifier is none."""
    seconds = {name: 1.0 if name == faster else 2 * CLEARLY for name in ("konv", "PyTorch")}
    monkeypatch.setattr(timing, "alternate", lambda runs: {name: seconds[name] for name in runs})
    block, x = Block().eval(), torch.randn(2, 6, 5, 5)
    kinds, right = [type(m) for m in block.modules()], block(x).detach()
    konv.accelerate(block, x)
    ours = konv.nn.Linear if faster == "konv" else nn.Linear
    assert [type(m) for m in (block.wide, block.narrow)] == [ours, ours]
    assert type(block.head) is nn.Linear
    rows = {row.name: row for row in konv.nn.report(block).rows}
    assert rows.keys() == ({"depth", "wide", "narrow"} if faster == "konv" else {"depth"})
    torch.testing.assert_close(block(x), right)
    konv.restore(block)
    assert [type(m) for m in block.modules()] == kinds
    assert not any(name.startswith("_konv") for m in block.modules() for name in m.__dict__)


def test_not_without_an_example() -> None:
    block = konv.accelerate(Block())
    assert type(block.wide) is nn.Linear
