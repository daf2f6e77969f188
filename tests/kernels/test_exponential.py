"""The smooth functions that konv emits, held against forty digits and more; and what they compile
to.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, localcontext
from functools import cache
from typing import Any

import numpy as np
import pytest
from llvm.assembly import MACHINES, Machine, called, functions

from konv import llvm
from konv.kernels.epilogue import ACTIVATIONS, activate
from konv.kernels.exponential import exponential, normal
from konv.llvm import I64, REAL, Function, Module, Value, pointer_to
from konv.plan import Plan
from konv.target import Target

Array = np.ndarray[Any, Any]
DTYPES = ("float32", "float64")
DIGITS = 400  # of pi: the tail at -37 has 300 zeros before its first digit
HALF = Decimal("0.5")
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def module(target: Target, name: str, dtype: str, lanes: int) -> Module:
    """apply(x, y, n): y = name(x), `lanes` at a time, or one for 0."""
    made, real = Module(target, "probe"), REAL[dtype]
    plan = Plan("direct", dtype, False, False, 1, 1, activation=name, slope=0.2)
    known: dict[str, Callable[[Function, Value], Value]] = {
        "exponential": exponential,
        "normal": normal,
    }
    params = [("x", pointer_to(real)), ("y", pointer_to(real)), ("n", I64)]
    with (
        made.function("apply", params, exported=True) as (f, (x, y, n)),
        f.loop(n, step=max(lanes, 1)) as i,
    ):
        value = x.vector(i, lanes) if lanes else x[i]
        value = known[name](f, value) if name in known else activate(f, plan, value)
        if lanes:
            y.put(i, value)
        else:
            y[i] = value
    return made


@cache
def compiled(name: str, dtype: str, lanes: int) -> tuple[Any, Any]:
    target = llvm.detect()
    loaded = llvm.load(llvm.object_bytes(module(target, name, dtype, lanes)), target)
    return loaded, loaded.function("apply", 3)


def run(name: str, x: Array, lanes: int | None = None) -> Array:
    """The function of each number; as many as whole vectors hold."""
    if lanes is None:
        lanes = llvm.detect().lanes(x.dtype.name)
    x, y = np.ascontiguousarray(x), np.empty_like(x)
    compiled(name, x.dtype.name, lanes)[1](x.ctypes.data, y.ctypes.data, x.size)
    return y


def right_normal(x: Decimal) -> Decimal:
    """Phi(x) by its series about 0, with digits enough for what cancels."""
    with localcontext() as context:
        context.prec = 60 + int(x * x / 4)
        term = total = x
        n = 1
        while abs(term) > Decimal(10) ** -context.prec:
            n += 2
            term = term * x * x / n
            total += term
        return HALF + total * (-x * x / 2).exp() / (2 * PI).sqrt()


def arctan_of_inverse(n: int) -> Decimal:
    """By its series; Machin's formula makes pi of two of them."""
    total, power, k = Decimal(0), 1 / Decimal(n), 1
    while power > Decimal(10) ** -DIGITS:
        total += power / k if k % 4 == 1 else -power / k
        power, k = power / (n * n), k + 2
    return total


with localcontext() as digits:
    digits.prec = DIGITS
    PI = 16 * arctan_of_inverse(5) - 4 * arctan_of_inverse(239)


def sigmoid(z: Decimal) -> Decimal:
    return 1 / (1 + (-z).exp())


RIGHT: dict[str, Callable[[Decimal], Decimal]] = {
    "exponential": lambda x: x.exp(),
    "normal": right_normal,
    "silu": lambda x: x * sigmoid(x),
    "gelu": lambda x: x * right_normal(x),
    "gelu_tanh": lambda x: x * sigmoid((8 / PI).sqrt() * (x + Decimal("0.044715") * x**3)),
}


@pytest.mark.parametrize(
    ("name", "dtype", "low", "high", "ulps"),
    [
        ("exponential", "float32", -87, 0, 1), ("exponential", "float64", -708, 0, 1),
        ("exponential", "float32", -0.5, 0, 1), ("exponential", "float64", -0.5, 0, 1),
        ("normal", "float32", -12.8, 6, 5), ("normal", "float64", -37, 9, 7),
        ("normal", "float32", -2, 2, 5), ("normal", "float64", -2, 2, 7),
        ("silu", "float32", -80, 80, 3), ("silu", "float64", -700, 80, 3),
        ("silu", "float32", -2, 2, 3), ("silu", "float64", -2, 2, 3),
        ("gelu", "float32", -12.8, 6, 5), ("gelu", "float64", -37, 9, 7),
        ("gelu", "float32", -2, 2, 5), ("gelu", "float64", -2, 2, 7),
        ("gelu_tanh", "float32", -2, 9, 6), ("gelu_tanh", "float64", -2, 9, 6),
    ],
)  # fmt: skip
def test_errors(name: str, dtype: str, low: float, high: float, ulps: int) -> None:
    """As many units in the last place of the result itself as the docstrings say, however small
    it is.
    """
    rng = np.random.default_rng(7)
    x = rng.uniform(low, high, 480).astype(dtype)
    got = run(name, x)
    with localcontext() as context:
        context.prec = 60
        for value, result in zip(x.tolist(), got.tolist(), strict=True):
            want = RIGHT[name](Decimal(value))
            ulp = np.spacing(np.abs(np.array(float(want), dtype)))
            assert abs(Decimal(result) - want) <= ulps * Decimal(float(ulp)), f"{name}({value!r})"


@every_dtype
def test_gelu_tanh_far_below_zero(dtype: str) -> None:
    """Off by 1.5 eps at most, where PyTorch's own formula has nothing but rounding left."""
    x = np.random.default_rng(8).uniform(-10, -2, 480).astype(dtype)
    got, most = run("gelu_tanh", x), Decimal(1.5 * float(np.finfo(dtype).eps))
    for value, result in zip(x.tolist(), got.tolist(), strict=True):
        assert abs(Decimal(result) - RIGHT["gelu_tanh"](Decimal(value))) <= most


@every_dtype
@pytest.mark.parametrize("name", [*(n for n in ACTIVATIONS), "normal"])
def test_lanes_change_no_bit(name: str, dtype: str) -> None:
    """One number, four lanes, a register: the same result."""
    x = np.random.default_rng(9).uniform(-20, 20, 960).astype(dtype)
    x[:4] = np.nan, np.inf, -np.inf, -0.0
    once = run(name, x)
    for lanes in (0, 2, 4):
        assert np.array_equal(once, run(name, x, lanes), equal_nan=True)


@every_dtype
def test_limits(dtype: str) -> None:
    """At the infinities, where results vanish, and NaN."""
    x = np.zeros(16, dtype)
    x[:5] = -np.inf, -1e30, -0.0, np.nan, -2000
    assert run("exponential", x)[[0, 1, 2, 4]].tolist() == [0, 0, 1, 0]
    assert np.isnan(run("exponential", x)[3])
    x[4] = np.inf
    assert run("normal", x)[[0, 1, 2, 4]].tolist() == [0, 0, 0.5, 1]
    assert np.isnan(run("normal", x)[3])
    x[1] = 1e30
    for name in ("silu", "gelu", "gelu_tanh", "hardswish", "relu", "leaky_relu"):
        assert run(name, x)[[1, 2, 4]].tolist() == [x[1], 0, np.inf], name


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("machine", MACHINES, ids=str)
def test_every_machine(machine: Machine, name: str) -> None:
    """Nothing is called but konv's own functions, and nothing gathered, on any machine."""
    target = llvm.describe(machine.triple, machine.cpu, "")
    for dtype in DTYPES:
        text = llvm.assembly(module(target, name, dtype, target.lanes(dtype)))
        found = functions(text)
        assert set().union(*map(called, found.values())) <= found.keys()
        assert "gather" not in text
