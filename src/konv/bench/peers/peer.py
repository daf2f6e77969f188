"""What a competitor must offer, and what several of them share: the user's arguments of a Conv."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from konv.geometry import Conv
from konv.geometry.terms import Terms

CONTIGUOUS, LAST = "contiguous", "channels-last"
LAYOUTS = (CONTIGUOUS, LAST)

Array = NDArray[Any]
Run = Callable[[], Any]


class Peer(Protocol):
    """One library with its arrays in one layout.

    `compiles`: it makes a model of a line first, with weights of its own and maybe threads of its
    own. There cannot be hundreds of those, so it is measured warm only.

    A new one is a file beside this one with a function `peers() -> tuple[Peer, ...]`, empty where
    the library is not installed, and its name in konv.bench.peers.LIBRARIES. It asks
    konv.runtime.threads.get_num_threads() how many threads to use.
    """

    library: str
    layout: str
    compiles: bool

    def why_not(self, conv: Conv) -> str | None:
        """Return why it cannot compute this line, in words for a user; None if it can."""

    def prepare(self, conv: Conv, x: Array, weight: Array, bias: Array) -> Run:
        """Return the call to be timed; its result is the answer, or becomes it by numpy.asarray.

        The arrays are contiguous, of the shapes of conv: x (n, ci, *spatial), weight as the user
        stores it, bias (co,). Nobody writes to them while they are in use.
        """


def name(peer: Peer) -> str:
    """Return what a competitor is called in results, such as "torch channels-last"."""
    return f"{peer.library} {peer.layout}"


class Call(NamedTuple):
    """A Conv as users write it: the function of torch.nn.functional and konv, and its arguments.

    `padding` and `mode` stand apart from the rest: not every library takes every form of them.
    """

    function: str
    padding: tuple[tuple[int, int], ...]
    mode: str
    rest: dict[str, int | tuple[int, ...]]

    @property
    def symmetric(self) -> bool:
        """Whether the padding is the same on both sides of every axis, and not negative."""
        return all(lo == hi >= 0 for lo, hi in self.padding)

    @property
    def amounts(self) -> int | tuple[int, ...]:
        """Symmetric padding in the shortest form."""
        return short([lo for lo, _ in self.padding])


def call_of(conv: Conv) -> Call:
    """Return the call that computes a Conv; numbers that are the default are left out.

    >>> call_of(Conv.parse("tconv2d 1x4x9x9 o8 k4 s2 p1x0")).rest
    {'stride': 2}
    """
    terms = [Terms.of(axis, conv.transposed) for axis in conv.axes]
    values = {
        "stride": ([t.stride for t in terms], 1),
        "output_padding": ([t.output_padding for t in terms], 0),
        "dilation": ([t.dilation for t in terms], 1),
        "groups": ([conv.groups], 1),
    }
    rest = {key: short(each) for key, (each, default) in values.items() if set(each) != {default}}
    function = f"conv{'_transpose' * conv.transposed}{conv.dims}d"
    return Call(function, tuple((t.lo, t.hi) for t in terms), conv.mode, rest)


def short(values: list[int]) -> int | tuple[int, ...]:
    """Return one number if all axes share it, as users write it, else one an axis."""
    return values[0] if len(set(values)) == 1 else tuple(values)


def why_no_layer(conv: Conv) -> str | None:
    """Return why a Conv is no layer that a user can call for, None if it is one."""
    if any((a.stride if conv.transposed else a.up) > 1 for a in conv.axes):
        return "inserts zeros as only gradients of gradients do"
    return None


def last(a: Array) -> Array:
    """Return a copy with the same axes whose channels stand last in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)


@dataclass(frozen=True, slots=True)
class ChannelsLast:
    """The answer of a library whose arrays are (n, *spatial, channel); turned when looked at."""

    array: Any

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.asarray(np.moveaxis(np.asarray(self.array), -1, 1), dtype, copy=copy)
