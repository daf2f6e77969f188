"""A depthwise convolution and a pointwise one after it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from konv.nn.modules import Conv2d


class DepthwiseSeparableConv2d(nn.Module):
    """Two convolutions in the place of one: each channel by itself, then all channels per pixel
    (L. Sifre, 2014; F. Chollet, "Xception", 2017). With a kernel of K x K it takes about K^2 times
    fewer multiplications.

    in_channels, out_channels, kernel_size, stride, padding, dilation, padding_mode
              as of Conv2d, and as if it were one
    bias      of the pointwise convolution, the only one that needs any
    depth_multiplier
              filters for each input channel

    Its layers are `depthwise` and `pointwise`. ValueError where a number fits no layer.

    >>> import torch
    >>> layer = DepthwiseSeparableConv2d(16, 32, 3, stride=2, padding=1)
    >>> layer(torch.ones(1, 16, 8, 8)).shape
    torch.Size([1, 32, 4, 4])
    >>> sum(p.numel() for p in layer.parameters())  # 16 x 9 + 16 x 32 + 32; as one, 4,640
    688
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: Any = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        depth_multiplier: int = 1,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        where = {"device": device, "dtype": dtype}
        between = in_channels * depth_multiplier
        self.depthwise = Conv2d(
            in_channels, between, kernel_size, stride, padding, dilation, in_channels, False,
            padding_mode, **where,
        )  # fmt: skip
        self.pointwise = Conv2d(between, out_channels, 1, bias=bias, **where)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - PyTorch's name
        y: Tensor = self.pointwise(self.depthwise(input))
        return y
