"""Packed weights, and the proof that they are still those of the caller's array.

Neither identity nor address nor a version counter proves that a weight is unchanged (`.data`, NumPy views and
inference tensors change it behind all three), so every call takes a digest of the whole weight and bias, in compiled
code at memory speed, and uses a packed copy only if the digest is the one it was packed from. `prepare` alone
skips this: it has a copy of its own.
"""

from __future__ import annotations

from collections import OrderedDict
from math import prod
from threading import Lock
from typing import Any

import numpy as np

from konv.geometry import Conv
from konv.kernels.digest import CHUNK
from konv.kernels.packing import HEADER
from konv.plan import Plan
from konv.runtime.code import Kernel, digests
from konv.runtime.memory import ALIGN
from konv.target import BYTES, Target

LIMIT = 128 * 1024 * 1024  # bytes of packed weights kept for functional calls

Strides = tuple[int, ...]


class Packed:
    """Packed weights and bias at `address`; alive as long as this object."""

    __slots__ = ("address", "array", "digest", "size")

    def __init__(self, size: int, digest: int) -> None:
        self.array: Any = np.empty(size + ALIGN, np.uint8)
        self.address = -(-self.array.ctypes.data // ALIGN) * ALIGN
        self.size, self.digest = size, digest


def packed_bytes(conv: Conv, plan: Plan, target: Target) -> int:
    """Bytes that the packed weights of a layer take."""
    lanes = target.lanes(plan.dtype)
    padded = -(-(conv.co // conv.groups) // lanes) * lanes
    reduction = conv.ci // conv.groups * prod(axis.kernel for axis in conv.axes)
    return HEADER + conv.groups * padded * (reduction + 1) * BYTES[plan.dtype]


def pack_arguments(conv: Conv, strides: Strides) -> tuple[int, tuple[int, ...]]:
    """Where the first tap stands, in elements, and the numbers `pack` wants; `strides` in elements.

    The taps of a weight are one run of equal steps in either memory format; transposed layers walk it backwards.
    """
    groups, co, ci = conv.groups, conv.co // conv.groups, conv.ci // conv.groups
    taps = prod(axis.kernel for axis in conv.axes)
    tap = next((s for s, a in zip(strides[:1:-1], conv.axes[::-1], strict=True) if a.kernel > 1), 1)
    if conv.transposed:
        return (taps - 1) * tap, (groups, co, ci, taps, strides[1], strides[0], -tap, ci * strides[0])
    return 0, (groups, co, ci, taps, strides[0], strides[1], tap, co * strides[0])


def pack(conv: Conv, plan: Plan, kernel: Kernel, weight: int, strides: Strides, bias: int, digest: int = 0) -> Packed:
    """Pack the weight at an address; `bias` is an address or 0."""
    packed = Packed(packed_bytes(conv, plan, kernel.target), digest)
    first, numbers = pack_arguments(conv, strides)
    kernel.pack(weight + first * BYTES[plan.dtype], bias, packed.address, *numbers)
    return packed


class _Cache:
    """Packed weights by the address and layout they came from; the least recently used go first."""

    def __init__(self) -> None:
        self.entries: OrderedDict[Any, Packed] = OrderedDict()
        self.bytes = 0
        self.lock = Lock()

    def find(self, key: Any, digest: int) -> Packed | None:
        with self.lock:
            packed = self.entries.get(key)
            if packed is None or packed.digest != digest:
                return None
            self.entries.move_to_end(key)
            return packed

    def add(self, key: Any, packed: Packed) -> None:
        with self.lock:
            old = self.entries.pop(key, None)
            self.bytes -= old.size if old else 0
            if packed.size > LIMIT:
                return
            self.entries[key] = packed
            self.bytes += packed.size
            while self.bytes > LIMIT:
                self.bytes -= self.entries.popitem(last=False)[1].size

    def clear(self) -> None:
        with self.lock:
            self.entries.clear()
            self.bytes = 0

    def renew_lock(self) -> None:
        """After a fork: another thread of the parent may have held it."""
        self.lock = Lock()


CACHE = _Cache()


def digest(address: int, size: int, team: int, threads: int) -> int:
    """The digest of `size` bytes; the threads of a team share it if it is large."""
    functions = digests()
    if size > CHUNK:
        chunks = -(-size // CHUNK)
        partial, job = np.empty(chunks, np.int64), np.array([chunks, size], np.int64)
        functions.run(job.ctypes.data, address, 0, partial.ctypes.data, 0, team, threads)
        return int(functions.digest(partial.ctypes.data, chunks * 8))
    return int(functions.digest(address, size))
