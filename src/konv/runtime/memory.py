"""Scratch memory: taken for one call, given back, reused; bounded, and refused before any work.

A buffer is one NumPy array of bytes, in large pages where the system has them (two threads: 512@14
3x3 in 32 groups channels-last 0.375 to 0.326 ms, contiguous 0.367 to 0.350; in steps of two 512@28
0.93 to 0.81; 1x1 256->64@56 0.81 to 0.78; Zen 3). Given-back buffers wait in a list, so threads
calling at once each get their own, and at most `KEEP` bytes wait, or a single larger one. What is
in a buffer is never cleared: kernels write every part of it before they read it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from konv.errors import OutOfMemoryError
from konv.runtime import hugepages

ALIGN = 64  # bytes of a cache line: the least that kernels ask for
KEEP = 64 * 1024 * 1024
SMALLEST = hugepages.PAGE  # requests are rounded up to this, so that most calls share one size

_waiting: list[Buffer] = []


class Buffer:
    """`size` bytes at `address`, which is where a large page would begin."""

    __slots__ = ("address", "array", "size")

    def __init__(self, size: int) -> None:
        page = hugepages.PAGE
        whole = -(-size // page) * page
        try:
            self.array: Any = np.empty(whole + page, np.uint8)
        except MemoryError as error:
            raise refused(size, "scratch memory") from error
        self.size = size
        self.address = -(-self.array.ctypes.data // page) * page
        hugepages.prefer(self.address, whole, page)


def take(size: int) -> Buffer:
    """A buffer of at least `size` bytes; give it back when the kernel has returned."""
    try:
        buffer = _waiting.pop()
    except IndexError:
        return Buffer(max(size, SMALLEST))
    if buffer.size >= size:
        return buffer
    return Buffer(size)  # the smaller one is dropped: the larger will serve its callers too


def give_back(buffer: Buffer) -> None:
    """Let the next call have it."""
    if not _waiting or waiting() + buffer.size <= KEEP:
        _waiting.append(buffer)


def waiting() -> int:
    """Bytes that wait for the next call."""
    return sum(buffer.size for buffer in _waiting)


def release() -> None:
    """Free everything that waits."""
    _waiting.clear()


@cache
def machine_bytes() -> int:
    """Memory of this machine or of this process' cgroup, whichever is less."""
    limits = []
    with suppress(AttributeError, OSError, ValueError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            limits.append(int(text))
    return min(limits, default=2**62)


def allocate(make: Callable[[], Any], size: int, what: str) -> Any:
    """What `make` returns; OutOfMemoryError if the machine has less memory, or refuses it."""
    require(size, what)
    try:
        return make()
    except (MemoryError, RuntimeError) as error:
        raise said(error, size, what) from error


def said(error: MemoryError | RuntimeError, size: int, what: str) -> Exception:
    """What an error of an allocation says; PyTorch's allocator says it in a RuntimeError, others
    mean something else.
    """
    other = isinstance(error, RuntimeError) and "memory" not in str(error)
    return error if other else refused(size, what)


def refused(size: int, what: str) -> OutOfMemoryError:
    """The error that says which memory the system did not give."""
    return OutOfMemoryError(
        f"{what} needs {size:,} bytes, which the system refused. Free memory, use smaller images "
        f"or a smaller batch, or fewer threads (konv.set_num_threads): each has scratch of its own."
    )


def require(size: int, what: str) -> None:
    """Raise OutOfMemoryError if `size` bytes for `what` are more than the whole machine has."""
    if size > machine_bytes():
        raise OutOfMemoryError(
            f"{what} needs {size:,} bytes, this machine has {machine_bytes():,}. "
            f"Use smaller images or a smaller batch, or cut the image into tiles."
        )
