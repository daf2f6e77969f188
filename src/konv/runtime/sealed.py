"""One file of the cache: written whole or not at all, read only if it can be believed.

What is read here is run as machine code, so nothing counts that another user could have written:
the file is regular and no link, belongs to this user, and nobody else may write to it. Against
accidents - a crash in the middle, a failing disk, a file copied over another - it says what it is
and is sealed:

    konv object 1
    SHA-256 of all that follows, in hexadecimal
    key
    what it is, in words
    object bytes
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SUFFIX = ".konv"
TUNED = ".tuned"  # of what measuring has found: the name of a plan (konv.runtime.tuned), no code
PART = ".part"  # of a file that is still being written
MAGIC = b"konv object 1"
LARGEST = 64 * 1024 * 1024  # bytes: a thousand times a kernel; what is larger is not ours to read

# Without O_NONBLOCK a pipe put in the file's place would be waited for. Windows has the last only.
_FLAGS = ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "O_BINARY")
_READ = os.O_RDONLY | sum(getattr(os, flag, 0) for flag in _FLAGS)
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | sum(getattr(os, flag, 0) for flag in _FLAGS)


@dataclass(frozen=True, slots=True)
class Sealed:
    """The contents of a file, and when it was last used (seconds since 1970)."""

    what: str
    code: bytes
    used: float


def check(status: os.stat_result, kind: Callable[[int], bool]) -> None:
    """PermissionError unless it is of this kind (stat.S_ISREG), ours, and ours alone to write."""
    if not kind(status.st_mode):
        raise PermissionError("it is of another kind")
    if not hasattr(os, "getuid"):  # Windows: there a user's folder is his own by other means
        return
    if status.st_uid != os.getuid():
        raise PermissionError("it belongs to another user")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError("others may write to it")


def read(path: Path) -> Sealed:
    """The contents of a file sealed under its own name; OSError or ValueError for anything else."""
    file = os.open(path, _READ)
    try:
        status = os.fstat(file)
        check(status, stat.S_ISREG)
        if status.st_size > LARGEST:
            raise ValueError("it is too large")
        data = os.read(file, status.st_size)
    finally:
        os.close(file)
    magic, seal, body = data.split(b"\n", 2)
    if magic != MAGIC or seal != _seal(body):
        raise ValueError("it is damaged")
    key, what, code = body.split(b"\n", 2)
    if key.decode() != path.stem:
        raise ValueError("it was made for another key")
    return Sealed(what.decode(), code, status.st_mtime)


def write(path: Path, code: bytes, what: str) -> None:
    """Put a file there in one step: readers see the old one or the new one, whole; or OSError."""
    body = f"{path.stem}\n{' '.join(what.split())}\n".encode() + code
    data = memoryview(MAGIC + b"\n" + _seal(body) + b"\n" + body)
    part = path.with_name(f"{path.stem}.{os.getpid()}.{os.urandom(4).hex()}{PART}")
    file = os.open(part, _WRITE, 0o600)
    try:
        try:
            while data:  # a disk that fills up takes some of it before it refuses
                data = data[os.write(file, data) :]
        finally:
            os.close(file)
        part.replace(path)
    except BaseException:  # an interrupt too leaves nothing behind
        with suppress(OSError):
            part.unlink()
        raise


def _seal(body: bytes) -> bytes:
    from hashlib import sha256  # here, as it takes 4 ms to import

    return sha256(body).hexdigest().encode()
