"""U: weights transformed, once for each layer.

    [group][block of co][point][ci][vector of co][lane], then biases [group][vector of co][lane]

Transformed in double precision and rounded once, as each number is used many times. The last
vector of output channels begins earlier, as in konv.kernels.winograd_parts.
"""

from __future__ import annotations

from konv.kernels.packing import HEADER, WEIGHTS
from konv.kernels.winograd_parts import Pair, offset
from konv.llvm import F32, F64, I64, SIZE, Function, Module, Pointer, Routine, Value, pointer_to


def emit_weights(module: Module, transforms: Pair, nr: int) -> Routine:
    """pack(weights, bias, packed, ...) with the arguments of konv.kernels.packing.emit_weights."""
    lanes = module.target.lanes("float32")
    over, along = transforms
    filters = _emit_filters(module, transforms)
    reals = ("weights", "bias", "packed")
    params = [(p, pointer_to(F32) if p in reals else I64) for p in WEIGHTS]
    with module.function("pack", params, exported=True) as (f, args):
        a = dict(zip(WEIGHTS, args, strict=True))
        a["packed"].cast(I64)[0] = 0  # nothing here leaves out taps, whatever the weights
        co, ci, out = a["co"], a["ci"], f.var(HEADER // SIZE[F32])
        vectors, numbers = (co + (lanes - 1)) // lanes, f.array(F32, over.r * along.r * lanes)
        with f.loop(a["groups"]) as g, f.loop(vectors, step=nr) as first:
            wide = f.least(vectors - first, nr)
            with f.loop(ci) as c, f.loop(wide) as n:
                channel = offset(f, first + n, co, lanes)
                source = a["weights"] + (g * a["by_group"] + channel * a["by_co"] + c * a["by_ci"])
                with f.loop(lanes) as lane, f.loop(a["taps"]) as tap:
                    numbers[tap * lanes + lane] = source[lane * a["by_co"] + tap * a["by_tap"]]
                to = a["packed"] + (out.get() + (c * wide + n) * lanes)
                f.call(filters, [numbers, to, ci * wide * lanes])
            out.add(ci * wide * (over.n * along.n * lanes))
        with f.loop(a["groups"]) as g, f.loop(vectors) as n:
            channel, to = offset(f, n, co, lanes), a["packed"] + out.get()
            with f.loop(lanes) as lane:
                to[lane] = 0.0
                with f.when(a["bias"].address().differs(0)):
                    # + 0 turns -0 into 0, and no sum with what is not -0 is -0
                    to[lane] = a["bias"][g * co + channel + lane] + 0.0
            out.add(lanes)
        return f.fn


def _emit_filters(module: Module, transforms: Pair) -> Routine:
    """filters(g, to, apart): G g G' of a vector of filters; `apart`: from one point to the next."""
    lanes = module.target.lanes("float32")
    over, along = transforms
    params = [("g", pointer_to(F32)), ("to", pointer_to(F32)), ("apart", I64)]
    with module.function("filters", params, inline=False) as (f, (g, to, apart)):
        half = f.array(F64, over.n * along.r * lanes)
        with f.loop(along.r) as s:
            column = g + s * lanes
            values = [_wide(f, column, r * along.r * lanes, lanes) for r in range(over.r)]
            for i, value in enumerate(over.emit_filters(f, values)):
                half.put(s * lanes + i * along.r * lanes, value)
        with f.loop(over.n) as r:
            line = half + r * (along.r * lanes)
            values = [line.vector(s * lanes, lanes) for s in range(along.r)]
            place = to + r * along.n * apart
            for i, value in enumerate(along.emit_filters(f, values)):
                place.put(apart * i, _narrow(f, value))
        return f.fn


def _wide(f: Function, p: Pointer, at: int, lanes: int) -> Value:
    """A vector of floats as doubles."""
    return f.extend(p.vector(at, lanes), F64)


def _narrow(f: Function, value: Value) -> Value:
    return f.shorten(value, F32)
