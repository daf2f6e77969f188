"""A convolution and its adjoint, made once and found again by being the same object.

To hash a Conv takes 1 us and to make its adjoint 40, several times the work of a small layer. Who
keeps a Pair pays for neither: a dictionary knows it by its identity.
"""

from __future__ import annotations

from functools import lru_cache

from konv.geometry import Conv

REMEMBERED = 512


class Pair:
    """`conv`, and when it is asked for the Pair of its adjoint."""

    __slots__ = ("_adjoint", "conv")

    def __init__(self, conv: Conv) -> None:
        self.conv = conv
        self._adjoint: Pair | None = None

    @property
    def adjoint(self) -> Pair:
        """As `Conv.adjoint`: what takes dy to dx, with the same weight."""
        found = self._adjoint
        if found is None:
            found = self._adjoint = pair(self.conv.adjoint())
        return found


@lru_cache(maxsize=REMEMBERED)
def pair(conv: Conv) -> Pair:
    """The Pair of a Conv, one for all that are equal as long as it is remembered."""
    return Pair(conv)
