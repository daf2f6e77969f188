"""Which machine is this? The one place that asks LLVM and the operating system."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import llvmlite
from llvmlite import binding as llvm

from konv.target import Target

# (feature, vector bytes, vector registers), widest first; a processor is what its features say.
_WIDTHS = {
    "x86_64": (("avx512f", 64, 32), ("fma", 32, 16), ("sse2", 16, 16)),
    "aarch64": (("neon", 16, 32),),
}


@cache
def initialize() -> None:
    """Make LLVM able to emit for this machine and for every other it was built with."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


@cache
def detect() -> Target:
    """The machine this process runs on.

    `KONV_CPU` names another processor of the same architecture to emit for (`haswell` for AVX2 on a
    machine that has AVX-512, `x86-64` for plain SSE2): for bug reports and comparisons.
    """
    initialize()
    triple = llvm.get_process_triple()
    cpu = os.environ.get("KONV_CPU", "")
    if cpu:
        return describe(triple, cpu, "")
    try:
        features = llvm.get_host_cpu_features().flatten()
    except RuntimeError:  # LLVM cannot read them on some ARM systems: the name alone then decides
        features = ""
    return describe(triple, llvm.get_host_cpu_name(), features)


def describe(triple: str, cpu: str, features: str) -> Target:
    """The Target of a processor by LLVM's name for it, here or elsewhere.

    `features` ("+fma,-avx512f") may add to what the name implies, and take away. On ARM a vector
    is a NEON register everywhere: SVE registers, of no fixed width, would want other kernels.

    >>> describe("x86_64-unknown-linux-gnu", "znver4", "").lanes("float32")
    16
    >>> describe("x86_64-unknown-linux-gnu", "znver4", "-avx512f").lanes("float32")
    8
    >>> describe("aarch64-unknown-linux-gnu", "neoverse-v1", "").lanes("float32")
    4
    """
    initialize()
    arch = triple.split("-", 1)[0].replace("arm64", "aarch64")
    wanted = tuple(sorted(set(features.split(",")) - {""}))
    for feature, width, registers in _WIDTHS.get(arch, ()):
        if feature in ("sse2", "neon") or _has(triple, cpu, wanted, feature):
            return Target(triple, cpu, wanted, width, registers, l2_bytes())
    return Target(triple, cpu, wanted, 16, 16, l2_bytes())


def _has(triple: str, cpu: str, features: tuple[str, ...], feature: str) -> bool:
    """Whether a processor has a feature: by its list if that mentions it, else by trying it.

    LLVM tells no one what a processor's name implies, but it shows: it multiplies and adds 16
    floats in one zmm register, or 8 in one ymm register, only where the feature is there.
    """
    if f"+{feature}" in features or f"-{feature}" in features:
        return f"+{feature}" in features
    lanes, register = (16, "zmm") if feature == "avx512f" else (8, "ymm")
    ty = f"<{lanes} x float>"
    fma = f"{ty} @llvm.fma.v{lanes}f32"
    text = (
        f'target triple = "{triple}"\ndeclare {fma}({ty}, {ty}, {ty})\n'
        f"define {ty} @f({ty} %a) {{ %b = call {fma}({ty} %a, {ty} %a, {ty} %a) ret {ty} %b }}"
    )
    described = llvm.Target.from_triple(triple)
    machine = described.create_target_machine(cpu=cpu, features=",".join(features))
    assembly = str(machine.emit_assembly(llvm.parse_assembly(text)))
    return "vfmadd" in assembly and register in assembly


def versions() -> str:
    """The versions of LLVM and llvmlite: others make other code of the same program."""
    return f"LLVM {'.'.join(map(str, llvm.llvm_version_info))}, llvmlite {llvmlite.__version__}"


@cache
def l2_bytes() -> int:
    """The second-level cache of one core, in bytes; 512 KiB where the system does not say."""
    for index in range(8):
        folder = Path(f"/sys/devices/system/cpu/cpu0/cache/index{index}")
        try:
            if (folder / "level").read_text().strip() != "2":
                continue
            size = (folder / "size").read_text().strip()
        except OSError:
            continue
        if size.endswith("K") and size[:-1].isdigit():
            return int(size[:-1]) * 1024
    return 512 * 1024
