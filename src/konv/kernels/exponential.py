"""e to a power and the normal distribution in every lane: what smooth activations are made of.

No table and no call: the C library is not there for vectors, and a gather costs more than a
polynomial. A number is cut into n ln 2 + r with |r| <= ln 2 / 2, so that

    e^a    = 2^n (1 + r + r^2 p(r))
    Phi(-t) = e^(-t^2 / 2) P(u) / (t + K),  u = (t - K) / (t + K),  for t >= 0

where Phi, the normal distribution, falls like its density times a curve so smooth that one
polynomial in u serves from 0 to where Phi(-t) is no longer a normal number. Both polynomials are
minimax fits of this project's own (Remez' exchange in 40 digits): p of e^r within 1.1e-8 and
1.7e-17, P within 7.7e-9 and 1.2e-17 relative, for float32 and float64. All is straight-line code of
multiply-adds and one division; scalars and vectors take the same steps, so they give the same bits.
tests/kernels/test_exponential.py holds the errors that the docstrings state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from konv.llvm import F32, F64, I32, I64, Function, Type, Value


@dataclass(frozen=True, slots=True)
class _Numbers:
    """What differs between float32 and float64.

    digits    of the mantissa after its first; `magic` plus a number is that number rounded
    high, low ln 2, whose high part times any n is exact
    least     the logarithm of the smallest normal number
    powers    of p, lowest first
    tail      of P; `center` is K, and beyond `last` Phi(-t) is no normal number
    coarse    bits that a number keeps if its square shall be exact
    """

    integer: Type
    digits: int
    bias: int
    high: float
    low: float
    least: float
    powers: tuple[float, ...]
    center: float
    last: float
    coarse: int
    tail: tuple[float, ...]

    @property
    def magic(self) -> float:
        return 1.5 * 2.0**self.digits


_SINGLE = _Numbers(
    I32, 23, 127, 0.693359375, -0.00021219444005469057, -87.3365447505531,
    (0.5000000026940606, 0.16666576944796407, 0.04166637517350626, 0.008363184036627056,
     0.0013941121387902457),
    4.0, 13.5, -(2**12),
    (0.7552851354668768, -0.6078966064586961, 0.3871368836819698, -0.1865229504823728,
     0.06040441352576808, -0.007528394356769009, -0.0035174719687788413, 0.0015743092960617399,
     0.00019057290797936727, -0.00012683970621765647),
)  # fmt: skip
_DOUBLE = _Numbers(
    I64, 52, 1023, 0.6931471803691238, 1.9082149292705877e-10, -708.3964185322641,
    (0.5000000000000001, 0.16666666666666674, 0.04166666666662412, 0.008333333333322207,
     0.0013888888917217457, 0.00019841269886591, 2.4801521290973345e-05, 2.7557242336680357e-06,
     2.7620090518499427e-07, 2.5110049895858716e-08),
    5.0, 38.0, -(2**27),
    (0.769193049750063, -0.6653825028900566, 0.4953056159699768, -0.3135331566713132,
     0.16502036617037247, -0.06911863870602766, 0.020795066800019784, -0.002993376774690656,
     -0.0007978693990902115, 0.0005448990988021289, -5.937572646982959e-05,
     -4.976298197623058e-05, 1.668120490455874e-05, 3.981426795346675e-06,
     -2.769204363088359e-06, -3.3766793172469565e-07, 4.329120907789178e-07,
     4.359135846985327e-08, -6.550958221882317e-08, -1.0249968257380592e-08,
     7.249855376812063e-09, 2.0427857361119907e-09),
)  # fmt: skip
_NUMBERS = {F32: _SINGLE, F64: _DOUBLE}


def exponential(f: Function, a: Value, small: Value | None = None) -> Value:
    """e^(a + small) for a <= 0, `small` near 0 and exact where their sum would be rounded.

    Within 1 ulp; 0 where the result would be denormal, at minus infinity too; NaN of NaN.
    """
    known = _NUMBERS[a.type.element]
    lifted = f.fma(a, f.constant(a.type, 1.4426950408889634), f.constant(a.type, known.magic))
    n = lifted - known.magic
    r = f.fma(n, f.constant(a.type, -known.high), a)
    r = f.fma(n, f.constant(a.type, -known.low), r)
    if small is not None:
        r = r + small
    power = f.fma(r * r, _polynomial(f, r, known.powers), r) + 1.0
    # The magic number's own last digits are 0: n stands in them alone, and what is left of it moves
    # to where exponents are.
    scale = f.bits((f.bits(lifted, known.integer) + known.bias) << known.digits, a.type)
    return f.select(a < known.least, f.constant(a.type, 0.0), power * scale)


def normal(f: Function, x: Value) -> Value:
    """Phi(x), the chance that a normal number is less than x: 0 and 1 at the infinities, NaN of
    NaN.

    Within 5 ulp in float32 and 7 in float64, on either side of 0 and not only near 1; 0 where the
    result would be denormal.
    """
    known = _NUMBERS[x.type.element]
    t = f.absolute(x)
    t = f.select(t > known.last, f.constant(x.type, known.last), t)
    inverse = 1.0 / (t + known.center)
    curve = inverse * _polynomial(f, (t - known.center) * inverse, known.tail)
    # t^2 in two parts, lest its rounding grow to t^2 / 2 times itself in the exponential.
    coarse = f.bits(f.bits(t, known.integer) & known.coarse, x.type)
    rest = (t - coarse) * (t + coarse) * -0.5
    tail = exponential(f, coarse * coarse * -0.5, rest) * curve
    return f.select(x < 0.0, tail, 1.0 - tail)


def _polynomial(f: Function, x: Value, coefficients: Sequence[float]) -> Value:
    """Horner's scheme, lowest power first."""
    total = f.constant(x.type, coefficients[-1])
    for number in reversed(coefficients[:-1]):
        total = f.fma(total, x, f.constant(x.type, number))
    return total
