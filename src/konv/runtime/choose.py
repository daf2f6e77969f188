"""Which plan for a layer: the first algorithm that does not refuse, and its best plan by its own
model.

Choosing never looks at batch or thread count, so results do not depend on what else is computed. A
plan holds no image size either; only a refusal may depend on it, where an algorithm on tiles has
too few of them (konv.kernels.winograd). So a layer has one plan per pair of layouts at every size,
at most two where it gets small, and a new size compiles nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar
from types import TracebackType
from typing import Literal

from konv import kernels
from konv.errors import ProblemError
from konv.geometry import Conv
from konv.plan import Plan
from konv.target import Target

Precision = Literal["exact", "fast"]

_precision: ContextVar[Precision] = ContextVar("precision", default="fast")


class precision:  # noqa: N801 - called like a function, and a context manager
    """Choose how exact the kernels are: `"fast"` (the default) or `"exact"`.

    "exact" forbids algorithms whose error bound is larger than that of a plain sum of products;
    "fast" allows them. As a function it sets the mode from here on, as a context manager until the
    block ends; the mode belongs to the thread or task that set it.

    >>> with precision("exact"):
    ...     current_precision()
    'exact'
    """

    def __init__(self, mode: Precision) -> None:
        if mode not in ("exact", "fast"):
            raise ProblemError(f'precision={mode!r} is no precision. Use "exact" or "fast".')
        self._token = _precision.set(mode)

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _precision.reset(self._token)


def current_precision() -> Precision:
    """The precision in force here: "exact" or "fast"."""
    return _precision.get()


def choose(conv: Conv, target: Target, packed: bool, blocked: bool) -> Plan:
    """The plan for a layer whose input is contiguous (`packed`) or channels-last, its output
    likewise (`blocked`).

    Contiguous means that the last spatial axis has stride 1, channels-last that channels have.
    """
    return next(_candidates(conv, target, packed, blocked))


def _candidates(conv: Conv, target: Target, packed: bool, blocked: bool) -> Iterator[Plan]:
    exact = current_precision() == "exact"
    for algorithm in kernels.ALGORITHMS:
        if exact and not algorithm.exact:
            continue
        if algorithm.why_not(conv, target) is None:
            yield from algorithm.plans(conv, target, packed, blocked)
