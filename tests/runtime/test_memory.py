"""Scratch memory: aligned, one's own while one has it, used again, bounded, refused in words."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import konv
from konv.errors import OutOfMemoryError
from konv.runtime import memory
from konv.runtime.memory import ALIGN, KEEP, SMALLEST, Buffer, give_back, release, take, waiting

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def nothing_waits() -> Iterator[None]:
    release()
    yield
    release()


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, SMALLEST - 1, SMALLEST, SMALLEST + 1, 5 * MIB])
def test_aligned_and_as_large(size: int) -> None:
    buffer = take(size)
    assert buffer.address % ALIGN == 0 == ALIGN % 64
    assert buffer.size >= size
    begin = buffer.array.ctypes.data
    assert begin <= buffer.address
    assert buffer.address + buffer.size <= begin + buffer.array.nbytes


def test_used_again() -> None:
    first = take(1000)
    give_back(first)
    for size in (1, 1000, SMALLEST):
        again = take(size)
        assert again is first
        give_back(again)
    assert waiting() == first.size == SMALLEST


def test_two_at_once_are_apart() -> None:
    held = [take(3000) for _ in range(20)]
    begins = sorted((b.address, b.size) for b in held)
    assert all(a + n <= b for (a, n), (b, _) in pairwise(begins))


def test_too_small_makes_way() -> None:
    """A larger one takes its place and serves both callers from then on."""
    small = take(1)
    give_back(small)
    large = take(3 * MIB)
    assert large is not small
    assert waiting() == 0
    give_back(large)
    assert take(1) is large


def test_bounded() -> None:
    """At most KEEP bytes wait, however many were at work at once."""
    held = [take(3 * MIB) for _ in range(40)]
    for buffer in held:
        give_back(buffer)
        assert waiting() <= KEEP
    assert waiting() > KEEP - 3 * MIB
    release()
    assert waiting() == 0


def test_one_beyond_the_bound() -> None:
    """One that is larger than KEEP waits alone; nothing waits beside it."""
    huge, small = take(KEEP + 1), take(1)
    give_back(huge)
    give_back(small)
    assert waiting() == huge.size
    assert take(1) is huge


def test_many_threads_at_once() -> None:
    """What one writes, nobody else changes while it holds the buffer."""
    wrong, start = list[int](), threading.Barrier(8)

    def work(seed: int) -> None:
        start.wait()
        for turn in range(300):
            size = 64 + (seed * 37 + turn * 101) % 4096
            buffer = take(size)
            offset = buffer.address - buffer.array.ctypes.data
            mine: Any = buffer.array[offset : offset + size]
            mine[:] = seed
            if not (mine == seed).all() or buffer.size < size:
                wrong.append(seed)
            give_back(buffer)

    crowd = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert not wrong
    assert waiting() <= 8 * SMALLEST


def test_calls_give_back_what_they_took() -> None:
    x, w = np.ones((1, 3, 20, 20), "float32"), np.ones((5, 3, 3, 3), "float32")
    konv.conv2d(x, w)
    once = waiting()
    assert 0 < once <= KEEP
    for _ in range(5):
        konv.conv2d(x, w)
    assert waiting() == once


def test_a_machine_has_memory() -> None:
    """More than these tests need, less than 64 bits of it, in whole numbers."""
    assert 256 * MIB < memory.machine_bytes() < 2**62
    assert isinstance(memory.machine_bytes(), int)


def test_require(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text says what for, both sizes, and the way out; exactly all memory is not refused."""
    monkeypatch.setattr(memory, "machine_bytes", lambda: 1_000_000)
    memory.require(0, "nothing")
    memory.require(1_000_000, "all of it")
    with pytest.raises(OutOfMemoryError) as caught:
        memory.require(1_000_001, "the result of something")
    assert isinstance(caught.value, MemoryError)
    assert str(caught.value) == (
        "the result of something needs 1,000,001 bytes, this machine has 1,000,000. "
        "Use smaller images or a smaller batch, or cut the image into tiles."
    )


def test_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Result, scratch memory and packed weight are each asked for in advance; nothing is left."""
    x, w = np.ones((1, 3, 10, 11), "float32"), np.ones((7, 3, 3, 3), "float32")
    result = 7 * 8 * 9 * 4
    for limit, what in ((result - 1, "the result of conv2d"), (result, "scratch memory of conv2d")):
        monkeypatch.setattr(memory, "machine_bytes", lambda limit=limit: limit)
        with pytest.raises(OutOfMemoryError, match=f"{what} .* this machine has {limit:,}"):
            konv.conv2d(x, w)
        assert waiting() == 0
    large = np.ones((512, 512, 1, 1), "float32")
    monkeypatch.setattr(memory, "machine_bytes", lambda: 1_000_000)
    with pytest.raises(OutOfMemoryError, match=r"the packed weight of conv2d .* needs 1,0"):
        konv.conv2d(np.ones((1, 512, 1, 1), "float32"), large)
    assert waiting() == 0


def test_memory_refused_by_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(memory.np, "empty", refuse)
    with pytest.raises(
        OutOfMemoryError, match=r"^scratch memory needs 12,345,678 bytes, which the system refused"
    ):
        Buffer(12_345_678)
