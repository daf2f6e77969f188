"""PyTorch's layers of convolution, computed by konv.

Each is a subclass of PyTorch's own, with its constructor, initial weights, state_dict, repr and
hooks; only the computation is konv's. What PyTorch's constructors refuse is taken besides: padding
"same" with a stride, "causal", (lo, hi) pairs, and every padding mode for transposed layers.
"""

from __future__ import annotations

from functools import lru_cache
from inspect import signature
from typing import Any

from torch import Tensor, nn

from konv.geometry.padding import amounts, check_mode
from konv.nn.doors import convolution
from konv.nn.unscripted import Unscripted


def construct(layer: Any, base: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Call the constructor of `base`, PyTorch's class; what it would refuse is set afterwards."""
    given = signature(base.__init__).bind(layer, *arguments, **named).arguments
    del given["self"]
    padding, mode = given.get("padding", 0), given.get("padding_mode", "zeros")
    pairs = isinstance(padding, list | tuple) and any(isinstance(p, list | tuple) for p in padding)
    beyond = pairs or (isinstance(padding, str) and (layer._transposed or padding != "valid"))
    if beyond:
        given["padding"] = 0
    if layer._transposed and mode != "zeros":
        given["padding_mode"] = "zeros"
    base.__init__(layer, **given)
    if beyond:
        dims = len(layer.kernel_size)
        layer.padding = tuple(map(tuple, padding)) if pairs else padding
        amounts(layer.padding, (1,) * dims, (1,) * dims, layer.stride, layer._transposed)
    layer.padding_mode = check_mode(mode)
    share_settings(layer)


def share_settings(layer: Any) -> None:
    """Let equal layers hold the same tuples: a call recognises objects at once, and must else look
    into them, for (True, 1.0) equals (1, 1).
    """
    own = layer.__dict__
    for name in ("stride", "padding", "dilation", "output_padding"):
        value = own.get(name)
        if type(value) is tuple and all(type(entry) is int for entry in value):
            own[name] = _shared(value)


_shared = lru_cache(maxsize=1024)(tuple)  # the first that was equal


def parameters(layer: Any) -> tuple[Any, Any]:
    """Weight and bias, from where they mostly are: __getattr__ of nn.Module takes 0.5 us for each.

    A weight that is computed (parametrizations, weight norm) is an attribute instead.
    """
    own = layer._parameters
    if "weight" in own and "bias" in own:
        return own["weight"], own["bias"]
    return layer.weight, layer.bias


class Ordinary(Unscripted):
    """What Conv1d, Conv2d and Conv3d share."""

    _transposed = False

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - PyTorch's name
        weight, bias = parameters(self)
        y: Tensor = self._conv_forward(input, weight, bias)
        return y

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[misc]
        share_settings(self)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 - PyTorch's name
        layer: Any = self
        y: Tensor = convolution(
            input, weight, bias, len(layer.kernel_size), False, layer.stride, layer.padding,
            layer.dilation, layer.groups, 0, None, layer.padding_mode,
        )  # fmt: skip
        return y


class Transposed(Unscripted):
    """What ConvTranspose1d, ConvTranspose2d and ConvTranspose3d share."""

    _transposed = True

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[misc]
        share_settings(self)

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:  # noqa: A002
        layer: Any = self
        dims = len(layer.kernel_size)
        more = layer.output_padding
        if output_size is not None:
            more = 0
            output_size = tuple(output_size)
        y: Tensor = convolution(
            input, *parameters(layer), dims, True, layer.stride, layer.padding,
            layer.dilation, layer.groups, more, output_size, layer.padding_mode,
        )  # fmt: skip
        return y


class Conv1d(Ordinary, nn.Conv1d):
    """Convolution of sequences (n, ci, w) or (ci, w): torch.nn.Conv1d, computed by konv. See
    Conv2d.

    >>> import torch
    >>> Conv1d(4, 8, 3, padding="causal")(torch.ones(2, 4, 10)).shape
    torch.Size([2, 8, 10])
    """

    __signature__ = signature(nn.Conv1d)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        construct(self, nn.Conv1d, arguments, named)


class Conv2d(Ordinary, nn.Conv2d):
    """Convolution of images (n, ci, h, w) or (ci, h, w): torch.nn.Conv2d, computed by konv.

    Same arguments, defaults, initial weights (by the same seed), state_dict and repr; gradients of
    every order, forward mode, torch.func, torch.compile and torch.export. padding is besides
    "causal", "same" with a stride, or ((lo, hi), (lo, hi)).

    float32, float64, float16 and bfloat16 on the CPU are konv's; other dtypes and devices, sparse
    tensors and subclasses are computed by PyTorch. ProblemError (a RuntimeError and ValueError)
    for an input that does not fit, before anything is computed.

    >>> import torch
    >>> layer = Conv2d(3, 16, 3, stride=2, padding="same")
    >>> layer
    Conv2d(3, 16, kernel_size=(3, 3), stride=(2, 2), padding=same)
    >>> layer(torch.ones(1, 3, 15, 8)).shape
    torch.Size([1, 16, 8, 4])
    """

    __signature__ = signature(nn.Conv2d)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        construct(self, nn.Conv2d, arguments, named)


class Conv3d(Ordinary, nn.Conv3d):
    """Convolution of volumes (n, ci, d, h, w): torch.nn.Conv3d, computed by konv. See Conv2d.

    >>> import torch
    >>> Conv3d(1, 2, 2, padding=((0, 1), (1, 0), (0, 0)))(torch.ones(1, 1, 4, 4, 4)).shape
    torch.Size([1, 2, 4, 4, 3])
    """

    __signature__ = signature(nn.Conv3d)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        construct(self, nn.Conv3d, arguments, named)


class ConvTranspose1d(Transposed, nn.ConvTranspose1d):
    """Transposed convolution of sequences: torch.nn.ConvTranspose1d, computed by konv. See
    ConvTranspose2d.

    >>> import torch
    >>> ConvTranspose1d(1, 2, 4, stride=2, padding=1)(torch.ones(1, 1, 5)).shape
    torch.Size([1, 2, 10])
    """

    __signature__ = signature(nn.ConvTranspose1d)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        construct(self, nn.ConvTranspose1d, arguments, named)


class ConvTranspose2d(Transposed, nn.ConvTranspose2d):
    """Transposed convolution of images: torch.nn.ConvTranspose2d, computed by konv.

    As Conv2d. padding, which crops the result, may be ((lo, hi), (lo, hi)) too, and padding_mode
    "reflect", "replicate" or "circular": what the kernel reads beside the image.

    >>> import torch
    >>> layer = ConvTranspose2d(8, 4, 3, stride=2, padding=1)
    >>> layer(torch.ones(1, 8, 5, 5)).shape
    torch.Size([1, 4, 9, 9])
    >>> layer(torch.ones(1, 8, 5, 5), output_size=(10, 10)).shape
    torch.Size([1, 4, 10, 10])
    """

    __signature__ = signature(nn.ConvTranspose2d)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        construct(self, nn.ConvTranspose2d, arguments, named)


class ConvTranspose3d(Transposed, nn.ConvTranspose3d):
    """Transposed convolution of volumes: torch.nn.ConvTranspose3d, computed by konv. See
    ConvTranspose2d.

    >>> import torch
    >>> ConvTranspose3d(2, 1, 2, stride=2)(torch.ones(1, 2, 3, 3, 3)).shape
    torch.Size([1, 1, 6, 6, 6])
    """

    __signature__ = signature(nn.ConvTranspose3d)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        construct(self, nn.ConvTranspose3d, arguments, named)
