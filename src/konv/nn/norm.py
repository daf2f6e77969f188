"""Batch normalisation in training mode as a Function of autograd.

Plain tensors in a step of training, nothing else: `batch_norm` says None for all that PyTorch's own
operator is to do - transforms, traces, forward mode, other devices, dtypes and layouts, and small
images, where the call is all that counts. The gradient of the gradient is PyTorch's, too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from konv.arrays import OTHER, kind_of
from konv.nn.gradients import _eager, _has_storage
from konv.nn.ownership import is_free, prepare
from konv.runtime import hugepages, lent
from konv.runtime.norm import NormCall
from konv.runtime.threads import team

REMEMBERED = 512
# Numbers of x that are worth it: 8 images of 64@14x14 take PyTorch 0.12 ms, and 0.17 here, with a
# ReLU6 behind 0.16 and 0.18; of 384@14x14 0.35 and 0.33, 0.51 and 0.31 (channels-last, Zen 3).
WORTH = 1 << 17
DTYPES = {torch.float32: "float32", torch.float64: "float64"}
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}

_calls: dict[Any, NormCall | None] = {}


def batch_norm(x: Any, layer: Any, activation: str = "") -> Tensor | None:
    """activation(layer(x)) of a layer of batch normalisation in training mode, its running
    statistics brought up to date; None if PyTorch is to do it, then nothing was done.
    """
    if type(x) is not Tensor or x.numel() < WORTH:
        return None
    weight, bias, mean, variance = layer.weight, layer.bias, None, None
    if layer.track_running_stats:
        mean, variance = layer.running_mean, layer.running_var
    kind: Any = kind_of(x)
    seen, arrays = kind.glance(x, x if weight is None else weight, bias)
    if seen == OTHER:
        return None
    now = team()
    key = arrays, _signature(mean), _signature(variance), activation, now.address, now.threads
    if key not in _calls:
        if len(_calls) >= REMEMBERED:
            _calls.clear()
        _calls[key] = _decide(x, weight, bias, mean, variance, activation, now)
    call = _calls[key]
    if call is None:
        return None
    if weight is None:
        weight = torch.ones(call.sizes[1], dtype=x.dtype)
    if bias is None:
        bias = torch.zeros(call.sizes[1], dtype=x.dtype)
    compute: Any = _apply if seen else _numbers
    factor = _factor(layer)
    y: Tensor = compute(x, weight, bias, mean, variance, factor, layer.eps, call, activation)
    return y


def _signature(a: Tensor | None) -> Any:
    """What of running statistics decides about a call."""
    return None if a is None else (type(a), a.shape, a.stride(), a.dtype, a.device, a.layout)


def _factor(layer: Any) -> float:
    """By how much running statistics move, one more batch counted."""
    if layer.track_running_stats and layer.num_batches_tracked is not None:
        layer.num_batches_tracked.add_(1)
        if layer.momentum is None:
            return 1.0 / float(layer.num_batches_tracked)
    return 0.0 if layer.momentum is None else layer.momentum


def _decide(
    x: Tensor, weight: Any, bias: Any, mean: Any, variance: Any, activation: str, now: Any
) -> NormCall | None:
    """The call for such tensors; None: PyTorch's own."""
    dtype, channels = x.dtype, x.shape[1] if x.dim() > 1 else 0
    if dtype not in DTYPES or x.is_neg() or not x.numel() > channels > 0:
        return None
    if (mean is None) is not (variance is None):
        return None
    for each in (weight, bias, mean, variance):
        if each is not None and not (
            each.dtype == dtype and each.shape == (channels,) and each.is_contiguous()
            and each.is_cpu and not each.is_neg()
        ):  # fmt: skip
            return None
    prepare()
    last = x.dim() == 2 or _is_last(x)
    if not last and not x.is_contiguous():
        return None
    images, pixels = x.shape[0], x.numel() // x.shape[0] // channels
    return NormCall(DTYPES[dtype], not last, (images, channels, pixels), activation, now)


def _is_last(x: Tensor) -> bool:
    """Whether it lies channels-last without gaps; of one channel or one pixel either will do."""
    return x.dim() in FORMATS and x.is_contiguous(memory_format=FORMATS[x.dim()])


def _new(x: Tensor, trains: bool = True) -> Tensor:
    """A tensor that lies as x does, in memory that is used again if a step of training wants it."""
    size = x.numel() * x.element_size()
    if trains and size >= lent.LEAST:
        kind: Any = kind_of(x)
        made: Tensor = kind.lent(x.shape, x.stride(), x.dtype)
        return made
    y = torch.empty_like(x)
    hugepages.prefer(y.data_ptr(), size)
    return y


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Any, variance: Any, factor: Any, eps: float,
    call: NormCall, *, trains: bool = True,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """y and the table, from numbers alone; running statistics are brought up to date."""
    y, channels = _new(x, trains), call.sizes[1]
    table = torch.empty((5, call.padded), dtype=x.dtype)
    at, to, gamma, beta, into = (a.data_ptr() for a in (x, y, weight, bias, table))
    call.forward(at, to, gamma, beta, into, eps)
    if mean is not None:
        mean.lerp_(table[0, :channels], factor)
        variance.lerp_(table[2, :channels], factor)
    return y, table


def _numbers(*arguments: Any) -> Tensor:
    return _forward(*arguments[:-1], trains=False)[0]


class BatchNorm(Function):
    """Of plain tensors, where no transform, forward mode or dispatch mode is at work."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Any, variance: Any, factor: Any,
        eps: float, call: NormCall, activation: str,
    ) -> Tensor:  # fmt: skip
        y, table = _forward(x, weight, bias, mean, variance, factor, eps, call)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, table)
        ctx.call, ctx.eps, ctx.activation = call, eps, activation
        # For `rectified`, which is called at once, if at all; who has hooks on what is kept wants
        # it nowhere else.
        ctx.given = None if _kept_by_hooks(True) else (x, weight, bias, table)
        ctx.versions = x._version, weight._version
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> Any:
        ctx.given, free = None, is_free(dy)
        wanted = ctx.needs_input_grad[:3]
        return (*_three(ctx, dy, wanted, free), None, None, None, None, None, None)


class Rectified(Function):
    """y = relu(y) in place, of a y that BatchNorm has made, as a function of what that was made
    from.
    """

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, x: Tensor, weight: Tensor, bias: Tensor, table: Tensor,  # noqa: ARG004
        call: NormCall, eps: float, activation: str,
    ) -> Tensor:  # fmt: skip
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, table)
        ctx.call, ctx.eps, ctx.activation = call, eps, activation
        ctx.mark_dirty(y)
        if activation == "relu":
            return torch.relu_(y)
        return torch.nn.functional.hardtanh_(y, 0.0, 6.0)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> Any:
        free = is_free(dy)
        return (None, *_three(ctx, dy, ctx.needs_input_grad[1:4], free), None, None, None, None)


def rectified(y: Any, activation: str) -> bool:
    """Whether y has gone through an activation, in place, together with the batch normalisation
    that it comes from; else nothing was done.

    It must be that very result, from what is as it was: no hooks on it, its gradient not kept.
    """
    node = y.grad_fn if type(y) is Tensor else None
    if type(node) is not _NODE or not torch.is_grad_enabled():
        return False
    ctx: Any = node
    given, ctx.given = ctx.given, None
    if (
        given is None or ctx.activation or y._version or y.retains_grad
        or y._backward_hooks is not None or ctx.versions != (given[0]._version, given[1]._version)
        or not _eager() or torch._C._is_tracing()
    ):  # fmt: skip
        return False
    _apply_rectified(y, *given, ctx.call.behind(activation), ctx.eps, activation)
    return True


def _three(ctx: Any, dy: Tensor | None, wanted: tuple[bool, ...], free: bool) -> Any:
    """The gradients of x, weight and bias, those that are wanted; `free`: dy may be overwritten."""
    if dy is None:
        return None, None, None
    x, weight, table = ctx.saved_tensors
    if not torch.is_grad_enabled() and type(dy) is Tensor and _has_storage(dy) and _eager():
        found = _gradients(ctx.call, x, weight, table, dy, free)
    else:
        found = _composed(ctx, x, weight, table, dy, list(wanted))
    return [g if wants else None for g, wants in zip(found, wanted, strict=True)]


def _gradients(
    call: NormCall, x: Tensor, weight: Tensor, table: Tensor, dy: Tensor, free: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias, as numbers; that of x over dy if that is `free`."""
    if dy.stride() != x.stride() or dy.is_neg():
        dy, free = torch.empty_like(x).copy_(dy), True
    dx = dy if free else _new(x)
    dweight, dbias = torch.empty_like(weight), torch.empty_like(weight)
    call.backward(*(a.data_ptr() for a in (x, dy, dx, weight, table, dweight, dbias)))
    return dx, dweight, dbias


def _composed(
    ctx: Any, x: Tensor, weight: Tensor, table: Tensor, dy: Tensor, wanted: list[bool]
) -> Any:
    """The same by PyTorch's operators, which can be differentiated once more."""
    channels = ctx.call.sizes[1]
    mean, inverse, _, scale, shift = table[:, :channels]
    if ctx.activation:
        ones = (-1, *(1,) * (x.dim() - 2))
        before = torch.addcmul(shift.view(ones), x.detach(), scale.view(ones))
        stopped = before <= 0
        if ctx.activation == "relu6":
            stopped |= before >= 6
        dy = dy.masked_fill(stopped, 0)
    return torch.ops.aten.native_batch_norm_backward(
        dy, x, weight, None, None, mean, inverse, True, ctx.eps, wanted
    )


_apply: Any = super(Function, BatchNorm).apply
_apply_rectified: Any = super(Function, Rectified).apply
_NODE: Any = BatchNorm._backward_cls
_kept_by_hooks = torch._C._autograd._top_saved_tensors_default_hooks
