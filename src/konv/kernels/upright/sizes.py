"""What the steps of konv.kernels.upright count in a unit."""

from __future__ import annotations

from konv.kernels.strips.form import Form
from konv.kernels.words import Words
from konv.plan import Plan

POINTS = 7  # of a tile of 4 outputs and 4 taps


def deep_of(form: Form) -> int:
    """Blocks of four rows of taps."""
    return -(-form.kernel[1] // 4)


class Sizes:
    """Counts of a unit that the steps share, as values."""

    def __init__(self, plan: Plan, form: Form, unit: Words) -> None:
        columns = unit["length", 2]
        self.rows = (unit["length", 1] + 3) // 4  # of tiles of outputs
        self.padded = (columns + (plan.pixels - 1)) // plan.pixels * plan.pixels
        self.width = columns + (form.kernel[2] - 1)  # pixels of a row under the outputs
        self.pitch = self.padded + (form.kernel[2] - 1)  # of a point's row, in vectors
