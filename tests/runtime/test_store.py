"""The object cache: what it keeps, where, and how much of it. No fault of a place is an error."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from runtime.caching import CODE, FOURTH, KEY, NOBODY, OTHER, THIRD, child, files, printed

from konv.runtime import store

HOUR = 3600

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


def test_the_latest_first(kept: Path) -> None:
    """As many as are asked for, without what is damaged."""
    for hours, key in enumerate((OTHER, THIRD, FOURTH), 1):
        store.keep(key, key.encode())
        path, then = kept.parent / f"{key}.konv", time.time() - hours * HOUR
        if key == THIRD:
            path.write_bytes(b"damaged")
        os.utime(path, (then, then))
    assert list(store.latest(4)) == [CODE, OTHER.encode(), FOURTH.encode()]
    assert list(store.latest(2)) == [CODE, OTHER.encode()]
    kept.parent.chmod(0o777)
    assert list(store.latest(2)) == []


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


def test_a_folder_with_room_is_not_listed_for_each_file(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But after an eighth of the room, after an hour, and for another limit."""
    listed: list[int] = []
    monkeypatch.setattr(store, "_unlisted", {})
    monkeypatch.setattr(store, "_make_room", lambda: listed.append(1) or 8 * 1000)
    for size in (10, 500, 400):
        store.keep(KEY, bytes(size))
    assert len(listed) == 1
    store.keep(KEY, bytes(200))
    assert len(listed) == 2
    monkeypatch.setenv("KONV_CACHE_BYTES", "50000")
    store.keep(KEY, CODE)
    assert len(listed) == 3
    now = time.time()
    monkeypatch.setattr(store, "time", lambda: now + HOUR + 60)
    store.keep(KEY, CODE)
    store.keep(KEY, CODE)
    assert len(listed) == 4


def test_what_dead_writers_left_goes(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half-written file is swept up an hour later, not before: its writer may be at it."""
    monkeypatch.setattr(store, "_unlisted", {})
    old, young = (kept.parent / f"{OTHER}.1.{i}.part" for i in (0, 1))
    for part in (old, young):
        part.write_bytes(b"half")
    os.utime(old, (0, 0))
    store.keep(THIRD, CODE)
    assert files(kept.parent) == {kept.name, f"{THIRD}.konv", young.name}
