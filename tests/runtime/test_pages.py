"""Every write to memory that is watched is seen, and what cannot be watched is refused."""

from __future__ import annotations

import ctypes
import gc
import mmap
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import shared_memory
from pathlib import Path

import pytest
from functional.check import watches

from konv.runtime import pages
from konv.runtime.pages import PAGE, Pages, opened

PAGES = 6 * 512  # more than two huge pages
SIZE = PAGES * PAGE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]

able = pytest.mark.skipif(not watches(), reason="this system does not say what was written to")


@pytest.fixture
def linux() -> Iterator[Pages]:
    found = opened()
    assert found is not None
    yield found
    found.close()


def mapped(at: int | None = None) -> int:
    """New private memory, at an address if one is given; full of ones."""
    fixed = 0 if at is None else mmap_fixed()
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | fixed
    begin = _libc.mmap(at, SIZE, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    assert begin not in (None, ctypes.c_void_p(-1).value)
    ctypes.memset(begin, 1, SIZE)
    return int(begin)


def mmap_fixed() -> int:
    return 0x10  # MAP_FIXED, which Python's mmap does not have


@pytest.fixture
def begin() -> Iterator[int]:
    found = mapped()
    yield found
    _libc.munmap(ctypes.c_void_p(found), ctypes.c_size_t(SIZE))


def advised(what: int) -> Callable[[int], None]:
    def advise(begin: int) -> None:
        at, size = ctypes.c_void_p(begin + 512 * PAGE), ctypes.c_size_t(1024 * PAGE)
        assert _libc.madvise(at, size, what) == 0

    return advise


def by_a_store(begin: int) -> None:
    ctypes.memset(begin + SIZE - 1, 0, 1)


def by_the_same_byte(begin: int) -> None:
    ctypes.memset(begin, 1, 1)


def by_reading_a_file(begin: int) -> None:
    into = (ctypes.c_char * 8).from_address(begin + 777 * PAGE)
    with Path("/dev/zero").open("rb", buffering=0) as zeros:
        assert zeros.readinto(into) == 8


def by_its_file(begin: int) -> None:
    """As debuggers do."""
    with Path("/proc/self/mem").open("r+b", buffering=0) as memory:
        memory.seek(begin + 3 * PAGE)
        memory.write(b"!")


def by_a_new_mapping(begin: int) -> None:
    assert mapped(begin) == begin


def by_dropping_it(begin: int) -> None:
    advised(mmap.MADV_DONTNEED)(begin)


WAYS = (
    by_a_store,
    by_the_same_byte,
    by_reading_a_file,
    by_its_file,
    by_a_new_mapping,
    by_dropping_it,
)


@able
@pytest.mark.parametrize("huge", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_write_is_seen(
    linux: Pages, begin: int, way: Callable[[int], None], huge: bool
) -> None:
    if huge:
        advised(mmap.MADV_HUGEPAGE)(begin)
        ctypes.memset(begin, 2, SIZE)
    scan = linux.protect(begin, begin + SIZE)
    assert linux.untouched(scan)
    bytes((ctypes.c_char * SIZE).from_address(begin))  # to read is not to write
    assert linux.untouched(scan)
    way(begin)
    assert not linux.untouched(scan)
    assert not linux.untouched(scan)


@able
def test_every_page_counts(linux: Pages, begin: int) -> None:
    for page in (0, 1, 511, 512, 1023, PAGES - 1):
        scan = linux.protect(begin, begin + SIZE)
        assert linux.untouched(scan)
        ctypes.memset(begin + page * PAGE + page % PAGE, 0, 1)
        assert not linux.untouched(scan)


@able
def test_writes_beside_do_not_count(linux: Pages, begin: int) -> None:
    scan = linux.protect(begin + PAGE, begin + SIZE - PAGE)
    ctypes.memset(begin, 3, PAGE)
    ctypes.memset(begin + SIZE - PAGE, 3, PAGE)
    assert linux.untouched(scan)
    linux.release(begin + PAGE, begin + SIZE - PAGE)
    assert not linux.untouched(scan)


@able
def test_memory_of_others_is_refused(linux: Pages, tmp_path: Path) -> None:
    """Whoever else has it mapped could write to it unseen."""
    shared = shared_memory.SharedMemory(create=True, size=SIZE)
    anonymous = mmap.mmap(-1, SIZE)
    path = tmp_path / "weights"
    path.write_bytes(bytes(SIZE))
    with path.open("r+b") as file:
        copied = mmap.mmap(file.fileno(), SIZE, mmap.MAP_PRIVATE)
    try:
        for buffer in (shared.buf, anonymous, copied):
            view = ctypes.c_char.from_buffer(buffer)  # type: ignore[arg-type]
            begin = ctypes.addressof(view)
            del view
            with pytest.raises(OSError, match="shared, or of a file"):
                linux.protect(begin, begin + SIZE)
    finally:
        shared.close()
        shared.unlink()


@able
def test_nothing_is_watched_beside_pinned_memory(
    linux: Pages, begin: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written to it later passes no page table."""
    monkeypatch.setattr(pages, "_status", lambda name: {b"VmPin": [b"8", b"kB"]}[name])
    with pytest.raises(OSError, match="pinned"):
        linux.protect(begin, begin + SIZE)


@able
def test_nothing_there_and_watched_by_another(linux: Pages, begin: int) -> None:
    other = opened()
    assert other is not None
    other.protect(begin, begin + SIZE)
    with pytest.raises(OSError, match="ioctl"):
        linux.protect(begin, begin + SIZE)
    other.close()
    gone = mapped()
    _libc.munmap(ctypes.c_void_p(gone), ctypes.c_size_t(SIZE))
    with pytest.raises(OSError, match="ioctl"):
        linux.protect(gone, gone + SIZE)


def test_systems_that_do_not_know_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file stays open, and nobody is asked where system calls are filtered."""
    gc.collect()
    before = open_files()
    with monkeypatch.context() as patch:
        patch.setattr(pages, "SYSCALL", {})
        assert opened() is None
    for name in ("API", "REGISTER", "SCAN", "QUERY"):
        with monkeypatch.context() as patch:
            patch.setattr(pages, name, 0)
            assert opened() is None
    with monkeypatch.context() as patch:
        patch.setattr(Pages, "untouched", lambda *_: True)
        assert opened() is None
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda _: b"Name:\t\xff\nVmPin:\t0 kB\nSeccomp:\t2\n")
        patch.setattr(pages, "Pages", None)  # not even called
        assert opened() is None
    assert open_files() == before


def open_files() -> int:
    """Of those that are asked."""
    found = 0
    for file in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):
            found += str(file.readlink()).endswith(("[userfaultfd]", "/pagemap", "/maps"))
    return found
