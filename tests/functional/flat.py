"""Cases of layers that are matrix products (konv.runtime.flat)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from functional.case import Case

LINES = (
    "conv2d {}x7x4x3 o37 k4x3", "conv2d {}x40x1x1 o70 k1", "conv1d {}x5x9 o19 k9 s4",
    "conv3d {}x3x2x3x4 o33 k2x3x4", "conv2d {}x1x4x5 o16 k4x5 p0:3x0 s9",
    "tconv2d {}x7x1x1 o9 k4x3", "tconv2d {}x30x1x1 o70 k2 s2", "tconv1d {}x6x1 o40 k5",
    "tconv3d {}x3x1x1x1 o5 k2x2x3", "tconv2d {}x20x1x1 o40 k1", "tconv2d {}x5x1x1 o300 k4",
)  # fmt: skip
EITHER = "contiguous", "last"


def flat_cases(dtypes: tuple[str, ...] = ("",)) -> Iterator[Case]:
    """One image and several, every array in either format."""
    for line, n, x, w, bias, dtype in product(LINES, (1, 5), EITHER, EITHER, (0, 1), dtypes):
        bias_form = " bias=contiguous" if bias else ""
        yield Case.parse(f"{line.format(n)} {dtype} / x={x} w={w}{bias_form}")
