"""A problem made small for a plan: at most two register tiles and the same tail on every axis it
blocks.
"""

from __future__ import annotations

from dataclasses import replace

from konv.errors import ProblemError
from konv.geometry import Axis, Conv
from konv.kernels.microtile import UNROLL
from konv.kernels.winograd import FEWEST
from konv.plan import Plan
from konv.target import Target


def shrunk(conv: Conv, plan: Plan, target: Target) -> Conv:
    """The same kind of convolution, for which the plan would be the same, with little to
    compute.
    """
    width, per_channel = plan.vectors * target.lanes(plan.dtype), plan.algorithm == "depthwise"
    tiles = plan.algorithm == "winograd"
    groups = _fewer(conv.groups, width) if per_channel else min(conv.groups, 3)
    ci = _fewer(conv.ci // conv.groups, FEWEST if tiles else UNROLL)
    co = conv.co // conv.groups if per_channel else _fewer(conv.co // conv.groups, width)
    small = replace(conv, n=min(conv.n, 2), ci=groups * ci, co=groups * co, groups=groups)
    for at in range(conv.dims):
        most = 2 * plan.pixels + 1 if at == conv.dims - 1 else 3
        if tiles:  # each of several pixels
            m, d = plan.form[0 - 2 * (conv.dims - at)], conv.axes[at].dilation
            most = (most * m + 1) if at == conv.dims - 1 else m * d + 1
        axes = (*small.axes[:at], _shorter(conv.axes[at], most), *small.axes[at + 1 :])
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
