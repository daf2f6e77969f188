"""A call as one line of text: the convolution, then how its arrays lie and how its arguments are
written.

    conv2d 1x3x9x9 o8 k3 p1 / bias x=last w=steps padding=same layout out=inside seed=3
    tconv1d 2x4x7 o6 k3 s2 / torch x=zero bias=steps single whole

The line is all there is: the numbers are drawn from it, so whoever has it sees the same failure
again:

    python -c "from functional.check import check; check('conv2d ...')"      with src and tests on
    PYTHONPATH
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from random import Random
from typing import Any

import numpy as np
from functional.forms import FORMS, Array, numbers, tensor

import konv
from konv.geometry import Conv
from konv.geometry.terms import Terms
from konv.plan import Epilogue

LAYOUTS = {1: "NWC", 2: "NHWC", 3: "NDHWC"}


@dataclass(frozen=True)
class Case:
    """`single` has no batch axis, `whole` holds integers, `padding` is how that argument is
    written, `by` names the algorithm that computes it, if it is not to be chosen, `activation` is a
    name or leaky_relu:0.2, `residual` lies in that form or is `out`.
    """

    conv: Conv
    x: str = "contiguous"
    w: str = "contiguous"
    bias: str = ""
    out: str = ""
    activation: str = ""
    residual: str = ""
    padding: str = "pairs"
    layout: bool = False
    torch: bool = False
    single: bool = False
    whole: bool = False
    seed: int = 0
    by: str = ""

    def __str__(self) -> str:
        words = [str(self.conv), "/"]
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if value != field.default:
                words.append(field.name if value is True else f"{field.name}={value}")
        return " ".join(words)

    @classmethod
    def parse(cls, line: str) -> Case:
        head, _, tail = line.partition("/")
        found: dict[str, Any] = {}
        for word in tail.split():
            name, _, value = word.partition("=")
            found[name] = int(value) if name == "seed" else value or True
        return cls(Conv.parse(head), **found)

    @property
    def function(self) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(
            konv, f"conv{'_transpose' * self.conv.transposed}{self.conv.dims}d"
        )
        return function

    @property
    def terms(self) -> list[Terms]:
        """The numbers a user would write, none negative: more at the end is output padding."""
        terms = [Terms.of(axis, self.conv.transposed) for axis in self.conv.axes]
        return [
            replace(term, hi=0, output_padding=-term.hi)
            if self.conv.transposed and term.hi < 0
            else term
            for term in terms
        ]

    @property
    def arguments(self) -> dict[str, Any]:
        """The keywords of the call, defaults left out."""
        terms = self.terms
        found: dict[str, Any] = {"padding": self._padding(terms)}
        for name, default in (("stride", 1), ("dilation", 1), ("output_padding", 0)):
            values = [getattr(term, name) for term in terms]
            if set(values) != {default}:
                found[name] = values[0] if len(set(values)) == 1 else tuple(values)
        if self.conv.groups > 1:
            found["groups"] = self.conv.groups
        if self.conv.mode != "zeros":
            found["padding_mode"] = self.conv.mode
        if self.layout:
            found["layout"] = LAYOUTS[self.conv.dims]
        if self.activation:
            name, _, more = self.activation.partition(":")
            value = float(more) if name == "leaky_relu" and more else more
            found["activation"] = (name, value) if more else name
        return found

    @property
    def epilogue(self) -> Epilogue:
        """As a plan says it."""
        name, _, more = self.activation.partition(":")
        if name == "leaky_relu":
            return Epilogue(name, float(more or 0.01), bool(self.residual))
        return Epilogue(self.activation.replace(":", "_"), 0.0, bool(self.residual))

    def _padding(self, terms: list[Terms]) -> Any:
        if self.padding in ("same", "valid", "causal"):
            return self.padding
        if self.padding == "int":
            return terms[0].lo
        if self.padding == "axis":
            return tuple(term.lo for term in terms)
        return tuple((term.lo, term.hi) for term in terms)

    def arrays(self) -> tuple[Any, Any, Any]:
        """x, weight and bias (or None) as the user holds them; each time the same numbers."""
        seed, conv = zlib.crc32(str(self).encode()), self.conv
        rng, places = np.random.default_rng(seed), Random(seed)
        x, w, b = (
            self._numbers(rng, shape) for shape in (conv.in_shape, conv.weight_shape, (conv.co,))
        )
        return (
            self._lay(self.user_view(x), self.x, places),
            self._lay(w, self.w, places),
            self._lay(b, self.bias, places) if self.bias else None,
        )

    def output(self) -> Any:
        """An array for `out`, NaN all over, or None."""
        if not self.out:
            return None
        nothing = np.full(self.conv.out_shape, np.nan, self.conv.dtype)
        return self._lay(self.user_view(nothing), self.out, Random(0))

    def added(self, out: Any) -> Any:
        """The residual as the user holds it, or None; `out` itself, filled, if it says so."""
        if not self.residual:
            return None
        seed = zlib.crc32(str(self).encode()) + 1
        values = self.user_view(self._numbers(np.random.default_rng(seed), self.conv.out_shape))
        if self.residual == "out":
            out[...] = tensor(values) if self.torch else values
            return out
        return self._lay(values, self.residual, Random(seed))

    def _numbers(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        if self.whole:
            return rng.integers(-4, 5, shape).astype(self.conv.dtype)
        return rng.standard_normal(shape).astype(self.conv.dtype)

    def _lay(self, a: Array, form: str, places: Random) -> Any:
        laid = FORMS[form](a, places)
        return tensor(laid) if self.torch else laid

    def user_view(self, a: Array) -> Array:
        """(n, c, *spatial) as the user holds it: channels last if `layout`, without batch if
        `single`.
        """
        a = np.moveaxis(a, 1, -1) if self.layout else a
        return a[0] if self.single else a

    def canonical(self, a: Any) -> Array:
        """The inverse: what the user holds as (n, c, *spatial), in native byte order."""
        a = numbers(a)
        a = a[None] if self.single else a
        return np.moveaxis(a, -1, 1) if self.layout else a
