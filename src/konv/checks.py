"""From the arguments of a call to a Conv: every error that arguments can have is raised here or by
geometry.

Nothing has been computed or changed when one is. Each names the field, its value, the rule and the
way out.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from numbers import Real
from typing import Any

from konv.arrays import Kind, Shape
from konv.errors import ProblemError, UnsupportedError
from konv.geometry import Conv
from konv.geometry.bounds import integer, per_axis
from konv.plan import Epilogue
from konv.target import BYTES

TAKEN = ", ".join(BYTES)
LAYOUTS = {
    1: {"NCW": False, "NWC": True, "NCL": False, "NLC": True},
    2: {"NCHW": False, "NHWC": True},
    3: {"NCDHW": False, "NDHWC": True},
}


@dataclass(frozen=True, slots=True)
class Options:
    """What a call says besides its arrays; hashable as long as its fields are."""

    dims: int
    transposed: bool
    stride: Any
    padding: Any
    dilation: Any
    groups: int
    output_padding: Any
    output_size: Any
    padding_mode: str
    layout: str | None
    plan: str | None = None
    activation: Any = None

    @property
    def name(self) -> str:
        return f"conv{'_transpose' if self.transposed else ''}{self.dims}d"


def problem(kind: Kind, x: Any, weight: Any, bias: Any, options: Options) -> Conv:
    """The problem that arrays and options describe; nothing is read of the arrays but shape and
    dtype.
    """
    last = layout_last(options)
    shape = canonical(kind, x, options, last)[1]
    _refuse_photograph(kind, x, tuple(weight.shape), options)
    dtype = check_dtype(kind, x, {"weight": weight, "bias": bias}, options)
    conv = _conv(shape, tuple(weight.shape), dtype, options)
    if bias is not None and tuple(bias.shape) != (conv.co,):
        raise ProblemError(
            f"bias has shape {tuple(bias.shape)}; it must be ({conv.co},), one number per output "
            f"channel."
        )
    return conv


def layout_last(options: Options) -> bool:
    """Whether the user's arrays have channels as their last axis."""
    if options.layout is None:
        return False
    names = LAYOUTS[options.dims]
    if options.layout not in names:
        raise ProblemError(
            f"layout={options.layout!r} is no layout of {options.name}. Use {' or '.join(names)}, "
            f"or leave it out for channels first."
        )
    return names[options.layout]


def canonical(
    kind: Kind, a: Any, options: Options, last: bool, batched: bool | None = None
) -> tuple[bool, Shape, Shape]:
    """Whether there is a batch axis, and shape and strides in the order (batch, channel,
    *spatial).
    """
    shape, strides, dims = tuple(a.shape), kind.strides(a), options.dims
    if batched is None:
        batched = len(shape) == dims + 2
    if not batched:
        if len(shape) != dims + 1:
            raise ProblemError(
                f"x has {len(shape)} axes {shape}; {options.name} takes {dims + 2} (batch, "
                f"channels, {dims} of space) or {dims + 1} without batch. Add or drop axes."
            )
        shape, strides = (1, *shape), (0, *strides)
    if last:
        shape = (shape[0], shape[-1], *shape[1:-1])
        strides = (strides[0], strides[-1], *strides[1:-1])
    return batched, shape, strides


def _refuse_photograph(kind: Kind, x: Any, weight: Shape, options: Options) -> None:
    """An image as files and cameras give it: height, width, colours, often bytes."""
    shape, dtype, groups = tuple(x.shape), kind.dtype(x), options.groups
    if options.layout is not None or len(shape) < options.dims + 1 or len(weight) < 2:
        return
    per_group = weight[1] * groups if isinstance(groups, int) else 0
    colours, taken = shape[-1], weight[0] if options.transposed else per_group
    as_bytes = dtype == "uint8" and colours in (1, 3, 4)
    if as_bytes or (colours in (3, 4) and colours == taken != shape[-options.dims - 1]):
        layout = list(LAYOUTS[options.dims])[1]
        change = "x"
        if dtype == "uint8":
            change = '(x / 255).astype("float32")'
            if not kind.name.startswith("numpy"):
                change = "x.float() / 255"
        raise ProblemError(
            f"x is a {dtype} image of shape {shape}, channels last; konv takes channels first and "
            f'real numbers. Write konv.{options.name}({change}, weight, layout="{layout}").'
        )


def check_dtype(kind: Kind, x: Any, others: dict[str, Any], options: Options) -> str:
    """The dtype of x, which konv must know and the other arrays must share."""
    dtype = kind.dtype(x)
    cast = '.astype("float32")' if kind.name.startswith("numpy") else ".float()"
    if dtype not in BYTES:
        advice = f"Cast it, x{cast}"
        if dtype.startswith("complex"):
            advice = "Convolve x.real and x.imag, and put them together"
        raise UnsupportedError(f"x is {dtype}; konv takes {TAKEN}. {advice}.")
    for name, a in others.items():
        if a is not None and kind.dtype(a) != dtype:
            fix = ".astype(x.dtype)" if kind.name.startswith("numpy") else ".to(x.dtype)"
            raise ProblemError(
                f"{name} is {kind.dtype(a)} and x is {dtype}; {options.name} wants one dtype. "
                f"Use {name}{fix}."
            )
    return dtype


def check_residual(kind: Kind, residual: Any, shape: Shape, dtype: str, options: Options) -> None:
    """Refuse a residual that is not like the result, of this shape and dtype."""
    if not kind.owns(residual):
        raise TypeError(
            f"residual is a {type(residual).__name__}, x a {kind.name}. Use the same library for "
            f"both."
        )
    if tuple(residual.shape) != shape or kind.dtype(residual) != dtype:
        raise ProblemError(
            f"residual is {kind.dtype(residual)} {tuple(residual.shape)}; the result of "
            f"{options.name}, to which it is added, is {dtype} {shape}. Use an array of that shape "
            f"and dtype."
        )


def epilogue(options: Options, residual: bool) -> Epilogue:
    """What is done to the results, from the argument `activation` and whether there is a residual.

    An activation is a name, or a pair of a name and its number or variant.
    """
    given = options.activation
    if given is None:
        return Epilogue(residual=residual)
    name, *more = (given,) if isinstance(given, str) else _pair(given)
    if name not in NAMES or (more and name not in ("leaky_relu", "gelu")):
        extra = " takes no number or variant" if name in NAMES else " is unknown"
        raise ProblemError(
            f'activation={given!r}{extra}. Use {", ".join(map(repr, NAMES))}, ("leaky_relu", '
            f'slope) or ("gelu", "tanh"), or leave it out.'
        )
    if name == "leaky_relu":
        return Epilogue(name, _slope(more[0]) if more else 0.01, residual)
    if more and more[0] != "tanh":
        raise ProblemError(
            f"activation={given!r}: {more[0]!r} is no variant of gelu. Use ('gelu', 'tanh'), or "
            f"'gelu' for the exact one."
        )
    return Epilogue(f"{name}_{more[0]}" if more else name, 0.0, residual)


NAMES = ("relu", "relu6", "leaky_relu", "silu", "hardswish", "gelu")


def _pair(given: Any) -> tuple[Any, ...]:
    if not isinstance(given, tuple | list) or len(given) != 2 or not isinstance(given[0], str):
        raise TypeError(
            f"activation={given!r} is a {type(given).__name__}. Use a name, 'relu', or a pair of a "
            f"name and its number or variant, ('leaky_relu', 0.2)."
        )
    return tuple(given)


def _slope(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"activation: the slope {value!r} of leaky_relu is no number. Use a float.")
    if not isfinite(value):
        raise ProblemError(
            f"activation: the slope {value!r} of leaky_relu is not finite. Use a finite number."
        )
    return float(value)


def _conv(shape: Shape, weight: Shape, dtype: str, options: Options) -> Conv:
    """The problem; geometry raises what is wrong with the numbers."""
    if len(weight) != options.dims + 2:
        raise ProblemError(
            f"weight has {len(weight)} axes {weight}; {options.name} takes {options.dims + 2}: "
            f"{'in, out / groups' if options.transposed else 'out, in / groups'} and the kernel."
        )
    groups, ci = integer(options.groups, "groups"), shape[1]
    given = weight[0] if options.transposed else weight[1] * groups
    if groups >= 1 and given != ci:
        part = (
            "weight.shape[0]"
            if options.transposed
            else f"weight.shape[1] x groups = {weight[1]} x {groups}"
        )
        raise ProblemError(
            f"x has {ci} channels, and {part} = {given}; they must be equal ({options.name}, "
            f"x {shape}, weight {weight}). {_channel_advice(ci, weight, groups, options)}"
        )
    co = weight[1] * groups if options.transposed else weight[0]
    arguments: dict[str, Any] = {
        "stride": options.stride,
        "padding": options.padding,
        "dilation": options.dilation,
        "groups": groups,
        "transposed": options.transposed,
        "padding_mode": options.padding_mode,
        "dtype": dtype,
    }
    output_padding = options.output_padding
    if options.output_size is not None:
        if output_padding not in (0, None) and any(_tuple(output_padding, options.dims)):
            raise ProblemError(
                f"output_size={options.output_size} and output_padding={output_padding} say the "
                f"same thing twice. Leave one of them out."
            )
        output_padding = _from_output_size(Conv.of(shape, co, weight[2:], **arguments), options)
    if options.transposed:
        arguments["output_padding"] = output_padding
    return Conv.of(shape, co, weight[2:], **arguments)


def _channel_advice(ci: int, weight: Shape, groups: int, options: Options) -> str:
    if (
        not options.transposed
        and weight[1]
        and ci % weight[1] == 0
        and weight[0] % (ci // weight[1]) == 0
    ):
        return f"Use groups={ci // weight[1]}, or an x with {weight[1] * groups} channels."
    if ci in (weight[0], weight[1]) and groups == 1:
        return (
            "Swap the first two axes of the weight: the two kinds of convolution store them in "
            "opposite order."
        )
    return f"Use an x with {weight[0] if options.transposed else weight[1] * groups} channels."


def _tuple(value: Any, dims: int) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,) * dims


def _from_output_size(smallest: Conv, options: Options) -> tuple[int, ...]:
    """The output padding that gives the wanted size, as PyTorch finds it."""
    size = options.output_size
    if isinstance(size, tuple | list) and len(size) in (options.dims + 1, options.dims + 2):
        size = size[-options.dims :]  # the whole shape, which PyTorch takes too
    wanted = per_axis(size, "output_size", options.dims)
    least, strides = smallest.out_shape[2:], per_axis(options.stride, "stride", options.dims)
    most = tuple(a + s - 1 for a, s in zip(least, strides, strict=True))
    if not all(a <= w <= b for a, w, b in zip(least, wanted, most, strict=True)):
        raise ProblemError(
            f"output_size={options.output_size} cannot be reached: each of {options.dims} axes "
            f"must lie from {least} to {most}. Use one of these, or another stride or padding."
        )
    return tuple(w - a for w, a in zip(wanted, least, strict=True))
