"""PyTorch's lazy layers, which learn the number of input channels from the first input; then each
is konv's ordinary layer.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

from torch import nn

from konv.nn import modules
from konv.nn.modules import Ordinary, Transposed, construct


class LazyConv1d(Ordinary, nn.LazyConv1d):  # type: ignore[misc] # as PyTorch's own
    """konv.nn.Conv1d without in_channels."""

    cls_to_become = modules.Conv1d
    __signature__ = signature(nn.LazyConv1d)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        construct(self, nn.LazyConv1d, arguments, named)


class LazyConv2d(Ordinary, nn.LazyConv2d):  # type: ignore[misc] # as PyTorch's own
    """konv.nn.Conv2d without in_channels.

    >>> import torch
    >>> layer = LazyConv2d(8, 3)
    >>> layer(torch.ones(1, 5, 4, 4)).shape, layer
    (torch.Size([1, 8, 2, 2]), Conv2d(5, 8, kernel_size=(3, 3), stride=(1, 1)))
    """

    cls_to_become = modules.Conv2d
    __signature__ = signature(nn.LazyConv2d)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        construct(self, nn.LazyConv2d, arguments, named)


class LazyConv3d(Ordinary, nn.LazyConv3d):  # type: ignore[misc] # as PyTorch's own
    """konv.nn.Conv3d without in_channels."""

    cls_to_become = modules.Conv3d
    __signature__ = signature(nn.LazyConv3d)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        construct(self, nn.LazyConv3d, arguments, named)


class LazyConvTranspose1d(Transposed, nn.LazyConvTranspose1d):  # type: ignore[misc] # as PyTorch's own
    """konv.nn.ConvTranspose1d without in_channels."""

    cls_to_become = modules.ConvTranspose1d
    __signature__ = signature(nn.LazyConvTranspose1d)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        construct(self, nn.LazyConvTranspose1d, arguments, named)


class LazyConvTranspose2d(Transposed, nn.LazyConvTranspose2d):  # type: ignore[misc] # as PyTorch's own
    """konv.nn.ConvTranspose2d without in_channels."""

    cls_to_become = modules.ConvTranspose2d
    __signature__ = signature(nn.LazyConvTranspose2d)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        construct(self, nn.LazyConvTranspose2d, arguments, named)


class LazyConvTranspose3d(Transposed, nn.LazyConvTranspose3d):  # type: ignore[misc] # as PyTorch's own
    """konv.nn.ConvTranspose3d without in_channels."""

    cls_to_become = modules.ConvTranspose3d
    __signature__ = signature(nn.LazyConvTranspose3d)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        construct(self, nn.LazyConvTranspose3d, arguments, named)
