"""Digests of weights that are known to be true still, as nobody has written to their memory since.

To read a large weight at each call, only to know that it is what was packed, costs as much as a
layer of few pixels does. So once a weight has had the same digest for some calls, its pages are
watched where the system can do that (konv.runtime.pages), and its digest is taken anew only when
one of them was written to. Whoever writes pays a fault for the first write to a page, 1 us, so a
weight that changes again is watched again only after twice as many calls: training goes on as if
nobody looked.

Only whole pages can be watched, so both ends of a weight are read at each call, a page more than
must be: what writes all of it past the page tables (konv.runtime.pages) is seen there.

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

    __slots__ = ("begin", "count", "digest", "end", "patience", "record", "registered")

    def __init__(self, begin: int, end: int) -> None:
        self.begin, self.end = begin, end  # whole pages
        self.digest, self.count, self.patience = 0, 0, PATIENCE
        self.record: Record | None = None
        self.registered = False  # its pages, with the system

    def let_go(self) -> None:
        """Watch no longer; whoever has the record sees it, before it is forgotten here."""
        if self.record is not None:
            self.record[VALID] = 0
        self.record = None

    def changed(self) -> None:
        """Somebody wrote to it, or to what it has in common with another."""
        self.let_go()
        self.count, self.patience = 0, 2 * self.patience


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
                return int(digest)
            record[VALID] = 0
        found, lock = take(), self._lock
        # To watch can wait: who is in here, in another thread or under a signal handler, goes on.
        if lock.acquire(blocking=False):
            try:
                self._seen(address, size, found, take)
            finally:
                lock.release()
        return found

    def record(self, address: int, size: int) -> Record | None:
        """What a weight is known by, for who asks in machine code; None if it is not watched."""
        weight = self._weights.get((address, size))
        return None if weight is None else weight.record

    def _seen(self, address: int, size: int, digest: int, take: Callable[[], int]) -> None:
        """A digest was taken; watch what has had it for long enough."""
        if self._process != os.getpid():
            self._begin()
        weight = self._weights.get((address, size))
        if weight is None:
            weight = _Weight(-(-address // PAGE) * PAGE, (address + size) // PAGE * PAGE)
            self._weights[address, size] = weight
        self._weights.move_to_end((address, size))
        if len(self._weights) > LIMIT:
            oldest = next(iter(self._weights))
            self._drop(self._weights[oldest])
            del self._weights[oldest]
        if weight.record is not None:
            weight.changed()
        weight.count = weight.count + 1 if digest == weight.digest else 1
        weight.digest = digest
        if weight.count > weight.patience:
            self._watch(address, size, weight, take)

    def _watch(self, address: int, size: int, weight: _Weight, take: Callable[[], int]) -> None:
        """Watch a weight, unless the system refuses or its digest is another by now."""
        weight.count = 0
        if self._pages is None:
            self._pages = opened()
            log.event("watch", able=self._pages is not None)
        pages = self._pages
        if pages is None:
            self._off = True
            return
        for other in self._weights.values():
            common = other.begin < weight.end and weight.begin < other.end
            if common and other.record is not None:
                other.changed()  # its pages are about to be protected anew
        weight.registered = True
        try:
            scan = pages.protect(weight.begin, weight.end)
        except OSError as error:
            weight.patience *= 2
            log.event("unwatched", address=hex(address), bytes=size, why=error)
            return
        record = self._recorded(pages, address, size, scan)
        record[DIGEST] = take()  # after the ends: what is written meanwhile is in both, or seen
        # Not in a child that came to be meanwhile
        if record[DIGEST] == weight.digest and pages is self._pages:
            weight.record = record

    def _recorded(self, pages: Pages, address: int, size: int, scan: Scan) -> Record:
        """The record of a weight, all but its digest; of its ends a page more is read than must
        be.
        """
        getpid, ioctl = pages.calls
        first, last = PAGE + -address % PAGE, PAGE + (address + size) % PAGE
        digest = digests().digest
        ends = digest(address, first), digest(address + size - last, last)
        asked = ioctl, *pages.question(scan)
        words = 1, address, getpid, self._process, *asked, size, first, last, *ends, 0
        record: Record = (ctypes.c_int64 * len(WATCHED))(*words)
        record.scan = scan  # the system writes to it when asked: it lives as long
        return record

    def _drop(self, weight: _Weight) -> None:
        weight.let_go()
        if weight.registered and self._pages is not None:
            self._pages.release(weight.begin, weight.end)

    def _begin(self) -> None:
        """In a new process nothing is watched: what the parent has is not its own. Made by C it
        may have closed files, and others may have their numbers.
        """
        for weight in self._weights.values():
            weight.let_go()
        self._weights.clear()
        self._pages, self._process = None, os.getpid()

    def forked(self) -> None:
        """In a child, before anything else of it runs; a thread that is not there may have the
        lock.
        """
        self._lock = Lock()
        if self._pages is not None:
            self._pages.close()
        self._begin()


WATCH = Watch()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=WATCH.forked)
