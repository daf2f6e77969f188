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
# Columns of the tile that is taken where that of the plan would be less full; it has BAND rows. One
# row of 7 sums takes as long as 8 would, which hide the four cycles of a multiply-add: 32 x 32
# pixels 1.47 times as fast, 48 x 48 1.17, 64 x 64 1.09 (AVX2 code). Beside two rows of 7 it loads
# more for each sum: with AVX-512 1.21, 1.07 and 1.06, but 40 x 40 .94 (Granite Rapids).
NARROW, HIDDEN, LOADS = 4, 8, 1.2
LEAST = 7  # columns of a plan beside which there is a narrow one; SSE has no registers for that


def blocks_of(form: Form) -> tuple[int, int]:
    """Blocks of 4 x 4 taps, down and across."""
    return -(-form.kernel[1] // 4), -(-form.kernel[2] // 4)


def has_narrow(plan: Plan) -> bool:
    """Whether there is a narrow tile beside the plan's."""
    return plan.pixels >= LEAST


def columns_of(plan: Plan, columns: int) -> tuple[int, bool]:
    """Columns of tiles that products compute for so many, and whether by the narrow tile."""
    wide, narrow = (-(-columns // n) * n for n in (plan.pixels, NARROW))
    if not has_narrow(plan):
        return wide, False
    tiles, each = wide // plan.pixels, max(plan.pixels, HIDDEN // plan.vectors)
    price = narrow if plan.vectors == 1 else narrow * LOADS
    return (narrow, True) if price < tiles * each else (wide, False)


class Sizes:
    """Counts of a unit that the steps share, as values."""

    def __init__(self, form: Form, job: Words, unit: Words) -> None:
        deep, wide = blocks_of(form)
        self.rows = (unit["length", 1] + 3) // 4  # of tiles of outputs
        self.columns = (unit["length", 2] + 3) // 4
        self.padded = job["padded"]
        self.broad = self.columns + (wide - 1)
        self.width = (self.broad - 1) * 4 + 7  # pixels of a row under the tiles
        self.pitch = self.padded + (wide - 1)  # of V, in vectors
        self.ring = BAND + deep - 1  # rows of tiles of V that a band reads
        self.plane = self.pitch * self.ring
        self.sums = self.padded * BAND  # of M


def part(job: Words, unit: Words, name: str, real: Any) -> Pointer:
    """A part of this thread's scratch."""
    return (unit.pointer("scratch", I8) + job[name]).cast(real)
