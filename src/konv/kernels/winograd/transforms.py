"""The transforms of Winograd's convolution along one axis, whatever its steps; in two dimensions
the same along rows, then along columns.

Every part of an axis that moves by steps of one is a short convolution
(konv.kernels.winograd.points), and every axis consists of such parts:

    stride 1     one part
    stride s     s parts: part p has the taps p, p + s, .., which read every s-th input; their
                 outputs are added up. 3 taps in steps of 2 are F(4, 2) and F(4, 1): 9 products for
                 4 outputs, which take 12
    up u         a transposed layer: u parts, each for every u-th output, with the taps that meet
                 no inserted zero. 4 taps at 2 are twice F(4, 2): 10 products for 8 outputs, 16

so all products of a tile are those of its parts, side by side, and nothing but these transforms
knows of steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from konv.geometry import Axis
from konv.kernels.winograd.points import Short
from konv.llvm import Function, Value
from konv.plan import Plan

WORDS = 5  # of a plan's form, for each axis


@dataclass(frozen=True, slots=True)
class Part:
    """A short convolution; its taps, inputs and outputs by their numbers in the tile."""

    short: Short
    taps: range
    inputs: range
    outputs: range


@dataclass(frozen=True, slots=True)
class Transform:
    """A tile of an axis: m outputs of each part of an r-tap kernel; m = r = 1 leaves an axis as it
    is. `lead`: which of the outputs between two inputs comes first, lo modulo up.

    >>> t = Transform(4, 3)
    >>> t.n, t.inputs, t.outputs, t.step
    (6, 6, 4, 4)
    >>> t = Transform(4, 3, stride=2)
    >>> t.n, t.inputs, t.outputs, t.step
    (9, 9, 4, 8)
    >>> t = Transform(4, 4, up=2)
    >>> t.n, t.inputs, t.outputs, t.step
    (10, 6, 8, 4)
    """

    m: int
    r: int
    stride: int = 1
    up: int = 1
    lead: int = 0

    @staticmethod
    def of(axis: Axis, m: int) -> Transform:
        """The tile of an axis, m outputs a part; of one tap the axis as it is."""
        if axis.kernel == 1:
            return Transform(1, 1)
        return Transform(m, axis.kernel, axis.stride, axis.up, axis.lo % axis.up)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts, whose products stand side by side in this order."""
        return _parts(self)

    @property
    def n(self) -> int:
        """Products."""
        return sum(part.short.n for part in self.parts)

    @property
    def inputs(self) -> int:
        """Neighbouring inputs that a tile reads."""
        return max(part.inputs[-1] for part in self.parts) + 1

    @property
    def outputs(self) -> int:
        """Neighbouring outputs that a tile gives."""
        return self.m * self.up

    @property
    def step(self) -> int:
        """Inputs from one tile to the next."""
        return self.m * self.stride

    def emit_inputs(self, f: Function, d: list[Value]) -> list[Value]:
        """Inputs to products: n of them."""
        return [
            value
            for part in self.parts
            for value in part.short.emit_inputs(f, [d[i] for i in part.inputs])
        ]

    def emit_outputs(self, f: Function, v: list[Value]) -> list[Value]:
        """Products to outputs."""
        out: dict[int, Value] = {}
        first = 0
        for part in self.parts:
            values = part.short.emit_outputs(f, v[first : first + part.short.n])
            first += part.short.n
            for i, value in zip(part.outputs, values, strict=True):
                out[i] = out[i] + value if i in out else value
        return [out[i] for i in range(self.outputs)]

    def emit_gradients(self, f: Function, d: list[Value]) -> list[Value]:
        """Gradients of outputs to products: n of them, the transpose of `emit_outputs`."""
        return [
            value
            for part in self.parts
            for value in part.short.emit_gradients(f, [d[i] for i in part.outputs])
        ]

    def emit_taps(self, f: Function, v: list[Value]) -> list[Value]:
        """Products to gradients of taps, the transpose of `emit_filters`."""
        out: dict[int, Value] = {}
        first = 0
        for part in self.parts:
            values = part.short.emit_taps(f, v[first : first + part.short.n])
            first += part.short.n
            out |= dict(zip(part.taps, values, strict=True))
        return [out[k] for k in range(self.r)]

    def emit_filters(self, f: Function, g: list[Value]) -> list[Value]:
        """Taps to products: n of them."""
        return [
            value
            for part in self.parts
            for value in part.short.emit_filters(f, [g[k] for k in part.taps])
        ]


@cache
def _parts(t: Transform) -> tuple[Part, ...]:
    """A model of cost asks for them at every cut of a layer."""
    found = []
    for p in range(t.stride * t.up):
        if t.up == 1:
            first, at, outputs = p, p, range(t.m)
        else:
            first = (t.lead - p) % t.up
            at = (p + first - t.lead) // t.up
            outputs = range(p, t.m * t.up, t.up)
        taps = range(first, t.r, t.stride * t.up)
        short = Short(t.m, len(taps))
        inputs = range(at, at + short.n * t.stride, t.stride)[: short.n]
        found.append(Part(short, taps, inputs, outputs))
    return tuple(found)


Pair = tuple[Transform, Transform]  # down columns of pixels and along rows


def transforms(plan: Plan) -> Pair:
    """Those that a plan's form begins with."""
    return Transform(*plan.form[:WORDS]), Transform(*plan.form[WORDS : 2 * WORDS])


def form(*pair: Transform) -> tuple[int, ...]:
    """What a plan remembers of its transforms."""
    return tuple(word for t in pair for word in (t.m, t.r, t.stride, t.up, t.lead))
