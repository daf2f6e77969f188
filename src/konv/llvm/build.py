"""From IR to machine code: verify, a few cheap passes, object bytes, callable addresses.

LLVM's optimiser is asked for little on purpose: the emitter already says what it means, and every
pass is time that a first call takes. What remains: variables become registers (SROA), functions
marked for it are inlined. Folding constants too (instcombine) made the machine code no faster and
cost 12 ms of 200.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Any

from llvmlite import binding as llvm

from konv.llvm.function import Module
from konv.llvm.host import initialize
from konv.llvm.pieces import Piece, pieces
from konv.target import Target

DIGEST, LENGTH = 32, 8  # bytes that say what an object was made of, and how long it is

# llvmlite's own memory manager keeps the sections of an object together. LLVM's puts them where
# there is room, and ends the process if that is beyond 2 GB: so it did beside a PyTorch with CUDA,
# whose libraries leave little room between them. None: as llvmlite thinks best elsewhere.
TOGETHER = True if sys.platform == "linux" else None

KNOWN = 4096  # pieces of machine code that are kept, of some 3 KB each; ResNet-50 has 113

_known: dict[bytes, bytes] = {}  # by a digest of what they were made of


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


@cache
def code_generator(target: Target, cold: bool) -> llvm.TargetMachine:
    """The one that all pieces for a target share: LLVM works out what a processor can do once for
    each. The one that `load` hands over to an engine is not it.
    """
    return target_machine(target, cold)


def optimise(text: str, machine: llvm.TargetMachine) -> llvm.ModuleRef:
    """The verified module after the passes konv relies on; broken IR raises RuntimeError with
    LLVM's words.
    """
    parsed = llvm.parse_assembly(text)
    parsed.verify()
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=1))
    passes = llvm.create_new_module_pass_manager()
    passes.add_always_inliner_pass()
    passes.add_sroa_pass()
    passes.add_simplify_cfg_pass()
    passes.run(parsed, builder)
    return parsed


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


def object_bytes(module: Module, origin: str = "") -> bytes:
    """Relocatable machine code of a module: objects, each behind its digest and its length.

    `origin` stands for all that decides about machine code beside the text and the target: with it
    another process may `learn` what these objects are.
    """
    found = [(piece, _digest(piece, module.target, origin)) for piece in pieces(module)]
    objects = [(key, _object(piece, key, module.target)) for piece, key in found]
    return b"".join(key + len(code).to_bytes(LENGTH, "little") + code for key, code in objects)


def learn(code: bytes) -> None:
    """Know the objects of another module, so that they are not compiled again; RuntimeError if the
    bytes are none of `object_bytes`.
    """
    for key, piece in _objects(code):
        if len(_known) < KNOWN:
            _known.setdefault(key, piece)


def _objects(code: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Each object with its digest."""
    at = 0
    while at < len(code):
        begin = at + DIGEST + LENGTH
        end = begin + int.from_bytes(code[at + DIGEST : begin], "little")
        if end > len(code):
            raise RuntimeError("not an object file")
        yield code[at : at + DIGEST], code[begin:end]
        at = end


def _digest(piece: Piece, target: Target, origin: str) -> bytes:
    return sha256(f"{origin}\n{target}\n{piece.cold}{piece.plain}\n{piece.text}".encode()).digest()


def _object(piece: Piece, key: bytes, target: Target) -> bytes:
    code = _known.get(key)
    if code is None:
        machine = code_generator(target, piece.cold)
        module = optimise(piece.text, machine)
        if piece.plain:
            make_plain(module, target)
        code = bytes(machine.emit_object(module))
        if len(_known) >= KNOWN:
            _known.clear()
        _known[key] = code
    return code


def assembly(module: Module) -> str:
    """The same machine code, to be read."""
    machine = target_machine(module.target)
    return str(machine.emit_assembly(optimise(str(module), machine)))


@dataclass(frozen=True)
class Loaded:
    """Machine code in memory; it lives as long as this object."""

    engine: Any

    def function(self, name: str, arguments: int) -> Any:
        """The exported function `name`, called with `arguments` integers or addresses; it releases
        the GIL.

        What it returns is an integer, and means nothing if the function returns nothing.
        """
        prototype = ctypes.CFUNCTYPE(ctypes.c_ssize_t, *[ctypes.c_ssize_t] * arguments)
        return prototype(self.address(name))

    def address(self, name: str) -> int:
        """Where an exported function stands; LookupError if there is none of that name."""
        address = int(self.engine.get_function_address(name))
        if not address:
            raise LookupError(name)
        return address


def load(code: bytes, target: Target) -> Loaded:
    """Object bytes made ready to run in this process; RuntimeError if they are no object files."""
    empty = llvm.parse_assembly("")
    engine = llvm.create_mcjit_compiler(empty, target_machine(target, cold=True), use_lmm=TOGETHER)
    engine.remove_module(empty)  # which would be compiled, for 1 to 2 of then 4 ms (Zen 3)
    for _, piece in _objects(code):
        file = llvm.ObjectFileRef.from_data(piece)
        if not file._ptr:  # llvmlite passes on what LLVM returns: null crashes
            raise RuntimeError("not an object file")
        engine.add_object_file(file)
    engine.finalize_object()
    return Loaded(engine)
