"""How outputs of konv.kernels.strips.pairs follow each other along one axis."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from konv.kernels.strips.form import Form


@dataclass(frozen=True, slots=True)
class Along:
    """How outputs follow each other along an axis, and their slots, in one of the phases that
    dilated taps leave: of those that share slots.
    """

    taps: int
    dilation: int  # from one slot to the next
    outputs: int  # from one output to the next: so many phases there are
    jump: int  # slots from one output's to the next one's

    @classmethod
    def of(cls, form: Form, axis: int) -> Along:
        stride, dilation = form.stride[axis], form.dilation[axis]
        shared = gcd(stride, dilation)
        return cls(form.kernel[axis], dilation, dilation // shared, stride // shared)

    @property
    def fresh(self) -> int:
        """Slots that an output reads and none before it."""
        return min(self.jump, self.taps)

    @property
    def going(self) -> int:
        """Outputs under way behind one."""
        return (self.taps - 1) // self.jump

    def uses(self, slot: int, outputs: int) -> list[tuple[int, int]]:
        """(output, tap) that read a slot, both counted from the first output."""
        found = [(n, slot - n * self.jump) for n in range(outputs)]
        return [(n, tap) for n, tap in found if 0 <= tap < self.taps]
