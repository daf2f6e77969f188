"""Layers of one tap computed from the rows of the weight as they lie (konv.kernels.panels): nothing
is packed, so nothing can be out of date.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from konv.geometry import Conv
from konv.kernels import panels
from konv.kernels.panels.cut import HEAD
from konv.plan import Plan, Strides
from konv.target import BYTES

_WORDS = ctypes.c_int64 * len(HEAD)


class Head:
    """What stands where packed weights would, at `address`: it says where rows and biases lie."""

    __slots__ = ("address", "words")

    def __init__(self, weight: int, bias: int, row: int) -> None:
        self.words = _WORDS(1, weight, bias, row)
        self.address = ctypes.addressof(self.words)


class Rows:
    """How weights of such strides in elements are given to a kernel that reads them as they lie."""

    def __init__(self, conv: Conv, weight: Strides) -> None:
        self.row = weight[0] if conv.co > 1 else conv.ci  # the stride of one row may be anything
        self._zeros: Any = np.zeros(conv.co * BYTES[conv.dtype], np.uint8)
        self.zeros = self._zeros.ctypes.data  # the biases where there are none

    def packed(self, weight: int, bias: int) -> Head:
        """What stands for the weight and bias at these addresses; `bias` 0 means none."""
        return Head(weight, bias or self.zeros, self.row)


def rows_of(conv: Conv, plan: Plan, weight: Strides) -> Rows | None:
    """What gives a plan a weight of such strides in elements, if it reads that as it lies."""
    reads = plan.algorithm == panels.name and panels.reads(conv, weight)
    return Rows(conv, weight) if reads else None
