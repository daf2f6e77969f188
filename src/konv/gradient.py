"""konv.weight_gradient: what a layer's weight gets from the gradient of its output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

from konv.arrays import OTHER, Kind, Shape, dense_strides, kind_of, no_memory
from konv.errors import ProblemError, UnsupportedError
from konv.geometry import Conv
from konv.pair import Pair, pair
from konv.prepared import prepare
from konv.runtime import hugepages, memory
from konv.runtime.choose import current_precision
from konv.runtime.gradient import GradientCall, taken
from konv.runtime.threads import Team, team
from konv.target import BYTES

REMEMBERED = 512  # layers at one size

_layers: dict[Any, _Layer] = {}


def weight_gradient(conv: Conv, x: Any, dy: Any) -> Any:
    """Return the gradient of the weight of a layer, given its input and the gradient of its output.

    conv   the layer at this batch and image size; padding mode zeros
    x      conv.in_shape, dy conv.out_shape: NumPy arrays or PyTorch tensors of conv.dtype, both of
           one library, of any strides

    The result has conv.weight_shape and conv.dtype, contiguous, and is an array of that library;
    half precision is summed in float32 and rounded once. Its bits do not depend on the number of
    threads. ProblemError for other shapes or dtypes, UnsupportedError for other padding modes and
    for tensors that require grad (konv.conv2d and its kin differentiate), TypeError for arrays of
    other kinds.

    Large float32 layers of 3 or 5 taps and stride 1, dilated or not, and of 3 to 5 taps and stride
    2, are computed on tiles (Winograd), depthwise ones of many taps by Fourier transforms: a NaN or
    infinity may then make all taps of its channel NaN. ``konv.precision("exact")`` keeps them where
    they belong.

    >>> import numpy as np
    >>> conv = Conv.of((1, 1, 4), co=1, kernel=3, padding=1)
    >>> x, dy = np.float32([[[1, 2, 3, 4]]]), np.float32([[[1, 0, 0, 10]]])
    >>> weight_gradient(conv, x, dy)
    array([[[30., 41.,  2.]]], dtype=float32)
    """
    if not isinstance(conv, Conv):
        raise TypeError(f"conv is a {type(conv).__name__}. Use a konv.Conv.")
    kind = kind_of(x)
    if kind is not None and kind.owns(dy):
        kind.refuse_followed(x, "x")
        kind.refuse_followed(dy, "dy")
    return of_numbers(pair(conv), x, dy)


def of_numbers(which: Pair, x: Any, dy: Any, last: bool = False) -> Any:
    """weight_gradient for who sees to it that the result can be differentiated; `last`: let it lie
    channels-last if it can.
    """
    kind, now = kind_of(x), team()
    if kind is None:
        raise _foreign(kind, x, dy)
    seen, arrays = kind.glance(x, dy, None)
    if seen == OTHER:
        if not kind.owns(dy):
            raise _foreign(kind, x, dy)
        kind.refuse(x, "x")
        kind.refuse(dy, "dy")
        arrays = kind.name, kind.signature(x), kind.signature(dy)
    px, py = kind.address(x), kind.address(dy)
    key = which, px & 7, py & 7, arrays, now.address, now.threads, current_precision(), last
    layer = _layers.get(key)
    if layer is None:
        layer = _Layer(kind, which.conv, x, dy, now, last)
        if len(_layers) >= REMEMBERED:
            _layers.clear()
        _layers[key] = layer
    return layer(x, dy)


class _Layer:
    """What is decided for arrays of such shapes and strides: a call of a kernel, and what must be
    copied first.
    """

    def __init__(
        self, kind: Kind, conv: Conv, x: Any, dy: Any, now: Team, last: bool = False
    ) -> None:
        _check(kind, conv, x, dy)
        self.kind, self.given, self.itemsize = kind, conv, BYTES[conv.dtype]
        self.name = f"the weight gradient of {conv}"
        self.size = prod(conv.weight_shape) * self.itemsize
        self.empty = 0 in (conv.n, *conv.weight_shape)
        self.conv = conv.adjoint() if conv.transposed else conv  # x and dy trade roles
        last = last and not self.empty and taken(self.conv)
        self.make = _maker(kind, conv, last)
        self.call: GradientCall | None = None
        if not self.empty and taken(self.conv):
            x, dy = (dy, x) if conv.transposed else (x, dy)
            x_strides, x_last, x_readable = _laid(kind, x, self.itemsize)
            y_strides, y_last, y_readable = _laid(kind, dy, self.itemsize)
            self.readable = x_readable, y_readable
            self.call = GradientCall(self.conv, x_strides, y_strides, now, x_last, y_last, last)

    def __call__(self, x: Any, dy: Any) -> Any:
        if self.given.transposed:
            x, dy = dy, x
        if self.call is None:
            return self._zeros() if self.empty else _by_convolution(self.kind, self.conv, x, dy)
        if not self.readable[0]:
            x = self._copy(x)
        if not self.readable[1]:
            dy = self._copy(dy)
        dw, address = self._new(), self.kind.address
        addresses = address(x), address(dy), address(dw)
        if self.size >= hugepages.LARGE:
            hugepages.prefer(addresses[2], self.size)
        if 0 in addresses:
            raise no_memory("x or dy")
        self.call.run(*addresses)
        return dw

    def _copy(self, a: Any) -> Any:
        size = prod(a.shape) * self.itemsize
        return memory.allocate(lambda: self.kind.contiguous(a), size, "a copy of x or dy")

    def _new(self) -> Any:
        if self.size < hugepages.LARGE:  # as Request._new
            try:
                return self.make()
            except (MemoryError, RuntimeError) as error:
                raise memory.said(error, self.size, self.name) from error
        return memory.allocate(self.make, self.size, self.name)

    def _zeros(self) -> Any:
        zeros = self._new()
        zeros[...] = 0
        return zeros


def _maker(kind: Kind, conv: Conv, last: bool) -> Callable[[], Any]:
    """What makes the result."""
    if not last:
        return kind.maker(conv.weight_shape, conv.dtype)
    first, channels, *taps = conv.weight_shape
    order = (0, conv.dims + 1, *range(1, conv.dims + 1))
    return kind.maker((first, *taps, channels), conv.dtype, order)


def _laid(kind: Kind, a: Any, itemsize: int) -> tuple[Shape, bool, bool]:
    """Strides for kernels, whether the channels stand last, and whether kernels can read the array
    as it lies; if not, the first two are those of a contiguous copy.

    Neighbouring channels or neighbouring pixels must lie side by side. Axes of one entry have the
    stride that suits.
    """
    shape, strides = tuple(a.shape), kind.strides(a)
    beside, inner = (strides[at] == 1 or shape[at] == 1 for at in (1, -1))
    plain = kind.native(a) and min(strides) >= 0 and kind.address(a) % itemsize == 0
    if not plain or not (beside or inner):
        return dense_strides(shape, False), False, False
    last = beside and (shape[1] > 1 or not inner)
    at = 1 if last else len(shape) - 1
    return tuple(1 if i == at else s for i, s in enumerate(strides)), last, True


def _by_convolution(kind: Kind, conv: Conv, x: Any, dy: Any) -> Any:
    """By `conv.weight_adjoint()`, all groups in one call: batch and channels change places."""
    one, groups = conv.weight_adjoint(), conv.groups
    turned = replace(one, ci=groups * conv.n, co=conv.co, groups=groups)
    spatial = range(3, 3 + conv.dims)
    x = (x if kind.native(x) else kind.dense(x)).reshape(
        conv.n, groups, conv.ci // groups, *conv.in_shape[2:]
    )
    x = kind.permute(x, (2, 1, 0, *spatial)).reshape(turned.in_shape)
    weight = kind.permute(dy, (1, 0, *range(2, 2 + conv.dims)))
    y = prepare(turned, weight, plan="direct")(x)
    return kind.contiguous(kind.permute(y, (1, 0, *range(2, 2 + conv.dims))))


def _foreign(kind: Kind | None, x: Any, dy: Any) -> TypeError:
    if kind is None:
        return TypeError(
            f"x is a {type(x).__name__}; konv.weight_gradient takes NumPy arrays and PyTorch CPU "
            f"tensors. Use numpy.asarray(x)."
        )
    return TypeError(
        f"dy is a {type(dy).__name__}, x a {kind.name}. Use the same library for both."
    )


def _check(kind: Kind, conv: Conv, x: Any, dy: Any) -> None:
    """Every other error that a call can have."""
    if conv.mode != "zeros":
        raise UnsupportedError(
            f"padding_mode={conv.mode!r} has no weight gradient of its own. Pad x by that mode, as "
            f"many pixels as axis.overhang() says for each axis, and use conv.padded()."
        )
    for name, a, shape in (("x", x, conv.in_shape), ("dy", dy, conv.out_shape)):
        if tuple(a.shape) != shape or kind.dtype(a) != conv.dtype:
            raise ProblemError(
                f"{name} is {kind.dtype(a)} {tuple(a.shape)}; the weight gradient of {conv} wants "
                f"{conv.dtype} {shape}. Use an array of that shape and dtype."
            )
