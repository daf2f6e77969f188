"""konv.prepare: a layer with its weights packed once, for repeated use at any batch and image
size.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

from konv import llvm
from konv.arrays import (
    PLAIN,
    UNSEEN,
    Kind,
    Shape,
    channels_last,
    dense_strides,
    kind_of,
    no_memory,
)
from konv.checks import Options, canonical, check_dtype, epilogue, layout_last
from konv.errors import ProblemError
from konv.geometry import Conv
from konv.layer import REPEATED
from konv.plan import Plan
from konv.request import Request, same_strides
from konv.runtime import memory, straight, weights
from konv.runtime.choose import current_precision, named
from konv.runtime.execute import Call
from konv.runtime.flat import slim
from konv.runtime.threads import team
from konv.runtime.weights import Packed
from konv.target import BYTES

REMEMBERED = 64  # image sizes


def prepare(
    conv: Conv,
    weight: Any,
    bias: Any = None,
    *,
    layout: str | None = None,
    plan: str | None = None,
    activation: Any = None,
) -> Prepared:
    """Pack the weights of a layer once; the result is called with images of any batch and size.

    conv     the layer; its batch and image size are those of no particular call
    weight   conv.weight_shape, bias (co,) or None: copied, so later changes to them are not seen;
             results lie channels-last if it does, as those of konv.conv2d
    layout   "NHWC" (1-D "NWC", 3-D "NDHWC") for images whose channels stand last
    plan     the name of the algorithm that is to compute it, as in konv.conv2d
    activation
             what results go through, as in konv.conv2d; a call may give the `residual` to be added
             before

    Saves what `conv2d` spends on making sure that its weights are still the ones it packed.

    >>> import numpy as np
    >>> layer = prepare(Conv.of((1, 3, 32, 32), 8, 3, padding=1), np.ones((8, 3, 3, 3), "float32"))
    >>> layer(np.ones((2, 3, 7, 9), "float32")).shape
    (2, 8, 7, 9)
    >>> layer = prepare(layer.conv, np.ones((8, 3, 3, 3), "float32"), activation="relu")
    >>> z = np.ones((1, 8, 7, 9), "float32")
    >>> float(layer(np.zeros((1, 3, 7, 9), "float32"), residual=z).max())
    1.0
    """
    return Prepared(conv, weight, bias, layout, plan, activation)


class Step(NamedTuple):
    """A prepared layer at one size: what runs, with which weights, and how its results lie."""

    call: Call
    packed: Packed
    shape: Shape
    strides: Shape


class Prepared:
    """A layer that owns its packed weights. Make one with `prepare`.

    conv, weight, bias   what it computes with; the arrays are copies, not to be written to
    """

    def __init__(
        self,
        conv: Conv,
        weight: Any,
        bias: Any,
        layout: str | None,
        plan: str | None = None,
        activation: Any = None,
    ) -> None:
        self.conv = conv
        name = {False: "conv", True: "conv_transpose"}[conv.transposed]
        self._options = Options(
            conv.dims, conv.transposed, 1, 0, 1, conv.groups, 0, None, conv.mode, layout, plan,
            activation,
        )  # fmt: skip
        layout_last(self._options)
        epilogue(self._options, False)
        if plan is not None:
            named(plan, slim(conv), llvm.detect())
        kind = _kind(weight, "weight")
        if tuple(weight.shape) != conv.weight_shape or kind.dtype(weight) != conv.dtype:
            raise ProblemError(
                f"weight is {kind.dtype(weight)} {tuple(weight.shape)}; {name}{conv.dims}d of "
                f"{conv} wants {conv.dtype} {conv.weight_shape}. Use a weight of that shape and "
                f"dtype."
            )
        if bias is not None and (
            tuple(bias.shape) != (conv.co,) or _kind(bias, "bias").dtype(bias) != conv.dtype
        ):
            raise ProblemError(
                f"bias is {_kind(bias, 'bias').dtype(bias)} {tuple(bias.shape)}; it must be "
                f"{conv.dtype} ({conv.co},), one number per output channel."
            )
        _refuse(weight, "weight")
        if bias is not None:
            _refuse(bias, "bias")
        self._kind, strides = kind, kind.strides(weight)
        self._last = channels_last(conv.weight_shape, strides) and strides == same_strides(
            conv.weight_shape, strides, True
        )
        self.weight = kind.dense(weight) if self._last else kind.contiguous(weight)
        self.bias = None if bias is None else _kind(bias, "bias").contiguous(bias)
        self._packed: dict[Any, Packed] = {}
        self._known: dict[Any, tuple[Request, Packed | None]] = {}
        self._straight: straight.Straight | None = None  # as repeated calls go
        self._calls = 0

    def __repr__(self) -> str:
        return f"konv.prepare({str(self.conv)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies, and what is read from a pickle, pack the weights anew: packed ones are for this
        processor.
        """
        how = self._options.layout, self._options.plan, self._options.activation
        return _again, (self._last, self.conv, self.weight, self.bias, *how)

    def __call__(self, x: Any, out: Any = None, residual: Any = None) -> Any:
        """Convolve x, (n, ci, *spatial) or without n; the result is as that of konv.conv2d and its
        kin. `residual`, an array like the result, is added to it before the activation.
        """
        kind, now = kind_of(x), team()
        if self._straight is not None and kind is not None and kind.quiet():
            y = self._straight(x, self.weight, None, out, residual, now, current_precision())
            if y is not None:
                return y
        seen, arrays = UNSEEN
        if kind is not None and residual is None:  # one question instead of several an array
            seen, arrays = kind.recognize(x, self.weight, out)
        elif kind is not None:  # a residual is mostly another one at each call
            seen, arrays = kind.glance(x, residual, out)
        if kind is None or seen != PLAIN:
            kind, arrays = _asked(x, out, residual)
        else:
            arrays = arrays, residual is None, out is None or kind.writable(out)
        key = arrays, now.address, now.threads, current_precision()
        known = self._known.get(key)
        if known is None:
            conv = self._at(kind, x)
            lies = self._kind.strides(self.weight)
            request = Request(kind, x, conv, self._options, out, now, lies, residual)
            known = request, self._pack(request.call) if request.readable else None
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[key] = known
        request, packed = known
        px = kind.address(x)
        if packed is None or px % request.itemsize:
            _refuse(x, "x")
            return self(kind.dense(x), out, residual)
        y = request.run(px, packed, out, (), residual)
        plainly = out is residual is None and not request.large
        if plainly and kind.repeats and straight.fits(request.call):
            self._repeated(kind, x, request, packed, (None, None, now, key[3]))
        return y

    def _repeated(
        self, kind: Kind, x: Any, request: Request, packed: Packed, arguments: tuple[Any, ...]
    ) -> None:
        """Let calls like this one go straight (konv.runtime.straight) if it was one of several."""
        self._calls += 1
        ask = None if self._calls % REPEATED else kind.question(x, self.weight, None)
        if ask is not None:
            way = straight.by_packed(request.call, packed, None)
            asked = straight.Question(*ask, request.making())
            self._straight = straight.straight(arguments, False, asked, request.itemsize - 1, way)

    def step(self, x: Any, last: bool, residual: bool = False) -> Step:
        """How to compute (batch, channel, *spatial) arrays that lie as x does into channels-last or
        contiguous results, for who keeps count of arrays and layouts: nothing is asked again.
        """
        kind, options = _kind(x, "x"), self._options
        _refuse(x, "x")
        conv = self._at(kind, x)
        _, shape, strides = canonical(kind, x, options, False, True)
        size = prod(conv.out_shape) * BYTES[conv.dtype]
        memory.require(size, f"the result of {conv}")
        x_last = strides[1] == 1 and (strides[-1] != 1 or channels_last(shape, strides))
        result, after = dense_strides(conv.out_shape, last), epilogue(options, residual)
        lies = self._kind.strides(self.weight)
        call = Call(conv, strides, result, lies, team(), x_last, last, after, options.plan)
        return Step(call, self._pack(call), conv.out_shape, result)

    @property
    def packed_bytes(self) -> int:
        """Bytes of all the packed weights that its calls have asked for so far."""
        return sum(packed.size for packed in self._packed.values())

    def _at(self, kind: Kind, x: Any) -> Conv:
        """The layer at the batch and size of x."""
        _, shape, _ = canonical(kind, x, self._options, layout_last(self._options))
        dtype = check_dtype(kind, x, {}, self._options)
        if shape[1] != self.conv.ci or dtype != self.conv.dtype:
            raise ProblemError(
                f"x has {shape[1]} channels of {dtype}; {self!r} was made for {self.conv.ci} of "
                f"{self.conv.dtype}. Use such an x, or prepare another layer."
            )
        return self.conv.with_batch(shape[0]).with_size(*shape[2:])

    def _pack(self, call: Call) -> Packed:
        """The packed weights of a call; plans for different layouts share them where they can."""
        plan: Plan = call.plan
        key = (plan.algorithm, plan.vectors, plan.form, call.form.weight, call.form.biased)
        packed = self._packed.get(key)
        if packed is None:
            weight = self._kind.address(self.weight)
            bias = 0 if self.bias is None else _kind(self.bias, "bias").address(self.bias)
            packed = weights.pack(
                call.form.packs,
                plan,
                call.kernel,
                weight,
                call.form.weight,
                bias,
                team=call.team,
                biased=call.form.biased,
            )
            self._packed[key] = packed
        return packed


def _again(last: bool, conv: Conv, weight: Any, *rest: Any) -> Prepared:
    """What was copied or pickled; of NumPy's arrays pickles do not keep how they lie."""
    kind = _kind(weight, "weight")
    if last and not channels_last(conv.weight_shape, kind.strides(weight)):
        (co, ci, *taps), axes = conv.weight_shape, len(conv.weight_shape)
        lies = kind.empty((co, *taps, ci), conv.dtype, (0, axes - 1, *range(1, axes - 1)))
        kind.copy(lies, weight)
        weight = lies
    return Prepared(conv, weight, *rest)


def _asked(x: Any, out: Any, residual: Any) -> tuple[Kind, Any]:
    """The library of x, and all of the arrays that decides about a call; refuses what will not do,
    in words of its own.
    """
    form = list[Any]()
    for a, name in ((x, "x"), (out, "out"), (residual, "residual")):
        if a is not None:
            _refuse(a, name)
            kind = _kind(a, name)
            form.append((name, type(a), kind.signature(a), kind.writable(a)))
    return _kind(x, "x"), tuple(form)


def _refuse(a: Any, name: str) -> None:
    """Packed weights are a copy, to which no gradient would find its way."""
    kind = _kind(a, name)
    kind.refuse_followed(a, name)
    kind.refuse(a, name)
    if not kind.address(a) and all(a.shape):
        raise no_memory(name)


def _kind(a: Any, name: str) -> Kind:
    kind = kind_of(a)
    if kind is None:
        raise TypeError(
            f"{name} is a {type(a).__name__}; a prepared layer takes NumPy arrays and PyTorch CPU "
            f"tensors. Use numpy.asarray({name})."
        )
    return kind
