"""The words of the kernel language, compiled and run: each does what it does in Python."""

from __future__ import annotations

import ctypes
import operator
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from konv.llvm import (
    F32,
    F64,
    I8,
    I64,
    VOID,
    Function,
    Module,
    Value,
    detect,
    load,
    object_bytes,
    pointer_to,
)

SOURCE = Path(__file__).parents[2] / "src"

I64_POINTER, F32_POINTER, F64_POINTER = map(pointer_to, (I64, F32, F64))
KEPT: list[Any] = []  # machine code lives as long as what load() returned


def compiled(emit: Callable[..., None], *params: Any, returns: Any = VOID) -> Callable[..., int]:
    """A function with these parameters, its body written by `emit(f, *arguments)`."""
    module = Module(detect(), "test")
    names = [(f"p{i}", ty) for i, ty in enumerate(params)]
    with module.function("tested", names, returns, exported=True) as (f, arguments):
        emit(f, *arguments)
    loaded = load(object_bytes(module), detect())
    KEPT.append(loaded)
    function: Callable[..., int] = loaded.function("tested", len(params))
    return function


def reals(*numbers: float, double: bool = False) -> Any:
    return ((ctypes.c_double if double else ctypes.c_float) * len(numbers))(*numbers)


def address(array: Any) -> int:
    return ctypes.addressof(array)


def test_a_loop_runs_as_range_does() -> None:
    """for i in range(start, stop, step), empty and negative ranges included."""

    def emit(f: Function, start: Value, stop: Value, step: Value) -> None:
        digits = f.var(0)
        with f.loop(stop, start, step) as i:
            digits.set(digits.get() * 31 + i + 7)
        f.give(digits.get())

    run = compiled(emit, I64, I64, I64, returns=I64)
    for start, stop, step in product((-3, 0, 1, 5), (-4, 0, 1, 2, 5, 6, 9), (1, 2, 3)):
        expected = 0
        for i in range(start, stop, step):
            expected = expected * 31 + i + 7
        assert run(start, stop, step) == expected


def test_loops_nest() -> None:
    """A loop inside a loop begins anew each time, and may be empty."""

    def emit(f: Function, n: Value) -> None:
        total = f.var(0)
        with f.loop(n) as i, f.loop(i) as j:
            total.add(i * j)
        f.give(total.get())

    run = compiled(emit, I64, returns=I64)
    assert [run(n) for n in range(6)] == [
        sum(i * j for i in range(n) for j in range(i)) for n in range(6)
    ]


def test_forever_ends_where_it_is_left() -> None:
    """leave_if leaves the loop at once: what stands behind it is not done."""

    def emit(f: Function, n: Value) -> None:
        steps = f.var(0)
        with f.forever() as done:
            f.leave_if(done, steps.get() >= n)
            steps.add(1)
        f.give(steps.get())

    run = compiled(emit, I64, returns=I64)
    assert [run(n) for n in (-1, 0, 1, 5)] == [0, 0, 1, 5]


def test_when_and_choose_take_one_way() -> None:
    """Only the branch that the condition names is run, and both ways meet again."""

    def emit(f: Function, a: Value) -> None:
        result = f.var(0)
        with f.choose(a < 0) as (yes, no):
            with yes:
                result.set(f.integer(0) - a)
            with no:
                result.set(a * 2)
        with f.when(a.equals(3)):
            result.add(100)
        f.give(result.get())

    run = compiled(emit, I64, returns=I64)
    assert [run(a) for a in (-5, 0, 2, 3)] == [5, 0, 4, 106]


WORDS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "//": operator.floordiv,
    "%": operator.mod, "&": operator.and_, "|": operator.or_, "^": operator.xor,
    ">>": operator.rshift, "<<": operator.lshift,
    "with numbers": lambda a, b: 3 * (9 - a) + (5 + b) * 1 + 0,
}  # fmt: skip


@pytest.mark.parametrize("word", WORDS)
def test_integers(word: str) -> None:
    """Operators on integers that are not negative are those of Python."""
    run = compiled(lambda f, a, b: f.give(WORDS[word](a, b)), I64, I64, returns=I64)
    for a, b in product((0, 1, 5, 1234567), (1, 2, 7)):
        assert run(a, b) == WORDS[word](a, b)


def test_least_and_most() -> None:
    """The smaller and the larger of two signed numbers."""

    def emit(f: Function, a: Value, b: Value) -> None:
        f.give(f.least(a, b) * 1000 + f.most(a, b))

    run = compiled(emit, I64, I64, returns=I64)
    for a, b in product((-5, 0, 5), repeat=2):
        assert run(a, b) == min(a, b) * 1000 + max(a, b)


@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
def test_splat_and_shuffle(double: bool) -> None:
    """splat fills every lane, shuffle picks lanes of the first vector, then of the second."""
    pointer = F64_POINTER if double else F32_POINTER

    def emit(f: Function, x: Any, y: Any) -> None:
        a, b = x.vector(0, 4), x.vector(4, 4)
        y.put(0, f.splat(x[2], 4))
        y.put(4, f.shuffle(a, b, [0, 4, 3, 7]))

    x, y = reals(*range(8), double=double), reals(*[-1.0] * 9, double=double)
    compiled(emit, pointer, pointer)(address(x), address(y))
    assert list(y) == [2, 2, 2, 2, 0, 4, 3, 7, -1]


def test_fma_multiplies_and_adds_every_lane() -> None:
    """a * b + c on a vector as wide as this machine has them, rounded once if it can do so."""
    lanes = detect().lanes("float32")

    def emit(f: Function, x: Any, y: Any) -> None:
        y.put(0, f.fma(x.vector(0, lanes), x.vector(lanes, lanes), x.vector(2 * lanes, lanes)))

    near = 1 + 2.0**-12  # its square needs one bit more than a float has
    x, y = reals(*[near] * 2 * lanes, *[-1.0] * lanes), reals(*[0.0] * lanes)
    compiled(emit, F32_POINTER, F32_POINTER)(address(x), address(y))
    once = detect().arch == "aarch64" or detect().vector_bytes > 16
    assert list(y) == [2.0**-11 + 2.0**-24 * once] * lanes


def test_a_variable_keeps_a_vector() -> None:
    """A variable holds any value and changes in a loop: the sums of a tile do."""

    def emit(f: Function, x: Any, n: Value, y: Any) -> None:
        total = f.var(f.zero(F32, 4))
        with f.loop(n) as i:
            total.set(total.get() + x.vector(i * 4, 4))
        y.put(0, total.get())

    x, y = reals(*range(12)), reals(*[0.0] * 4)
    compiled(emit, F32_POINTER, I64, F32_POINTER)(address(x), 3, address(y))
    assert list(y) == [12, 15, 18, 21]


def test_pointers_count_in_elements() -> None:
    """p + i, p[i] and casts step by the size of the element, backwards too."""

    def emit(f: Function, p: Any, i: Value) -> None:
        moved = p + i
        moved[1] = moved[0] + moved[-1]
        moved.cast(I8)[16] = Value(f, f.b.convert("trunc", i.ir, I8))
        same = (moved.address() - p.address()).equals(i * 8)
        with f.when(same):
            p[0] = 77

    p = (ctypes.c_int64 * 6)(1, 2, 3, 4, 0x5500, 6)
    compiled(emit, I64_POINTER, I64)(address(p), 2)
    assert list(p) == [77, 2, 3, 5, 0x5502, 6]


def test_copy_and_clear() -> None:
    """They take a number of elements, not of bytes."""

    def emit(f: Function, to: Any, source: Any, n: Value) -> None:
        f.copy(to, source, n)
        f.clear(to + n, n)

    to, source = reals(*[9.0] * 5, double=True), reals(1, 2, 3, double=True)
    compiled(emit, F64_POINTER, F64_POINTER, I64)(address(to), address(source), 2)
    assert list(to) == [1, 2, 0, 0, 9]


def test_copies_of_all_lengths_and_places() -> None:
    """By vectors or by the C library; nothing beside them is written."""

    def emit(f: Function, to: Any, source: Any, n: Value) -> None:
        f.copy(to, source, n)

    copy = compiled(emit, F32_POINTER, F32_POINTER, I64)
    source = np.arange(1, 700, dtype=np.float32)
    for begin in (0, 1, 3, 8, 13):
        for count in (*range(70), 127, 128, 129, 500, 637):
            to = np.zeros(700, np.float32)
            copy(to[begin:].ctypes.data, source[5:].ctypes.data, count)
            assert np.array_equal(to[begin : begin + count], source[5 : 5 + count])
            assert not to[:begin].any()
            assert not to[begin + count :].any()


def test_functions_call_each_other() -> None:
    """By name, and by an address that came as a number: so the run-time functions are called."""
    module = Module(detect(), "test")
    with module.function("double", [("a", I64)], I64, inline=False) as (f, (a,)):
        f.give(a * 2)
    double = f.fn
    with module.function("tested", [("a", I64), ("who", I64)], I64, exported=True) as (f, (a, who)):
        f.give(f.call(double, [a]) + f.call_pointer(who.to_pointer(I8), I64, [a]))
    loaded = load(object_bytes(module), detect())
    triple = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(lambda a: 3 * a)
    who = ctypes.cast(triple, ctypes.c_void_p).value
    assert loaded.function("tested", 2)(7, who) == 35
    with pytest.raises(LookupError):
        loaded.function("nothing", 0)


# Runs on its own, as one byte too far ends it: buffers stand right before and after a closed page.
AT_THE_END = """
import ctypes, mmap
from konv.llvm import F32, F64, Module, detect, load, object_bytes, pointer_to

libc = ctypes.CDLL(None)
page = mmap.PAGESIZE
memory = mmap.mmap(-1, 3 * page)
begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
assert libc.mprotect(ctypes.c_void_p(begin + page), page, 0) == 0
before, after = begin + page, begin + 2 * page

kept = []
for real, kind, size in ((F32, ctypes.c_float, 4), (F64, ctypes.c_double, 8)):
    lanes = detect().vector_bytes // size
    for count in range(1, lanes + 1):
        module = Module(detect(), "test")
        params = [("x", pointer_to(real)), ("y", pointer_to(real))]
        with module.function("tested", params, exported=True) as (f, (x, y)):
            f.store_first(y, 0, f.load_first(x, 0, lanes, count) + 1.0, count)
        kept.append(load(object_bytes(module), detect()))
        run = kept[-1].function("tested", 2)
        for x in (before - count * size, after):  # touches nothing behind the last lane it was told
            numbers = (kind * count).from_address(x)
            numbers[:] = range(count)
            run(x, x)
            assert list(numbers) == [n + 1 for n in range(count)]
        wide = (kind * (lanes + 1)).from_address(begin)
        wide[:] = [5] * (lanes + 1)
        run(begin, begin)
        assert list(wide) == [6] * count + [5] * (lanes + 1 - count)
print("whole")
"""


@pytest.mark.parametrize("number", [-0.0, 0.1, -1e30, 1e-42, 3], ids=str)
def test_numbers_keep_their_bits(number: float) -> None:
    """A number of Python is rounded to its type once; the sign of a zero stays."""

    def emit(f: Function, x: Any, y: Any) -> None:
        x[0] = number
        x.put(1, f.constant(f.zero(F32, 2).type, number))
        y[0] = number

    x, y = reals(*[7.0] * 3), reals(7.0, double=True)
    compiled(emit, F32_POINTER, F64_POINTER)(address(x), address(y))
    assert bytes(x) == bytes(reals(*[number] * 3))
    assert bytes(y) == bytes(reals(number, double=True))


def test_masked_access_ends_with_the_buffer() -> None:
    """The first lanes are loaded and stored, and not a byte behind them is touched."""
    assert child(AT_THE_END) == "whole\n"


def test_broken_programs_are_refused() -> None:
    """LLVM verifies before it compiles: a wrong emitter is an error, never wrong machine code."""
    with pytest.raises(RuntimeError, match="result type"):
        compiled(gives_nothing, I64, returns=I64)
    with pytest.raises(RuntimeError, match="dominate"):
        compiled(gives_what_may_not_be, I64, returns=I64)


def gives_nothing(f: Function, a: Value) -> None:
    f.var(a)


def gives_what_may_not_be(f: Function, a: Value) -> None:
    with f.when(a > 0):
        inside = a + 1
    f.give(inside)


def test_only_object_files_are_loaded() -> None:
    """What is no object file is a RuntimeError: the cache takes it for a miss."""
    assert child(NO_OBJECT) == "refused\n"


NO_OBJECT = """
from konv.llvm import detect, load
try:
    load(b"no object file", detect())
except RuntimeError:
    print("refused")
"""


def child(code: str) -> str:
    """What `code` prints in a Python of its own, where a crash is only a failed test."""
    code = f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout
