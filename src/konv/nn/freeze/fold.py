"""A layer as plain numbers - geometry, weight, bias - with its batch normalisation folded in.

In evaluation mode batch normalisation is y = (x - mean) / sqrt(var + eps) * gamma + beta, a factor
and an offset for each channel. Behind a convolution the factor goes into the weights and the rest
into the bias:

    w' = w s        b' = (b - mean) s + beta        s = gamma / sqrt(var + eps)

computed in float64 and rounded once. A transposed layer keeps its output channels on the second
axis of the weight, group by group.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from konv.geometry import Conv
from konv.nn import modules, norms
from konv.nn.freeze.trace import is_replaced

ORDINARY: tuple[type[nn.Module], ...] = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, modules.Conv1d, modules.Conv2d, modules.Conv3d,
)  # fmt: skip
TRANSPOSED: tuple[type[nn.Module], ...] = (
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    modules.ConvTranspose1d, modules.ConvTranspose2d, modules.ConvTranspose3d,
)  # fmt: skip
NORMS: dict[type[nn.Module], int] = {
    nn.BatchNorm1d: 1, nn.BatchNorm2d: 2, nn.BatchNorm3d: 3,
    norms.BatchNorm1d: 1, norms.BatchNorm2d: 2, norms.BatchNorm3d: 3,
}  # fmt: skip
DTYPES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}
OUTPUTS = 32  # an axis: the size that a layer is shown at; it computes any


class Numbers(NamedTuple):
    """What a frozen layer computes with."""

    conv: Conv
    weight: Tensor
    bias: Tensor | None


def is_convolution(module: Any) -> bool:
    """Whether it is one of the six layers, PyTorch's or konv's, that konv can compute."""
    return why_not(module) is None


def why_not(module: Any) -> str | None:
    """Why konv leaves a module alone, None if it takes it."""
    if class_of(module) not in ORDINARY + TRANSPOSED:
        return f"{type(module).__name__} is not one of torch.nn's own six"
    if is_replaced(module):
        return "its forward was replaced"
    for name in ("weight", "bias"):
        if name not in module._parameters and not is_parametrized(module, name):
            return f"its {name} is no parameter: a hook computes it"
    weight = module.weight
    if weight.dtype not in DTYPES:
        return f"its weight is {weight.dtype}"
    if weight.device.type != "cpu" or weight.layout is not torch.strided:
        return f"its weight is {weight.layout} on {weight.device}"
    if module.padding == "same" and set(module.stride) != {1}:
        return "its padding depends on the size of the image"
    return None


def class_of(module: nn.Module) -> type:
    """The module's class; where parametrizations have put one over it, that below."""
    kind = type(module)
    return kind.__bases__[0] if is_parametrized(module) else kind


def numbers(module: Any, norm: Any = None) -> Numbers:
    """The layer with the batch normalisation behind it, in evaluation mode."""
    conv = conv_of(module)
    weight, bias = module.weight.detach(), module.bias
    if norm is None:
        return Numbers(conv, weight.clone(), None if bias is None else bias.detach().clone())
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    offset = -norm.running_mean.double() if bias is None else bias.double() - norm.running_mean
    offset = offset.detach() * scale
    if norm.bias is not None:
        offset = offset + norm.bias.detach().double()
    return Numbers(conv, _scaled(weight, scale, conv).to(weight.dtype), offset.to(weight.dtype))


def _scaled(weight: Tensor, scale: Tensor, conv: Conv) -> Tensor:
    """The weight in float64 with each output channel times its factor."""
    wide, ones = weight.double(), (1,) * conv.dims
    if not conv.transposed:
        return wide * scale.view(-1, 1, *ones)
    groups = conv.groups
    by_group = wide.view(groups, conv.ci // groups, conv.co // groups, *weight.shape[2:])
    return (by_group * scale.view(groups, 1, -1, *ones)).view_as(weight)


def conv_of(module: Any) -> Conv:
    """The geometry of one of PyTorch's layers, at some size at which it has outputs."""
    transposed = class_of(module) in TRANSPOSED
    padding = module.padding
    reach = [d * (k - 1) + 1 for k, d in zip(module.kernel_size, module.dilation, strict=True)]
    sizes = [r + OUTPUTS * s for r, s in zip(reach, module.stride, strict=True)]
    if transposed:
        sizes = [OUTPUTS + 2 * r for r in reach]  # padding of any amount leaves outputs
    more: dict[str, Any] = {"output_padding": module.output_padding} if transposed else {}
    return Conv.of(
        (1, module.in_channels, *sizes),
        module.out_channels,
        tuple(module.kernel_size),
        tuple(module.stride),
        padding if isinstance(padding, str) else tuple(padding),
        tuple(module.dilation),
        module.groups,
        transposed=transposed,
        padding_mode=module.padding_mode,
        dtype=DTYPES[module.weight.dtype],
        **more,
    )
