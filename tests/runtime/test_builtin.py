"""Machine code called as a built-in function, and by ctypes where Python is not CPython."""

from __future__ import annotations

import subprocess
import sys
from threading import Thread
from types import BuiltinFunctionType
from typing import Any

import numpy as np
import pytest

import konv
from konv import llvm
from konv.kernels.builtin import COUNTS
from konv.runtime import builtin, code


@pytest.fixture(scope="module")
def sums() -> llvm.Loaded:
    """Functions that tell their arguments apart, sum2, sum7, sum8."""
    target = llvm.detect()
    module = llvm.Module(target, "sums")
    for count in COUNTS:
        params = [(f"a{i}", llvm.I64) for i in range(count)]
        with module.function(f"sum{count}", params, llvm.I64, exported=True) as (f, values):
            total = f.integer(0)
            for i, value in enumerate(values):
                total = total + value * 10**i
            f.give(total)
    return llvm.load(llvm.object_bytes(module), target)


def made(sums: llvm.Loaded, count: int) -> Any:
    bridge = code._bridge()
    if bridge is None:
        pytest.skip("not CPython")
    return builtin.function(bridge, sums.address(f"sum{count}"), count)


@pytest.mark.parametrize("count", COUNTS)
def test_arguments_arrive_and_the_result_returns(count: int, sums: llvm.Loaded) -> None:
    """As through ctypes, negative and large ones too."""
    function, other = made(sums, count), sums.function(f"sum{count}", count)
    assert isinstance(function, BuiltinFunctionType)
    for first in (1, -1, 0, 2**62, -(2**63), 2**63 - 1):
        arguments = (first, *range(1, count))
        assert function(*arguments) == other(*arguments)
    assert function(*[2**64 - 1] * count) == other(*[-1] * count)
    assert function(*np.arange(count)) == other(*range(count))


@pytest.mark.parametrize("count", COUNTS)
def test_what_is_no_integer_is_refused(count: int, sums: llvm.Loaded) -> None:
    function = made(sums, count)
    for wrong in (None, "1", 1.5):
        with pytest.raises(TypeError):
            function(*[1] * (count - 1), wrong)
    for number in (0, count - 1, count + 1):
        with pytest.raises(SystemError):
            function(*[1] * number)
    with pytest.raises(TypeError):
        function(a=1)


def test_other_numbers_of_arguments_are_refused(sums: llvm.Loaded) -> None:
    with pytest.raises(ValueError, match="5 arguments"):
        builtin.function(sums, sums.address("sum2"), 5)


def test_functions_come_and_go(sums: llvm.Loaded) -> None:
    """Each holds its own table; none is left behind."""
    function = made(sums, 2)
    table = function.__self__
    before = sys.getrefcount(table)
    for _ in range(1000):
        assert made(sums, 2)(3, 4) == 43
    assert sys.getrefcount(table) == before
    del function
    assert sys.getrefcount(table) == before - 1


def test_other_threads_run_meanwhile() -> None:
    """The lock is given up: a second thread counts while a kernel computes for long."""
    x, w = np.ones((1, 64, 400, 400), "float32"), np.ones((64, 64, 3, 3), "float32")
    konv.conv2d(x, w)
    done, counted = False, 0

    def count() -> None:
        nonlocal counted
        while not done:
            counted += 1

    thread = Thread(target=count)
    thread.start()
    before = counted
    konv.conv2d(x, w)
    after, done = counted, True
    thread.join()
    assert after > before + 100


def test_without_cpython_ctypes_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """The results are the same."""
    x, w = np.arange(64.0).reshape(1, 1, 8, 8), np.arange(9.0).reshape(1, 1, 3, 3)
    expected = konv.conv2d(x, w)
    with monkeypatch.context() as patch:
        patch.setattr(sys.implementation, "name", "another")
        assert not builtin.known()
    monkeypatch.setattr(code, "_bridge", lambda: None)
    monkeypatch.setattr(code, "_kernels", {})
    code.digests.cache_clear()
    try:
        assert not isinstance(code.digests().digest, BuiltinFunctionType)
        assert np.array_equal(
            konv.prepare(konv.Conv.of(x.shape, 1, 3, dtype="float64"), w)(x), expected
        )
    finally:
        code.digests.cache_clear()


END = """
import threading, numpy as np, konv
x, w = np.ones((1, 64, 300, 300), "float32"), np.ones((64, 64, 3, 3), "float32")
konv.conv2d(x, w)
def work():
    while True:
        konv.conv2d(x, w)
thread = threading.Thread(target=work, daemon=True)
thread.start()
import time; time.sleep(0.2)
print("over")
"""


def test_a_thread_may_be_in_a_kernel_at_the_end() -> None:
    """A daemon thread that comes back from a kernel when Python is gone ends quietly."""
    done = subprocess.run(
        [sys.executable, "-c", END], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "over\n"), done.stderr
