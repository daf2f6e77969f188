"""One convolution of a frozen network: activation(conv(x) + bias + residual), its weights packed.

What is asked at every call is only what may differ between two calls: shape, strides and dtype of
the arrays, threads, precision. All else was settled when the layer met arrays like these first.
That takes 7 us where konv.prepare, which also takes NumPy arrays, `out` and layouts, takes 18; 52
layers of MobileNet-V2 save half a millisecond of 7 by it.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everyone writes it

from konv.arrays.of_torch import allocator
from konv.errors import UnsupportedError
from konv.geometry import Conv
from konv.geometry.terms import Terms
from konv.prepared import Prepared, Step, prepare
from konv.runtime.choose import current_precision
from konv.runtime.threads import team

Activation = str | tuple[str, Any] | None
REMEMBERED = 64  # combinations of sizes
PLAIN = (Tensor, nn.Parameter)  # others may have their numbers elsewhere
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}

_allocate: Any = allocator(torch)


class Layer(nn.Module):
    """A frozen convolution, called under torch.no_grad().

    `last`: results lie channels-last; None: as PyTorch's would.
    `in_place`: the residual is added in place, so that the result keeps its dtype and shape.
    `left`: PyTorch computes it, because it was measured to be faster.
    """

    def __init__(
        self,
        conv: Conv,
        weight: Tensor,
        bias: Tensor | None,
        activation: Activation = None,
        in_place: bool = False,
    ) -> None:
        super().__init__()
        self.conv, self.activation, self.in_place = conv, activation, in_place
        self.weight, self.bias = weight, bias  # no parameters: they are not to be trained or moved
        self.last: bool | None = None
        self.left = False
        self.training = False
        self._forget()

    def _forget(self) -> None:
        self._prepared: Prepared | None = None
        self._bare: Prepared | None = None  # without the activation
        self._steps: dict[Any, Step] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to this process: code and packed weights are made again."""
        return {**self.__dict__, "_prepared": None, "_bare": None, "_steps": {}}

    def extra_repr(self) -> str:
        """The layer in one line."""
        after = "" if self.activation is None else f", {self.activation}"
        return f"{self.kind}{after}{', left to PyTorch' if self.left else ''}"

    @property
    def packed_bytes(self) -> int:
        """Bytes of packed weights so far."""
        return sum(each.packed_bytes for each in (self._prepared, self._bare) if each)

    @property
    def torch_can(self) -> bool:
        """Whether PyTorch has this layer too; of transposed ones konv has more."""
        conv = self.conv
        terms = [Terms.of(axis, conv.transposed) for axis in conv.axes]
        return not conv.transposed or (conv.mode == "zeros" and all(t.lo == t.hi for t in terms))

    @property
    def met(self) -> str:
        """The layer at the last size that it met, in one line."""
        steps = list(self._steps.values())
        return str(steps[-1].call.layer if steps else self.conv)

    @property
    def kind(self) -> str:
        """The layer in one line, without a size."""
        word, shape, *rest = str(self.conv).split()
        return " ".join([word, shape.split("x")[1], *rest])

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        now = team()
        key = (
            type(x), x.shape, x.stride(), x.dtype, x.device, residual is None, self.last,
            now.address, now.threads, current_precision(),
        )  # fmt: skip
        step = self._steps.get(key)
        if step is None or self.left or x.is_neg():
            return self._first(key, x, residual)
        call, packed, shape, strides = step
        if not (address := x.data_ptr()) and x.numel():
            raise UnsupportedError(
                "x has no memory: its storage was freed. Use a tensor with data."
            )
        y: Tensor = _allocate(shape, strides, x.dtype)
        if residual is None:
            call.run(address, packed, y.data_ptr())
        elif (
            type(residual) in PLAIN
            and residual.shape == shape
            and residual.dtype is x.dtype
            and residual.is_cpu
            and residual.layout is torch.strided
            and residual.stride() == strides
            and not residual.is_neg()
            and (added := residual.data_ptr())
            and added % residual.element_size() == 0
        ):
            call.run(address, packed, y.data_ptr(), added)
        else:
            return self._apart(x, residual)
        return y

    def _first(self, key: Any, x: Tensor, residual: Tensor | None) -> Tensor:
        """The call of a layer that PyTorch computes, or that has not met such arrays yet."""
        if self.left:
            return self.by_torch(x, residual)
        if x.dim() == self.conv.dims + 1:  # without a batch
            added = residual.unsqueeze(0) if isinstance(residual, Tensor) else residual
            return self.forward(x.unsqueeze(0), added).squeeze(0).contiguous()
        if x.is_neg():
            return self.forward(x.resolve_neg(), residual)
        if x.numel() and x.data_ptr() % x.element_size():
            return self.forward(x.clone(memory_format=torch.preserve_format), residual)
        if self._prepared is None:
            self._prepared = prepare(self.conv, self.weight, self.bias, activation=self.activation)
            self.weight, self.bias = self._prepared.weight, self._prepared.bias  # its copies
        step = self._prepared.step(x, self._lies_last(x), residual is not None)
        if len(self._steps) >= REMEMBERED:
            self._steps.clear()
        self._steps[key] = step
        return self.forward(x, residual)

    def _lies_last(self, x: Tensor) -> bool:
        """Whether results are to lie channels-last."""
        if self.conv.dims == 1:
            return False
        if self.last is not None:
            return self.last
        form = FORMATS[x.dim()]
        return x.is_contiguous(memory_format=form) and not x.is_contiguous()

    def _apart(self, x: Tensor, residual: Tensor) -> Tensor:
        """The residual is not like the result: of another layout, or it is broadcast, or both."""
        if self._bare is None:
            self._bare = prepare(self.conv, self.weight, self.bias)
        step = self._bare.step(x, self._lies_last(x))
        y = _allocate(step.shape, step.strides, x.dtype)
        step.call.run(x.data_ptr(), step.packed, y.data_ptr())
        return activated(self._sum(y, residual), self.activation)

    def _sum(self, y: Tensor, residual: Tensor) -> Tensor:
        return y.add_(residual) if self.in_place else y + residual

    def leave(self) -> None:
        """Let PyTorch compute the layer from here on, with its weight as its kernels like it."""
        self.left = True
        if self.last and self.weight.dim() in FORMATS:
            self.weight = self.weight.contiguous(memory_format=FORMATS[self.weight.dim()])
        self._forget()

    def by_torch(
        self, x: Tensor, residual: Tensor | None = None, weight: Tensor | None = None
    ) -> Tensor:
        """The same, computed by PyTorch; `weight`: the same numbers in another memory format."""
        y = torch_call(self.conv, x, self.weight if weight is None else weight, self.bias)
        return activated(y if residual is None else self._sum(y, residual), self.activation)


def torch_call(conv: Conv, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """PyTorch's function for a layer."""
    terms = [Terms.of(axis, conv.transposed) for axis in conv.axes]
    stride, dilation = [t.stride for t in terms], [t.dilation for t in terms]
    padding = [t.lo for t in terms]
    function: Any = getattr(F, f"conv{'_transpose' * conv.transposed}{conv.dims}d")
    if conv.transposed:
        more = [t.output_padding for t in terms]
        return cast(Tensor, function(x, weight, bias, stride, padding, more, conv.groups, dilation))
    if conv.mode != "zeros" or any(t.lo != t.hi for t in terms):
        sides = [side for t in reversed(terms) for side in (t.lo, t.hi)]
        x = F.pad(x, sides, "constant" if conv.mode == "zeros" else conv.mode)
        padding = [0] * conv.dims
    return cast(Tensor, function(x, weight, bias, stride, padding, dilation, conv.groups))


def activated(y: Tensor, activation: Activation) -> Tensor:
    """PyTorch's activation of a fresh tensor, in place where it can be."""
    if activation is None:
        return y
    name, number = (activation, None) if isinstance(activation, str) else activation
    if name == "leaky_relu":
        return F.leaky_relu_(y, 0.01 if number is None else number)
    if name == "gelu":
        return F.gelu(y, approximate=number or "none")
    return cast(Tensor, getattr(F, name)(y, inplace=True))
