"""`precision("exact")` forbids what rounds otherwise than a sum of products: layers that such
algorithms take by default are whole numbers then, from whole numbers.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from functional.case import Case
from functional.check import forget
from functional.test_problems import LAYOUTS

import konv
from konv import llvm
from konv.geometry import Conv
from konv.kernels import by_name
from konv.runtime.choose import choose, precision


@pytest.mark.parametrize(
    ("line", "contiguous", "name"),
    [
        ("conv2d 1x33x60x60 o33 k8x9 p4 g33", False, "upright"),
        ("conv2d 1x33x24x24 o33 k31 p15 g33", True, "fourier"),
        ("conv1d 1x128x999 o128 k31 p15", True, "spectrum"),
        ("conv2d 1x32x60x60 o32 k11 p5", True, "spectra"),
    ],
)
def test_exact_forbids_it(line: str, contiguous: bool, name: str) -> None:
    conv, target = Conv.parse(line), llvm.detect()
    assert choose(conv, target, contiguous, contiguous).algorithm == name
    with precision("exact"):
        assert by_name(choose(conv, target, contiguous, contiguous).algorithm).exact
        case = replace(Case.parse(f"{line} / whole"), **LAYOUTS[contiguous, contiguous])
        forget()
        x, w, _ = case.arrays()
        y = (konv.conv1d if conv.dims == 1 else konv.conv2d)(x, w, **case.arguments)
        assert np.array_equal(y, np.rint(y))
