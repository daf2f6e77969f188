"""konv.weight_gradient: what a layer's weight gets from the gradient of its output."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

from konv.arrays import Kind, kind_of
from konv.errors import ProblemError, UnsupportedError
from konv.geometry import Conv
from konv.prepared import prepare
from konv.runtime import memory
from konv.target import BYTES


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
    return _by_convolution(kind, conv, x, dy)


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
    size = prod(conv.weight_shape) * BYTES[conv.dtype]
    gradient: Any = memory.allocate(
        lambda: kind.empty(conv.weight_shape, conv.dtype), size, f"the weight gradient of {conv}"
    )
    gradient[...] = 0
    return gradient


def _native(kind: Kind, a: Any) -> Any:
    return a if kind.native(a) else kind.dense(a)
