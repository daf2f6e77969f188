"""Numbers as they lie in memory, and as they are computed with.

float32 and float64 are the same in both. float16 and bfloat16 are stored only: they become float32
where data is moved anyway (images and weights as they are packed, the residual as it is added), and
a result is rounded once, to the nearest and even of two, where it is stored. Inner loops never see
them. In memory they are 16-bit integers, for LLVM's Python binding knows no bfloat16.

bfloat16 is the upper half of a float32. float16 has denormals and overflows, which processors with
F16C and all of ARMv8 convert themselves, whatever the flush-to-zero of float32 (its denormals are
normal there); elsewhere LLVM would call a function of its own run-time library, which is not there,
so it is done by integer arithmetic. NaN stays NaN, infinity infinity, and what is too large
becomes infinity.
"""

from __future__ import annotations

from konv.llvm import F16, F32, I16, I32, REAL, Function, Pointer, Type, Value
from konv.target import Target

HALVES = ("float16", "bfloat16")
_SIGN, _INFINITY = 0x8000, 0x7F800000
_NAN_16, _INFINITY_16 = 0x7E00, 0x7C00
_REBIAS = (127 - 15) << 23  # from an exponent of float16 to one of float32
_NORMAL_16 = 0x38800000  # 2**-14 in float32, the smallest normal number of float16
_TOO_LARGE_16 = 0x477FF000  # 65520, which rounds to infinity


def element(dtype: str) -> Type:
    """What a number of this dtype is in memory."""
    return I16 if dtype in HALVES else REAL[dtype]


def read(f: Function, dtype: str, place: Pointer, lanes: int = 0, count: int = 0) -> Value:
    """A number (lanes 0) or a vector from memory, as it is computed with.

    `count`: so many lanes are in memory, the rest are 0; 0: all are. The place may hold numbers as
    they are computed with, too: a pointer knows.
    """
    if not lanes:
        value = place[0]
    elif count:
        value = f.load_first(place, 0, lanes, count)
    else:
        value = place.vector(0, lanes)
    return widened(f, dtype, value) if place.element == I16 else value


def write(f: Function, dtype: str, place: Pointer, value: Value, count: int = 0) -> None:
    """Store a number or a vector, or the first `count` lanes of it."""
    if place.element == I16:
        value = narrowed(f, dtype, value)
    if not value.lanes:
        place[0] = value
    elif count:
        f.store_first(place, 0, value, count)
    else:
        place.put(0, value)


def converts_float16(target: Target) -> bool:
    """Whether a processor has instructions for it: all that have multiply-add do, unless they say
    no.
    """
    return target.arch == "aarch64" or (target.vector_bytes > 16 and "-f16c" not in target.features)


def widened(f: Function, dtype: str, bits: Value) -> Value:
    """float32 of 16-bit patterns."""
    if dtype == "bfloat16":
        return f.bits(f.extend(bits, I32) << 16, F32)
    if converts_float16(f.module.target):
        return f.extend(f.bits(bits, F16), F32)
    wide = f.extend(bits, I32)
    size = wide & 0x7FFF
    normal = (size << 13) + _REBIAS
    normal = f.select(size < _INFINITY_16, normal, normal + _REBIAS)
    tiny = f.bits(f.to_real(size, F32) * 2.0**-24, I32)
    return f.bits(f.select(size < 0x400, tiny, normal) | ((wide & _SIGN) << 16), F32)


def narrowed(f: Function, dtype: str, value: Value) -> Value:
    """16-bit patterns of float32, rounded to nearest, ties to even."""
    if dtype == "float16" and converts_float16(f.module.target):
        return f.bits(f.shorten(value, F16), I16)
    bits = f.bits(value, I32)
    size = bits & 0x7FFFFFFF
    if dtype == "bfloat16":
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        quiet = (bits >> 16) | 0x40
        return f.shorten(f.select(size > _INFINITY, quiet, rounded), I16)
    rebased = size - _REBIAS
    normal = (rebased + 0xFFF + ((rebased >> 13) & 1)) >> 13
    # Added to a half, a number below 2**-14 keeps multiples of 2**-24 of itself: its denormal.
    half = f.constant(value.type, 0.5)
    tiny = f.bits(f.bits(size, F32) + half, I32) - f.bits(half, I32)
    found = f.select(size < _NORMAL_16, tiny, normal)
    found = f.select(size < _TOO_LARGE_16, found, f.constant(found.type, _INFINITY_16))
    found = f.select(size > _INFINITY, f.constant(found.type, _NAN_16), found)
    return f.shorten(found | ((bits >> 16) & _SIGN), I16)
