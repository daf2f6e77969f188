"""What the steps of konv.kernels.nested count in a unit, and where its parts of scratch lie."""

from __future__ import annotations

from typing import Any

from konv.kernels.strips.form import Form
from konv.kernels.words import Words
from konv.llvm import I8, Pointer
from konv.plan import Plan


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
        self.all_rows = (self.rows + (plan.vectors - 1)) // plan.vectors * plan.vectors
        self.tall, self.broad = self.rows + (deep - 1), self.columns + (wide - 1)
        self.width = (self.broad - 1) * 4 + 7  # pixels of a row under the tiles
        self.pitch = self.padded + (wide - 1)  # of V, in vectors
        self.plane = (self.all_rows + (deep - 1)) * self.pitch
        self.sums = self.all_rows * self.padded  # of M


def part(job: Words, unit: Words, name: str, real: Any) -> Pointer:
    """A part of this thread's scratch."""
    return (unit.pointer("scratch", I8) + job[name]).cast(real)
