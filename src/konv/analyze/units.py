"""Numbers as people read them: 42.5 M, 7.0 MiB, 2.48 ms, 256 x 256."""

from __future__ import annotations

from collections.abc import Iterable


def count(number: float) -> str:
    """Write a large count in three or four digits.

    >>> count(648), count(42_467_328), count(15_470_264_320)
    ('648', '42.5 M', '15.5 G')
    """
    for power, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= power:
            scaled = number / (1e3 if letter == "k" else power)
            return f"{scaled:.{_digits(scaled)}f} {letter}"
    return f"{number:,.0f}"


def size(number: float) -> str:
    """Write bytes.

    >>> size(648), size(7_000_000)
    ('648 B', '6.68 MiB')
    """
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if number >= 1 << power:
            scaled = number / (1 << power)
            return f"{scaled:.{_digits(scaled)}f} {unit}"
    return f"{number:.0f} B"


def duration(seconds: float) -> str:
    """Write a time.

    >>> duration(0.00248), duration(0.0000071), duration(1.5)
    ('2.48 ms', '7.10 us', '1.50 s')
    """
    for scale, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
        scaled = seconds * scale
        if scaled >= 1:
            return f"{scaled:.{_digits(scaled)}f} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def _digits(number: float) -> int:
    """How many decimals make three digits."""
    return 2 if number < 10 else 1 if number < 100 else 0


def times(numbers: Iterable[int]) -> str:
    """Write a shape.

    >>> times((1, 64, 56, 56))
    '1 x 64 x 56 x 56'
    """
    return " x ".join(map(str, numbers))
