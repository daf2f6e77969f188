"""PyTorch's own convolution, for every padding that konv knows: what an exported model is made of,
so that it loads without konv, and what computes where konv does not.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - as everyone writes it
from torch import Tensor

from konv.arrays import channels_last
from konv.nn.terms import Terms, taps_of

LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, terms: Terms) -> Tensor:
    """Return the convolution of x (n, ci, *spatial) with zeros beside it."""
    if terms.transposed:
        return _transposed(x, weight, bias, terms)
    padding = terms.lo
    if terms.lo != terms.hi or min(terms.lo) < 0:
        x = F.pad(x, flat(terms.lo, terms.hi))
        padding = [0] * len(terms.lo)
    function = CONV[len(padding)]
    return function(x, weight, bias, terms.stride, padding, terms.dilation, terms.groups)


def _transposed(x: Tensor, weight: Tensor, bias: Tensor | None, terms: Terms) -> Tensor:
    """PyTorch crops both sides alike; what goes beyond is cropped or added afterwards."""
    taps, stride, dilation = taps_of(weight), terms.up, terms.dilation
    reach = [(k - 1) * d for k, d in zip(taps, dilation, strict=True)]
    lo = [r - a for r, a in zip(reach, terms.lo, strict=True)]
    hi = [r - b for r, b in zip(reach, terms.hi, strict=True)]
    more = [a - b for a, b in zip(lo, hi, strict=True)]
    most = [max(s, d) for s, d in zip(stride, dilation, strict=True)]
    function = CONV_TRANSPOSE[len(lo)]
    if min(lo) >= 0 and all(0 <= r < m for r, m in zip(more, most, strict=True)):
        return function(x, weight, bias, stride, lo, more, terms.groups, dilation)
    none = [0] * len(lo)
    y = function(x, weight, None, stride, none, none, terms.groups, dilation)
    y = F.pad(y, flat([-a for a in lo], [-b for b in hi]))
    return y if bias is None else y + bias.reshape(-1, *(1,) * len(lo))


def pad(x: Tensor, over: list[tuple[int, int]], mode: str) -> Tensor:
    """Return x with (before, after) pixels beside each spatial axis, as the padding mode fills
    them, in the memory format of x; differentiable, by PyTorch.
    """
    if not any(before or after for before, after in over):
        return x
    y = F.pad(x, flat([a for a, _ in over], [b for _, b in over]), mode)
    if x.dim() > 3 and channels_last(tuple(x.shape), tuple(x.stride())):
        y = y.contiguous(memory_format=LAST[x.dim()])  # which circular padding does not keep
    return y


def flat(lo: list[int], hi: list[int]) -> list[int]:
    """Return amounts of padding as PyTorch's pad takes them: the last axis first."""
    return [a for pair in zip(reversed(lo), reversed(hi), strict=True) for a in pair]
