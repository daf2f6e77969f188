"""What of a call's arguments may decide about it, as a key that a dictionary can be asked for."""

from __future__ import annotations

from typing import Any

import numpy as np

from konv.arrays import kind_of


def type_tree(argument: Any) -> Any:
    """What tells True and 1.0 from 1, which they equal: the type, in tuples of every entry."""
    return tuple(map(type_tree, argument)) if type(argument) is tuple else type(argument)


def rare(activation: Any, residual: Any, out: Any) -> tuple[Any, ...]:
    """What of the key most calls do not have."""
    return activation, type_tree(activation), _signature(residual), _signature(out)


def _signature(a: Any) -> tuple[Any, ...] | None:
    """All that decides whether an array will do as `residual` or `out`."""
    if a is None:
        return None
    kind = kind_of(a)
    return (type(a), *(kind.signature(a) if kind else ()), kind.writable(a) if kind else None)


def hashable(argument: Any) -> Any:
    """Lists as tuples, to any depth; what cannot be hashed at all is refused by name."""
    if isinstance(argument, list | tuple):
        return tuple(map(hashable, argument))
    if isinstance(argument, np.ndarray):
        return tuple(map(hashable, argument.tolist())) if argument.ndim else argument.item()
    try:
        hash(argument)
    except TypeError:
        raise TypeError(
            f"{argument!r} is no number, tuple or string. Use an int or a tuple of ints."
        ) from None
    return argument
