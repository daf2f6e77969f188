"""Products of Fourier transforms, along rows or both axes: padding modes, epilogues, no image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from functional.case import Case
from functional.check import check, compare, pinned, threads
from kernels.cases import case_of, every_layout
from kernels.test_spectra import LAYERS
from kernels.test_spectrum import ROWS_OF_TAPS

from konv.errors import ProblemError
from konv.kernels import spectra, spectrum
from konv.plan import Algorithm

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
