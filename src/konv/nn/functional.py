"""konv.nn.conv1d ... conv_transpose3d: drop-ins for the functions of torch.nn.functional.

The arguments are PyTorch's, and so are the names; what konv does not compute (other devices and
dtypes, sparse tensors, subclasses of tensors), PyTorch does. padding and padding_mode may be all
that konv.conv2d takes. konv.conv2d and its kin differentiate as well; they take arrays besides,
and raise where these hand over.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from konv.nn.doors import convolution


def conv1d(
    input: Tensor,  # noqa: A002 - PyTorch's name
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Tensor:
    """torch.nn.functional.conv1d: input (n, ci, w) or without n.

    >>> import torch
    >>> conv1d(torch.ones(1, 2, 4), torch.ones(3, 2, 3), padding=1).shape
    torch.Size([1, 3, 4])
    """
    y: Tensor = convolution(
        input, weight, bias, 1, False, stride, padding, dilation, groups, 0, None, padding_mode
    )
    return y


def conv2d(
    input: Tensor,  # noqa: A002 - PyTorch's name
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Tensor:
    """torch.nn.functional.conv2d: input (n, ci, h, w) or without n.

    >>> import torch
    >>> conv2d(torch.ones(1, 2, 4, 4), torch.ones(3, 2, 3, 3), padding=1).shape
    torch.Size([1, 3, 4, 4])
    """
    y: Tensor = convolution(
        input, weight, bias, 2, False, stride, padding, dilation, groups, 0, None, padding_mode
    )
    return y


def conv3d(
    input: Tensor,  # noqa: A002 - PyTorch's name
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Tensor:
    """torch.nn.functional.conv3d: input (n, ci, d, h, w) or without n.

    >>> import torch
    >>> conv3d(torch.ones(1, 2, 4, 4, 4), torch.ones(3, 2, 3, 3, 3), padding=1).shape
    torch.Size([1, 3, 4, 4, 4])
    """
    y: Tensor = convolution(
        input, weight, bias, 3, False, stride, padding, dilation, groups, 0, None, padding_mode
    )
    return y


def conv_transpose1d(
    input: Tensor,  # noqa: A002 - PyTorch's name
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    padding_mode: str = "zeros",
) -> Tensor:
    """torch.nn.functional.conv_transpose1d: input (n, ci, w) or without n.

    >>> import torch
    >>> conv_transpose1d(torch.ones(1, 2, 4), torch.ones(2, 3, 2), stride=2).shape
    torch.Size([1, 3, 8])
    """
    y: Tensor = convolution(
        input, weight, bias, 1, True, stride, padding, dilation, groups, output_padding, None,
        padding_mode,
    )  # fmt: skip
    return y


def conv_transpose2d(
    input: Tensor,  # noqa: A002 - PyTorch's name
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    padding_mode: str = "zeros",
) -> Tensor:
    """torch.nn.functional.conv_transpose2d: input (n, ci, h, w) or without n.

    >>> import torch
    >>> conv_transpose2d(torch.ones(1, 2, 4, 4), torch.ones(2, 3, 2, 2), stride=2).shape
    torch.Size([1, 3, 8, 8])
    """
    y: Tensor = convolution(
        input, weight, bias, 2, True, stride, padding, dilation, groups, output_padding, None,
        padding_mode,
    )  # fmt: skip
    return y


def conv_transpose3d(
    input: Tensor,  # noqa: A002 - PyTorch's name
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    padding_mode: str = "zeros",
) -> Tensor:
    """torch.nn.functional.conv_transpose3d: input (n, ci, d, h, w) or without n.

    >>> import torch
    >>> conv_transpose3d(torch.ones(1, 2, 4, 4, 4), torch.ones(2, 3, 2, 2, 2), stride=2).shape
    torch.Size([1, 3, 8, 8, 8])
    """
    y: Tensor = convolution(
        input, weight, bias, 3, True, stride, padding, dilation, groups, output_padding, None,
        padding_mode,
    )  # fmt: skip
    return y
