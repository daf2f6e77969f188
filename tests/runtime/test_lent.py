"""Memory of large results comes back when nobody knows it any more, and serves the next one."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from konv import nn
from konv.arrays import kind_of
from konv.nn import ownership
from konv.runtime import lent

SIZE = 3 * lent.PAGE + 5


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    lent.release()
    yield
    lent.release()


def test_the_next_has_the_same_memory() -> None:
    one = lent.take(SIZE)
    address = one.ctypes.data
    assert one.size == SIZE
    assert address % lent.PAGE == 0
    assert lent.is_lent(address)
    two = lent.take(SIZE)
    assert two.ctypes.data != address
    del one
    assert not lent.is_lent(address)
    assert lent.waiting() == 4 * lent.PAGE
    assert lent.take(4 * lent.PAGE).ctypes.data == address
    two[:] = 1


def test_who_looks_on_keeps_it() -> None:
    one = lent.take(SIZE)
    part = one[7:9]
    address = one.ctypes.data
    del one
    assert lent.is_lent(address)
    del part
    assert not lent.is_lent(address)


def test_what_waits_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system refuses, it is given back and asked for once more; then it is an error."""
    one = lent.take(SIZE)
    del one
    made, real = [], lent.Block

    def refuse(size: int) -> lent.Block:
        made.append(lent.waiting())
        if lent.waiting() or size > SIZE + lent.PAGE:
            raise MemoryError
        return real(size)

    monkeypatch.setattr(lent, "Block", refuse)
    assert lent.take(lent.PAGE).size == lent.PAGE
    assert made == [4 * lent.PAGE, 0]
    with pytest.raises(MemoryError):
        lent.take(9 * lent.PAGE)


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that are out of use longest go first."""
    monkeypatch.setattr(lent, "machine_bytes", lambda: lent.SHARE * 5 * lent.PAGE)
    old, one, two = (lent.take(size * lent.PAGE) for size in (1, 2, 2))
    del old, one
    assert lent.waiting() == 3 * lent.PAGE
    del two
    assert lent.waiting() == 5 * lent.PAGE
    three = lent.take(3 * lent.PAGE)
    del three
    assert lent.waiting() == 5 * lent.PAGE
    assert sorted(size for size, blocks in lent._waiting.items() if blocks) == [
        2 * lent.PAGE,
        3 * lent.PAGE,
    ]


@pytest.mark.parametrize("order", [None, (0, 3, 1, 2)])
def test_tensors(order: tuple[int, ...] | None) -> None:
    kind = kind_of(torch.ones(1))
    assert kind is not None
    made = kind.lender((2, 3, 4, 5), "float32", order)()
    plain = kind.empty((2, 3, 4, 5), "float32", order)
    assert made.shape == plain.shape
    assert made.stride() == plain.stride()
    assert made.dtype == plain.dtype
    assert not made._is_view()
    address, half = made.data_ptr(), made[1]
    del made
    assert lent.is_lent(address)
    del half
    assert not lent.is_lent(address)


def test_numpy_makes_its_own() -> None:
    kind = kind_of(np.ones(1))
    assert kind is not None
    assert kind.lender((2, 3), "float32")().shape == (2, 3)
    assert not lent._waiting


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_training(monkeypatch: pytest.MonkeyPatch, layout: torch.memory_format) -> None:
    """Steps with lent results give the same bits as without, and lend nothing once over."""

    def steps() -> list[torch.Tensor]:
        torch.manual_seed(0)
        x = torch.randn(2, 4, 64, 256).contiguous(memory_format=layout).requires_grad_()
        layers: list[torch.nn.Module] = [nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8)]
        layers += [nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3), torch.nn.ReLU(), nn.BatchNorm2d(8)]
        model = nn.Sequential(*layers).to(memory_format=layout)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            (model(x) ** 2).sum().backward()
            optimizer.step()
        assert x.grad is not None
        return [x.grad.clone(), *(p.detach().clone() for p in model.parameters())]

    right = steps()
    assert not lent._waiting
    monkeypatch.setattr(lent, "LEAST", 1)
    monkeypatch.setattr("konv.request.hugepages.LARGE", 1)
    from konv import dispatch

    dispatch.forget()
    found = steps()
    gc.collect()
    assert all(torch.equal(a, b) for a, b in zip(found, right, strict=True))
    assert lent.waiting()
    assert not lent._out
    dispatch.forget()


def test_a_lent_gradient_is_written_over() -> None:
    """As it is nobody else's; a view of it, or a name for it, keeps it as it is."""
    ownership.prepare()
    seen = []

    class Asks(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:  # noqa: ARG004 - as Function
            return x * 2

        @staticmethod
        def backward(ctx: object, dy: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
            seen.append(ownership.is_free(dy))
            return dy * 2

    class Lends(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor, kept: list[torch.Tensor] | None) -> torch.Tensor:
            ctx.kept = kept  # type: ignore[attr-defined]
            return x * 2

        @staticmethod
        def backward(ctx: object, dy: torch.Tensor) -> tuple[torch.Tensor, None]:
            kind = kind_of(dy)
            assert kind is not None
            made = kind.lender(tuple(dy.shape), "float32")()
            made.copy_(dy)
            if ctx.kept is not None:  # type: ignore[attr-defined]
                ctx.kept.append(made[:1])  # type: ignore[attr-defined]
            return made, None

    for kept in (None, []):
        x = torch.ones(5, requires_grad=True)
        Lends.apply(Asks.apply(x), kept).sum().backward()  # type: ignore[no-untyped-call]
    assert seen == [True, False]
