"""Convolutions that PyTorch can differentiate, as often and in as many ways as it likes.

A convolution C(x, w) is linear in each of its two arguments, and so is its weight gradient
W(x, dy). With C* for the adjoint, which uses the very same weight, <.,.> for the sum of products:

    <C(x, w), dy> = <x, C*(dy, w)> = <w, W(x, dy)>

so the gradients of either are the other and convolutions again,

    y = C(x, w)       dx = C*(dy, w)       dw = W(x, dy)
    v = W(x, dy)      dx = C*(dy, v')      d(dy) = C(x, v')       v' the gradient of v

and two Functions are closed under differentiation. Forward mode follows from linearity too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from konv.dispatch import run
from konv.geometry import Conv
from konv.gradient import of_numbers
from konv.nn import batching, operator
from konv.nn.terms import Terms

How = Callable[[Any, Any, Any], Any]


class Convolution(Function):
    """`conv` of x (n, ci, *spatial) with weight (conv.weight_shape) and bias (co,) or None.

    The padding mode of `conv` is zeros. `how` computes it where the caller knows a shorter way.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, conv: Conv, how: How | None) -> Any:
        return how(x, weight, bias) if how else run(conv, x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ARG004 - as Function
        x, weight, _, ctx.conv, _ = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight)
        ctx.save_for_forward(x, weight)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> Any:
        dx = dw = db = None
        if dy is None:
            return dx, dw, db, None, None
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, *_ = ctx.needs_input_grad
        conv: Conv = ctx.conv
        if wants_x:
            dx = convolution(dy, weight, None, conv.adjoint())
        if wants_weight:
            dw = _gradient(x, dy, conv)
        if wants_bias:
            db = dy.sum((0, *range(2, dy.dim())))
        return dx, dw, db, None, None

    @staticmethod
    def jvp(ctx: Any, x_t: Any, weight_t: Any, bias_t: Any, *_: Any) -> Any:
        x, weight = ctx.saved_tensors
        conv: Conv = ctx.conv
        parts = []
        if x_t is not None:
            parts.append(convolution(x_t, weight, None, conv))
        if weight_t is not None:
            parts.append(convolution(x, weight_t, None, conv))
        if bias_t is not None:
            bias_t = bias_t.reshape(-1, *(1,) * conv.dims)
            parts.append(bias_t if parts else bias_t.expand(conv.out_shape).clone())
        return sum(parts[1:], parts[0]) if parts else None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Any, weight: Any, bias: Any, conv: Conv, _: Any) -> Any:
        size = info.batch_size
        at_x, at_weight, at_bias, *_ = in_dims
        x, weight, wide, unfold = batching.fold(conv, size, x, at_x, weight, at_weight)
        apply: Any = Convolution.apply
        if at_bias is None and wide.co == conv.co:  # one bias for all, as without vmap
            return unfold(apply(x, weight, bias, wide, None)), 0
        y = unfold(apply(x, weight, None, wide, None))
        if bias is not None:
            bias = bias if at_bias is None else bias.movedim(at_bias, 0)
            shape = (1,) if at_bias is None else (size,)
            y = y + bias.reshape(*shape, 1, conv.co, *(1,) * conv.dims)
        return y, 0


class WeightGradient(Function):
    """The gradient of `conv` with respect to its weight: from x and dy, like the weight."""

    @staticmethod
    def forward(x: Tensor, dy: Tensor, conv: Conv) -> Any:
        return of_numbers(conv, x, dy)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ARG004 - as Function
        x, dy, ctx.conv = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, dy)
        ctx.save_for_forward(x, dy)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        if grad is None:
            return None, None, None
        x, dy = ctx.saved_tensors
        wants_x, wants_dy, _ = ctx.needs_input_grad
        conv: Conv = ctx.conv
        return (
            convolution(dy, grad, None, conv.adjoint()) if wants_x else None,
            convolution(x, grad, None, conv) if wants_dy else None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, x_t: Any, dy_t: Any, _: Any) -> Any:
        x, dy = ctx.saved_tensors
        parts = []
        if x_t is not None:
            parts.append(_gradient(x_t, dy, ctx.conv))
        if dy_t is not None:
            parts.append(_gradient(x, dy_t, ctx.conv))
        return sum(parts[1:], parts[0]) if parts else None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Any, dy: Any, conv: Conv) -> Any:
        x, dy, wide = batching.fold_gradient(conv, info.batch_size, x, in_dims[0], dy, in_dims[1])
        apply: Any = WeightGradient.apply
        dw = apply(x, dy, wide)
        return dw.unflatten(0, (info.batch_size, conv.weight_shape[0])), 0


class EagerConvolution(Function):
    """Convolution where no transform of torch.func and no forward mode is at work: PyTorch takes 40
    us to bind the arguments of a Function that these may meet.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, conv: Conv, how: How | None
    ) -> Any:
        ctx.conv = conv
        ctx.save_for_backward(x, weight)
        return how(x, weight, bias) if how else run(conv, x, weight, bias)

    backward = Convolution.backward


class EagerWeightGradient(Function):
    """WeightGradient there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dy: Tensor, conv: Conv) -> Any:
        ctx.conv = conv
        ctx.save_for_backward(x, dy)
        return of_numbers(conv, x, dy)

    backward = WeightGradient.backward


def convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, conv: Conv, plan: str | None = None
) -> Tensor:
    """Return `conv` of x and weight, differentiable."""
    if _batched(x, weight):
        y: Tensor = operator.convolution(x, weight, bias, *Terms.of(conv))
        return y
    how = None if plan is None else partial(run, conv, plan=plan)
    function: Any = EagerConvolution if _eager() else Convolution
    found: Tensor = function.apply(x, weight, bias, conv, how)
    return found


def _gradient(x: Tensor, dy: Tensor, conv: Conv) -> Tensor:
    """Return the gradient of the weight, differentiable."""
    if _batched(x, dy):
        taps = [axis.kernel for axis in conv.axes]
        dw: Tensor = operator.convolution_weight(x, dy, taps, *Terms.of(conv))
        return dw
    function: Any = EagerWeightGradient if _eager() else WeightGradient
    found: Tensor = function.apply(x, dy, conv)
    return found


def _eager() -> bool:
    return forward_ad._current_level < 0 and not _transforms()


def _batched(*tensors: Tensor) -> bool:
    """Whether PyTorch's older vmap is at work, which autograd.grad(is_grads_batched=True) still
    uses: it takes operators apart, but knows no Function.
    """
    return not _transforms() and not all(map(_has_storage, tensors))


_transforms = torch._C._are_functorch_transforms_active
_has_storage = torch._C._has_storage

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.nn.functional.relu,
    "relu6": torch.nn.functional.relu6,
    "silu": torch.nn.functional.silu,
    "hardswish": torch.nn.functional.hardswish,
    "gelu": torch.nn.functional.gelu,
}


def finish(y: Tensor, activation: str, slope: float, residual: Tensor | None) -> Tensor:
    """Return activation(y + residual), out of PyTorch's own functions, which it differentiates."""
    if residual is not None:
        y = y + residual
    if activation == "leaky_relu":
        return torch.nn.functional.leaky_relu(y, slope)
    if activation == "gelu_tanh":
        return torch.nn.functional.gelu(y, approximate="tanh")
    return ACTIVATIONS[activation](y) if activation else y
