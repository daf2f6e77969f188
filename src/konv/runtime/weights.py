"""Packed weights, and the proof that they are still those of the caller's array.

Neither identity nor address nor a version counter proves that a weight is unchanged (`.data`, NumPy
views and inference tensors change it behind all three), so every call takes a digest of the whole
weight and bias, in compiled code at memory speed, and uses a packed copy only if the digest is the
one it was packed from. Where the system knows that nobody has written to a large weight since, its
digest is true still (konv.runtime.watch). `prepare` alone skips this: it has a copy of its own.
"""

from __future__ import annotations

import ctypes
import os
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from math import prod
from sys import getrefcount
from threading import Lock
from typing import Any

import numpy as np

from konv import kernels
from konv.geometry import Conv
from konv.kernels.digest import CHUNK, DIGEST_JOB
from konv.plan import Plan
from konv.runtime.code import Kernel, digests
from konv.runtime.memory import ALIGN, allocate
from konv.runtime.threads import Team
from konv.target import BYTES, Target

LARGE = 2**15  # numbers of a weight that is packed by several threads
FINITE = ctypes.c_int64  # the first word of packed weights
# Bytes of packed weights kept for functional calls. Networks that need more pack every layer anew
# at every pass, as the layer that comes next is the one used longest ago: VGG16 has 220 MiB, with
# FCN's heads over it 670, where packing is half of the time of the largest (7x7 512->4096@22, 392
# MiB: 308 ms, kept 167; Granite Rapids).
LIMIT = 1024 * 1024 * 1024
ENTRIES = 2**16  # of these, each of which takes 1 KB more than its bytes


def _ours() -> int:
    """What getrefcount says of an object that one name knows: 2, from Python 3.14 on 1."""
    old = object()
    return getrefcount(old)


OURS = _ours()

Strides = tuple[int, ...]
# Bytes of packed weights, bytes of the weight before the first tap, whether several threads pack
# it, and the words of the job.
How = tuple[int, int, bool, "array[int]"]


class Packed:
    """Packed weights and bias at `address`; alive as long as this object."""

    __slots__ = ("address", "array", "digest", "size")

    def __init__(self, size: int, digest: int) -> None:
        self.array: Any = allocate(
            lambda: np.empty(size + ALIGN, np.uint8), size, "the packed weight"
        )
        self.address = -(-self.array.ctypes.data // ALIGN) * ALIGN
        self.size, self.digest = size, digest


def packed_bytes(conv: Conv, plan: Plan, target: Target) -> int:
    """Bytes that the packed weights of a layer take."""
    return kernels.by_name(plan.algorithm).packing(conv, plan, target).bytes


def pack(
    conv: Conv,
    plan: Plan,
    kernel: Kernel,
    weight: int,
    strides: Strides,
    bias: int,
    digest: int = 0,
    team: Team | None = None,
    stale: Packed | None = None,
    how: How | None = None,
    biased: tuple[int, int] = (1, 1),
) -> Packed:
    """Pack the weight at an address, its strides in elements; `bias` is an address or 0; by the
    threads of a team if it is large. `stale`: a packed weight that nobody needs any more, over
    which the new one is written. `how`: of these, from an earlier time. `biased`: as of
    konv.runtime.flat.
    """
    size, first, large, job = how or decide(conv, plan, kernel.target, strides)
    if stale is not None and stale.size == size:
        packed, stale.digest = stale, digest
    else:
        packed = Packed(size, digest)
    at, threads = (team.address, team.threads) if team and large else (0, 1)
    repeated = _repeated(bias, conv.co, BYTES[plan.dtype], *biased) if bias else None
    if repeated is not None:
        bias = repeated.ctypes.data
    FINITE.from_address(packed.address).value = 1  # until a number is met that is not
    kernel.pack(job.buffer_info()[0], weight + first, bias, packed.address, 0, at, threads)
    return packed


def _repeated(bias: int, count: int, size: int, each: int, times: int) -> Any:
    """`count` biases of `size` bytes: each of those at an address so many times, and all of them
    again so often; None if that is what lies there.
    """
    if each == times == 1:
        return None
    there: Any = (ctypes.c_uint8 * (count // (each * times) * size)).from_address(bias)
    return np.tile(np.repeat(np.frombuffer(there, f"u{size}"), each), times)


def decide(conv: Conv, plan: Plan, target: Target, strides: Strides) -> How:
    """How a weight is packed, which takes 30 us to decide: to be kept where it is packed again.

    The taps of a weight are one run of equal steps in either memory format; transposed layers walk
    it backwards.
    """
    how, first = kernels.by_name(plan.algorithm).packing(conv, plan, target), 0
    taps = prod(axis.kernel for axis in conv.axes)
    tap = next((s for s, a in zip(strides[:1:-1], conv.axes[::-1], strict=True) if a.kernel > 1), 1)
    by_co, by_ci, by_group = strides[0], strides[1], how.co * strides[0]
    if conv.transposed:
        first = (taps - 1) * tap * BYTES[plan.dtype]
        by_co, by_ci, by_group, tap = strides[1], strides[0], how.ci * strides[0], -tap
    if how.groups != conv.groups:
        # Depthwise: each channel's filter is a group of its own in either layout.
        by_co = strides[0]
    numbers = how.groups, how.co, how.ci, taps, by_co, by_ci, tap, by_group
    return how.bytes, first, conv.params >= LARGE, array("q", numbers)


def _never(_: Packed) -> bool:
    return False


class _Cache:
    """Packed weights by the address and layout they came from; the least recently used go first."""

    def __init__(self) -> None:
        self.entries: OrderedDict[Any, Packed] = OrderedDict()
        self.bytes = 0
        self.lock = Lock()
        # Of who computes with packed weights without asking for them (konv.runtime.straight):
        # whether that was done since it was asked last, and to be told that they are dropped.
        self.used: Callable[[Packed], bool] = _never
        self.dropped: Callable[[Packed], Any] = _never

    def find(self, key: Any, digest: int) -> Packed | None:
        packed = self.entries.get(key)
        if packed is None or packed.digest != digest:
            return None
        lock = self.lock  # as `_free`, spelt out: 1 us less
        if lock.acquire(blocking=False):
            try:
                if key in self.entries:
                    self.entries.move_to_end(key)
            finally:
                lock.release()
        return packed

    @contextmanager
    def _free(self) -> Iterator[bool]:
        """The lock, if nobody has it. Who has may be the very thread that a signal, or an object
        that is dropped, has interrupted: so nobody waits for it who computes.
        """
        lock = self.lock
        free = lock.acquire(blocking=False)
        try:
            yield free
        finally:
            if free:
                lock.release()

    def take(self, key: Any) -> Packed | None:
        """Give up what is stale under a key, if no call of another thread computes with it: memory
        that is there need not be asked of the system, and filled with zeros, again.
        """
        with self._free() as free:
            old = self._drop(key) if free else None
            return old if getrefcount(old) == OURS else None

    def _drop(self, key: Any) -> Packed | None:
        old = self.entries.pop(key, None)
        if old is not None:
            self.bytes -= old.size
            self.dropped(old)
        return old

    def add(self, key: Any, packed: Packed) -> None:
        with self._free() as free:
            if not free:
                return
            self._drop(key)
            if packed.size > LIMIT:
                return
            self.entries[key] = packed
            self.bytes += packed.size
            while self.bytes > LIMIT or len(self.entries) > ENTRIES:
                oldest = next(iter(self.entries))
                if oldest == key or self.used(self.entries[oldest]):
                    self.entries.move_to_end(oldest)
                else:
                    self._drop(oldest)

    def held(self, weight: int, size: int) -> int:
        """Bytes of all packed copies of the weight of `size` bytes at an address, as it is now: of
        what lay there before some may still be kept. Keys begin with the address of the weight and
        that of a bias, whose signed digest stands in the lower 64 bits (konv.runtime.execute).
        """
        with self.lock:
            found = [(key[1], kept) for key, kept in self.entries.items() if key[0] == weight]
        now = digest(weight, size, 0, 1) if found else 0
        return sum(
            kept.size for bias, kept in found
            if (kept.digest + 2**63 >> 64 if bias else kept.digest) == now
        )  # fmt: skip

    def clear(self) -> None:
        with self.lock:
            for key in list(self.entries):
                self._drop(key)

    def renew_lock(self) -> None:
        """After a fork: another thread of the parent may have held it."""
        self.lock = Lock()


CACHE = _Cache()


def digest(address: int, size: int, team: int, threads: int) -> int:
    """The digest of `size` bytes; the threads of a team share it if it is large."""
    functions = digests()
    if size <= CHUNK:
        return int(functions.digest(address, size))
    chunks, job = _shared(size)
    partial = chunks()  # with NumPy's arrays instead, and those made anew, 5 us more
    at = ctypes.addressof(partial)
    functions.run(ctypes.addressof(job), address, 0, at, 0, team, threads)
    return int(functions.digest(at, ctypes.sizeof(chunks)))


@lru_cache(maxsize=1024)
def _shared(size: int) -> tuple[Any, Any]:
    """The type of the digests of chunks, and the job, of so many bytes."""
    chunks = -(-size // CHUNK)
    return ctypes.c_int64 * chunks, (ctypes.c_int64 * len(DIGEST_JOB))(chunks, size)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=CACHE.renew_lock)
