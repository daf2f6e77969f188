"""Calls that go straight through machine code: they answer what is as it was, and nothing else."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from functional.check import watches
from torch.nn import functional as F  # noqa: N812 - as everyone writes it

import konv
from konv import arrays, dispatch, layer
from konv.runtime import memory, straight, watch, weights
from konv.runtime.straight import KNOWN

MANY = layer.REPEATED + 2  # calls, after which they go straight

if straight._bridge() is None:
    pytest.skip("not CPython", allow_module_level=True)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    watch.WATCH.forked()  # as in a new process, nothing is watched
    dispatch.forget()
    yield
    dispatch.forget()


def tensors(ci: int = 4, co: int = 6, taps: int = 3, size: int = 9) -> Any:
    x = torch.randn(2, ci, size, size + 1)
    return x, torch.randn(co, ci, taps, taps), torch.randn(co)


def settled(call: Callable[[], torch.Tensor]) -> torch.Tensor:
    for _ in range(MANY):
        y = call()
    return y


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on the long way is closed."""

    def closed(*_: Any, **__: Any) -> Any:
        raise AssertionError("a call went the long way")

    return lambda: monkeypatch.setattr(dispatch, "_looked_up", closed)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("taps", [1, 3])
@pytest.mark.parametrize("size", [1, 9])
def test_repeated_calls_go_straight(
    size: int, taps: int, biased: bool, alone: Callable[[], None]
) -> None:
    """And the answer is the same to the bit, whatever the numbers of the image."""
    x, w, b = tensors(taps=taps, size=size)
    b = b if biased else None
    first = konv.conv2d(x, w, b, padding=1)
    other = torch.randn_like(x)
    expected = konv.conv2d(other, w, b, padding=1)
    settled(lambda: konv.conv2d(x, w, b, padding=1))
    assert list(KNOWN) == [id(w)]
    alone()
    for _ in range(3):
        assert torch.equal(konv.conv2d(x, w, b, padding=1), first)
        y = konv.conv2d(other, w, b, padding=1)
        assert torch.equal(y, expected)
        assert y.stride() == expected.stride()
        assert not y.requires_grad


@pytest.mark.parametrize("size", [1, 9])
def test_numbers_of_weight_and_bias_that_change_are_seen(size: int) -> None:
    x, w, b = tensors(taps=1, size=size)
    for change in (w, b, w, b):
        settled(lambda: konv.conv2d(x, w, b))
        assert id(w) in KNOWN
        change.data.mul_(-1.5)  # no version counter tells
        torch.testing.assert_close(konv.conv2d(x, w, b), F.conv2d(x, w, b))


OTHERS: dict[str, dict[str, Any]] = {
    "stride": {"stride": 2},
    "padding": {"padding": 1},
    "padding pair": {"padding": (1, 0)},
    "dilation": {"dilation": 2},
    "activation": {"activation": "relu"},
    "plan": {"plan": "direct"},
}


@pytest.mark.parametrize("change", OTHERS)
def test_other_arguments_are_another_call(change: str) -> None:
    x, w, b = tensors()
    for _ in range(3):
        plain = settled(lambda: konv.conv2d(x, w, b))
        torch.testing.assert_close(plain, F.conv2d(x, w, b))
        y = settled(lambda: konv.conv2d(x, w, b, **OTHERS[change]))
        expected = konv.conv2d(x.numpy(), w.numpy(), b.numpy(), **OTHERS[change])
        np.testing.assert_allclose(y, expected, atol=1e-4)


def test_true_is_not_one() -> None:
    """What an integer stands for is refused, whatever equals it."""
    x, w, _ = tensors()
    settled(lambda: konv.conv2d(x, w, None, 1))
    with pytest.raises(TypeError, match="stride"):
        konv.conv2d(x, w, None, True)


def test_a_result_goes_where_it_is_wanted() -> None:
    x, w, b = tensors()
    y = settled(lambda: konv.conv2d(x, w, b))
    out, residual = torch.empty_like(y), torch.randn_like(y)
    for _ in range(MANY):
        assert konv.conv2d(x, w, b, out=out) is out
        torch.testing.assert_close(out, y)
        torch.testing.assert_close(konv.conv2d(x, w, b, residual=residual), y + residual)


def test_threads_and_precision_are_asked_for() -> None:
    x, w = torch.randn(1, 32, 40, 40), torch.randn(32, 32, 3, 3)
    fast = settled(lambda: konv.conv2d(x, w))
    with konv.precision("exact"):
        exact = konv.conv2d(x, w)
        assert torch.equal(settled(lambda: konv.conv2d(x, w)), exact)
    assert not torch.equal(fast, exact)
    assert torch.equal(konv.conv2d(x, w), fast)
    before = konv.get_num_threads()
    try:
        for threads in (1, 2):
            konv.set_num_threads(threads)
            assert torch.equal(settled(lambda: konv.conv2d(x, w)), fast)
            words = np.array(KNOWN[id(w)].__self__)
            at = straight.STRAIGHT.index("threads")
            assert words[at] == threads
    finally:
        konv.set_num_threads(before)


def test_gradients_are_wanted_again() -> None:
    x, w, b = tensors()
    w.requires_grad_()
    with torch.no_grad():
        y = settled(lambda: konv.conv2d(x, w, b))
        assert id(w) in KNOWN
    after = konv.conv2d(x, w, b)
    assert after.requires_grad
    torch.testing.assert_close(after.detach(), y)
    with torch.no_grad():
        assert not konv.conv2d(x, w, b).requires_grad


def test_an_entry_goes_with_its_packed_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache of these drops what was used longest ago, straight calls counted."""
    x, w, b = tensors()
    weights.CACHE.clear()
    kept = [torch.randn_like(w) for _ in range(20)]
    settled(lambda: konv.conv2d(x, w, b))
    monkeypatch.setattr(weights, "LIMIT", 3 * weights.CACHE.bytes)
    for other in kept[:9]:
        konv.conv2d(x, w, b)
        konv.conv2d(x, other, b)
        assert id(w) in KNOWN
    for other in kept[9:]:
        torch.testing.assert_close(konv.conv2d(x, other, b), F.conv2d(x, other, b))
    assert id(w) not in KNOWN
    torch.testing.assert_close(settled(lambda: konv.conv2d(x, w, b)), F.conv2d(x, w, b))
    assert id(w) in KNOWN
    weights.CACHE.clear()
    assert not KNOWN


def test_large_weights_are_looked_at_once_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """They go the long way, and cost no other digest for being asked whether they might not."""
    x, w = torch.randn(1, 256, 4, 4), torch.randn(256, 256, 3, 3)
    taken, digest = list[int](), weights.digest

    def counted(*arguments: Any) -> int:
        taken.append(1)
        return digest(*arguments)

    monkeypatch.setattr(weights, "digest", counted)
    monkeypatch.setattr(watch, "PATIENCE", 4 * MANY)  # they are not watched yet
    for _ in range(3 * MANY):
        konv.conv2d(x, w, padding=1)
    assert len(taken) == 3 * MANY
    assert not KNOWN


@pytest.mark.skipif(not watches(), reason="this system does not say what was written to")
@pytest.mark.parametrize("biased", [True, False])
def test_large_weights_that_are_watched_go_straight(
    biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No digest is taken, no Python run; every change is seen, also of what another weight has in
    common, and of one that is given back its numbers.
    """
    x, whole, b = torch.randn(1, 256, 4, 4), torch.randn(300, 256, 3, 3) / 48, torch.randn(256)
    w, bias = whole[:256], b if biased else None

    def right() -> bool:
        y, want = (f(x, w, bias, padding=1) for f in (konv.conv2d, F.conv2d))
        return torch.allclose(y, want, atol=0.01)

    monkeypatch.setattr(watch, "PATIENCE", 0)
    assert all(right() for _ in range(2 * MANY))
    assert id(w) in KNOWN
    with monkeypatch.context() as patch:
        patch.setattr(dispatch, "_looked_up", None)
        patch.setattr(weights, "digest", None)
        assert all(right() for _ in range(3))
    other = whole[44:]
    for number in (0, 255 * 2304, 100_000, 256 * 2304 - 1):
        whole.view(-1)[number] += 9
        konv.conv2d(x, other, padding=1)  # its pages are protected anew
        assert all(right() for _ in range(2 * MANY))
        assert id(w) in KNOWN
        w.data.copy_(w.clone())
        assert all(right() for _ in range(2 * MANY))
    if biased:
        b[7] += 1
        assert right()


@pytest.mark.skipif(not watches(), reason="this system does not say what was written to")
@pytest.mark.parametrize("way", ["data", "set", "new"])
def test_another_memory_with_the_same_ends(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor is given other memory, or a new one stands where the old one did, as where channels
    are left out one after the other.
    """
    monkeypatch.setattr(watch, "PATIENCE", 0)
    x, base = torch.randn(1, 256, 4, 4), torch.randn(256, 256, 3, 3) / 48
    w = base.clone()
    for channel in range(100, 110):
        for _ in range(MANY + 2):
            y, want = konv.conv2d(x, w, padding=1), F.conv2d(x, w, padding=1)
            assert torch.allclose(y, want, atol=0.01)
        other = base.clone()
        other[channel] = 0
        if way == "data":
            w.data = other
        elif way == "set":
            w.set_(other)
        else:
            del w
            w = other


def test_entries_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(straight, "REMEMBERED", 3)
    x, _, b = tensors()
    kept = [torch.randn(6, 4, 3, 3) for _ in range(8)]
    for w in kept:
        torch.testing.assert_close(settled(lambda w=w: konv.conv2d(x, w, b)), F.conv2d(x, w, b))  # type: ignore[misc]
        assert 0 < len(KNOWN) <= 3


def test_nothing_is_held_for_long() -> None:
    """Neither images, nor results, nor arguments are counted once more by a call."""
    x, w, b = tensors()
    padding = (1, 1)
    settled(lambda: konv.conv2d(x, w, b, padding=padding))
    things = (x, w, b, padding, None, True, 1)
    gc.collect()
    before = [sys.getrefcount(thing) for thing in things]
    for _ in range(1000):
        y = konv.conv2d(x, w, b, padding=padding)
        konv.conv2d(x[:1], w, b, padding=padding)
    after = [sys.getrefcount(thing) for thing in things]
    assert all(abs(b - a) < 100 for a, b in zip(before, after, strict=True))
    assert sys.getrefcount(y) == 2


def test_who_comes_meanwhile_goes_the_long_way() -> None:
    """Scratch memory is one call's at a time."""
    x, w = torch.randn(1, 64, 56, 56), torch.randn(64, 64, 3, 3)
    expected = settled(lambda: konv.conv2d(x, w))
    assert id(w) in KNOWN
    with ThreadPoolExecutor(4) as pool:
        for y in pool.map(lambda _: konv.conv2d(x, w), range(60)):
            assert torch.equal(y, expected)
    scratch = straight._scratch
    assert scratch is not None
    assert scratch.words[0] == 0


def test_larger_scratch_memory_leaves_the_smaller_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(straight, "SMALLEST", 4096)
    x, w = torch.randn(1, 16, 12, 12), torch.randn(16, 16, 3, 3)
    large, wide = torch.randn(1, 64, 56, 56), torch.randn(64, 64, 3, 3)
    small = settled(lambda: konv.conv2d(x, w))
    settled(lambda: konv.conv2d(large, wide))
    assert (
        len({int(each.__self__[straight.STRAIGHT.index("scratch")]) for each in KNOWN.values()})
        == 2
    )
    assert torch.equal(konv.conv2d(x, w), small)


def test_what_the_system_refuses_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, b = tensors()
    kind: Any = arrays.kind_of(x)
    refusing = False
    make = kind.allocate

    def allocate(*arguments: Any) -> Any:
        if refusing:
            raise RuntimeError("not enough memory")
        return make(*arguments)

    monkeypatch.setattr(kind, "allocate", allocate)
    settled(lambda: konv.conv2d(x, w, b))
    assert id(w) in KNOWN
    refusing = True
    for _ in range(3):
        with pytest.raises(konv.OutOfMemoryError, match="the result of"):
            konv.conv2d(x, w, b)
    refusing = False
    torch.testing.assert_close(konv.conv2d(x, w, b), F.conv2d(x, w, b))


def test_an_error_of_pytorch_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, b = tensors()
    kind: Any = arrays.kind_of(x)
    failing = False

    def alike(*_: Any) -> bool:
        if failing:
            raise RuntimeError("no answer")
        return True

    monkeypatch.setattr(kind, "question", lambda *_: (alike, None, kind.address))
    settled(lambda: konv.conv2d(x, w, b))
    failing = True
    for _ in range(3):
        with pytest.raises(RuntimeError, match="no answer"):
            konv.conv2d(x, w, b)
    failing = False
    torch.testing.assert_close(konv.conv2d(x, w, b), F.conv2d(x, w, b))


def test_layers_that_are_prepared_go_straight(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, b = tensors()
    prepared = konv.prepare(konv.Conv.of(tuple(x.shape), 6, 3), w, b, activation="relu")
    expected = settled(lambda: prepared(x))
    torch.testing.assert_close(expected, F.conv2d(x, w, b).relu())
    known = prepared._straight
    assert known is not None
    w.mul_(2)  # prepare has a copy of its own
    with monkeypatch.context() as patch:
        patch.setattr(type(arrays.kind_of(x)), "recognize", None)
        assert torch.equal(prepared(x), expected)
        assert torch.equal(prepared(2 * x.clone() / 2), expected)
    larger = torch.randn(1, 4, 20, 20)
    torch.testing.assert_close(
        settled(lambda: prepared(larger)),
        F.conv2d(larger, w / 2, None).add(prepared.bias[:, None, None]).relu(),
    )
    assert prepared._straight is not known
    assert torch.equal(prepared(x), expected)
    out, residual = torch.empty_like(expected), torch.randn_like(expected)
    assert prepared(x, out=out) is out
    assert torch.equal(out, expected)
    assert not torch.equal(prepared(x, residual=residual), expected)
    memory.release()
    assert torch.equal(prepared(x), expected)
