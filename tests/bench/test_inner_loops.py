"""bench/inner_loops.py finds the loops that llvm-mca is asked about. It is not asked here."""

from __future__ import annotations

import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from konv.kernels.strips.form import STACK

ROOT = Path(__file__).resolve().parents[2]


def load() -> ModuleType:
    spec = spec_from_file_location("inner_loops", ROOT / "bench" / "inner_loops.py")
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    sys.modules["inner_loops"] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


script = load()
CORE = {core.cpu: core for core in script.CORES}
KERNEL = {kernel[1]: kernel[1:] for kernel in reversed(script.KERNELS)}  # the first of each


@pytest.mark.parametrize("cpu", ["znver4", "haswell", "neoverse-v1", "apple-m1"])
def test_the_loop_of_a_register_tile(cpu: str) -> None:
    """As many multiply-adds as the tile has sums, times the input channels of a turn."""
    plan, lines = script.kernel_loop(*KERNEL["direct"], CORE[cpu])
    assert script.multiply_adds(lines) == 4 * plan.pixels * plan.vectors
    assert re.match(r"j|b\.|cb", lines[-1]), "it ends where it begins anew"
    assert sum(line.startswith(("j", "b.")) for line in lines) == 1


def test_the_products_of_winograd_not_its_transforms() -> None:
    plan, lines = script.kernel_loop(*KERNEL["winograd"], CORE["skylake-avx512"])
    assert script.multiply_adds(lines) == 4 * plan.pixels * plan.vectors


@pytest.mark.parametrize("algorithm", ["planes", "pencils"])
@pytest.mark.parametrize("cpu", ["znver4", "apple-m1"])
def test_a_tile_with_branches_is_gone_through_once(algorithm: str, cpu: str) -> None:
    """Nine taps of seven outputs, or of one in each row of a stack, the way that masks nothing."""
    plan, lines = script.kernel_loop(*KERNEL[algorithm], CORE[cpu])
    assert script.multiply_adds(lines) == 9 * (STACK if algorithm == "pencils" else plan.pixels)
    assert not any("{z}" in line for line in lines), "no load is masked"


NESTED = """
f:
	movq	%rdi, %rax
.LBB0_1:                                # outer
	vfmadd231ps	%ymm0, %ymm1, %ymm2
.LBB0_2:                                # inner
	vfmadd231ps	%ymm0, %ymm1, %ymm3
	cmpq	%rax, %rcx
	je	.LBB0_4
# %bb.3:
	vfmadd231ps	%ymm0, %ymm1, %ymm4
	vfmadd231ps	%ymm0, %ymm1, %ymm5
	jmp	.LBB0_5
.LBB0_4:
	vaddps	%ymm0, %ymm1, %ymm4
.LBB0_5:
	addq	$1, %rcx
	jl	.LBB0_2
# %bb.6:
	vfmadd231ps	%ymm0, %ymm1, %ymm6
	vfmadd231ps	%ymm0, %ymm1, %ymm6
	vfmadd231ps	%ymm0, %ymm1, %ymm6
	jl	.LBB0_1
# %bb.7:
	retq
"""


def test_the_innermost_and_its_heaviest_way() -> None:
    """Not the loop around it, though that has more; not the branch that adds only."""
    blocks = script.functions(NESTED)["f"]
    assert sorted(map(len, script.loops(blocks).values())) == [4, 6]
    lines = script.main_loop(blocks)
    assert [line.split()[0] for line in lines] == [
        "vfmadd231ps", "cmpq", "je", "vfmadd231ps", "vfmadd231ps", "jmp", "addq", "jl",
    ]  # fmt: skip


def test_no_loop() -> None:
    assert (
        script.main_loop(script.functions("f:\n\tvfmadd231ps\t%ymm0, %ymm1, %ymm2\n\tretq\n")["f"])
        == []
    )


def test_the_document_has_every_kernel_on_every_core() -> None:
    """As the script would write it; what it says of them takes llvm-mca."""
    text = (ROOT / "docs" / "inner-loops.md").read_text("utf-8")
    tables = text.partition(script.BEGIN)[2].partition(script.END)[0]
    assert re.findall(r"^## (.+)$", tables, re.MULTILINE) == list(CORE)
    for label, *_ in script.KERNELS:
        assert tables.count(f"| {label} | ") == len(CORE)


def test_without_llvm_mca_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="apt-get install llvm-19"):
        script.tool()


def test_the_newest_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("llvm-mca", "llvm-mca-9", "llvm-mca-19", "llvm-mca-14"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert script.tool() == str(tmp_path / "llvm-mca-19")
