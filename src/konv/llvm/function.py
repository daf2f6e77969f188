"""Modules and functions of the kernel language: control flow and calls. What a function does with
numbers, lanes and memory stands in the files of those names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from konv.llvm.builder import Block, Routine
from konv.llvm.lang import Pointer, Value, Variable
from konv.llvm.memory import Memory
from konv.llvm.types import I64, PTR, VOID, Operand, Type
from konv.target import Target

Way = AbstractContextManager[None]  # one side of a choice
Parameter = tuple[str, Any]  # a name; a Type, or what pointer_to gives

_FAR = '!llvm.module.flags = !{!0}\n!0 = !{i32 7, !"RtLibUseGOT", i32 1}'  # as clang's -fno-plt


class Module:
    """A set of functions for one target, to be built together."""

    def __init__(self, target: Target, name: str) -> None:
        self.target, self.name = target, name
        self.routines: dict[str, Routine] = {}

    def __str__(self) -> str:
        """The module in LLVM's language."""
        routines = (r.defined() if r.blocks else r.declared() for r in self.routines.values())
        return "\n\n".join([f'; ModuleID = "{self.name}"', self.head, *routines]) + "\n"

    @property
    def head(self) -> str:
        """What every text for LLVM begins with: the target, and that memcpy may stand far away."""
        return f'target triple = "{self.target.triple}"\n{_FAR}'

    def declare(self, name: str, returns: Type, params: Sequence[Type]) -> Routine:
        """An intrinsic or a function defined elsewhere in this module."""
        if name not in self.routines:
            self.routines[name] = Routine(name, returns, [Operand(ty, "") for ty in params])
        return self.routines[name]

    @contextmanager
    def function(
        self,
        name: str,
        params: Sequence[Parameter],
        returns: Type = VOID,
        *,
        exported: bool = False,
        inline: bool | None = None,
        cold: bool = False,
        plain: bool = False,
    ) -> Iterator[tuple[Function, list[Any]]]:
        """`with module.function("add", [("a", I64), ("p", F32 pointer element)]) as (f, (a, p)):`

        A parameter given as `("x", "float*")`-like pair `(name, pointer_to(element))` arrives as a
        Pointer. `inline` True asks LLVM to inline it everywhere, False forbids it. `cold`, `plain`:
        as of Routine.
        """
        args = [
            Operand(PTR if isinstance(ty, _PointerTo) else ty, f"%{label}") for label, ty in params
        ]
        if name in self.routines:
            raise ValueError(f"a second function {name}")
        fn = self.routines[name] = Routine(name, returns, args, exported, inline, cold, plain)
        f = Function(self, fn)
        yield f, [f.wrap(arg, ty) for arg, (_, ty) in zip(args, params, strict=True)]
        if not f.b.block.end:
            f.b.give(None)


class _PointerTo:
    def __init__(self, element: Type) -> None:
        self.element = element


def pointer_to(element: Type) -> Any:
    """The type of a parameter that is an address of `element`s."""
    return _PointerTo(element)


class Function(Memory):
    """One function under construction: parameters, variables, loops, conditions and calls."""

    def wrap(self, arg: Operand, ty: Any) -> Value:
        """A parameter of this type."""
        return Pointer(self, arg, ty.element) if isinstance(ty, _PointerTo) else Value(self, arg)

    def give(self, value: Value) -> None:
        """Return a value from this function."""
        self.b.give(value.ir)

    def var(self, initial: Value | int) -> Variable:
        return Variable(self, self.integer(initial))

    def var_of(self, initial: Value) -> Variable:
        """A variable of any type."""
        return Variable(self, initial)

    @contextmanager
    def loop(
        self, stop: Value | int, start: Value | int = 0, step: Value | int = 1
    ) -> Iterator[Value]:
        """for i in range(start, stop, step); the test stands at the bottom, so an empty range is
        tested first.
        """
        stop, step = self.integer(stop), self.integer(step)
        i = self.var(start)
        body, done = self.fn.block("loop"), self.fn.block("done")
        self.b.fork((i.get() < stop).ir, body, done)
        self.b.block = body
        yield i.get()
        after = Value(self, self.b.binary("add nsw", i.get().ir, step.ir))
        i.set(after)
        self.b.fork((after < stop).ir, body, done)
        self.b.block = done

    @contextmanager
    def forever(self) -> Iterator[Block]:
        """A loop left by `leave_if`."""
        body, done = self.fn.block("forever"), self.fn.block("left")
        self.b.branch(body)
        self.b.block = body
        yield done
        self.b.branch(body)
        self.b.block = done

    def leave_if(self, done: Block, condition: Value) -> None:
        go_on = self.fn.block("stay")
        self.b.fork(condition.ir, done, go_on)
        self.b.block = go_on

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        inside, behind = self.fn.block("if"), self.fn.block("behind")
        self.b.fork(condition.ir, inside, behind)
        with self._way(inside, behind):
            yield
        self.b.block = behind

    @contextmanager
    def choose(self, condition: Value) -> Iterator[tuple[Way, Way]]:
        """`with f.choose(c) as (yes, no): with yes: ... with no: ...`"""
        yes, no, behind = (self.fn.block(label) for label in ("if", "else", "behind"))
        self.b.fork(condition.ir, yes, no)
        yield self._way(yes, behind), self._way(no, behind)
        self.b.block = behind

    @contextmanager
    def _way(self, begin: Block, end: Block) -> Iterator[None]:
        """Write from one block on; it goes on in another, unless it returns."""
        self.b.block = begin
        yield
        if not self.b.block.end:
            self.b.branch(end)

    def call(self, fn: Routine, args: Sequence[Value | int]) -> Value:
        """Call a function of this module; addresses go as numbers or pointers, as it declares."""
        values = [
            self._as(self.integer(a).ir, param.type)
            for a, param in zip(args, fn.params, strict=True)
        ]
        return Value(self, self.b.call(fn, values))

    def _as(self, value: Operand, want: Type) -> Operand:
        return self.b.convert("ptrtoint", value, I64) if (value.type, want) == (PTR, I64) else value

    def address_of(self, fn: Routine) -> Value:
        """Where a function of this module stands, as a number."""
        return Value(self, self.b.convert("ptrtoint", self.b.address(fn), I64))

    def call_pointer(self, address: Value, returns: Type, args: Sequence[Value]) -> Value:
        """Call a function known by its address only: run-time functions come through the
        context.
        """
        return Value(self, self.b.call_at(address.ir.text, returns, [a.ir for a in args]))
