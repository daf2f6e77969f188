"""What the steps of konv.kernels.nested count in a unit, and where its parts of scratch lie."""

from __future__ import annotations

from typing import Any

from konv.kernels.strips.form import Form
from konv.kernels.words import Words
from konv.llvm import I8, Pointer
from konv.plan import Plan

# Rows of tiles whose sums are made at once, of transformed rows in a ring. As many as 2 MB of cache
# holds gave .90 to 1.0 of the speed (Granite Rapids), single ones .91 to 1.0 (the same, AVX2 code).
BAND = 2


def blocks_of(form: Form) -> tuple[int, int]:
    """Blocks of 4 x 4 taps, down and across."""
    return -(-form.kernel[1] // 4), -(-form.kernel[2] // 4)


class Sizes:
    """Counts of a unit that the steps share, as values."""

    def __init__(self, plan: Plan, form: Form, unit: Words) -> None:
        deep, wide = blocks_of(form)
        self.rows = (unit["length", 1] + 3) // 4  # of tiles of outputs
        self.columns = (unit["length", 2] + 3) // 4
        self.padded = (self.columns + (plan.pixels - 1)) // plan.pixels * plan.pixels
        self.broad = self.columns + (wide - 1)
        self.width = (self.broad - 1) * 4 + 7  # pixels of a row under the tiles
        self.pitch = self.padded + (wide - 1)  # of V, in vectors
        self.ring = BAND + deep - 1  # rows of tiles of V that a band reads
        self.plane = self.pitch * self.ring
        self.sums = self.padded * BAND  # of M


def part(job: Words, unit: Words, name: str, real: Any) -> Pointer:
    """A part of this thread's scratch."""
    return (unit.pointer("scratch", I8) + job[name]).cast(real)
