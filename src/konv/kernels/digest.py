"""A 64-bit digest of a weight, taken at memory speed, to know whether its packed copy is still
true.

Eight lanes of `lane = rotate(lane xor word, 31) * odd`, one for each of eight neighbouring words.
Every step is a bijection of the lane, so a change of one word always changes the digest; the
rotation brings high bits (signs and exponents) down to where the multiplication spreads them, so
that a change of sign everywhere, which xor and multiply alone would miss, is seen too. Each word is
folded first, `word xor (word >> 23)`, lest the change of one number undo that of another: without
it, 1 to -1 and 0 to 2 seventeen floats later went unseen every second time (it costs an eighth of
the speed). Different contents collide with a chance of 2**-64 or so; it is no defence against
someone who constructs a collision in his own weights.

Large weights are cut into chunks of fixed size that threads share; the digest is then that of the
chunks' digests, so it does not depend on how many threads there were.
"""

from __future__ import annotations

from konv.kernels.region import emit_entry, emit_units
from konv.kernels.words import Words
from konv.llvm import I8, I64, Function, Module, Pointer, Value, Variable, pointer_to
from konv.target import Target

CHUNK = 128 * 1024  # bytes; a thread takes about 6 us for one
LANES = 8
ODD = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio: bits without pattern, and odd
DIGEST_JOB = ("units", "bytes")


def emit(target: Target) -> Module:
    """Exports digest(data, bytes) for one piece and `run` for all chunks (x: data, y: digests)."""
    module = Module(target, "digest")
    params = [("data", pointer_to(I8)), ("bytes", I64)]
    with module.function("digest", params, I64, exported=True) as (f, (data, size)):
        f.give(_digest(f, data, size))
    piece = f.fn

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


def _digest(f: Function, data: Pointer, size: Value) -> Value:
    lanes = [f.var(_signed(ODD * (2 * i + 1))) for i in range(LANES)]
    words, count = data.cast(I64), size >> 3
    whole = count & -LANES
    with f.loop(whole, step=LANES) as i:
        for n, lane in enumerate(lanes):
            _mix(f, lane, words[i + n])
    total = f.var(size)
    with f.loop(count, start=whole) as i:
        _mix(f, total, words[i])
    with f.loop(size, start=count * 8) as i:
        byte = Value(f, f.b.zext(data[i].ir, I64))
        _mix(f, total, byte)
    for lane in lanes:
        _mix(f, total, lane.get())
    return total.get()


def _mix(f: Function, lane: Variable, word: Value) -> None:
    mixed = lane.get() ^ word ^ (word >> 23)
    rotated = (mixed << 31) | (mixed >> 33)
    lane.set(rotated * f.constant(I64, _signed(ODD)))


def _signed(number: int) -> int:
    number &= 2**64 - 1
    return number - 2**64 if number >> 63 else number
