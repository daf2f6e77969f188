"""Pages of memory that nobody has written to since they were looked at, by Linux's own book.

The system can write-protect pages and lift that again at the first write by itself, without asking
or stopping anybody (userfaultfd's asynchronous mode, Linux 6.7), and says in microseconds whether
any page of a range was written to since (PAGEMAP_SCAN): 32 MB take 7 us, where to read them takes
800 to 3500. Every change that passes through the page tables of this process counts: its own
stores, `read` and the like, `madvise`, other processes through `process_vm_writev` or a debugger.
What does not would go unseen, so memory that is shared, or of a file, is refused, and all of it as
long as the process has pinned memory (VmPin): to pin it is a write that is seen, and what the
system, or a device, writes to pinned pages later (io_uring's fixed buffers, networks of clusters)
is not. Pages that are pinned for one O_DIRECT read, or by cudaHostRegister, are not counted there.

Where the system has none of this, or filters system calls, there is none of it: `opened` is None.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

PAGE = mmap.PAGESIZE
# Numbers of linux/userfaultfd.h and linux/fs.h
SYSCALL = {"x86_64": 323, "aarch64": 282}
USER_MODE_ONLY, ASYNCHRONOUS, PROTECT = 1, 1 << 15, 1 << 1
API, REGISTER, UNREGISTER = 0xC018AA3F, 0xC020AA00, 0x8010AA01
SCAN, QUERY = 0xC0606610, 0xC0686611
PROTECTING, CHECKING = 1 << 0, 1 << 1
WRITTEN = 1 << 1
SHARED = 1 << 3  # of what QUERY says of a mapping

Scan = Any  # of ctypes: the arguments of SCAN


class Pages:
    """What Linux is asked by; OSError if it does not know it."""

    def __init__(self) -> None:
        self._libc = ctypes.PyDLL(None, use_errno=True)
        self._ioctl = self._libc.ioctl
        self._ioctl.argtypes = ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p
        calls = self._libc.getpid, self._ioctl
        self.calls = [ctypes.cast(call, ctypes.c_void_p).value or 0 for call in calls]
        self._files: dict[int, str] = {}  # what they are
        try:
            number = SYSCALL[platform.machine()]
            faults = self._libc.syscall(number, os.O_CLOEXEC | os.O_NONBLOCK | USER_MODE_ONLY)
            if faults < 0:
                raise OSError(ctypes.get_errno(), "userfaultfd")
            self._files[faults] = "userfaultfd"
            self._faults = faults
            self._ask(faults, API, _words(0xAA, ASYNCHRONOUS, 0))
            for name in ("pagemap", "maps"):
                file = os.open(f"/proc/self/{name}", os.O_RDONLY | os.O_CLOEXEC)
                self._files[file] = name
            _, self._map, self._maps = self._files
            self._try()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Forget all ranges. Files that somebody has closed behind our back may be others now."""
        for file, name in self._files.items():
            with suppress(OSError):
                if name in str(Path(f"/proc/self/fd/{file}").readlink()):
                    os.close(file)
        self._files.clear()

    def protect(self, begin: int, end: int) -> Scan:
        """Watch the pages from `begin` to `end` from now on: what `untouched` is asked with.
        OSError if they are not private memory of this process, or somebody else watches them.
        """
        self._check_private(begin, end)
        self._ask(self._faults, REGISTER, _words(begin, end - begin, PROTECT, 0))
        scan = _scan(begin, end, PROTECTING | CHECKING)
        try:
            self._ask(self._map, SCAN, scan)
            if scan[4] != end:
                raise OSError(f"protected up to {scan[4]:#x} of {end:#x}")
        except BaseException:
            self.release(begin, end)
            raise
        return _scan(begin, end, CHECKING)

    def untouched(self, scan: Scan) -> bool:
        """Whether no page was written to, dropped or mapped anew since it was protected."""
        return bool(self._ioctl(self._map, SCAN, ctypes.addressof(scan)) == 0)

    def question(self, scan: Scan) -> tuple[int, int, int]:
        """What ioctl is asked with, for `untouched`."""
        return self._map, SCAN, ctypes.addressof(scan)

    def release(self, begin: int, end: int) -> None:
        """Watch no longer; memory that is no longer there is none to release."""
        with suppress(OSError):
            self._ask(self._faults, UNREGISTER, _words(begin, end - begin))

    def _ask(self, file: int, request: int, words: Any) -> None:
        if self._ioctl(file, request, ctypes.addressof(words)) < 0:
            raise OSError(ctypes.get_errno(), f"ioctl {request:#x}")

    def _check_private(self, begin: int, end: int) -> None:
        """Raise unless each mapping of a range is private and of no file, and no memory pinned."""
        if _status(b"VmPin") not in ([b"0", b"kB"], []):
            raise OSError("memory of this process is pinned")
        while begin < end:
            found = _words(104, 0, begin, *[0] * 10)
            self._ask(self._maps, QUERY, found)
            _, _, _, _, stop, flags, _, _, inode, device, *_ = found
            if flags & SHARED or inode or device:
                raise OSError("memory that is shared, or of a file")
            begin = stop

    def _try(self) -> None:
        """Raise OSError unless changes of every kind are seen in memory of our own."""
        size = 4 * PAGE
        with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as trial:
            trial[:] = bytes(size)
            view = ctypes.c_char.from_buffer(trial)
            begin = ctypes.addressof(view)
            del view
            for dropped in (False, True):
                scan = self.protect(begin, begin + size)
                if not self.untouched(scan):
                    raise OSError("pages are written to that nobody writes to")
                if dropped:
                    trial.madvise(mmap.MADV_DONTNEED, PAGE, PAGE)
                else:
                    trial[2 * PAGE] = 1
                if self.untouched(scan):
                    raise OSError("pages are written to and it is not seen")


def opened() -> Pages | None:
    """What Linux is asked by, if it may be."""
    try:
        # A filter of system calls may end a process that makes one it does not know.
        return Pages() if _status(b"Seccomp") == [b"0"] else None
    except Exception:  # noqa: BLE001 - whatever a system says that has not all of this
        return None


def _status(name: bytes) -> list[bytes]:
    """What Linux says of this thread, whose name may be any bytes; OSError where there is none."""
    lines = Path("/proc/thread-self/status").read_bytes().splitlines()
    return next((line.split()[1:] for line in lines if line.startswith(name + b":")), [])


def _words(*numbers: int) -> Any:
    return (ctypes.c_uint64 * len(numbers))(*numbers)


def _scan(begin: int, end: int, flags: int) -> Scan:
    """A question for pages that were written to; of those to be protected all, else one."""
    found = _words(0, 0, 0)  # where the answer says which
    asks = flags == CHECKING
    where = (ctypes.addressof(found), 1, 1) if asks else (0, 0, 0)
    scan = _words(96, flags, begin, end, 0, *where, 0, WRITTEN, 0, WRITTEN)
    scan.found = found
    return scan
