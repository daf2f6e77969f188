"""A kernel language over LLVM: write loops in Python, get machine code. Knows no convolution."""

from konv.llvm.build import Loaded, assembly, load, object_bytes, optimise
from konv.llvm.function import Function, Module, pointer_to
from konv.llvm.host import describe, detect
from konv.llvm.lang import (
    F32,
    F64,
    I8,
    I32,
    I64,
    INTEGER,
    PTR,
    REAL,
    SIZE,
    VOID,
    Number,
    Pointer,
    Routine,
    Type,
    Value,
    Variable,
)  # fmt: skip

__all__ = [
    "F32", "F64", "I8", "I32", "I64", "INTEGER", "PTR", "REAL", "SIZE", "VOID",
    "Function", "Loaded", "Module", "Number", "Pointer", "Routine", "Type", "Value", "Variable",
    "assembly", "describe", "detect", "load", "object_bytes", "optimise", "pointer_to",
]  # fmt: skip
