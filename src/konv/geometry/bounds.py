"""Checks of single integers: right type, not too small, not too large.

Every number of a problem passes here once, at the edge; inside the package integers are trusted.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from math import isqrt

from konv.errors import ProblemError

LIMIT = 2**63 - 1
"""Largest quantity: the kernels address memory with signed 64-bit integers."""
SMALL = 2**30  # the product of two such numbers, and a few more, is below it


def integer(value: object, field: str, least: int | None = None) -> int:
    """Return `value` as a plain int, at least `least`.

    Accepts whatever is exactly an integer (``operator.index``: NumPy's integers too). TypeError
    for bools, floats and all else, ProblemError where it is too small or too large.

    >>> integer(3, "stride", least=1)
    3
    >>> integer(2.0, "stride")
    Traceback (most recent call last):
    ...
    TypeError: stride must be an integer, got 2.0 (float).
    """
    if type(value) is not int:
        value = _index(value, field)
    if least is not None and value < least:
        raise ProblemError(f"{field}={value} is too small: {field} must be >= {least}.")
    if abs(value) > LIMIT:
        raise ProblemError(f"{field}={value} does not fit in 63 bits. Use at most {LIMIT}.")
    return value


def plain(numbers: tuple[int, ...]) -> bool:
    """Say whether all are plain ints, so far from 63 bits that a product of two is, too.

    >>> plain((3, -1)), plain((3, True)), plain((3, 2**40))
    (True, False, False)
    """
    return {*map(type, numbers)} == {int} and min(numbers) > -SMALL and max(numbers) < SMALL


def _index(value: object, field: str) -> int:
    """Return the int that `value` stands for; a bool stands for none, though Python says 0 or 1."""
    if not isinstance(value, bool):
        try:
            return operator.index(value)  # type: ignore[arg-type]  # refusing others is the point
        except TypeError:
            pass
    raise TypeError(f"{field} must be an integer, got {value!r} ({type(value).__name__}).")


def per_axis(value: object, field: str, dims: int, least: int | None = None) -> tuple[int, ...]:
    """Return one int per spatial axis from one int for all of them, or a sequence of `dims` ints.

    >>> per_axis(2, "stride", dims=2), per_axis([1, 2], "stride", dims=2)
    ((2, 2), (1, 2))
    """
    if isinstance(value, Iterable) and not isinstance(value, str) and not scalar_array(value):
        values = tuple(value)
        if len(values) != dims:
            raise ProblemError(
                f"{field}={values} has {len(values)} values for {dims} spatial "
                f"{'axis' if dims == 1 else 'axes'}. Use one integer, or {dims} in a tuple."
            )
        return tuple(integer(v, field, least) for v in values)
    return (integer(value, field, least),) * dims


def scalar_array(value: object) -> bool:
    """Say whether `value` is an array of no dimensions: NumPy calls it iterable, yet it is one."""
    return getattr(value, "ndim", None) == 0


def divisors(n: int) -> list[int]:
    """Return all divisors of `n` in order.

    >>> divisors(12)
    [1, 2, 3, 4, 6, 12]
    """
    low = [d for d in range(1, isqrt(n) + 1) if n % d == 0]
    return sorted({*low, *(n // d for d in low)})


def listed(numbers: list[int]) -> str:
    """Write numbers as one says them; of a long list only the ends.

    >>> listed([1, 2, 4]), listed(list(range(20)))
    ('1, 2 or 4', '0, 1, 2, 3 ... 18 or 19')
    """
    if len(numbers) > 12:
        return f"{', '.join(map(str, numbers[:4]))} ... {numbers[-2]} or {numbers[-1]}"
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}" if most else last
