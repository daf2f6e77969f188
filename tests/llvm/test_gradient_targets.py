"""Kernels of weight gradients compiled for machines that the tests do not run on: their sums stay
in registers, and nothing is called that is not theirs.
"""

from __future__ import annotations

from typing import Any

import pytest
from llvm.assembly import MACHINES, MULTIPLY_ADD, Machine, called, count, functions, inner_loop
from llvm.test_strip_targets import spills

from konv.geometry import Conv
from konv.kernels import gradient
from konv.kernels.gradient import fourier as gradient_fourier
from konv.kernels.gradient import pencils as gradient_pencils
from konv.kernels.gradient import planar as gradient_planar
from konv.kernels.gradient import rows as gradient_rows
from konv.kernels.gradient import winograd as gradient_winograd
from konv.kernels.gradient.tile import UNROLL
from konv.kernels.gradient.winograd import tile as gradient_winograd_tile
from konv.llvm import assembly, describe

each_machine = pytest.mark.parametrize("machine", MACHINES, ids=str)


def compiled(machine: Machine, kernel: Any, line: str) -> tuple[Any, dict[str, list[str]]]:
    target = describe(machine.triple, machine.cpu, "")
    packed = kernel is not gradient_pencils
    plan = kernel.plan(Conv.parse(line), target, packed, packed)
    found = functions(assembly(kernel.emit(plan, target)))
    calls = set().union(*map(called, found.values())) - found.keys()
    assert calls <= {"memcpy", "memset", "bzero"}, "what else it needs comes through the context"
    return plan, found


@pytest.mark.parametrize("co", [8, 24, 64, 96])
@each_machine
def test_sums_stay_in_registers(machine: Machine, co: int) -> None:
    """Every product of the tile is a whole register's, and no sum is written to the stack."""
    plan, found = compiled(machine, gradient, f"conv2d 1x64x20x20 o{co} k3 p1")
    instruction = MULTIPLY_ADD[machine.family, "float32"]
    loop = inner_loop(found[f"tile_{plan.pixels}x{plan.vectors}"], instruction)
    assert count(loop, instruction) == plan.pixels * plan.vectors * UNROLL
    assert len(spills(loop)) <= (2 if machine.family == "sse" else 0), spills(loop)


@pytest.mark.parametrize("layer", ["96x20x20 o96 k3 p1 g96", "64x20x20 o64 k3 p1 g16"])
@each_machine
def test_planar_sums_stay_in_registers(machine: Machine, layer: str) -> None:
    plan, found = compiled(machine, gradient_planar, f"conv2d 1x{layer}")
    instruction = MULTIPLY_ADD[machine.family, "float32"]
    loop = inner_loop(found[f"tile_{plan.pixels}x{plan.vectors}"], instruction)
    assert count(loop, instruction) == plan.pixels * plan.vectors
    assert len(spills(loop)) <= (2 if machine.family == "sse" else 0), spills(loop)


@pytest.mark.parametrize("layer", ["k3 p1", "k3 s2 p1", "k5 p2", "k7 p3"])
@each_machine
def test_pencils_sums_stay_in_registers(machine: Machine, layer: str) -> None:
    plan, found = compiled(machine, gradient_pencils, f"conv2d 1x64x20x20 o64 {layer} g64")
    rows, taps = plan.form[9:11]
    instruction = MULTIPLY_ADD[machine.family, "float32"]
    loop = inner_loop(found[f"pass_{rows}x{taps}"], instruction)
    assert count(loop, instruction) == plan.pixels * rows * taps
    assert len(spills(loop)) <= (2 if machine.family == "sse" else 0), spills(loop)


@each_machine
def test_transforms_stay_in_registers(machine: Machine) -> None:
    """Where there are 32 of them, but for those of x, which wait for those of dy: 18 and as many
    that are made from them.
    """
    _, found = compiled(machine, gradient_fourier, "conv2d 1x64x56x56 o64 k31 p15 g64")
    instruction = MULTIPLY_ADD[machine.family, "float32"]
    assert count(found["column_products"], instruction) >= 99
    few = {"avx512": 0, "neon": 2}.get(machine.family, 22)
    assert len(spills(found["column_back"])) <= few
    waiting = {"avx512": 49, "neon": 67, "sse": 52}.get(machine.family, 97)
    assert len(spills(found["column_products"])) <= waiting


@pytest.mark.parametrize("layer", ["k3 p1", "k3 s2 p1", "k5 p2", "k7 s2 p3"])
@each_machine
def test_rows_sums_stay_in_registers(machine: Machine, layer: str) -> None:
    plan, found = compiled(machine, gradient_rows, f"conv2d 1x64x60x60 o64 {layer} g64")
    rows, taps = plan.form[9:11]
    instruction = MULTIPLY_ADD[machine.family, "float32"]
    loop = inner_loop(found[f"pass_{plan.pixels}x{rows}x{taps}"], instruction)
    assert count(loop, instruction) == plan.pixels * rows * taps
    assert len(spills(loop)) <= (2 if machine.family == "sse" else 0), spills(loop)


@pytest.mark.parametrize("co", [16, 48, 64])
@each_machine
def test_winograd_sums_stay_in_registers(machine: Machine, co: int) -> None:
    plan, found = compiled(machine, gradient_winograd, f"conv2d 1x64x20x20 o{co} k3 p1")
    instruction = MULTIPLY_ADD[machine.family, "float32"]
    for nr in {plan.vectors, plan.tail or plan.vectors}:
        loop = inner_loop(found[f"block_{nr}"], instruction)
        lanes = describe(machine.triple, machine.cpu, "").lanes("float32")
        tiles = gradient_winograd_tile.unroll(lanes)
        assert count(loop, instruction) == plan.pixels * nr * tiles
        assert len(spills(loop)) <= (2 if machine.family == "sse" else 0), spills(loop)
