"""Modules and functions of the kernel language: control flow, calls and the few vector
operations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from konv.llvm.lang import (
    I1,
    I8,
    I32,
    I64,
    PTR,
    SIZE,
    Number,
    Pointer,
    Value,
    Variable,
    is_real,
    scalar_type,
)
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


class Function:
    """One function under construction; `b` is llvmlite's builder, for what has no word here."""

    def __init__(self, module: Module, fn: ir.Function) -> None:
        self.module, self.fn = module, fn
        self.b = ir.IRBuilder(fn.append_basic_block("entry"))

    def wrap(self, arg: ir.Argument, ty: Any, label: str) -> Value:
        arg.name = label
        return Pointer(self, arg, ty.element) if isinstance(ty, _PointerTo) else Value(self, arg)

    def give(self, value: Value) -> None:
        """Return a value from this function."""
        self.b.ret(value.ir)

    def constant(self, ty: ir.Type, number: Number) -> Value:
        """A number of any type; of a vector, in every lane."""
        filled = [number] * ty.count if isinstance(ty, ir.VectorType) else number
        return Value(self, ir.Constant(ty, filled))

    def bits(self, value: Value, element: ir.Type) -> Value:
        """The same bits as numbers of another type of the same size, lane by lane."""
        return Value(self, self.b.bitcast(value.ir, _like(value.type, scalar_type(element))))

    def extend(self, value: Value, element: ir.Type) -> Value:
        """Numbers as a wider type that holds them all: reals as reals, bits as bits above 0."""
        longer = self.b.fpext if is_real(value.type) else self.b.zext
        return Value(self, longer(value.ir, _like(value.type, element)))

    def shorten(self, value: Value, element: ir.Type) -> Value:
        """Reals rounded to a narrower type, integers without their upper bits."""
        shorter = self.b.fptrunc if is_real(value.type) else self.b.trunc
        return Value(self, shorter(value.ir, _like(value.type, element)))

    def to_real(self, value: Value, element: ir.Type) -> Value:
        """Integers, with their sign, as reals."""
        return Value(self, self.b.sitofp(value.ir, _like(value.type, element)))

    def absolute(self, x: Value) -> Value:
        """Reals without their sign."""
        intrinsic = self.module.declare(f"llvm.fabs.{_suffix(x.type)}", x.type, [x.type])
        return Value(self, self.b.call(intrinsic, [x.ir]))

    def integer(self, value: Value | int) -> Value:
        return value if isinstance(value, Value) else Value(self, I64(value))

    def var(self, initial: Value | int) -> Variable:
        return Variable(self, self.integer(initial))

    def var_of(self, initial: Value) -> Variable:
        """A variable of any type."""
        return Variable(self, initial)

    def array(self, element: ir.Type, count: int, align: int = 64) -> Pointer:
        """`count` elements on the stack, reserved once when the function is entered."""
        with self.b.goto_entry_block():
            slot = self.b.alloca(ir.ArrayType(element, count))
            slot.align = align
        slot.type = PTR  # llvmlite still types what alloca returns
        return Pointer(self, slot, element)

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

    def select(self, condition: Value, yes: Value, no: Value | Number) -> Value:
        return Value(self, self.b.select(condition.ir, yes.ir, yes.lift(no)))

    def least(self, a: Value, b: Value | int) -> Value:
        return self.select(a < b, a, b)

    def most(self, a: Value, b: Value | int) -> Value:
        return self.select(a > b, a, self.integer(b))

    def zero(self, element: ir.Type, lanes: int) -> Value:
        return Value(self, ir.Constant(ir.VectorType(element, lanes), [0] * lanes))

    def splat(self, x: Value, lanes: int) -> Value:
        """One number in every lane."""
        ty = ir.VectorType(x.type, lanes)
        first = self.b.insert_element(ir.Constant(ty, ir.Undefined), x.ir, I32(0))
        return self.shuffle(Value(self, first), Value(self, first), [0] * lanes)

    def shuffle(self, a: Value, b: Value, lanes: Sequence[int]) -> Value:
        """Lanes chosen from a (0..n-1) and b (n..2n-1)."""
        mask = ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes))
        return Value(self, self.b.shuffle_vector(a.ir, b.ir, mask))

    def regard(self, value: Value, element: ir.Type, count: int) -> Value:
        """The bits of a vector as `count` elements of another type."""
        return Value(self, self.b.bitcast(value.ir, ir.VectorType(element, count)))

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

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c, with one rounding wherever the machine has an instruction for it.

        `llvm.fma` would call the C library on a machine without one; IRBuilder.fma refuses vectors.
        """
        name = f"llvm.fmuladd.{_suffix(a.type)}"
        intrinsic = self.module.declare(name, a.type, [a.type] * 3)
        return Value(self, self.b.call(intrinsic, [a.ir, b.ir, c.ir]))

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

    def store_first(self, p: Pointer, index: Value | int, value: Value, count: int) -> None:
        """Store the first `count` lanes of a vector and touch nothing behind them."""
        ty, mask = self._mask(value.type.count, count)
        intrinsic = self.module.declare(
            f"llvm.masked.store.{_suffix(value.type)}.p0", ir.VoidType(), [value.type, PTR, I32, ty]
        )
        self.b.call(intrinsic, [value.ir, (p + index).ir, I32(SIZE[p.element]), mask])

    def load_first(self, p: Pointer, index: Value | int, lanes: int, count: int) -> Value:
        """Load a vector whose first `count` lanes come from memory, touch nothing behind them; the
        rest are 0.
        """
        vector = ir.VectorType(p.element, lanes)
        ty, mask = self._mask(lanes, count)
        intrinsic = self.module.declare(
            f"llvm.masked.load.{_suffix(vector)}.p0", vector, [PTR, I32, ty, vector]
        )
        zero = self.zero(p.element, lanes)
        arguments = [(p + index).ir, I32(SIZE[p.element]), mask, zero.ir]
        return Value(self, self.b.call(intrinsic, arguments))

    def between(self, lanes: int, first: Value | int, end: Value | int) -> Value:
        """Which lanes are counted from `first` up to `end`: a mask made when the code runs. Both
        may lie beyond all lanes.
        """
        order = ir.Constant(ir.VectorType(I32, lanes), list(range(lanes)))

        def compared(op: str, bound: Value | int) -> ir.Value:
            capped = self.least(self.most(self.integer(bound), 0), lanes)
            each = self.splat(Value(self, self.b.trunc(capped.ir, I32)), lanes)
            return self.b.icmp_signed(op, order, each.ir)

        below = compared("<", end)
        if isinstance(first, int) and first <= 0:
            return Value(self, below)
        return Value(self, self.b.and_(compared(">=", first), below))

    def below(self, count: Value, lanes: int) -> Value:
        """A mask of the first `count` lanes, a number below 2**31 known when the code runs."""
        wanted = self.splat(Value(self, self.b.trunc(count.ir, I32)), lanes)
        numbers = ir.Constant(ir.VectorType(I32, lanes), list(range(lanes)))
        return Value(self, numbers) < wanted

    def inside(self, first: Value, end: Value, lanes: int) -> Value:
        """A mask of the lanes for which 0 <= first + lane < end; all below 2**31."""
        low, high = (self.splat(Value(self, self.b.trunc(v.ir, I32)), lanes) for v in (first, end))
        numbers = ir.Constant(ir.VectorType(I32, lanes), list(range(lanes)))
        return self.below_unsigned(low + Value(self, numbers), high)

    def below_unsigned(self, a: Value, b: Value) -> Value:
        """0 <= a < b in one comparison, for b that is not negative."""
        return Value(self, self.b.icmp_unsigned("<", a.ir, b.ir))

    def select_pointer(self, condition: Value, yes: Pointer, no: Pointer) -> Pointer:
        """One of two addresses of the same elements."""
        return Pointer(self, self.b.select(condition.ir, yes.ir, no.ir), yes.element)

    def store_masked(self, p: Pointer, value: Value, mask: Value) -> None:
        """Store the lanes of a mask and touch no other."""
        intrinsic = self.module.declare(
            f"llvm.masked.store.{_suffix(value.type)}.p0",
            ir.VoidType(),
            [value.type, PTR, I32, mask.type],
        )
        self.b.call(intrinsic, [value.ir, p.ir, I32(SIZE[p.element]), mask.ir])

    def load_masked(self, p: Pointer, mask: Value) -> Value:
        """Load the lanes of a mask and touch no other; those are 0."""
        vector = ir.VectorType(p.element, mask.type.count)
        intrinsic = self.module.declare(
            f"llvm.masked.load.{_suffix(vector)}.p0", vector, [PTR, I32, mask.type, vector]
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


class _TypedPointer:
    """What llvmlite's `call` wants of a callee that is only an opaque pointer."""

    def __init__(self, pointer: ir.Value, function_type: ir.FunctionType) -> None:
        self.pointer, self.function_type, self.type = pointer, function_type, pointer.type

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pointer, name)


def _like(ty: ir.Type, element: ir.Type) -> ir.Type:
    """The type with as many lanes, of other elements."""
    return ir.VectorType(element, ty.count) if isinstance(ty, ir.VectorType) else element


def _suffix(ty: ir.Type) -> str:
    """How intrinsics spell a type: f32, v8f32."""
    names = {"float": "f32", "double": "f64", "i64": "i64", "i32": "i32", "i16": "i16"}
    name = names[str(scalar_type(ty))]
    return f"v{ty.count}{name}" if isinstance(ty, ir.VectorType) else name
