"""Digests of weights that are known to be true still, as nobody has written to their memory since.

To read a large weight at each call, only to know that it is what was packed, costs as much as a
layer of few pixels does. So once a weight has had the same digest for some calls, its pages are
watched where the system can do that (konv.runtime.pages), and its digest is taken anew only when
one of them was written to. Whoever writes pays a fault for the first write to a page, 1 us, so a
weight that changes again is watched again only after twice as many calls: training goes on as if
nobody looked.

Only whole pages can be watched, so both ends of a weight are read at each call, and more of them
than parts of pages: devices that write to pinned memory, as networks of clusters do that receive
parameters, pass by the page tables, but leave no end of a weight as it was.

    KONV_WATCH      empty, 0 or off: digests are taken at each call
"""

from __future__ import annotations

import ctypes
import os
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Any

from konv import log
from konv.kernels.digest import WATCHED
from konv.runtime.code import digests
from konv.runtime.pages import PAGE, Pages, Scan, opened

PATIENCE = 3  # calls with the same digest, before a weight is watched
Record = Any  # of ctypes: the words of WATCHED
VALID, DIGEST = WATCHED.index("valid"), WATCHED.index("digest")
LIMIT = 4096  # weights; each may cut mappings of the process in three, of which it has 65530


class _Weight:
    """A digest and how often in a row it was found; once watched, its `record` of WATCHED."""

    __slots__ = ("begin", "count", "digest", "end", "patience", "record", "scan")

    def __init__(self, begin: int, end: int) -> None:
        self.begin, self.end = begin, end  # whole pages
        self.digest, self.count, self.patience = 0, 0, PATIENCE
        self.scan: Scan = None
        self.record: Record | None = None

    def let_go(self) -> None:
        """Watch no longer; whoever has the record sees it."""
        if self.record is not None:
            self.record[VALID] = 0
        self.record = self.scan = None


class Watch:
    """The weights that are watched, or may come to be, by address and bytes."""

    def __init__(self) -> None:
        self._weights: OrderedDict[tuple[int, int], _Weight] = OrderedDict()
        self._lock, self._process = Lock(), 0
        self._pages: Pages | None = None
        self._off = os.environ.get("KONV_WATCH", "on").lower() in ("", "0", "off")

    def digest(self, address: int, size: int, take: Callable[[], int]) -> int:
        """The digest of `size` bytes, several pages, which `take` would say."""
        if self._off:
            return take()
        weight = self._weights.get((address, size))
        if weight is not None and (record := weight.record) is not None:
            digest = record[DIGEST]
            if digests().watched(address, ctypes.addressof(record)) == digest:
                with self._lock:
                    if (address, size) in self._weights:
                        self._weights.move_to_end((address, size))
                return int(digest)
            with self._lock:
                weight.let_go()
                weight.count, weight.patience = 0, 2 * weight.patience
        found = take()
        with self._lock:
            self._seen(address, size, found, take)
        return found

    def record(self, address: int, size: int) -> Record | None:
        """What a weight is known by, for who asks in machine code; None if it is not watched."""
        weight = self._weights.get((address, size))
        return None if weight is None else weight.record

    def _seen(self, address: int, size: int, digest: int, take: Callable[[], int]) -> None:
        """A digest was taken; watch what has had it for long enough."""
        if self._process != os.getpid():
            self._begin()
        weight = self._weights.pop((address, size), None)
        if weight is None:
            weight = _Weight(-(-address // PAGE) * PAGE, (address + size) // PAGE * PAGE)
        self._weights[address, size] = weight
        if len(self._weights) > LIMIT:
            self._drop(self._weights.popitem(last=False)[1])
        weight.count = weight.count + 1 if digest == weight.digest else 1
        weight.digest = digest
        weight.let_go()
        if weight.count > weight.patience:
            self._watch(address, size, weight, take)

    def _watch(self, address: int, size: int, weight: _Weight, take: Callable[[], int]) -> None:
        """Watch a weight, unless the system refuses or its digest is another by now."""
        weight.count = 0
        if self._pages is None:
            self._pages = opened()
            log.event("watch", able=self._pages is not None)
        if self._pages is None:
            self._off = True
            return
        for other in self._weights.values():
            if other.begin < weight.end and weight.begin < other.end:
                other.let_go()  # its pages are about to be protected anew
        try:
            weight.scan = self._pages.protect(weight.begin, weight.end)
        except OSError as error:
            weight.patience *= 2
            log.event("unwatched", address=hex(address), bytes=size, why=error)
            return
        if take() == weight.digest:
            weight.record = self._recorded(self._pages, address, size, weight)

    def _recorded(self, pages: Pages, address: int, size: int, weight: _Weight) -> Record:
        """The record of a weight, of whose ends a page more is read than must be."""
        getpid, ioctl = pages.calls
        first, last = PAGE + -address % PAGE, PAGE + (address + size) % PAGE
        digest = digests().digest
        ends = digest(address, first), digest(address + size - last, last)
        asked = ioctl, *pages.question(weight.scan)
        words = 1, getpid, self._process, *asked, size, first, last, *ends, weight.digest
        return (ctypes.c_int64 * len(WATCHED))(*words)

    def _drop(self, weight: _Weight) -> None:
        if weight.scan is not None and self._pages is not None:
            self._pages.release(weight.begin, weight.end)
        weight.let_go()

    def _begin(self) -> None:
        """In a new process nothing is watched: what the parent has is not its own."""
        if self._pages is not None:
            self._pages.close()
        self._weights.clear()
        self._pages, self._process = None, os.getpid()

    def forked(self) -> None:
        """After a fork: another thread of the parent may have held the lock."""
        self._lock = Lock()


WATCH = Watch()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=WATCH.forked)
