"""Packed weights are kept between calls: once each, at most LIMIT bytes, the last used longest."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import konv
from konv.runtime import weights
from konv.runtime.weights import CACHE

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def empty_cache() -> Iterator[None]:
    CACHE.clear()
    yield
    CACHE.clear()


def packed_conv2d(x: Any, w: Any) -> Any:
    """By what packs weights of one tap, too."""
    return konv.conv2d(x, w, plan="direct")


def held() -> int:
    return sum(packed.size for packed in CACHE.entries.values())


def test_unchanged_weights_are_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also at another image size and batch."""
    calls, pack = list[int](), weights.pack

    def counted(*args: Any) -> Any:
        calls.append(1)
        return pack(*args)

    monkeypatch.setattr(weights, "pack", counted)
    w = np.ones((16, 3, 3, 3), "float32")
    for shape in ((1, 3, 9, 9), (1, 3, 9, 9), (2, 3, 7, 12), (5, 3, 20, 20)):
        konv.conv2d(np.ones(shape, "float32"), w, padding=1)
    assert len(calls) == 1


def test_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of 16 MiB each, more than there is room for: the last ones stay, at most 128 MiB."""
    assert weights.LIMIT == 1024 * MIB
    monkeypatch.setattr(weights, "LIMIT", 128 * MIB)
    side = 2048
    memory = np.ones(side * side + 16 * 12, "float32")
    x = np.ones((1, side, 1, 2), "float32")  # of a single pixel nothing is packed
    begins = range(0, 16 * 12, 16)
    views = [memory[at : at + side * side].reshape(side, side, 1, 1) for at in begins]
    for number, w in enumerate(views, 1):
        assert packed_conv2d(x, w).max() == side
        assert held() == CACHE.bytes <= 128 * MIB
        assert len(CACHE.entries) == min(number, 7)  # headers and biases leave no room for 8
    assert [key[0] for key in CACHE.entries] == [w.ctypes.data for w in views[-7:]]


def test_small_ones_are_bounded_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an entry takes besides its bytes would be most of it."""
    monkeypatch.setattr(weights, "ENTRIES", 3)
    x, kept = np.ones((1, 2, 3, 3), "float32"), [np.full((1, 2, 2, 2), i, "f") for i in range(6)]
    for number, w in enumerate(kept):
        assert (packed_conv2d(x, w) == 8 * number).all()
    assert [key[0] for key in CACHE.entries] == [w.ctypes.data for w in kept[3:]]


def test_least_recently_used_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.ones((1, 16, 2, 2), "float32")
    ws = [np.full((16, 16, 1, 1), value, "float32") for value in range(5)]
    packed_conv2d(x, ws[0])
    size = CACHE.bytes
    assert size >= ws[0].nbytes
    monkeypatch.setattr(weights, "LIMIT", 3 * size + size // 2)

    def use(number: int) -> list[int]:
        assert (packed_conv2d(x, ws[number]) == 16 * number).all()
        assert held() == CACHE.bytes <= weights.LIMIT
        addresses = [w.ctypes.data for w in ws]
        return [addresses.index(key[0]) for key in CACHE.entries]

    assert use(1) == [0, 1]
    assert use(2) == [0, 1, 2]
    assert use(0) == [1, 2, 0]
    assert use(3) == [2, 0, 3]
    assert use(2) == [0, 3, 2]
    assert use(4) == [3, 2, 4]
    ws[2] += 0  # written, not changed
    assert use(2) == [3, 4, 2]
    ws[3][0, 0, 0, 0] = 7  # changed: packed anew, in the place of the old one
    assert packed_conv2d(x, ws[3])[0, 0, 0, 0] == 7 + 15 * 3
    assert held() == CACHE.bytes == 3 * size


def test_a_changed_weight_is_packed_over_its_old_copy() -> None:
    """Unless somebody computes with that: then its memory stays as it is."""
    x, w = np.ones((1, 16, 2, 2), "float32"), np.ones((16, 16, 1, 1), "float32")
    packed_conv2d(x, w)
    (packed,) = CACHE.entries.values()
    address, before = packed.address, packed.array.copy()
    w += 1
    assert (packed_conv2d(x, w) == 32).all()
    assert (packed.array == before).all(), "this test computes with it, for all that konv knows"
    assert address not in [other.address for other in CACHE.entries.values()]
    address = next(iter(CACHE.entries.values())).address
    w += 1
    assert (packed_conv2d(x, w) == 48).all()
    assert [other.address for other in CACHE.entries.values()] == [address]


def test_larger_than_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is packed for each call, and puts nothing else out."""
    x, small, large = (np.ones(s, "float32") for s in ((1, 4, 3, 3), (4, 4, 1, 1), (4, 4, 3, 3)))
    packed_conv2d(x, small)
    before = CACHE.bytes
    monkeypatch.setattr(weights, "LIMIT", before)
    for _ in range(2):
        assert (konv.conv2d(x, large) == 36).all()
        assert (CACHE.bytes, len(CACHE.entries)) == (before, 1)


def test_many_threads_change_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each its own, all the time, in a cache that has room for a few only."""
    x = np.ones((1, 16, 2, 2), "float32")
    packed_conv2d(x, np.ones((16, 16, 1, 1), "float32"))
    monkeypatch.setattr(weights, "LIMIT", 3 * CACHE.bytes)
    wrong = list[str]()

    def work(seed: int) -> None:
        w = np.zeros((16, 16, 1, 1), "float32")
        for value in range(200):
            w[...] = value * 8 + seed
            y = packed_conv2d(x, w)
            if not (y == 16 * (value * 8 + seed)).all():
                wrong.append(f"{seed}: {value}")

    crowd = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert not wrong
    assert held() == CACHE.bytes <= weights.LIMIT
