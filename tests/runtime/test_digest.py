"""The digest of weights: the same for the same bytes wherever they lie, another for any others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from konv import llvm
from konv.kernels.digest import CHUNK, LANES, emit
from konv.kernels.region import RUN
from konv.runtime import weights
from konv.runtime.code import Digests
from konv.runtime.threads import team

Array = np.ndarray[Any, Any]
TESTS = Path(__file__).resolve().parents[1]
LINE = LANES * 8  # bytes that the digest takes at a time

# Around what is taken at a time: bytes, words, lines of eight words, chunks.
SMALL = [*range(1, 2 * LINE + 10), 431, 1000, 1001, 1007, 1024]
LARGE = [m * CHUNK + e for m in (1, 2, 3) for e in (-64, -9, -8, -1, 0, 1, 7, 8, 9, 63, 64, 65)]


PROCESSORS = ["as it is", "without AES"]


@pytest.fixture(params=PROCESSORS, autouse=True)
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Digests of this machine, and of the same without AES in vectors."""
    found: str = request.param
    if found == "without AES":
        monkeypatch.setattr(weights, "digests", without_aes)
    return found


@cache
def without_aes() -> Digests:
    target = llvm.detect()
    features = tuple(feature for feature in target.features if "aes" not in feature)
    target = replace(target, features=(*features, "-vaes"))
    loaded = llvm.load(llvm.object_bytes(emit(target)), target)
    digest, watched = (loaded.function(name, 2) for name in ("digest", "watched"))
    return Digests(digest, loaded.function("run", len(RUN)), watched, loaded)


def digest(a: Array, threads: int = 1) -> int:
    now = team(threads)
    return weights.digest(a.ctypes.data, a.nbytes, now.address, now.threads)


def noise(size: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def at(a: Array, offset: int) -> Array:
    """A copy that begins `offset` bytes after a multiple of 64."""
    memory = np.full(a.nbytes + 256, 0x5A, np.uint8)
    begin = -memory.ctypes.data % 64 + offset
    found = memory[begin : begin + a.nbytes]
    found[:] = a.view(np.uint8).reshape(-1)
    return found


@pytest.mark.parametrize("offset", [0, 1, 4, 8, 33])
def test_same_contents_elsewhere(offset: int) -> None:
    for size in (*SMALL, *LARGE):
        a = noise(size)
        assert digest(a) == digest(at(a, offset)), size


@pytest.mark.parametrize("size", [*LARGE, 11 * CHUNK + 24, 40 * CHUNK])
def test_any_thread_count(size: int) -> None:
    a = noise(size)
    assert {digest(a, threads) for threads in (1, 2, 3, 5, 16) for _ in range(3)} == {digest(a)}


def test_neighbours_do_not_count() -> None:
    """What lies just before and after is not read into it."""
    for size in SMALL:
        memory = noise(size + 2)
        inner = memory[1:-1]
        before = digest(inner)
        memory[[0, -1]] ^= 0xFF
        assert digest(inner) == before, size


@pytest.mark.parametrize("contents", ["noise", "zeros", "ones", "numbers"])
def test_every_bit(contents: str) -> None:
    """All 8192 flips of one bit of 1 KiB: 8193 different digests."""
    a = {
        "noise": noise(1024),
        "zeros": np.zeros(1024, np.uint8),
        "ones": np.full(1024, 0xFF, np.uint8),
        "numbers": np.random.default_rng(3).standard_normal(256).astype("float32").view(np.uint8),
    }[contents]
    seen = {digest(a)}
    for byte in range(a.size):
        for bit in range(8):
            a[byte] ^= 1 << bit
            seen.add(digest(a))
            a[byte] ^= 1 << bit
    assert len(seen) == 8 * 1024 + 1


@pytest.mark.parametrize("size", [1, 7, 8, 9, 63, 65, 127, 1001])
def test_every_bit_of_a_tail(size: int) -> None:
    a = noise(size)
    assert len({digest(a), *(digest(b) for b in flipped(a, range(size)))}) == 8 * size + 1


@pytest.mark.parametrize("size", LARGE[:: len(LARGE) // 6])
def test_bits_where_chunks_meet(size: int) -> None:
    a = noise(size)
    edges = {0, size - 1, size // 2, *(e for k in (1, 2, 3) for e in (k * CHUNK - 1, k * CHUNK))}
    edges = {e for e in edges if e < size}
    assert len({digest(a), *(digest(b, 2) for b in flipped(a, edges))}) == 8 * len(edges) + 1


def flipped(a: Array, places: Any) -> Iterator[Array]:
    """The same memory with one bit of these bytes changed, one after the other."""
    for byte in places:
        for bit in range(8):
            a[byte] ^= 1 << bit
            yield a
            a[byte] ^= 1 << bit


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("contents", ["normal", "alike", "integers", "two"])
@pytest.mark.parametrize("count", [2, 16, 17, 256, 1001, CHUNK // 4 + 3])
def test_what_people_do_to_weights(count: int, contents: str, dtype: str) -> None:
    """Signs, scales, shifts, orders, quantised or all alike: never the digest of before."""
    rng = np.random.default_rng(count)
    a = {
        "normal": rng.standard_normal(count),
        "alike": np.ones(count),
        "integers": rng.integers(1, 5, count).astype(float),
        "two": np.where(np.arange(count) % 2, 0.5, -0.5),
    }[contents].astype(dtype)
    half = np.where(np.arange(count) % 2, 1, -1).astype(dtype)
    changed = [
        -a, a * half, a * -half, a * 2, a / 2, a * 4, a * 256, a + 1, a - 1, a * 0, -(a * 0), 1 / a,
        np.roll(a, 1), np.roll(a, 16), a[::-1], np.sort(a), np.nextafter(a, 9), np.nextafter(a, -9),
        np.concatenate([-a[: count // 2], a[count // 2 :]]), a * (half > 0), a * (half < 0),
    ]  # fmt: skip
    groups = list[set[int]]()
    for b in (a, *changed):
        same = [c.tobytes() == b.tobytes() for c in (a, *changed)]
        groups.append({i for i, equal in enumerate(same) if equal})
    digests = [digest(np.ascontiguousarray(b)) for b in (a, *changed)]
    for i, mine in enumerate(digests):
        alike = {j for j, other in enumerate(digests) if other == mine}
        assert alike == groups[i], f"change {i} and {alike - groups[i]}"


def test_sign_of_each_and_of_pairs() -> None:
    """Signs of one float, of any two, of every run, over two lines and a tail."""
    size = 2 * LINE // 4 + 10
    a = np.random.default_rng(1).standard_normal(size).astype("float32")
    seen, count = set[int](), 0
    for i in range(size):
        for j in range(i, size):
            for run in (False, True):
                b = a.copy()
                b[i : j + 1 if run else i + 1] *= -1
                if not run and j > i:
                    b[j] *= -1
                if run and j < i + 2:
                    continue
                seen.add(digest(b))
                count += 1
    assert len(seen) == count


def test_orders_of_words() -> None:
    """Any two words of a KiB exchanged, neighbours in a lane or not; lines; chunks."""
    a = noise(1024).view(np.int64)
    seen, count = {digest(a)}, 1
    for i in range(a.size):
        for j in range(i):
            a[[i, j]] = a[[j, i]]
            seen.add(digest(a))
            a[[i, j]] = a[[j, i]]
            count += 1
    assert len(seen) == count
    chunks = noise(4 * CHUNK).reshape(4, CHUNK)
    orders = ([0, 1, 2, 3], [1, 0, 2, 3], [0, 2, 1, 3], [3, 1, 2, 0], [3, 2, 1, 0])
    assert len({digest(np.ascontiguousarray(chunks[order]), 2) for order in orders}) == 5


@pytest.mark.parametrize("value", [0, 0xFF, 0x3F])
def test_lengths(value: int) -> None:
    """The same byte again and again, in any number."""
    a = np.full(3 * CHUNK + 65, value, np.uint8)
    sizes = [*range(3000), *LARGE]
    assert len({digest(a[:size]) for size in sizes}) == len(set(sizes))


@pytest.mark.parametrize("apart", [1, LANES, 2 * LANES])
def test_two_bits(apart: int) -> None:
    """No two bits of two words undo each other, neighbours in a lane or not."""
    a = noise(4 * LINE).view(np.uint64)
    before, equal = digest(a), list[tuple[int, int]]()
    for i in range(64):
        for j in range(64):
            a[3] ^= np.uint64(1 << i)
            a[3 + apart] ^= np.uint64(1 << j)
            if digest(a) == before:
                equal.append((i, j))
            a[3] ^= np.uint64(1 << i)
            a[3 + apart] ^= np.uint64(1 << j)
    assert not equal


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_two_numbers(dtype: str) -> None:
    """Any two numbers of a filter of small integers, changed to others of that kind."""
    values, rng = (-2, -1, 0, 0.5, 1, 2, 3), np.random.default_rng(0)
    words = LINE // np.dtype(dtype).itemsize
    a = rng.choice([-1.0, 0.0, 1.0, 2.0], 3 * words + 8).astype(dtype)
    seen, count = {digest(a)}, 1
    for p in range(20):
        for q in sorted({p + 1, p + words - 1, p + words, p + words + 1, p + 2 * words + 1}):
            old = a[p], a[q]
            for a[p] in values:
                for a[q] in values:
                    if a[p] != old[0] and a[q] != old[1]:
                        seen.add(digest(a))
                        count += 1
            a[p], a[q] = old
    assert len(seen) == count


GUARDED = """
import ctypes, mmap, sys
import numpy as np
from konv.kernels.digest import CHUNK
from konv.runtime import weights
from konv.runtime.threads import team

if sys.argv[3] == "without AES":
    from runtime.test_digest import without_aes
    weights.digests = without_aes
PAGE, beyond, side = mmap.PAGESIZE, int(sys.argv[1]), sys.argv[2]
inner = (3 * CHUNK + 200) // PAGE * PAGE + PAGE
memory = np.frombuffer(mmap.mmap(-1, inner + 2 * PAGE), np.uint8)
memory[:] = 7
first = memory.ctypes.data
protect = ctypes.CDLL(None).mprotect
for page in (first, first + PAGE + inner):
    assert not protect(ctypes.c_void_p(page), PAGE, 0)
sizes = [*range(300), *(m * CHUNK + e for m in (1, 2, 3) for e in (*range(-70, 71), 130))]
print("begun", flush=True)
for threads in (1, 3):
    now = team(threads)
    for size in sizes:
        address = first + PAGE + (inner - size if side == "end" else 0)
        weights.digest(address - beyond * (side != "end"), size + beyond, now.address, now.threads)
print("done")
"""


@pytest.mark.parametrize("side", ["end", "start"])
@pytest.mark.parametrize("beyond", [0, 1], ids=["within", "this can fail"])
def test_reads_nothing_beyond(processor: str, beyond: int, side: str) -> None:
    """Pages without access on both sides; a size of one byte more kills."""
    folders = [str(TESTS.parent / "src"), str(TESTS), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(folders)
    done = subprocess.run(
        [sys.executable, "-c", GUARDED, str(beyond), side, processor],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if beyond:
        assert (done.returncode < 0, done.stdout) == (True, "begun\n")
    else:
        assert (done.returncode, done.stdout) == (0, "begun\ndone\n"), done.stderr
