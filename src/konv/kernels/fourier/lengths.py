"""The lengths of konv.kernels.fourier's transforms, and how their loops count.

A length is an even number times an odd one that has no factor in common with it, so that a
transform is one of each in turn, with no factors between (Good, "The interaction algorithm and
practical Fourier analysis", 1958):

    x[n],  n = odd * a + even * b  mod N     a < even, b < odd
    X[k],  k = c mod even = d mod odd        X[c][d] = sum over b, a of x w_even^(a c) w_odd^(b d)
"""

from __future__ import annotations

from typing import NamedTuple

from konv.kernels.fourier.dft import Pair
from konv.llvm import I64, Function, Pointer, Value
from konv.plan import Plan

# Of functions that are told how far points lie apart, and imaginary parts from real ones
TOLD = [("pitch", I64), ("apart", I64)]


class Length(NamedTuple):
    """Numbers of a transform: `even` times `odd`."""

    even: int
    odd: int

    @property
    def all(self) -> int:
        return self.even * self.odd

    @property
    def bins(self) -> int:
        """Of real numbers, those that are no others' conjugates."""
        return self.all // 2 + 1

    @property
    def half(self) -> int:
        """Bins of the odd transform of real numbers."""
        return self.odd // 2 + 1

    def places(self, f: Function, b: Value) -> list[Value]:
        """The n of each a, for one b."""
        found = []
        for a in range(self.even):
            n = b * self.even + self.odd * a
            found.append(f.select(n >= self.all, n - self.all, n))
        return found


# Few, so that a layer has few kernels over all sizes of images, and quick for their size: 48, 60,
# 80 and 88 take as long as the next, 126 and 144 as two of others (also AVX2 code; Granite Rapids).
EACH = (4, 7), (4, 9), (6, 7), (8, 7), (8, 9), (10, 9), (16, 7)
LENGTHS = {even * odd: Length(even, odd) for even, odd in EACH}
# Those of konv.kernels.spectrum, which transforms rows alone
OF_ROWS = (4, 7), (8, 5), (8, 7), (8, 9), (16, 7), (16, 9), (16, 15)
ROWS = {even * odd: Length(even, odd) for even, odd in OF_ROWS}
# Those of konv.kernels.spectra, along both axes
OF_SQUARES = (4, 5), (8, 3), (4, 7), (4, 9), (8, 5), (8, 7)
SQUARES = {even * odd: Length(even, odd) for even, odd in OF_SQUARES}


def length_of(plan: Plan) -> Length:
    """That of a plan's transforms, along rows and down columns."""
    return (LENGTHS | ROWS | SQUARES)[plan.form[-1]]


def pitch_of(plan: Plan) -> int:
    """Vectors from one bin of all rows to the next: two for each row, and two more, lest all bins
    of a row meet in the same sets of a cache.
    """
    return 2 * (length_of(plan).all + 1)


def pair_at(at: Pointer, lanes: int, apart: Value | int = 0) -> Pair:
    """A real and an imaginary part, so many numbers apart; 0: side by side."""
    return at.vector(0, lanes), at.vector(apart or lanes, lanes)


def put_pair(at: Pointer, pair: Pair, apart: Value | int = 0) -> None:
    """Store both."""
    at.put(0, pair[0])
    at.put(apart or pair[1].lanes, pair[1])
