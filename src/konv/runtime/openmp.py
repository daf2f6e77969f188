"""Find the OpenMP runtime that this process already has. Nothing is loaded that is not there.

Two pools of threads on the same cores hinder each other, so konv joins the one that is there.
libgomp, libomp and libiomp5 all export GOMP_parallel. A process can hold several (PyTorch's,
scikit-learn's, the system's): PyTorch's comes first, as it is the one at work beside konv.
"""

from __future__ import annotations

import ctypes
import os
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

NAMES = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
_LIBRARY = re.compile(r"lib[gi]?omp\d*[-.]")  # libgomp.so.1, libgomp-a34b3233.so.1, libiomp5.so


def find(torch: ModuleType | None) -> array[int] | None:
    """The addresses of the functions in NAMES; None if there is no OpenMP runtime in this process.

    `torch` is the module, if it is imported.
    """
    for path in (*_of_torch(torch), *_mapped()):
        addresses = _addresses(path)
        if addresses is not None:
            return addresses
    return None


def _of_torch(torch: ModuleType | None) -> Iterator[str]:
    """PyTorch's own library, which finds what it is linked with, then what lies beside it."""
    file = getattr(torch, "__file__", None)
    if file:
        folder = Path(file).parent / "lib"
        yield from map(str, sorted(folder.glob("libtorch_cpu.*")))
        beside = sorted(folder.glob("lib*omp*"))
        yield from (str(path) for path in beside if _LIBRARY.match(path.name))


def _mapped() -> Iterator[str]:
    """The OpenMP runtimes among the files mapped into this process, where the system lists them."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    paths = dict.fromkeys(line[line.index("/") :] for line in lines if "/" in line)
    yield from (path for path in paths if _LIBRARY.match(path.rsplit("/", 1)[1]))


def _addresses(path: str) -> array[int] | None:
    """Where the functions stand, if this library is in the process and has all of them."""
    mode = getattr(os, "RTLD_NOLOAD", None)
    if mode is None:  # Windows
        return None
    try:
        library = ctypes.CDLL(path, mode=mode | os.RTLD_LAZY)
        functions = [getattr(library, name) for name in NAMES]
    except (OSError, AttributeError):
        return None
    return array("q", (ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions))
