"""What becomes of a result on its way out: y = activation(sum + residual), while it is in a
register.

How an algorithm uses it. `plan.activation` and `plan.residual` say what is wanted; where a vector
or a number is about to be stored to y, the algorithm passes it through `finish`:

    value = finish(f, plan, value, place, apart)        value: what would have been stored
    write(f, plan.dtype, place, value)                  place: a Pointer to where it goes in y
                                                        apart: call["residual"], in bytes

and passes `plan.residual` to region.emit_entry. The residual has the shape and the strides of y, so
its number for a place is `apart` bytes from there. `count` says that only so many lanes of a vector
are in y, as in f.store_first; `write` (kernels.stored) rounds to half precision where y is of such.
Plans without epilogue get back the value itself, so no algorithm asks what the plan has. Two rules:

- A place is finished once. The residual may be the very memory of y: who stores some results twice
  (overlapping vectors, repeated pixels) reads all their residuals before (`add_residual`), stores
  after (`activate`), or does not store twice where `plan.residual`.
- Results that go through scratch are activated there, where vectors are wide, unless there is a
  residual: then they are finished on the way from scratch to y (kernels.results).

Names and definitions are those of torch.nn.functional; NaN stays NaN. What PyTorch multiplies is
multiplied here, so minus infinity times 0 is NaN for silu, gelu and hardswish as it is there.
Smooth activations are functions of their own: inlined, the 24 of a tile take LLVM five times as
long to compile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import pi, sqrt

from konv.kernels.exponential import exponential, normal
from konv.kernels.stored import read
from konv.llvm import I8, Function, Pointer, Value
from konv.plan import Plan


def finish(
    f: Function, plan: Plan, value: Value, place: Pointer, distance: Value | None, count: int = 0
) -> Value:
    """What to store at a place of y, from a vector or a number of results."""
    return activate(f, plan, add_residual(f, plan, value, place, distance, count))


def add_residual(
    f: Function, plan: Plan, value: Value, place: Pointer, distance: Value | None, count: int = 0
) -> Value:
    """The value and what the residual has for its place; `count` lanes of it, 0: all."""
    if not plan.residual:
        return value
    assert distance is not None
    return value + read(f, plan.dtype, apart(place, distance), value.lanes, count)


def apart(place: Pointer, distance: Value) -> Pointer:
    """Where the residual of a place lies, so many bytes from there."""
    return (place.cast(I8) + distance).cast(place.element)


def activate(f: Function, plan: Plan, value: Value) -> Value:
    """The activation of each lane."""
    if not plan.activation:
        return value
    body = ACTIVATIONS[plan.activation]
    return _outside(f, plan, body, value) if plan.activation in SMOOTH else body(f, plan, value)


def activate_all(f: Function, plan: Plan, values: Sequence[Value]) -> list[Value]:
    """The same of several short vectors, side by side in whole registers where that saves work."""
    if plan.activation not in SMOOTH:
        return [activate(f, plan, value) for value in values]
    together = min(len(values), f.module.target.lanes(plan.dtype) // values[0].lanes)
    groups = [values[i : i + together] for i in range(0, len(values), together)]
    return [
        part for group in groups for part in f.split(activate(f, plan, f.join(group)), together)
    ]


Body = Callable[[Function, Plan, Value], Value]


def _outside(f: Function, plan: Plan, body: Body, value: Value) -> Value:
    """Call the module's function for an activation of values of this type; write it first if
    there is none.
    """
    name, module = f"{plan.activation}_{value.lanes or 'one'}", f.module
    function = module.routines.get(name)
    if function is None:
        with module.function(name, [("x", value.type)], value.type, inline=False) as (g, (x,)):
            g.give(body(g, plan, x))
        function = g.fn
    return f.call(function, [value])


def _relu(f: Function, plan: Plan, x: Value) -> Value:  # noqa: ARG001 - as Body
    return f.select(x < 0.0, f.constant(x.type, 0.0), x)


def _relu6(f: Function, plan: Plan, x: Value) -> Value:
    return f.select(x > 6.0, f.constant(x.type, 6.0), _relu(f, plan, x))


def _leaky_relu(f: Function, plan: Plan, x: Value) -> Value:
    return f.select(x > 0.0, x, x * plan.slope)


def _hardswish(f: Function, plan: Plan, x: Value) -> Value:
    return x * (_relu6(f, plan, x + 3.0) * (1 / 6))  # a sixth of 6 is 1 in both precisions


def _silu(f: Function, plan: Plan, x: Value) -> Value:  # noqa: ARG001 - as Body
    return _times_sigmoid(f, x, x)


def _gelu(f: Function, plan: Plan, x: Value) -> Value:  # noqa: ARG001 - as Body
    return x * normal(f, x)


def _gelu_tanh(f: Function, plan: Plan, x: Value) -> Value:  # noqa: ARG001 - as Body
    """x (1 + tanh z) / 2 is x sigmoid(2 z), which needs no tanh. Within 6 ulp above -2; below, the
    rounding of z shows in results that vanish: 1.5 eps at most, 140 ulp of 1e-18 at -9.
    """
    twice = 2 * sqrt(2 / pi)
    cubic = f.fma(x * x, f.constant(x.type, twice * 0.044715), f.constant(x.type, twice))
    return _times_sigmoid(f, x, x * cubic)


def _times_sigmoid(f: Function, x: Value, z: Value) -> Value:
    """x sigmoid(z), by the power of e that is not above 1: nothing overflows."""
    power = exponential(f, 0.0 - f.absolute(z))
    return x * f.select(z < 0.0, power, f.constant(x.type, 1.0)) / (power + 1.0)


ACTIVATIONS: dict[str, Body] = {
    "relu": _relu,
    "relu6": _relu6,
    "leaky_relu": _leaky_relu,
    "silu": _silu,
    "hardswish": _hardswish,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
}
SMOOTH = {"silu", "gelu", "gelu_tanh"}
