"""Machine code runs wherever its sections land, gigabytes apart too: a process with large libraries
has no room for all of a kernel in one place. LLVM would end the process.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

CHILD = """
import ctypes, sys
import numpy as np
import konv, konv.reference
from konv.llvm import detect

NONE, PAGE = 0x4022, 4096  # private, anonymous, no memory behind it
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

detect()
far = libc.mmap(None, 1 << 33, 0, NONE, -1, 0)  # 8 GB that nothing else can have
spans = [[int(end, 16) for end in line.split()[0].split("-")] for line in open("/proc/self/maps")]
holes = []
for (_, begin), (end, _) in zip(spans, spans[1:]):
    if far <= begin < end < far + (1 << 36) and end > begin + 4 * PAGE:
        if libc.mmap(begin, end - begin, 0, NONE | 0x100000, -1, 0) == begin:  # no replacing
            holes += range(begin + PAGE, end - PAGE, 2 * PAGE)
for hole in holes[:int(sys.argv[1])]:  # a few pages above those 8 GB; all else is below them
    libc.munmap(hole, PAGE)

random = np.random.default_rng(0)
for line in sys.argv[2:]:
    conv = konv.Conv.parse(line)
    x = random.standard_normal(conv.in_shape).astype(conv.dtype)
    w = random.standard_normal(conv.weight_shape).astype(conv.dtype)
    y = konv.prepare(conv, w)(x)
    wanted = konv.reference.im2col(conv, x.astype("float64"), w.astype("float64"))
    assert np.abs(y - wanted).max() < 1e-4 * np.abs(wanted).max(), line
print("right")
"""
LINES = (
    "conv2d 1x32x20x20 o32 k3 p1",
    "conv2d 1x17x9x9 o16 k1",
    "conv2d 2x32x30x30 o32 k3 p1 g32",
    "tconv2d 1x16x9x9 o8 k4 s2 p1",
)


@pytest.mark.skipif(sys.platform != "linux", reason="arranges memory by Linux's calls")
@pytest.mark.parametrize("pages", [1, 2, 5, 12])
def test_sections_gigabytes_apart(pages: int) -> None:
    """Few single pages are free near the libraries, so one piece lands there, the next far away."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(pages), *LINES], capture_output=True, text=True
    )
    assert done.stdout == "right\n", done.stderr[-1000:]
