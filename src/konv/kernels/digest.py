"""A 64-bit digest of a weight, taken at memory speed, to know whether its packed copy is still
true.

Lanes of `lane = rotate(lane xor word, 40) * odd`, one for each of LANES neighbouring words, several
in a vector. Every step is a bijection of the lane, so a change of one word always changes the
digest; the rotation brings high bits (signs and exponents) down to where the multiplication spreads
them, so that a change of sign everywhere, which xor and multiply alone would miss, is seen too.
Each word is folded first, `word xor (word >> 23)`, lest the change of one number undo that of
another: without it, 1 to -1 and 0 to 2 seventeen floats later went unseen every second time.
Different contents collide with a chance of 2**-64 or so; it is no defence against someone who
constructs a collision in his own weights.

A rotation by whole bytes is one shuffle, and `odd` has 32 bits, so that a lane's product is two
multiplications of 32 bits: nine instructions a vector. Of 9.4 MB in the last cache two threads of
AVX2 take 46 GB/s, where eight scalar lanes took 21.

Where the processor has AES in vectors, lanes are 128 bits and a step is two of its rounds,
`lane = round(round(lane) xor word)`: bijections too, and after two rounds every bit hangs on every
other. The two halves of a lane are folded into 64 bits at the end, where a change of one word is
missed with a chance of 2**-64. 8 MB come at 55 GB/s instead of 43 then, 64 MB, from memory, at 36
instead of 24, and 128 KB take 2 us of one thread instead of 6.

Large weights are cut into chunks of fixed size that threads share; the digest is then that of the
chunks' digests, so it does not depend on how many threads there were.

Of a weight that is watched (konv.runtime.watch) the system is asked whether somebody wrote to it,
and only what cannot be watched is read.
"""

from __future__ import annotations

from konv.kernels.region import emit_entry, emit_units
from konv.kernels.words import Words
from konv.llvm import (
    I8,
    I32,
    I64,
    Function,
    Module,
    Pointer,
    Routine,
    Value,
    Variable,
    pointer_to,
)
from konv.target import Target

CHUNK = 256 * 1024  # bytes; a thread takes 4 to 12 us for one
LANES = 32  # eight vectors of AVX2: their chains of eight cycles overlap
ODD = 0x9E3779B1  # 2**32 over the golden ratio: bits without pattern, and odd
SEED = 0x9E3779B97F4A7C15
ROTATION = 40
AES = "+vaes"
DIGEST_JOB = ("units", "bytes")
# What a watched weight is known by: 1 while it is watched; where it lies; C's getpid and the
# process that watches; C's ioctl and what it is asked with, which says 0 if nothing was written to;
# bytes of all, and of both ends with their digests; the digest of all.
WATCHED = (
    "valid", "data", "getpid", "process", "ioctl", "file", "request", "scan",
    "bytes", "first", "last", "first_is", "last_is", "digest",
)  # fmt: skip


def emit(target: Target) -> Module:
    """Exports digest(data, bytes) for one piece, `run` for all chunks (x: data, y: digests), and
    watched(data, record of WATCHED): the digest of a weight that is what it was, else another.
    """
    module = Module(target, "digest")
    params = [("data", pointer_to(I8)), ("bytes", I64)]
    with module.function("digest", params, I64, exported=True) as (f, (data, size)):
        f.give(_digest(f, data, size))
    piece = f.fn
    _emit_watched(module, piece)

    def work(f: Function, call: Words, thread: Value) -> None:
        job = Words(call.pointer("job", I64), DIGEST_JOB)
        data, out = call.pointer("x", I8), call.pointer("y", I64)

        def body(unit: Value) -> None:
            begin = unit * CHUNK
            out[unit] = f.call(
                piece, [data + begin, f.least(job["bytes"] - begin, f.integer(CHUNK))]
            )

        emit_units(f, call, thread, job["units"], body)

    emit_entry(module, work)
    return module


def _emit_watched(module: Module, digest: Routine) -> None:
    params = [("data", pointer_to(I8)), ("record", pointer_to(I64))]
    with module.function("watched", params, I64, exported=True) as (f, (data, record)):
        known, same = Words(record, WATCHED), f.var(0)
        process, asked = known["process"], [known["file"], known["request"], known["scan"]]
        with f.when(known["valid"].differs(0) & known["data"].equals(data.address())):
            here = f.call_pointer(known.pointer("getpid", I64), I64, [])
            written = f.var(1)
            with f.when(f.shorten(here, I32).equals(f.shorten(process, I32))):
                said = f.call_pointer(known.pointer("ioctl", I64), I64, asked)
                written.set(f.extend(f.shorten(said, I32), I64))
            with f.when(written.get().equals(0)):
                end = data + (known["bytes"] - known["last"])
                first = f.call(digest, [data, known["first"]]) ^ known["first_is"]
                last = f.call(digest, [end, known["last"]]) ^ known["last_is"]
                # Again, as its pages may have been protected anew for another weight meanwhile.
                with f.when((first | last).equals(0) & known["valid"].differs(0)):
                    same.set(1)
        f.give(known["digest"] ^ (1 - same.get()))


def _has_aes(target: Target) -> bool:
    """Whether the processor has AES in vectors of 256 bits."""
    return AES in target.features and target.vector_bytes >= 32


def _digest(f: Function, data: Pointer, size: Value) -> Value:
    words, count, target = data.cast(I64), size >> 3, f.module.target
    lanes, mix = (4, _stir) if _has_aes(target) else (max(1, target.vector_bytes // 8), _mix)
    whole = count & -LANES
    total = f.var(size)
    with f.when(whole > 0):
        each = range(0, LANES, lanes)
        vectors = [f.var_of(_seed(f, n, lanes)) for n in each]
        with f.loop(whole, step=LANES) as i:
            for n, vector in zip(each, vectors, strict=True):
                mix(f, vector, words.vector(i + n, lanes))
        ends = f.array(I64, LANES)
        for n, vector in zip(each, vectors, strict=True):
            ends.put(n, vector.get())
        with f.loop(LANES) as i:
            _mix(f, total, ends[i])
    with f.loop(count, start=whole) as i:
        _mix(f, total, words[i])
    with f.loop(size, start=count * 8) as i:
        _mix(f, total, f.extend(data[i], I64))
    return total.get()


def _seed(f: Function, n: int, lanes: int) -> Value:
    """Another for each vector; the lanes of one are told apart by their order at the end."""
    return f.splat(f.constant(I64, _signed(SEED * (n + 1))), lanes)


def _mix(f: Function, lane: Variable, word: Value) -> None:
    mixed = lane.get() ^ word ^ (word >> 23)
    rotated = (mixed << ROTATION) | (mixed >> (64 - ROTATION))
    odd = f.constant(word.type, ODD)
    low, high = f.extend(f.shorten(rotated, I32), I64), rotated >> 32
    lane.set(low * odd + ((high * odd) << 32))


def _stir(f: Function, lane: Variable, word: Value) -> None:
    """Two rounds of AES for each 128 bits, the word between them."""
    lane.set(f.stir(f.stir(lane.get(), word), f.zero(I64, 4)))


def _signed(number: int) -> int:
    number &= 2**64 - 1
    return number - 2**64 if number >> 63 else number
