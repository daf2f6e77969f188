"""PyTorch tensors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from math import prod
from typing import Any

from konv.arrays.kind import GRADIENT, OTHER, PLAIN, UNSEEN
from konv.arrays.layout import Shape, dense_strides
from konv.arrays.recall import Recall
from konv.errors import UnsupportedError
from konv.runtime import lent


class TorchKind:
    """PyTorch tensors on the CPU; made from the `torch` that the caller has loaded."""

    name = "torch.Tensor"
    repeats = True
    address: Callable[[Any], int]

    def __init__(self, torch: Any) -> None:
        self.torch = torch
        self.address = torch.Tensor.data_ptr
        self.forward = torch.autograd.forward_ad
        self.plain = torch.Tensor.__torch_dispatch__
        self.wrapped = torch._C._functorch.is_functorch_wrapped_tensor
        self.modes = torch._C._len_torch_dispatch_stack
        self.transforms = torch._C._are_functorch_transforms_active
        self.grad, self.autocast = torch.is_grad_enabled, torch.is_autocast_enabled
        self.casts = torch._C._is_any_autocast_enabled
        self.traced = torch.compiler.is_dynamo_compiling
        self.tracing = torch._C._is_tracing
        self.types, self.strided = (torch.Tensor, torch.nn.Parameter), torch.strided
        self.recall = Recall(torch)
        self.allocate = allocator(torch)

    def owns(self, a: Any) -> bool:
        return isinstance(a, self.torch.Tensor)

    def signature(self, a: Any) -> tuple[Any, ...]:
        return (a.shape, a.stride(), a.dtype, a.is_neg())

    def dtype(self, a: Any) -> str:
        return str(a.dtype).removeprefix("torch.")

    def strides(self, a: Any) -> Shape:
        return tuple(a.stride())

    def native(self, a: Any) -> bool:
        return not a.is_neg()

    def dense(self, a: Any) -> Any:
        return a.detach().resolve_neg().clone(memory_format=self.torch.preserve_format)

    def contiguous(self, a: Any) -> Any:
        return a.detach().resolve_neg().clone(memory_format=self.torch.contiguous_format)

    def glance(self, x: Any, weight: Any, bias: Any) -> tuple[int, Any]:
        if self.traced() or self.modes() or self.transforms() or self.casts():
            return UNSEEN
        if self.forward._current_level >= 0 or self.tracing():
            return UNSEEN
        types, strided = self.types, self.strided
        if type(x) not in types or type(weight) not in types:
            return UNSEEN
        # Spelt out, as a loop takes 1 us; what is quantized has a dtype of its own, in the key.
        if not (x.is_cpu and weight.is_cpu and x.layout is strided and weight.layout is strided):
            return UNSEEN
        last = None
        if bias is not None:
            if type(bias) not in types or not bias.is_cpu or bias.layout is not strided:
                return UNSEEN
            last = bias.shape, bias.stride(), bias.dtype, bias.is_neg()
        key = (
            x.shape, x.stride(), x.dtype, x.is_neg(),
            weight.shape, weight.stride(), weight.dtype, weight.is_neg(), last,
        )  # fmt: skip
        if self.grad() and (
            x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
        ):
            return GRADIENT, key
        return PLAIN, key

    def recognize(self, x: Any, weight: Any, bias: Any) -> tuple[int, Any]:
        if self.traced() or self.modes():  # of modes the question below passes over PyTorch's own
            return UNSEEN
        recall, met = self.recall, None
        if self.forward._current_level < 0:
            if bias is None:
                met = recall.bare.get(id(weight))
                alike = met is not None and met[0](x, weight)
            else:
                met = recall.biased.get(id(weight))
                alike = met is not None and met[0](x, weight, bias)
            if met is not None and alike:
                gradient = met[2]
                return gradient if gradient is not None and self.grad() else met[1]
        seen, key = self.glance(x, weight, bias)
        return UNSEEN if seen == OTHER else recall.note(key, seen, x, weight, bias)

    def beside(self, a: Any) -> tuple[Any, ...] | None:
        if type(a) not in self.types or not a.is_cpu or a.layout is not self.strided:
            return None
        if self.wrapped(a) or (a.requires_grad and self.grad()):
            return None
        return self.signature(a)

    def quiet(self) -> bool:
        return not (self.traced() or self.modes()) and self.forward._current_level < 0

    def question(self, x: Any, weight: Any, bias: Any) -> tuple[Any, Any, Any] | None:
        recall = self.recall
        met = (recall.bare if bias is None else recall.biased).get(id(weight))
        tensors = (x, weight) if bias is None else (x, weight, bias)
        if met is None or not met[0](*tensors):  # of other tensors, if other threads call, too
            return None
        return met[0], None if met[2] is None else self.grad, self.address

    def followed(self, *arrays: Any) -> bool:
        if self.traced() or self.modes() or self.autocast("cpu") or self.tracing():
            return True
        grad, forward = self.grad(), self.forward._current_level >= 0
        for a in arrays:
            if not isinstance(a, self.torch.Tensor):
                continue
            if (grad and a.requires_grad) or self.wrapped(a) or (forward and self._dual(a)):
                return True
            if type(a).__torch_dispatch__ is not self.plain and _is_fake(a):
                return True
        return False

    def _dual(self, a: Any) -> bool:
        return self.forward.unpack_dual(a).tangent is not None

    def refuse_followed(self, a: Any, name: str) -> None:
        if a.requires_grad and self.torch.is_grad_enabled():
            raise UnsupportedError(
                f"{name} requires grad, and here konv computes no gradients. Call it under "
                f"torch.no_grad() or torch.inference_mode(), pass {name}.detach(), or use "
                f"konv.conv2d and its kin without out=."
            )
        if self.forward._current_level >= 0 and self._dual(a):
            raise UnsupportedError(
                f"{name} carries a forward gradient, which konv does not compute here. Pass "
                f"torch.autograd.forward_ad.unpack_dual({name}).primal, or use konv.conv2d and its "
                f"kin without out=."
            )
        if self.wrapped(a):
            raise UnsupportedError(
                f"{name} is a tensor inside a torch.func transform, whose numbers konv cannot see "
                f"here. Use konv.conv2d and its kin without out=."
            )

    def refuse(self, a: Any, name: str) -> None:
        if a.layout is not self.torch.strided or a.device.type != "cpu" or a.is_quantized:
            raise UnsupportedError(
                f"{name} is a {a.layout} tensor on {a.device}. konv computes on dense CPU tensors. "
                f"Use {name}.cpu() or {name}.to_dense()."
            )
        if type(a).__torch_dispatch__ is not self.plain:
            raise UnsupportedError(
                f"{name} is a {type(a).__name__}, whose numbers konv cannot see. Use a plain "
                f"torch.Tensor."
            )

    def empty(self, shape: Shape, dtype: str, order: Shape | None = None) -> Any:
        if order is None:
            return self.torch.empty(shape, dtype=getattr(self.torch, dtype), device="cpu")
        # Permuting would make it a view, into which autograd lets nobody write in place.
        return self.torch.empty_strided(
            *_ordered(shape, order), dtype=getattr(self.torch, dtype), device="cpu"
        )

    def maker(self, shape: Shape, dtype: str, order: Shape | None = None) -> Callable[[], Any]:
        sizes = _ordered(shape, order or tuple(range(len(shape))))
        return partial(self.allocate, *sizes, getattr(self.torch, dtype))

    def lender(self, shape: Shape, dtype: str, order: Shape | None = None) -> Callable[[], Any]:
        sizes = _ordered(shape, order or tuple(range(len(shape))))
        return partial(self.lent, *sizes, getattr(self.torch, dtype))

    def lent(self, shape: Shape, strides: Shape, dtype: Any) -> Any:
        """A tensor without gaps, of memory that is used again; it is a view of no other."""
        storage = self.torch.from_numpy(lent.take(prod(shape) * dtype.itemsize)).untyped_storage()
        return self.torch.empty(0, dtype=dtype).set_(storage, 0, shape, strides)

    def permute(self, a: Any, order: Sequence[int]) -> Any:
        return a.permute(order)

    def writable(self, a: Any) -> bool:  # noqa: ARG002 - as Kind; tensors have no such flag
        return True

    def copy(self, to: Any, source: Any) -> None:
        with self.torch.no_grad():
            to.copy_(source)

    def wrote(self, a: Any) -> None:
        if not a.is_inference():
            self.torch.autograd.graph.increment_version(a)


def allocator(torch: Any) -> Callable[[Shape, Shape, Any], Any]:
    """An empty tensor of a shape, strides and dtype: as compiled code of PyTorch gets it, in 0.6
    instead of 2.5 us.
    """
    found: Any = getattr(torch._C._dynamo.guards, "_empty_strided_cpu", None)

    def otherwise(shape: Shape, strides: Shape, dtype: Any) -> Any:
        return torch.empty_strided(shape, strides, dtype=dtype, device="cpu")

    return found or otherwise


def _is_fake(a: Any) -> bool:
    """Whether a tensor is PyTorch's stand-in for one while it traces."""
    fake = sys.modules.get("torch._subclasses.fake_tensor")
    return fake is not None and isinstance(a, fake.FakeTensor)


@lru_cache(maxsize=1024)
def _ordered(shape: Shape, order: Shape) -> tuple[Shape, Shape]:
    """Shape and strides of a contiguous array with its axes in another order."""
    strides = dense_strides(shape, False)
    return tuple(shape[i] for i in order), tuple(strides[i] for i in order)
