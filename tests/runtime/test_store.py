"""The object cache: what it keeps, where, and what it does not believe. No fault is an error."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from konv import log
from konv.runtime import sealed, store

KEY, OTHER, THIRD, FOURTH = (digit * 64 for digit in "abcd")
CODE = bytes(range(128)) + b"\n\0\n\xff"
SOURCE = Path(store.__file__).parents[2]
HOUR = 3600
NOBODY = 65534


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a cache that does not exist yet."""
    monkeypatch.setenv("KONV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("KONV_CACHE_BYTES", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def kept(place: Path) -> Path:
    """A file of the cache that holds CODE under KEY."""
    store.keep(KEY, CODE, "direct 6x4")
    assert store.fetch(KEY) == CODE
    return place / f"{KEY}.konv"


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What KONV_VERBOSE=1 would have shown so far."""
    before = log.verbose
    log.set_verbose(True)
    yield lambda: capsys.readouterr().err
    log.set_verbose(before)


def files(place: Path) -> set[str]:
    return {path.name for path in place.iterdir()}


def child(code: str, **environment: str) -> subprocess.Popen[str]:
    """A Python of its own that has `store` and `sealed`."""
    code = f"from konv.runtime import sealed, store\n{code}"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), **environment}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def printed(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    return output


# What it keeps


def test_what_was_kept_is_found(place: Path) -> None:
    """The bytes come back as they were; another key finds nothing."""
    assert store.fetch(KEY) is None
    store.keep(KEY, CODE)
    assert store.fetch(KEY) == CODE
    assert store.fetch(OTHER) is None
    store.keep(KEY, b"newer")
    assert store.fetch(KEY) == b"newer"
    assert files(place) == {f"{KEY}.konv"}


def test_only_this_user_can_read_it(kept: Path) -> None:
    """The folder is made with mode 700, the file with 600, whatever the umask would allow."""
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_no_key_no_cache(place: Path) -> None:
    """An empty key, of sources that are not those that run, keeps and finds nothing."""
    store.keep("", CODE)
    assert store.fetch("") is None
    assert not place.exists()


def test_entries_say_what_there_is(kept: Path) -> None:
    """Name, size, last use and words of each file, last used first; and which will not be used."""
    store.keep(OTHER, b"x" * 10, "depthwise\n 8x2")
    (kept.parent / f"{THIRD}.konv").write_bytes(b"damaged")
    for key, age in ((KEY, 1), (OTHER, 2), (THIRD, 3)):
        os.utime(kept.parent / f"{key}.konv", (0, 1_000_000 - age))
    found = store.entries()
    assert [(e.name, e.used, e.what, e.sound) for e in found] == [
        (f"{KEY}.konv", 999_999, "direct 6x4", True),
        (f"{OTHER}.konv", 999_998, "depthwise 8x2", True),
        (f"{THIRD}.konv", 999_997, "", False),
    ]
    assert [e.bytes for e in found] == [(kept.parent / e.name).stat().st_size for e in found]
    assert store.size() == sum(e.bytes for e in found)


def test_clear_deletes_what_is_its_own(kept: Path) -> None:
    """Files of the cache go, whole or not; what else stands in the folder stays."""
    store.keep(OTHER, CODE)
    (kept.parent / f"{KEY}.1.0.part").write_bytes(b"half")
    strangers = {"notes.txt", "a.konv", f"{KEY[:-1]}g.konv", "x.part"}
    for name in strangers:
        (kept.parent / name).write_text("mine")
    assert store.clear() == 2
    assert files(kept.parent) == strangers
    assert (store.entries(), store.size(), store.clear()) == ([], 0, 0)


def test_there_need_not_be_a_cache(place: Path) -> None:
    """Asking what is in a folder that does not exist makes none."""
    assert (store.entries(), store.size(), store.clear()) == ([], 0, 0)
    assert not place.exists()


# Where it is


@pytest.mark.parametrize("value", ["", "0", "off", "OFF"])
def test_it_can_be_switched_off(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """KONV_CACHE_DIR empty, 0 or off: no folder, nothing kept, nothing found."""
    monkeypatch.setenv("KONV_CACHE_DIR", value)
    store.keep(KEY, CODE)
    assert store.folder() is None
    assert store.fetch(KEY) is None
    assert (store.entries(), store.size(), store.clear()) == ([], 0, 0)


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {}, "home/.cache/konv"),
        ("linux", {"XDG_CACHE_HOME": "{}/xdg"}, "xdg/konv"),
        ("linux", {"XDG_CACHE_HOME": ""}, "home/.cache/konv"),
        ("linux", {"XDG_CACHE_HOME": "not/absolute"}, "home/.cache/konv"),
        ("darwin", {"XDG_CACHE_HOME": "{}/xdg"}, "home/Library/Caches/konv"),
        ("win32", {"LOCALAPPDATA": "{}/local"}, "local/konv"),
        ("win32", {}, None),
        ("linux", {"HOME": "{}/missing"}, None),
        ("linux", {"KONV_CACHE_DIR": "{}/told"}, "told"),
        ("linux", {"KONV_CACHE_DIR": "~/told"}, "home/told"),
        ("linux", {"KONV_CACHE_DIR": "~nobody-of-that-name/told"}, None),
    ],
)
def test_it_is_where_the_system_keeps_caches(
    platform: str,
    environment: dict[str, str],
    expected: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each system's folder for caches, unless KONV_CACHE_DIR names one; none without a home."""
    (tmp_path / "home").mkdir()
    monkeypatch.setattr(sys, "platform", platform)
    for name in ("KONV_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    assert store.folder() == (tmp_path / expected if expected else None)
    store.keep(KEY, CODE)
    assert store.fetch(KEY) == (CODE if expected else None)
    assert not (tmp_path / "missing").exists()


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """No HOME, and none known to the system: no cache."""

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("KONV_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    store.keep(KEY, CODE)
    assert store.folder() is None
    assert store.fetch(KEY) is None


@pytest.mark.parametrize("where", ["file", "file/below", "/proc/konv-was-here/cache"])
def test_a_place_that_cannot_be(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[], str]
) -> None:
    """A file stands there, or no folder can be made: nothing is kept, and that is all."""
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("KONV_CACHE_DIR", str(tmp_path / where))
    store.keep(KEY, CODE)
    assert store.fetch(KEY) is None
    assert (store.entries(), store.size(), store.clear()) == ([], 0, 0)
    assert (tmp_path / "file").read_text() == "mine"
    assert "konv: cache" in said()


ANOTHER_USER = f"""
import hashlib, os
if os.getuid() == 0:
    os.setgroups([])
    os.setgid({NOBODY})
    os.setuid({NOBODY})
"""


@pytest.fixture
def read_only(kept: Path) -> Iterator[Path]:
    """A folder that can be read but not written to, with one entry, where any user gets at it."""
    home = Path(tempfile.mkdtemp())
    file = Path(shutil.copy(kept, home))
    os.utime(file, (0, 0))
    for path, mode in ((file, 0o400), (home, 0o500)):
        path.chmod(mode)
        if os.getuid() == 0:  # whom no mode keeps from writing: the child becomes another user
            os.chown(path, NOBODY, NOBODY)
    yield home
    home.chmod(0o700)
    shutil.rmtree(home)


def test_a_read_only_folder_is_read(read_only: Path) -> None:
    """What is there is used, and nothing new is kept."""
    code = f"{ANOTHER_USER}\nstore.keep({OTHER!r}, b'1')\nprint(store.fetch({KEY!r}) == {CODE!r})"
    assert printed(child(code, KONV_CACHE_DIR=str(read_only))) == "True\n"
    assert files(read_only) == {f"{KEY}.konv"}


def test_a_read_only_disk_is_read(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hit is a hit where its time cannot be written."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    os.utime(kept, (0, 0))
    monkeypatch.setattr(os, "utime", refuse)
    assert store.fetch(KEY) == CODE


def test_a_read_only_home(read_only: Path) -> None:
    """The cache's folder cannot be made: no cache, no error."""
    code = f"{ANOTHER_USER}\nstore.keep({KEY!r}, b'1')\nprint(store.fetch({KEY!r}), store.size())"
    for environment in ({"HOME": str(read_only)}, {"HOME": str(read_only), "XDG_CACHE_HOME": ""}):
        process = child(f"import os\ndel os.environ['KONV_CACHE_DIR']\n{code}", **environment)
        assert printed(process) == "None 0\n"
    assert files(read_only) == {f"{KEY}.konv"}


# How large it grows


def ages(place: Path) -> None:
    """KEY was last used five hours ago, OTHER four, THIRD three."""
    for key, hours in ((KEY, 5), (OTHER, 4), (THIRD, 3)):
        store.keep(key, CODE)
        then = time.time() - hours * HOUR
        os.utime(place / f"{key}.konv", (then, then))


def test_what_was_not_used_for_longest_makes_room(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the limit the oldest goes, by last use and not by age; a hit counts as a use."""
    ages(place)
    monkeypatch.setenv("KONV_CACHE_BYTES", str(store.size()))
    assert store.fetch(KEY)
    store.keep(FOURTH, CODE)
    assert files(place) == {f"{key}.konv" for key in (KEY, THIRD, FOURTH)}
    monkeypatch.setenv("KONV_CACHE_BYTES", str(store.size() * 2 // 3))
    store.keep(FOURTH, CODE)
    assert files(place) == {f"{KEY}.konv", f"{FOURTH}.konv"}


@pytest.mark.parametrize("told", ["0", "100"])
def test_a_limit_below_one_file(place: Path, monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    """What would not fit alone is not kept, and makes no room for itself."""
    store.keep(KEY, CODE)
    monkeypatch.setenv("KONV_CACHE_BYTES", told)
    store.keep(OTHER, CODE)
    assert files(place) == {f"{KEY}.konv"}


@pytest.mark.parametrize("told", ["", "many", "-1", "1e9", "²", "9" * 5000])
def test_a_limit_that_is_no_number(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything but digits means the limit of 256 MB."""
    monkeypatch.setenv("KONV_CACHE_BYTES", told)
    assert store.limit() == 256 * 1024 * 1024


def test_a_hit_seldom_writes(kept: Path) -> None:
    """The time of last use is written once an hour at most, and one in the future at once."""
    now = time.time()
    for used, written in ((now - 0.9 * HOUR, False), (now - 1.1 * HOUR, True), (now + 9e5, True)):
        os.utime(kept, (used, used))
        assert store.fetch(KEY) == CODE
        assert (abs(kept.stat().st_mtime - used) > 60) is written


def test_what_dead_writers_left_goes(kept: Path) -> None:
    """A half-written file is swept up an hour later, not before: its writer may be at it."""
    old, young = (kept.parent / f"{OTHER}.1.{i}.part" for i in (0, 1))
    for part in (old, young):
        part.write_bytes(b"half")
    os.utime(old, (0, 0))
    store.keep(THIRD, CODE)
    assert files(kept.parent) == {kept.name, f"{THIRD}.konv", young.name}


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
