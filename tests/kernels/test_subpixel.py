"""Transposed layers by cells: their geometry, their packed weights, and that they change no bit."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import prod
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from functional.case import Case
from functional.check import check, forget, pinned, small_units, threads
from functional.forms import numbers
from functional.test_problems import LAYOUTS
from geometry.strategies import convs
from hypothesis import given
from kernels.test_packing import drawn, filled, packed  # noqa: F401 - a fixture for all here

from konv import llvm
from konv.geometry import Axis, Conv
from konv.kernels import direct, interleave, subpixel
from konv.kernels.subpixel.grid import Grid, cells_of, shift_of
from konv.plan import Plan
from konv.runtime import execute

Array = np.ndarray[Any, Any]
BOTH = pytest.mark.parametrize("algorithm", [subpixel, interleave], ids=lambda a: str(a.name))

# Kernels that are multiples of the stride or not, crops that begin and end anywhere in a cell, gaps
# between the taps, groups, strides unlike in their axes and 1 on some.
PROBLEMS = [
    "tconv2d 2x5x6x7 o9 k4 s2 p1",
    "tconv2d 1x5x6x7 o17 k2 s2",
    "tconv2d 1x5x6x7 o3 k3 s2 p1 r1",
    "tconv2d 1x4x6x7 o6 k5 s3 p1x2 r2x0 g2",
    "tconv2d 1x5x6x7 o3 k1x2 s3",
    "tconv2d 1x3x5x4 o2 k16 s8 p4",
    "tconv2d 1x3x5x4 o5 k3x4 s1x2 p1 d2x1",
    "tconv2d 1x5x6x1 o3 k4 s4",  # cells of one tap on an axis of one pixel
    "tconv2d 2x5x1x6 o3 k2 s2",
    "tconv2d 2x5x6x7 o20 k2 s2",  # results that leave straight, blocks over the end of a row
    "tconv2d 2x5x6x8 o20 k2 s2",  # pairs that leave straight, whole tiles and parts of one
    "tconv2d 1x5x3x15 o12 k2 s2",
    "tconv1d 1x3x30 o16 k2 s2",
    "tconv3d 1x4x2x3x8 o12 k2 s2",
    "tconv2d 1x5x6x17 o12 k3x2 s3x2",
    "tconv3d 1x4x2x3x5 o12 k2 s2",
    "tconv1d 2x3x9 o8 k4 s4",
    "tconv1d 1x3x19 o3 k10 s5 p3",
    "tconv1d 1x3x9 o2 k7 s3 p4:2",
    "tconv3d 1x3x4x5x3 o4 k4x2x3 s2 p1x0x1",
]
every_problem = pytest.mark.parametrize("line", PROBLEMS)


def takes(algorithm: Any, conv: Conv) -> bool:
    """Whether an algorithm can do it, however badly."""
    says = algorithm.why_not(conv, llvm.detect())
    return says is None or "would multiply more" in says


def results(algorithm: Any, case: Case, x: Any = None) -> Array:
    own, w, b = case.arrays()
    out = case.output()
    arguments = {**case.arguments, **({} if out is None else {"out": out})}

    def choose(conv: Conv, *rest: Any) -> Plan:
        return algorithm.plans(conv, *rest[:3])[0]

    forget()
    with patch.object(execute, "choose", choose):
        return case.canonical(case.function(own if x is None else x, w, b, **arguments))


@BOTH
@pytest.mark.parametrize("layouts", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", ["", " f64"], ids=["float32", "float64"])
@every_problem
def test_the_same_bits_as_direct(line: str, dtype: str, layouts: Any, algorithm: Any) -> None:
    """Each output is the same chain of multiply-adds."""
    conv = Conv.parse(line + dtype)
    if not takes(algorithm, conv):
        return
    case = Case(conv, bias="contiguous", **LAYOUTS[layouts])
    want = results(direct, case)
    assert np.array_equal(results(algorithm, case), want)
    with threads(3), small_units(9, 2):
        assert np.array_equal(results(algorithm, case), want)


@pytest.mark.parametrize("forms", ["", "residual=contiguous bias=contiguous", "residual=out"])
@pytest.mark.parametrize("width", [3, 7, 8, 9, 12, 14, 28, 31])
def test_every_plan_of_any_width(width: int, forms: str) -> None:
    """Rows that tiles fill, that they do not, that are shorter than one: whatever ends them."""
    case = Case.parse(f"tconv2d 2x5x3x{width} o40 k2 s2 / out=contiguous {forms}")
    plans = subpixel.plans(case.conv, llvm.detect(), True, True)
    with pinned(direct, 0):
        want = numbers(check(case))
    for which in range(len(plans)):
        with pinned(subpixel, which):
            assert np.array_equal(numbers(check(case)), want)
            with small_units(24, 4):
                assert np.array_equal(numbers(check(case)), want)


@BOTH
@pytest.mark.parametrize("odd", [np.inf, np.nan])
@every_problem
def test_what_is_not_finite_goes_where_it_does_in_direct(
    line: str, odd: float, algorithm: Any
) -> None:
    """A pixel that is not finite is in the outputs that read it: no lane without the tap takes 0
    times it.
    """
    case = Case(Conv.parse(line), bias="contiguous")
    if not takes(algorithm, case.conv):
        return
    x, *_ = case.arrays()
    middle = tuple(n // 2 for n in x.shape)
    for place in (middle, (0,) * x.ndim, tuple(n - 1 for n in x.shape)):
        spoiled = x.copy()
        spoiled[place] = odd
        want, got = results(direct, case, spoiled), results(algorithm, case, spoiled)
        assert not np.isfinite(want).all()
        assert np.isfinite(want).any()
        assert np.array_equal(got, want, equal_nan=True)


@given(convs(most=9))
def test_cells(conv: Conv) -> None:
    """A sub-pixel's taps and sources, by the grid, are those that the axis says."""
    if any(axis.up > 1 and (axis.stride > 1 or axis.dilation > 1) for axis in conv.axes):
        return
    for aligned in (True, False):
        grid, cells = Grid.of(conv, aligned, True), cells_of(conv, aligned)
        assert grid.full == prod(-(-a.kernel // a.up) for a in conv.axes)
        first = 3 - conv.dims
        for a, (axis, cell) in enumerate(zip(conv.axes, cells.axes, strict=True), start=first):
            if axis.up == 1:
                assert cell == axis
                continue
            numbers = (grid.kernel[a], grid.steps[a], grid.reach[a], grid.first[a])
            check_axis(axis, cell, shift_of(axis, aligned), *numbers)


def check_axis(
    axis: Axis, cell: Axis, shift: int, kernel: int, step: int, reach: int, first: int
) -> None:
    """Every output lies in one cell; none of a cell's sources is missing."""
    assert (kernel, step, reach) == (axis.kernel, axis.up, cell.kernel)
    assert 0 <= shift < step
    assert cell.out == -(-(axis.out + shift) // step)
    for o in range(axis.out):
        j, f = divmod(o + shift, step)
        taps = {first - f + step * t: cell.source(j, t) for t in range(reach)}
        got = {k: source for k, source in taps.items() if 0 <= k < kernel}
        want = {k: axis.source(o, k) for k in range(kernel) if not (o + k - axis.lo) % step}
        assert got == want


def model(conv: Conv, plan: Plan, w: Array, bias: Array) -> Array:
    """Packed numbers after the header, from a dense weight [group][co][ci][kd][kh][kw]: every
    column and tap looked up by itself.
    """
    grid, lanes = Grid.from_form(plan), llvm.detect().lanes(conv.dtype)
    ci, co = conv.ci // conv.groups, conv.co // conv.groups
    w = np.flip(w, axis=tuple(range(2, w.ndim))).reshape(conv.groups, ci, co, *grid.kernel)
    width, subs = plan.vectors * lanes, list(product(*map(range, grid.steps)))
    columns = [(c, s) for c in range(co) for s in subs]
    if not grid.subpixels_first:
        columns = [(c, s) for s in subs for c in range(co)]
    padded = -(-len(columns) // lanes) * lanes
    bits = np.array([-1], "i4" if conv.dtype == "float32" else "i8").view(conv.dtype)[0]
    parts, biases = list[Array](), np.zeros((conv.groups, padded), w.dtype)
    for g in range(conv.groups):
        for k0 in range(0, padded, width):
            wide = min(padded - k0, width)
            block = np.zeros((grid.taps, ci + grid.mixed, wide), w.dtype)
            for k, (c, s) in enumerate(columns[k0 : k0 + wide]):
                for t, ts in enumerate(product(*map(range, grid.reach))):
                    at = [
                        e - f + n * u
                        for e, f, n, u in zip(grid.first, s, ts, grid.steps, strict=True)
                    ]
                    if all(0 <= i < n for i, n in zip(at, grid.kernel, strict=True)):
                        block[t, :ci, k] = w[g, :, c, at[0], at[1], at[2]]
                        block[t, ci:, k] = bits
            parts.append(block.ravel())
        biases[g, : len(columns)] = [bias.reshape(conv.groups, co)[g, c] for c, _ in columns]
    return np.concatenate([*parts, biases.ravel()])


@pytest.mark.parametrize("form", ["contiguous", "last"])
@pytest.mark.parametrize("blocked", [True, False], ids=["contiguous out", "channels-last out"])
@every_problem
def test_packed_weights(line: str, blocked: bool, form: str) -> None:
    """Bit for bit what NumPy says, masks too."""
    for conv in (Conv.parse(line), replace(Conv.parse(line), dtype="float64")):
        if not takes(subpixel, conv):
            continue
        plan = subpixel.plans(conv, llvm.detect(), True, blocked)[0]
        w, bias = drawn(conv, form)
        got, finite = packed(conv, plan, w, bias)
        assert got.tobytes() == model(conv, plan, w, bias).tobytes()
        assert finite == 1
        w[(-1,) * w.ndim] = np.inf
        assert packed(conv, plan, w, bias)[1] == 0


@every_problem
def test_weights_of_sweeps(line: str) -> None:
    """Each block lists where the weights of every source begin, and these are there: every weight
    is in one block, once.
    """
    conv = Conv.parse(line)
    plan = interleave.plans(conv, llvm.detect(), True, True)[0]
    grid, lanes = Grid.from_form(plan), llvm.detect().lanes(conv.dtype)
    w, bias = drawn(conv, "contiguous")
    got, finite = packed(conv, plan, w, bias)
    ci, co, wide = conv.ci // conv.groups, conv.co // conv.groups, plan.vectors * lanes
    blocks = conv.groups * grid.subpixels * -(-co // wide)
    length = (len(got) - blocks * wide) // blocks
    found = list[float]()
    for block in got[: blocks * length].reshape(blocks, length):
        starts = block[: 2 * grid.taps].view(np.int64)
        for start in starts[starts >= 0]:
            found += [n for n in block[start : start + ci * wide] if n]
        assert len(set(starts[starts >= 0])) == (starts >= 0).sum() <= grid.full
    assert sorted(found) == sorted(w.ravel())
    assert finite == 1
    tail = got[blocks * length :]
    assert sorted(tail[tail != 0]) == sorted(np.repeat(bias, grid.subpixels))
