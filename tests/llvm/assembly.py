"""Assembly text as the tests read it: functions, their inner loops, what stands in those."""

from __future__ import annotations

import re
from dataclasses import dataclass

LABEL = re.compile(r"^([.$\w]+):")
LOCAL = re.compile(r"^\.?L")
CALL = re.compile(r"^(?:call\w*|bl)\s+_?([A-Za-z]\w*)")

# An instruction that multiplies and adds a whole register of numbers, by target and dtype. Without
# multiply-add it is the addition that counts: every sum has one.
MULTIPLY_ADD = {
    ("sse", "float32"): r"addps\s.*%xmm",
    ("sse", "float64"): r"addpd\s.*%xmm",
    ("avx2", "float32"): r"vfmadd\d+ps\s.*%ymm",
    ("avx2", "float64"): r"vfmadd\d+pd\s.*%ymm",
    ("avx512", "float32"): r"vfmadd\d+ps\s.*%zmm",
    ("avx512", "float64"): r"vfmadd\d+pd\s.*%zmm",
    ("neon", "float32"): r"fmla(?:\.4s\s|\s+v\d+\.4s)",
    ("neon", "float64"): r"fmla(?:\.2d\s|\s+v\d+\.2d)",
}

ARITHMETIC = r"v?(?:fn?m(?:add|sub|la)|add[sp]|mul[sp])"  # any width, scalar too


@dataclass(frozen=True)
class Machine:
    """A processor to emit for, and the family its instructions belong to."""

    family: str
    triple: str
    cpu: str

    def __str__(self) -> str:
        return f"{self.family}-{self.cpu}"


LINUX, ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"
MACHINES = (
    Machine("sse", LINUX, "x86-64"),
    Machine("avx2", LINUX, "haswell"),
    Machine("avx512", LINUX, "skylake-avx512"),
    Machine("avx512", LINUX, "znver4"),
    Machine("neon", ARM, "neoverse-n1"),
    Machine("neon", "arm64-apple-macosx", "apple-m1"),
)


def functions(text: str) -> dict[str, list[str]]:
    """Lines of each function, labels included, by its name as the module knows it."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        label = LABEL.match(line)
        if label and not LOCAL.match(line):
            lines = found.setdefault(label[1].removeprefix("_"), [])
        elif label or (line.startswith("\t") and not line.startswith("\t.")):
            lines.append(line.strip())
    return found


def inner_loop(lines: list[str], instruction: str) -> list[str]:
    """Of the blocks that branch to their own beginning, the one with most of an instruction."""
    loops: list[list[str]] = []
    name, block = "", list[str]()
    for line in lines:
        if label := LABEL.match(line):
            name, block = label[1], []
            continue
        block.append(line)
        if name and re.split(r"[\s,]+", line)[-1] == name:
            loops.append(block)
            name, block = "", []
    return max(loops, key=lambda loop: count(loop, instruction), default=[])


def count(lines: list[str], instruction: str) -> int:
    """How many lines begin with an instruction."""
    return sum(re.match(instruction, line) is not None for line in lines)


def stack_accesses(lines: list[str]) -> list[str]:
    """What reads or writes the stack; a frame pointer is none of ours (see `has_frame`)."""
    return [line for line in lines if re.search(r"%rsp|\[sp\b", line)]


def has_frame(lines: list[str]) -> bool:
    """Whether a function keeps %rbp for the stack; otherwise it is a register like any other."""
    return any(re.match(r"movq\s+%rsp, %rbp", line) for line in lines)


def called(lines: list[str]) -> set[str]:
    """Names of the functions that are called by name."""
    return {match[1] for line in lines if (match := CALL.match(line))}
