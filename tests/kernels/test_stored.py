"""Half precision in and out of registers: every number of 16 bits, every way to round."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from llvm.assembly import MACHINES, Machine, called, functions

from konv import llvm
from konv.geometry import Conv
from konv.kernels import depthwise, direct, stored
from konv.llvm import F32, I16, I64, Module, pointer_to
from konv.plan import Epilogue

Array = np.ndarray[Any, Any]
TORCH = {"float16": torch.float16, "bfloat16": torch.bfloat16}
every_dtype = pytest.mark.parametrize("dtype", TORCH)
ways = pytest.mark.parametrize("instructions", [True, False], ids=["instructions", "integers"])


def converter(dtype: str, lanes: int, widen: bool) -> tuple[Any, Any]:
    """convert(source, to, n)."""
    target = llvm.detect()
    module = Module(target, "probe")
    ends = (I16, F32) if widen else (F32, I16)
    params = [("source", pointer_to(ends[0])), ("to", pointer_to(ends[1])), ("n", I64)]
    with (
        module.function("convert", params, exported=True) as (f, (source, to, n)),
        f.loop(n, step=max(1, lanes)) as i,
    ):
        value = stored.read(f, dtype, source + i, lanes)
        stored.write(f, dtype, to + i, value)
    loaded = llvm.load(llvm.object_bytes(module), target)
    return loaded, loaded.function("convert", 3)


def widened(dtype: str, bits: Array, lanes: int) -> Array:
    out = np.empty(bits.size, np.float32)
    _loaded, convert = converter(dtype, lanes, True)
    convert(bits.ctypes.data, out.ctypes.data, bits.size)
    return out


def narrowed(dtype: str, numbers: Array, lanes: int) -> Array:
    out = np.empty(numbers.size, np.uint16)
    _loaded, convert = converter(dtype, lanes, False)
    convert(numbers.ctypes.data, out.ctypes.data, numbers.size)
    return out


def as_float(bits: Array, dtype: str) -> Array:
    """What PyTorch says that 16-bit patterns are."""
    found: Array = torch.from_numpy(bits.view(np.int16)).view(TORCH[dtype]).float().numpy()
    return found


@ways
@pytest.mark.parametrize("lanes", [0, 4, 16])
@every_dtype
def test_every_number(
    dtype: str, lanes: int, instructions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All 65,536, denormals and NaN among them, are what they are, and come back as they were."""
    if not instructions:
        monkeypatch.setattr(stored, "converts_float16", lambda _: False)
    bits = np.arange(2**16, dtype=np.uint16)
    want, got = as_float(bits, dtype), widened(dtype, bits, lanes)
    assert np.array_equal(want, got, equal_nan=True)
    assert np.array_equal(np.signbit(want), np.signbit(got))
    back = narrowed(dtype, got, lanes)
    numbers = ~np.isnan(want)
    assert np.array_equal(back[numbers], bits[numbers])
    assert np.isnan(as_float(back[~numbers], dtype)).all()


@ways
@pytest.mark.parametrize("lanes", [0, 4, 16])
@every_dtype
def test_rounding(
    dtype: str, lanes: int, instructions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the nearest, to even halfway, to infinity beyond the largest; at every exponent."""
    if not instructions:
        monkeypatch.setattr(stored, "converts_float16", lambda _: False)
    bits = np.arange(0, 2**16 - 1, dtype=np.uint16)
    ends = as_float(np.stack([bits, bits + 1]), dtype)
    ends = ends[:, np.isfinite(ends).all(axis=0)].astype(np.float64)
    halfway = ends.mean(axis=0).astype(np.float32)
    near = [np.nextafter(halfway, np.float32(to)) for to in (-np.inf, np.inf)]
    rng = np.random.default_rng(2)
    spread = rng.standard_normal(2**17) * np.exp2(rng.uniform(-40, 40, 2**17))
    special = [65504, 65519.996, 65520, 3.4e38, np.inf, -np.inf, np.nan, 2.0**-25, 2.0**-24, 0.0]
    every = np.concatenate([halfway, *near, spread, special]).astype(np.float32)
    every = every[: every.size // 16 * 16]
    want = torch.from_numpy(every).to(TORCH[dtype]).float().numpy()
    got = as_float(narrowed(dtype, every, lanes), dtype)
    assert np.array_equal(want, got, equal_nan=True)


@every_dtype
@pytest.mark.parametrize("machine", MACHINES, ids=str)
def test_every_machine(machine: Machine, dtype: str) -> None:
    """Kernels of half precision call nothing that is not there."""
    target = llvm.describe(machine.triple, machine.cpu, "")
    for algorithm, groups in ((direct, 1), (depthwise, 20)):
        conv = Conv.of((1, 20, 9, 9), 20, 3, groups=groups, dtype=dtype)
        for layouts in ((True, True), (False, False)):
            plan = algorithm.plans(conv, target, *layouts)[0]
            plan = plan.followed_by(Epilogue("gelu", 0.0, True))
            found = functions(llvm.assembly(algorithm.emit(plan, target)))
            calls = set().union(*map(called, found.values())) - found.keys()
            assert calls <= {"memcpy", "memset", "bzero"}
