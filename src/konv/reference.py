"""What is right: a convolution as the definition says it, in NumPy, twice.

- `sliding_window`: the kernel is slid over the image; at each position, the weighted sum. Slow, to
  be read aloud.
- `im2col`: the pixels under each position of the kernel become a column, and the convolution a
  product of two matrices. Fast enough to check every kernel against.

Both take any Conv (any dimension, padding mode, groups, inserted zeros, transposed) and compute in
float64, or exactly in int64 if all arrays hold integers. A padding pixel is a zero that is
multiplied like any other (so an infinite weight over padding gives NaN, as in PyTorch); an inserted
zero is not, and a transposed layer has no padding, only places that no input reaches.

`finish` is what may follow: a residual added, an activation. `tolerance` and `finished_tolerance`
are the one place that says how far from these a kernel may be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from math import erfc, pi, prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from konv.errors import ProblemError
from konv.geometry import Axis, Conv, Mode
from konv.plan import Epilogue

Array = NDArray[Any]


def sliding_window(conv: Conv, x: ArrayLike, w: ArrayLike, bias: ArrayLike | None = None) -> Array:
    """Return the convolution of x (n, ci, *size) with w (conv.weight_shape), plus bias (co,).

    >>> conv = Conv.of((1, 1, 4), co=1, kernel=3, padding=1)
    >>> sliding_window(conv, [[[1, 2, 3, 4]]], [[[1, 10, 100]]])
    array([[[210, 321, 432,  43]]])
    """
    images, weights = _grouped(conv, x, w)
    y = np.zeros((conv.n, *weights.shape[:2], *conv.out_shape[2:]), images.dtype)
    outputs, taps = conv.out_shape[2:], weights.shape[3:]
    no_padding = conv.transposed or any(axis.up > 1 for axis in conv.axes)
    nothing = np.zeros(images.shape[:3], images.dtype)
    position: tuple[Any, ...]
    tap: tuple[Any, ...]
    for position in np.ndindex(outputs):
        for tap in np.ndindex(taps):
            pixel = _pixel(conv, position, tap)
            if pixel is None and no_padding:
                continue
            under_tap = nothing if pixel is None else images[..., *pixel]
            weighted = weights[..., *tap] * under_tap[:, :, None, :]
            y[..., *position] += weighted.sum(axis=-1)
    return _with_bias(conv, y, bias)


def _pixel(conv: Conv, position: tuple[int, ...], tap: tuple[int, ...]) -> tuple[Any, ...] | None:
    """Return the pixel that lies under a tap of the kernel at a position, None where none does."""
    along = zip(conv.axes, position, tap, strict=True)
    pixel = tuple(axis.source(o, k, conv.mode) for axis, o, k in along)
    return None if None in pixel else pixel


def im2col(conv: Conv, x: ArrayLike, w: ArrayLike, bias: ArrayLike | None = None) -> Array:
    """Return the same as `sliding_window`, as one matrix product a group: weights x columns.

    Weights must be finite where zeros were inserted: the matrix holds those zeros.

    >>> conv = Conv.of((1, 1, 2), co=1, kernel=2, stride=2, transposed=True)
    >>> im2col(conv, [[[1, 2]]], [[[10, 100]]])
    array([[[ 10, 100,  20, 200]]])
    """
    images, weights = _grouped(conv, x, w)
    matrix = weights.reshape(*weights.shape[:2], -1)
    return _with_bias(conv, matrix @ columns(conv, images), bias)


def weight_gradient(conv: Conv, x: ArrayLike, dy: ArrayLike) -> Array:
    """Return the gradient of the weight (conv.weight_shape), from x and the gradient of the output:
    for each tap, the pixels that outputs read there times dy, summed over outputs and batch.

    >>> conv = Conv.of((1, 1, 4), co=1, kernel=3, padding=1)
    >>> weight_gradient(conv, [[[1, 2, 3, 4]]], [[[1, 0, 0, 10]]])
    array([[[30, 41,  2]]])
    """
    x, dy = np.asarray(x), np.asarray(dy)
    exact = x.dtype.kind in "biu" and dy.dtype.kind in "biu"
    dtype, g, kernel = np.int64 if exact else np.float64, conv.groups, conv.weight_shape[2:]
    images = x.astype(dtype).reshape(conv.n, g, conv.ci // g, *conv.in_shape[2:])
    gradients = dy.astype(dtype).reshape(conv.n, g, conv.co // g, *conv.out_shape[2:])
    found = np.zeros((g, conv.co // g, conv.ci // g, *kernel), dtype)
    tables = [sources(axis, conv.mode) for axis in conv.axes]
    tap: tuple[Any, ...]
    for tap in np.ndindex(kernel):
        pixels, outputs = images, gradients
        for at, (k, axis, table) in enumerate(zip(tap, conv.axes, tables, strict=True), start=3):
            reading = np.flatnonzero(table[k] < axis.size)
            pixels = np.take(pixels, table[k][reading], axis=at)
            outputs = np.take(outputs, reading, axis=at)
        pixels, outputs = (a.reshape(*a.shape[:3], -1) for a in (pixels, outputs))
        found[..., *tap] = (outputs @ pixels.swapaxes(2, 3)).sum(axis=0)
    if conv.transposed:
        found = np.flip(found.swapaxes(1, 2), axis=tuple(range(3, found.ndim)))
    return found.reshape(conv.weight_shape)


def columns(conv: Conv, images: Array) -> Array:
    """Return the im2col matrix (n, groups, ci/g * taps, outputs).

    images: (n, groups, ci/g, *size). Row: channel and tap, as in the weight. Column: output
    position. Entry: the pixel, or zero.
    """
    for i, axis in enumerate(conv.axes):
        at = 3 + 2 * i  # the axes before have become two each: tap and output
        one_zero = [(0, int(dim == at)) for dim in range(images.ndim)]
        images = np.take(np.pad(images, one_zero), sources(axis, conv.mode), axis=at)
    taps = range(3, images.ndim, 2)
    outputs = range(4, images.ndim, 2)
    images = images.transpose(0, 1, 2, *taps, *outputs)
    rows = images.shape[2] * prod(axis.kernel for axis in conv.axes)
    return images.reshape(*images.shape[:2], rows, prod(conv.out_shape[2:]))


def sources(axis: Axis, mode: Mode = "zeros") -> NDArray[np.intp]:
    """Return the table (kernel, out) of pixels read, with `size` standing for a zero.

    >>> sources(Axis(4, 3, lo=1, hi=1))
    array([[4, 0, 1, 2],
           [0, 1, 2, 3],
           [1, 2, 3, 4]])
    """
    table = np.full((axis.kernel, axis.out), axis.size, np.intp)
    for k, o in product(range(axis.kernel), range(axis.out)):
        pixel = axis.source(o, k, mode)
        if pixel is not None:
            table[k, o] = pixel
    return table


ROUNDING = {"direct": 4.0, "winograd": 6.0, "cells": 6.0, "nested": 8.0}
"""The c of the bound, by how the sums are formed.

direct: measured on 60 draws at each of 1..25,000 terms added one after another in float32: signed
or positive random addends stay under 0.51 sqrt(terms) eps sum|x||w|; equal addends, whose rounding
errors all point one way, under 4 sqrt(terms) eps up to 1,152 terms.
winograd: F(4x4, 3x3) with points 0, +-1/sqrt(2), +-sqrt(2), F(2x2, 5x5), both along one axis, and
the parts of steps of two: at most 1.1 for 16..512 channels, over random, positive and equal addends
and images with rows of very different size; relative to the largest sum|x||w| of the image, as a
tile mixes its outputs. Of weight gradients 0.6 for 400 outputs and more, 3.0 for a single tile.
cells: F(3x3, 2x2) with points 0, 1, -1: 0.03 for 21 channels of 16 x 16 taps in steps of 8;
relative to the largest sum as winograd.
nested: F(4x4, 4x4) with points 0, 1, -1, 2, -2, 1/2: 0.12 for 32 x 32 random taps, as blocks of 16
products are added up instead of single ones; relative to the largest sum near by, too.
"""

_EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
_SMALLEST_NORMAL = {"float64": 2.0**-1022, "float32": 2.0**-126}


def tolerance(
    conv: Conv,
    x: ArrayLike,
    w: ArrayLike,
    bias: ArrayLike | None = None,
    algorithm: str = "direct",
) -> Array:
    """Return how far each output (shape conv.out_shape) may be from the reference.

        c sqrt(terms) eps sum|x||w|  +  terms * smallest normal number

    terms: products in one output, and the bias; eps: spacing of the numbers summed in, float32 for
    half precision, to which the rounding of the result as it is stored is added. The second part
    allows denormals to be flushed to zero. ProblemError for an unknown algorithm.

    >>> conv = Conv.of((1, 1, 4), co=1, kernel=4)
    >>> bool(tolerance(conv, [[[1, 1, 1, 1]]], [[[1, -1, 1, -1]]])[0, 0, 0] == 4 * 2 * 2**-23 * 4)
    True
    """
    if algorithm not in ROUNDING:
        raise ProblemError(f"algorithm={algorithm!r} has no bound. Use {' or '.join(ROUNDING)}.")
    terms = conv.ci // conv.groups * prod(axis.kernel for axis in conv.axes) + (bias is not None)
    above = None if bias is None else np.abs(np.asarray(bias, np.float64))
    x, w = np.abs(np.asarray(x, np.float64)), np.abs(np.asarray(w, np.float64))
    magnitude = im2col(conv, x, w, above)
    near: Array = magnitude
    if algorithm in ("winograd", "cells", "nested") and magnitude.size:
        near = magnitude.max(axis=tuple(range(2, magnitude.ndim)), keepdims=True)
    near = np.broadcast_to(near, magnitude.shape)
    return _bound(conv.dtype, terms, ROUNDING[algorithm], magnitude, near)


def _bound(dtype: str, terms: int, constant: float, magnitude: Array, near: Array) -> Array:
    summed = dtype if dtype in _SMALLEST_NORMAL else "float32"
    bound = constant * terms**0.5 * _EPS[summed] * near
    if summed != dtype:  # half a spacing; float16 has one of 2**-24 near zero
        bound += _EPS[dtype] / 2 * magnitude + (dtype == "float16") * 2.0**-25
    least: Array = bound + terms * _SMALLEST_NORMAL[summed]
    return least


REACH = 3  # pixels that a tile of Winograd's has beyond one output, at most


def weight_gradient_tolerance(
    conv: Conv, x: ArrayLike, dy: ArrayLike, algorithm: str = "direct"
) -> Array:
    """Return how far each number of the weight gradient may be from the reference: the bound of
    `tolerance`, its terms the products in one, batch times outputs.

    winograd: relative to the largest sum|x||dy| of the pair of channels, over the taps and, as a
    tile mixes its pixels, places up to 3 pixels beyond them. ProblemError for an unknown algorithm.
    """
    if algorithm not in ROUNDING:
        raise ProblemError(f"algorithm={algorithm!r} has no bound. Use {' or '.join(ROUNDING)}.")
    terms = conv.n * prod(conv.out_shape[2:])
    x, dy = np.abs(np.asarray(x, np.float64)), np.abs(np.asarray(dy, np.float64))
    magnitude = weight_gradient(conv, x, dy)
    near: Array = magnitude
    if algorithm == "winograd" and magnitude.size:
        axes = tuple(
            replace(a, kernel=a.kernel + 2 * REACH, lo=a.lo + far, hi=a.hi + far)
            for a in conv.axes
            for far in (REACH * a.dilation,)
        )
        near = weight_gradient(replace(conv, axes=axes), x, dy)
        near = near.max(axis=tuple(range(2, near.ndim)), keepdims=True)
    near = np.broadcast_to(near, magnitude.shape)
    return _bound(conv.dtype, terms, ROUNDING[algorithm], magnitude, near)


def finish(y: ArrayLike, epilogue: Epilogue, residual: ArrayLike | None = None) -> Array:
    """Return activation(y + residual) in float64, by the formulas of torch.nn.functional.

    >>> finish([-2.0, 1.0], Epilogue("leaky_relu", 0.5, residual=True), [-2.0, 1.0])
    array([-2.,  2.])
    """
    v = np.asarray(y, np.float64)
    if residual is not None:
        v = v + np.asarray(residual, np.float64)
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        found: Array = np.asarray(ACTIVATIONS[epilogue.activation](v, epilogue.slope), np.float64)
    return found


_erfc = np.vectorize(erfc, otypes=[np.float64])
_TWICE = 2 * (2 / pi) ** 0.5
ACTIVATIONS: dict[str, Callable[[Array, float], Any]] = {
    "": lambda v, _: v,
    "relu": lambda v, _: np.maximum(v, 0),
    "relu6": lambda v, _: np.minimum(np.maximum(v, 0), 6),
    "leaky_relu": lambda v, slope: np.where(v > 0, v, v * slope),
    "silu": lambda v, _: v / (1 + np.exp(-v)),
    "hardswish": lambda v, _: v * np.minimum(np.maximum(v + 3, 0), 6) / 6,
    "gelu": lambda v, _: v * _erfc(-v / 2**0.5) / 2,
    "gelu_tanh": lambda v, _: v / (1 + np.exp(-_TWICE * (v + 0.044715 * v**3))),
}
STEEPEST = 1.5  # slope of any of these but leaky_relu's own; hardswish has it at 3


def finished_tolerance(
    bound: Array, y: ArrayLike, epilogue: Epilogue, residual: ArrayLike | None, dtype: str
) -> Array:
    """Return how far `finish` of a y within `bound` may be: what the activation makes of that and
    of the rounding of the residual's sum, and 7 eps of the sum and the result for itself.
    """
    v = np.abs(np.asarray(y, np.float64))
    if residual is not None:
        v = v + np.abs(np.asarray(residual, np.float64))
    summed = dtype if dtype in _SMALLEST_NORMAL else "float32"
    steep = max(STEEPEST, abs(epilogue.slope)) if epilogue.activation else 1.0
    own = _EPS[summed] * (1 + 7 * bool(epilogue.activation)) * v
    if summed != dtype:
        own += _EPS[dtype] / 2 * v + (dtype == "float16") * 2.0**-25
    least: Array = steep * (bound + own) + 2 * _SMALLEST_NORMAL[summed] * (1 + v)
    return least


def _grouped(conv: Conv, x: ArrayLike, w: ArrayLike) -> tuple[Array, Array]:
    """Return images (n, g, ci/g, *size) and canonical weights (g, co/g, ci/g, *kernel)."""
    x, w = np.asarray(x), np.asarray(w)
    for name, array, shape in (("x", x, conv.in_shape), ("w", w, conv.weight_shape)):
        if array.shape != shape:
            raise ProblemError(f"{name} has shape {array.shape}. {conv} needs {shape}.")
    exact = x.dtype.kind in "biu" and w.dtype.kind in "biu"
    dtype = np.int64 if exact else np.float64
    g, size, kernel = conv.groups, x.shape[2:], w.shape[2:]
    images = x.astype(dtype).reshape(conv.n, g, conv.ci // g, *size)
    if not conv.transposed:
        return images, w.astype(dtype).reshape(g, conv.co // g, conv.ci // g, *kernel)
    weights = w.astype(dtype).reshape(g, conv.ci // g, conv.co // g, *kernel).swapaxes(1, 2)
    return images, np.flip(weights, axis=tuple(range(3, weights.ndim)))


def _with_bias(conv: Conv, y: Array, bias: ArrayLike | None) -> Array:
    """Return y in the shape of the output, plus the bias of each output channel."""
    y = y.reshape(conv.out_shape)
    if bias is None:
        return y
    per_channel = np.asarray(bias)
    if per_channel.shape != (conv.co,):
        raise ProblemError(f"bias has shape {per_channel.shape}. {conv} needs {(conv.co,)}.")
    exact = y.dtype.kind == "i" and per_channel.dtype.kind in "biu"
    dtype = np.int64 if exact else np.float64
    return y + per_channel.astype(dtype).reshape(-1, *(1,) * conv.dims)
