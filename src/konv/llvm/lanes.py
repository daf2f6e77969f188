"""Lanes of vectors: filled, chosen, told apart by masks."""

from __future__ import annotations

from collections.abc import Sequence

from konv.llvm.lang import Value
from konv.llvm.numbers import Numbers
from konv.llvm.types import I32, Operand, Type, vector


class Lanes(Numbers):
    """What a function under construction does with the lanes of vectors."""

    def stir(self, state: Value, words: Value) -> Value:
        """A round of AES on each 128 bits of four 64-bit lanes, then xor with words: a bijection of
        either. Only for targets with vaes.
        """
        ty = state.type
        round_of_aes = self.module.declare("llvm.x86.aesni.aesenc.256", ty, [ty, ty])
        return Value(self, self.b.call(round_of_aes, [state.ir, words.ir]))

    def zero(self, element: Type, lanes: int) -> Value:
        return Value(self, vector(element, lanes)(0))

    def splat(self, x: Value, lanes: int) -> Value:
        """One number in every lane."""
        first = self.b.insert_element(vector(x.type, lanes).undefined, x.ir, I32(0))
        return self.shuffle(Value(self, first), Value(self, first), [0] * lanes)

    def shuffle(self, a: Value, b: Value, lanes: Sequence[int]) -> Value:
        """Lanes chosen from a (0..n-1) and b (n..2n-1)."""
        return Value(self, self.b.shuffle(a.ir, b.ir, lanes))

    def join(self, parts: Sequence[Value]) -> Value:
        """Vectors of one length one after the other as a single one; 1, 2, 4, ... of them."""
        if len(parts) == 1:
            return parts[0]
        lanes = range(2 * parts[0].type.count)
        pairs = zip(parts[::2], parts[1::2], strict=True)
        return self.join([self.shuffle(a, b, lanes) for a, b in pairs])

    def split(self, value: Value, parts: int) -> list[Value]:
        """The inverse of `join`."""
        lanes = value.type.count // parts
        every = [range(i * lanes, (i + 1) * lanes) for i in range(parts)]
        return [self.shuffle(value, value, lanes) for lanes in every] if parts > 1 else [value]

    def between(self, lanes: int, first: Value | int, end: Value | int) -> Value:
        """Which lanes are counted from `first` up to `end`: a mask made when the code runs. Both
        may lie beyond all lanes.
        """
        order = vector(I32, lanes).each(range(lanes))

        def compared(op: str, bound: Value | int) -> Operand:
            capped = self.least(self.most(self.integer(bound), 0), lanes)
            each = self.splat(Value(self, self.b.convert("trunc", capped.ir, I32)), lanes)
            return self.b.compare(op, order, each.ir)

        below = compared("<", end)
        if isinstance(first, int) and first <= 0:
            return Value(self, below)
        return Value(self, self.b.binary("and", compared(">=", first), below))

    def below(self, count: Value, lanes: int) -> Value:
        """A mask of the first `count` lanes, a number below 2**31 known when the code runs."""
        wanted = self.splat(Value(self, self.b.convert("trunc", count.ir, I32)), lanes)
        numbers = vector(I32, lanes).each(range(lanes))
        return Value(self, numbers) < wanted

    def inside(self, first: Value, end: Value, lanes: int) -> Value:
        """A mask of the lanes for which 0 <= first + lane < end; all below 2**31."""
        return self.counted(self.splat_low(first, lanes), 0, 0) < self.splat_low(end, lanes)

    def splat_low(self, x: Value, lanes: int) -> Value:
        """A number of 31 bits, less 2**31, in every lane: compared as signed numbers these stand as
        unsigned ones do, for which AVX2 has no comparison.
        """
        return self.splat(Value(self, self.b.convert("trunc", x.ir, I32)) + -(2**31), lanes)

    def counted(self, first: Value, by: Value | int, more: int) -> Value:
        """`first`, 32 bits a lane, plus `by` plus `more` plus each lane's number."""
        lanes, known = first.type.count, by if isinstance(by, int) else 0
        numbers = vector(I32, lanes).each([known + more + lane for lane in range(lanes)])
        if isinstance(by, Value):
            first = first + self.splat(Value(self, self.b.convert("trunc", by.ir, I32)), lanes)
        return first + Value(self, numbers)

    def below_unsigned(self, a: Value, b: Value) -> Value:
        """0 <= a < b in one comparison, for b that is not negative."""
        return Value(self, self.b.compare("<", a.ir, b.ir, signed=False))
