"""What of a call's arguments may decide about it, as a key that a dictionary can be asked for."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import numpy as np

from konv.arrays import Kind, kind_of
from konv.geometry.bounds import scalar_array

FIXED = int, float, str, type(None), np.generic  # types whose objects never change


def type_tree(argument: Any) -> Any:
    """What tells True and 1.0 from 1, which they equal: the type, in tuples of every entry."""
    return tuple(map(type_tree, argument)) if type(argument) is tuple else type(argument)


def rare(activation: Any, residual: Any, out: Any) -> tuple[Any, ...]:
    """What of the key most calls do not have."""
    return activation, type_tree(activation), _signature(residual), _signature(out)


def beside(kind: Kind, activation: Any, residual: Any, out: Any) -> tuple[Any, ...] | None:
    """The same beside plain arrays of a kind, quicker; None if a second look is asked for."""
    found = []
    for a in (residual, out):
        seen = None if a is None else kind.beside(a)
        if a is not None and seen is None:
            return None
        found.append(seen)
    return activation, type_tree(activation), *found


def _signature(a: Any) -> tuple[Any, ...] | None:
    """All that decides whether an array will do as `residual` or `out`."""
    if a is None:
        return None
    kind = kind_of(a)
    return (type(a), *(kind.signature(a) if kind else ()), kind.writable(a) if kind else None)


def fixed(argument: Any) -> Any:
    """What an argument says now, to be remembered by: what may say something else at the next call
    - lists and arrays, iterators, integers of unknown types - as tuples and ints, to any depth; the
    very object if there is nothing to be changed. What cannot be hashed at all is refused by name.
    """
    if isinstance(argument, FIXED):
        return argument
    if isinstance(argument, Iterable) and not scalar_array(argument):
        made = tuple(map(fixed, argument))
        same = type(argument) is tuple and all(map(operator.is_, made, argument))
        return argument if same else made
    try:
        return operator.index(argument)
    except TypeError:
        pass
    try:
        hash(argument)
    except TypeError:
        raise TypeError(
            f"{argument!r} is no number, tuple or string. Use an int or a tuple of ints."
        ) from None
    return argument
