"""Panels: whole and partial ones, rows of the weight that fill no tile, images that lie anyhow."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import product
from unittest.mock import patch

import numpy as np
import pytest
import torch
from functional.case import Case
from functional.check import check, pinned, small_units, threads
from functional.forms import numbers

import konv
from konv import llvm
from konv.arrays import dense_strides
from konv.dispatch import forget
from konv.geometry import Conv
from konv.kernels import direct, panels
from konv.kernels.panels.cut import JOB, joined, row_numbers
from konv.runtime.choose import choose

HOST = llvm.detect()
# Pixels fewer than a vector, than a panel, tails of both; channels fewer than a tile, than are
# taken at once, tails of both; groups, images, volumes; planes that share few sets of a cache.
LINES = (
    "conv2d 1x64x13x11 o72 k1",
    "conv2d 3x37x5x7 o45 k1",
    "conv2d 2x3x1x4 o2 k1",
    "conv2d 2x36x5x5 o54 k1 g3",
    "conv3d 1x18x3x4x5 o33 k1",
    "conv2d 2x37x16x16 o45 k1",
    "conv2d 1x20x32x24 o50 k1 g2",
    "conv1d 2x130x99 o257 k1",
    "tconv2d 1x20x9x9 o31 k1",
    "conv2d 1x20x9x19 o31 k1",
)
PLANS = range(len(panels.TILES.get((HOST.vector_bytes, HOST.registers), ())))

pytestmark = pytest.mark.skipif(
    panels.why_not(Conv.parse(LINES[0]), HOST) is not None, reason="too few registers"
)


@pytest.mark.parametrize(
    ("forms", "dtype"),
    [
        ("", "float64"),
        ("bias=contiguous", "float32"),
        ("out=contiguous residual=out bias=contiguous", "float32"),
    ],
)
@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("which", PLANS)
def test_the_bits_of_direct(which: int, line: str, forms: str, dtype: str) -> None:
    """In whole and in small units, on one thread and on three."""
    case = Case.parse(f"{line} / {forms}")
    case = replace(case, conv=replace(case.conv, dtype=dtype))
    with pinned(direct):
        want = numbers(check(case))
    with pinned(panels, which):
        for count in (1, 3):
            with threads(count):
                assert np.array_equal(numbers(check(case)), want)
                with small_units():
                    assert np.array_equal(numbers(check(case)), want)


@pytest.mark.parametrize("line", ["conv2d 2x37x16x16 o45 k1", "conv2d 1x20x16x16 o50 k1 g2"])
def test_images_from_memory(line: str) -> None:
    """Several panels are filled first, rows written along all of them, and what is left over."""
    conv = Conv.parse(line)
    with pinned(direct):
        want = numbers(check(Case.parse(f"{line} /")))
    strides = dense_strides(conv.in_shape, False), dense_strides(conv.out_shape, False)
    plan, cut = panels.plans(conv, HOST, True, True)[0], sys.modules["konv.kernels.panels.cut"]
    box = 2 * plan.vectors + 1  # vectors of two panels and a part of one
    cuts = patch.object(cut, "_cheapest", lambda shape, *_: (box, shape.co))
    with patch.object(cut, "FAR", 0), cuts, pinned(panels):
        words = dict(zip(JOB, panels.work(conv, plan, HOST, *strides, 1).words, strict=True))
        assert words["runs"]
        assert 2 * plan.pixels < words["box"] < 3 * plan.pixels
        forget()
        for count in (1, 3):
            with threads(count):
                assert np.array_equal(numbers(check(Case.parse(f"{line} /"))), want)
    forget()


@pytest.mark.parametrize("across", [1, 2])
def test_parts_of_an_image(across: int) -> None:
    """Rows with a gap between them are rows of their own; pixels with gaps are gathered."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 21, 9, 80, generator=generator)[:, :, 1:7, : 37 * across : across]
    w = torch.randn(19, 21, 1, 1, generator=generator)
    got = konv.conv2d(x, w, plan="panels")
    want = konv.conv2d(x.contiguous(), w, plan="direct")
    assert torch.equal(got, want)


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_activations(activation: str) -> None:
    """Also of the lanes that are written in part."""
    check(Case.parse(f"conv2d 1x20x5x7 o13 k1 / activation={activation} bias=contiguous"))


def test_units_hold_all_outputs() -> None:
    """Boxes are whole vectors, chunks whole tiles, and units all of them, on any number of
    threads.
    """
    for line in ("conv2d 1x1024x14x14 o256 k1", "conv2d 2x16x112x112 o96 k1 g2"):
        conv = Conv.parse(line)
        plans = panels.plans(conv, HOST, True, True)
        assert len(plans) == len(PLANS)
        strides = [dense_strides(shape, False) for shape in (conv.in_shape, conv.out_shape)]
        for plan, count in product(plans, (1, 2, 7)):
            found = panels.work(conv, plan, HOST, strides[0], strides[1], count)
            job = dict(zip(JOB, found.words, strict=True))
            last = job["length"] - job["box"] * (job["boxes"] - 1)
            assert job["box"] % HOST.lanes("float32") == 0
            assert 0 < last <= job["box"] + joined(plan) * HOST.lanes("float32")
            assert job["chunk"] % plan.form[0] == 0
            assert job["parts"] == -(-job["co"] // job["chunk"])
            assert job["units"] == conv.n * job["boxes"] * job["parts"] * conv.groups


def test_rows_share_no_sets() -> None:
    """An odd number of cache lines, with room for all channels."""
    for ci in (1, 16, 17, 64, 1000, 1024):
        row = row_numbers(ci, 4)
        assert row >= ci
        assert row % 32 == 16


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("conv2d 1x8x9x9 o8 k3", "takes layers of one tap in steps of one, without padding"),
        ("conv2d 1x8x9x9 o8 k1 s2", "takes layers of one tap in steps of one, without padding"),
        ("conv2d 1x4096x9x9 o8 k1", "takes up to 2048 input channels a group; here 4096"),
        ("conv2d 1x8x9x9 o8 k1", None),
    ],
)
def test_why_not(line: str, says: str | None) -> None:
    assert panels.why_not(Conv.parse(line), HOST) == says


def test_chosen_where_images_are_large() -> None:
    """Seven by seven pixels leave an eighth of the lanes empty."""
    for line, name in (("1x160x28x28 o64", "panels"), ("1x160x7x7 o960", "direct")):
        conv = Conv.parse(f"conv2d {line} k1")
        assert choose(conv, HOST, True, True).algorithm == name
