"""Machine code as built-in functions of Python (konv.kernels.builtin), where Python is CPython."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from konv.kernels.builtin import COUNTS, TABLE
from konv.llvm import Loaded

FASTCALL = 0x80  # METH_FASTCALL in CPython's methodobject.h; of its stable ABI since 3.10
HEADER = object.__basicsize__
# What TABLE names after the function. Addresses of 64 bits wrap, as they do in ctypes.
API = (
    "PyLong_AsUnsignedLongLongMask", "PyErr_Occurred", "PyEval_SaveThread", "PyEval_RestoreThread",
    "PyLong_FromSsize_t",
)  # fmt: skip


class Method(ctypes.Structure):
    """CPython's PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


def known() -> bool:
    """Whether objects are CPython's, of 64 bits, and arrays keep the address of their memory in the
    first word, as NumPy's ABI says.
    """
    if sys.implementation.name != "cpython" or sys.maxsize < 2**62:
        return False
    probe = np.arange(6)[2:]
    return bool(ctypes.c_ssize_t.from_address(id(probe) + HEADER).value == probe.ctypes.data)


def function(bridge: Loaded, code: int, arguments: int, held: Any = None) -> Callable[..., int]:
    """The machine code at an address as a built-in function of so many integers; `held` lives as
    long as it, and the bridge must.
    """
    if arguments not in COUNTS:
        raise ValueError(f"{arguments} arguments; kernels/builtin.py has {COUNTS}")
    table = np.array((code, *addresses(API)), np.uint64)
    assert len(table) == len(TABLE)
    return made(bridge, f"call{arguments}", table, held)


def address(function: Any) -> int:
    """Where the machine code behind such a function stands."""
    return int(function.__self__[0])


def made(bridge: Loaded, name: str, table: Any, held: Any = None) -> Callable[..., Any]:
    """The built-in function `name` of a bridge that works from a table; `held` lives as long."""
    function: Callable[..., Any] = _maker()(ctypes.addressof(_method(bridge, name)), table, held)
    return function


@cache
def _maker() -> Any:
    prototype = ctypes.PYFUNCTYPE(
        ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.py_object
    )
    return prototype(("PyCFunction_NewEx", ctypes.pythonapi))


@cache
def addresses(names: tuple[str, ...]) -> tuple[int, ...]:
    """Where functions of CPython stand."""
    found = (getattr(ctypes.pythonapi, name) for name in names)
    return tuple(ctypes.cast(f, ctypes.c_void_p).value or 0 for f in found)


@cache
def _method(bridge: Loaded, name: str) -> Method:
    """What CPython knows of such functions, one for the whole process: functions keep its address,
    and look there once more when they go, which may be after this module has gone.
    """
    made = Method(b"konv", bridge.address(name), FASTCALL, None)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(made))
    return made
