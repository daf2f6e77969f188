"""Transforms along the rows of konv.kernels.fourier: real pixels to bins, and bins to outputs.

Bins stand in an order of their own, c and d as konv.kernels.fourier.lengths has them: first those
of c = 0, then those of c = even / 2, half of whose d are others' conjugates, then c = 1, 2, ...
What lies between the two transforms of a row are lines of `odd` vectors: c = 0, c = even / 2, both
real, then a real and an imaginary one for each other c.
"""

from __future__ import annotations

from konv.kernels.epilogue import activate
from konv.kernels.fourier.dft import inverse, of_reals, to_reals, transform
from konv.kernels.fourier.lengths import TOLD, length_of, pair_at, pitch_of, put_pair
from konv.llvm import REAL, Module, Routine, pointer_to
from konv.plan import Plan


def emit_to_bins(module: Module, plan: Plan, told: bool = False) -> Routine:
    """to_bins(row, between, to): the bins of a row of pixels. `told`: it takes two numbers more,
    how far bins lie apart and imaginary parts from real ones.
    """
    real, lanes, length = REAL[plan.dtype], module.target.lanes(plan.dtype), length_of(plan)
    even, odd = length.even, length.odd
    params = [*((name, pointer_to(real)) for name in ("row", "between", "to")), *TOLD[: 2 * told]]
    with module.function("to_bins", params, inline=False) as (f, (row, between, to, *strides)):
        pitch, apart = strides or (pitch_of(plan) * lanes, lanes)
        with f.loop(odd) as b:
            found = of_reals(f, [row.vector(n * lanes, lanes) for n in length.places(f, b)])
            at = between + b * lanes
            at.put(0, found[0][0])
            at.put(odd * lanes, found[-1][0])
            for n, pair in enumerate(found[1:-1], start=1):
                put_pair(at + 2 * n * odd * lanes, pair, odd * lanes)
        with f.loop(2) as end:
            line, own = between + end * (odd * lanes), to + end * length.half * pitch
            found = of_reals(f, [line.vector(n * lanes, lanes) for n in range(odd)])
            found[0] = found[0][0], f.zero(real, lanes)
            for d, pair in enumerate(found):
                put_pair(own + pitch * d, pair, apart)
        with f.loop(even // 2, start=1) as c:
            lines = between + c * (2 * odd * lanes)
            own = to + (c * odd + 1) * pitch
            pairs = [pair_at(lines + n * lanes, lanes, odd * lanes) for n in range(odd)]
            for d, pair in enumerate(transform(f, pairs)):
                put_pair(own + pitch * d, pair, apart)
        return f.fn


def emit_to_pixels(module: Module, plan: Plan, told: bool = False) -> Routine:
    """to_pixels(bins, between, row, bias): the numbers of a row from its bins, scaled, and a bias;
    finished where no residual is added later. `told` as of to_bins.
    """
    real, lanes, length = REAL[plan.dtype], module.target.lanes(plan.dtype), length_of(plan)
    even, odd = length.even, length.odd
    params = [(name, pointer_to(real)) for name in ("bins", "between", "row", "bias")]
    params += TOLD[: 2 * told]
    with module.function("to_pixels", params, inline=False) as (f, args):
        bins, between, row, bias, *strides = args
        pitch, apart = strides or (pitch_of(plan) * lanes, lanes)
        start = bias.vector(0, lanes)
        scale = f.constant(start.type, 1 / length.all)
        with f.loop(2) as end:
            line, own = between + end * (odd * lanes), bins + end * length.half * pitch
            pairs = [pair_at(own + pitch * d, lanes, apart) for d in range(length.half)]
            for n, value in enumerate(to_reals(f, pairs, odd)):
                line.put(n * lanes, value)
        with f.loop(even // 2, start=1) as c:
            lines = between + c * (2 * odd * lanes)
            own = bins + (c * odd + 1) * pitch
            pairs = [pair_at(own + pitch * d, lanes, apart) for d in range(odd)]
            for n, pair in enumerate(inverse(f, pairs)):
                put_pair(lines + n * lanes, pair, odd * lanes)
        with f.loop(odd) as b:
            at = between + b * lanes
            first, last = at.vector(0, lanes), at.vector(odd * lanes, lanes)
            middle = [
                pair_at(at + 2 * n * odd * lanes, lanes, odd * lanes) for n in range(1, even // 2)
            ]
            values = to_reals(f, [(first, first), *middle, (last, last)], even)
            for place, value in zip(length.places(f, b), values, strict=True):
                value = f.fma(value, scale, start)
                row.put(place * lanes, value if plan.residual else activate(f, plan, value))
        return f.fn
