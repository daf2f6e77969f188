"""konv.nn: PyTorch's layers of convolution, with the same weights and the same results, by konv.

>>> import torch, konv.nn
>>> layer = konv.nn.Conv2d(3, 8, 3, padding=1)
>>> layer(torch.ones(1, 3, 5, 5)).sum().backward()
>>> layer.weight.grad.shape
torch.Size([8, 3, 3, 3])
"""

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401 - said here what installs it, once for the whole folder
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError(
        "konv.nn needs PyTorch, which is not installed. Use pip install 'konv[torch]'.",
        name="torch",
    ) from None

from konv.nn.accelerate import report
from konv.nn.functional import (
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)
from konv.nn.lazy import (
    LazyConv1d,
    LazyConv2d,
    LazyConv3d,
    LazyConvTranspose1d,
    LazyConvTranspose2d,
    LazyConvTranspose3d,
)
from konv.nn.linear import Linear
from konv.nn.modules import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
)
from konv.nn.norms import BatchNorm1d, BatchNorm2d, BatchNorm3d
from konv.nn.rectified import ReLU, ReLU6
from konv.nn.separable import DepthwiseSeparableConv2d
from konv.nn.sequence import Sequential

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "DepthwiseSeparableConv2d",
    "LazyConv1d",
    "LazyConv2d",
    "LazyConv3d",
    "LazyConvTranspose1d",
    "LazyConvTranspose2d",
    "LazyConvTranspose3d",
    "Linear",
    "ReLU",
    "ReLU6",
    "Sequential",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "report",
]
