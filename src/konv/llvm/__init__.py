"""A kernel language over LLVM: write loops in Python, get machine code. Knows no convolution."""

from konv.llvm.build import Loaded, assembly, learn, load, object_bytes
from konv.llvm.builder import Routine
from konv.llvm.compilers import optimise
from konv.llvm.function import Function, Module, pointer_to
from konv.llvm.host import describe, detect
from konv.llvm.lang import INTEGER, REAL, SIZE, Pointer, Value, Variable
from konv.llvm.types import (
    F16,
    F32,
    F64,
    I1,
    I8,
    I16,
    I32,
    I64,
    PTR,
    VOID,
    Number,
    Type,
)  # fmt: skip

__all__ = [
    "F16", "F32", "F64", "I1", "I8", "I16", "I32", "I64", "INTEGER", "PTR", "REAL", "SIZE", "VOID",
    "Function", "Loaded", "Module", "Number", "Pointer", "Routine", "Type", "Value", "Variable",
    "assembly", "describe", "detect", "learn", "load", "object_bytes", "optimise", "pointer_to",
]  # fmt: skip
