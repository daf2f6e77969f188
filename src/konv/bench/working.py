"""The arrays of a line: once for the warm measurement, many times over for the cold one.

Warm: one set of arrays, so that all of it, if it is small enough, stays in the caches from one call
to the next. Cold: calls go round over so many sets of distinct inputs, weights and outputs that
each has left the caches when its turn comes again, as in a network of many layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple

import numpy as np

from konv.bench.peers import Peer, Run
from konv.bench.peers.peer import Array
from konv.errors import UnsupportedError
from konv.geometry import Conv

COLD = 64 * 2**20  # bytes: twice the last cache of the machine this was written on
MOST = 512  # sets: more of them are more objects of Python than caches hold
LINE = 64  # bytes that caches load at once


class Arrays(NamedTuple):
    """Contiguous; `weight` as the user stores it."""

    x: Array
    weight: Array
    bias: Array


def draw(conv: Conv, seed: int = 0) -> Arrays:
    """Return standard normal arrays; UnsupportedError for a dtype that NumPy does not have."""
    if conv.dtype == "bfloat16":
        raise UnsupportedError("NumPy has no bfloat16 to draw numbers in. Bench f16 or f32.")
    random = np.random.default_rng(seed)
    shapes = (conv.in_shape, conv.weight_shape, (conv.co,))
    drawn = (random.standard_normal(shape, np.float32) for shape in shapes)
    return Arrays(*(a.astype(conv.dtype, copy=False) for a in drawn))


@dataclass(frozen=True, slots=True)
class Rotation:
    """How a line is kept cold: `sets` of arrays, and if `swept` a walk over COLD other bytes too.

    A line so small that its sets would be too many is swept out of the caches before each call,
    while no clock runs.
    """

    sets: int
    bytes: int  # of all sets
    swept: bool

    @classmethod
    def of(cls, conv: Conv) -> Rotation:
        """Return the rotation of a line.

        >>> Rotation.of(Conv.parse("conv2d 1x64x56x56 o64 k3 p1"))
        Rotation(sets=39, bytes=68370432, swept=False)
        """
        one = conv.bytes
        sets = max(2, ceil(COLD / max(1, one)))
        if sets > MOST:
            return cls(1, one, swept=True)
        return cls(sets, sets * one, swept=False)


def rotating(peer: Peer, conv: Conv, rotation: Rotation) -> Run:
    """Return a call that takes the next set each time and keeps its output until it comes again."""
    runs = [peer.prepare(conv, *arrays) for arrays in _sets(conv, rotation)]
    outputs: list[Any] = [None] * len(runs)
    turns = _turns(len(runs))

    def run() -> Any:
        at = next(turns)
        outputs[at] = runs[at]()
        return outputs[at]

    return run


def _sets(conv: Conv, rotation: Rotation) -> Iterator[Arrays]:
    """Yield copies of one draw: distinct memory is what counts, and drawing takes longer."""
    first = draw(conv)
    for _ in range(rotation.sets):
        yield Arrays(*(a.copy() for a in first))


def _turns(count: int) -> Iterator[int]:
    while True:
        yield from range(count)


def sweeper(rotation: Rotation) -> Callable[[], object] | None:
    """Return what drives a small line out of the caches, None if the rotation does that."""
    if not rotation.swept:
        return None
    lines = np.ones(COLD, np.uint8)[::LINE]
    return lines.max
