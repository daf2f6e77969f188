"""Named words that several threads read and write at once.

Everything is sequentially consistent. On x86 only `put` costs more for it (an exchange, 20 cycles),
and the protocol that is built on it (konv.kernels.pool) need not be argued about order by order.
"""

from __future__ import annotations

from typing import Any

from konv.kernels.words import Words
from konv.llvm import I64, Value

ORDER = "seq_cst"


class Shared(Words):
    """Words with access in one step; the plain access of Words is there too."""

    def get(self, name: str) -> Value:
        f = self.base.f
        return Value(f, f.b.load_atomic(self._address(name), ORDER))

    def put(self, name: str, value: int) -> None:
        self.base.f.b.atomic_rmw("xchg", self._address(name), I64(value), ORDER)

    def add(self, name: str, number: Value) -> Value:
        """Add to a word; what it is now."""
        f = self.base.f
        return Value(f, f.b.atomic_rmw("add", self._address(name), number.ir, ORDER)) + number

    def turn(self, name: str, old: int, new: int) -> Value:
        """Turn a word from `old` to `new`; whether it was `old`."""
        f = self.base.f
        return Value(f, f.b.exchange(self._address(name), I64(old), I64(new), ORDER))

    def _address(self, name: str) -> Any:
        return (self.base + self.index[name]).ir
