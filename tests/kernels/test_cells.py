"""Winograd's tiles over the cells of a transposed layer: results, packed weights, and what is
refused.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from functional.case import Case
from functional.check import small_units, threads
from functional.test_problems import LAYOUTS
from kernels.test_packing import drawn, filled, packed  # noqa: F401 - a fixture for all here
from kernels.test_subpixel import results

from konv import llvm, reference, rounding
from konv.geometry import Conv
from konv.kernels import cells
from konv.kernels.subpixel.grid import Grid
from konv.kernels.winograd.count import widths
from konv.kernels.winograd.transforms import transforms
from konv.plan import Plan
from konv.runtime.choose import choose

Array = np.ndarray[Any, Any]

# Tiles that are full or not, blocks of columns that are, channels that fill vectors or not; cells
# that are cropped on either side.
PROBLEMS = [
    "tconv2d 1x21x11x11 o3 k16 s8",
    "tconv2d 2x16x7x5 o2 k32x16 s16x8",
    "tconv2d 1x19x6x9 o5 k16 s8 p8",
    "tconv2d 1x16x3x7 o4 k8 s4 p2",
    "tconv2d 2x16x5x4 o3 k16 s8 p3x4 r0x5",
    "tconv2d 1x24x4x4 o8 k4 s2",
]
every_problem = pytest.mark.parametrize("line", PROBLEMS)


@pytest.mark.parametrize("which", [0, -1], ids=["3 cells", "2 cells"])
@pytest.mark.parametrize("layouts", LAYOUTS, ids=str)
@every_problem
def test_results(line: str, layouts: Any, which: int) -> None:
    """Within the bound in every layout, and the same bits whatever a unit holds."""
    conv = Conv.parse(line)
    case = Case(conv, bias="contiguous", **LAYOUTS[layouts])

    class Those:
        """The algorithm with one of its plans."""

        @staticmethod
        def plans(*arguments: Any) -> tuple[Any, ...]:
            found = cells.plans(*arguments)
            return (found[which],) if found else (choose(*arguments),)

    got, (x, w, b) = results(Those, case), case.arrays()
    want = reference.im2col(conv, case.canonical(x), w, b)
    assert (np.abs(got - want) <= rounding.tolerance(conv, case.canonical(x), w, b, "cells")).all()
    with threads(3), small_units(9, 2):
        assert np.array_equal(results(Those, case), got)


@every_problem
def test_packed_weights(line: str) -> None:
    """Every column's taps, transformed in double precision and rounded once."""
    conv, target = Conv.parse(line), llvm.detect()
    w, bias = drawn(conv, "contiguous")
    for blocked, which in product((False, True), (0, -1)):
        if not cells.plans(conv, target, True, blocked):
            continue
        plan = cells.plans(conv, target, True, blocked)[which]
        got, finite = packed(conv, plan, w, bias)
        assert finite == 0
        want, biases = model(conv, plan, w, bias)
        assert np.allclose(got[: want.size], want, rtol=1e-6, atol=1e-6 * np.abs(w).max())
        assert np.array_equal(got[want.size :][: biases.size], biases)


def model(conv: Conv, plan: Plan, w: Array, bias: Array) -> tuple[Array, Array]:
    """[block][point][ci][column], and the biases of all columns."""
    grid, lanes = Grid.of(conv, True, plan.blocked), llvm.detect().lanes("float32")
    taps = np.flip(w, axis=tuple(range(2, w.ndim))).reshape(conv.ci, conv.co, *grid.kernel)
    subs = list(product(*map(range, grid.steps)))
    columns = [(c, s) for c in range(conv.co) for s in subs]
    if not grid.subpixels_first:
        columns = [(c, s) for s in subs for c in range(conv.co)]
    over, along = (np.array(t.parts[0].short.filters()) for t in transforms(plan))
    u = np.empty((len(over) * len(along), conv.ci, len(columns)))
    for k, (c, (_, h, v)) in enumerate(columns):
        rows = [grid.first[1] - h + grid.steps[1] * t for t in range(2)]
        along_row = [grid.first[2] - v + grid.steps[2] * t for t in range(2)]
        g = taps[:, c, 0][:, rows][:, :, along_row].astype(float)
        u[:, :, k] = np.einsum("ar,crs,bs->abc", over, g, along).reshape(len(u), conv.ci)
    parts, at = list[Array](), 0
    for vectors in widths(len(columns) // lanes, plan):
        parts.append(u[:, :, at : at + vectors * lanes].ravel())
        at += vectors * lanes
    return np.concatenate(parts).astype("f4"), np.array([bias[c] for c, _ in columns], "f4")


REFUSED = {
    "tconv2d 1x21x28x28 o21 k16 s8 f64": "float32 only",
    "tconv2d 1x8x28x28 o21 k16 s8": "16 channels in",
    "tconv2d 1x32x28x28 o32 k16 s8 g2": "in one group",
    "tconv2d 1x21x28x28 o21 k16 s7": "twice their stride",
    "tconv2d 1x128x16x16 o64 k4 s2 p1": "steps of two",
    "tconv2d 1x21x6x6 o21 k16x32 s8x16": "would save",
    "tconv2d 1x512x9x9 o512 k16 s8": "transformed weights",
}


@pytest.mark.parametrize("line", REFUSED)
def test_refused(line: str) -> None:
    """In words that say what is in the way."""
    assert REFUSED[line] in str(cells.why_not(Conv.parse(line), llvm.detect()))


def test_heads_of_a_network_are_taken() -> None:
    """FCN's layers that enlarge scores, in both layouts; where 8 sub-pixels fill a vector, all."""
    lines = ["tconv2d 1x21x16x16 o21 k64 s32", "tconv2d 1x21x34x34 o21 k32 s16 p8"]
    lines += ["tconv2d 1x21x70x70 o21 k16 s8"] * (llvm.detect().lanes("float32") <= 8)
    for line in lines:
        for layout in (False, True):
            plan = choose(Conv.parse(line), llvm.detect(), layout, layout)
            assert plan.algorithm == "cells"
