"""The errors of konv, all of them.

    Exception
    └── KonvError               anything konv raises on purpose
        ├── ProblemError        no such convolution exists; also ValueError and RuntimeError
        ├── UnsupportedError    it exists, but konv cannot do it; also NotImplementedError
        └── OutOfMemoryError    it is too large for the memory there is; also MemoryError

Each derives from a built-in as well, so that code written for NumPy, which raises ValueError, and
code written for PyTorch, which raises RuntimeError, catches what it expects. A wrong *type* (a
float, a bool or a string where an integer belongs) is a plain TypeError, as everywhere in Python.

A message names the field, its value, the rule and a way out:

    groups=3 does not divide in_channels=64 (Conv2d 64->128). Use 1, 2, 4, 8, 16, 32 or 64.
"""

from __future__ import annotations

__all__ = ["KonvError", "OutOfMemoryError", "ProblemError", "UnsupportedError"]


class KonvError(Exception):
    """The root: ``except KonvError`` catches whatever konv raises on purpose."""


class ProblemError(KonvError, ValueError, RuntimeError):
    """The numbers describe no convolution: a size, a padding, a group count that cannot be.

    >>> from konv.geometry import Conv
    >>> Conv.of((1, 64, 8, 8), 128, kernel=3, groups=3)
    Traceback (most recent call last):
    ...
    konv.errors.ProblemError: groups=3 does not divide in_channels=64 (Conv2d 64->128). \
Use 1, 2, 4, 8, 16, 32 or 64.
    """


class UnsupportedError(KonvError, NotImplementedError):
    """A real convolution, or a real question about one, that konv has no answer to."""


class OutOfMemoryError(KonvError, MemoryError):
    """The arrays or the scratch memory of a convolution were refused by the system."""
