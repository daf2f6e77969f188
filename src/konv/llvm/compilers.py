"""LLVM at work: one piece of a module from text to machine code, and several pieces at once.

llvmlite lets one thread into LLVM at a time. LLVM itself only asks that threads share neither a
context nor a code generator, so each thread has its own here, and the steps that take long go past
llvmlite's lock: ordinary 3x3 on two cores compiles in 100 ms instead of 172. The threads live as
long as one call does.

LLVM's optimiser is asked for little on purpose: the emitter already says what it means, and every
pass is time that a first call takes. What remains: variables become registers (SROA), functions
marked for it are inlined. Folding constants too (instcombine) made the machine code no faster and
cost 12 ms of 200.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import RLock, Thread
from typing import Any

from llvmlite import binding as llvm
from llvmlite.binding import ffi

from konv.llvm.host import initialize
from konv.llvm.pieces import Piece
from konv.target import Target

# Whether LLVM looks through each text for what its parser lets pass: for tests, which run every
# emitter. It takes 3 of 190 ms.
VERIFY = bool(os.environ.get("KONV_VERIFY"))

HEAVY = 3  # as long as cold code of so many letters takes other code of one
PATIENCE = 1.0  # seconds that a fork waits for a kernel to be compiled, which takes a fifth of that


def target_machine(target: Target, cold: bool = False) -> llvm.TargetMachine:
    """LLVM's code generator for a target: position independent, no frame pointer games. For what is
    `cold` one that is quick rather than thorough; of x86-64 only, where it has been run.
    """
    initialize()
    quick = cold and target.arch == "x86_64"
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu,
        features=",".join(target.features),
        opt=0 if quick else 3,
        reloc="pic",
        codemodel="default",
    )


def unlocked(name: str) -> Callable[..., Any]:
    """A function of LLVM without llvmlite's lock, or with it if llvmlite has changed."""
    function = getattr(ffi.lib, name)
    return getattr(function, "_cfn", function)  # type: ignore[no-any-return]


def parse(text: str, context: llvm.ContextRef) -> llvm.ModuleRef:
    """The module that a text describes; RuntimeError with LLVM's words if it describes none."""
    with ffi.OutputString() as words:
        read = unlocked("LLVMPY_ParseAssembly")
        module = llvm.ModuleRef(read(context, text.encode(), words), context)
        if words:
            module.detach()  # there is none
            raise RuntimeError(f"LLVM IR parsing error\n{words}")
    return module


def run_passes(module: llvm.ModuleRef, machine: llvm.TargetMachine) -> None:
    """Those that konv relies on."""
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=1))
    passes = llvm.create_new_module_pass_manager()
    passes.add_always_inliner_pass()
    passes.add_sroa_pass()
    passes.add_simplify_cfg_pass()
    unlocked("LLVMPY_RunNewModulePassManager")(passes, module, builder)


def make_plain(module: llvm.ModuleRef, target: Target) -> None:
    """Have LLVM choose instructions of all functions quickly, one by one, and leave loops as they
    are; it still chooses registers with care. On x86-64 only, where it has been run.

    That takes less than half of the time. Such code is a fifth to a third slower where numbers
    are computed, and as fast where they are moved or called for.
    """
    if target.arch == "x86_64":
        for function in module.functions:
            if not function.is_declaration:
                for attribute in ("noinline", "optnone"):  # the one asks for the other
                    function.add_function_attribute(attribute)


def object_of(module: llvm.ModuleRef, machine: llvm.TargetMachine) -> bytes:
    """A relocatable object file; RuntimeError with LLVM's words if there is no such code."""
    with ffi.OutputString() as words:
        found = unlocked("LLVMPY_TargetMachineEmitToMemory")(machine, module, 1, words)
        if not found:
            raise RuntimeError(str(words))
    try:
        size = ffi.lib.LLVMPY_GetBufferSize(found)
        return ctypes.string_at(ffi.lib.LLVMPY_GetBufferStart(found), size)
    finally:
        ffi.lib.LLVMPY_DisposeMemoryBuffer(found)


def optimise(text: str, machine: llvm.TargetMachine) -> llvm.ModuleRef:
    """The verified module after these passes, to be read; in a context of its own, as others may be
    at work in the one that llvmlite shares.
    """
    module = parse(text, llvm.create_context())
    module.verify()
    run_passes(module, machine)
    return module


class Compiler:
    """LLVM's code generators for a target, of one thread at a time.

    They are kept from piece to piece, for LLVM works out what a processor can do once for each.
    What it knows of a piece, types and constants too, goes with the piece.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.machines = {cold: target_machine(target, cold) for cold in (False, True)}

    def object(self, piece: Piece) -> bytes:
        """The machine code of a piece, an object file."""
        machine = self.machines[piece.cold]
        with llvm.create_context() as context, parse(piece.text, context) as module:
            if VERIFY:
                module.verify()
            run_passes(module, machine)
            if piece.plain:
                make_plain(module, self.target)
            return object_of(module, machine)


_idle: dict[Target, list[Compiler]] = {}  # whoever takes one out has it alone
_lock = RLock()


def alone() -> RLock:
    """To be held by whoever has work for LLVM. A fork waits for it: LLVM's locks, and llvmlite's,
    would stay locked in a child that is born meanwhile.
    """
    return _lock


def compile_all(pieces: Sequence[Piece], target: Target, threads: int = 1) -> list[bytes]:
    """An object a piece, in their order. The caller's thread and up to `threads` - 1 others take
    pieces in turn, those first that take longest; what one of them raises is raised here.
    """
    turns = iter(sorted(range(len(pieces)), key=lambda at: _effort(pieces[at]), reverse=True))
    done, faults = dict[int, bytes](), list[BaseException]()

    def work() -> None:
        try:
            with _compiler(target) as compiler:
                for at in turns:
                    done[at] = compiler.object(pieces[at])
        except BaseException as fault:  # noqa: BLE001 - raised below
            faults.append(fault)
            deque(turns, maxlen=0)  # nobody goes on

    others = [Thread(target=work, name="konv-llvm") for _ in range(min(threads, len(pieces)) - 1)]
    with alone():
        try:
            with suppress(RuntimeError):  # the system allows no more, or the process is at its end
                for other in others:
                    other.start()
            work()
        finally:
            for other in others:
                if other.ident:  # it has been started
                    other.join()
    if faults:
        raise faults[0]
    return [done[at] for at in range(len(pieces))]


@contextmanager
def _compiler(target: Target) -> Iterator[Compiler]:
    """One that nobody else has meanwhile."""
    idle = _idle.setdefault(target, [])
    try:
        compiler = idle.pop()
    except IndexError:
        compiler = Compiler(target)
    yield compiler
    idle.append(compiler)


def _effort(piece: Piece) -> int:
    return len(piece.text) * (1 if piece.cold else HEAVY)


def _before_fork() -> None:
    _lock.acquire(timeout=PATIENCE)


def _after_fork() -> None:
    with suppress(RuntimeError):  # patience has come to its end
        _lock.release()


def _in_child() -> None:
    global _lock
    _lock = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
