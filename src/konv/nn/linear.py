"""torch.nn.Linear over pixels of channels-last maps, as the pointwise convolution that it is."""

from __future__ import annotations

from torch import Tensor, nn
from torch.compiler import is_compiling

from konv.nn.doors import convolution
from konv.nn.modules import parameters
from konv.nn.unscripted import Unscripted


class Linear(Unscripted, nn.Linear):
    """`torch.nn.Linear`, computed by konv where x (..., in_features) has three axes or more.

    All pixels of all images are one row of an image, which lies channels-last as it is, so nothing
    is copied. One row a sample (classifiers), and what is compiled or exported, is left to
    PyTorch's own operator.

    >>> import torch
    >>> layer = Linear(96, 384)
    >>> layer(torch.ones(2, 14, 14, 96)).shape
    torch.Size([2, 14, 14, 384])
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - PyTorch's name
        if input.dim() < 3 or not input.numel() or is_compiling():
            return super().forward(input)
        weight, bias = parameters(self)
        pixels = input.reshape(1, -1, 1, input.shape[-1]).permute(0, 3, 1, 2)
        y: Tensor = convolution(
            pixels, weight[..., None, None], bias,
            2, False, (1, 1), (0, 0), (1, 1), 1, 0, None, "zeros",
        )  # fmt: skip
        return y.permute(0, 2, 3, 1).contiguous().view(*input.shape[:-1], weight.shape[0])
