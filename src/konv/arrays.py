"""One view of NumPy arrays, PyTorch tensors and whatever speaks DLPack: shape, strides, dtype,
address.

PyTorch is looked for only where it is loaded already; konv never imports it for an array.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from math import prod
from typing import Any, Protocol

import numpy as np

from konv.errors import UnsupportedError

Shape = tuple[int, ...]
PLAIN, GRADIENT, OTHER = 0, 1, 2  # what a glance at arrays may find
UNSEEN = OTHER, None
FORM = 1 << 19  # numbers: of larger tensors no form is kept, and 1 us is nothing beside the work


class Kind(Protocol):
    """What konv asks of a library of arrays."""

    name: str

    def owns(self, a: Any) -> bool:
        """Whether an array is of this library."""

    def signature(self, a: Any) -> tuple[Any, ...]:
        """All that a plan may depend on, hashable: shape, strides, dtype."""

    def dtype(self, a: Any) -> str:
        """The dtype's name in NumPy's words, "float32"; of any byte order."""

    def strides(self, a: Any) -> Shape:
        """In elements."""

    def address(self, a: Any) -> int:
        """Of the first element."""

    def native(self, a: Any) -> bool:
        """Whether a kernel may read its numbers as they lie: byte order of this machine."""

    def dense(self, a: Any) -> Any:
        """A fresh copy without gaps, of native byte order, its axes in the same order in memory."""

    def contiguous(self, a: Any) -> Any:
        """A fresh contiguous copy, of native byte order."""

    def refuse(self, a: Any, name: str) -> None:
        """Raise if konv cannot take it at all: other devices, sparse storage."""

    def glance(self, x: Any, weight: Any, bias: Any) -> tuple[int, Any]:
        """PLAIN where nothing speaks against any of them, GRADIENT where only a gradient is wanted,
        else OTHER: the quick answer, and mostly the only one that a call needs. With it what all
        their signatures say; UNSEEN if they are not its own arrays.
        """

    def followed(self, *arrays: Any) -> bool:
        """Whether somebody follows what is computed from them: autograd, vmap, a tracer."""

    def refuse_followed(self, a: Any, name: str) -> None:
        """Raise if a gradient of what is computed from it is wanted."""

    def empty(self, shape: Shape, dtype: str, order: Shape | None = None) -> Any:
        """A new contiguous array, seen with its axes in another order if one is given; it is a view
        of no other tensor.
        """

    def maker(self, shape: Shape, dtype: str, order: Shape | None = None) -> Callable[[], Any]:
        """What makes such empty arrays, one a call, as quickly as may be."""

    def permute(self, a: Any, order: Sequence[int]) -> Any:
        """A view with its axes in another order."""

    def writable(self, a: Any) -> bool:
        """Whether it may be written to."""

    def copy(self, to: Any, source: Any) -> None:
        """Overwrite `to`."""

    def wrote(self, a: Any) -> None:
        """Tell the library that an array was written to behind its back."""


def _slow_address(a: Any) -> int:
    return int(a.__array_interface__["data"][0])


def _numpy_address_reader() -> Callable[[Any], int]:
    """How to read the address of a NumPy array: `a.ctypes.data` takes 0.7 us, a tenth of a small
    call's time.

    In CPython the address is the first word after an array's object header; NumPy keeps it there by
    its ABI (PyArrayObject_fields.data). That is tried on one array, and not relied upon if it
    fails.
    """
    if sys.implementation.name != "cpython":
        return _slow_address
    offset, read = object.__basicsize__, ctypes.c_ssize_t.from_address

    def fast(a: Any) -> int:
        return read(id(a) + offset).value

    probe = np.arange(6.0)[2:]
    return fast if fast(probe) == _slow_address(probe) else _slow_address


class NumpyKind:
    """NumPy arrays, of any strides and byte order."""

    name = "numpy.ndarray"

    address = staticmethod(_numpy_address_reader())

    def owns(self, a: Any) -> bool:
        return isinstance(a, np.ndarray)

    def signature(self, a: Any) -> tuple[Any, ...]:
        return (a.shape, a.strides, a.dtype)

    def dtype(self, a: Any) -> str:
        return str(a.dtype.name)

    def strides(self, a: Any) -> Shape:
        return tuple(s // a.itemsize for s in a.strides)

    def native(self, a: Any) -> bool:
        return bool(a.dtype.isnative) and all(s % a.itemsize == 0 for s in a.strides)

    def dense(self, a: Any) -> Any:
        return np.array(a, dtype=a.dtype.newbyteorder("="), order="K", copy=True, subok=False)

    def contiguous(self, a: Any) -> Any:
        return np.array(a, dtype=a.dtype.newbyteorder("="), order="C", copy=True, subok=False)

    def refuse(self, a: Any, name: str) -> None:
        if isinstance(a, np.ma.MaskedArray):
            raise TypeError(
                f"{name} is a masked array, and konv would not see the mask. Use {name}.filled(0)."
            )

    def glance(self, x: Any, weight: Any, bias: Any) -> tuple[int, Any]:  # noqa: ARG002
        return UNSEEN

    def followed(self, *arrays: Any) -> bool:  # noqa: ARG002 - as Kind; nobody follows NumPy
        return False

    def refuse_followed(self, a: Any, name: str) -> None:  # noqa: ARG002
        return None

    def empty(self, shape: Shape, dtype: str, order: Shape | None = None) -> Any:
        made = np.empty(shape, dtype)
        return made if order is None else made.transpose(order)

    def maker(self, shape: Shape, dtype: str, order: Shape | None = None) -> Callable[[], Any]:
        return lambda: self.empty(shape, dtype, order)

    def permute(self, a: Any, order: Sequence[int]) -> Any:
        return a.transpose(order)

    def writable(self, a: Any) -> bool:
        return bool(a.flags.writeable)

    def copy(self, to: Any, source: Any) -> None:
        to[...] = source

    def wrote(self, a: Any) -> None:  # noqa: ARG002 - as Kind; NumPy keeps no count
        return None


class TorchKind:
    """PyTorch tensors on the CPU; made from the `torch` that the caller has loaded."""

    name = "torch.Tensor"
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
        self.traced = torch.compiler.is_dynamo_compiling
        self.tracing = torch._C._get_tracing_state
        self.types, self.strided = (torch.Tensor, torch.nn.Parameter), torch.strided

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
        if self.traced() or self.modes() or self.transforms() or self.autocast("cpu"):
            return UNSEEN
        if self.forward._current_level >= 0 or self.tracing() is not None:
            return UNSEEN
        types, strided = self.types, self.strided
        if type(x) not in types or type(weight) not in types:
            return UNSEEN
        # Spelt out, as a loop takes 1 us; what is quantized has a dtype of its own, in the key.
        if not (x.is_cpu and weight.is_cpu and x.layout is strided and weight.layout is strided):
            return UNSEEN
        gradient, last = x.requires_grad or weight.requires_grad, None
        if bias is not None:
            if type(bias) not in types or not bias.is_cpu or bias.layout is not strided:
                return UNSEEN
            gradient |= bias.requires_grad
            last = bias.shape, bias.stride(), bias.dtype, bias.is_neg()
        first = x.shape, x.stride(), x.dtype, x.is_neg()
        key = *first, weight.shape, weight.stride(), weight.dtype, weight.is_neg(), last
        return GRADIENT if gradient and self.grad() else PLAIN, key

    def followed(self, *arrays: Any) -> bool:
        if self.traced() or self.modes() or self.autocast("cpu") or self.tracing() is not None:
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
        # Tensors like a given one, which needs no memory, are made in 1.2 instead of 2.5 us.
        if prod(shape) > FORM:
            return partial(self.empty, shape, dtype, order)
        with self.torch.inference_mode(False):
            form = self.empty(shape, dtype, order)
        if type(form) is not self.torch.Tensor or self.wrapped(form):
            return partial(self.empty, shape, dtype, order)
        form.untyped_storage().resize_(0)
        return partial(self.torch.empty_like, form)

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


def _is_fake(a: Any) -> bool:
    """Whether a tensor is PyTorch's stand-in for one while it traces."""
    fake = sys.modules.get("torch._subclasses.fake_tensor")
    return fake is not None and isinstance(a, fake.FakeTensor)


@lru_cache(maxsize=1024)
def _ordered(shape: Shape, order: Shape) -> tuple[Shape, Shape]:
    """Shape and strides of a contiguous array with its axes in another order."""
    strides = dense_strides(shape, False)
    return tuple(shape[i] for i in order), tuple(strides[i] for i in order)


NUMPY = NumpyKind()
_torch: TorchKind | None = None


def kind_of(a: Any) -> Kind | None:
    """The library an array belongs to, None if it is neither NumPy's nor PyTorch's."""
    global _torch
    if isinstance(a, np.ndarray):
        return NUMPY
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(a, torch.Tensor):
        if _torch is None or _torch.torch is not torch:
            _torch = TorchKind(torch)
        return _torch
    return None


def no_memory(name: str) -> UnsupportedError:
    """The error for an array that has a shape and no numbers: freed, fake, or not computed yet."""
    return UnsupportedError(
        f"{name} has no memory of its own: its address is 0. konv computes on numbers that are "
        f"there; use an ordinary array or tensor."
    )


def from_dlpack(a: Any) -> tuple[Any, Callable[[Any], Any]] | None:
    """Any array that speaks DLPack, as a NumPy view, and the way back to its own library; None if
    it does not.
    """
    if not hasattr(a, "__dlpack__"):
        return None
    try:
        view = np.from_dlpack(a)
    except (BufferError, RuntimeError, ValueError, TypeError) as error:
        raise UnsupportedError(
            f"a {type(a).__name__} cannot be read through DLPack: {error}. konv computes on dense "
            f"arrays in the memory of the CPU. Move it there first."
        ) from error
    library = sys.modules.get(type(a).__module__.split(".", 1)[0])
    namespace = a.__array_namespace__() if hasattr(a, "__array_namespace__") else library
    back = getattr(namespace, "from_dlpack", None) or getattr(type(a), "from_dlpack", None)
    return view, back or (lambda y: y)


def channels_last(shape: Shape, strides: Shape) -> bool:
    """Whether an array (n, c, *spatial) lies channels last, by PyTorch's own rule.

    Strides must not fall in the order c, last spatial, ..., first spatial, n. With a single channel
    or pixel an array may be contiguous as well; its strides then say which its owner means.
    """
    order = [1, *range(len(shape) - 1, 1, -1), 0]
    least = 0
    for axis in order:
        if strides[axis] < least or shape[axis] == 0:
            return False
        if axis == 0 and least == strides[1]:
            return False
        least = strides[axis] * (max(1, shape[axis]))
    return strides[1] > 0


def dense_strides(shape: Shape, last: bool) -> Shape:
    """Strides in elements of a new array (n, c, *spatial), channels last or contiguous."""
    order = [1, *range(len(shape) - 1, 1, -1), 0] if last else list(range(len(shape) - 1, -1, -1))
    strides, step = [0] * len(shape), 1
    for axis in order:
        strides[axis] = step
        step *= shape[axis]
    return tuple(strides)
