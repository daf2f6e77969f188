"""The roofline: its kernels do what they say, for every processor, and its numbers make sense."""

from __future__ import annotations

import numpy as np
import pytest

from konv import llvm
from konv.kernels import roofline as emitted
from konv.kernels.region import RUN
from konv.runtime.roofline import Roofline, measure

CPUS = ("znver4", "haswell", "x86-64")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_copy_copies(dtype: str) -> None:
    """All units, and nothing behind them."""
    target = llvm.detect()
    loaded = llvm.load(llvm.object_bytes(emitted.emit_copy(target, dtype)), target)
    length = 2 * emitted.UNROLL * target.lanes(dtype)
    x, y = np.arange(4 * length).astype(dtype), np.full(4 * length, np.nan, dtype)
    job = np.array([3, length])
    run = loaded.function("run", len(RUN))
    run(job.ctypes.data, x.ctypes.data, 0, y.ctypes.data, 0, 0, 1)
    assert np.array_equal(y[: 3 * length], x[: 3 * length])
    assert np.isnan(y[3 * length :]).all()


def test_the_peak_computes_what_it_is_timed_for() -> None:
    """s = s a + b, `length` times `units`, in every lane of every chain."""
    target = llvm.detect()
    loaded = llvm.load(llvm.object_bytes(emitted.emit_peak(target, "float32")), target)
    factors, job = np.array([2, 1], np.float32), np.array([2, 5])
    sums = np.zeros(emitted.chains(target) * target.lanes("float32"), np.float32)
    run = loaded.function("run", len(RUN))
    run(job.ctypes.data, factors.ctypes.data, 0, sums.ctypes.data, 0, 0, 1)
    assert (sums == 2**11 - 1).all()


@pytest.mark.parametrize("cpu", CPUS)
def test_no_sum_leaves_its_register(cpu: str) -> None:
    """The loop of the peak is multiply-adds and a counter, or it measures something else."""
    target = llvm.describe("x86_64-unknown-linux-gnu", cpu, "")
    text = llvm.assembly(emitted.emit_peak(target, "float32"))
    multiplies = [line for line in text.splitlines() if "vfmadd" in line or "mulps" in line]
    assert len(multiplies) >= emitted.chains(target)
    assert not [line for line in multiplies if "(%r" in line]


def test_a_multiply_add_is_two() -> None:
    roofline = Roofline(peak_flops=100.0, bandwidth=10.0, threads=1)
    assert roofline.ridge == 10
    assert roofline.best_seconds(flops=200, moved=1) == 2
    assert roofline.best_seconds(flops=1, moved=50) == 5


def test_measured_once() -> None:
    assert measure(1) is measure(1)
    assert measure(1).threads == 1
    assert measure(1).peak_flops > 1e8
    assert measure().peak_flops >= 0.99 * measure(1).peak_flops
