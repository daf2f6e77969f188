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
from konv.gradient import of_numbers
from konv.nn import batching, operator
from konv.nn.terms import Terms
from konv.pair import Pair, pair

How = Callable[[Any, Any, Any], Any]

# By the number of axes: a bias' gradient is the sum over all but one.
BUT_CHANNELS = {3: (0, 2), 4: (0, 2, 3), 5: (0, 2, 3, 4)}


class Convolution(Function):
    """The conv of a Pair: x (n, ci, *spatial), weight (conv.weight_shape), bias (co,) or None.

    Its padding mode is zeros. `how` computes it where the caller knows a shorter way.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, one: Pair, how: How | None) -> Any:
        return how(x, weight, bias) if how else run(one, x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ARG004 - as Function
        x, weight, _, ctx.pair, _ = inputs
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
        one: Pair = ctx.pair
        if not torch.is_grad_enabled() and _has_storage(dy) and _eager():  # nobody follows these
            if wants_x:
                dx = run(one.adjoint, dy, weight, trains=True)
            if wants_weight:
                dw = of_numbers(one, x, dy, _is_last(weight))
        else:
            if wants_x:
                dx = convolution(dy, weight, None, one.adjoint)
            if wants_weight:
                dw = _gradient(x, dy, one)
        if wants_bias:
            db = torch.sum(dy, BUT_CHANNELS[dy.dim()])
        return dx, dw, db, None, None

    @staticmethod
    def jvp(ctx: Any, x_t: Any, weight_t: Any, bias_t: Any, *_: Any) -> Any:
        x, weight = ctx.saved_tensors
        one: Pair = ctx.pair
        conv, parts = one.conv, []
        if x_t is not None:
            parts.append(convolution(x_t, weight, None, one))
        if weight_t is not None:
            parts.append(convolution(x, weight_t, None, one))
        if bias_t is not None:
            bias_t = bias_t.reshape(-1, *(1,) * conv.dims)
            parts.append(bias_t if parts else bias_t.expand(conv.out_shape).clone())
        return sum(parts[1:], parts[0]) if parts else None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Any, weight: Any, bias: Any, one: Pair, _: Any) -> Any:
        size, conv = info.batch_size, one.conv
        at_x, at_weight, at_bias, *_ = in_dims
        x, weight, wide, unfold = batching.fold(conv, size, x, at_x, weight, at_weight)
        apply: Any = Convolution.apply
        if at_bias is None and wide.co == conv.co:  # one bias for all, as without vmap
            return unfold(apply(x, weight, bias, pair(wide), None)), 0
        y = unfold(apply(x, weight, None, pair(wide), None))
        if bias is not None:
            bias = bias if at_bias is None else bias.movedim(at_bias, 0)
            shape = (1,) if at_bias is None else (size,)
            y = y + bias.reshape(*shape, 1, conv.co, *(1,) * conv.dims)
        return y, 0


class WeightGradient(Function):
    """The gradient of a Pair's conv with respect to its weight: from x and dy, like the weight."""

    @staticmethod
    def forward(x: Tensor, dy: Tensor, one: Pair) -> Any:
        return of_numbers(one, x, dy)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ARG004 - as Function
        x, dy, ctx.pair = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, dy)
        ctx.save_for_forward(x, dy)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        if grad is None:
            return None, None, None
        x, dy = ctx.saved_tensors
        wants_x, wants_dy, _ = ctx.needs_input_grad
        one: Pair = ctx.pair
        return (
            convolution(dy, grad, None, one.adjoint) if wants_x else None,
            convolution(x, grad, None, one) if wants_dy else None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, x_t: Any, dy_t: Any, _: Any) -> Any:
        x, dy = ctx.saved_tensors
        parts = []
        if x_t is not None:
            parts.append(_gradient(x_t, dy, ctx.pair))
        if dy_t is not None:
            parts.append(_gradient(x, dy_t, ctx.pair))
        return sum(parts[1:], parts[0]) if parts else None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Any, dy: Any, one: Pair) -> Any:
        conv = one.conv
        x, dy, wide = batching.fold_gradient(conv, info.batch_size, x, in_dims[0], dy, in_dims[1])
        apply: Any = WeightGradient.apply
        dw = apply(x, dy, pair(wide))
        return dw.unflatten(0, (info.batch_size, conv.weight_shape[0])), 0


class EagerConvolution(Function):
    """Convolution where no transform of torch.func and no forward mode is at work: PyTorch takes 40
    us to bind the arguments of a Function that these may meet.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, one: Pair, how: How | None
    ) -> Any:
        ctx.pair = one
        ctx.save_for_backward(x, weight)
        return how(x, weight, bias) if how else run(one, x, weight, bias)

    backward = Convolution.backward


class EagerWeightGradient(Function):
    """WeightGradient there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dy: Tensor, one: Pair) -> Any:
        ctx.pair = one
        ctx.save_for_backward(x, dy)
        return of_numbers(one, x, dy)

    backward = WeightGradient.backward


def convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, one: Pair, plan: str | None = None
) -> Tensor:
    """Return the conv of a Pair, of x and weight, differentiable."""
    if _by_operator(x, weight):
        y: Tensor = operator.convolution(x, weight, bias, *Terms.of(one.conv))
        return y
    how = None if plan is None else partial(run, one, plan=plan)
    function: Any = EagerConvolution if _eager() else Convolution
    found: Tensor = function.apply(x, weight, bias, one, how)
    return found


def eagerly(x: Tensor, weight: Tensor, bias: Tensor | None, one: Pair, how: How) -> Tensor:
    """The same for plain tensors where no transform and no forward mode is at work.

    By the `apply` in C below that of PyTorch's Function, which takes 4 us to look for wrappers of
    transforms that are over.
    """
    if _wrapped(x) or _wrapped(weight) or (bias is not None and _wrapped(bias)):
        return convolution(x, weight, bias, one)
    y: Tensor = _apply(x, weight, bias, one, how)
    return y


def _gradient(x: Tensor, dy: Tensor, one: Pair) -> Tensor:
    """Return the gradient of the weight, differentiable."""
    conv = one.conv
    if _by_operator(x, dy):
        taps = [axis.kernel for axis in conv.axes]
        dw: Tensor = operator.convolution_weight(x, dy, taps, *Terms.of(conv))
        return dw
    function: Any = EagerWeightGradient if _eager() else WeightGradient
    found: Tensor = function.apply(x, dy, one)
    return found


def _is_last(weight: Tensor) -> bool:
    """Whether it lies channels-last. Its gradient should, too: else autograd copies it, which took
    1.5 of 12 ms of a step of 512@7 3x3.
    """
    return weight.dim() > 2 and weight.stride(1) == 1 and weight.stride(-1) == weight.shape[1] > 1


def _eager() -> bool:
    """Whether numbers are all that is wanted: no transform, no forward mode, no dispatch mode."""
    return forward_ad._current_level < 0 and not _transforms() and not _modes()


def _by_operator(*tensors: Tensor) -> bool:
    """Whether somebody is at work who takes operators apart, but knows no Function: a dispatch
    mode, or PyTorch's older vmap, which autograd.grad(is_grads_batched=True) still uses.
    """
    return not _transforms() and (_modes() > 0 or not all(map(_has_storage, tensors)))


_modes = torch._C._len_torch_dispatch_stack
_transforms = torch._C._are_functorch_transforms_active
_has_storage = torch._C._has_storage
_wrapped = torch._C._functorch.is_functorch_wrapped_tensor
_apply: Any = super(Function, EagerConvolution).apply

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
