"""What konv asks of a library of arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from konv.arrays.layout import Shape

PLAIN, GRADIENT, OTHER = 0, 1, 2  # what a glance at arrays may find
UNSEEN = OTHER, None  # what a glance says of arrays that it does not know


class Kind(Protocol):
    """What konv asks of a library of arrays."""

    name: str
    repeats: bool  # whether it can tell that arrays are as they were, see `question`

    def owns(self, a: Any) -> bool:
        """Whether an array is of this library."""

    def signature(self, a: Any) -> tuple[Any, ...]:
        """All that a plan may depend on, hashable: shape, strides, dtype."""

    def dtype(self, a: Any) -> str:
        """The dtype's name in NumPy's words, "float32"; of any byte order."""

    def strides(self, a: Any) -> Shape:
        """In elements."""

    def address(self, a: Any) -> int:
        """Of the first element."""

    def native(self, a: Any) -> bool:
        """Whether a kernel may read its numbers as they lie: byte order of this machine."""

    def dense(self, a: Any) -> Any:
        """A fresh copy without gaps, of native byte order, its axes in the same order in memory."""

    def contiguous(self, a: Any) -> Any:
        """A fresh contiguous copy, of native byte order."""

    def refuse(self, a: Any, name: str) -> None:
        """Raise if konv cannot take it at all: other devices, sparse storage."""

    def glance(self, x: Any, weight: Any, bias: Any) -> tuple[int, Any]:
        """PLAIN where nothing speaks against any of them, GRADIENT where only a gradient is wanted,
        else OTHER: the quick answer, and mostly the only one that a call needs. With it what all
        their signatures say; UNSEEN if they are not its own arrays.
        """

    def recognize(self, x: Any, weight: Any, bias: Any) -> tuple[int, Any]:
        """The same, quicker where the weight was met before; what their signatures say may be an
        object that stands for it. Any third array may stand for the bias.
        """

    def beside(self, a: Any) -> tuple[Any, ...] | None:
        """Of a residual or `out` beside arrays that were found PLAIN: its signature, or None if
        anything about it asks for a second look.
        """

    def quiet(self) -> bool:
        """Whether nobody follows what is computed but who shows in the arrays: no tracer, no mode,
        no forward gradients. A library that does not repeat is never asked further.
        """

    def question(self, x: Any, weight: Any, bias: Any) -> tuple[Any, Any, Any] | None:
        """What tells whether arrays are like these; what tells whether gradients are wanted, None
        if none of them could have one; and what tells an address. None if that is not known.
        """

    def followed(self, *arrays: Any) -> bool:
        """Whether somebody follows what is computed from them: autograd, vmap, a tracer."""

    def refuse_followed(self, a: Any, name: str) -> None:
        """Raise if a gradient of what is computed from it is wanted."""

    def empty(self, shape: Shape, dtype: str, order: Shape | None = None) -> Any:
        """A new contiguous array, seen with its axes in another order if one is given; it is a view
        of no other tensor.
        """

    def maker(self, shape: Shape, dtype: str, order: Shape | None = None) -> Callable[[], Any]:
        """What makes such empty arrays, one a call, as quickly as may be; a partial of functools
        if the library `repeats`.
        """

    def lender(self, shape: Shape, dtype: str, order: Shape | None = None) -> Callable[[], Any]:
        """The same for large results of training, whose memory is lent (konv.runtime.lent)."""

    def permute(self, a: Any, order: Sequence[int]) -> Any:
        """A view with its axes in another order."""

    def writable(self, a: Any) -> bool:
        """Whether it may be written to."""

    def copy(self, to: Any, source: Any) -> None:
        """Overwrite `to`."""

    def wrote(self, a: Any) -> None:
        """Tell the library that an array was written to behind its back."""
