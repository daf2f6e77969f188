"""What the kernels of batch normalisation share: their job, sums in float64, and what becomes of
sums.

    y = (x - mean) / sqrt(variance + eps) * gamma + beta        over all images and pixels
      = x * scale + shift                                       of a channel

Sums of x and of its squares are taken in float64, both less a number of the channel, its first: so
nothing cancels but where a channel's deviation is a millionth of that of its first number. Sums of
the gradient are taken a few numbers at a time in x's own precision, and those in float64.

The gradient of x takes part in mean and variance too. With d for the gradient of y, m for the mean
over a channel,

    dx = (d - m(d) - (x - mean) * m(d * (x - mean)) / (variance + eps)) * gamma / sqrt(...)
       = d * a + (x - mean) * b + c
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from konv.kernels.words import Words
from konv.llvm import F64, I64, Function, Pointer, Type, Value
from konv.plan import Plan

# `count`: numbers of a channel, images x pixels; `share`: rows of a unit; `padded`: channels up to
# whole lines; `eps`: the bits of a float64; then addresses.
NORM_JOB = (
    "units", "channels", "padded", "count", "share", "images", "pixels", "eps",
    "gamma", "beta", "table", "dgamma", "dbeta",
)  # fmt: skip
# What forward leaves for backward and for running statistics: so many rows of `padded` numbers.
TABLE = ("mean", "inverse", "variance", "scale", "shift")
LINE = 64  # bytes of a cache line

Values = dict[str, Value]


def read(call: Words) -> Values:
    """All words of the job, once: stores might change them, for all that LLVM knows."""
    job = Words(call.pointer("job", I64), NORM_JOB)
    return {name: job[name] for name in NORM_JOB}


def stepped(
    f: Function, count: Value, widths: Sequence[int], body: Callable[[Value, int], None]
) -> None:
    """body(first, width) for all of `count`, by the first of some widths as far as that goes, then
    by the next; all are powers of two, the last is 1.
    """
    done = f.integer(0)
    for width in widths:
        end = count if width == 1 else count & -width
        with f.loop(end, start=done, step=width) as first:
            body(first, width)
        done = end


def wide(f: Function, value: Value) -> Value:
    """In float64."""
    return value if value.type.element is F64 else f.extend(value, F64)


def narrow(f: Function, value: Value, real: Type) -> Value:
    """From float64."""
    return value if real is F64 else f.shorten(value, real)


def row(job: Values, name: str, real: Type) -> Pointer:
    """A row of the table."""
    return job["table"].to_pointer(real) + job["padded"] * TABLE.index(name)


def normal(f: Function, job: Values, real: Type, at: Value, x0: Value, sums: list[Value]) -> None:
    """Fill the table for some channels, `at` the first, from the sums of x - x0 and its squares."""
    lanes = x0.lanes
    n = f.splat(f.to_real(job["count"], F64), lanes)
    eps = f.splat(f.bits(job["eps"], F64), lanes)
    gamma, beta = (
        wide(f, job[name].to_pointer(real).vector(at, lanes)) for name in ("gamma", "beta")
    )
    off = sums[0] / n
    mean, left = x0 + off, sums[1] / n - off * off
    variance = f.select(left < 0.0, f.zero(F64, lanes), left)
    inverse = 1.0 / f.root(variance + eps)
    scale = narrow(f, inverse * gamma, real)
    found = {
        "mean": mean, "inverse": inverse, "variance": variance * n / (n - 1.0),
        "shift": beta - mean * wide(f, scale),
    }  # fmt: skip
    for name, value in found.items():
        row(job, name, real).put(at, narrow(f, value, real))
    row(job, "scale", real).put(at, scale)


def gradient(
    f: Function, job: Values, real: Type, at: Value, sums: list[Value]
) -> tuple[Value, Value, Value]:
    """a, b and c of some channels, `at` the first, from the sums of d and of d * (x - mean); store
    the gradients of gamma and beta.
    """
    lanes = sums[0].lanes
    n = f.splat(f.to_real(job["count"], F64), lanes)
    inverse = wide(f, row(job, "inverse", real).vector(at, lanes))
    along = sums[1] * inverse
    job["dgamma"].to_pointer(real).put(at, narrow(f, along, real))
    job["dbeta"].to_pointer(real).put(at, narrow(f, sums[0], real))
    a = inverse * wide(f, job["gamma"].to_pointer(real).vector(at, lanes))
    b, c = 0.0 - along * inverse / n * a, 0.0 - sums[0] / n * a
    return narrow(f, a, real), narrow(f, b, real), narrow(f, c, real)


def passed(f: Function, plan: Plan, d: Value, y: Callable[[], Value]) -> Value:
    """The gradient d behind the activation as one before it, where y went in: as PyTorch has it,
    nothing passes at the very ends.
    """
    if not plan.activation:
        return d
    before = y()
    stopped = before <= 0.0
    if plan.activation == "relu6":
        stopped = stopped | (before >= 6.0)
    return f.select(stopped, f.constant(d.type, 0.0), d)
