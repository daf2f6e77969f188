"""Arrays with the same numbers in many shapes of memory: strides of every kind, alignment, byte
order.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import torch

Array = np.ndarray[Any, Any]


def contiguous(a: Array, rng: Random) -> Array:
    return np.ascontiguousarray(a)


def last(a: Array, rng: Random) -> Array:
    """The second axis runs fastest: channels last, seen channels first."""
    order = [*range(min(a.ndim, 1)), *range(2, a.ndim), *range(1, min(a.ndim, 2))]
    return np.ascontiguousarray(a.transpose(order)).transpose(np.argsort(order))


def inside(a: Array, rng: Random) -> Array:
    """A part of a larger array that is NaN all around."""
    return _within(a, [1] * a.ndim, rng)


def steps(a: Array, rng: Random) -> Array:
    """Every second or third number of a larger array, NaN between them."""
    return _within(a, [rng.choice((1, 2, 3)) for _ in a.shape], rng)


def negative(a: Array, rng: Random) -> Array:
    """Some axes backwards, one at least."""
    back = tuple(axis for axis in range(a.ndim) if rng.random() < 0.5) or (a.ndim - 1,)
    return np.flip(_within(np.flip(a, back), [1] * a.ndim, rng), back)


def zero(a: Array, rng: Random) -> Array:
    """Some axes repeat their first entry: stride 0. The only form that changes the numbers."""
    if 0 in a.shape:
        return np.ascontiguousarray(a)
    still = [rng.random() < 0.5 for _ in a.shape]
    still[rng.randrange(a.ndim)] = True
    first = a[tuple(slice(0, 1) if s else slice(None) for s in still)]
    return np.broadcast_to(np.ascontiguousarray(first), a.shape)


def permuted(a: Array, rng: Random) -> Array:
    """The axes in any order in memory."""
    order = rng.sample(range(a.ndim), a.ndim)
    return np.ascontiguousarray(a.transpose(order)).transpose(np.argsort(order))


def unaligned(a: Array, rng: Random) -> Array:
    """One byte, or a few, past where such numbers belong."""
    off = rng.randrange(1, a.itemsize)
    memory = np.full(a.nbytes + a.itemsize, 0xFF, np.uint8)
    view = memory[off : off + a.nbytes].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def swapped(a: Array, rng: Random) -> Array:
    """The other byte order."""
    return a.astype(a.dtype.newbyteorder())


def readonly(a: Array, rng: Random) -> Array:
    a = np.array(a)
    a.flags.writeable = False
    return a


def record(a: Array, rng: Random) -> Array:
    """A field of packed records: its strides are no multiple of its size."""
    records = np.full(a.shape, -1, [("pad", "i1"), ("value", a.dtype)])
    records["value"] = a
    found: Array = records["value"]
    return found


def negated(a: Array, rng: Random) -> torch.Tensor:
    """A tensor whose numbers lie negated in memory, with PyTorch's negative bit set."""
    view: torch.Tensor = torch._neg_view(torch.from_numpy(np.ascontiguousarray(-a)))
    return view


Form = Callable[[Array, Random], Any]

FORMS: dict[str, Form] = {
    f.__name__: f
    for f in (contiguous, last, inside, steps, negative, zero, permuted, unaligned, swapped,
     readonly, record)
}  # fmt: skip
COMMON = ("contiguous", "contiguous", "last", "last", "inside", "steps")  # what users have, mostly
TENSORS = ("contiguous", "last", "inside", "steps", "zero", "permuted")  # what PyTorch can hold


def tensor(a: Array) -> torch.Tensor:
    """The same memory as a tensor, with the strides that it has."""
    once = a[tuple(slice(0, 1) if step == 0 else slice(None) for step in a.strides)]
    found: torch.Tensor = torch.from_numpy(once if once.flags.writeable else np.array(once))
    return found.expand(a.shape)


def numbers(a: Any) -> Array:
    """A plain copy of what an array or a tensor holds, in this machine's byte order."""
    plain = a.detach().resolve_neg().numpy() if isinstance(a, torch.Tensor) else a
    return np.array(plain, plain.dtype.newbyteorder("="), order="C")


def _within(a: Array, step: list[int], rng: Random) -> Array:
    before = [rng.randrange(3) for _ in a.shape]
    after = [rng.randrange(1, 3) for _ in a.shape]
    sizes = zip(before, a.shape, step, after, strict=True)
    parent = np.full([b + n * s + e for b, n, s, e in sizes], np.nan, a.dtype)
    window = tuple(slice(b, b + n * s, s) for b, n, s in zip(before, a.shape, step, strict=True))
    parent[window] = a
    found: Array = parent[window]
    return found
