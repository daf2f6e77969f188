"""A kernel language over LLVM: write loops in Python, get machine code. Knows no convolution."""

from konv.llvm.build import Loaded, assembly, load, object_bytes, optimise
from konv.llvm.function import Function, Module, pointer_to
from konv.llvm.host import describe, detect
from konv.llvm.lang import (
    F16,
    F32,
    F64,
    I1,
    I8,
    I16,
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
    scalar_type,
)  # fmt: skip

__all__ = [
    "F16", "F32", "F64", "I1", "I8", "I16", "I32", "I64", "INTEGER", "PTR", "REAL", "SIZE", "VOID",
    "Function", "Loaded", "Module", "Number", "Pointer", "Routine", "Type", "Value", "Variable",
    "assembly", "describe", "detect", "load", "object_bytes", "optimise", "pointer_to",
    "scalar_type",
]  # fmt: skip
