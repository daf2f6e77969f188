"""Toom and Cook's short convolution: points, matrices, and their code.

F(m, r) computes m neighbouring outputs of an r-tap filter with n = m + r - 1 products: a polynomial
of degree n - 1 is known from n points, so tile and filter are evaluated there, multiplied, and
interpolated (Toom and Cook; Winograd, "Arithmetic Complexity of Computations", 1980; for networks
Lavin and Gray, 2016):

    y = A' [(G g) * (B' d)]        d: n inputs, g: r taps, y: m outputs, * a point at a time

The points decide how much rounding grows. 0, 1, -1, 2, -2 is the choice of textbooks, for whole
matrices; with 0, +-1/sqrt(2), +-sqrt(2) the largest error of F(4x4, 3x3) is 3 times smaller
with 16 channels and 6 times with 64 (measured in float32 over 400 random tiles) and nothing costs
more: numbers whose product is 1 keep all powers near 1, and a pair of opposite points shares half
of its work. The 8 of F(4x4, 5x5) are 0, +-1/2, +-1, +-2: its largest error is 0.29 of sqrt(terms)
eps sum|x||w| with 16 channels and 0.08 with 256; of F(4x4, 3x3) 0.28 and 0.24 with the points
above, 1.2 and 0.54 with those of textbooks.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod, sqrt

from konv.llvm import Function, Value

Matrix = tuple[tuple[float, ...], ...]

# Pairs of opposite points by how many products; the point 0 is there if their number is odd with
# infinity left out, infinity always.
_PAIRS = {
    3: (1.0,),
    4: (1.0,),
    5: (sqrt(0.5), sqrt(2.0)),
    6: (sqrt(0.5), sqrt(2.0)),
    8: (0.5, 1.0, 2.0),
}


@dataclass(frozen=True, slots=True)
class Short:
    """F(m, r): m outputs of r taps. One tap is one product an output, and no points.

    >>> Short(4, 3).n, Short(2, 3).points
    (6, (0.0, 1.0, -1.0))
    """

    m: int
    r: int

    @property
    def n(self) -> int:
        """Products, which is inputs too."""
        return self.m + self.r - 1

    @property
    def pairs(self) -> tuple[float, ...]:
        """The positive one of each pair of opposite points."""
        return _PAIRS[self.n]

    @property
    def zero(self) -> bool:
        """Whether 0 is a point."""
        return self.n % 2 == 0

    @property
    def points(self) -> tuple[float, ...]:
        """All but infinity, which stands last."""
        return (0.0,) * self.zero + tuple(p for a in self.pairs for p in (a, -a))

    def filters(self) -> Matrix:
        """G: n rows of r numbers."""
        if self.r == 1:
            return ((1.0,),) * self.m
        finite = [
            tuple(a**k / prod(a - b for b in self.points if b != a) for k in range(self.r))
            for a in self.points
        ]
        return (*finite, (0.0,) * (self.r - 1) + (1.0,))

    def emit_inputs(self, f: Function, d: list[Value]) -> list[Value]:
        """B' d, for n vectors."""
        if self.r == 1:
            return d
        squares = [a * a for a in self.pairs]
        out = [_sum(f, _product(squares), d[0::2])] if self.zero else []
        for i, a in enumerate(self.pairs):
            # The row of a is (x + a) P, that of -a is (x - a) P, with P of odd or even powers only.
            others = _product(squares[:i] + squares[i + 1 :])
            even, odd = (d[2::2], d[1::2]) if self.zero else (d[1::2], d[0::2])
            e, o = _sum(f, others, even), _sum(f, others, odd)
            if a == 1.0:
                out += [e + o, e - o]
            else:
                out += [f.fma(o, _splat(o, a), e), f.fma(o, _splat(o, -a), e)]
        return [*out, _sum(f, _product(squares), d[1::2] if self.zero else d[0::2])]

    def emit_outputs(self, f: Function, v: list[Value]) -> list[Value]:
        """A' v, for n vectors: m of them."""
        if self.r == 1:
            return v
        first = 1 if self.zero else 0
        sums, differences = [], []
        for i in range(len(self.pairs)):
            plus, minus = v[first + 2 * i], v[first + 2 * i + 1]
            sums.append(plus + minus)
            differences.append(plus - minus)
        out = []
        for power in range(self.m):
            terms = [
                (a**power, t)
                for a, t in zip(self.pairs, differences if power % 2 else sums, strict=True)
            ]
            if self.zero and power == 0:
                terms.insert(0, (1.0, v[0]))
            if power == self.m - 1:
                terms.insert(0, (1.0, v[-1]))
            out.append(_combined(f, terms))
        return out

    def emit_gradients(self, f: Function, d: list[Value]) -> list[Value]:
        """A d, for m vectors: n of them."""
        if self.r == 1:
            return d
        out = d[:1] if self.zero else []
        for a in self.pairs:
            e = _combined(f, [(a**k, d[k]) for k in range(0, self.m, 2)])
            o = _combined(f, [(a**k, d[k]) for k in range(1, self.m, 2)])
            out = [*out, e + o, e - o]
        return [*out, d[-1]]

    def emit_taps(self, f: Function, v: list[Value]) -> list[Value]:
        """G' v, for n vectors: r of them."""
        columns = zip(*self.filters(), strict=True)
        return [
            _combined(f, [(c, u) for c, u in zip(column, v, strict=True) if c])
            for column in columns
        ]

    def emit_filters(self, f: Function, g: list[Value]) -> list[Value]:
        """G g, for r vectors: n of them."""
        return [
            _combined(f, [(c, v) for c, v in zip(row, g, strict=True) if c])
            for row in self.filters()
        ]


def _product(squares: list[float]) -> list[float]:
    """The coefficients of the product of (z - s) over all squares s, from that of 1 on.

    >>> _product([0.5, 2.0])
    [1.0, -2.5, 1.0]
    """
    out = [1.0]
    for s in squares:
        s = round(s, 15)  # sqrt(2) ** 2 is 2
        out = [low - s * high for low, high in zip([0.0, *out], [*out, 0.0], strict=True)]
    return out


def _sum(f: Function, coefficients: list[float], values: list[Value]) -> Value:
    """Coefficient times value over as many as there are coefficients."""
    return _combined(f, list(zip(coefficients, values[: len(coefficients)], strict=True)))


def _combined(f: Function, terms: list[tuple[float, Value]]) -> Value:
    """The sum of terms, begun with one that needs no multiplication if there is one."""
    terms = sorted(terms, key=lambda term: term[0] != 1.0)
    (c, total), rest = terms[0], terms[1:]
    if c != 1.0:
        total = total * c
    for c, value in rest:
        if c == 1.0:
            total = total + value
        elif c == -1.0:
            total = total - value
        else:
            total = f.fma(value, _splat(value, c), total)
    return total


def _splat(like: Value, number: float) -> Value:
    """A number in every lane of a vector like another."""
    return Value(like.f, like.lift(number))
