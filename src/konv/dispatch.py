"""From arrays and arguments to a result: find what was decided for such a call before, or decide
it.

The way is short, because a small convolution takes a few microseconds itself: one key of what a
plan may depend on, one look into a dictionary, the addresses, the digest of the weight, the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from operator import is_
from typing import Any

import numpy as np

from konv.arrays import (
    GRADIENT,
    NUMPY,
    OTHER,
    PLAIN,
    UNSEEN,
    Kind,
    channels_last,
    from_dlpack,
    kind_of,
    no_memory,
)
from konv.checks import Options, problem
from konv.geometry import Conv
from konv.pair import Pair, pair
from konv.request import Request, packable, plain
from konv.runtime import memory
from konv.runtime.choose import current_precision
from konv.runtime.execute import Weights
from konv.runtime.threads import Team, team

REMEMBERED = 512  # layers at one size; one takes about 5 KB

_ndarray = np.ndarray
_layers: dict[Any, _Layer] = {}
_eagerly: Any = None  # of konv.nn.gradients, once it is wanted


class _Layer:
    """What is remembered of a call: its request, and how its packed weights are found again."""

    arguments: tuple[Any, ...] = ()
    types: Any = ()

    def __init__(
        self,
        kind: Kind,
        x: Any,
        weight: Any,
        bias: Any,
        options: Options,
        residual: Any,
        out: Any,
        team: Team,
        conv: Conv | None = None,
    ) -> None:
        conv = conv or problem(kind, x, weight, bias, options)
        strides = kind.strides(weight)
        weight_last = channels_last(tuple(weight.shape), strides)
        self.kind, self.address = kind, kind.address
        self.pair = pair(conv)
        self.request = Request(kind, x, conv, options, out, team, weight_last, residual)
        self.readable = self.request.readable, packable(kind, weight), plain(kind, bias)
        self.ready = all(self.readable)
        if self.ready:
            self.weights = Weights(self.request.call, strides)
        self.odd = self.request.itemsize - 1  # bits of an address that is not aligned
        bare = options.activation is options.layout is residual is None
        self.differentiable = bare and self.request.batched and conv.mode == "zeros"

    def __call__(self, x: Any, weight: Any, bias: Any, residual: Any, out: Any) -> Any:
        """Compute; None if arrays must be copied first, which alignment may ask for at any call."""
        if not self.ready:
            return None
        address, weights = self.address, self.weights
        px, pw, pb = address(x), address(weight), 0 if bias is None else address(bias)
        if (px | pw | pb) & self.odd:
            return None
        if not pw or (bias is not None and not pb):  # 0 would mean no bias
            raise no_memory("bias" if pw else "weight")
        reads = ((pw, weights.bytes), (pb, weights.bias_bytes)) if out is not None else ()
        return self.request.run(px, weights.packed(pw, pb), out, reads, residual)

    def compute(self, x: Any, weight: Any, bias: Any) -> Any:
        """Compute, of copies if need be; for a layer without residual."""
        y = self(x, weight, bias, None, None)
        return run(self.pair, *self.copies(x, weight, bias)) if y is None else y

    def copies(self, x: Any, weight: Any, bias: Any) -> tuple[Any, Any, Any]:
        """The arrays, those that cannot be read as they lie as copies that can."""
        size, kind = self.request.itemsize, self.kind

        def copied(a: Any, name: str, readable: bool, copy: Callable[[Any], Any]) -> Any:
            if a is None or (readable and kind.address(a) % size == 0):
                return a
            if not kind.address(a) and all(a.shape):
                raise no_memory(name)
            what = f"a copy of {name}, which cannot be read as it lies in memory,"
            return memory.allocate(lambda: copy(a), prod(a.shape) * size, what)

        ready = self.readable
        return (
            copied(x, "x", ready[0], kind.dense),
            copied(weight, "weight", ready[1], kind.contiguous),
            copied(bias, "bias", ready[2], kind.contiguous),
        )


def convolve(
    x: Any, weight: Any, bias: Any, activation: Any, residual: Any, out: Any, *arguments: Any
) -> Any:
    """Run the layer that these arguments have led to before, or build it first."""
    seen = PLAIN
    if type(x) is type(weight) is _ndarray and (bias is None or type(bias) is _ndarray):
        kind: Kind = NUMPY  # spelt out, because a method call each would be a fifth of a small call
        last = None if bias is None else (bias.shape, bias.strides, bias.dtype)
        arrays: Any = x.shape, x.strides, x.dtype, weight.shape, weight.strides, weight.dtype, last
    else:
        found = kind_of(x)
        seen, arrays = UNSEEN if found is None else found.glance(x, weight, bias)
        if found is None or (
            seen == OTHER and not (found.owns(weight) and (bias is None or found.owns(bias)))
        ):
            return _foreign(found, x, weight, bias, activation, residual, out, arguments)
        kind = found
        if seen == OTHER or residual is not None or out is not None:
            if out is None and kind.followed(x, weight, bias, residual):
                return _followed(x, weight, bias, activation, residual, arguments)
            _refuse(kind, x, weight, bias, residual, out)
            last = None if bias is None else kind.signature(bias)
            arrays = kind.name, kind.signature(x), kind.signature(weight), last
    now = team()
    key: Any = (
        arrays, arguments, now.address, now.threads, current_precision(),
        None if out is residual is activation is None else _rare(activation, residual, out),
    )  # fmt: skip
    try:
        layer = _layers.get(key)
        # The very objects are the usual case; of others, True and 1.0 equal 1.
        if layer is not None and not all(map(is_, arguments, layer.arguments)):
            types = type_tree(arguments)
            if types == layer.types:
                layer.arguments = arguments  # mostly the next call's too
            else:
                key = key, types
                layer = _layers.get(key)
    except TypeError:  # a list among the arguments
        rare = hashable(activation), residual, out
        return convolve(x, weight, bias, *rare, *map(hashable, arguments))
    if layer is None:
        _refuse(kind, x, weight, bias, residual, out)
        options = replace(Options(*arguments), activation=activation)
        layer = _Layer(kind, x, weight, bias, options, residual, out, now)
        y = _compute(seen, layer, x, weight, bias, activation, residual, out, arguments)
        layer.arguments, layer.types = arguments, type_tree(arguments)
        _remember(key, layer)  # as nothing was refused
        return y
    return _compute(seen, layer, x, weight, bias, activation, residual, out, arguments)


def _compute(
    seen: int,
    layer: _Layer,
    x: Any,
    weight: Any,
    bias: Any,
    activation: Any,
    residual: Any,
    out: Any,
    arguments: tuple[Any, ...],
) -> Any:
    """Compute the numbers, or so that PyTorch can differentiate."""
    if seen == GRADIENT:
        return _differentiate(layer, x, weight, bias, activation, arguments)
    y = layer(x, weight, bias, residual, out)
    if y is None:
        ready = layer.copies(x, weight, bias)
        return convolve(*ready, activation, residual, out, *arguments)
    return y


def forget() -> None:
    """Let the next call of every layer be its first: plans have changed."""
    _layers.clear()


def _remember(key: Any, layer: _Layer) -> None:
    if len(_layers) >= REMEMBERED:
        _layers.clear()
    _layers[key] = layer


def _differentiate(
    layer: _Layer, x: Any, weight: Any, bias: Any, activation: Any, arguments: tuple[Any, ...]
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


def run(which: Pair, x: Any, weight: Any, bias: Any = None, plan: str | None = None) -> Any:
    """Compute a Conv on arrays (n, ci, *spatial), weight and bias that are known to be its own.

    What is left of a call when its arguments are checked; gradients enter here, whose Convs no
    arguments describe. Nobody may follow the arrays: NumPy's, or dense CPU tensors.
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
        layer = _Layer(kind, x, weight, bias, options, None, None, now, conv)
        _remember(key, layer)
    y = layer(x, weight, bias, None, None)
    return run(which, *layer.copies(x, weight, bias), plan) if y is None else y


def _refuse(kind: Kind, x: Any, weight: Any, bias: Any, residual: Any, out: Any) -> None:
    """Raise for arrays that have no numbers to be read, and for gradients wanted of an `out`."""
    named = {"x": x, "weight": weight, "bias": bias, "residual": residual, "out": out}
    for name, a in named.items():
        if a is not None and kind.owns(a):
            kind.refuse(a, name)
            if out is not None:
                kind.refuse_followed(a, name)


def type_tree(argument: Any) -> Any:
    """What tells True and 1.0 from 1, which they equal: the type, in tuples of every entry."""
    return tuple(map(type_tree, argument)) if type(argument) is tuple else type(argument)


def _rare(activation: Any, residual: Any, out: Any) -> tuple[Any, ...]:
    """What of the key most calls do not have."""
    return activation, type_tree(activation), _signature(residual), _signature(out)


def _signature(a: Any) -> tuple[Any, ...] | None:
    """All that decides whether an array will do as `residual` or `out`."""
    if a is None:
        return None
    kind = kind_of(a)
    return (type(a), *(kind.signature(a) if kind else ()), kind.writable(a) if kind else None)


def hashable(argument: Any) -> Any:
    """Lists as tuples, to any depth; what cannot be hashed at all is refused by name."""
    if isinstance(argument, list | tuple):
        return tuple(map(hashable, argument))
    if isinstance(argument, np.ndarray):
        return tuple(map(hashable, argument.tolist())) if argument.ndim else argument.item()
    try:
        hash(argument)
    except TypeError:
        raise TypeError(
            f"{argument!r} is no number, tuple or string. Use an int or a tuple of ints."
        ) from None
    return argument


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
    """Arrays of other libraries, through DLPack; a mixture of libraries is refused."""
    arrays = {"x": x, "weight": weight, "bias": bias}
    every = arrays | {"residual": residual}
    names = {name: a for name, a in every.items() if a is not None or name in ("x", "weight")}
    if kind is not None:
        odd = next(name for name, a in names.items() if not kind.owns(a))
        raise TypeError(
            f"{odd} is a {type(names[odd]).__module__}.{type(names[odd]).__name__}, x is a "
            f"{kind.name}. Use arrays of one library: konv returns what it is given."
        )
    views: dict[str, Any] = {}
    back: Callable[[Any], Any] | None = None
    for name, a in names.items():
        exchanged = from_dlpack(a)
        if exchanged is None:
            raise TypeError(
                f"{name} is a {type(a).__name__}; konv takes NumPy arrays, PyTorch CPU tensors and "
                f"arrays that speak DLPack. Use numpy.asarray({name})."
            )
        views[name] = exchanged[0]
        back = back or exchanged[1]
    if out is not None:
        raise TypeError("out works with NumPy arrays and PyTorch tensors only. Leave it out.")
    main = (views.get(name) for name in arrays)
    y = convolve(*main, activation, views.get("residual"), None, *arguments)
    return back(y) if back else y
