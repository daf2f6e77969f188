"""LLVM's instructions as text: blocks of a routine, and the builder that writes into them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from konv.llvm.types import I1, I32, I64, PTR, VOID, Operand, Type, like, vector

_SIGNED = {"<": "slt", "<=": "sle", ">": "sgt", ">=": "sge", "==": "eq", "!=": "ne"}
_UNSIGNED = {"<": "ult", "<=": "ule", ">": "ugt", ">=": "uge"}
_ORDERED = {"<": "olt", "<=": "ole", ">": "ogt", ">=": "oge", "==": "oeq", "!=": "one"}

# Its address is loaded where it is called: 32 bits in the code may not reach it, for what is
# compiled apart may come to stand beyond 2 GB from there.
FAR = " nonlazybind"


class Block:
    """Straight code under a label; `end` is the instruction that leaves it, once there is one.

    known     what variables hold here, by their places on the stack
    unsaved   those of them that go there before the block is left
    """

    __slots__ = ("end", "known", "label", "lines", "unsaved")

    def __init__(self, label: str) -> None:
        self.label, self.end = label, ""
        self.lines: list[str] = []
        self.known: dict[str, Operand] = {}
        self.unsaved: dict[str, Operand] = {}

    def leave(self, end: str) -> None:
        """End with an instruction that goes elsewhere."""
        self.lines += [f"store {value}, ptr {slot}" for slot, value in self.unsaved.items()]
        self.end = end

    def __str__(self) -> str:
        return "\n  ".join([f"{self.label}:", *self.lines, self.end])


class Routine:
    """A function of a module, which other functions of it call; without blocks it is declared only.

    `inline` True has LLVM inline it everywhere, False forbids it. `cold`: it runs so seldom that
    LLVM had better be quick than thorough. `plain`: it runs often, but not for each product, so
    instructions are chosen quickly, and registers with care (konv.llvm.build.make_plain).
    """

    def __init__(
        self,
        name: str,
        returns: Type,
        params: Sequence[Operand],
        exported: bool = False,
        inline: bool | None = None,
        cold: bool = False,
        plain: bool = False,
    ) -> None:
        self.name, self.returns, self.params = name, returns, tuple(params)
        self.exported, self.inline, self.cold, self.plain = exported, inline, cold, plain
        self.blocks: list[Block] = []
        self.uses: dict[str, Routine] = {}  # what it calls or knows the address of
        self._names = 0

    def fresh(self) -> int:
        """A number that no value and no block of this routine has."""
        self._names += 1
        return self._names

    def block(self, label: str) -> Block:
        """A new block behind the others."""
        added = Block(f"{label}.{self.fresh()}")
        self.blocks.append(added)
        return added

    @property
    def size(self) -> int:
        """How many instructions it has."""
        return sum(len(block.lines) + 1 for block in self.blocks)

    def declared(self) -> str:
        """For code that calls it and is compiled apart."""
        types = ", ".join([param.type.text for param in self.params])
        return f"declare {self.returns} @{self.name}({types}){FAR if self.blocks else ''}"

    def defined(self, apart: bool = False) -> str:
        """With all its code; `apart`: for other code that is compiled apart."""
        seen = "" if self.exported or apart else "internal "
        begin = f"define {seen}{self.returns} @{self.name}({', '.join(map(str, self.params))})"
        tail = {None: "", True: " alwaysinline", False: " noinline"}[self.inline]
        tail += FAR if apart else ""
        return "\n".join([f"{begin} nounwind{tail} {{", *map(str, self.blocks), "}"])


class Builder:
    """Writes instructions at the end of a block. Types are LLVM's to check."""

    def __init__(self, routine: Routine) -> None:
        self.routine = routine
        self.entry = self.block = routine.block("entry")

    def write(self, ty: Type, text: str) -> Operand:
        """An instruction that gives a value, under a name of its own."""
        name = f"%.{self.routine.fresh()}"
        self.block.lines.append(f"{name} = {text}")
        return Operand(ty, name)

    # Where to write.

    @contextmanager
    def at_entry(self) -> Iterator[None]:
        """What is written meanwhile is done once, when the routine is entered."""
        before, self.block = self.block, self.entry
        yield
        self.block = before

    def branch(self, to: Block) -> None:
        self.block.leave(f"br label %{to.label}")

    def fork(self, condition: Operand, yes: Block, no: Block) -> None:
        self.block.leave(f"br {condition}, label %{yes.label}, label %{no.label}")

    def give(self, value: Operand | None) -> None:
        """Return from the routine."""
        self.block.leave(f"ret {value or VOID}")

    # Numbers.

    def binary(self, op: str, a: Operand, b: Operand) -> Operand:
        return self.write(a.type, f"{op} {a}, {b.text}")

    def compare(self, op: str, a: Operand, b: Operand, signed: bool = True) -> Operand:
        result = like(a.type, I1)
        if a.type.real:
            return self.write(result, f"fcmp {_ORDERED[op]} {a}, {b.text}")
        return self.write(result, f"icmp {(_SIGNED if signed else _UNSIGNED)[op]} {a}, {b.text}")

    def convert(self, op: str, a: Operand, to: Type) -> Operand:
        """trunc, zext, sext, fptrunc, fpext, sitofp, bitcast, ptrtoint or inttoptr."""
        return a if a.type is to else self.write(to, f"{op} {a} to {to}")

    def select(self, condition: Operand, yes: Operand, no: Operand) -> Operand:
        return self.write(yes.type, f"select {condition}, {yes}, {no}")

    # Lanes.

    def extract_element(self, lanes: Operand, lane: Operand) -> Operand:
        return self.write(lanes.type.element, f"extractelement {lanes}, {lane}")

    def insert_element(self, lanes: Operand, value: Operand, lane: Operand) -> Operand:
        return self.write(lanes.type, f"insertelement {lanes}, {value}, {lane}")

    def shuffle(self, a: Operand, b: Operand, lanes: Sequence[int]) -> Operand:
        """Lanes chosen from a (0..n-1) and b (n..2n-1)."""
        ty, mask = vector(a.type.element, len(lanes)), vector(I32, len(lanes)).each(lanes)
        return self.write(ty, f"shufflevector {a}, {b}, {mask}")

    # Memory.

    def reserve(self, ty: str, align: int = 0) -> Operand:
        """Room on the stack, given back when the routine returns."""
        return self.write(PTR, f"alloca {ty}, align {align}" if align else f"alloca {ty}")

    # Variables. Their values are handed on within a block: to store and load each took a quarter of
    # all lines, which LLVM has to read.

    def recall(self, ty: Type, slot: Operand) -> Operand:
        """What the variable at a place on the stack holds."""
        value = self.block.known.get(slot.text)
        if value is None:
            value = self.block.known[slot.text] = self.load(ty, slot)
        return value

    def assign(self, slot: Operand, value: Operand) -> None:
        """Let that variable hold a value from here on."""
        self.block.known[slot.text] = value
        if self.block.end:  # what is written at the entry once the routine has left it
            self.store(value, slot)
        else:
            self.block.unsaved[slot.text] = value

    def move(self, pointer: Operand, elements: Operand, ty: Type) -> Operand:
        return self.write(PTR, f"getelementptr {ty}, {pointer}, {elements}")

    def load(self, ty: Type, pointer: Operand, align: int = 0) -> Operand:
        aligned = f", align {align}" if align else ""
        return self.write(ty, f"load {ty}, {pointer}{aligned}")

    def store(
        self, value: Operand, pointer: Operand, align: int = 0, streams: bool = False
    ) -> None:
        aligned = f", align {align}" if align else ""
        past = ", !nontemporal !{i32 1}" if streams else ""
        self.block.lines.append(f"store {value}, {pointer}{aligned}{past}")

    def fence(self) -> None:
        """What is stored before is seen by all threads before what is stored behind."""
        self.block.lines.append("fence seq_cst")

    def load_atomic(self, pointer: Operand, order: str) -> Operand:
        """A 64-bit word that other threads write."""
        return self.write(I64, f"load atomic i64, {pointer} {order}, align 8")

    def atomic_rmw(self, op: str, pointer: Operand, value: Operand, order: str) -> Operand:
        return self.write(value.type, f"atomicrmw {op} {pointer}, {value} {order}")

    def exchange(self, pointer: Operand, old: Operand, new: Operand, order: str) -> Operand:
        """Replace a word if it is `old`; whether it was."""
        pair = f"cmpxchg {pointer}, {old}, {new} {order} {order}"
        return self.write(I1, f"extractvalue {{ i64, i1 }} {self.write(I64, pair).text}, 1")

    # Calls.

    def call(self, callee: Routine, args: Sequence[Operand]) -> Operand:
        return self.call_at(self.address(callee).text, callee.returns, args)

    def address(self, of: Routine) -> Operand:
        """Where a routine of this module stands."""
        self.routine.uses[of.name] = of
        return Operand(PTR, f"@{of.name}")

    def call_at(self, address: str, returns: Type, args: Sequence[Operand]) -> Operand:
        """Call what stands at an address, or an instruction `asm ...`."""
        text = f"call {returns} {address}({', '.join(map(str, args))})"
        if returns is not VOID:
            return self.write(returns, text)
        self.block.lines.append(text)
        return Operand(VOID, "")
