"""Transforms down the columns of konv.kernels.fourier, and between them the products."""

from __future__ import annotations

from konv.kernels.fourier.dft import Pair, inverse, transform
from konv.kernels.fourier.lengths import TOLD, Length, length_of, pair_at, put_pair
from konv.llvm import REAL, Function, Module, Pointer, Routine, pointer_to
from konv.plan import Plan


def emit_column(module: Module, plan: Plan) -> Routine:
    """column(bins, between, weights): one bin of all rows, transformed, times the weights at each
    point, and back.
    """
    real, lanes, length = REAL[plan.dtype], module.target.lanes(plan.dtype), length_of(plan)
    even, odd = length
    pointers = [(name, pointer_to(real)) for name in ("bins", "between", "weights")]
    with module.function("column", pointers, inline=False) as (f, (bins, between, weights)):
        emit_even(f, length, bins, between, lanes)
        with f.loop(even) as c:
            at = between + c * (2 * odd * lanes)
            own = weights + c * (2 * odd * lanes)
            points = transform(f, [pair_at(at + 2 * n * lanes, lanes) for n in range(odd)])
            factors = [pair_at(own + 2 * d * lanes, lanes) for d in range(odd)]
            products = [_product(f, *both) for both in zip(points, factors, strict=True)]
            for n, pair in enumerate(inverse(f, products)):
                put_pair(at + 2 * n * lanes, pair)
        _emit_back(f, length, bins, between, lanes)
        return f.fn


def emit_column_products(module: Module, plan: Plan) -> Routine:
    """column_products(x, dy, between, sums): one bin of all rows of two images, transformed; the
    points of one times the conjugates of the other's are added to the sums, in the order of c and
    d.
    """
    real, lanes, length = REAL[plan.dtype], module.target.lanes(plan.dtype), length_of(plan)
    even, odd = length
    pointers = [(name, pointer_to(real)) for name in ("x", "dy", "between", "sums")]
    with module.function("column_products", pointers, inline=False) as (f, (x, dy, between, sums)):
        other = between + 2 * length.all * lanes
        emit_even(f, length, x, between, lanes)
        emit_even(f, length, dy, other, lanes)
        with f.loop(even) as c:
            here = c * (2 * odd * lanes)
            ours, theirs = (
                transform(f, [pair_at(part + here + 2 * n * lanes, lanes) for n in range(odd)])
                for part in (between, other)
            )
            for d, ((a, b), (re, im)) in enumerate(zip(ours, theirs, strict=True)):
                at = sums + here + 2 * d * lanes
                one, two = pair_at(at, lanes)
                one, two = f.fma(b, im, f.fma(a, re, one)), f.fma(b, re, f.fma(a, im * -1.0, two))
                put_pair(at, (one, two))
        return f.fn


def emit_column_in(module: Module, plan: Plan, name: str, scale: float = 1.0) -> Routine:
    """name(bins, between, to, pitch, apart): one bin of all rows, transformed and scaled; to points
    that lie `pitch` apart, imaginary parts so far from real ones, in the order of c and d.
    """
    real, lanes, length = REAL[plan.dtype], module.target.lanes(plan.dtype), length_of(plan)
    even, odd = length
    pointers = [(name, pointer_to(real)) for name in ("bins", "between", "to")]
    with module.function(name, [*pointers, *TOLD], inline=False) as (f, args):
        bins, between, to, pitch, apart = args
        emit_even(f, length, bins, between, lanes)
        with f.loop(even) as c:
            at, own = between + c * (2 * odd * lanes), to + c * odd * pitch
            points = transform(f, [pair_at(at + 2 * n * lanes, lanes) for n in range(odd)])
            for d, pair in enumerate(points):
                put_pair(own + pitch * d, _scaled(pair, scale), apart)
        return f.fn


def emit_column_back(module: Module, plan: Plan, told: bool = False) -> Routine:
    """column_back(sums, between, bins): one bin of all rows from its points, scaled. `told`: it
    takes two numbers more as `emit_column_in`, and weights have been scaled.
    """
    real, lanes, length = REAL[plan.dtype], module.target.lanes(plan.dtype), length_of(plan)
    even, odd = length
    pointers = [(name, pointer_to(real)) for name in ("sums", "between", "bins")]
    scale = 1.0 if told else 1 / length.all  # to_pixels has the other
    with module.function("column_back", [*pointers, *TOLD[: 2 * told]], inline=False) as (f, args):
        sums, between, bins, *strides = args
        pitch, apart = strides or (2 * lanes, lanes)
        with f.loop(even) as c:
            own, at = sums + c * odd * pitch, between + c * (2 * odd * lanes)
            points = [pair_at(own + pitch * d, lanes, apart) for d in range(odd)]
            for n, pair in enumerate(inverse(f, [_scaled(each, scale) for each in points])):
                put_pair(at + 2 * n * lanes, pair)
        _emit_back(f, length, bins, between, lanes)
        return f.fn


def _scaled(pair: Pair, scale: float) -> Pair:
    return pair if scale == 1 else (pair[0] * scale, pair[1] * scale)


def _emit_back(f: Function, length: Length, bins: Pointer, between: Pointer, lanes: int) -> None:
    """The inverse of `emit_even`."""
    with f.loop(length.odd) as b:
        at = between + b * (2 * lanes)
        pairs = [pair_at(at + 2 * n * length.odd * lanes, lanes) for n in range(length.even)]
        for place, pair in zip(length.places(f, b), inverse(f, pairs), strict=True):
            put_pair(bins + place * (2 * lanes), pair)


def emit_weight_column(module: Module, plan: Plan) -> Routine:
    """weight_column(bins, between): one bin of all rows of weights, transformed, turned
    round, for taps are counted towards the end of an image, and scaled; where it was, in the order
    of c and d.
    """
    real, lanes, length = REAL[plan.dtype], module.target.lanes(plan.dtype), length_of(plan)
    even, odd = length
    pointers = [(name, pointer_to(real)) for name in ("bins", "between")]
    scale = 1 / length.all  # to_pixels has the other, lest small weights be lost as denormal
    with module.function("weight_column", pointers, inline=False) as (f, (bins, between)):
        emit_even(f, length, bins, between, lanes)
        with f.loop(even) as c:
            at, to = (part + c * (2 * odd * lanes) for part in (between, bins))
            points = transform(f, [pair_at(at + 2 * n * lanes, lanes) for n in range(odd)])
            for d, (re, im) in enumerate(points):
                put_pair(to + 2 * d * lanes, (re * scale, im * -scale))
        return f.fn


def emit_even(f: Function, length: Length, bins: Pointer, between: Pointer, lanes: int) -> None:
    """The even transforms of a column: [c][b] in `between`."""
    with f.loop(length.odd) as b:
        pairs = [pair_at(bins + n * (2 * lanes), lanes) for n in length.places(f, b)]
        at = between + b * (2 * lanes)
        for c, pair in enumerate(transform(f, pairs)):
            put_pair(at + 2 * c * length.odd * lanes, pair)


def _product(f: Function, x: Pair, w: Pair) -> Pair:
    re = f.fma(x[1] * -1.0, w[1], x[0] * w[0])
    return re, f.fma(x[1], w[0], x[0] * w[1])
