"""Large results in pages of 2 MiB, where the system gives them on request (Linux, "madvise").

Memory that is new to a process is given to it at the first touch of each page: 83 MB, a result of
64 channels of 570 x 570, took 25 ms in pages of 4 KiB and 6 ms in large ones (2 cores of Zen 3 in
a virtual machine), where the convolution itself takes 8. NumPy asks for its own arrays; PyTorch
does not. Scratch memory lies in them for what reads it: in pages of 4 KiB, which lie anywhere, its
parts share sets of a cache by chance, and each page is looked up (konv.runtime.memory).
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable
from functools import cache

LARGE = 4 * 1024 * 1024  # bytes from which on to ask, NumPy's own bound: the call takes 1 us
PAGE = 2 * 1024 * 1024  # bytes of a large page


def prefer(address: int, size: int, least: int = LARGE) -> None:
    """Ask for large pages for the whole pages of memory between `address` and `address + size`, if
    that is `least` bytes. It is a wish: nothing is written, and a refusal changes nothing.
    """
    ask, page = _asking(), mmap.PAGESIZE
    begin, end = -(-address // page) * page, (address + size) // page * page
    if ask and size >= least:
        ask(begin, end - begin, mmap.MADV_HUGEPAGE)


@cache
def _asking() -> Callable[[int, int, int], int] | None:
    """The system's call; None where there is none."""
    if sys.platform != "linux" or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    try:
        found = ctypes.CDLL(None).madvise
    except (AttributeError, OSError):
        return None
    found.argtypes, found.restype = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int], ctypes.c_int
    asking: Callable[[int, int, int], int] = found
    return asking
