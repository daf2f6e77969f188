"""Pieces compiled by several threads are the same machine code, and no thread stays behind."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from konv.geometry import Conv
from konv.kernels import by_name
from konv.llvm import compilers, detect
from konv.llvm.pieces import Piece, pieces
from konv.runtime.choose import choose

EMPTY = "define void @{name}() {{ ret void }}"
BROKEN = "define void @f() { ret i64 %nothing }"
UNSOUND = "define void @f() { ret i64 0 }"


def small(number: int) -> list[Piece]:
    return [Piece(EMPTY.format(name=f"f{at}"), at % 2 == 0, False) for at in range(number)]


@pytest.fixture(scope="module")
def kernel() -> list[Piece]:
    """The pieces of a kernel: hot, plain and cold ones."""
    plan = choose(Conv.parse("conv2d 1x16x9x9 o16 k1"), detect(), True, True)
    return list(pieces(by_name(plan.algorithm).emit(plan, detect())))


@pytest.fixture(scope="module")
def alone(kernel: list[Piece]) -> list[bytes]:
    return compilers.compile_all(kernel, detect())


@pytest.fixture(autouse=True)
def nobody_stays() -> Iterator[None]:
    """All threads of a compilation have ended when it has."""
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@pytest.mark.parametrize("threads", [2, 3, 99])
def test_any_number_of_threads_makes_the_same_code(
    threads: int, kernel: list[Piece], alone: list[bytes]
) -> None:
    assert compilers.compile_all(kernel, detect(), threads) == alone


def test_so_it_is_behind_the_lock_of_llvmlite(
    kernel: list[Piece], alone: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another llvmlite may have no way past it."""
    monkeypatch.setattr(compilers, "unlocked", lambda name: getattr(compilers.ffi.lib, name))
    assert compilers.compile_all(kernel, detect(), 2) == alone


def test_several_may_compile_at_once(kernel: list[Piece], alone: list[bytes]) -> None:
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(compilers.compile_all, kernel, detect(), 2) for _ in range(3)]
        assert all(call.result() == alone for call in calls)


def test_threads_that_do_not_start_are_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may allow no more."""
    expected = compilers.compile_all(small(5), detect())

    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    assert compilers.compile_all(small(5), detect(), 4) == expected


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("text", [BROKEN, UNSOUND])
def test_broken_code_raises_in_the_words_of_llvm(text: str, threads: int) -> None:
    """Whichever thread finds it, and whatever else is to be done; the next kernel does well."""
    found = [*small(6), Piece(text, False, False), *small(6)]
    with pytest.raises(RuntimeError, match=r"(?i)parsing error|return type"):
        compilers.compile_all(found, detect(), threads)
    assert len(compilers.compile_all(small(3), detect(), threads)) == 3


def test_after_a_fault_nobody_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interruption too is raised at once, in the thread that has asked for the code."""
    taken = list[Any]()

    def interrupted(self: Any, piece: Piece) -> bytes:
        taken.append(piece)
        raise KeyboardInterrupt

    monkeypatch.setattr(compilers.Compiler, "object", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compilers.compile_all(small(50), detect(), 2)
    assert len(taken) <= 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="asks for forks")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_amid_a_compilation(kernel: list[Piece], alone: list[bytes]) -> None:
    """It waits for the end, so that the child finds LLVM and its compilers free."""
    for pause in (0.0, 0.01, 0.03):
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(compilers.compile_all, kernel, detect(), 2)
            time.sleep(pause)
            child = os.fork()
            if not child:
                os._exit(0 if compilers.compile_all(kernel, detect()) == alone else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert call.result() == alone


def test_a_fork_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is the lock anybody else's business afterwards."""
    monkeypatch.setattr(compilers, "PATIENCE", 0.01)
    free = threading.Event()

    def hold() -> None:
        with compilers.alone():
            free.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    compilers._before_fork()
    compilers._after_fork()
    free.set()
    holder.join()
    assert len(compilers.compile_all(small(2), detect())) == 2
