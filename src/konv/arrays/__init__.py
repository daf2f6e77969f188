"""One view of NumPy arrays, PyTorch tensors and whatever speaks DLPack: shape, strides, dtype,
address.

    kind.py       what konv asks of a library of arrays
    of_numpy.py  of_torch.py
                  the two that it knows
    exchange.py   the others, through DLPack
    layout.py     how arrays lie in memory

PyTorch is looked for only where it is loaded already; konv never imports it for an array.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from konv.arrays.exchange import from_dlpack, no_memory
from konv.arrays.kind import GRADIENT, OTHER, PLAIN, UNSEEN, Kind
from konv.arrays.layout import Shape, channels_last, dense_strides
from konv.arrays.of_numpy import NumpyKind
from konv.arrays.of_torch import TorchKind

__all__ = [
    "GRADIENT",
    "NUMPY",
    "OTHER",
    "PLAIN",
    "UNSEEN",
    "Kind",
    "NumpyKind",
    "Shape",
    "TorchKind",
    "channels_last",
    "dense_strides",
    "from_dlpack",
    "kind_of",
    "no_memory",
]

NUMPY = NumpyKind()
_torch: TorchKind | None = None
_exact: dict[type, Kind] = {np.ndarray: NUMPY}  # of the types that most arrays have


def kind_of(a: Any) -> Kind | None:
    """The library an array belongs to, None if it is neither NumPy's nor PyTorch's."""
    global _torch
    found = _exact.get(type(a))
    if found is not None:
        return found
    if isinstance(a, np.ndarray):
        return NUMPY
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(a, torch.Tensor):
        if _torch is None or _torch.torch is not torch:
            _torch = TorchKind(torch)
            _exact.update(dict.fromkeys(_torch.types, _torch))
        return _torch
    return None
