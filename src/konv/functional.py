"""konv.conv1d ... conv_transpose3d: convolutions of arrays, with PyTorch's argument order and
weight layouts.
"""

from __future__ import annotations

from typing import Any

from konv.dispatch import convolve


def conv1d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    layout: str | None = None,
    plan: str | None = None,
    activation: Any = None,
    residual: Any = None,
    out: Any = None,
) -> Any:
    """Convolve sequences: x (n, ci, w) or (ci, w), weight (co, ci / groups, k). See conv2d.

    >>> import numpy as np
    >>> conv1d(np.ones((1, 1, 5), "float32"), np.ones((1, 1, 3), "float32"), padding=1)
    array([[[2., 3., 3., 3., 2.]]], dtype=float32)
    """
    return convolve(
        x, weight, bias, activation, residual, out, 1, False, stride, padding, dilation, groups,
        0, None, padding_mode, layout, plan,
    )  # fmt: skip


def conv2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    layout: str | None = None,
    plan: str | None = None,
    activation: Any = None,
    residual: Any = None,
    out: Any = None,
) -> Any:
    """Convolve images: ordinary, strided, dilated, grouped, depthwise.

    x         (n, ci, h, w) or (ci, h, w); float32, float64, float16 or bfloat16; NumPy array,
              PyTorch CPU tensor or anything with DLPack
    weight    (co, ci / groups, kh, kw), same library and dtype
    bias      (co,) or None
    stride, padding, dilation
              an int, or one per axis; padding also "valid", "same", "causal" or
              ((lo, hi), (lo, hi)), in pixels
    padding_mode
              "zeros", "reflect", "replicate" or "circular"
    layout    "NHWC" for arrays whose channels stand last (an image file's order); the result then
              does too
    plan      the algorithm that is to compute it, such as "direct"; None: the one whose model is
              fastest, or that ``konv tune`` found faster here. ``konv explain`` lists them, and
              those that do not take a layer say why
    activation
              "relu", "relu6", "leaky_relu" (slope 0.01), ("leaky_relu", slope), "silu",
              "hardswish", "gelu" (exact) or ("gelu", "tanh"), as torch.nn.functional defines them
    residual  an array like the result: y = activation(conv(x) + bias + residual); it may be `out`
    out       an array of the result's shape and dtype to write into

    Returns (n, co, oh, ow), or without n, of the same kind and dtype; channels last in memory if x
    or weight is (and not also contiguous). Half precision is summed in float32 and rounded once.
    Raises ProblemError (a ValueError) for arguments that fit no convolution, UnsupportedError for
    dtypes and devices, OutOfMemoryError for what the machine cannot hold, all before any work.
    Cross-correlation, as in every deep-learning library: the kernel is not flipped.

    Kernels of 3 or 5 taps and stride 1, and of 3 to 5 taps and stride 2, are computed on tiles
    (Winograd) where that is faster: a NaN or infinite pixel then reaches all outputs of its tile of
    4 x 4 (8 x 8 if the layer is transposed with stride 2), and a NaN or infinite weight all outputs
    of its channel. Depthwise layers of 9 x 9 taps and more, and rows of many taps with many
    channels, go by Fourier transforms: such a pixel reaches all outputs of its tile, or image.
    ``konv.precision("exact")`` keeps them where they belong.

    >>> import numpy as np
    >>> image, weight = np.ones((1, 3, 8, 8), "float32"), np.ones((16, 3, 3, 3), "float32")
    >>> conv2d(image, weight, stride=2, padding=1).shape
    (1, 16, 4, 4)
    >>> once = conv2d(image, weight, padding=1, activation="relu")
    >>> conv2d(image, weight, padding=1, activation="relu", residual=once).shape
    (1, 16, 8, 8)
    >>> conv2d(image, weight, padding=1, plan="direct").shape
    (1, 16, 8, 8)
    """
    return convolve(
        x, weight, bias, activation, residual, out, 2, False, stride, padding, dilation, groups,
        0, None, padding_mode, layout, plan,
    )  # fmt: skip


def conv3d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    layout: str | None = None,
    plan: str | None = None,
    activation: Any = None,
    residual: Any = None,
    out: Any = None,
) -> Any:
    """Convolve volumes: x (n, ci, d, h, w), weight (co, ci / groups, kd, kh, kw). See conv2d.

    >>> import numpy as np
    >>> conv3d(np.ones((1, 1, 4, 4, 4), "float32"), np.ones((2, 1, 2, 2, 2), "float32")).shape
    (1, 2, 3, 3, 3)
    """
    return convolve(
        x, weight, bias, activation, residual, out, 3, False, stride, padding, dilation, groups,
        0, None, padding_mode, layout, plan,
    )  # fmt: skip


def conv_transpose1d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    padding_mode: str = "zeros",
    output_size: Any = None,
    layout: str | None = None,
    plan: str | None = None,
    activation: Any = None,
    residual: Any = None,
    out: Any = None,
) -> Any:
    """Transposed convolution of sequences: weight (ci, co / groups, k). See conv_transpose2d.

    >>> import numpy as np
    >>> conv_transpose1d(np.ones((1, 1, 2), "float32"), np.ones((1, 1, 2), "float32"), stride=2)
    array([[[1., 1., 1., 1.]]], dtype=float32)
    """
    return convolve(
        x, weight, bias, activation, residual, out, 1, True, stride, padding, dilation, groups,
        output_padding, output_size, padding_mode, layout, plan,
    )  # fmt: skip


def conv_transpose2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    padding_mode: str = "zeros",
    output_size: Any = None,
    layout: str | None = None,
    plan: str | None = None,
    activation: Any = None,
    residual: Any = None,
    out: Any = None,
) -> Any:
    """Transposed convolution of images: the adjoint of conv2d with the same weight; upsamples by
    `stride`.

    weight    (ci, co / groups, kh, kw)
    padding   crops the result: an int, one per axis, or ((lo, hi), (lo, hi)), in pixels of the
              result
    output_padding
              pixels added at the end of each axis, less than stride or dilation
    output_size
              the wanted (oh, ow) instead of output_padding

    The rest, the result and the errors as in conv2d. With infinite weights, results whose kernel
    reaches beyond the image are NaN, as beside padding.

    >>> import numpy as np
    >>> x, weight = np.ones((1, 8, 5, 5), "float32"), np.ones((8, 4, 2, 2), "float32")
    >>> conv_transpose2d(x, weight, stride=2).shape
    (1, 4, 10, 10)
    """
    return convolve(
        x, weight, bias, activation, residual, out, 2, True, stride, padding, dilation, groups,
        output_padding, output_size, padding_mode, layout, plan,
    )  # fmt: skip


def conv_transpose3d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    padding_mode: str = "zeros",
    output_size: Any = None,
    layout: str | None = None,
    plan: str | None = None,
    activation: Any = None,
    residual: Any = None,
    out: Any = None,
) -> Any:
    """Transposed convolution of volumes: weight (ci, co / groups, kd, kh, kw). See
    conv_transpose2d.

    >>> import numpy as np
    >>> x, weight = np.ones((1, 1, 2, 2, 2), "float32"), np.ones((1, 3, 2, 2, 2), "float32")
    >>> conv_transpose3d(x, weight, stride=2).shape
    (1, 3, 4, 4, 4)
    """
    return convolve(
        x, weight, bias, activation, residual, out, 3, True, stride, padding, dilation, groups,
        output_padding, output_size, padding_mode, layout, plan,
    )  # fmt: skip
