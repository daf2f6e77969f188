"""PyTorch's three doors: which way a convolution of tensors takes.

    nobody follows it                 konv.dispatch      numbers, at once
    a gradient, forward mode, vmap    gradients.py       autograd.Function
    compile, fake tensors, modes      operator.py        torch.ops.konv
    export, compiled torch.func.grad  aten.py            PyTorch's own operators: loads without konv

Autocast casts at the entry, as PyTorch's own convolutions do. Two kinds of callers: `followed` is
where konv.conv2d and its kin come if any of the last three is the case, `convolution` is for
layers: what konv does not compute (other devices and dtypes, sparse tensors, subclasses) is
computed by PyTorch.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from konv.arrays import kind_of
from konv.checks import Options, check_residual, epilogue, layout_last, problem
from konv.dispatch import convolve
from konv.errors import UnsupportedError
from konv.geometry import Conv
from konv.keys import fixed, type_tree
from konv.nn import aten
from konv.nn.gradients import convolution as differentiable
from konv.nn.gradients import finish
from konv.nn.operator import convolution as operator
from konv.nn.terms import terms
from konv.pair import pair
from konv.target import BYTES

REMEMBERED = 512
_PLAIN = (Tensor, torch.nn.Parameter)
_DTYPES = tuple(getattr(torch, name) for name in BYTES)
_convs: dict[Any, Conv] = {}


def convolution(
    x: Any,
    weight: Any,
    bias: Any,
    dims: int,
    transposed: bool,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    output_padding: Any,
    output_size: Any,
    padding_mode: Any,
) -> Any:
    """Convolve as a drop-in for PyTorch's own: by konv, or where it refuses by PyTorch.

    Each argument by its name: to pass them on as one tuple takes 0.4 us.
    """
    known = type(x) in _PLAIN or (isinstance(x, Tensor) and (_traced() or _fake(x)))
    if known and x.dtype in _DTYPES:
        try:
            return convolve(
                x, weight, bias, None, None, None, dims, transposed, stride, padding, dilation,
                groups, output_padding, output_size, padding_mode, None, None,
            )  # fmt: skip
        except UnsupportedError:
            pass
    options = Options(
        dims, transposed, stride, padding, dilation, groups, output_padding, output_size,
        padding_mode, None,
    )  # fmt: skip
    return _by_pytorch(x, weight, bias, options)


def followed(
    x: Any, weight: Any, bias: Any, activation: Any, residual: Any, *arguments: Any
) -> Any:
    """Convolve tensors of which PyTorch wants more than numbers."""
    if torch.is_autocast_enabled("cpu"):
        x, weight, bias, residual = map(_cast, (x, weight, bias, residual))
        with torch.autocast("cpu", enabled=False):
            return convolve(x, weight, bias, activation, residual, None, *arguments)
    options = Options(*arguments)
    if activation is None and residual is None and options.layout is None:
        return _convolve(x, weight, bias, options, arguments)
    after = epilogue(replace(options, activation=activation), residual is not None)
    last = layout_last(options)
    if last:
        arguments = (*arguments[:-2], None, arguments[-1])
        x, options = x.movedim(-1, -options.dims - 1), replace(options, layout=None)
    kind: Any = kind_of(x)
    numbers = not _traced() and not any(map(_fake, (x, weight, bias, residual)))
    if numbers and residual is not None:
        shape = _result(x, _conv(_batch(x, options), weight, bias, arguments), last)
        check_residual(kind, residual, shape, kind.dtype(x), options)
        kind.refuse(residual, "residual")
    y = _convolve(x, weight, bias, options, arguments)
    y = y.movedim(-options.dims - 1, -1) if last else y
    if not numbers and residual is not None:  # there may be no integers before
        check_residual(kind, residual, tuple(y.shape), kind.dtype(y), options)
    return finish(y, after.activation, after.slope, residual)


def _batch(x: Tensor, options: Options) -> Tensor:
    """x with a batch axis."""
    return x if x.dim() != options.dims + 1 else x.unsqueeze(0)


def _result(x: Tensor, conv: Conv, last: bool) -> tuple[int, ...]:
    """The shape of the result as the user sees it, for an x (n, ci, *spatial) or without n."""
    n, co, *spatial = conv.out_shape
    shape = (*spatial, co) if last else (co, *spatial)
    return shape if x.dim() == conv.dims + 1 else (n, *shape)


def _convolve(x: Tensor, weight: Tensor, bias: Any, options: Options, arguments: Any) -> Tensor:
    if x.dim() == options.dims + 1:
        return _convolve(x.unsqueeze(0), weight, bias, options, arguments).squeeze(0)
    if _traced() or any(_fake(a) for a in (x, weight, bias)):
        return _trace(x, weight, bias, options)
    conv = _conv(x, weight, bias, arguments)
    if conv.mode != "zeros":
        over, padded = _padded(conv)
        x, conv = aten.pad(x, over, conv.mode), padded
    return differentiable(x, weight, bias, pair(conv), options.plan)


def _conv(x: Tensor, weight: Tensor, bias: Any, arguments: Any) -> Conv:
    """The Conv that tensors and arguments describe; remembered."""
    kind: Any = kind_of(x)
    for name, a in (("x", x), ("weight", weight), ("bias", bias)):
        if a is not None:
            kind.refuse(a, name)
    arguments = fixed(arguments)
    key = (
        x.shape, x.dtype, weight.shape, weight.dtype,
        None if bias is None else (bias.shape, bias.dtype),
        arguments, type_tree(arguments),
    )  # fmt: skip
    conv = _convs.get(key)
    if conv is None:
        conv = problem(kind, x, weight, bias, Options(*arguments))
        if len(_convs) >= REMEMBERED:
            _convs.clear()
        _convs[key] = conv
    return conv


@lru_cache(maxsize=REMEMBERED)
def _padded(conv: Conv) -> tuple[list[tuple[int, int]], Conv]:
    """What a padding mode adds before and after each axis, and the layer of what that makes."""
    return [axis.overhang() for axis in conv.axes], conv.padded()


def _trace(x: Tensor, weight: Tensor, bias: Any, options: Options) -> Tensor:
    """While PyTorch traces: konv's operator, or for an export or a compiled torch.func.grad
    PyTorch's own.
    """
    found = terms(kind_of(x), x, weight, options)
    if options.padding_mode != "zeros":
        x = aten.pad(x, found.overhang(), options.padding_mode)
        found = found.padded()
    if torch.compiler.is_exporting() or torch._C._get_tracing_state() is not None or _inside():
        return aten.convolution(x, weight, bias, found)
    y: Tensor = operator(x, weight, bias, *found)
    return y


def _by_pytorch(x: Any, weight: Any, bias: Any, options: Options) -> Any:
    for name, a in (("input", x), ("weight", weight), ("bias", bias)):
        if not isinstance(a, Tensor) and (a is not None or name != "bias"):
            raise TypeError(
                f"{name} is a {type(a).__name__}; konv.nn convolves torch.Tensors. Use "
                f"torch.as_tensor({name}), or konv.conv2d and its kin for arrays."
            )
    if x.dim() == options.dims + 1:
        return _by_pytorch(x.unsqueeze(0), weight, bias, options).squeeze(0)
    found = terms(kind_of(x), x, weight, options)
    if options.padding_mode != "zeros":
        x = aten.pad(x, found.overhang(), options.padding_mode)
        found = found.padded()
    return aten.convolution(x, weight, bias, found)


def _traced() -> bool:
    """Whether PyTorch writes down what is computed, instead of or besides computing it."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return True
    return bool(torch._C._len_torch_dispatch_stack())


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _inside() -> bool:
    """Whether grad or jvp of torch.func is at work, under which PyTorch has no gradients of
    operators that are not its own ("must override the setup_context").
    """
    stack = torch._C._functorch.get_interpreter_stack() or ()
    return any(each.key() != torch._C._functorch.TransformType.Vmap for each in stack)


def _fake(a: Any) -> bool:
    return isinstance(a, torch._subclasses.FakeTensor)


def _cast(a: Any) -> Any:
    """As autocast does: every real number but float64's to the lower precision."""
    if not isinstance(a, Tensor) or not a.is_floating_point() or a.dtype == torch.float64:
        return a
    return a.to(torch.get_autocast_dtype("cpu"))
