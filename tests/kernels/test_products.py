"""Products of Fourier transforms, along rows or both axes: padding modes, epilogues, lengths."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from functional.case import Case
from functional.check import check, compare, pinned, threads
from kernels.cases import case_of, every_layout
from kernels.layers import TARGETS
from kernels.test_spectra import LAYERS
from kernels.test_spectrum import ROWS_OF_TAPS

from konv.errors import ProblemError
from konv.geometry import Conv
from konv.kernels import spectra, spectrum
from konv.plan import Algorithm
from konv.runtime.choose import choices, choose

EVERY = [(spectrum, line) for line in ROWS_OF_TAPS] + [(spectra, line) for line in LAYERS]
ONE = [(spectrum, "conv1d 2x37x203 o70 k11 p5"), (spectra, "conv2d 2x3x29x50 o35 k9 p4")]


def padded(line: str, mode: Any) -> Case | None:
    """The layer in a padding mode; None if its image has too little for it."""
    case = case_of(line, (True, True))
    try:
        return replace(case, conv=replace(case.conv, mode=mode))
    except ProblemError:
        return None


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("algorithm", [spectrum, spectra], ids=lambda a: str(a.name))
def test_modes(algorithm: Algorithm, mode: Any) -> None:
    lines = [line for each, line in EVERY if each is algorithm and not line.startswith("t")]
    cases = [case for case in (padded(line, mode) for line in lines) if case]
    assert len(cases) > 8
    with pinned(algorithm):
        for case in cases:
            check(case)


@every_layout
@pytest.mark.parametrize("words", ["activation=silu", "activation=relu residual=contiguous"])
@pytest.mark.parametrize(("algorithm", "line"), ONE)
def test_epilogue(algorithm: Algorithm, line: str, words: str, layouts: tuple[bool, bool]) -> None:
    with pinned(algorithm):
        check(case_of(line, layouts, f"bias=contiguous {words}"))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("algorithm", "line"), ONE)
def test_no_image(algorithm: Algorithm, line: str, count: int) -> None:
    with pinned(algorithm), threads(count):
        check(case_of(line.replace(" 2x", " 0x"), (True, True)))


@pytest.mark.parametrize(
    ("algorithm", "line"),
    [
        (spectrum, "conv1d 1x16x1 o16 k101 p100 replicate"),
        (spectrum, "conv1d 1x16x7 o16 k15 p7 circular"),
        (spectra, "conv2d 1x16x1x1 o16 k21 p20 replicate"),
        (spectra, "conv2d 1x3x7x7 o16 k15 p7 circular"),
    ],
)
def test_padding_that_repeats_pixels(algorithm: Algorithm, line: str) -> None:
    """The bound counts them as often as they are read."""
    case = case_of(line, (True, True), "")
    with pinned(algorithm):
        x, w, _ = case.arrays()
        x, w = abs(x), abs(w)
        compare(case, x, w, None, case.function(x, w, **case.arguments))


@pytest.mark.parametrize(
    ("algorithm", "line"),
    [
        (spectrum, "conv1d 1x32x200 o32 k13 p6"),
        (spectra, "conv2d 1x3x64x50 o32 k9 p4"),
    ],
)
def test_images_of_very_different_size(algorithm: Algorithm, line: str) -> None:
    """The bound holds where a tile mixes large outputs with small ones."""
    case = case_of(line, (True, True))
    x, w, b = case.arrays()
    x *= np.where(np.arange(x.shape[-1]) % 40 < 20, 1000, 1).astype("float32")
    with pinned(algorithm):
        compare(case, x, w, b, case.function(x, w, b, **case.arguments))


@pytest.mark.parametrize(
    ("algorithm", "line", "length"),
    [
        (spectrum, "conv1d 1x64x4000 o64 k25 p12", 112),
        (spectrum, "conv1d 1x64x200 o64 k11 p5", 56),
        (spectrum, "conv2d 1x128x20x20 o128 k5x9 p2x4", 28),
        (spectrum, "conv2d 1x128x46x46 o128 k3x9 p1x4", 56),
        (spectrum, "conv2d 1x512x22x22 o4096 k7", 0),  # 1.3 GB of transformed weights
        (spectrum, "conv2d 1x128x14x14 o128 k7 p3", 0),
        (spectra, "conv2d 1x64x56x56 o64 k7 p3", 20),
        (spectra, "conv2d 1x64x48x48 o64 k31 p15", 56),
        (spectra, "conv2d 1x512x22x22 o4096 k7", 0),  # 3.7 GB of transformed weights
        (spectra, "conv2d 1x64x14x14 o64 k7 p3", 0),
    ],
)
def test_the_length_that_suits_an_image(algorithm: Algorithm, line: str, length: int) -> None:
    """Or another plan, where tiles are too few or weights too many."""
    conv, target = Conv.parse(line), TARGETS["avx512"]
    plan = choose(conv, target, True, True)
    assert (plan.algorithm == algorithm.name) == (length > 0)
    if length:
        assert plan.form[-1] == length
        assert plan in choices(conv, target, True, True)
