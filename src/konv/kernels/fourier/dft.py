"""Discrete Fourier transforms of few numbers, without a loop: X[k] = sum over n of x[n] w^(n k),
w = exp(-2 pi i / N), each x a vector of as many transforms as a register has lanes.

Even lengths are halved (Cooley and Tukey, "An algorithm for the machine calculation of complex
Fourier series", 1965), nine is three times three, and others use what X[k] and X[N - k] share: 4 h
h + 10 h operations for N = 2 h + 1. Numbers are pairs of a real and an imaginary part. Of real ones
only bins 0 to N // 2 are computed. Bin 0, and of even lengths the last, are real: their imaginary
part is not zero but the real one once more, which nobody reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi, sin

from konv.llvm import Function, Value

Pair = tuple[Value, Value]  # a real and an imaginary part


def transform(f: Function, x: Sequence[Pair]) -> list[Pair]:
    """X of N complex numbers: operations 4: 16, 7: 66, 8: 52, 9: 88, 11: 150, 16: 152."""
    count = len(x)
    if count == 1:
        return list(x)
    if count % 3 == 0:
        return _three(f, x) if count == 3 else _by_threes(f, x)
    if count % 2:
        return _odd(f, x)
    even, odd = transform(f, x[::2]), transform(f, x[1::2])
    pairs = [_butterfly(f, e, o, k, count) for k, (e, o) in enumerate(zip(even, odd, strict=True))]
    return [low for low, _ in pairs] + [high for _, high in pairs]


def inverse(f: Function, x: Sequence[Pair]) -> list[Pair]:
    """N times the numbers whose transform is x: its parts change places on the way in and out."""
    return [(re, im) for im, re in transform(f, [(im, re) for re, im in x])]


def of_reals(f: Function, x: Sequence[Value]) -> list[Pair]:
    """Bins 0 to N // 2 of N real numbers."""
    count = len(x)
    if count == 1:
        return [(x[0], x[0])]
    if count % 2:
        plus, minus = _folded(x)
        bins = [(_total(x[0], plus),) * 2]
        for k in range(1, count // 2 + 1):
            re = _weighed(f, x[0], plus, _cosines(k, count))
            bins.append((re, _weighed(f, None, minus, [-sine for sine in _sines(k, count)])))
        return bins
    even, odd = of_reals(f, x[::2]), of_reals(f, x[1::2])
    low, high = [(even[0][0] + odd[0][0],) * 2], [(even[0][0] - odd[0][0],) * 2]
    for k in range(1, count // 4 + 1):
        if 4 * k == count:  # both are real, and w^k is -i
            low.append((even[k][0], odd[k][0] * -1.0))
            continue
        one, (re, im) = _butterfly(f, even[k], odd[k], k, count)
        low.append(one)
        high.append((re, im * -1.0))
    return low + high[::-1]


def to_reals(f: Function, bins: Sequence[Pair], count: int) -> list[Value]:
    """N times the real numbers whose bins 0 to N // 2 these are."""
    if count == 1:
        return [bins[0][0]]
    if count % 2:
        return _to_odd_reals(f, bins, count)
    half = count // 2
    even, odd = [(bins[0][0] + bins[half][0],) * 2], [(bins[0][0] - bins[half][0],) * 2]
    for k in range(1, count // 4 + 1):
        (a, b), (c, d) = bins[k], bins[half - k]
        if 4 * k == count:
            even.append((a + a,) * 2)
            odd.append((b * -2.0,) * 2)
            continue
        even.append((a + c, b - d))
        odd.append(_turned(f, (a - c, b + d), -k, count))
    those = to_reals(f, even, half), to_reals(f, odd, half)
    return [value for pair in zip(*those, strict=True) for value in pair]


def _to_odd_reals(f: Function, bins: Sequence[Pair], count: int) -> list[Value]:
    first, rest = bins[0][0], bins[1:]
    reals, others = [re for re, _ in rest], [im for _, im in rest]
    low, high = [_weighed(f, first, reals, [2.0] * len(rest))], list[Value]()
    for n in range(1, count // 2 + 1):
        even = _weighed(f, first, reals, [2 * cosine for cosine in _cosines(n, count)])
        odd = _weighed(f, None, others, [2 * sine for sine in _sines(n, count)])
        low.append(even - odd)
        high.append(even + odd)
    return low + high[::-1]


def _butterfly(f: Function, even: Pair, odd: Pair, k: int, count: int) -> tuple[Pair, Pair]:
    """even + w^k odd and even - w^k odd, in 4 or 6 operations."""
    (a, b), (c, d) = even, odd
    if k == 0:
        return (a + c, b + d), (a - c, b - d)
    if 4 * k == count:
        return (a + d, b - c), (a - d, b + c)
    cosine, sine = cos(2 * pi * k / count), sin(2 * pi * k / count)
    re, im, other, two = (f.constant(a.type, number) for number in (cosine, sine, -sine, 2.0))
    low = f.fma(d, im, f.fma(c, re, a)), f.fma(c, other, f.fma(d, re, b))
    return low, (f.fma(a, two, low[0] * -1.0), f.fma(b, two, low[1] * -1.0))


def _turned(f: Function, x: Pair, k: int, count: int) -> Pair:
    """x w^k."""
    (a, b), cosine, sine = x, cos(2 * pi * k / count), sin(2 * pi * k / count)
    re = f.constant(a.type, cosine)
    return f.fma(a, re, b * sine), f.fma(b, re, a * -sine)


def _three(f: Function, x: Sequence[Pair]) -> list[Pair]:
    """In 12 operations."""
    (a, b), (c, d), (e, g) = x
    re, im, across, down = c + e, d + g, d - g, c - e
    sine = sin(2 * pi / 3)
    half, up, back = (f.constant(a.type, number) for number in (-0.5, sine, -sine))
    one, other = f.fma(re, half, a), f.fma(im, half, b)
    low = f.fma(across, up, one), f.fma(down, back, other)
    return [(a + re, b + im), low, (f.fma(across, back, one), f.fma(down, up, other))]


def _by_threes(f: Function, x: Sequence[Pair]) -> list[Pair]:
    """3 M numbers as M threes of every third: 9 in 88 operations, not 104."""
    count = len(x)
    thirds = [transform(f, x[b::3]) for b in range(3)]
    for b in (1, 2):
        thirds[b][1:] = [_turned(f, x, b * c, count) for c, x in enumerate(thirds[b]) if c]
    found = [transform(f, each) for each in zip(*thirds, strict=True)]
    return [each[k] for k in range(3) for each in found]


def _odd(f: Function, x: Sequence[Pair]) -> list[Pair]:
    count, parts = len(x), list(zip(*x, strict=True))
    (re_plus, re_minus), (im_plus, im_minus) = map(_folded, parts)
    low, high = [(_total(x[0][0], re_plus), _total(x[0][1], im_plus))], list[Pair]()
    for k in range(1, count // 2 + 1):
        cosines, sines = _cosines(k, count), _sines(k, count)
        a, b = _weighed(f, x[0][0], re_plus, cosines), _weighed(f, x[0][1], im_plus, cosines)
        c, d = _weighed(f, None, re_minus, sines), _weighed(f, None, im_minus, sines)
        low.append((a + d, b - c))
        high.append((a - d, b + c))
    return low + high[::-1]


def _folded(x: Sequence[Value]) -> tuple[list[Value], list[Value]]:
    """x[n] + x[N - n] and x[n] - x[N - n]."""
    pairs = [(x[n], x[-n]) for n in range(1, len(x) // 2 + 1)]
    return [a + b for a, b in pairs], [a - b for a, b in pairs]


def _total(first: Value, values: Sequence[Value]) -> Value:
    for value in values:
        first = first + value
    return first


def _weighed(
    f: Function, first: Value | None, values: Sequence[Value], numbers: Sequence[float]
) -> Value:
    """first + the values times the numbers."""
    for value, number in zip(values, numbers, strict=True):
        if first is None:
            first = value * number
        else:
            first = f.fma(value, f.constant(value.type, number), first)
    assert first is not None
    return first


def _cosines(k: int, count: int) -> list[float]:
    return [cos(2 * pi * (k * n % count) / count) for n in range(1, count // 2 + 1)]


def _sines(k: int, count: int) -> list[float]:
    return [sin(2 * pi * (k * n % count) / count) for n in range(1, count // 2 + 1)]
