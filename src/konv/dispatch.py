"""From arrays and arguments to a result: find what was decided for such a call before, or decide
it.

The way is short, because a small convolution takes a few microseconds itself: one key of what a
plan may depend on, one look into a dictionary, the addresses, the digest of the weight, the kernel.
Calls that are repeated between PyTorch's tensors go it in machine code (konv.runtime.straight).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from konv.arrays import GRADIENT, NUMPY, OTHER, PLAIN, UNSEEN, Kind, kind_of
from konv.checks import Options
from konv.foreign import exchanged
from konv.keys import beside, fixed, rare, type_tree
from konv.layer import Layer
from konv.pair import Pair
from konv.runtime import straight
from konv.runtime.choose import current_precision
from konv.runtime.threads import Team, team

REMEMBERED = 512  # layers at one size; one takes about 5 KB

_ndarray = np.ndarray
_layers: dict[Any, Layer] = {}
_eagerly: Any = None  # of konv.nn.gradients, once it is wanted


def convolve(
    x: Any,
    weight: Any,
    bias: Any,
    activation: Any,
    residual: Any,
    out: Any,
    dims: int,
    transposed: bool,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    output_padding: Any,
    output_size: Any,
    padding_mode: Any,
    layout: Any,
    plan: Any,
) -> Any:
    """Run the layer that these arguments have led to before, or build it first; by machine code
    alone if PyTorch says that all is as it was.
    """
    found: Any = None if type(x) is _ndarray else kind_of(x)
    if found is not None and found.quiet():
        known = straight.KNOWN.get(id(weight))
        if known is not None:
            y = known(
                x, weight, bias, activation, residual, out, dims, transposed, stride, padding,
                dilation, groups, output_padding, output_size, padding_mode, layout, plan, team(),
                current_precision(),
            )  # fmt: skip
            if y is not None:
                return y
    arguments = (
        dims, transposed, stride, padding, dilation, groups, output_padding, output_size,
        padding_mode, layout, plan,
    )  # fmt: skip
    return _looked_up(x, weight, bias, activation, residual, out, arguments)


def _looked_up(
    x: Any,
    weight: Any,
    bias: Any,
    activation: Any,
    residual: Any,
    out: Any,
    arguments: tuple[Any, ...],
) -> Any:
    """Look up the layer of a call, and run it."""
    seen, more = PLAIN, None
    if type(x) is type(weight) is _ndarray and (bias is None or type(bias) is _ndarray):
        kind: Kind = NUMPY  # spelt out, because a method call each would be a fifth of a small call
        last = None if bias is None else (bias.shape, bias.strides, bias.dtype)
        arrays: Any = x.shape, x.strides, x.dtype, weight.shape, weight.strides, weight.dtype, last
    else:
        found = kind_of(x)
        seen, arrays = UNSEEN if found is None else found.recognize(x, weight, bias)
        if found is None or (
            seen == OTHER and not (found.owns(weight) and (bias is None or found.owns(bias)))
        ):
            return _foreign(found, x, weight, bias, activation, residual, out, arguments)
        kind, given = found, residual is not None or out is not None
        more = beside(kind, activation, residual, out) if given and seen == PLAIN else None
        if seen == OTHER or (given and more is None):
            arrays = _looked_into(kind, x, weight, bias, residual, out)
            if arrays is None:
                return _followed(x, weight, bias, activation, residual, arguments)
    now = team()
    key: Any = (
        arrays, arguments, now.address, now.threads, current_precision(),
        None if out is residual is activation is None else more or rare(activation, residual, out),
    )  # fmt: skip
    try:
        layer, same = _layers.get(key), True
        # The very objects are the usual case; of others, True and 1.0 equal 1. What is not asked
        # for here equals nothing of another type.
        if layer is not None and not (
            arguments[2] is layer.stride
            and arguments[3] is layer.padding
            and arguments[4] is layer.dilation
            and arguments[5] is layer.groups
            and arguments[6] is layer.output_padding
            and arguments[7] is layer.output_size
        ):
            (key, layer), same = _told_apart(key, layer, arguments), False
    except TypeError:  # a list among the arguments
        return convolve(x, weight, bias, fixed(activation), residual, out, *fixed(arguments))
    if layer is None:
        return _first(key, seen, kind, x, weight, bias, activation, residual, out, arguments, now)
    y = None if seen == GRADIENT else layer.run(x, weight, bias, residual, out)
    if y is None:
        return _compute(seen, layer, x, weight, bias, activation, residual, out, arguments)
    if layer.straight and same and seen == PLAIN:
        layer.repeated(x, weight, bias, (activation, None, None, *arguments, now, key[4]))
    return y


def _looked_into(
    kind: Kind, x: Any, weight: Any, bias: Any, residual: Any, out: Any
) -> tuple[Any, ...] | None:
    """What signatures say of arrays of which a glance does not say enough; None if somebody follows
    what is computed from them. Raises for what cannot be read.
    """
    if out is None and kind.followed(x, weight, bias, residual):
        return None
    _refuse(kind, x, weight, bias, residual, out)
    last = None if bias is None else kind.signature(bias)
    return kind.name, kind.signature(x), kind.signature(weight), last


def _first(
    key: Any,
    seen: int,
    kind: Kind,
    x: Any,
    weight: Any,
    bias: Any,
    activation: Any,
    residual: Any,
    out: Any,
    arguments: tuple[Any, ...],
    now: Team,
) -> Any:
    """The first call of a layer, which is remembered if nothing is refused."""
    settled = fixed(arguments)
    if settled is not arguments:  # an object that may say something else at the next call
        return convolve(x, weight, bias, activation, residual, out, *settled)
    _refuse(kind, x, weight, bias, residual, out)
    options = replace(Options(*arguments), activation=activation)
    layer = Layer(kind, x, weight, bias, options, residual, out, now, run)
    layer.called_with(arguments)
    y = _compute(seen, layer, x, weight, bias, activation, residual, out, arguments)
    _remember(key, layer)
    return y


def _told_apart(key: Any, layer: Layer, arguments: Any) -> tuple[Any, Layer | None]:
    """The key and the layer of arguments that equal those of a layer."""
    types = type_tree(arguments)
    if types == layer.types:
        layer.called_with(arguments)  # mostly the next call's too
        return key, layer
    key = key, types
    return key, _layers.get(key)


def _compute(
    seen: int,
    layer: Layer,
    x: Any,
    weight: Any,
    bias: Any,
    activation: Any,
    residual: Any,
    out: Any,
    arguments: Any,
) -> Any:
    """Compute the numbers, or so that PyTorch can differentiate."""
    if seen == GRADIENT:
        return _differentiate(layer, x, weight, bias, activation, arguments)
    y = layer.run(x, weight, bias, residual, out)
    if y is None:
        ready = layer.copies(x, weight, bias)
        return convolve(*ready, activation, residual, out, *arguments)
    return y


def _foreign(
    kind: Kind | None,
    x: Any,
    weight: Any,
    bias: Any,
    activation: Any,
    residual: Any,
    out: Any,
    arguments: tuple[Any, ...],
) -> Any:
    """Compute on arrays that are not all of a library that konv knows."""
    (x, weight, bias, residual), back = exchanged(kind, x, weight, bias, residual, out)
    y = convolve(x, weight, bias, activation, residual, None, *arguments)
    return back(y) if back else y


def forget() -> None:
    """Let the next call of every layer be its first: plans have changed."""
    _layers.clear()
    straight.forget()


def _remember(key: Any, layer: Layer) -> None:
    if len(_layers) >= REMEMBERED:
        _layers.clear()
    _layers[key] = layer


def _differentiate(
    layer: Layer, x: Any, weight: Any, bias: Any, activation: Any, arguments: tuple[Any, ...]
) -> Any:
    """Compute so that PyTorch can differentiate: most layers need nothing but their Function."""
    global _eagerly
    if not layer.differentiable:
        return _followed(x, weight, bias, activation, None, arguments)
    if _eagerly is None:
        from konv.nn.gradients import eagerly

        _eagerly = eagerly
    return _eagerly(x, weight, bias, layer.pair, layer.compute)


def _followed(
    x: Any, weight: Any, bias: Any, activation: Any, residual: Any, arguments: tuple[Any, ...]
) -> Any:
    """Compute what PyTorch follows: gradients, transforms, traces."""
    from konv.nn.doors import followed

    return followed(x, weight, bias, activation, residual, *arguments)


def run(
    which: Pair,
    x: Any,
    weight: Any,
    bias: Any = None,
    plan: str | None = None,
    trains: bool = False,
) -> Any:
    """Compute a Conv on arrays (n, ci, *spatial), weight and bias that are known to be its own.

    What is left of a call when its arguments are checked; gradients enter here, whose Convs no
    arguments describe. Nobody may follow the arrays: NumPy's, or dense CPU tensors. `trains`: a
    step of training wants the result, as Request.fresh has it.
    """
    kind: Any = kind_of(x)
    now = team()
    key = (
        which, kind.signature(x), kind.signature(weight),
        None if bias is None else kind.signature(bias),
        plan, now.address, now.threads, current_precision(),
    )  # fmt: skip
    layer = _layers.get(key)
    if layer is None:
        conv = which.conv
        options = Options(
            conv.dims, conv.transposed, 1, 0, 1, conv.groups, 0, None, conv.mode, None, plan
        )
        layer = Layer(kind, x, weight, bias, options, None, None, now, run, conv)
        _remember(key, layer)
    y = layer.run(x, weight, bias, None, None, trains)
    return run(which, *layer.copies(x, weight, bias), plan) if y is None else y


def _refuse(kind: Kind, x: Any, weight: Any, bias: Any, residual: Any, out: Any) -> None:
    """Raise for arrays that have no numbers to be read, and for gradients wanted of an `out`."""
    named = {"x": x, "weight": weight, "bias": bias, "residual": residual, "out": out}
    for name, a in named.items():
        if a is not None and kind.owns(a):
            kind.refuse(a, name)
            if out is not None:
                kind.refuse_followed(a, name)
