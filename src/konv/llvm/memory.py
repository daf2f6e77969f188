"""Memory: parts of vectors in and out, the stack, copies, and what LLVM may know of it."""

from __future__ import annotations

from typing import Any

from konv.llvm.builder import Routine
from konv.llvm.lanes import Lanes
from konv.llvm.lang import SIZE, Pointer, Value
from konv.llvm.numbers import suffix
from konv.llvm.types import I1, I8, I32, I64, PTR, VOID, Operand, Type, vector


class Memory(Lanes):
    """What a function under construction does with memory, besides loads and stores of Pointers."""

    def array(self, element: Type, count: int, align: int = 64) -> Pointer:
        """`count` elements on the stack, reserved once when the function is entered."""
        with self.b.at_entry():
            return Pointer(self, self.b.reserve(f"[{count} x {element}]", align), element)

    def select_pointer(self, condition: Value, yes: Pointer, no: Pointer) -> Pointer:
        """One of two addresses of the same elements."""
        return Pointer(self, self.b.select(condition.ir, yes.ir, no.ir), yes.element)

    def store_first(self, p: Pointer, index: Value | int, value: Value, count: int) -> None:
        """Store the first `count` lanes of a vector and touch nothing behind them.

        One lane as a number: LLVM 22 stores 4 bytes of 16-bit integers cut from 32 bits where the
        mask has one constant lane (AVX-512).
        """
        if count == 1:
            p[index] = Value(self, self.b.extract_element(value.ir, I32(0)))
            return
        ty, mask = self._mask(value.type.count, count)
        intrinsic = self.module.declare(
            f"llvm.masked.store.{suffix(value.type)}.p0", VOID, [value.type, PTR, I32, ty]
        )
        self.b.call(intrinsic, [value.ir, (p + index).ir, I32(SIZE[p.element]), mask])

    def load_first(self, p: Pointer, index: Value | int, lanes: int, count: int) -> Value:
        """Load a vector whose first `count` lanes come from memory, touch nothing behind them; the
        rest are 0.
        """
        ty = vector(p.element, lanes)
        bits, mask = self._mask(lanes, count)
        intrinsic = self.module.declare(
            f"llvm.masked.load.{suffix(ty)}.p0", ty, [PTR, I32, bits, ty]
        )
        zero = self.zero(p.element, lanes)
        arguments = [(p + index).ir, I32(SIZE[p.element]), mask, zero.ir]
        return Value(self, self.b.call(intrinsic, arguments))

    def store_masked(self, p: Pointer, value: Value, mask: Value) -> None:
        """Store the lanes of a mask and touch no other."""
        intrinsic = self.module.declare(
            f"llvm.masked.store.{suffix(value.type)}.p0",
            VOID,
            [value.type, PTR, I32, mask.type],
        )
        self.b.call(intrinsic, [value.ir, p.ir, I32(SIZE[p.element]), mask.ir])

    def load_masked(self, p: Pointer, mask: Value) -> Value:
        """Load the lanes of a mask and touch no other; those are 0."""
        ty = vector(p.element, mask.type.count)
        intrinsic = self.module.declare(
            f"llvm.masked.load.{suffix(ty)}.p0", ty, [PTR, I32, mask.type, ty]
        )
        zero = self.zero(p.element, mask.type.count)
        return Value(self, self.b.call(intrinsic, [p.ir, I32(SIZE[p.element]), mask.ir, zero.ir]))

    def _mask(self, lanes: int, count: int) -> tuple[Type, Operand]:
        ty = vector(I1, lanes)
        return ty, ty.each([lane < count for lane in range(lanes)])

    def stream(self, p: Pointer, index: Value | int, value: Value) -> None:
        """Store a vector past the caches, to an address that is a multiple of its size: whole lines
        are not read from memory before they are written. Other threads see it behind a `fence`.
        """
        size = value.lanes * SIZE[p.element]
        self.b.store(value.ir, (p + index).ir, size, streams=True)

    def fence(self) -> None:
        """Let all that is stored before this, streams too, be seen before what is stored behind."""
        self.b.fence()

    def prefetch(self, p: Pointer, write: bool = False, level: int = 1) -> None:
        """Ask for the cache line at an address, perhaps to write it, into the cache of a level and
        those behind it; no address is wrong.
        """
        intrinsic = self.module.declare("llvm.prefetch.p0", VOID, [PTR, I32, I32, I32])
        self.b.call(intrinsic, [p.ir, I32(int(write)), I32(4 - level), I32(1)])

    def now(self, value: Value) -> Value:
        """The same vector, computed before anything behind this is loaded: LLVM loads early, and
        spills what then finds no register.
        """
        register = "w" if self.module.target.arch == "aarch64" else "v"
        nothing = f'asm sideeffect "", "={register},0,~{{memory}}"'
        return Value(self, self.b.call_at(nothing, value.type, [value.ir]))

    def opaque(self, p: Pointer) -> Pointer:
        """The same address, of which LLVM knows no more: what is computed from it is computed where
        it is used, and kept in no register from one turn of a loop to the next.
        """
        return Pointer(self, self.b.call_at('asm "", "=r,0"', PTR, [p.ir]), p.element)

    def after(self, p: Pointer, value: Value) -> Pointer:
        """The same address, of which LLVM knows no more, and that is there when a vector is: what
        is loaded from it is not loaded early, where it would take a register.
        """
        register = "w" if self.module.target.arch == "aarch64" else "v"
        same = self.b.call_at(f'asm "", "=r,0,{register}"', PTR, [p.ir, value.ir])
        return Pointer(self, same, p.element)

    def copy(self, to: Pointer, source: Pointer, count: Value) -> None:
        """Copy `count` elements to where none of them lies."""
        size = count * SIZE[to.element]
        self.b.call(self._outside("copy_bytes", 2), [to.ir, source.ir, size.ir])

    def clear(self, to: Pointer, count: Value) -> None:
        """memset of `count` elements to zero."""
        size = count * SIZE[to.element]
        if self.fn.cold or self.fn.plain:
            self.b.call(self._outside("clear_bytes", 1), [to.ir, size.ir])
            return
        intrinsic = self.module.declare("llvm.memset.p0.i64", VOID, [PTR, I8, I64, I1])
        self.b.call(intrinsic, [to.ir, I8(0), size.ir, I1(0)])

    def _outside(self, name: str, pointers: int) -> Routine:
        """The module's own function that copies or clears bytes: where LLVM chooses quickly it
        calls memset as if that stood near.
        """
        found = self.module.routines.get(name)
        if found is None:
            params = [*((f"p{i}", PTR) for i in range(pointers)), ("size", I64)]
            with self.module.function(name, params, inline=False) as (g, (*ends, size)):
                places = [Pointer(g, end.ir, I8) for end in ends]
                if pointers == 1:
                    g.clear(places[0], size)
                else:
                    _emit_copy(g, places[0], places[1], size)
            found = g.fn
        return found


def _emit_copy(g: Any, to: Pointer, source: Pointer, size: Value) -> None:
    """A function's body: `size` bytes, by whole vectors to multiples of their size.

    The C library's memcpy copies more than 2 KB by `rep movsb` on some processors, which takes
    three times as long to places that are no multiple of 32 bytes, such as those behind a pixel of
    padding: 12 KB in 1.1 us instead of 0.35 (Zen 3, glibc). Few bytes are left to it.
    """
    target = g.module.target
    wide = target.vector_bytes

    def move(at: Value | int) -> None:
        to.put(at, source.vector(at, wide))

    with g.choose(size >= 4 * wide) as (vectors, few):
        with vectors:
            move(0)
            head = (0 - to.address()) & (wide - 1)
            end = head + ((size - head) & -(4 * wide))
            with g.loop(end, start=head, step=4 * wide) as i:
                for n in range(4):
                    move(i + n * wide)
            with g.loop(size - (wide - 1), start=end, step=wide) as i:
                move(i)
            move(size - wide)
        with few:
            params = [PTR, PTR, I64, I1]
            intrinsic = g.module.declare("llvm.memcpy.p0.p0.i64", VOID, params)
            g.b.call(intrinsic, [to.ir, source.ir, size.ir, I1(0)])
