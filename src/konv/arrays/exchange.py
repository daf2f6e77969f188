"""Arrays of other libraries, through DLPack; arrays without memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from konv.errors import UnsupportedError


def no_memory(name: str) -> UnsupportedError:
    """The error for an array that has a shape and no numbers: freed, fake, or not computed yet."""
    return UnsupportedError(
        f"{name} has no memory of its own: its address is 0. konv computes on numbers that are "
        f"there; use an ordinary array or tensor."
    )


def from_dlpack(a: Any) -> tuple[Any, Callable[[Any], Any]] | None:
    """Any array that speaks DLPack, as a NumPy view, and the way back to its own library; None if
    it does not.
    """
    if not hasattr(a, "__dlpack__"):
        return None
    try:
        view = np.from_dlpack(a)
    except (BufferError, RuntimeError, ValueError, TypeError) as error:
        raise UnsupportedError(
            f"a {type(a).__name__} cannot be read through DLPack: {error}. konv computes on dense "
            f"arrays in the memory of the CPU. Move it there first."
        ) from error
    library = sys.modules.get(type(a).__module__.split(".", 1)[0])
    namespace = a.__array_namespace__() if hasattr(a, "__array_namespace__") else library
    back = getattr(namespace, "from_dlpack", None) or getattr(type(a), "from_dlpack", None)
    return view, back or (lambda y: y)
