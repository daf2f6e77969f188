"""NumPy arrays."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from konv.arrays.kind import PLAIN, UNSEEN
from konv.arrays.layout import Shape

# Results of so many bytes begin on a cache line, which takes 0.5 us. NumPy's own begin 16 bytes
# after one: each vector of 64 bytes then lies on two, and threads share the lines between their
# channels (Granite Rapids, 2 threads, 3x3 depthwise channels-last: 192@14x28 37 to 20 us, 192@28 30
# to 26).
LEAST, LINE = 64 * 1024, 64

_ndarray = np.ndarray


def _slow_address(a: Any) -> int:
    return int(a.__array_interface__["data"][0])


def _numpy_address_reader() -> Callable[[Any], int]:
    """How to read the address of a NumPy array: `a.ctypes.data` takes 0.7 us, a tenth of a small
    call's time.

    In CPython the address is the first word after an array's object header; NumPy keeps it there by
    its ABI (PyArrayObject_fields.data). That is tried on one array, and not relied upon if it
    fails.
    """
    if sys.implementation.name != "cpython":
        return _slow_address
    offset, read = object.__basicsize__, ctypes.c_ssize_t.from_address

    def fast(a: Any) -> int:
        return read(id(a) + offset).value

    probe = np.arange(6.0)[2:]
    return fast if fast(probe) == _slow_address(probe) else _slow_address


@lru_cache(1024)
def _large(shape: Shape, dtype: str) -> int:
    """Numbers of an array that begins on a cache line; 0 if it is not so large."""
    size = prod(shape)
    return size if size * np.dtype(dtype).itemsize >= LEAST else 0


class NumpyKind:
    """NumPy arrays, of any strides and byte order."""

    name = "numpy.ndarray"
    repeats = False

    address = staticmethod(_numpy_address_reader())

    def owns(self, a: Any) -> bool:
        return isinstance(a, np.ndarray)

    def signature(self, a: Any) -> tuple[Any, ...]:
        return (a.shape, a.strides, a.dtype)

    def dtype(self, a: Any) -> str:
        return str(a.dtype.name)

    def strides(self, a: Any) -> Shape:
        return tuple(s // a.itemsize for s in a.strides)

    def native(self, a: Any) -> bool:
        return bool(a.dtype.isnative) and all(s % a.itemsize == 0 for s in a.strides)

    def dense(self, a: Any) -> Any:
        return np.array(a, dtype=a.dtype.newbyteorder("="), order="K", copy=True, subok=False)

    def contiguous(self, a: Any) -> Any:
        return np.array(a, dtype=a.dtype.newbyteorder("="), order="C", copy=True, subok=False)

    def refuse(self, a: Any, name: str) -> None:
        if isinstance(a, np.ma.MaskedArray):
            raise TypeError(
                f"{name} is a masked array, and konv would not see the mask. Use {name}.filled(0)."
            )

    def glance(self, x: Any, weight: Any, bias: Any) -> tuple[int, Any]:
        if not type(x) is type(weight) is _ndarray or type(bias) not in (_ndarray, type(None)):
            return UNSEEN
        last = None if bias is None else (bias.shape, bias.strides, bias.dtype)
        return PLAIN, (
            x.shape, x.strides, x.dtype, weight.shape, weight.strides, weight.dtype, last,
        )  # fmt: skip

    def recognize(self, x: Any, weight: Any, bias: Any) -> tuple[int, Any]:
        return self.glance(x, weight, bias)

    def beside(self, a: Any) -> None:  # noqa: ARG002 - as Kind; plain arrays are not asked about
        return None

    def quiet(self) -> bool:
        return self.repeats

    def question(self, x: Any, weight: Any, bias: Any) -> None:  # noqa: ARG002 - as Kind
        return None

    def followed(self, *arrays: Any) -> bool:  # noqa: ARG002 - as Kind; nobody follows NumPy
        return False

    def refuse_followed(self, a: Any, name: str) -> None:  # noqa: ARG002
        return None

    def empty(self, shape: Shape, dtype: str, order: Shape | None = None) -> Any:
        size = _large(tuple(shape), dtype)
        if size:
            memory = np.empty(size + LINE, dtype)  # LINE numbers: more than are ever left out
            first = -self.address(memory) % LINE // memory.itemsize
            made = memory[first : first + size].reshape(shape)
        else:
            made = np.empty(shape, dtype)
        return made if order is None else made.transpose(order)

    def maker(self, shape: Shape, dtype: str, order: Shape | None = None) -> Callable[[], Any]:
        return lambda: self.empty(shape, dtype, order)

    def lender(self, shape: Shape, dtype: str, order: Shape | None = None) -> Callable[[], Any]:
        return self.maker(shape, dtype, order)

    def permute(self, a: Any, order: Sequence[int]) -> Any:
        return a.transpose(order)

    def writable(self, a: Any) -> bool:
        return bool(a.flags.writeable)

    def copy(self, to: Any, source: Any) -> None:
        to[...] = source

    def wrote(self, a: Any) -> None:  # noqa: ARG002 - as Kind; NumPy keeps no count
        return None
