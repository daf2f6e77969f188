"""Machine code as a built-in function of Python: what CPython calls, with the integers that a
function takes.

    call7(self, args, count)    METH_FASTCALL: args are Python's integers, `self` an array whose
                                memory holds the addresses that TABLE names

ctypes finds out at each call what its arguments are, 0.15 us each: seven took as long as the kernel
of a small layer. Here all of them take 0.1 us. The interpreter's lock is given up while the
function runs, as ctypes does; anything but integers, or another number of them, is an error.

Nothing of CPython is linked: its functions are called by the addresses in the table.
"""

from __future__ import annotations

from konv.kernels.words import Words
from konv.llvm import I64, VOID, Function, Module, Value, pointer_to
from konv.target import Target

TABLE = ("function", "integer", "failed", "save", "restore", "result")
COUNTS = (2, 7, 8)  # arguments: of a digest, of kernels, of kernels with a residual
PARAMETERS = (("self", pointer_to(I64)), ("args", pointer_to(I64)), ("count", I64))


def emit(target: Target, header: int) -> Module:
    """Exports call2, call7, call8; `header`: bytes of an object before its first word, which is
    where NumPy's arrays keep the address of their memory.
    """
    module = Module(target, "builtin")
    for count in COUNTS:
        name = f"call{count}"
        with module.function(name, PARAMETERS, I64, exported=True) as (f, (own, args, given)):
            answer = f.var(0)  # a null pointer: an exception
            with f.when(given.equals(count)):
                table = Words(own.pointer(header // 8, I64), TABLE)
                values = [_call(f, table, "integer", args[i]) for i in range(count)]
                with f.when(_call(f, table, "failed").equals(0)):
                    state = _call(f, table, "save")
                    result = _call(f, table, "function", *values)
                    f.call_pointer(table.pointer("restore", I64), VOID, [state])
                    answer.set(_call(f, table, "result", result))
            f.give(answer.get())
    return module


def _call(f: Function, table: Words, name: str, *arguments: Value) -> Value:
    return f.call_pointer(table.pointer(name, I64), I64, arguments)
