"""Digests that are true still: of what nobody has written to, and never of anything else."""

from __future__ import annotations

import ctypes
import mmap
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from functional.check import watches

import konv
from konv.kernels.digest import WATCHED
from konv.runtime import watch, weights
from konv.runtime.code import digests
from konv.runtime.pages import PAGE
from konv.runtime.watch import PATIENCE, Watch

Array = np.ndarray[Any, Any]
SIZE = 40 * PAGE + 1000  # bytes, from any address on

able = pytest.mark.skipif(not watches(), reason="this system does not say what was written to")


class Asked:
    """A watch and how many digests were taken for it."""

    def __init__(self) -> None:
        self.watch, self.taken = Watch(), 0

    def __call__(self, a: Array) -> bool:
        """Whether a digest was taken; it is right in either case."""
        address, size, before = a.ctypes.data, a.nbytes, self.taken

        def take() -> int:
            self.taken += 1
            return weights.digest(address, size, 0, 1)

        assert self.watch.digest(address, size, take) == weights.digest(address, size, 0, 1)
        return self.taken > before

    def until_watched(self, a: Array, most: int = 100) -> int:
        """Calls until no digest is taken."""
        return next(call for call in range(most) if not self(a))


@pytest.fixture
def asked() -> Iterator[Asked]:
    found = Asked()
    yield found
    if found.watch._pages is not None:
        found.watch._pages.close()


def memory(size: int = SIZE, offset: int = 0) -> Array:
    """Of its own: what konv itself watches in this process may lie beside what NumPy allocates."""
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    a = np.frombuffer(mmap.mmap(-1, size + 3 * PAGE, private), np.uint8)
    a[:] = np.random.default_rng(size).integers(0, 256, len(a), np.uint8)
    return a[offset : offset + size]


@able
@pytest.mark.parametrize("offset", [0, 1, 7, 100, 4095])
def test_no_digest_of_what_stays(asked: Asked, offset: int) -> None:
    a = memory(offset=offset)
    assert asked.until_watched(a) == PATIENCE + 1
    assert asked.taken == PATIENCE + 2  # one more, once its pages were protected
    assert not any(asked(a) for _ in range(10))


@able
def test_every_byte_counts(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole pages, parts of pages at either end; what lies beside does not count."""
    monkeypatch.setattr(watch, "PATIENCE", 0)
    whole = memory(SIZE + 2 * PAGE)
    a = whole[PAGE - 100 : PAGE - 100 + SIZE]
    for at in (0, 1, 99, 100, 101, PAGE, SIZE // 2, SIZE - PAGE, SIZE - 2, SIZE - 1):
        asked(a)
        assert not asked(a)
        a[at] ^= 4
        assert asked(a)
    whole[: PAGE - 100] = 0
    whole[PAGE - 100 + SIZE :] = 0
    assert not asked(a)


@able
def test_what_changes_is_watched_less(asked: Asked) -> None:
    """After twice as many calls each time, so that who trains is hardly ever disturbed."""
    a, calls = memory(), []
    for _ in range(4):
        calls.append(asked.until_watched(a))
        a[5] += 1
    assert calls == [4, 7, 13, 25]


@able
def test_what_changes_at_each_call_is_never_watched(asked: Asked) -> None:
    a = memory()
    for _ in range(20):
        a[:] += 1
        assert asked(a)
    assert asked.watch._pages is None  # the system was not even asked


@able
def test_views_of_one_memory(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that are protected anew for one were perhaps written to since another was read."""
    monkeypatch.setattr(watch, "PATIENCE", 0)
    whole = memory(3 * SIZE)
    views = whole, whole[SIZE // 2 :], whole[: 2 * SIZE], whole[SIZE : SIZE + 30 * PAGE]
    rng = np.random.default_rng(0)
    for _ in range(300):
        if rng.random() < 0.3:
            whole[rng.integers(len(whole))] += 1
        asked(views[rng.integers(len(views))])  # which checks that it is right


@able
def test_the_oldest_goes(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its pages with it, also of what was written to since."""
    monkeypatch.setattr(watch, "PATIENCE", 0)
    monkeypatch.setattr(watch, "LIMIT", 3)
    those = [memory(SIZE + i) for i in range(4)]
    for a in those[:3]:
        asked(a)
    assert not any(asked(a) for a in those[:3])
    released, real = list[int](), asked.watch._pages.release  # type: ignore[union-attr]
    monkeypatch.setattr(
        asked.watch._pages, "release", lambda *ends: (released.append(ends[0]), real(*ends))
    )
    asked.watch._weights[those[0].ctypes.data, those[0].nbytes].changed()
    asked(those[3])
    assert released == [-(-those[0].ctypes.data // PAGE) * PAGE]
    assert [asked(those[i]) for i in (1, 2, 3)] == [False] * 3
    assert asked(those[0])


@able
def test_a_child_has_nothing_watched(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would ask about the memory of its parent."""
    monkeypatch.setattr(watch, "PATIENCE", 0)
    a = memory()
    asked(a)
    assert not asked(a)
    with asked.watch._lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python 3.12: there are other threads
        child = os.fork()
        if not child:
            try:
                files = asked.watch._pages._files  # type: ignore[union-attr]
                own = list(files)
                asked.watch.forked()
                assert not files
                assert not any(Path(f"/proc/self/fd/{file}").exists() for file in own)
                a[3] += 1
                assert asked(a)
                assert not asked(a)
                a[SIZE // 2] += 1
                assert asked(a)
            except BaseException:  # noqa: BLE001 - the rest of the tests is the parent's
                os._exit(3)
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert not asked(a)
    a[SIZE // 2] += 1
    assert asked(a)


@able
def test_a_child_made_by_c_has_nothing_watched(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No hook has run: it has another number, and files are perhaps no longer those."""
    monkeypatch.setattr(watch, "PATIENCE", 0)
    a = memory()
    asked(a)
    assert not asked(a)
    pages = asked.watch._pages
    record = asked.watch.record(a.ctypes.data, a.nbytes)
    assert pages is not None
    assert record is not None
    record[WATCHED.index("process")] += 1
    monkeypatch.setattr(asked.watch, "_process", os.getpid() + 1)
    assert asked(a)
    assert pages._files
    assert asked.watch._pages is not pages
    pages.close()


@able
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("at", [0, SIZE // 2, SIZE - 1])
def test_what_is_written_while_it_is_read(first: bool, at: int) -> None:
    """Before the digest was taken, or after it: by the next call it is seen."""
    found, a, calls = Watch(), memory(offset=100), list[int]()

    def take() -> int:
        calls.append(1)
        writes = len(calls) == PATIENCE + 2  # the digest once its pages are protected
        if writes and first:
            a[at] ^= 1
        digest = weights.digest(a.ctypes.data, a.nbytes, 0, 1)
        if writes and not first:
            a[at] ^= 1
        return digest

    for _ in range(PATIENCE + 2):
        found.digest(a.ctypes.data, a.nbytes, take)
    assert len(calls) >= PATIENCE + 2
    now = weights.digest(a.ctypes.data, a.nbytes, 0, 1)
    assert found.digest(a.ctypes.data, a.nbytes, take) == now


@able
def test_nobody_waits(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is in there already may be the very thread that a signal has stopped."""
    monkeypatch.setattr(watch, "PATIENCE", 0)
    a = memory()
    with asked.watch._lock:
        assert asked(a)
        assert asked(a)
    assert asked(a)
    with asked.watch._lock:
        assert not asked(a)
        a[9] += 1
        assert asked(a)


@able
def test_threads_of_any_name(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux cuts a name after 15 bytes, wherever a character ends, and so do executables."""
    monkeypatch.setattr(watch, "PATIENCE", 0)
    name, a = ctypes.create_string_buffer(16), memory()
    libc = ctypes.CDLL(None)
    libc.prctl(16, name)  # PR_GET_NAME, and PR_SET_NAME
    libc.prctl(15, b"Verarbeitung\xc3\xa4\xc3\xb6")
    try:
        asked(a)
        assert not asked(a)
    finally:
        libc.prctl(15, name)


@able
@pytest.mark.parametrize("where", ["opened", "recorded", "take"])
def test_an_interrupt_leaves_nothing_that_lies(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor a lock that is held."""
    monkeypatch.setattr(watch, "PATIENCE", 0)
    found, whole = Watch(), memory(2 * SIZE)
    takes = list[int]()

    def asks(a: Array, stops: bool = False) -> int:
        def take() -> int:
            takes.append(1)
            if stops and where == "take" and len(takes) % 2 == 0:
                raise KeyboardInterrupt
            return weights.digest(a.ctypes.data, a.nbytes, 0, 1)

        takes.clear()
        return found.digest(a.ctypes.data, a.nbytes, take)

    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if where == "opened":
            patch.setattr(watch, "opened", interrupt)
        elif where == "recorded":
            patch.setattr(Watch, "_recorded", interrupt)
        with pytest.raises(KeyboardInterrupt):
            asks(whole, True)
    for _ in range(3):
        for view in (whole, whole[:SIZE], whole[SIZE // 2 :]):
            whole[SIZE] += 1
            whole[9] += 1
            assert asks(view) == weights.digest(view.ctypes.data, view.nbytes, 0, 1)


@able
def test_a_record_is_of_one_place(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory with the same ends elsewhere is another weight."""
    monkeypatch.setattr(watch, "PATIENCE", 0)
    a, b = memory(), memory()
    b[SIZE // 2] ^= 1
    asked(a)
    record = asked.watch.record(a.ctypes.data, a.nbytes)
    assert record is not None
    watched, at, digest = digests().watched, ctypes.addressof(record), record[-1]
    assert watched(a.ctypes.data, at) == digest != watched(b.ctypes.data, at)
    record[0] = 0  # no longer watched
    assert watched(a.ctypes.data, at) != digest


@able
def test_views_in_turns_are_watched_less(asked: Asked) -> None:
    whole = memory(2 * SIZE)
    for _ in range(500):
        asked(whole)
        asked(whole[:SIZE])
    assert asked.taken < 550  # one of the two at each call


def test_where_the_system_cannot(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked once, and digests are taken."""
    times = list[None]()
    monkeypatch.setattr(watch, "opened", lambda: times.append(None))
    a = memory()
    assert all(asked(a) for _ in range(20))
    assert len(times) == 1


@able
def test_memory_that_cannot_be_watched(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is asked about less and less."""
    times = list[None]()

    def protect(*_: Any) -> None:
        times.append(None)
        raise OSError("shared")

    monkeypatch.setattr(watch.Pages, "protect", protect)
    monkeypatch.setattr(watch, "opened", lambda: object.__new__(watch.Pages))
    a = memory()
    assert all(asked(a) for _ in range(100))
    assert 3 <= len(times) <= 5
    asked.watch._pages = None


@pytest.mark.parametrize("value", ["0", "off", "OFF", ""])
def test_the_environment_can_forbid_it(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KONV_WATCH", value)
    asked, a = Asked(), memory()
    assert all(asked(a) for _ in range(20))


@able
def test_functions_ask_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large weight; a small one is read at every call."""
    x, w = np.ones((1, 64, 5, 5), "f4"), np.ones((130, 64, 3, 3), "f4")
    real, taken = weights.digest, list[int]()

    def digest(*how: Any) -> int:
        taken.append(how[1])
        return real(*how)

    watch.WATCH.forked()  # as in a new process
    monkeypatch.setattr(weights, "digest", digest)
    with konv.precision("exact"):
        for _ in range(PATIENCE + 10):
            y = konv.conv2d(x, w)
        assert taken == [w.nbytes] * (PATIENCE + 2)
        assert (y == 576).all()
        w[100, 3, 2, 2] = 2
        assert (konv.conv2d(x, w)[0, 100] == 577).all()
