"""A whole call of a layer in machine code, where PyTorch's tensors are as they were the last time.

    straight(self, args, count)     METH_FASTCALL, as konv.kernels.builtin has it; returns the
                                    result, or None: then the long way must be gone

What konv.dispatch does in some 300 steps of Python's interpreter is the same from call to call:
the arguments are the same objects, PyTorch says that the tensors are alike, the digests of weight
and bias are those of the packed copy, a result is allocated, the kernel runs. The interpreter
takes 3 us for that, and after a kernel that has filled the second-level cache with its images
twice as much.

`self` is an array whose memory holds the words that STRAIGHT names, then the objects that the
arguments from the fourth on must be. All is asked of CPython and PyTorch by calls of functions and
objects whose addresses stand there; nothing of their insides is known here.
"""

from __future__ import annotations

from konv.kernels.builtin import PARAMETERS, TABLE
from konv.kernels.panels.cut import HEAD
from konv.kernels.words import Words
from konv.llvm import I64, VOID, Function, Module, Pointer, Value
from konv.target import Target

TENSORS = 3  # arguments: x, weight, bias
STRAIGHT = (
    # Of CPython: as in TABLE; PyObject_Vectorcall, PyObject_Call, Py_IncRef, Py_DecRef, PyErr_Clear
    *TABLE[1:], "vectorcall", "call", "take", "drop", "clear", "none", "true", "false",
    "arguments", "biased",  # how many; 1 if there is a bias
    "alike",  # PyTorch's question whether tensors are as they were
    "grad",  # its question whether gradients are wanted at all, if one of these is; else 0
    "address", "make", "sizes",  # of a tensor's numbers; what makes a result; its arguments
    "odd",  # bits of an address that is not aligned
    # Of weight and bias: what gives a digest, what it is given with the address, what it must say
    "weigh", "weighed", "digest", "bias_bytes", "weight_is", "bias_is",
    "run", "job", "team", "threads",
    "packed",  # weight; 0: the kernel reads weight and bias as they lie
    "row",  # numbers from a row of such a weight to the next, for konv.kernels.panels; 0: single
    "zeros",  # what stands for a bias in the former if there is none
    "scratch",  # address of two words: 1 while a call has it; where it begins
    "used",  # set to 1 by each call
)  # fmt: skip


def emit(target: Target, header: int) -> Module:
    """Exports straight; `header`: as konv.kernels.builtin.emit has it."""
    module = Module(target, "straight")
    with module.function("straight", PARAMETERS, I64, exported=True) as (f, (own, args, given)):
        words = own.pointer(header // 8, I64)
        call = _Call(f, Words(words, STRAIGHT), args)
        with f.when(given.equals(call.t["arguments"])), f.when(call.same(words)):
            call.numbers()
        with f.when(call.answer.get().equals(0) & call.failed.get().equals(0)):
            f.call_pointer(call.t.pointer("take", I64), VOID, [call.t["none"]])
            call.answer.set(call.t["none"])
        f.give(call.answer.get())
    return module


class _Call:
    """A call while it is emitted."""

    def __init__(self, f: Function, table: Words, args: Pointer) -> None:
        self.f, self.t, self.args = f, table, args
        self.answer, self.failed = f.var(0), f.var(0)  # a result; 1: an exception

    def same(self, words: Pointer) -> Value:
        """Whether the arguments are the same objects, and the tensors like those of last time."""
        f, t = self.f, self.t
        bias = self.args[TENSORS - 1].equals(t["none"])
        other = f.var(f.select(bias.equals(t["biased"].equals(0)), f.integer(0), f.integer(1)))
        objects = words + len(STRAIGHT)
        with f.loop(t["arguments"] - TENSORS) as i:
            other.set(other.get() | (self.args[i + TENSORS] ^ objects[i]))
        yes = f.var(0)
        with f.when(other.get().equals(0)):
            asked = self._says("alike", self.args, t["biased"] + (TENSORS - 1), "true")
            with f.when(asked.differs(0)):
                yes.set(1)
                with f.when(t["grad"].differs(0)):
                    yes.set(self._says("grad", self.args, f.integer(0), "false"))
        return yes.get().differs(0)

    def numbers(self) -> None:
        """Compute, if the numbers of weight and bias are those that were packed."""
        f, t = self.f, self.t
        x, weight, bias = self._address(self.args), self._address(self.args + 1), f.var(0)
        with f.when(t["biased"].differs(0)):
            bias.set(self._address(self.args + 2))
        there = x.differs(0) & weight.differs(0) & (bias.get().differs(0) | t["biased"].equals(0))
        there = there & ((x | weight | bias.get()) & t["odd"]).equals(0)
        with f.when(there), f.choose((t["packed"] | t["row"]).equals(0)) as (single, layer):
            with single:
                self._compute(x, weight, bias.get())
            with layer, f.choose(t["row"].equals(0)) as (packed, rows):
                with packed:
                    self._by_packed(x, weight, bias.get())
                with rows:
                    self._by_rows(x, weight, bias.get())

    def _by_packed(self, x: Value, weight: Value, bias: Value) -> None:
        f, t = self.f, self.t
        change = f.var(self._call("weigh", weight, t["weighed"]) ^ t["weight_is"])
        with f.when(t["biased"].differs(0)):
            other = self._call("digest", bias, t["bias_bytes"]) ^ t["bias_is"]
            change.set(change.get() | other)
        with f.when(change.get().equals(0)):
            t["used"] = 1
            self._in_scratch(x, t["packed"])

    def _by_rows(self, x: Value, weight: Value, bias: Value) -> None:
        f, t = self.f, self.t
        head = Words(f.array(I64, len(HEAD)), HEAD)
        head["finite"], head["rows"], head["row"] = 1, weight, t["row"]
        head["biases"] = f.select(bias.equals(0), t["zeros"], bias)
        self._in_scratch(x, head.base.address())

    def _in_scratch(self, x: Value, weights: Value) -> None:
        """Compute in the scratch memory, if no other call has it."""
        f, scratch = self.f, self.t.pointer("scratch", I64)
        # Python's lock is held here: no other call comes between asking and taking
        with f.when(scratch[0].equals(0)):
            scratch[0] = 1
            self._compute(x, weights, scratch[1])
            scratch[0] = 0

    def _compute(self, x: Value, weight: Value, other: Value) -> None:
        """A result, by the kernel; `other`: its scratch, or the bias."""
        f, t = self.f, self.t
        result = f.array(I64, 1)
        result[0] = self._call("call", t["make"], t["sizes"], f.integer(0))
        with f.choose(result[0].equals(0)) as (none, new):
            with none:  # the long way tells what the system has refused
                f.call_pointer(t.pointer("clear", I64), VOID, [])
            with new:
                y = self._address(result)
                with f.choose(y.equals(0)) as (nowhere, there):
                    with nowhere:
                        self._drop(result[0])
                    with there:
                        state = self._call("save")
                        self._call("run", t["job"], x, weight, y, other, t["team"], t["threads"])
                        f.call_pointer(t.pointer("restore", I64), VOID, [state])
                        self.answer.set(result[0])

    def _call(self, name: str, *arguments: Value) -> Value:
        return self.f.call_pointer(self.t.pointer(name, I64), I64, arguments)

    def _drop(self, thing: Value) -> None:
        self.f.call_pointer(self.t.pointer("drop", I64), VOID, [thing])

    def _asked(self, name: str, args: Pointer, count: Value) -> Value:
        """What an object of the table returns, a reference to it ours; 0: an exception."""
        f = self.f
        found = self._call("vectorcall", self.t[name], args.address(), count, f.integer(0))
        with f.when(found.equals(0)):
            self.failed.set(1)
        return found

    def _says(self, name: str, args: Pointer, count: Value, want: str) -> Value:
        """Whether that is True, or False, as a number."""
        f, found = self.f, self._asked(name, args, count)
        with f.when(found.differs(0)):
            self._drop(found)
        return f.select(found.equals(self.t[want]), f.integer(1), f.integer(0))

    def _address(self, tensor: Pointer) -> Value:
        """Where the numbers of a tensor begin; 0 where that is unknown."""
        f, number = self.f, self.f.var(0)
        found = self._asked("address", tensor, f.integer(1))
        with f.when(found.differs(0)):
            number.set(self._call("integer", found))
            self._drop(found)
        return number.get()
