"""Types of LLVM's language, and operands: what stands in its text for a value of a type.

The text is written here and in konv.llvm.builder, with no objects for single instructions: those of
llvmlite.ir took half of the time that a kernel takes to become machine code.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from operator import index

Number = int | float


class Type:
    """A type of LLVM. A vector has `count` lanes of its `element`; any other type has 0, and is its
    own element. Each is made once, so that `==` is identity.
    """

    __slots__ = ("count", "element", "real", "text")

    def __init__(self, text: str, real: bool = False, element: Type | None = None, count: int = 0):
        self.text, self.real, self.count = text, real, count
        self.element: Type = element or self

    def __str__(self) -> str:
        return self.text

    def __call__(self, number: Number) -> Operand:
        """A number of this type; of a vector, in every lane."""
        text = _literal(self.element, number)
        return _lanes(self, [text] * self.count) if self.count else Operand(self, text)

    def each(self, numbers: Sequence[Number]) -> Operand:
        """A number for each lane of a vector."""
        return _lanes(self, [_literal(self.element, number) for number in numbers])

    @property
    def undefined(self) -> Operand:
        """Any value whatever."""
        return Operand(self, "undef")


class Operand:
    """What an instruction takes: a name or a number in LLVM's text, and its type."""

    __slots__ = ("text", "type")

    def __init__(self, ty: Type, text: str) -> None:
        self.type, self.text = ty, text

    def __str__(self) -> str:
        return f"{self.type.text} {self.text}"


@cache
def vector(element: Type, lanes: int) -> Type:
    """The type of so many elements, side by side."""
    return Type(f"<{lanes} x {element.text}>", element.real, element, lanes)


def like(ty: Type, element: Type) -> Type:
    """The type with as many lanes, of other elements."""
    return vector(element, ty.count) if ty.count else element


I1, I8, I16, I32, I64 = (Type(f"i{bits}") for bits in (1, 8, 16, 32, 64))
F16, F32, F64 = (Type(name, real=True) for name in ("half", "float", "double"))
PTR, VOID = Type("ptr"), Type("void")
_STORED = {F16: "<e", F32: "<f", F64: "<d"}


def _lanes(ty: Type, texts: Sequence[str]) -> Operand:
    element = ty.element.text
    return Operand(ty, "<" + ", ".join([f"{element} {text}" for text in texts]) + ">")


def _literal(ty: Type, number: Number) -> str:
    """Reals by the bits of the double that is equal to them, when rounded to their type."""
    if not ty.real:
        return str(index(number))  # type: ignore[arg-type]  # which a real number fails
    stored = _STORED[ty]
    rounded = struct.unpack(stored, struct.pack(stored, number))[0]
    return f"{struct.unpack('<Q', struct.pack('<d', rounded))[0]:#018x}"
