"""Memory of large results of training, lent to one after the other.

Memory that is new to a process is cleared by the system at the first touch of each page. A network
that trains makes and frees the same results at every step, and from 32 MiB on the C library gives
their memory back to the system each time. Here it waits for the next result of its size. A step of
U-Net, 8 images of 188 pixels, went from 1580 to 1335 ms, one of MobileNet-V2, 8 of 224, from 360 to
310 (2 cores of Zen 3). Leaving what waits to the system (MADV_FREE) took all of that again.

Who frees a result is not asked: its memory is an array that comes back when nobody knows it any
more. PyTorch cannot make such a tensor larger in place, which a tensor that needs a gradient never
is.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np

from konv.runtime import hugepages
from konv.runtime.memory import machine_bytes

LEAST = 32 * 1024 * 1024  # bytes: of less, the C library keeps memory for the next one itself
PAGE = 2 * 1024 * 1024  # a large page: blocks begin at one, and take whole ones
SHARE = 8  # of the memory of the machine, the part that may wait

_waiting: dict[int, list[Block]] = {}  # by size; lists change at once, so threads need no lock
_out: set[int] = set()  # addresses of what is lent


class Block:
    """`size` bytes in whole pages."""

    __slots__ = ("address", "bytes", "size")

    def __init__(self, size: int) -> None:
        try:
            memory = mmap.mmap(-1, size + PAGE)
        except OSError as error:
            raise MemoryError(str(error)) from error
        whole: Any = np.frombuffer(memory, np.uint8)
        first = -whole.ctypes.data % PAGE
        self.bytes = whole[first : first + size]
        self.address, self.size = self.bytes.ctypes.data, size
        hugepages.prefer(self.address, size)


class Lent(np.ndarray):
    """Bytes of a block, which comes back with the end of this object."""

    block: Block | None = None

    def __del__(self) -> None:
        block, self.block = self.block, None
        if block is not None:
            _come_back(block)


def take(size: int) -> Any:
    """An array of so many bytes; MemoryError if there are none."""
    pages = -(-size // PAGE) * PAGE
    try:
        block = _waiting[pages].pop()
    except (KeyError, IndexError):
        block = _new(pages)
    lent: Any = block.bytes[:size].view(Lent)
    lent.block = block
    _out.add(block.address)
    return lent


def _new(size: int) -> Block:
    """A block; where the system has none left, what waits makes room."""
    try:
        return Block(size)
    except MemoryError:
        release()
        return Block(size)


def is_lent(address: int) -> bool:
    """Whether what begins there is memory from here, which no other library may know."""
    return address in _out


def waiting() -> int:
    """Bytes that wait for the next result."""
    return sum(size * len(blocks) for size, blocks in list(_waiting.items()))


def release() -> None:
    """Give all that waits back to the system."""
    _waiting.clear()


def _come_back(block: Block) -> None:
    _out.discard(block.address)
    blocks = _waiting.pop(block.size, [])
    _waiting[block.size] = blocks  # the last: those out of use longest go first
    blocks.append(block)
    for size in list(_waiting):
        while waiting() > machine_bytes() // SHARE and _waiting.get(size):
            _waiting[size].pop()
