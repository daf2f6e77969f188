"""Convolution made fast, and explained.

Every public name is found the first time it is used (PEP 562), so that importing konv loads neither
NumPy nor LLVM nor PyTorch and takes a few milliseconds.
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "konv.functional": (
        "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    ),
    "konv.prepared": ("Prepared", "prepare"),
    "konv.gradient": ("weight_gradient",),
    "konv.geometry": ("Axis", "Conv"),
    "konv.geometry.solve": ("solve",),
    "konv.bench.tuning": ("tune",),
    "konv.runtime.choose": ("precision",),
    "konv.runtime.threads": ("get_num_threads", "set_num_threads"),
    "konv.nn.accelerate": ("accelerate", "restore"),
    "konv.errors": ("KonvError", "OutOfMemoryError", "ProblemError", "UnsupportedError"),
}  # fmt: skip
_WHERE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Axis",
    "Conv",
    "KonvError",
    "OutOfMemoryError",
    "Prepared",
    "ProblemError",
    "UnsupportedError",
    "accelerate",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "get_num_threads",
    "precision",
    "prepare",
    "restore",
    "set_num_threads",
    "solve",
    "tune",
    "weight_gradient",
]

TYPE_CHECKING = False  # as type checkers read it; `typing` itself takes 5 ms to import
if TYPE_CHECKING:
    from typing import Any

    from konv.bench.tuning import tune
    from konv.errors import KonvError, OutOfMemoryError, ProblemError, UnsupportedError
    from konv.functional import (
        conv1d,
        conv2d,
        conv3d,
        conv_transpose1d,
        conv_transpose2d,
        conv_transpose3d,
    )
    from konv.geometry import Axis, Conv
    from konv.geometry.solve import solve
    from konv.gradient import weight_gradient
    from konv.nn.accelerate import accelerate, restore
    from konv.prepared import Prepared, prepare
    from konv.runtime.choose import precision
    from konv.runtime.threads import get_num_threads, set_num_threads


def __getattr__(name: str) -> Any:
    """A public name, imported at its first use and then an attribute like any other."""
    if name not in _WHERE:
        raise AttributeError(f"module 'konv' has no attribute {name!r}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """What is loaded and what could be."""
    return sorted({*globals(), *__all__})
