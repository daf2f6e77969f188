"""The algorithms: one file and one row each. Ordered, most special first; the last one never refuses."""

from __future__ import annotations

from konv.kernels import direct
from konv.plan import Algorithm

ALGORITHMS: tuple[Algorithm, ...] = (direct,)
