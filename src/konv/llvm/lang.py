"""The kernel language: numbers, pointers and variables that read like Python and become LLVM IR.

    value       a number or a vector; + - * // % < <= == & | >> << do what they say, Python numbers
                are lifted
    pointer     p[i] loads, p[i] = v stores, p + i moves, all counted in elements; p.vector(i, n)
                loads n of them
    variable    a mutable local: v.get(), v.set(x), v.add(x); LLVM turns it into a register
    function    `with f.loop(n) as i:`, `with f.when(cond):`, f.fma, f.splat, f.select, f.shuffle,
                f.call

A kernel is written once in Python and unrolled in Python; LLVM is asked to allocate registers and
to schedule, not to guess. Nothing here knows what a convolution is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llvmlite import ir

if TYPE_CHECKING:
    from konv.llvm.numbers import Numbers

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F16, F32, F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()
PTR, VOID = ir.PointerType(), ir.VoidType()
# What numbers of a dtype are in a register.
REAL = {"float32": F32, "float64": F64, "float16": F32, "bfloat16": F32}
INTEGER = {F32: I32, F64: I64}  # as wide as a number
SIZE = {I8: 1, I16: 2, I32: 4, I64: 8, F32: 4, F64: 8, PTR: 8}

Number = int | float
Type = ir.Type  # of a value or an element
Routine = ir.Function  # a function of a module, which other functions of it call


def scalar_type(ty: ir.Type) -> ir.Type:
    """The element type of a vector type; any other type itself."""
    return ty.element if isinstance(ty, ir.VectorType) else ty


def is_real(ty: ir.Type) -> bool:
    """True for floating point numbers and vectors of them."""
    return isinstance(scalar_type(ty), ir.HalfType | ir.FloatType | ir.DoubleType)


class Value:
    """An integer, a real or a vector in a register."""

    __slots__ = ("f", "ir")

    def __init__(self, f: Numbers, value: ir.Value) -> None:
        self.f, self.ir = f, value

    @property
    def type(self) -> ir.Type:
        return self.ir.type

    @property
    def lanes(self) -> int:
        """Lanes of a vector; 0 for a single number."""
        return self.type.count if isinstance(self.type, ir.VectorType) else 0

    def lift(self, other: Value | Number) -> ir.Value:
        """`other` as an IR value of this value's type; a Python number fills every lane."""
        if isinstance(other, Value):
            return other.ir
        if isinstance(self.type, ir.VectorType):
            return ir.Constant(self.type, [other] * self.type.count)
        return ir.Constant(self.type, other)

    def _arith(self, other: Value | Number, integer: str, real: str) -> Value:
        op = getattr(self.f.b, real if is_real(self.type) else integer)
        return Value(self.f, op(self.ir, self.lift(other)))

    def _compare(self, op: str, other: Value | Number) -> Value:
        compare = self.f.b.fcmp_ordered if is_real(self.type) else self.f.b.icmp_signed
        return Value(self.f, compare(op, self.ir, self.lift(other)))

    def __add__(self, other: Value | Number) -> Value:
        if other == 0 and not is_real(self.type):
            return self
        return self._arith(other, "add", "fadd")

    def __sub__(self, other: Value | Number) -> Value:
        return self._arith(other, "sub", "fsub")

    def __mul__(self, other: Value | Number) -> Value:
        if other == 1:
            return self
        return self._arith(other, "mul", "fmul")

    def __truediv__(self, other: Value | Number) -> Value:
        """The quotient of reals."""
        return Value(self.f, self.f.b.fdiv(self.ir, self.lift(other)))

    def __rtruediv__(self, other: Number) -> Value:
        return Value(self.f, self.lift(other)) / self

    def __rsub__(self, other: Number) -> Value:
        return Value(self.f, self.lift(other)) - self

    __radd__, __rmul__ = __add__, __mul__

    def __floordiv__(self, other: Value | int) -> Value:
        """Integer quotient; both sides are never negative where konv uses it."""
        return Value(self.f, self.f.b.sdiv(self.ir, self.lift(other)))

    def __mod__(self, other: Value | int) -> Value:
        return Value(self.f, self.f.b.srem(self.ir, self.lift(other)))

    def __and__(self, other: Value | int) -> Value:
        return Value(self.f, self.f.b.and_(self.ir, self.lift(other)))

    def __or__(self, other: Value | int) -> Value:
        return Value(self.f, self.f.b.or_(self.ir, self.lift(other)))

    def __xor__(self, other: Value | int) -> Value:
        return Value(self.f, self.f.b.xor(self.ir, self.lift(other)))

    def __rshift__(self, other: Value | int) -> Value:
        return Value(self.f, self.f.b.lshr(self.ir, self.lift(other)))

    def __lshift__(self, other: Value | int) -> Value:
        return Value(self.f, self.f.b.shl(self.ir, self.lift(other)))

    def __lt__(self, other: Value | Number) -> Value:
        return self._compare("<", other)

    def __le__(self, other: Value | Number) -> Value:
        return self._compare("<=", other)

    def __gt__(self, other: Value | Number) -> Value:
        return self._compare(">", other)

    def __ge__(self, other: Value | Number) -> Value:
        return self._compare(">=", other)

    def equals(self, other: Value | Number) -> Value:
        """Lane-wise ==; a method, so that Python's own == keeps meaning identity."""
        return self._compare("==", other)

    def differs(self, other: Value | Number) -> Value:
        """Lane-wise != of integers."""
        return self._compare("!=", other)

    def to_pointer(self, element: ir.Type) -> Pointer:
        """This number as an address of elements."""
        return Pointer(self.f, self.f.b.inttoptr(self.ir, PTR), element)


class Pointer(Value):
    """An address of elements of one type; offsets and lengths are counted in elements."""

    __slots__ = ("element",)

    def __init__(self, f: Numbers, value: ir.Value, element: ir.Type) -> None:
        super().__init__(f, value)
        self.element = element

    def __add__(self, offset: Value | Number) -> Pointer:
        if isinstance(offset, int) and offset == 0:
            return self
        index = offset.ir if isinstance(offset, Value) else I64(offset)
        moved = self.f.b.gep(self.ir, [index], source_etype=self.element)
        return Pointer(self.f, moved, self.element)

    def cast(self, element: ir.Type) -> Pointer:
        """The same address, seen as elements of another type."""
        return Pointer(self.f, self.ir, element)

    def __getitem__(self, index: Value | int) -> Value:
        loaded = self.f.b.load((self + index).ir, align=SIZE[self.element], typ=self.element)
        return Value(self.f, loaded)

    def __setitem__(self, index: Value | int, value: Value | Number) -> None:
        if not isinstance(value, Value):
            value = Value(self.f, ir.Constant(self.element, value))
        self.f.b.store(value.ir, (self + index).ir, align=SIZE[self.element])

    def pointer(self, index: Value | int, element: ir.Type) -> Pointer:
        """The address stored at `index` of an array of addresses."""
        address = self.f.b.load((self + index).ir, align=8, typ=PTR)
        return Pointer(self.f, address, element)

    def address(self) -> Value:
        """The address as a number."""
        return Value(self.f, self.f.b.ptrtoint(self.ir, I64))

    def vector(self, index: Value | int, lanes: int) -> Value:
        """Load `lanes` elements from `index` on; no alignment beyond the element's is assumed."""
        ty = ir.VectorType(self.element, lanes)
        return Value(self.f, self.f.b.load((self + index).ir, align=SIZE[self.element], typ=ty))

    def put(self, index: Value | int, value: Value) -> None:
        """Store a vector from `index` on."""
        self.f.b.store(value.ir, (self + index).ir, align=SIZE[self.element])


class Variable:
    """A mutable local. It stands on the stack in the IR; LLVM's SROA makes a register of it."""

    __slots__ = ("f", "slot", "type")

    def __init__(self, f: Numbers, initial: Value) -> None:
        self.f, self.type = f, initial.type
        with f.b.goto_entry_block():
            self.slot = f.b.alloca(self.type)
        self.set(initial)

    def get(self) -> Value:
        return Value(self.f, self.f.b.load(self.slot, typ=self.type))

    def set(self, value: Value | Number) -> None:
        if not isinstance(value, Value):
            value = Value(self.f, ir.Constant(self.type, value))
        self.f.b.store(value.ir, self.slot)

    def add(self, value: Value | Number) -> None:
        self.set(self.get() + value)
