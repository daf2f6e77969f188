"""From the arguments users write, in any of their forms, to sizes and axes."""

from __future__ import annotations

from collections.abc import Iterable

from konv.errors import ProblemError
from konv.geometry.axis import Axis
from konv.geometry.bounds import integer, per_axis
from konv.geometry.padding import amounts
from konv.geometry.terms import Terms, axes_of

Numbers = int | Iterable[int]
"""One integer for all spatial axes, or one for each."""

Padding = int | str | Iterable[int] | Iterable[tuple[int, int]]
"""The same, or one (lo, hi) pair for each, or "valid", "same" or "causal"."""


def split_shape(in_shape: Iterable[int]) -> tuple[int, int, tuple[int, ...]]:
    """Return batch, channels and spatial sizes of an input shape (n, ci, *spatial).

    >>> split_shape((1, 64, 56, 56))
    (1, 64, (56, 56))
    """
    if isinstance(in_shape, str) or not isinstance(in_shape, Iterable):
        raise TypeError(f"in_shape must be a tuple of integers, got {in_shape!r}.")
    shape = tuple(in_shape)
    if not 3 <= len(shape) <= 5:
        raise ProblemError(
            f"in_shape={shape} has {len(shape)} dimensions. "
            f"Use (batch, channels) and 1, 2 or 3 spatial sizes."
        )
    sizes = (integer(size, "spatial size", least=1) for size in shape[2:])
    return integer(shape[0], "batch", 0), integer(shape[1], "in_channels", 1), tuple(sizes)


def axes_from(
    sizes: tuple[int, ...],
    kernel: Numbers,
    stride: Numbers = 1,
    padding: Padding = 0,
    dilation: Numbers = 1,
    output_padding: Numbers = 0,
    transposed: bool = False,
) -> tuple[Axis, ...]:
    """Return one axis for each spatial size.

    ProblemError for numbers that describe no convolution, TypeError for wrong types.

    >>> axes_from((8,), kernel=4, stride=2, padding=1, transposed=True)
    (Axis(size=8, kernel=4, stride=1, dilation=1, lo=2, hi=2, up=2),)
    """
    dims = len(sizes)
    kernels = per_axis(kernel, "kernel", dims, least=1)
    strides = per_axis(stride, "stride", dims, least=1)
    dilations = per_axis(dilation, "dilation", dims, least=1)
    extra = per_axis(output_padding, "output_padding", dims, least=0)
    extents = [(k - 1) * d + 1 for k, d in zip(kernels, dilations, strict=True)]
    pads = amounts(padding, sizes, extents, strides, transposed)
    columns = zip(kernels, strides, dilations, pads, extra, strict=True)
    terms = [Terms(k, s, d, lo, hi, r) for k, s, d, (lo, hi), r in columns]
    return axes_of(sizes, terms, transposed)
