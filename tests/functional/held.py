"""What a process holds on to, to the object and the byte, once konv has forgotten all that it may
forget: what grows from one time to the next is lost.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from functools import _lru_cache_wrapper
from typing import Any, NamedTuple

from konv import arrays, dispatch, gradient
from konv.nn import doors
from konv.runtime import memory, straight, weights

FIELDS = (
    "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks",
    "keepcost",
)  # fmt: skip


class Counts(ctypes.Structure):
    """What glibc's mallinfo2 returns."""

    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]


class Held(NamedTuple):
    """Blocks of memory that Python's small objects have, and bytes that the C library has given."""

    blocks: int
    given: int


def held() -> Held:
    """Counted when caches that are bounded are empty, so how full they were says nothing."""
    for layers in (dispatch._layers, gradient._layers, doors._convs):
        assert len(layers) <= 512
        layers.clear()
    assert len(straight.KNOWN) <= 512
    straight.forget()
    weights.CACHE.clear()
    memory.release()
    recall = getattr(arrays._torch, "recall", None)
    if recall is not None:
        for met in (recall.bare, recall.biased, recall._tokens):
            assert len(met) <= 1024
            met.clear()
    gc.collect()
    for found in gc.get_objects():
        if type(found) is _lru_cache_wrapper and found.__module__.startswith("konv"):
            _empty(found)
    gc.collect()
    return Held(sys.getallocatedblocks(), _given())


def _empty(known: Any) -> None:
    """Forget what a function has returned; unbounded caches hold what lives as long as a process,
    or would be seen.
    """
    if known.cache_parameters()["maxsize"] is not None:
        known.cache_clear()


def _given() -> int:
    """Bytes of malloc and its kin that were not given back; of other C libraries than glibc 0."""
    asked: Any = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if asked is None:
        return 0
    asked.restype = Counts
    counts = asked()
    return int(counts.uordblks + counts.hblkhd)
