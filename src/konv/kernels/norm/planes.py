"""Batch normalisation of contiguous images: a unit is a channel, with its planes of all images.

    forward     for channel: the sums over all its planes; scale and shift; y = x * scale + shift
    backward    for channel: the sums; dx = d * a + (x - mean) * b + c

A channel's planes are read twice, the second time from the second-level cache if it holds them.
"""

from __future__ import annotations

from collections.abc import Callable

from konv.kernels.epilogue import activate
from konv.kernels.norm.parts import Values, gradient, normal, passed, read, row, stepped, wide
from konv.kernels.region import emit_units
from konv.kernels.words import Words
from konv.llvm import F64, REAL, Function, Type, Value
from konv.plan import Plan

CHAINS = 4  # sums side by side: an addition takes as many cycles, and two begin in each


class Sum:
    """A sum in float64: in the lanes of some vectors, and of single numbers."""

    def __init__(self, f: Function) -> None:
        self.f, self.lanes = f, f.module.target.lanes("float64")
        self.vectors = [f.var_of(f.zero(F64, self.lanes)) for _ in range(CHAINS)]
        self.single = f.var_of(f.zero(F64, 1))

    def add(self, value: Value, factor: Value | None = None, chain: int = 0) -> None:
        """Add a vector, or its product with another of float64."""
        parts = max(1, value.lanes // self.lanes)
        for n, part in enumerate(self.f.split(value, parts)):
            of = self.single if part.lanes == 1 else self.vectors[(chain + n) % CHAINS]
            one = wide(self.f, part)
            of.set(of.get() + one if factor is None else self.f.fma(one, factor, of.get()))

    def total(self) -> Value:
        """All of it, as a vector of one."""
        f, total = self.f, self.single.get()
        memory = f.array(F64, self.lanes)
        for vector in self.vectors:
            memory.put(0, vector.get())
            for n in range(self.lanes):
                total = total + memory.vector(n, 1)
        return total


def forward(plan: Plan, f: Function, call: Words, thread: Value) -> None:
    """Fill the table, and y = activation(x * scale + shift)."""
    real, job = REAL[plan.dtype], read(call)
    x, y = call.pointer("x", real), call.pointer("y", real)
    lanes = f.module.target.lanes("float64")

    def body(channel: Value) -> None:
        x0 = wide(f, (x + channel * job["pixels"]).vector(0, 1))
        sums = Sum(f), Sum(f)

        def add(at: Value, width: int) -> None:
            some = min(width, lanes)
            first = f.shuffle(x0, x0, [0] * some)
            for n in range(width // some):
                d = wide(f, x.vector(at + n * some, some)) - first
                sums[0].add(d, None, n)
                sums[1].add(d, d, n)

        _planes(f, job, channel, plan, add)
        normal(f, job, real, channel, x0, [each.total() for each in sums])
        scale, shift = (_constant(f, job, name, real, channel) for name in ("scale", "shift"))

        def write(at: Value, width: int) -> None:
            some = min(width, f.module.target.lanes(plan.dtype))
            for n in range(0, width, some):
                value = f.fma(x.vector(at + n, some), scale(some), shift(some))
                y.put(at + n, activate(f, plan, value))

        _planes(f, job, channel, plan, write)

    emit_units(f, call, thread, job["units"], body)


def backward(plan: Plan, f: Function, call: Words, thread: Value) -> None:
    """dx, and the gradients of gamma and beta."""
    real, job = REAL[plan.dtype], read(call)
    x, dy, dx = (call.pointer(name, real) for name in ("x", "weights", "y"))
    lanes = f.module.target.lanes(plan.dtype)

    def body(channel: Value) -> None:
        mean, scale, shift = (
            _constant(f, job, name, real, channel) for name in ("mean", "scale", "shift")
        )
        sums = Sum(f), Sum(f)

        def read_both(at: Value, some: int) -> tuple[Value, Value]:
            one = x.vector(at, some)
            d = passed(f, plan, dy.vector(at, some), lambda: f.fma(one, scale(some), shift(some)))
            return d, one - mean(some)

        def add(at: Value, width: int) -> None:
            some = min(width, lanes)
            total = along = f.zero(real, some)
            for n in range(0, width, some):
                d, off = read_both(at + n, some)
                total, along = total + d, f.fma(off, d, along)
            sums[0].add(total)
            sums[1].add(along)

        _planes(f, job, channel, plan, add)
        found = gradient(f, job, real, channel, [each.total() for each in sums])

        def write(at: Value, width: int) -> None:
            some = min(width, lanes)
            a, b, c = (f.shuffle(one, one, [0] * some) for one in found)
            for n in range(0, width, some):
                d, off = read_both(at + n, some)
                dx.put(at + n, f.fma(d, a, f.fma(off, b, c)))

        _planes(f, job, channel, plan, write)

    emit_units(f, call, thread, job["units"], body)


def _planes(
    f: Function, job: Values, channel: Value, plan: Plan, body: Callable[[Value, int], None]
) -> None:
    """body(first, how many) for all numbers of a channel, image after image."""
    target = f.module.target
    widths = (CHAINS * target.lanes(plan.dtype), target.lanes("float64"), 1)
    with f.loop(job["images"]) as image:
        begin = (image * job["channels"] + channel) * job["pixels"]
        stepped(f, job["pixels"], widths, lambda at, width: body(begin + at, width))


def _constant(
    f: Function, job: Values, name: str, real: Type, channel: Value
) -> Callable[[int], Value]:
    """A channel's number of the table, in so many lanes."""
    one = row(job, name, real).vector(channel, 1)
    return lambda lanes: f.shuffle(one, one, [0] * lanes)
