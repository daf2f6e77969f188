"""Groups abreast: whole and partial tiles, cells of several groups or vectors, strips of every
layout; and what inner loops became.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from functional.case import Case
from functional.check import check, pinned, small_units
from functional.forms import numbers
from kernels.layers import LAYOUTS, PROBLEMS, TARGETS
from llvm.assembly import (
    MACHINES,
    MULTIPLY_ADD,
    Machine,
    count,
    functions,
    has_frame,
)

from konv import llvm
from konv.geometry import Conv
from konv.kernels import abreast
from konv.kernels.abreast.cut import Cells, Cut
from konv.kernels.abreast.tile import emit_tiles
from konv.llvm import Module, assembly, describe

FORMS = (
    "",
    "x=last out=last",
    "x=last out=last residual=out bias=contiguous",
    "out=contiguous residual=out bias=contiguous",
)
# Rows shorter than a tile, of two sizes of tiles, of many; steps, dilation; modes; 1 and 3 axes;
# double precision; fewer inputs than outputs, three, one; groups of several vectors.
LINES = (
    "conv2d 2x16x9x27 o16 k3 p1 g4",
    "conv2d 1x32x7x7 o32 k3 p1 g2",
    "conv2d 2x16x13x33 o16 k3 s2 p1 g2",
    "conv2d 1x16x8x5 o16 k3 p2 d2 g4",
    "conv2d 1x16x9x12 o32 k2x5 s1x3 p1x2 g4",
    "conv2d 2x16x7x16 o16 k3 p1 g4 reflect",
    "conv2d 1x8x6x13 o16 k3x7 p1x3 g8",
    "conv1d 2x32x77 o32 k5 p2 g8",
    "conv3d 1x16x4x6x11 o16 k3 p1 g4",
    "conv2d 1x24x9x14 o24 k3 p1 g6 f64",
    "conv2d 2x24x9x7 o32 k3 p1 g8",
    "conv2d 2x8x9x6 o16 k3 p1 g8",
)
HOST = llvm.detect()


@pytest.mark.parametrize("forms", FORMS)
@pytest.mark.parametrize("line", LINES)
def test_right_whole_and_in_small_units(line: str, forms: str) -> None:
    """The same bits however work is cut."""
    case = Case.parse(f"{line} / {forms}")
    assert abreast.why_not(case.conv, HOST) is None
    with pinned(abreast, 0):
        want = numbers(check(case))
        with small_units():
            assert np.array_equal(numbers(check(case)), want)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_units_hold_every_cell_and_output_once(target: Any) -> None:
    """And strips have a slot for each source that a box reads."""
    for conv in PROBLEMS:
        if abreast.why_not(conv, target) is not None:
            continue
        for layouts in LAYOUTS:
            (plan,) = abreast.plans(conv, target, *layouts)
            cells = Cells.of(conv, plan, target)
            assert cells.count * cells.groups == conv.groups
            assert cells.count * cells.vectors * target.lanes(conv.dtype) == conv.co
            assert cells.count * cells.wide == conv.ci
            for threads in (1, 2, 64):
                cut = Cut(conv, plan, target, threads)
                assert cut.chunk * cut.chunks >= cells.count > cut.chunk * (cut.chunks - 1)
                for line in cut.lines:
                    assert line.box * line.boxes >= line.count > line.box * (line.boxes - 1)
                    axis, outputs = line.axis, range(line.box)
                    taps = [k * axis.dilation for k in range(axis.kernel)]
                    read = {o * axis.stride + tap for o in outputs for tap in taps}
                    assert len(read) <= cut.slots(line)


def target_of(machine: Machine) -> Any:
    return describe(machine.triple, machine.cpu, "")


@pytest.mark.parametrize("machine", MACHINES, ids=str)
@pytest.mark.parametrize("co", [4, 8, 32])
def test_sums_stay_in_registers(machine: Machine, co: int) -> None:
    """Of the longest tile: all multiply-adds of whole vectors, none through the stack."""
    target = target_of(machine)
    conv = Conv.of((1, 16 * co, 28, 28), 16 * co, kernel=3, padding=1, groups=16)
    (plan,) = abreast.plans(conv, target, False, False)
    module = Module(target, "tile")
    emit_tiles(module, plan, plan.pixels)
    (lines,) = functions(assembly(module)).values()
    instruction = MULTIPLY_ADD[machine.family, "float32"]
    sums = 3 * plan.pixels
    added = plan.pixels if machine.family == "sse" else 0  # 0 at the end, by the same instruction
    assert count(lines, instruction) == sums + added
    assert not has_frame(lines)
    if machine.family.startswith("avx"):  # results are put in order, inputs load into their lanes
        assert count(lines, r"v(perm|shuf|unpck|blend)") == plan.pixels * (plan.form[3] > 1)
