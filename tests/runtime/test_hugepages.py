"""Large pages are asked for inside an array, for large ones, and are but a wish."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import pytest

from konv.runtime import hugepages, memory
from konv.runtime.hugepages import LARGE, PAGE, prefer


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """What the system is asked for."""
    calls: list[tuple[int, int, int]] = []
    monkeypatch.setattr(hugepages, "_asking", lambda: lambda *a: calls.append(a))
    return calls


@pytest.mark.parametrize("offset", [0, 1, 4095, 4096])
@pytest.mark.parametrize("extra", [0, 1, 4095])
def test_whole_pages_inside(asked: list[Any], offset: int, extra: int) -> None:
    begin, size = 7 * mmap.PAGESIZE + offset, LARGE + extra
    prefer(begin, size)
    ((address, length, advice),) = asked
    assert advice == mmap.MADV_HUGEPAGE
    assert address % mmap.PAGESIZE == length % mmap.PAGESIZE == 0
    assert begin <= address < begin + mmap.PAGESIZE
    assert begin + size - mmap.PAGESIZE < address + length <= begin + size


def test_small_arrays_are_left(asked: list[Any]) -> None:
    prefer(mmap.PAGESIZE, LARGE - 1)
    assert not asked


def test_systems_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hugepages.sys, "platform", "darwin")
    hugepages._asking.cache_clear()
    prefer(mmap.PAGESIZE, LARGE)
    assert hugepages._asking() is None
    monkeypatch.undo()
    hugepages._asking.cache_clear()


def test_contents_stay() -> None:
    a = np.arange(LARGE // 4, dtype=np.int32)
    prefer(a.ctypes.data, a.nbytes)
    assert (a == np.arange(LARGE // 4)).all()


def test_results_ask(asked: list[Any]) -> None:
    """A large result does, a small one does not; scratch memory does, too."""
    import konv

    def inside(y: Any) -> list[Any]:
        begin, end = y.ctypes.data, y.ctypes.data + y.nbytes
        return [at for at, length, _ in asked if begin <= at and at + length <= end]

    weight = np.ones((4, 1, 1, 1), np.float32)
    assert not inside(konv.conv2d(np.ones((1, 1, 512, 500), np.float32), weight))
    assert len(inside(konv.conv2d(np.ones((1, 1, 1024, 512), np.float32), weight))) == 1


def test_scratch_asks(asked: list[Any]) -> None:
    """For whole large pages, which begin where it does, and lie within what it has."""
    for size in (1, PAGE, PAGE + 1):
        buffer = memory.Buffer(size)
        address, length, _ = asked.pop()
        begin = buffer.array.ctypes.data
        assert address == buffer.address
        assert address % PAGE == length % PAGE == 0
        assert size <= length < size + PAGE
        assert begin <= address
        assert address + length <= begin + buffer.array.nbytes
