"""A problem made small for a plan: at most two register tiles and the same tail on every axis it
blocks.
"""

from __future__ import annotations

from dataclasses import replace

from konv.errors import ProblemError
from konv.geometry import Axis, Conv
from konv.kernels import by_name
from konv.kernels.fourier.fit import outputs_of
from konv.kernels.winograd.transforms import transforms
from konv.plan import Plan
from konv.target import Target


def shrunk(conv: Conv, plan: Plan, target: Target) -> Conv:
    """The same kind of convolution, for which the plan would be the same, with little to
    compute.
    """
    if plan.algorithm in ("planes", "pencils", "spread", "upright", "fourier"):
        return _shrunk_strips(conv, plan, target)
    blocks = by_name(plan.algorithm).blocks(conv, plan, target)
    groups = min(conv.groups, 3) if blocks.groups[1] == 1 else _fewer(*blocks.groups)
    ci = _fewer(conv.ci // conv.groups, blocks.ci[1])
    # Some see more output channels than there are: sub-pixels too.
    each = max(1, blocks.co[0] // (conv.co // conv.groups))
    co = _fewer(conv.co // conv.groups, -(-blocks.co[1] // each))
    small = replace(conv, n=min(conv.n, 2), ci=groups * ci, co=groups * co, groups=groups)
    # Tiles of fewer rows than they have save no multiplications, and Winograd would refuse.
    rows = 2 * transforms(plan)[0].m if plan.algorithm == "winograd" else 3
    return _with_outputs(small, [*[rows] * (conv.dims - 1), 2 * blocks.pixels[1] + 1])


def _shrunk_strips(conv: Conv, plan: Plan, target: Target) -> Conv:
    """The same for kernels that take a channel, or a vector of channels, at a time."""
    lanes = target.lanes(plan.dtype)
    planes = plan.algorithm == "planes" or (plan.algorithm == "spread" and plan.packed)
    each, multiplier = (1, conv.co // conv.ci) if planes else (lanes, 1)
    groups = _fewer(conv.groups, each)
    small = replace(conv, n=min(conv.n, 2), ci=groups, co=groups * multiplier, groups=groups)
    tiles = {2: plan.vectors * lanes, 1: plan.pixels} if planes else {2: plan.pixels, 1: 1}
    if plan.algorithm == "pencils" and plan.form[2] != conv.axes[-1].kernel:  # turned
        tiles = {2: 1, 1: plan.pixels}
    if plan.algorithm == "fourier":  # a tile and a tail along rows
        tiles = {2: outputs_of(conv, plan)[1] // 2, 1: 4}
    if plan.algorithm == "upright":
        tiles = {2: plan.pixels, 1: 4}
    return _with_outputs(small, [2 * tiles.get(a + 3 - conv.dims, 1) + 1 for a in range(conv.dims)])


def _with_outputs(conv: Conv, most: list[int]) -> Conv:
    """The layer with so many outputs of each phase at most, or about as few."""
    small = conv
    for at, count in enumerate(most):
        axes = (*small.axes[:at], _shorter(conv.axes[at], count), *small.axes[at + 1 :])
        try:
            small = replace(small, axes=axes)
        except ProblemError:  # the padding mode cannot fill so much beside so few pixels
            continue
    return small


def _fewer(count: int, tile: int) -> int:
    """Two tiles and what is left over, if there are more."""
    return count if count < 3 * tile else 2 * tile + count % tile


def _shorter(axis: Axis, most: int) -> Axis:
    """As few pixels as give `most` outputs of each phase, or the next number that is possible."""
    count = max(phase.count for phase in axis.phases())
    step = next(axis.phases()).stride  # pixels from one output of a phase to the next
    spare = max(0, count - most)
    spare = min(spare, (axis.size - 1) // step)
    while spare:
        try:
            return replace(axis, size=axis.size - spare * step)
        except ProblemError:  # the kernel no longer fits
            spare -= 1
    return axis
