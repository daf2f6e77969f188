"""Modules and functions of the kernel language: control flow and calls. What a function does with
numbers, lanes and memory stands in the files of those names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from konv.llvm.lang import I64, PTR, Pointer, Value, Variable
from konv.llvm.memory import Memory
from konv.target import Target

Parameter = tuple[str, ir.Type]


class Module:
    """A set of functions for one target, to be built together."""

    def __init__(self, target: Target, name: str) -> None:
        self.target = target
        self.ir = ir.Module(name)
        self.ir.triple = target.triple

    def declare(self, name: str, returns: ir.Type, params: Sequence[ir.Type]) -> ir.Function:
        """An intrinsic or a function defined elsewhere in this module."""
        known = self.ir.globals.get(name)
        return known or ir.Function(self.ir, ir.FunctionType(returns, list(params)), name)

    @contextmanager
    def function(
        self,
        name: str,
        params: Sequence[Parameter],
        returns: ir.Type | None = None,
        *,
        exported: bool = False,
        inline: bool | None = None,
    ) -> Iterator[tuple[Function, list[Any]]]:
        """`with module.function("add", [("a", I64), ("p", F32 pointer element)]) as (f, (a, p)):`

        A parameter given as `("x", "float*")`-like pair `(name, pointer_to(element))` arrives as a
        Pointer. `inline` True asks LLVM to inline it everywhere, False forbids it.
        """
        types = [PTR if isinstance(ty, _PointerTo) else ty for _, ty in params]
        fn = ir.Function(self.ir, ir.FunctionType(returns or ir.VoidType(), types), name)
        fn.linkage = "external" if exported else "internal"
        fn.attributes.add("nounwind")
        if inline is not None:
            fn.attributes.add("alwaysinline" if inline else "noinline")
        f = Function(self, fn)
        yield f, [f.wrap(arg, ty, label) for arg, (label, ty) in zip(fn.args, params, strict=True)]
        if not f.b.block.is_terminated:
            f.b.ret_void()


class _PointerTo:
    def __init__(self, element: ir.Type) -> None:
        self.element = element


def pointer_to(element: ir.Type) -> Any:
    """The type of a parameter that is an address of `element`s."""
    return _PointerTo(element)


class Function(Memory):
    """One function under construction: parameters, variables, loops, conditions and calls."""

    def wrap(self, arg: ir.Argument, ty: Any, label: str) -> Value:
        arg.name = label
        return Pointer(self, arg, ty.element) if isinstance(ty, _PointerTo) else Value(self, arg)

    def give(self, value: Value) -> None:
        """Return a value from this function."""
        self.b.ret(value.ir)

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
        body, done = (self.fn.append_basic_block(s) for s in ("loop", "done"))
        self.b.cbranch((i.get() < stop).ir, body, done)
        self.b.position_at_end(body)
        yield i.get()
        after = Value(self, self.b.add(i.get().ir, step.ir, flags=["nsw"]))
        i.set(after)
        self.b.cbranch((after < stop).ir, body, done)
        self.b.position_at_end(done)

    @contextmanager
    def forever(self) -> Iterator[ir.Block]:
        """A loop left by `leave_if`."""
        body, done = (self.fn.append_basic_block(s) for s in ("forever", "left"))
        self.b.branch(body)
        self.b.position_at_end(body)
        yield done
        self.b.branch(body)
        self.b.position_at_end(done)

    def leave_if(self, done: ir.Block, condition: Value) -> None:
        go_on = self.fn.append_basic_block("stay")
        self.b.cbranch(condition.ir, done, go_on)
        self.b.position_at_end(go_on)

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        with self.b.if_then(condition.ir):
            yield

    @contextmanager
    def choose(self, condition: Value) -> Iterator[tuple[Any, Any]]:
        """`with f.choose(c) as (yes, no): with yes: ... with no: ...`"""
        with self.b.if_else(condition.ir) as branches:
            yield branches

    def call(self, fn: ir.Function, args: Sequence[Value | int]) -> Value:
        """Call a function of this module; addresses go as numbers or pointers, as it declares."""
        values = [
            self._as(self.integer(a).ir, want) for a, want in zip(args, fn.ftype.args, strict=True)
        ]
        return Value(self, self.b.call(fn, values))

    def _as(self, value: ir.Value, want: ir.Type) -> ir.Value:
        if isinstance(want, ir.IntType) and isinstance(value.type, ir.PointerType):
            return self.b.ptrtoint(value, want)
        return value

    def address_of(self, fn: ir.Function) -> Value:
        """Where a function of this module stands, as a number."""
        return Value(self, self.b.ptrtoint(fn, I64))

    def call_pointer(self, address: Value, returns: ir.Type, args: Sequence[Value]) -> Value:
        """Call a function known by its address only: run-time functions come through the
        context.
        """
        fnty = ir.FunctionType(returns, [a.type for a in args])
        typed = _TypedPointer(address.ir, fnty)
        return Value(self, self.b.call(typed, [a.ir for a in args]))


class _TypedPointer:
    """What llvmlite's `call` wants of a callee that is only an opaque pointer."""

    def __init__(self, pointer: ir.Value, function_type: ir.FunctionType) -> None:
        self.pointer, self.function_type, self.type = pointer, function_type, pointer.type

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pointer, name)
