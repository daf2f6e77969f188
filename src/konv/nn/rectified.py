"""torch.nn.ReLU and ReLU6 in place, behind a batch normalisation of konv.nn: one gradient of both.

In place, the result of the batch normalisation is no more; what became of it is a function of what
went into the batch normalisation. So the node of autograd that stands for it has those inputs, and
its gradient is one step, where two would write an image and read it again. Whoever else has used
that result before still finds its own node. PyTorch's own ReLU6 would keep a copy of it besides.

A ReLU in place behind anything else, as behind the sum of a residual block, writes its gradient
over that of what it made, if nobody else has that: the 16 of ResNet-50 (8 images of 224 pixels)
would take 176 MB of new memory in a step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from konv.nn.gradients import _eager, _has_storage
from konv.nn.norm import DTYPES, WORTH, rectified
from konv.nn.ownership import is_free, prepare
from konv.nn.unscripted import Unscripted


class ReLU(Unscripted, nn.ReLU):
    """torch.nn.ReLU; in place its gradient is taken with that of the layer of batch normalisation
    before it, if that is konv's, and else written over what comes in.

    >>> ReLU(inplace=True)
    ReLU(inplace=True)
    """

    def forward(self, input: Any) -> Any:  # noqa: A002 - PyTorch's name
        if self.inplace and not torch.compiler.is_compiling():
            if rectified(input, "relu"):
                return input
            if _is_plain(input):
                _apply(input)
                return input
        return super().forward(input)


class ReLU6(Unscripted, nn.ReLU6):
    """torch.nn.ReLU6, see ReLU.

    >>> ReLU6(inplace=True)
    ReLU6(inplace=True)
    """

    def forward(self, input: Any) -> Any:  # noqa: A002 - PyTorch's name
        plain = self.inplace and self.min_val == 0 and self.max_val == 6
        if plain and not torch.compiler.is_compiling() and rectified(input, "relu6"):
            return input
        return super().forward(input)


class Clipped(Function):
    """x = relu(x) in place, of plain tensors where no transform and no forward mode is at work."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return torch.relu_(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> Any:
        free = is_free(dy)
        if dy is None:
            return None
        (y,) = ctx.saved_tensors
        alike = free and (dy.dtype, dy.shape, dy.stride()) == (y.dtype, y.shape, y.stride())
        if not alike or torch.is_grad_enabled() or dy.is_neg() or not _eager():
            return torch.ops.aten.threshold_backward(dy, y, 0)
        return torch.ops.aten.threshold_backward.grad_input(dy, y, 0, grad_input=dy)


def _is_plain(x: Any) -> bool:
    """Whether x is a large result that wants a gradient, with nothing to it that could tell this
    from PyTorch's way: no view, no hooks, its gradient not kept.
    """
    if type(x) is not Tensor or torch._C._is_tracing():  # which makes tensors of sizes
        return False
    if x.numel() < WORTH or not torch.is_grad_enabled():
        return False
    if (
        x.grad_fn is None or x._base is not None or x.retains_grad or x._backward_hooks is not None
        or x.dtype not in DTYPES or not x.is_cpu or x.is_neg() or not _has_storage(x)
        or not _eager()
    ):  # fmt: skip
        return False
    prepare()
    return True


_apply: Any = super(Function, Clipped).apply

KINDS: dict[type[nn.Module], str] = {
    nn.ReLU: "relu", nn.ReLU6: "relu6", ReLU: "relu", ReLU6: "relu6",
}  # fmt: skip
