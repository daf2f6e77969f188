"""konv.weight_gradient: what a layer's weight gets from the gradient of its output."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

from konv.arrays import Kind, Shape, kind_of
from konv.errors import ProblemError, UnsupportedError
from konv.geometry import Conv
from konv.kernels import gradient
from konv.prepared import prepare
from konv.runtime import memory
from konv.runtime.gradient import GradientCall
from konv.runtime.threads import team
from konv.target import BYTES

REMEMBERED = 512  # layers at one size

_calls: dict[Any, GradientCall] = {}


def weight_gradient(conv: Conv, x: Any, dy: Any) -> Any:
    """Return the gradient of the weight of a layer, given its input and the gradient of its output.

    conv   the layer at this batch and image size; padding mode zeros
    x      conv.in_shape, dy conv.out_shape: NumPy arrays or PyTorch tensors of conv.dtype, both of
           one library, of any strides

    The result has conv.weight_shape and conv.dtype, contiguous, and is an array of that library;
    half precision is summed in float32 and rounded once. Its bits do not depend on the number of
    threads. ProblemError for other shapes or dtypes, UnsupportedError for other padding modes,
    TypeError for arrays of other kinds.

    >>> import numpy as np
    >>> conv = Conv.of((1, 1, 4), co=1, kernel=3, padding=1)
    >>> x, dy = np.float32([[[1, 2, 3, 4]]]), np.float32([[[1, 0, 0, 10]]])
    >>> weight_gradient(conv, x, dy)
    array([[[30., 41.,  2.]]], dtype=float32)
    """
    kind = _check(conv, x, dy)
    if 0 in (conv.n, *conv.weight_shape):
        return _zeros(kind, conv)
    if conv.transposed:  # x and dy trade roles
        conv, x, dy = conv.adjoint(), dy, x
    if gradient.why_not(conv) is not None:
        return _by_convolution(kind, conv, x, dy)
    x, x_strides, x_last = _laid(kind, x)
    dy, y_strides, y_last = _laid(kind, dy)
    now = team()
    key = conv, x_strides, y_strides, x_last, y_last, now.address, now.threads
    call = _calls.get(key)
    if call is None:
        call = GradientCall(conv, x_strides, y_strides, now, x_last, y_last)
        if len(_calls) >= REMEMBERED:
            _calls.clear()
        _calls[key] = call
    dw = _new(kind, conv)
    addresses = [kind.address(a) for a in (x, dy, dw)]
    for name, address in zip(("x", "dy", "the result"), addresses, strict=True):
        if not address:
            raise UnsupportedError(
                f"{name} has no memory of its own: its address is 0. Use an ordinary array."
            )
    call.run(*addresses)
    return dw


def _laid(kind: Kind, a: Any) -> tuple[Any, Shape, bool]:
    """An array that kernels can read, its strides, and whether it lies channels last: itself, or a
    copy. Axes of one entry have the stride that suits.
    """
    shape = tuple(a.shape)
    strides = kind.strides(a)
    readable = kind.native(a) and min(strides) >= 0
    if not readable or kind.address(a) % BYTES[kind.dtype(a)]:
        return _laid(kind, kind.dense(a))
    beside, inner = (strides[at] == 1 or shape[at] == 1 for at in (1, -1))
    last = beside and (shape[1] > 1 or not inner)
    if not (beside or inner):
        return _laid(kind, kind.contiguous(a))
    at = 1 if last else len(shape) - 1
    return a, tuple(1 if i == at else s for i, s in enumerate(strides)), last


def _by_convolution(kind: Kind, conv: Conv, x: Any, dy: Any) -> Any:
    """By `conv.weight_adjoint()`, all groups in one call: batch and channels change places."""
    one, groups = conv.weight_adjoint(), conv.groups
    turned = replace(one, ci=groups * conv.n, co=conv.co, groups=groups)
    spatial = range(3, 3 + conv.dims)
    x = _native(kind, x).reshape(conv.n, groups, conv.ci // groups, *conv.in_shape[2:])
    x = kind.permute(x, (2, 1, 0, *spatial)).reshape(turned.in_shape)
    weight = kind.permute(dy, (1, 0, *range(2, 2 + conv.dims)))
    y = prepare(turned, weight, plan="direct")(x)
    return kind.contiguous(kind.permute(y, (1, 0, *range(2, 2 + conv.dims))))


def _check(conv: Conv, x: Any, dy: Any) -> Kind:
    """The library of the arrays; every error that a call can have."""
    if not isinstance(conv, Conv):
        raise TypeError(f"conv is a {type(conv).__name__}. Use a konv.Conv.")
    if conv.mode != "zeros":
        raise UnsupportedError(
            f"padding_mode={conv.mode!r} has no weight gradient of its own. Pad x by that mode, as "
            f"many pixels as axis.overhang() says for each axis, and use conv.padded()."
        )
    kind = kind_of(x)
    if kind is None:
        raise TypeError(
            f"x is a {type(x).__name__}; konv.weight_gradient takes NumPy arrays and PyTorch CPU "
            f"tensors. Use numpy.asarray(x)."
        )
    if not kind.owns(dy):
        raise TypeError(
            f"dy is a {type(dy).__name__}, x a {kind.name}. Use the same library for both."
        )
    for name, a, shape in (("x", x, conv.in_shape), ("dy", dy, conv.out_shape)):
        kind.refuse(a, name)
        if tuple(a.shape) != shape or kind.dtype(a) != conv.dtype:
            raise ProblemError(
                f"{name} is {kind.dtype(a)} {tuple(a.shape)}; the weight gradient of {conv} wants "
                f"{conv.dtype} {shape}. Use an array of that shape and dtype."
            )
    return kind


def _zeros(kind: Kind, conv: Conv) -> Any:
    zeros = _new(kind, conv)
    zeros[...] = 0
    return zeros


def _new(kind: Kind, conv: Conv) -> Any:
    size = prod(conv.weight_shape) * BYTES[conv.dtype]
    return memory.allocate(
        lambda: kind.empty(conv.weight_shape, conv.dtype), size, f"the weight gradient of {conv}"
    )


def _native(kind: Kind, a: Any) -> Any:
    return a if kind.native(a) else kind.dense(a)
