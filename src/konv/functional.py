"""konv.conv1d ... conv_transpose3d: convolutions of arrays, with PyTorch's argument order and
weight layouts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from konv.arrays import NUMPY, Kind, channels_last, from_dlpack, kind_of
from konv.checks import Options, problem
from konv.request import Request, packable, plain
from konv.runtime.choose import current_precision
from konv.runtime.execute import Weights
from konv.runtime.threads import Team, team

REMEMBERED = 512  # layers at one size; one takes about 5 KB

_layers: dict[Any, _Layer] = {}


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
    out: Any = None,
) -> Any:
    """Convolve sequences: x (n, ci, w) or (ci, w), weight (co, ci / groups, k). See conv2d.

    >>> import numpy as np
    >>> conv1d(np.ones((1, 1, 5), "float32"), np.ones((1, 1, 3), "float32"), padding=1)
    array([[[2., 3., 3., 3., 2.]]], dtype=float32)
    """
    return _convolve(
        x,
        weight,
        bias,
        out,
        1,
        False,
        stride,
        padding,
        dilation,
        groups,
        0,
        None,
        padding_mode,
        layout,
    )


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
    out: Any = None,
) -> Any:
    """Convolve images: ordinary, strided, dilated, grouped, depthwise.

    x         (n, ci, h, w) or (ci, h, w); float32 or float64; NumPy array, PyTorch CPU tensor or
              anything with DLPack
    weight    (co, ci / groups, kh, kw), same library and dtype
    bias      (co,) or None
    stride, padding, dilation
              an int, or one per axis; padding also "valid", "same", "causal" or
              ((lo, hi), (lo, hi)), in pixels
    padding_mode
              "zeros", "reflect", "replicate" or "circular"
    layout    "NHWC" for arrays whose channels stand last (an image file's order); the result then
              does too
    out       an array of the result's shape and dtype to write into

    Returns (n, co, oh, ow), or without n, of the same kind and dtype; channels last in memory if x
    or weight is (and not also contiguous). Raises ProblemError (a ValueError) for arguments that
    fit no convolution, UnsupportedError for dtypes and devices, OutOfMemoryError for what the
    machine cannot hold, all before any work. Cross-correlation, as in every deep-learning library:
    the kernel is not flipped.

    >>> import numpy as np
    >>> image, weight = np.ones((1, 3, 8, 8), "float32"), np.ones((16, 3, 3, 3), "float32")
    >>> conv2d(image, weight, stride=2, padding=1).shape
    (1, 16, 4, 4)
    """
    return _convolve(
        x,
        weight,
        bias,
        out,
        2,
        False,
        stride,
        padding,
        dilation,
        groups,
        0,
        None,
        padding_mode,
        layout,
    )


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
    out: Any = None,
) -> Any:
    """Convolve volumes: x (n, ci, d, h, w), weight (co, ci / groups, kd, kh, kw). See conv2d.

    >>> import numpy as np
    >>> conv3d(np.ones((1, 1, 4, 4, 4), "float32"), np.ones((2, 1, 2, 2, 2), "float32")).shape
    (1, 2, 3, 3, 3)
    """
    return _convolve(
        x,
        weight,
        bias,
        out,
        3,
        False,
        stride,
        padding,
        dilation,
        groups,
        0,
        None,
        padding_mode,
        layout,
    )


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
    out: Any = None,
) -> Any:
    """Transposed convolution of sequences: weight (ci, co / groups, k). See conv_transpose2d.

    >>> import numpy as np
    >>> conv_transpose1d(np.ones((1, 1, 2), "float32"), np.ones((1, 1, 2), "float32"), stride=2)
    array([[[1., 1., 1., 1.]]], dtype=float32)
    """
    return _convolve(
        x, weight, bias, out, 1, True, stride, padding, dilation, groups,
        output_padding, output_size, padding_mode, layout,
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

    The rest, the result and the errors as in conv2d.

    >>> import numpy as np
    >>> x, weight = np.ones((1, 8, 5, 5), "float32"), np.ones((8, 4, 2, 2), "float32")
    >>> conv_transpose2d(x, weight, stride=2).shape
    (1, 4, 10, 10)
    """
    return _convolve(
        x, weight, bias, out, 2, True, stride, padding, dilation, groups,
        output_padding, output_size, padding_mode, layout,
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
    out: Any = None,
) -> Any:
    """Transposed convolution of volumes: weight (ci, co / groups, kd, kh, kw). See
    conv_transpose2d.

    >>> import numpy as np
    >>> x, weight = np.ones((1, 1, 2, 2, 2), "float32"), np.ones((1, 3, 2, 2, 2), "float32")
    >>> conv_transpose3d(x, weight, stride=2).shape
    (1, 3, 4, 4, 4)
    """
    return _convolve(
        x, weight, bias, out, 3, True, stride, padding, dilation, groups,
        output_padding, output_size, padding_mode, layout,
    )  # fmt: skip


class _Layer:
    """What is remembered of a call: its request, and how its packed weights are found again."""

    def __init__(
        self, kind: Kind, x: Any, weight: Any, bias: Any, options: Options, out: Any, team: Team
    ) -> None:
        conv = problem(kind, x, weight, bias, options)
        strides = kind.strides(weight)
        weight_last = channels_last(tuple(weight.shape), strides)
        self.kind, self.request = kind, Request(kind, x, conv, options, out, team, weight_last)
        self.readable = self.request.readable and packable(kind, weight) and plain(kind, bias)
        if self.readable:
            self.weights = Weights(self.request.call, strides)

    def __call__(self, x: Any, weight: Any, bias: Any, out: Any) -> Any:
        """Compute; None if the arrays must be copied first, which alignment may ask for at any
        call.
        """
        if not self.readable:
            return None
        kind, weights = self.kind, self.weights
        pw, pb = kind.address(weight), 0 if bias is None else kind.address(bias)
        if (kind.address(x) | pw | pb) % self.request.itemsize:
            return None
        reads = ((pw, weights.bytes), (pb, weights.bias_bytes)) if out is not None else ()
        return self.request.run(x, weights.packed(pw, pb), out, reads)


def _convolve(x: Any, weight: Any, bias: Any, out: Any, *arguments: Any) -> Any:
    """Run the layer that these arguments have led to before, or build it first."""
    kind = NUMPY if type(x) is np.ndarray else kind_of(x)
    if kind is None or not kind.owns(weight) or not (bias is None or kind.owns(bias)):
        return _foreign(kind, x, weight, bias, out, arguments)
    if kind is not NUMPY:
        for name, a in (("x", x), ("weight", weight), ("bias", bias)):
            if a is not None:
                kind.refuse(a, name)
    now = team()
    key = (
        kind.signature(x), kind.signature(weight), None if bias is None else kind.signature(bias),
        None if out is None else _out_signature(out), arguments, *map(type, arguments[2:6]),
        now.address, now.threads, current_precision(),
    )  # fmt: skip
    try:
        layer = _layers.get(key)
    except TypeError:  # a list among the arguments
        return _convolve(x, weight, bias, out, *map(_hashable, arguments))
    if layer is None:
        layer = _Layer(kind, x, weight, bias, Options(*arguments), out, now)
        if len(_layers) >= REMEMBERED:
            _layers.clear()
        _layers[key] = layer
    y = layer(x, weight, bias, out)
    if y is None:  # something cannot be read as it lies
        x = kind.dense(x)
        weight, bias = kind.contiguous(weight), None if bias is None else kind.contiguous(bias)
        return _convolve(x, weight, bias, out, *arguments)
    return y


def _out_signature(out: Any) -> tuple[Any, ...]:
    kind = kind_of(out)
    return (type(out), *(kind.signature(out) if kind else ()), kind.writable(out) if kind else None)


def _hashable(argument: Any) -> Any:
    """Lists as tuples, to any depth; what cannot be hashed at all is refused by name."""
    if isinstance(argument, list | tuple):
        return tuple(map(_hashable, argument))
    if isinstance(argument, np.ndarray):
        return tuple(map(_hashable, argument.tolist())) if argument.ndim else argument.item()
    try:
        hash(argument)
    except TypeError:
        raise TypeError(
            f"{argument!r} is no number, tuple or string. Use an int or a tuple of ints."
        ) from None
    return argument


def _foreign(
    kind: Kind | None, x: Any, weight: Any, bias: Any, out: Any, arguments: tuple[Any, ...]
) -> Any:
    """Arrays of other libraries, through DLPack; a mixture of libraries is refused."""
    names = {"x": x, "weight": weight} | ({} if bias is None else {"bias": bias})
    if kind is not None:
        odd = next(name for name, a in names.items() if not kind.owns(a))
        raise TypeError(
            f"{odd} is a {type(names[odd]).__module__}.{type(names[odd]).__name__}, x is a "
            f"{kind.name}. Use arrays of one library: konv returns what it is given."
        )
    views: list[Any] = []
    back: Callable[[Any], Any] | None = None
    for name, a in names.items():
        exchanged = from_dlpack(a)
        if exchanged is None:
            raise TypeError(
                f"{name} is a {type(a).__name__}; konv takes NumPy arrays, PyTorch CPU tensors and "
                f"arrays that speak DLPack. Use numpy.asarray({name})."
            )
        views.append(exchanged[0])
        back = back or exchanged[1]
    if out is not None:
        raise TypeError("out works with NumPy arrays and PyTorch tensors only. Leave it out.")
    y = _convolve(*views, *([None] * (4 - len(views))), *arguments)
    return back(y) if back else y
