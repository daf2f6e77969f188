"""What is right, economically: PyTorch in float64, and konv.rounding's bound around it."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.nn import functional as nn

from konv import reference, rounding
from konv.geometry import Conv
from konv.geometry.terms import Terms

Array = np.ndarray[Any, Any]

im2col = reference.im2col  # kept here: `tolerance` puts `expected` in its place
TORCH_MODES = {
    "zeros": "constant",
    "reflect": "reflect",
    "replicate": "replicate",
    "circular": "circular",
}
ORDINARY = (nn.conv1d, nn.conv2d, nn.conv3d)
TRANSPOSED = (nn.conv_transpose1d, nn.conv_transpose2d, nn.conv_transpose3d)


def expected(conv: Conv, x: Array, w: Array, bias: Array | None = None) -> Array:
    """The convolution in float64; PyTorch's where PyTorch has it, which all but its padding is.

    Padding is done by hand before or cropped by hand afterwards, so that pairs mean what they say.
    """
    x, w = np.asarray(x, np.float64), np.asarray(w, np.float64)
    if (conv.transposed and conv.mode != "zeros") or any(
        a.up > 1 for a in conv.axes if not conv.transposed
    ):
        return im2col(conv, x, w, bias)  # PyTorch has no such thing
    if 0 in conv.out_shape:
        return np.zeros(conv.out_shape)
    terms = [Terms.of(axis, conv.transposed) for axis in conv.axes]
    tensors = torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(np.ascontiguousarray(w))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two threads for such little work only wait for each other
    try:
        y = (_transposed if conv.transposed else _ordinary)(conv, terms, *tensors)
    finally:
        torch.set_num_threads(threads)
    if bias is not None:
        y = y + torch.from_numpy(np.array(bias, np.float64)).reshape(-1, *[1] * conv.dims)
    found: Array = y.numpy()
    return found


def _ordinary(conv: Conv, terms: list[Terms], x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    pads: list[int] = []
    for axis in reversed(conv.axes):
        unread = (axis.padded - axis.extent) % axis.stride
        pads += [axis.lo, max(axis.hi - unread, min(axis.hi, 0))]
    if any(pads):
        x = nn.pad(x, pads, TORCH_MODES[conv.mode])
    steps = [t.stride for t in terms], 0, [t.dilation for t in terms]
    return ORDINARY[conv.dims - 1](x, w, None, *steps, conv.groups)


def _transposed(conv: Conv, terms: list[Terms], x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    steps = [t.stride for t in terms], 0, 0, conv.groups, [t.dilation for t in terms]
    y = TRANSPOSED[conv.dims - 1](x, w, None, *steps)
    crops: list[int] = []
    for term in reversed(terms):
        crops += [-term.lo, term.output_padding - term.hi]
    # What is added first: a crop may reach into it, and PyTorch refuses to crop more than there is.
    y = nn.pad(y, [max(0, n) for n in crops])
    return nn.pad(y, [min(0, n) for n in crops])


def tolerance(
    conv: Conv, x: Array, w: Array, bias: Array | None = None, algorithm: str = "direct"
) -> Array:
    """`rounding.tolerance`, its formula and its constants; only the sums of products are
    PyTorch's.
    """
    with patch.object(rounding, "im2col", expected):
        return rounding.tolerance(conv, x, w, bias, algorithm)
