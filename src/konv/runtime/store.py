"""The object cache on disk: machine code, found by a digest of everything it was made from.

A hit takes a tenth of a millisecond where building takes a hundred, so the second process to use a
layer starts at once. A file that cannot be believed (konv.runtime.sealed) counts as absent and is
replaced. A cache that cannot be read or written - disk full, no home, wrong owner - costs time and
never a result: nothing here raises for what it finds, and `KONV_VERBOSE=1` says what it was.

    KONV_CACHE_DIR      another folder; empty, 0 or off: no cache
    KONV_CACHE_BYTES    how large it may grow; what was not used for longest makes room
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from heapq import nlargest
from pathlib import Path
from time import time

from konv import log
from konv.runtime import sealed
from konv.runtime.fingerprint import key

__all__ = [
    "Entry", "clear", "entries", "fetch", "folder", "keep", "key", "latest", "limit", "names",
    "remove", "size",
]  # fmt: skip

LIMIT = 256 * 1024 * 1024  # bytes; a kernel has some 30 KB, so no one's networks fill it
HOUR = 3600.0  # seconds: how finely "last used" is kept, so that a hit seldom writes to the disk
KINDS = (sealed.SUFFIX, sealed.TUNED)
DIGITS = 64  # of a key, hexadecimal
SHARE = 8  # processes that may write at once: each lists the folder when it has filled its share

# By folder and limit: bytes that may be written before the folder is listed again, and until when.
_unlisted: dict[tuple[Path, int], tuple[int, float]] = {}


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the cache: bytes on disk, last use in seconds since 1970, what it is in words.

    `sound` is False for a file that will not be used, and `what` then empty.
    """

    name: str
    bytes: int
    used: float
    what: str
    sound: bool


def folder() -> Path | None:
    """Where the cache is, or will be made; None where it is off or has no place."""
    told = os.environ.get("KONV_CACHE_DIR")
    try:
        if told is not None:
            return None if told.lower() in ("", "0", "off") else Path(told).expanduser()
        base = _users_caches()
    except (OSError, RuntimeError):  # RuntimeError: this user has no home
        return None
    return base / "konv" if base else None


def _users_caches() -> Path | None:
    """Where this system keeps caches. A missing home is not made: services lack one on purpose."""
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA", "")
        return Path(local) if local else None
    told = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if sys.platform != "darwin" and told.is_absolute():  # its standard says to ignore other values
        return told
    home = Path.home()
    caches = home / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return caches if home.is_dir() else None


def limit() -> int:
    """Bytes that the cache may take."""
    told = os.environ.get("KONV_CACHE_BYTES", "")
    return int(told) if told.isascii() and told.isdigit() and len(told) < 19 else LIMIT


def fetch(key: str, suffix: str = sealed.SUFFIX) -> bytes | None:
    """What is kept under a key; None if there is nothing, or nothing that can be believed."""
    place = folder()
    if place is None or not key:
        return None
    path = place / (key + suffix)
    try:
        sealed.check(place.stat(), stat.S_ISDIR)
        found = sealed.read(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _say(path, error)
        return None
    if abs(time() - found.used) > HOUR:  # abs: a time in the future would make it the last to go
        with suppress(OSError):  # on a read-only disk reading is enough
            os.utime(path)
    return found.code


def keep(key: str, code: bytes, what: str = "", suffix: str = sealed.SUFFIX) -> bool:
    """Keep code under a key, with words that tell a person what it is; make room if need be.
    Whether it is kept.
    """
    place = folder()
    if place is None or not key or len(code) > min(limit(), sealed.LARGEST):
        return False
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.mkdir(mode=0o700, exist_ok=True)
        sealed.check(place.stat(), stat.S_ISDIR)
        sealed.write(place / (key + suffix), code, what)
        _make_room_for(place, len(code))
    except OSError as error:
        _say(place, error)
        return False
    return True


def latest(count: int) -> Iterator[bytes]:
    """The code of so many files, last used first; what cannot be believed is left out."""
    found = ((status.st_mtime, path) for path, status in _files(sealed.SUFFIX))
    for _, path in nlargest(count, found):
        with suppress(OSError, ValueError):
            sealed.check(path.parent.stat(), stat.S_ISDIR)
            yield sealed.read(path).code


def names(suffix: str) -> frozenset[str]:
    """The keys under which files of a kind lie there, believed or not."""
    return frozenset(path.stem for path, _ in _files(suffix))


def remove(suffix: str, key: str | None = None) -> int:
    """Delete the file of a key, or all of that kind; how many there were."""
    wanted = (path for path, _ in _files(suffix) if key in (None, path.stem))
    return sum(_delete(path) for path in list(wanted))


def entries(*suffixes: str) -> list[Entry]:
    """What the cache holds, of these kinds or of all, last used first."""
    found = [_entry(path, status) for path, status in _files(*(suffixes or KINDS))]
    return sorted(found, key=lambda entry: entry.used, reverse=True)


def _entry(path: Path, status: os.stat_result) -> Entry:
    try:
        what, sound = sealed.read(path).what, True
    except (OSError, ValueError):
        what, sound = "", False
    return Entry(path.name, status.st_size, status.st_mtime, what, sound)


def size() -> int:
    """Bytes that the cache takes."""
    return sum(status.st_size for _, status in _files(*KINDS))


def clear() -> int:
    """Delete the files of the cache, nothing else that stands in its folder; how many they were."""
    for path, _ in _files(sealed.PART):
        _delete(path)
    return sum(_delete(path) for path, _ in list(_files(*KINDS)))


def _make_room_for(place: Path, written: int) -> None:
    """Keep to the limit. A folder that had much room an hour ago or less is not listed for each
    file: one of 9,000 files takes 0.1 s or more, half as long as a kernel.
    """
    key, now = (place, limit()), time()
    left, until = _unlisted.get(key, (0, 0.0))
    if left > written and now < until < now + 2 * HOUR:
        _unlisted[key] = left - written, until
        return
    _unlisted.clear()
    _unlisted[key] = max(0, _make_room()) // SHARE, now + HOUR


def _make_room() -> int:
    """Delete what was not used for longest until the rest fits, and what dead writers have left.
    Bytes that are left.
    """
    kept, bytes_kept, an_hour_ago = list[tuple[float, int, str]](), 0, time() - HOUR
    for entry, status in list(_listed(sealed.PART, *KINDS)):
        if not entry.name.endswith(sealed.PART):
            kept.append((status.st_mtime, status.st_size, entry.path))
            bytes_kept += status.st_size
        elif status.st_mtime < an_hour_ago:
            _delete(Path(entry.path))
    excess = bytes_kept - limit()
    for _, size, path in sorted(kept) if excess > 0 else ():
        if excess > 0:
            excess -= size * _delete(Path(path))
    return -excess


def _files(*suffixes: str) -> Iterator[tuple[Path, os.stat_result]]:
    """The files in the folder that bear such a name as konv gives; none if there is no folder."""
    return ((Path(entry.path), status) for entry, status in _listed(*suffixes))


def _listed(*suffixes: str) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
    """The same without a Path for each: a full cache has 9,000 files, and whoever has compiled a
    kernel has them listed.
    """
    place = folder()
    if place is None:
        return
    with suppress(OSError), os.scandir(place) as found:
        for entry in found:
            key = entry.name.partition(".")[0]
            named = len(key) == DIGITS and not key.strip("0123456789abcdef")
            if named and entry.name.endswith(suffixes):
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:  # another process may have deleted it just now
                    continue
                yield entry, status


def _delete(path: Path) -> bool:
    with suppress(OSError):
        path.unlink()
        return True
    return False


def _say(path: Path, why: object) -> None:
    log.event("cache", path=f"{path}:", why=why)
