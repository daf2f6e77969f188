"""The algorithms: one file and one row each. Ordered, most special first; the last one never
refuses.
"""

from __future__ import annotations

from konv.kernels import (
    abreast,
    cells,
    depthwise,
    direct,
    fourier,
    interleave,
    panels,
    pencils,
    planar,
    planes,
    shifted,
    spectra,
    spectrum,
    spread,
    subpixel,
    upright,
    winograd,
)
from konv.plan import Algorithm

ALGORITHMS: tuple[Algorithm, ...] = (
    fourier,
    spectra,
    spectrum,
    upright,
    pencils,
    planes,
    spread,
    depthwise,
    winograd,
    cells,
    subpixel,
    interleave,
    abreast,
    shifted,
    planar,
    panels,
    direct,
)


def by_name(name: str) -> Algorithm:
    """The algorithm of that name; StopIteration if there is none."""
    return next(algorithm for algorithm in ALGORITHMS if algorithm.name == name)
