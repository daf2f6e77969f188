"""torch.ops.konv.convolution and convolution_weight: konv while PyTorch traces.

torch.compile, fake tensors and dispatch modes see one opaque operator, whose fake results have the
shape and the strides of the real ones. It is differentiable, and its gradients are these operators
again. A call costs several times what the other doors cost, so eager calls do not come this way.

    convolution(x, weight, bias, *terms)               (n, co, *out)
    convolution_weight(x, dy, taps, *terms)            like the weight

with the terms of terms.py: transposed, stride, up, lo, hi, dilation, groups.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from konv.arrays import channels_last, dense_strides
from konv.dispatch import run
from konv.geometry import Axis, Conv
from konv.gradient import of_numbers
from konv.nn import aten, batching
from konv.nn.terms import Terms
from konv.pair import pair
from konv.target import BYTES

TERMS = (
    "bool transposed, SymInt[] stride, SymInt[] up, SymInt[] lo, SymInt[] hi, SymInt[] dilation, "
    "SymInt groups"
)


def _takes(x: Tensor) -> bool:
    return x.device.type == "cpu" and _dtype(x) in BYTES


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _conv(x: Tensor, taps: list[int], co: int, terms: Terms) -> Conv:
    """The Conv of real tensors."""
    n, ci, *sizes = x.shape
    columns = sizes, taps, terms.stride, terms.dilation, terms.lo, terms.hi, terms.up
    axes = tuple(Axis(*numbers) for numbers in zip(*columns, strict=True))
    return Conv(n, ci, co, axes, terms.groups, _dtype(x), "zeros", terms.transposed)


def _co(weight: Tensor, terms: Terms) -> int:
    return weight.shape[1] * terms.groups if terms.transposed else weight.shape[0]


@torch.library.custom_op(
    "konv::convolution",
    mutates_args=(),
    schema=f"(Tensor x, Tensor weight, Tensor? bias, {TERMS}) -> Tensor",
)
def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *numbers: Any) -> Tensor:
    """Convolve; on other devices and dtypes by PyTorch's own operator."""
    terms = Terms(*numbers)
    if not _takes(x):
        return aten.convolution(x, weight, bias, terms)
    conv = _conv(x, list(weight.shape[2:]), _co(weight, terms), terms)
    y: Tensor = run(pair(conv), x, weight, bias)
    return y


@convolution.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, *numbers: Any) -> Tensor:
    y = aten.convolution(x, weight, bias, Terms(*numbers))
    if not _takes(x):
        return y
    pairs = [(tuple(a.shape), tuple(a.stride())) for a in (x, weight)]
    last = x.dim() > 3 and any(channels_last(*pair) for pair in pairs)
    return torch.empty_strided(
        y.shape, dense_strides(tuple(y.shape), last), dtype=x.dtype, device=x.device
    )


@torch.library.custom_op(
    "konv::convolution_weight",
    mutates_args=(),
    schema=f"(Tensor x, Tensor dy, SymInt[] taps, {TERMS}) -> Tensor",
)
def convolution_weight(x: Tensor, dy: Tensor, taps: list[int], *numbers: Any) -> Tensor:
    """Return the gradient of the weight."""
    terms = Terms(*numbers)
    if not _takes(x):
        return _by_autograd(x, dy, taps, terms)
    dw: Tensor = of_numbers(pair(_conv(x, taps, dy.shape[1], terms)), x, dy)
    return dw.contiguous()


def _by_autograd(x: Tensor, dy: Tensor, taps: list[int], terms: Terms) -> Tensor:
    """PyTorch's own, by differentiating its convolution, which is linear in the weight."""
    with torch.enable_grad():
        shape = _weight_shape(x, dy, taps, terms)
        weight = torch.zeros(shape, dtype=x.dtype, device=x.device, requires_grad=True)
        y = aten.convolution(x.detach(), weight, None, terms)
        return torch.autograd.grad(y, weight, dy.detach())[0].contiguous()


def _weight_shape(x: Tensor, dy: Tensor, taps: list[int], terms: Terms) -> tuple[int, ...]:
    a, b = (x, dy) if terms.transposed else (dy, x)
    return (a.shape[1], b.shape[1] // terms.groups, *taps)


@convolution_weight.register_fake
def _(x: Tensor, dy: Tensor, taps: list[int], *numbers: Any) -> Tensor:
    return x.new_empty(_weight_shape(x, dy, taps, Terms(*numbers)))


# --- Gradients ------------------------------------------------------------------------------------


def _setup(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ARG001 - PyTorch names it
    x, weight, _, *numbers = inputs
    ctx.save_for_backward(x, weight)
    ctx.terms = Terms(*numbers)


def _backward(ctx: Any, dy: Tensor) -> Any:
    x, weight = ctx.saved_tensors
    terms: Terms = ctx.terms
    dx = dw = db = None
    taps = list(weight.shape[2:])
    if ctx.needs_input_grad[0]:
        adjoint = terms.adjoint(x.shape[2:], taps, dy.shape[2:])
        dx = convolution(dy, weight, None, *adjoint)
    if ctx.needs_input_grad[1]:
        dw = convolution_weight(x, dy, taps, *terms)
    if ctx.needs_input_grad[2]:
        db = dy.sum((0, *range(2, dy.dim())))
    return dx, dw, db, *(None,) * len(terms)


convolution.register_autograd(_backward, setup_context=_setup)


def _setup_weight(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ARG001
    x, dy, ctx.taps, *numbers = inputs
    ctx.save_for_backward(x, dy)
    ctx.terms = Terms(*numbers)


def _backward_weight(ctx: Any, grad: Tensor) -> Any:
    x, dy = ctx.saved_tensors
    terms: Terms = ctx.terms
    dx = ddy = None
    if ctx.needs_input_grad[0]:
        adjoint = terms.adjoint(x.shape[2:], ctx.taps, dy.shape[2:])
        dx = convolution(dy, grad, None, *adjoint)
    if ctx.needs_input_grad[1]:
        ddy = convolution(x, grad, None, *terms)
    return dx, ddy, None, *(None,) * len(terms)


convolution_weight.register_autograd(_backward_weight, setup_context=_setup_weight)


# --- vmap -----------------------------------------------------------------------------------------


def _vmap(info: Any, in_dims: Any, x: Tensor, weight: Tensor, bias: Any, *numbers: Any) -> Any:
    m, terms = info.batch_size, Terms(*numbers)
    at_x, at_weight, at_bias, *_ = in_dims
    alone = bias if at_bias is None else None
    if at_weight is None and at_x is not None:
        n = x.shape[0 if at_x else 1]
        y = convolution(x.movedim(at_x, 0).flatten(0, 1), weight, alone, *terms)
        y = y.unflatten(0, (m, n))
    elif at_weight is None:
        y = convolution(x, weight, alone, *terms).unsqueeze(0)
        y = y.expand(m, *y.shape[1:])
    else:
        alone, weight = None, weight.movedim(at_weight, 0)
        co = _co(weight[0], terms)
        wide = terms._replace(groups=terms.groups * m)
        y = convolution(batching.channels(x, at_x, m), weight.flatten(0, 1), None, *wide)
        y = y.unflatten(1, (m, co)).movedim(1, 0)
    if bias is not None and alone is None:
        bias = bias.unsqueeze(0) if at_bias is None else bias.movedim(at_bias, 0)
        y = y + bias.reshape(bias.shape[0], 1, -1, *(1,) * (y.dim() - 3))
    return y, 0


def _vmap_weight(info: Any, in_dims: Any, x: Any, dy: Any, taps: Any, *numbers: Any) -> Any:
    m, terms = info.batch_size, Terms(*numbers)
    wide = terms._replace(groups=terms.groups * m)
    folded = batching.channels(x, in_dims[0], m), batching.channels(dy, in_dims[1], m)
    dw = convolution_weight(*folded, taps, *wide)
    return dw.unflatten(0, (m, dw.shape[0] // m)), 0


convolution.register_vmap(_vmap)
convolution_weight.register_vmap(_vmap_weight)
