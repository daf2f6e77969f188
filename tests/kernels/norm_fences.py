"""Batch normalisation in memory between pages without access, as functional.fences has it:
`python -m kernels.norm_fences end` with src and tests on PYTHONPATH.
"""

from __future__ import annotations

import faulthandler
import sys
from itertools import product
from typing import Any
from unittest.mock import patch

import numpy as np
from functional.fences import Fenced
from shared import share

from konv.runtime import memory
from konv.runtime.norm import NormCall
from konv.runtime.threads import team

SIZES = [(1, 1, 2), (3, 5, 7), (2, 16, 64), (2, 35, 33), (1, 24, 130), (9, 40, 1)]
EPS = 1e-3


def right(x: Any, dy: Any, gamma: Any, beta: Any, most: float) -> tuple[Any, Any]:
    """y and dx of arrays (images, channels, pixels), by the formulas."""
    axes = (0, 2)
    off = x - x.mean(axes, keepdims=True)
    inverse = 1 / np.sqrt(x.var(axes, keepdims=True) + EPS)
    g = gamma[:, None] * inverse
    y = off * g + beta[:, None]
    if most:
        dy = np.where((y > 0) & (y < most), dy, 0)
        y = y.clip(0, most)
    along = (dy * off).mean(axes, keepdims=True) * inverse**2
    return y, (dy - dy.mean(axes, keepdims=True) - off * along) * g


def laid(a: Any, contiguous: bool) -> Any:
    return a if contiguous else a.transpose(0, 2, 1)


def main(end: str, missing: str = "0") -> None:
    faulthandler.enable()
    share()
    at_end = end == "end"

    def fenced(size: int, dtype: str, values: Any = None) -> Any:
        made = np.frombuffer(Fenced(size * np.dtype(dtype).itemsize, at_end).bytes, dtype)
        if values is not None:
            made[...] = np.ravel(values)
        return made

    def scratch(size: int) -> Any:
        buffer = object.__new__(memory.Buffer)
        made = Fenced(size - int(missing), at_end)
        buffer.array, buffer.address, buffer.size = made.bytes, made.address, size
        return buffer

    random = np.random.default_rng(0)
    forms = product(("float32", "float64"), (True, False), SIZES, ("", "relu", "relu6"), (1, 2))
    for dtype, contiguous, sizes, activation, threads in forms:
        print(dtype, contiguous, sizes, activation, threads, flush=True)  # noqa: T201
        size, channels = int(np.prod(sizes)), sizes[1]
        x, dy = random.normal(size=(2, *sizes))
        gamma, beta = random.normal(size=(2, channels))
        call = NormCall(dtype, contiguous, sizes, activation, team(threads))
        mine = [fenced(size, dtype, laid(a, contiguous)) for a in (x, dy)]
        factors = [fenced(channels, dtype, a) for a in (gamma, beta)]
        y, dx = (fenced(size, dtype) for _ in range(2))
        table, *grads = (fenced(n, dtype) for n in (5 * call.padded, channels, channels))
        at = [a.ctypes.data for a in (*mine, *factors, y, dx, table, *grads)]
        with patch.object(memory, "take", scratch), patch.object(memory, "give_back"):
            call.forward(at[0], at[4], at[2], at[3], at[6], EPS)
            call.backward(at[0], at[1], at[5], at[2], at[6], at[7], at[8])
        wanted = right(x, dy, gamma, beta, {"": 0.0, "relu": np.inf, "relu6": 6.0}[activation])
        for got, a in zip((y, dx), wanted, strict=True):
            assert np.allclose(got, np.ravel(laid(a, contiguous)), atol=1e-3)
    print("done", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
