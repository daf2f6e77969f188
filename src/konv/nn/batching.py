"""Many convolutions of one shape as a single one: the rules of vmap.

With m the mapped axis: where only x has it, m images are one larger batch; where the weight has it
too, m layers side by side are one with m times the channels and m times the groups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from konv.geometry import Conv


def fold(
    conv: Conv, m: int, x: Tensor, at_x: int | None, weight: Tensor, at_weight: int | None
) -> tuple[Tensor, Tensor, Conv, Callable[[Tensor], Tensor]]:
    """Return x, weight and Conv of the one convolution, and what makes (m, n, co, *) of its result.

    at_x, at_weight: the mapped axis of each, None without one.
    """
    if at_weight is None:
        if at_x is None:
            return x, weight, conv, lambda y: y.unsqueeze(0).expand(m, *y.shape)
        x = x.movedim(at_x, 0).flatten(0, 1)
        return x, weight, conv.with_batch(m * conv.n), lambda y: y.unflatten(0, (m, conv.n))
    weight = weight.movedim(at_weight, 0).flatten(0, 1)
    x = channels(x, at_x, m)
    return x, weight, side_by_side(conv, m), lambda y: y.unflatten(1, (m, conv.co)).movedim(1, 0)


def fold_gradient(
    conv: Conv, m: int, x: Tensor, at_x: int | None, dy: Tensor, at_dy: int | None
) -> tuple[Tensor, Tensor, Conv]:
    """Return x, dy and Conv of the one weight gradient, whose first axis is (m, first axis)."""
    return channels(x, at_x, m), channels(dy, at_dy, m), side_by_side(conv, m)


def side_by_side(conv: Conv, m: int) -> Conv:
    """Return m layers as one: m times the channels, m times the groups."""
    return replace(conv, ci=m * conv.ci, co=m * conv.co, groups=m * conv.groups)


def channels(x: Any, at: int | None, m: int) -> Tensor:
    """Return (n, m * c, *spatial) of x with the mapped axis `at`, or of m times the same x."""
    x = x.unsqueeze(1).expand(-1, m, *x.shape[1:]) if at is None else x.movedim(at, 1)
    folded: Tensor = x.flatten(1, 2)
    return folded
