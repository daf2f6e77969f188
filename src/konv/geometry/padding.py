"""What stands beside the image: how much of it (padding) and what it holds (padding modes).

    zeros       0 0 0 | a b c d | 0 0 0
    reflect     d c b | a b c d | c b a      the edge pixel is not repeated
    replicate   a a a | a b c d | d d d
    circular    b c d | a b c d | a b c

The amount may be given as numbers or by name; `amounts` turns every form into (lo, hi) pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from konv.errors import ProblemError
from konv.geometry.bounds import integer, scalar_array

Mode = Literal["zeros", "reflect", "replicate", "circular"]
MODES: tuple[Mode, ...] = get_args(Mode)
NAMED = ("valid", "same", "causal")


def supply(size: int, mode: Mode) -> int | None:
    """Return how many pixels beside an image of `size` pixels the mode can fill, None if endless.

    >>> supply(5, "reflect"), supply(5, "circular"), supply(5, "replicate")
    (4, 5, None)
    """
    return {"reflect": size - 1, "circular": size}.get(mode)


def fold(index: int, size: int, mode: Mode) -> int | None:
    """Return the pixel in 0..size-1 that a read at `index` gets, None where that is a zero.

    ProblemError where `index` lies further out than the mode can supply.

    >>> [fold(i, 4, "reflect") for i in range(-3, 7)]
    [3, 2, 1, 0, 1, 2, 3, 2, 1, 0]
    >>> [fold(i, 4, "circular") for i in (-1, 0, 4)], fold(-9, 4, "replicate"), fold(-1, 4, "zeros")
    ([3, 0, 0], 0, None)
    """
    if 0 <= index < size:
        return index
    if mode == "zeros":
        return None
    if mode == "replicate":
        return 0 if index < 0 else size - 1
    check_supply(max(-index, index - size + 1), size, mode)
    if mode == "circular":
        return index % size
    return -index if index < 0 else 2 * (size - 1) - index


def check_supply(overhang: int, size: int, mode: Mode) -> None:
    """Raise ProblemError if `overhang` pixels on one side are more than the mode can fill."""
    most = supply(size, mode)
    if most is not None and overhang > most:
        raise ProblemError(
            f"padding_mode={mode!r} can supply {most} pixels beside an axis of size {size}, but "
            f"{overhang} are read. Use padding <= {most}, a larger image, or 'replicate'."
        )


def check_mode(mode: object) -> Mode:
    """Return `mode` if it is one of the four; else ProblemError, or TypeError for no string."""
    if not isinstance(mode, str):
        raise TypeError(f"padding_mode must be a string, got {mode!r} ({type(mode).__name__}).")
    if mode not in MODES:
        raise ProblemError(f"padding_mode={mode!r} is unknown. Use {', '.join(map(repr, MODES))}.")
    return mode


def amounts(
    padding: object,
    sizes: Sequence[int],
    extents: Sequence[int],
    strides: Sequence[int],
    transposed: bool,
) -> tuple[tuple[int, int], ...]:
    """Return the padding of each axis as (lo, hi) pixels from any form users may write.

    One int; one int per axis; one pair per axis; or by name: "valid" is none, "same" gives
    ceil(size / stride) outputs with the odd pixel at the end, "causal" lets no output see a later
    pixel. A transposed layer's padding crops its output, so the last two mean nothing there.

    >>> amounts("same", sizes=[5, 8], extents=[3, 3], strides=[1, 2], transposed=False)
    ((1, 1), (0, 1))
    >>> amounts(((0, 1), (2, 2)), [5, 8], [3, 3], [1, 2], transposed=False)
    ((0, 1), (2, 2))
    """
    if isinstance(padding, str):
        return _named(padding, sizes, extents, strides, transposed)
    if isinstance(padding, Iterable) and not scalar_array(padding):
        entries = tuple(padding)
        if len(entries) != len(sizes):
            raise ProblemError(
                f"padding={entries} has {len(entries)} entries for {len(sizes)} spatial "
                f"{'axis' if len(sizes) == 1 else 'axes'}. Use one integer, "
                f"one integer per axis, or one (lo, hi) pair per axis."
            )
        return tuple(_pair(entry) for entry in entries)
    return (_pair(padding),) * len(sizes)


def _pair(entry: object) -> tuple[int, int]:
    """Return (lo, hi) from one axis' entry: an int for both sides, or a pair."""
    if isinstance(entry, Iterable) and not isinstance(entry, str) and not scalar_array(entry):
        ends = tuple(entry)
        if len(ends) != 2:
            raise ProblemError(
                f"padding={ends} has {len(ends)} values for the two ends of an axis. "
                f"Use one (lo, hi) pair per axis."
            )
        return _amount(ends[0]), _amount(ends[1])
    return (_amount(entry),) * 2


def _amount(value: object) -> int:
    number = integer(value, "padding")
    if number < 0:
        raise ProblemError(
            f"padding={number} is negative: padding must be >= 0. Crop the input by slicing it."
        )
    return number


def _named(
    name: str,
    sizes: Sequence[int],
    extents: Sequence[int],
    strides: Sequence[int],
    transposed: bool,
) -> tuple[tuple[int, int], ...]:
    """Return (lo, hi) per axis for "valid", "same" and "causal"."""
    if name not in NAMED:
        raise ProblemError(
            f"padding={name!r} is unknown. Use 'valid', 'same', 'causal' or numbers."
        )
    if name == "valid":
        return ((0, 0),) * len(sizes)
    if transposed:
        raise ProblemError(
            f"padding={name!r} is undefined for a transposed convolution, whose padding crops the "
            f"output. Use numbers: (lo, hi) pairs crop each side, output_padding adds at the end."
        )
    if name == "causal":
        return tuple((extent - 1, 0) for extent in extents)
    totals = [
        max(0, (-(-n // s) - 1) * s + extent - n)
        for n, extent, s in zip(sizes, extents, strides, strict=True)
    ]
    return tuple((total // 2, total - total // 2) for total in totals)
