"""A layer that is remembered: what a call has led to, ready to be computed on other numbers."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from konv.arrays import Kind, no_memory
from konv.checks import Options, problem
from konv.geometry import Conv
from konv.keys import type_tree
from konv.pair import pair
from konv.request import Request, packable, plain
from konv.runtime import memory, straight
from konv.runtime import weights as packing
from konv.runtime.execute import Weights
from konv.runtime.rows import Rows, rows_of
from konv.runtime.single import made
from konv.runtime.threads import Team
from konv.runtime.watch import WATCH

# Calls of a layer of which one is looked at, as what it takes is lost if the next is another
REPEATED = 4


class Layer:
    """What is remembered of a call: its request, and how its packed weights are found again.

    `again(pair, x, weight, bias)` computes copies, which lie another way and so are another layer.
    """

    rows: Rows | None = None  # what gives the weight as it lies, if that is how it is read
    types: Any = ()
    stride: Any = None  # with those that follow: the objects that it was last called with
    padding: Any = None
    dilation: Any = None
    groups: Any = None
    output_padding: Any = None
    output_size: Any = None

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
        again: Callable[..., Any],
        conv: Conv | None = None,
    ) -> None:
        conv = conv or problem(kind, x, weight, bias, options)
        strides = kind.strides(weight)
        self.kind, self.address = kind, kind.address
        self.pair, self.again = pair(conv), again
        self.request = Request(kind, x, conv, options, out, team, strides, residual, True)
        self.readable = self.request.readable, packable(kind, weight), plain(kind, bias)
        self.ready = all(self.readable)
        if self.ready:
            call, self.fresh = self.request.call, self.request.fresh
            self.weights = Weights(call)
            self.rows = rows_of(call.conv, call.plan, strides)
            self.packed, self.compute_packed = (self.rows or self.weights).packed, call.run
            self.single = made(call)
        self.calls = 0
        plainly = self.ready and out is residual is None
        self.straight = plainly and kind.repeats and not self.request.large
        if self.straight and self.single is None:
            self.straight = straight.fits(self.request.call)
        self.odd = self.request.itemsize - 1  # bits of an address that is not aligned
        bare = options.activation is options.layout is residual is None
        self.differentiable = bare and self.request.batched and conv.mode == "zeros"

    def called_with(self, arguments: tuple[Any, ...]) -> None:
        """Remember the arguments of a call, by which the next one is told to be alike."""
        _, _, self.stride, self.padding, self.dilation, self.groups, *more = arguments
        self.output_padding, self.output_size, *_ = more
        self.types = type_tree(arguments)

    def run(
        self, x: Any, weight: Any, bias: Any, residual: Any, out: Any, trains: bool = False
    ) -> Any:
        """Compute; None if arrays must be copied first, which alignment may ask for at any call."""
        if not self.ready:
            return None
        address = self.address
        px, pw, pb = address(x), address(weight), 0 if bias is None else address(bias)
        if (px | pw | pb) & self.odd:
            return None
        if not pw or (bias is not None and not pb):  # 0 would mean no bias
            raise no_memory("bias" if pw else "weight")
        if out is residual is None:
            if self.single is not None:
                return self.fresh(self.single.run, px, (pw, pb), trains)
            return self.fresh(self.compute_packed, px, self.packed(pw, pb), trains)
        weights = self.weights
        reads = ((pw, weights.bytes), (pb, weights.bias_bytes)) if out is not None else ()
        return self.request.run(px, self.packed(pw, pb), out, reads, residual)

    def repeated(self, x: Any, weight: Any, bias: Any, arguments: tuple[Any, ...]) -> None:
        """Let calls like this one go straight (konv.runtime.straight) if it was one of several."""
        self.calls += 1
        if self.calls % REPEATED:
            return
        ask, biased, packed = self.kind.question(x, weight, bias), bias is not None, None
        if ask is None:
            return
        if self.single is not None:
            way = straight.by_single(self.single)
        elif self.rows is not None:
            way = straight.by_rows(self.request.call, self.rows)
        else:
            weights, at = self.weights, self.address(weight)
            record = None if weights.small else WATCH.record(at, weights.bytes)
            if record is None and not weights.small:
                return
            packed = weights.packed(at, self.address(bias) if biased else 0)
            if packed.size > packing.LIMIT:  # it is not kept, and is not to be kept by this
                return
            sizes = weights.bytes, weights.bias_bytes, biased
            way = straight.by_packed(weights.call, packed, sizes, record)
        asked = straight.Question(*ask, self.request.making())
        made = straight.straight(arguments, biased, asked, self.odd, way)
        if made is not None:
            straight.remember(id(weight), packed, made)

    def compute(self, x: Any, weight: Any, bias: Any) -> Any:
        """Compute in a step of training, of copies if need be; for a layer without residual."""
        y = self.run(x, weight, bias, None, None, True)
        return self.again(self.pair, *self.copies(x, weight, bias)) if y is None else y

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
