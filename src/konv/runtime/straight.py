"""Layers whose calls go straight through machine code (konv.kernels.straight), by the weight.

An entry is made where a call has been repeated: of then on it answers whatever calls are the same
but for the numbers of their tensors, and says None of all others. It is given up together with the
packed weight that it computes with, which the cache of these may drop.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from konv import llvm
from konv.kernels.straight import STRAIGHT, TENSORS, emit
from konv.runtime import builtin
from konv.runtime.code import compiled, digests
from konv.runtime.execute import Call
from konv.runtime.memory import SMALLEST, Buffer
from konv.runtime.rows import Rows
from konv.runtime.single import Single
from konv.runtime.watch import Record
from konv.runtime.weights import CACHE, Packed

REMEMBERED = 512  # entries, of 1 KB each
ROOM = 8 * 1024 * 1024  # bytes of scratch that these calls may have in common
# Of CPython, in the order of STRAIGHT: functions, then objects
API = (
    *builtin.API,
    "PyObject_Vectorcall",
    "PyObject_Call",
    "Py_IncRef",
    "Py_DecRef",
    "PyErr_Clear",
)
OBJECTS = None, True, False
USED = STRAIGHT.index("used")

Straight = Any  # a built-in function
KNOWN: dict[int, Straight] = {}  # by the identity of the weight
_tables: dict[int, dict[int, Any]] = {}  # of these, by identity of packed weight and weight


class Question(NamedTuple):
    """What a call asks of PyTorch."""

    alike: Callable[..., bool]  # whether tensors are as they were
    grad: Callable[[], bool] | None  # whether gradients are wanted, if one of them could have one
    address: Callable[[Any], int]
    making: tuple[Callable[..., Any], tuple[Any, ...]]  # what makes a result, of what arguments


class _Scratch:
    """Memory that one straight call after the other has: its words are 1 while one does, and where
    it begins. Whoever comes meanwhile goes the long way.
    """

    def __init__(self, size: int) -> None:
        self.buffer = Buffer(max(size, SMALLEST))
        self.words = np.array((0, self.buffer.address), np.uint64)


_scratch: _Scratch | None = None  # entries hold theirs when larger ones need another


class Way(NamedTuple):
    """What is run once a call has been found to be as before."""

    words: tuple[int, ...]  # of STRAIGHT, from "weigh" to "scratch"
    held: Any  # lives as long as it may be run


def fits(call: Call) -> bool:
    """Whether a layer may go straight."""
    return call.job.scratch <= ROOM and builtin.known()


def by_packed(
    call: Call, packed: Packed, source: tuple[int, int, bool] | None, record: Record | None = None
) -> Way:
    """By a packed weight. `source`: bytes of the weight and bias, and whether there is one, whose
    digests must be those that it was packed from; None: it is its own. `record`: of a weight that
    is watched, as a large one must be, for its digest takes all threads.
    """
    functions, (size, bias_size, biased) = digests(), source or (0, 0, False)
    scratch = _scratch_of(call)
    weight_is, bias_is = packed.digest, 0
    if biased:  # as konv.runtime.execute.Weights puts them together
        bias_is = (packed.digest + 2**63) % 2**64 - 2**63
        weight_is = packed.digest - bias_is >> 64
    if source is None:
        weight_is = functions.digest(0, 0)
    digest = builtin.address(functions.digest)
    weigh = digest, size
    if record is not None:
        weigh = builtin.address(functions.watched), ctypes.addressof(record)
    words = (
        *weigh, digest, bias_size, weight_is, bias_is,
        *_run(call), packed.address, 0, 0, scratch.words.ctypes.data,
    )  # fmt: skip
    return Way(words, (call, packed, functions, scratch, record))


def by_rows(call: Call, rows: Rows) -> Way:
    """By a kernel that reads the rows of the weight, and the bias, as they lie."""
    scratch = _scratch_of(call)
    words = *[0] * 6, *_run(call), 0, rows.row, rows.zeros, scratch.words.ctypes.data
    return Way(words, (call, rows, scratch))


def by_single(single: Single) -> Way:
    """By a kernel that reads weight and bias as they lie."""
    words = builtin.address(single.kernel), single.job, single.team, single.threads
    return Way((*[0] * 6, *words, 0, 0, 0, 0), single)


def _run(call: Call) -> tuple[int, ...]:
    """The words of STRAIGHT from "run" to "threads"."""
    return builtin.address(call.kernel.run), call.job.address, call.team.address, call.job.threads


def _scratch_of(call: Call) -> _Scratch:
    """What these calls have in common, large enough for one more."""
    global _scratch
    if _scratch is None or _scratch.buffer.size < call.job.scratch:
        _scratch = _Scratch(call.job.scratch)
    return _scratch


def straight(
    arguments: tuple[Any, ...], biased: bool, ask: Question, odd: int, way: Way
) -> Straight | None:
    """What computes calls whose arguments from the fourth on are these very objects; it says None
    of others, as to what is not here. `odd`: bits of an address that is not aligned.
    """
    bridge = _bridge()
    if bridge is None:
        return None
    words = (
        *builtin.addresses(API), *map(id, OBJECTS), len(arguments) + TENSORS, biased,
        id(ask.alike), id(ask.grad) if ask.grad else 0, id(ask.address),
        *map(id, ask.making), odd, *way.words, 0,
    )  # fmt: skip
    assert len(words) == len(STRAIGHT)
    table = np.array([n % 2**64 for n in (*words, *map(id, arguments))], np.uint64)
    return builtin.made(bridge, "straight", table, (arguments, ask, way.held))


def remember(weight: int, packed: Packed | None, made: Straight) -> None:
    """Let calls with the weight of this identity go straight, as long as its packed one is kept."""
    if len(KNOWN) >= REMEMBERED:
        forget()
    KNOWN[weight] = made
    if packed is not None:
        _tables.setdefault(id(packed), {})[weight] = made.__self__


def forget() -> None:
    """Let all calls go the long way."""
    global _scratch
    KNOWN.clear()
    _tables.clear()
    _scratch = None


def _used(packed: Packed) -> bool:
    """Whether calls went straight with a packed weight since it was asked last."""
    tables = list(_tables.get(id(packed), {}).values())  # other threads may add one meanwhile
    used = any(table[USED] for table in tables)
    for table in tables:
        table[USED] = 0
    return used


def _dropped(packed: Packed) -> None:
    """Give up what computes with a packed weight."""
    for weight in list(_tables.pop(id(packed), ())):
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
