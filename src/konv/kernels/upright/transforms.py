"""The transforms of konv.kernels.upright, along one axis: of weights, of pixels, of sums."""

from __future__ import annotations

from collections.abc import Sequence

from konv.llvm import Function, Value

# G: a block's four weights at each point, scaled to suit `to_points`; the last row is infinity.
WEIGHT_ROWS = (
    (1 / 4, 0, 0, 0),
    (1 / 6, 1 / 6, 1 / 6, 1 / 6),
    (-1 / 18, 1 / 18, -1 / 18, 1 / 18),
    (-1 / 72, -1 / 36, -1 / 18, -1 / 9),
    (1 / 120, -1 / 60, 1 / 30, -1 / 15),
    (32 / 45, 16 / 45, 8 / 45, 4 / 45),
    (0, 0, 0, -1 / 2),
)


def to_points(f: Function, d: Sequence[Value]) -> list[Value]:
    """B d: seven pixels -> seven points, in 20 operations. The factor of the point 1/2 comes first,
    then even and odd parts serve 1 and -1, 2 and -2.
    """
    ty = d[0].type

    def fma(a: float, x: Value, y: Value) -> Value:
        return f.fma(x, f.constant(ty, a), y)

    e = [fma(-2.0, d[i + 1], d[i]) for i in range(6)]
    one, other = fma(-4.0, e[2], e[4]), fma(-4.0, e[1], e[3])
    two, odd = e[4] - e[2], e[3] - e[1]
    return [
        fma(4.0, e[0], fma(-5.0, e[2], e[4])),
        one + other,
        one - other,
        fma(2.0, odd, two),
        fma(-2.0, odd, two),
        fma(4.0, d[1], fma(-5.0, d[3], d[5])),
        fma(4.0, e[1], fma(-5.0, e[3], e[5])),
    ]


def to_outputs(f: Function, m: Sequence[Value]) -> list[Value]:
    """A m: seven points -> four outputs, in 14 operations."""
    ty = m[0].type

    def fma(a: float, x: Value, y: Value) -> Value:
        return f.fma(x, f.constant(ty, a), y)

    s1, d1, s2, d2 = m[1] + m[2], m[1] - m[2], m[3] + m[4], m[3] - m[4]
    return [
        (m[0] + s1) + (s2 + m[5]),
        fma(2.0, d2, fma(0.5, m[5], d1)),
        fma(4.0, s2, fma(0.25, m[5], s1)),
        fma(8.0, d2, fma(0.125, m[5], d1)) + m[6],
    ]


def dot(f: Function, row: Sequence[float], values: Sequence[Value]) -> Value:
    """A row of constants times values."""
    total = None
    for a, value in zip(row, values, strict=True):
        if a and total is None:
            total = value * a
        elif a and total is not None:
            total = f.fma(value, f.constant(value.type, a), total)
    assert total is not None
    return total
