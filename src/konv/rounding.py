"""How far from `konv.reference` a kernel may be, by rounding: the one place that says so.

`tolerance` bounds an output, `weight_gradient_tolerance` a number of the weight gradient,
`finished_tolerance` what an epilogue makes of an output within its bound.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from konv.errors import ProblemError
from konv.geometry import Conv
from konv.plan import Epilogue
from konv.reference import im2col, weight_gradient

Array = NDArray[Any]

ROUNDING = {
    "direct": 4.0,
    "winograd": 6.0,
    "cells": 6.0,
    "upright": 8.0,
    "fourier": 8.0,
    "spectra": 3.0,
    "spectrum": 4.0,
}
"""The c of the bound, by how the sums are formed.

direct: measured on 60 draws at each of 1..25,000 terms added one after another in float32: signed
or positive random addends stay under 0.51 sqrt(terms) eps sum|x||w|; equal addends, whose rounding
errors all point one way, under 4 sqrt(terms) eps up to 1,152 terms.
winograd: F(4x4, 3x3) with points 0, +-1/sqrt(2), +-sqrt(2), F(4x4, 5x5) with 0, +-1/2, +-1, +-2,
F(2x2, 5x5), all along one axis, and the parts of steps of two: at most 1.1 for 16..512 channels,
over random, positive and equal addends and images with rows of very different size; relative to the
largest sum|x||w| of the image, as a tile mixes its outputs. Of weight gradients 0.6 for 400 outputs
and more, 3.0 for a single tile.
cells: F(3x3, 2x2) with points 0, 1, -1: 0.03 for 21 channels of 16 x 16 taps in steps of 8;
relative to the largest sum as winograd.
upright: F(4, 4) with points 0, 1, -1, 2, -2, 1/2 along columns: 0.71 for 7 x 7 taps, less for more,
over random, positive and equal addends and images with rows of very different size; relative to the
largest sum as winograd.
fourier: instead of sqrt(terms) sum|x||w| the square roots of sum|x|^2 and sum|w|^2 over a channel,
which are no less than any such sum: at most 2.8 for equal addends, 1.6 for positive ones, 0.35 for
random ones and rows of very different size, 1.2 where most numbers are zero, 1.6 where one output
has one product; 9 to 48 taps a side, 12 to 90 pixels, transforms of every length, of tiles and of
whole images. Of weight gradients 3.0 for equal numbers, 0.26 for random ones.
spectra: the same over a group's channels, times the root of their number: at most 0.96 where one
output has one product, 0.64 where most numbers are zero, 0.53 for equal addends, 0.2 for random
ones; 1 to 256 channels, 6 to 41 taps a side, transforms of every length.
spectrum: the same over a group's channels, times the root of their number and that of rows of taps:
at most 2.1 for equal addends, whose errors point one way, 0.03 for random ones; 16 to 256 channels,
5 to 128 taps, 1 to 41 rows.
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
    allows denormals to be flushed to zero. For Fourier transforms `channel_tolerance` has the
    formula. ProblemError for an unknown algorithm.

    >>> conv = Conv.of((1, 1, 4), co=1, kernel=4)
    >>> bool(tolerance(conv, [[[1, 1, 1, 1]]], [[[1, -1, 1, -1]]])[0, 0, 0] == 4 * 2 * 2**-23 * 4)
    True
    """
    if algorithm not in ROUNDING:
        raise ProblemError(f"algorithm={algorithm!r} has no bound. Use {' or '.join(ROUNDING)}.")
    if algorithm in ("fourier", "spectra", "spectrum"):
        return channel_tolerance(conv, x, w, bias, algorithm)
    terms = conv.ci // conv.groups * prod(axis.kernel for axis in conv.axes) + (bias is not None)
    above = None if bias is None else np.abs(np.asarray(bias, np.float64))
    x, w = np.abs(np.asarray(x, np.float64)), np.abs(np.asarray(w, np.float64))
    magnitude = im2col(conv, x, w, above)
    near: Array = magnitude
    if algorithm in ("winograd", "cells", "upright") and magnitude.size:
        near = magnitude.max(axis=tuple(range(2, magnitude.ndim)), keepdims=True)
    near = np.broadcast_to(near, magnitude.shape)
    return _bound(conv.dtype, terms, ROUNDING[algorithm], magnitude, near)


def channel_tolerance(
    conv: Conv,
    x: ArrayLike,
    w: ArrayLike,
    bias: ArrayLike | None = None,
    algorithm: str = "fourier",
) -> Array:
    """Return the bound of `tolerance` for "fourier", "spectra" or "spectrum" (shape
    conv.out_shape): one for all outputs of an image and channel,

        c sqrt(n) eps (sum|x|^2 sum|w|^2)^(1/2)

    over all pixels of the group, padding that is no zeros included, and all weights of the output;
    n: the sums of bins that an output is made of, its input channels, by "spectrum" times rows of
    taps.
    """
    summed = prod(axis.kernel for axis in conv.axes[:-1]) if algorithm == "spectrum" else 1
    near = _sizes(conv, *(None if a is None else np.abs(np.asarray(a)) for a in (x, w, bias)))
    terms = conv.ci // conv.groups * summed
    return _bound(conv.dtype, terms, ROUNDING[algorithm], near, near)


MODES: dict[str, Any] = {  # padding as numpy.pad calls it
    "reflect": "reflect",
    "replicate": "edge",
    "circular": "wrap",
}


def _sizes(conv: Conv, x: Any, w: Any, bias: Any) -> Array:
    """Roots of sum|x|^2 times sum|w|^2 for each image and output channel, and its bias."""
    if conv.mode != "zeros":
        x = np.pad(x, [(0, 0), (0, 0), *(axis.overhang() for axis in conv.axes)], MODES[conv.mode])
    x, w = x.astype(np.float64), w.astype(np.float64)
    groups, ci, co = conv.groups, conv.ci // conv.groups, conv.co // conv.groups
    pixels = (x.reshape(conv.n, groups, 1, prod(x.shape[1:]) // groups) ** 2).sum(-1)
    parts = (groups, ci, co) if conv.transposed else (groups, co, ci)
    taps = w.reshape(*parts, prod(axis.kernel for axis in conv.axes)) ** 2
    taps = taps.sum((1, 3)) if conv.transposed else taps.sum((2, 3))
    found: Array = np.sqrt(pixels * taps).reshape(conv.n, conv.co, *(1,) * conv.dims)
    if bias is not None:
        found = found + bias.reshape(-1, *(1,) * conv.dims)
    return np.broadcast_to(found, conv.out_shape)


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
    tile mixes its pixels, places up to 3 pixels beyond them. fourier, of depthwise layers: instead
    of sqrt(terms) times that, the roots of sum|x|^2 and sum|dy|^2 over the channel. ProblemError
    for an unknown algorithm.
    """
    if algorithm not in ROUNDING:
        raise ProblemError(f"algorithm={algorithm!r} has no bound. Use {' or '.join(ROUNDING)}.")
    terms = conv.n * prod(conv.out_shape[2:])
    x, dy = np.abs(np.asarray(x, np.float64)), np.abs(np.asarray(dy, np.float64))
    magnitude = weight_gradient(conv, x, dy)
    near: Array = magnitude
    if algorithm == "fourier":
        pixels, outputs = ((a**2).sum((0, *range(2, a.ndim))) for a in (x, dy))
        near = np.sqrt(pixels * outputs).reshape(-1, *(1,) * (magnitude.ndim - 1))
        terms = 1
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


STEEPEST = 1.5  # slope of any activation but leaky_relu's own; hardswish has it at 3


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
