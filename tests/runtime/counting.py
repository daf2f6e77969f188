"""A kernel that only keeps accounts: how often each unit was done, by whom, in what state."""

from __future__ import annotations

from typing import Any

import numpy as np

from konv import llvm
from konv.kernels.region import emit_entry, emit_units
from konv.kernels.shared import Shared
from konv.kernels.words import Words
from konv.llvm import I32, I64, PTR, VOID, Function, Module, Value
from konv.runtime.threads import Team

JOB = ("units", "turns")
ROW = ("count", "thread", "state", "mixed")


def emit() -> Module:
    """Exports run(...), state(to) and set_state(value): of this thread's floating point unit."""
    module = Module(llvm.detect(), "counting")

    def work(f: Function, call: Words, thread: Value) -> None:
        job = Words(call.pointer("job", I64), JOB)

        def body(unit: Value) -> None:
            row = Shared(call.pointer("y", I64) + unit * len(ROW), ROW)
            row["thread"], row["state"] = thread, _state(f)
            mixed = f.var(unit)
            with f.loop(job["turns"]) as i:
                mixed.set(mixed.get() * mixed.get() + i)
            row["mixed"] = mixed.get()
            row.add("count", f.integer(1))  # last: a unit that is not over does not count

        emit_units(f, call, thread, job["units"], body)

    emit_entry(module, work)
    with module.function("state", [("to", llvm.pointer_to(I64))], exported=True) as (f, (to,)):
        to[0] = _state(f)
    with module.function("set_state", [("value", I64)], exported=True) as (f, (value,)):
        _set_state(f, value)
    return module


def _state(f: Function) -> Value:
    if f.module.target.arch == "aarch64":
        return Value(f, f.b.call(f.module.declare("llvm.aarch64.get.fpcr", I64, []), []))
    slot = f.array(I32, 1)
    f.b.call(f.module.declare("llvm.x86.sse.stmxcsr", VOID, [PTR]), [slot.ir])
    return Value(f, f.b.convert("zext", slot[0].ir, I64))


def _set_state(f: Function, value: Value) -> None:
    if f.module.target.arch == "aarch64":
        name, argument = "llvm.aarch64.set.fpcr", value
        f.b.call(f.module.declare(name, VOID, [I64]), [argument.ir])
        return
    slot = f.array(I32, 1)
    slot[0] = Value(f, f.b.convert("trunc", value.ir, I32))
    f.b.call(f.module.declare("llvm.x86.sse.ldmxcsr", VOID, [PTR]), [slot.ir])


class Counting:
    """The kernel, ready to run."""

    def __init__(self) -> None:
        target = llvm.detect()
        self.loaded = llvm.load(llvm.object_bytes(emit()), target)
        self.call = self.loaded.function("run", 7)
        self.set_state = self.loaded.function("set_state", 1)
        self._state = self.loaded.function("state", 1)

    def run(
        self, team: Team, units: int, turns: int = 0, rows: np.ndarray[Any, Any] | None = None
    ) -> np.ndarray[Any, Any]:
        """One row a unit: how often done, by whom, in what state. A turn takes a nanosecond."""
        job = np.array((units, turns), np.int64)
        if rows is None:
            rows = np.zeros((units, len(ROW)), np.int64)
        self.call(job.ctypes.data, 0, 0, rows.ctypes.data, 0, team.address, team.threads)
        return rows

    def state(self) -> int:
        out = np.zeros(1, np.int64)
        self._state(out.ctypes.data)
        return int(out[0])
