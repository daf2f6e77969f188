"""What the object cache does not believe, and what happens while it writes. No fault raises."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from runtime.caching import CODE, KEY, NOBODY, OTHER, child, files, printed

from konv.runtime import sealed, store

# What it does not believe


def test_every_byte_counts(kept: Path) -> None:
    """A bit flipped in any byte makes the file count as absent; keeping it again heals."""
    whole = kept.read_bytes()
    for place in range(len(whole)):
        kept.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        assert store.fetch(KEY) is None, f"byte {place}"
    store.keep(KEY, CODE)
    assert store.fetch(KEY) == CODE


def test_every_length_counts(kept: Path) -> None:
    """Cut short anywhere, empty, or with something behind: absent."""
    whole = kept.read_bytes()
    for data in (*(whole[:length] for length in range(len(whole))), whole + b"\0"):
        kept.write_bytes(data)
        assert store.fetch(KEY) is None, f"{len(data)} bytes"
    kept.write_bytes(whole)
    assert store.fetch(KEY) == CODE


def test_a_file_is_for_its_key(kept: Path) -> None:
    """The code of another plan or machine, copied to this name, is not used."""
    kept.rename(kept.parent / f"{OTHER}.konv")
    assert store.fetch(OTHER) is None


def test_a_file_of_another_format(kept: Path) -> None:
    """A later konv may write other files: its first line says so."""
    kept.write_bytes(kept.read_bytes().replace(b"konv object 1", b"konv object 2", 1))
    assert store.fetch(KEY) is None


def test_a_file_too_large_is_not_read(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of gigabytes in our place costs no memory."""
    os.truncate(kept, sealed.LARGEST + 1)
    monkeypatch.setattr(os, "read", None)
    assert store.fetch(KEY) is None


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write(kept: Path, mode: int, said: Callable[[], str]) -> None:
    """It may be anybody's code: absent, and replaced."""
    kept.chmod(mode)
    assert store.fetch(KEY) is None
    assert "others may write to it" in said()
    store.keep(KEY, CODE)
    assert store.fetch(KEY) == CODE
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o1777])
def test_a_folder_that_others_may_write(kept: Path, mode: int) -> None:
    """Nothing in it is used, and nothing is put there."""
    kept.parent.chmod(mode)
    store.keep(OTHER, CODE)
    assert (store.fetch(KEY), store.fetch(OTHER)) == (None, None)
    assert files(kept.parent) == {kept.name}


@pytest.mark.parametrize("whose", ["file", "folder"])
def test_what_belongs_to_another_user(
    kept: Path, whose: str, monkeypatch: pytest.MonkeyPatch, said: Callable[[], str]
) -> None:
    """A file or folder of someone else counts as absent; a file in our own folder is replaced."""
    path = kept if whose == "file" else kept.parent
    give_away(path, monkeypatch)
    assert store.fetch(KEY) is None
    assert "belongs to another user" in said()
    store.keep(KEY, CODE)
    if whose == "file":
        assert store.fetch(KEY) == CODE
    else:
        assert store.fetch(KEY) is None
        assert "belongs to another user" in said()


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make another user the owner: in truth if we may, else in what the system says of it."""
    if os.getuid() == 0:
        os.chown(path, NOBODY, NOBODY)
        return
    foreign, fstat, of_path = path.stat().st_ino, os.fstat, os.stat

    def change(status: os.stat_result) -> os.stat_result:
        if status.st_ino != foreign:
            return status
        return os.stat_result((*status[:4], os.getuid() + 1, *status[5:]))

    monkeypatch.setattr(os, "fstat", lambda file: change(fstat(file)))
    monkeypatch.setattr(os, "stat", lambda *where, **how: change(of_path(*where, **how)))


def test_where_there_are_no_owners(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has no getuid and no such modes: the file's seal alone decides."""
    kept.chmod(0o666)
    kept.parent.chmod(0o777)
    monkeypatch.delattr(os, "getuid")
    assert store.fetch(KEY) == CODE
    kept.write_bytes(b"damaged")
    assert store.fetch(KEY) is None


def test_a_link_in_the_file_s_place(kept: Path, tmp_path: Path) -> None:
    """A link is not followed, not even to a good file; it is replaced, what it led to is left."""
    elsewhere = kept.rename(tmp_path / kept.name)
    kept.symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    assert store.fetch(KEY) is None
    store.keep(KEY, b"new")
    assert store.fetch(KEY) == b"new"
    assert not kept.is_symlink()
    assert elsewhere.read_bytes() == before


def test_the_folder_may_be_a_link(kept: Path, tmp_path: Path) -> None:
    """Caches are moved to larger disks: what the link leads to is what must be ours."""
    kept.parent.rename(tmp_path / "elsewhere")
    kept.parent.symlink_to(tmp_path / "elsewhere")
    assert store.fetch(KEY) == CODE
    (tmp_path / "elsewhere").chmod(0o777)
    assert store.fetch(KEY) is None


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_something_else_in_the_file_s_place(kept: Path, make: Callable[[Path], None]) -> None:
    """A pipe is not waited for; what cannot be replaced stays, and nothing else is left there."""
    kept.unlink()
    make(kept)
    assert store.fetch(KEY) is None
    store.keep(KEY, CODE)
    assert store.fetch(KEY) == (CODE if make is os.mkfifo else None)
    assert files(kept.parent) == {kept.name}


# Writing


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk(kept: Path, fault: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes some and then refuses: nothing half is left, what was there before still is."""
    write, room = os.write, [100]

    def full(file: int, data: bytes) -> int:
        if not room:
            raise OSError(fault, os.strerror(fault))
        return write(file, data[: room.pop()])

    monkeypatch.setattr(os, "write", full)
    store.keep(KEY, b"newer")
    store.keep(OTHER, CODE)
    assert (store.fetch(KEY), store.fetch(OTHER)) == (CODE, None)
    assert files(kept.parent) == {kept.name}


def test_a_file_may_not_grow(place: Path) -> None:
    """The same from the system itself: it takes 100 bytes of a file and no more."""
    code = f"""
import os, resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
store.keep({KEY!r}, {CODE!r})
print(store.fetch({KEY!r}), os.listdir({str(place)!r}))
"""
    assert printed(child(code)) == "None []\n"


@pytest.mark.parametrize("name", ["open", "replace", "mkdir"])
def test_the_system_says_no(place: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room for a name, no right to rename: nothing is kept, and that is all."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "no")

    with monkeypatch.context() as patch:
        patch.setattr(os, name, refuse)
        store.keep(KEY, CODE)
    assert store.fetch(KEY) is None
    assert not place.exists() or not files(place)


def test_an_interrupt_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control-C while writing is raised as always, and no half file stays."""

    def interrupt(file: int, data: bytes) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.keep(KEY, CODE)
    assert files(place) == set()


IN_PIECES = """
import os, sys, time
write = os.write
def in_pieces(file, data):
    time.sleep(0.002)
    return write(file, data[:64])
os.write = in_pieces
print("ready", flush=True)
sys.stdin.readline()
for turn in range(10):
    store.keep({key!r}, {letter!r} * 2000)
"""


def test_two_processes_write_at_once(place: Path) -> None:
    """Both write the same cold cache in small pieces: a reader sees one of them, whole, or none."""
    with writer(b"x") as one, writer(b"y") as two:
        seen = set()
        go(one)
        go(two)
        while one.poll() is None or two.poll() is None:
            seen.add(store.fetch(KEY))
    assert (one.returncode, two.returncode) == (0, 0)
    assert seen <= {None, b"x" * 2000, b"y" * 2000}
    assert len(seen) >= 2
    assert store.fetch(KEY) in seen - {None}
    assert files(place) == {f"{KEY}.konv"}


def test_a_writer_that_is_killed(kept: Path) -> None:
    """What it had begun is never read; what was there before is."""
    with writer(b"x") as process:
        go(process)
        while len(files(kept.parent)) < 2:
            time.sleep(0.001)
        process.kill()
    assert store.fetch(KEY) == CODE
    assert len(store.entries()) == 1


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("go\n")
    process.stdin.flush()


def writer(letter: bytes) -> subprocess.Popen[str]:
    """A process that waits for a line, then writes one entry ten times, 64 bytes at a time."""
    process = child(IN_PIECES.format(key=KEY, letter=letter))
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process
