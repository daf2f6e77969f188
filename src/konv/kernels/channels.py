"""How a plan cuts the channels of a layer: groups, blocks of output channels, lanes. One home for
these numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from konv.geometry import Conv
from konv.kernels.microtile import UNROLL
from konv.kernels.pack import HEADER
from konv.plan import Blocks, Packing, Plan
from konv.target import COMPUTED, Target


@dataclass(frozen=True, slots=True)
class Channels:
    """Channels as a kernel sees them; a depthwise kernel sees one group of all channels.

    groups, ci, co    channels of one group
    blocks, tail      full blocks of output channels, and vectors in one more block that differs
                      from them
    padded            output channels rounded up to whole vectors
    reduction         products that make one output
    summed            over the channels of a group, too; a depthwise kernel sums over taps only
    """

    groups: int
    ci: int
    co: int
    blocks: int
    tail: int
    padded: int
    reduction: int
    summed: bool
    dtype: str

    @property
    def packing(self) -> Packing:
        """How `kernels.block_weights` packs their weights."""
        size = HEADER + self.groups * self.padded * (self.reduction + 1) * COMPUTED[self.dtype]
        return Packing(size, self.groups, self.co, self.ci if self.summed else 1)

    @property
    def all_blocks(self) -> int:
        return self.blocks + (self.tail > 0)

    @classmethod
    def of(cls, conv: Conv, plan: Plan, target: Target, per_channel: bool) -> Channels:
        """The channels of a layer under a plan; `per_channel`: nothing is summed over channels."""
        groups = 1 if per_channel else conv.groups
        ci, co, lanes = conv.ci // groups, conv.co // groups, target.lanes(plan.dtype)
        vectors = -(-co // lanes)
        reduction = prod(axis.kernel for axis in conv.axes) * (1 if per_channel else ci)
        blocks = (vectors - plan.tail) // plan.vectors
        return cls(
            groups,
            ci,
            co,
            blocks,
            plan.tail,
            vectors * lanes,
            reduction,
            not per_channel,
            plan.dtype,
        )


def mean_taps(conv: Conv) -> float:
    """Taps of an output, on average over the phases."""
    phases = [tuple(axis.phases()) for axis in conv.axes]
    return prod(sum(len(phase.taps) for phase in each) / len(each) for each in phases)


def blocks(conv: Conv, plan: Plan, target: Target, per_channel: bool) -> Blocks:
    """Register tiles, pixels x vectors of output channels; `per_channel` ones share vectors over
    groups.
    """
    pixels = prod(max(phase.count for phase in axis.phases()) for axis in conv.axes)
    ci, co, width = conv.ci // conv.groups, conv.co // conv.groups, _width(plan, target)
    return Blocks(
        pixels=(pixels, plan.pixels),
        co=(co, 1 if per_channel else width),
        ci=(ci, UNROLL),
        groups=(conv.groups, width if per_channel else 1),
    )


def _width(plan: Plan, target: Target) -> int:
    return plan.vectors * target.lanes(plan.dtype)
