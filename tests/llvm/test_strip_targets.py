"""Depthwise kernels compiled for machines that the tests do not run on: their tiles stay in
registers, and nothing is called that is not theirs.
"""

from __future__ import annotations

import re
from functools import cache

import pytest
from llvm.assembly import MACHINES, MULTIPLY_ADD, Machine, called, count, functions, inner_loop

from konv.geometry import Conv
from konv.kernels import fourier, pencils, planes, spectrum, upright
from konv.kernels.fourier.fit import of_length
from konv.kernels.strips.form import FEW
from konv.llvm import assembly, describe
from konv.plan import Algorithm

ROADS = {
    "planes": (planes, True),
    "pencils": (pencils, False),
    "fourier": (fourier, False),
    "upright": (upright, False),
}
INTERLACED = {"interlaced": (planes, False)}
VECTOR = re.compile(r"%[xyz]mm|\bq\d|\bv\d")

each_machine = pytest.mark.parametrize("machine", MACHINES, ids=str)


@cache
def compiled(machine: Machine, road: str, line: str) -> list[dict[str, list[str]]]:
    """The functions of each of a layer's plans."""
    algorithm: Algorithm
    algorithm, layout = (ROADS | INTERLACED)[road]
    target = describe(machine.triple, machine.cpu, "")
    plans = algorithm.plans(Conv.parse(line), target, layout, layout)
    return [functions(assembly(algorithm.emit(plan, target))) for plan in plans]


def spills(lines: list[str]) -> list[str]:
    """Vectors that are written to the stack."""
    return [
        line
        for line in lines
        if VECTOR.search(line)
        and re.search(r"^v?mov\w+\s+%[xyz]mm\d+,.*%rsp|^st[rp]\s.*\[sp", line)
    ]


def loops(lines: list[str]) -> list[str]:
    """What lies between the first and the last multiply-add."""
    at = [i for i, line in enumerate(lines) if re.match(r"v?fm(add|la)|mulp", line)]
    return lines[at[0] : at[-1]] if at else []


@pytest.mark.parametrize("taps", ["k3 p1", "k3 p2 d2", "k5 p2", "k7 p3", "k31 p15"])
@pytest.mark.parametrize("road", ["planes", "pencils"])
@each_machine
def test_tiles_stay_in_registers(machine: Machine, road: str, taps: str) -> None:
    """No sum of a tile inside the image leaves its register; where lanes are masked, on 16
    registers, a few weights may.
    """
    allowed = {"sse": 45, "avx2": 6}.get(machine.family, 2)
    line, counts = f"conv2d 1x64x56x56 o64 {taps} g64", list[int]()
    for each in compiled(machine, road, line):
        found = each["lines"]
        whole = count(found, MULTIPLY_ADD[machine.family, "float32"])
        # One plan of AVX-512 has half vectors, and those only.
        half = count(found, MULTIPLY_ADD["avx2", "float32"]) if machine.family == "avx512" else 0
        assert max(whole, half) >= 21, "whole registers are multiplied and added"
        counts.append(whole)
        assert len(spills(loops(found))) <= allowed, spills(loops(found))
    halves = machine.family == "avx512" and road == "planes" and int(taps[1:].split()[0]) <= FEW
    assert sum(each < 21 for each in counts) == halves


@pytest.mark.parametrize("taps", ["k1x9 p0x4", "k1x31 p0x15", "k1x41 p0x20", "k21x1 p10x0"])
@each_machine
def test_rows_of_many_taps_stay_in_registers(machine: Machine, taps: str) -> None:
    """A tap for all outputs in turn, and at the border a slot for all that read it."""
    allowed = {"sse": 8, "avx2": 4}.get(machine.family, 2)
    for each in compiled(machine, "pencils", f"conv2d 1x64x56x56 o64 {taps} g64"):
        assert len(spills(loops(each["lines"]))) <= allowed, spills(loops(each["lines"]))


@pytest.mark.parametrize("taps", ["k3 p1", "k5 p2"])
@each_machine
def test_channels_side_by_side_stay_in_registers(machine: Machine, taps: str) -> None:
    """Every tap of four rows, its weights read beside what they are multiplied with."""
    found = compiled(machine, "interlaced", f"conv2d 1x3x56x56 o3 {taps} g3")
    narrow = describe(machine.triple, machine.cpu, "").vector_bytes < planes.MASKS
    assert len(found) == (not narrow)
    for each in found:
        lines = each["lines"]
        assert count(lines, MULTIPLY_ADD[machine.family, "float32"]) >= 4 * int(taps[1]) ** 2
        assert len(spills(loops(lines))) <= 2


@each_machine
def test_transforms_stay_in_registers(machine: Machine) -> None:
    """Those of 8 and 9 numbers: a pair of registers each, 4 in 9 of them spilled where there are
    16.
    """
    conv, target = (
        Conv.parse("conv2d 1x64x56x56 o64 k31 p15 g64"),
        describe(machine.triple, machine.cpu, ""),
    )
    (plan,) = fourier.plans(conv, target, True, True)
    found = functions(assembly(fourier.emit(of_length(plan, 72), target)))
    for name, most in {"to_bins": 20, "to_pixels": 20, "column": 58}.items():
        products = count(found[name], MULTIPLY_ADD[machine.family, "float32"])
        assert products >= most, "whole registers are multiplied and added"
        allowed = {"avx512": 0, "neon": 6}.get(machine.family, most)
        assert len(spills(found[name])) <= allowed, spills(found[name])


@each_machine
def test_complex_products_stay_in_registers(machine: Machine) -> None:
    """Two sums of each tile and vector, two products each: no number is negated on its own."""
    target = describe(machine.triple, machine.cpu, "")
    (plan,) = spectrum.plans(Conv.parse("conv1d 1x64x900 o64 k11 p5"), target, True, True)
    found = functions(assembly(spectrum.emit(plan, target)))[f"products_{plan.vectors}"]
    instruction = MULTIPLY_ADD[machine.family, "float32"]
    loop = inner_loop(found, instruction)
    if machine.family in ("avx2", "avx512"):
        of_tile = plan.pixels * plan.vectors
        assert count(loop, instruction) == 3 * of_tile
        assert len([line for line in loop if line.startswith("vfnmadd")]) == of_tile
        assert not [line for line in loop if line.startswith("vxor")]
    assert len(spills(loop)) <= (machine.family == "avx2")


@each_machine
def test_a_row_of_taps_stays_in_registers(machine: Machine) -> None:
    """Every tap for every output of a tile, with the pixels that they share."""
    (each,) = compiled(machine, "upright", "conv2d 1x64x56x56 o64 k7 p3 g64")
    found = each["outputs"]
    target = describe(machine.triple, machine.cpu, "")
    columns = upright.TILES[target.vector_bytes, target.registers]
    assert count(found, MULTIPLY_ADD[machine.family, "float32"]) >= 7 * columns
    inner = loops(found)[: 12 * 7 * columns // 5]
    assert not spills(inner)


@pytest.mark.parametrize("road", ROADS)
@each_machine
def test_calls_nothing_of_others(machine: Machine, road: str) -> None:
    every = compiled(machine, road, "conv2d 1x64x56x56 o64 k31 p15 g64")
    assert every
    for found in every:
        calls = set().union(*map(called, found.values())) - found.keys()
        assert calls <= {"memcpy", "memset", "bzero"}


def test_spills_are_seen() -> None:
    """The tests above can fail."""
    assert spills(
        ["vmovups\t%zmm3, 64(%rsp)", "str\tq0, [sp, #16]", "vmovups\t64(%rsp), %zmm3"]
    ) == [
        "vmovups\t%zmm3, 64(%rsp)",
        "str\tq0, [sp, #16]",
    ]
