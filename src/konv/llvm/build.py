"""From a module to object bytes, of which no piece is compiled twice, and to callable addresses."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from llvmlite import binding as llvm

from konv.llvm.compilers import alone, compile_all, optimise, target_machine
from konv.llvm.function import Module
from konv.llvm.pieces import Piece, pieces
from konv.target import Target

DIGEST, LENGTH = 32, 8  # bytes that say what an object was made of, and how long it is

# llvmlite's own memory manager keeps the sections of an object together. LLVM's puts them where
# there is room, and ends the process if that is beyond 2 GB: so it did beside a PyTorch with CUDA,
# whose libraries leave little room between them. None: as llvmlite thinks best elsewhere.
TOGETHER = True if sys.platform == "linux" else None

KNOWN = 4096  # pieces of machine code that are kept, of some 3 KB each; ResNet-50 has 113

_known: dict[bytes, bytes] = {}  # by a digest of what they were made of


def object_bytes(module: Module, origin: str = "", threads: int = 1) -> bytes:
    """Relocatable machine code of a module: objects, each behind its digest and its length.

    `origin` stands for all that decides about machine code beside the text and the target: with it
    another process may `learn` what these objects are. The same bytes come of any number of
    threads.
    """
    begin = sha256(f"{origin}\n{module.target}\n".encode())
    found = {_digest(piece, begin.copy()): piece for piece in pieces(module)}
    objects = {key: code for key in found if (code := _known.get(key)) is not None}
    new = [key for key in found if key not in objects]
    made = compile_all([found[key] for key in new], module.target, threads) if new else []
    for key, code in zip(new, made, strict=True):
        if len(_known) >= KNOWN:
            _known.clear()
        objects[key] = _known[key] = code
    sizes = {key: len(code).to_bytes(LENGTH, "little") for key, code in objects.items()}
    return b"".join(key + sizes[key] + objects[key] for key in found)


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


def _digest(piece: Piece, begin: Any) -> bytes:
    begin.update(f"{piece.cold}{piece.plain}\n{piece.text}".encode())
    return bytes(begin.digest())


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
    with alone():
        empty = llvm.parse_assembly("")
        engine = llvm.create_mcjit_compiler(
            empty, target_machine(target, cold=True), use_lmm=TOGETHER
        )
        engine.remove_module(empty)  # which would be compiled, for 1 to 2 of then 4 ms (Zen 3)
        for _, piece in _objects(code):
            file = llvm.ObjectFileRef.from_data(piece)
            if not file._ptr:  # llvmlite passes on what LLVM returns: null crashes
                raise RuntimeError("not an object file")
            engine.add_object_file(file)
        engine.finalize_object()
    return Loaded(engine)
