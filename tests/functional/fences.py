"""Memory between pages without access: one byte read or written past either end kills the process.

As a program it runs cases in such memory and prints each before it runs it, so that the last line
says which one
was fatal: `python -m functional.fences end 500` with src and tests on PYTHONPATH.
"""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from functional import check
from functional.case import Case
from functional.check import few_kernels, first_of, forget, pinned, small_units, threads
from functional.draw import Dice, accepted
from functional.flat import flat_cases
from functional.forms import Array, tensor
from functional.shrink import shrunk
from functional.test_problems import LAYOUTS, PAIRS
from shared import share

from konv import arrays, llvm
from konv.kernels import planes, scratch
from konv.kernels.scratch import LINE
from konv.plan import Plan
from konv.runtime import execute, job, memory, weights
from konv.target import Target

PAGE = mmap.PAGESIZE
SAME = 3  # problems of a kernel: more ask for nothing else, and random ones bring other sizes
NAN = 0xFF  # a float of these bytes is NaN, an address of them faults

_libc = ctypes.CDLL(None, use_errno=True)


class Fenced:
    """`size` bytes of 0xFF that end, or begin, at a page without access; there is one at the other
    side too.
    """

    def __init__(self, size: int, at_end: bool) -> None:
        inner = -(-max(size, 1) // PAGE) * PAGE
        whole = np.frombuffer(mmap.mmap(-1, inner + 2 * PAGE), np.uint8)
        first = PAGE + (inner - size if at_end else 0)
        self.bytes: Array = whole[first : first + size]
        self.bytes[...] = NAN
        forbid(whole.ctypes.data)
        forbid(whole.ctypes.data + PAGE + inner)
        self.address = whole.ctypes.data + first


def forbid(address: int) -> None:
    """Take all access from the page at an address."""
    if _libc.mprotect(ctypes.c_void_p(address), PAGE, 0):
        raise OSError(ctypes.get_errno(), "mprotect")


class Fence:
    """Everything that a call touches, in fenced memory."""

    def __init__(self, at_end: bool, missing: int = 0) -> None:
        self.at_end, self.missing = at_end, missing
        self.gaps: list[int] = []  # pages without access in the scratch memory of a thread
        self.scratch: dict[int, list[int]] = {}  # and in all of it, by its size

    def array(self, a: Array) -> Array:
        """The same array, in memory that reaches from its first byte to its last, no further."""
        low, high = np.lib.array_utils.byte_bounds(a) if a.size else (0, 0)
        fenced = Fenced(high - low, self.at_end)
        if a.size:
            source = (ctypes.c_char * (high - low)).from_address(low)
            fenced.bytes[...] = np.frombuffer(source, np.uint8)
            start = a.__array_interface__["data"][0] - low
        else:
            start = 0
        found = np.ndarray(a.shape, a.dtype, fenced.bytes, start, a.strides)
        found.flags.writeable = a.flags.writeable
        return found

    def buffer(self, buffer: memory.Buffer, size: int) -> None:
        fenced = Fenced(size, self.at_end)
        buffer.array, buffer.address, buffer.size = fenced.bytes, fenced.address, size
        for gap in self.scratch.get(size, ()):
            forbid(fenced.address + gap)

    def packed(self, packed: weights.Packed, size: int, digest: int) -> None:
        fenced = Fenced(size - self.missing, self.at_end)
        packed.array, packed.address, packed.size, packed.digest = (
            fenced.bytes,
            fenced.address,
            size,
            digest,
        )

    def lay_out(self, words: dict[str, int], parts: dict[str, int]) -> int:
        """Scratch memory with a page without access after each part of it, once for each thread."""
        at, self.gaps = 0, []
        for name, length in parts.items():
            length = -(-length // LINE) * LINE  # parts begin on a cache line
            pages = -(-max(length, 1) // PAGE) * PAGE
            words[name] = at + (pages - length if self.at_end else 0)
            self.gaps.append(at + pages)
            at += pages + PAGE
        return at

    def job(self, *arguments: Any) -> job.Job:
        """A job with its words fenced."""
        made = _schedule(*arguments)
        words, each = self.array(made.words), made.scratch // made.threads
        self.scratch[made.scratch] = [
            t * each + gap for t in range(made.threads) for gap in self.gaps
        ]
        return job.Job(words, words.ctypes.data, made.threads, made.scratch)


_schedule = execute.schedule
_dense, _contiguous = arrays.NumpyKind.dense, arrays.NumpyKind.contiguous


@contextmanager
def fenced(at_end: bool, missing: int = 0) -> Iterator[None]:
    """Arrays of cases, copies, results, scratch memory, packed weights and jobs are fenced, and
    NaN at first.

    `missing` bytes are withheld from packed weights, to see that it kills.
    """
    fence, lay = Fence(at_end, missing), Case._lay

    def laid(case: Case, a: Array, form: str, places: Any) -> Any:
        found = lay(replace(case, torch=False), a, form, places)
        return tensor(fence.array(found)) if case.torch else fence.array(found)

    def empty(_: Any, shape: Any, dtype: str, order: Any = None) -> Array:
        made = fence.array(np.full(shape, np.nan, dtype))
        return made if order is None else made.transpose(order)

    def torch_empty(*of: Any) -> torch.Tensor:
        return torch.from_numpy(empty(*of))

    with ExitStack() as stack:
        for owner, name, new in (
            (Case, "_lay", laid),
            (arrays.NumpyKind, "empty", empty),
            (arrays.NumpyKind, "dense", lambda kind, a: fence.array(_dense(kind, a))),
            (arrays.NumpyKind, "contiguous", lambda kind, a: fence.array(_contiguous(kind, a))),
            (arrays.TorchKind, "empty", torch_empty),
            (arrays.TorchKind, "maker", lambda kind, *of: partial(kind.empty, *of)),
            (memory.Buffer, "__init__", lambda *a: fence.buffer(*a)),
            (weights.Packed, "__init__", lambda *a: fence.packed(*a)),
            (memory, "SMALLEST", 0),
            (memory, "give_back", lambda _: None),
            (scratch, "lay_out", fence.lay_out),
            (execute, "schedule", fence.job),
            (check, "nan_results", nullcontext),
        ):
            stack.enter_context(patch.object(owner, name, new))
        memory.release()
        weights.CACHE.clear()
        forget()
        yield


def main(end: str, count: str, missing: str = "0") -> None:
    """Problems in all layouts, as many as SAME for a kernel, matrix products, then `count` random
    cases of each size, with three threads.

    Where arrays begin at a page the last problem comes first: two processes at work side by side,
    one for each end, then compile half of the kernels each and find the others on disk.
    """
    faulthandler.enable()
    share()
    target, ran = llvm.detect(), Counter[Plan]()
    with fenced(end == "end", int(missing)), threads(3):
        for conv, algorithm, *_ in (pair.values for pair in PAIRS[:: 1 if end == "end" else -1]):
            for layouts, forms in LAYOUTS.items():
                offered = algorithm.plans(conv, target, *layouts)
                for which in range(len(offered) if algorithm is planes else len(offered[:1])):
                    if ran[offered[which]] == SAME:
                        continue
                    ran[offered[which]] += 1
                    small = shrunk(conv, offered[which], target)
                    case = Case(small, bias="contiguous", whole=True, **forms)
                    units = small_units() if layouts[0] else nullcontext()
                    with pinned(algorithm, which), units:
                        _run(case)
        for case in flat_cases():
            _run(case)
        for large in (False, True):
            dice = Dice(3 + large)
            with few_kernels(int(count) // 32):
                for number in range(int(count)):
                    with small_units() if number % 2 else nullcontext():
                        first_of(partial(_drawn, dice, target, large, number), _run)
    print("done")  # noqa: T201


def _drawn(dice: Dice, target: Target, large: bool, number: int) -> Case:
    """A random case; one in eight has an epilogue, another one in eight is in half precision."""
    drawn = accepted(dice, target, large)
    if number % 8 == 0:
        word, form = dice.one(("relu", "gelu")), dice.one(("contiguous", "last", "out"))
        out = drawn.out or "contiguous" if form == "out" else drawn.out
        drawn = replace(drawn, activation=word, residual=form, out=out)
    if number % 8 == 4:
        drawn = replace(drawn, by="", conv=replace(drawn.conv, dtype="float16"))
    return drawn


def _run(case: Case) -> None:
    print(case, flush=True)  # noqa: T201
    forget()
    check.check(case)


if __name__ == "__main__":
    main(*sys.argv[1:])
