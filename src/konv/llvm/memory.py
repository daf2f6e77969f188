"""Memory: parts of vectors in and out, the stack, copies, and what LLVM may know of it."""

from __future__ import annotations

from llvmlite import ir

from konv.llvm.lanes import Lanes
from konv.llvm.lang import I1, I8, I32, I64, PTR, SIZE, Pointer, Value
from konv.llvm.numbers import suffix


class Memory(Lanes):
    """What a function under construction does with memory, besides loads and stores of Pointers."""

    def array(self, element: ir.Type, count: int, align: int = 64) -> Pointer:
        """`count` elements on the stack, reserved once when the function is entered."""
        with self.b.goto_entry_block():
            slot = self.b.alloca(ir.ArrayType(element, count))
            slot.align = align
        slot.type = PTR  # llvmlite still types what alloca returns
        return Pointer(self, slot, element)

    def select_pointer(self, condition: Value, yes: Pointer, no: Pointer) -> Pointer:
        """One of two addresses of the same elements."""
        return Pointer(self, self.b.select(condition.ir, yes.ir, no.ir), yes.element)

    def store_first(self, p: Pointer, index: Value | int, value: Value, count: int) -> None:
        """Store the first `count` lanes of a vector and touch nothing behind them."""
        ty, mask = self._mask(value.type.count, count)
        intrinsic = self.module.declare(
            f"llvm.masked.store.{suffix(value.type)}.p0", ir.VoidType(), [value.type, PTR, I32, ty]
        )
        self.b.call(intrinsic, [value.ir, (p + index).ir, I32(SIZE[p.element]), mask])

    def load_first(self, p: Pointer, index: Value | int, lanes: int, count: int) -> Value:
        """Load a vector whose first `count` lanes come from memory, touch nothing behind them; the
        rest are 0.
        """
        vector = ir.VectorType(p.element, lanes)
        ty, mask = self._mask(lanes, count)
        intrinsic = self.module.declare(
            f"llvm.masked.load.{suffix(vector)}.p0", vector, [PTR, I32, ty, vector]
        )
        zero = self.zero(p.element, lanes)
        arguments = [(p + index).ir, I32(SIZE[p.element]), mask, zero.ir]
        return Value(self, self.b.call(intrinsic, arguments))

    def store_masked(self, p: Pointer, value: Value, mask: Value) -> None:
        """Store the lanes of a mask and touch no other."""
        intrinsic = self.module.declare(
            f"llvm.masked.store.{suffix(value.type)}.p0",
            ir.VoidType(),
            [value.type, PTR, I32, mask.type],
        )
        self.b.call(intrinsic, [value.ir, p.ir, I32(SIZE[p.element]), mask.ir])

    def load_masked(self, p: Pointer, mask: Value) -> Value:
        """Load the lanes of a mask and touch no other; those are 0."""
        vector = ir.VectorType(p.element, mask.type.count)
        intrinsic = self.module.declare(
            f"llvm.masked.load.{suffix(vector)}.p0", vector, [PTR, I32, mask.type, vector]
        )
        zero = self.zero(p.element, mask.type.count)
        return Value(self, self.b.call(intrinsic, [p.ir, I32(SIZE[p.element]), mask.ir, zero.ir]))

    def _mask(self, lanes: int, count: int) -> tuple[ir.Type, ir.Value]:
        ty = ir.VectorType(I1, lanes)
        return ty, ir.Constant(ty, [lane < count for lane in range(lanes)])

    def prefetch(self, p: Pointer, write: bool = False) -> None:
        """Ask for the cache line at an address, perhaps to write it; no address is wrong."""
        intrinsic = self.module.declare("llvm.prefetch.p0", ir.VoidType(), [PTR, I32, I32, I32])
        self.b.call(intrinsic, [p.ir, I32(int(write)), I32(3), I32(1)])

    def now(self, value: Value) -> Value:
        """The same vector, computed before anything behind this is loaded: LLVM loads early, and
        spills what then finds no register.
        """
        register = "w" if self.module.target.arch == "aarch64" else "v"
        ty, constraints = ir.FunctionType(value.type, [value.type]), f"={register},0,~{{memory}}"
        return Value(self, self.b.asm(ty, "", constraints, [value.ir], True))

    def opaque(self, p: Pointer) -> Pointer:
        """The same address, of which LLVM knows no more: what is computed from it is computed where
        it is used, and kept in no register from one turn of a loop to the next.
        """
        same = self.b.asm(ir.FunctionType(PTR, [PTR]), "", "=r,0", [p.ir], False)
        return Pointer(self, same, p.element)

    def after(self, p: Pointer, value: Value) -> Pointer:
        """The same address, of which LLVM knows no more, and that is there when a vector is: what
        is loaded from it is not loaded early, where it would take a register.
        """
        register = "w" if self.module.target.arch == "aarch64" else "v"
        ty = ir.FunctionType(PTR, [PTR, value.type])
        same = self.b.asm(ty, "", f"=r,0,{register}", [p.ir, value.ir], False)
        return Pointer(self, same, p.element)

    def copy(self, to: Pointer, source: Pointer, count: Value) -> None:
        """memcpy of `count` elements."""
        size = count * SIZE[to.element]
        params = [PTR, PTR, I64, I1]
        intrinsic = self.module.declare("llvm.memcpy.p0.p0.i64", ir.VoidType(), params)
        self.b.call(intrinsic, [to.ir, source.ir, size.ir, I1(0)])

    def clear(self, to: Pointer, count: Value) -> None:
        """memset of `count` elements to zero."""
        size = count * SIZE[to.element]
        intrinsic = self.module.declare("llvm.memset.p0.i64", ir.VoidType(), [PTR, I8, I64, I1])
        self.b.call(intrinsic, [to.ir, I8(0), size.ir, I1(0)])
