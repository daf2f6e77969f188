"""Layers whose calls go straight through machine code (konv.kernels.straight), by the weight.

An entry is made where a call has been repeated: of then on it answers whatever calls are the same
but for the numbers of their tensors, and says None of all others. It is given up together with the
packed weight that it computes with, which the cache of these may drop.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from konv import llvm
from konv.kernels.digest import CHUNK
from konv.kernels.straight import STRAIGHT, TENSORS, emit
from konv.runtime import builtin
from konv.runtime.code import compiled, digests
from konv.runtime.execute import Weights
from konv.runtime.memory import SMALLEST, Buffer
from konv.runtime.weights import CACHE, Packed

REMEMBERED = 512  # entries, of 1 KB each
ROOM = 8 * 1024 * 1024  # bytes of scratch that these calls may have in common
# Of CPython, in the order of STRAIGHT: functions, then objects
API = (*builtin.API, "PyObject_Vectorcall", "PyObject_Call", "Py_IncRef", "Py_DecRef", "PyErr_Clear")
OBJECTS = None, True, False
USED = STRAIGHT.index("used")

Straight = Callable[..., Any]
KNOWN: dict[int, Straight] = {}  # by the identity of the weight
_tables: dict[int, dict[int, Any]] = {}  # of these, by identity of packed weight and weight


class Question(NamedTuple):
    """What a call asks of PyTorch."""

    alike: Callable[..., bool]  # whether tensors are as they were
    grad: Callable[[], bool] | None  # whether gradients are wanted, if one of them could have one
    address: Callable[[Any], int]
    make: Callable[..., Any]  # makes a result
    sizes: tuple[Any, ...]  # of these


class _Scratch:
    """Memory that one straight call after the other has: its words are 1 while one does, and where
    it begins. Whoever comes meanwhile goes the long way.
    """

    def __init__(self, size: int) -> None:
        self.buffer = Buffer(max(size, SMALLEST))
        self.words = np.array((0, self.buffer.address), np.uint64)


_scratch: _Scratch | None = None  # entries hold theirs when larger ones need another


def remember(
    weight: int,
    arguments: tuple[Any, ...],
    ask: Question,
    odd: int,
    weights: Weights,
    packed: Packed,
    biased: bool,
) -> None:
    """Let calls with the weight of this identity go straight, whose arguments from the fourth on
    are these very objects.
    """
    global _scratch
    bridge, call = _bridge(), weights.call
    if bridge is None or weights.bytes > CHUNK or call.job.scratch > ROOM:
        return
    if _scratch is None or _scratch.buffer.size < call.job.scratch:
        _scratch = _Scratch(call.job.scratch)
    bias_is, weight_is, functions = 0, packed.digest, digests()
    if biased:  # as konv.runtime.execute.Weights puts them together
        bias_is = (packed.digest + 2**63) % 2**64 - 2**63
        weight_is = packed.digest - bias_is >> 64
    words = (
        *builtin.addresses(API), *map(id, OBJECTS), len(arguments) + TENSORS, biased,
        id(ask.alike), id(ask.grad) if ask.grad else 0, id(ask.address), id(ask.make),
        id(ask.sizes), odd, functions.loaded.address("digest"), weights.bytes, weights.bias_bytes,
        weight_is, bias_is, call.kernel.loaded.address("run"), call.job.address, packed.address,
        call.team.address, call.job.threads, _scratch.words.ctypes.data, 0,
    )  # fmt: skip
    assert len(words) == len(STRAIGHT)
    table = np.array([n % 2**64 for n in (*words, *map(id, arguments))], np.uint64)
    if len(KNOWN) >= REMEMBERED:
        forget()
    KNOWN[weight] = builtin.made(
        bridge, "straight", table, (arguments, ask, call, packed, functions, _scratch)
    )
    _tables.setdefault(id(packed), {})[weight] = table


def forget() -> None:
    """Let all calls go the long way."""
    global _scratch
    KNOWN.clear()
    _tables.clear()
    _scratch = None


def _used(packed: Packed) -> bool:
    """Whether calls went straight with a packed weight since it was asked last."""
    tables = _tables.get(id(packed), {}).values()
    used = any(table[USED] for table in tables)
    for table in tables:
        table[USED] = 0
    return used


def _dropped(packed: Packed) -> None:
    """Give up what computes with a packed weight."""
    for weight in _tables.pop(id(packed), ()):
        KNOWN.pop(weight, None)


CACHE.used, CACHE.dropped = _used, _dropped


@cache
def _bridge() -> llvm.Loaded | None:
    """The machine code; None where Python's objects are not as it takes them, or no lock keeps two
    calls apart.
    """
    locked = getattr(sys, "_is_gil_enabled", None)
    if not builtin.known() or (locked is not None and not locked()):
        return None
    target, header = llvm.detect(), builtin.HEADER
    return compiled(f"straight {header}", "straight", target, lambda: emit(target, header))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget)  # another thread of the parent may have the scratch
