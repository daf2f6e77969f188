"""What a call says besides its tensors, as the numbers of its axes, while PyTorch traces.

The same numbers as those of `konv.geometry.Axis`, in lists as operators take them. A tracer's sizes
may be symbols (torch.SymInt), which an Axis, that is integers, cannot hold; so the little geometry
that tracing needs stands here once more: adjoint, and the padding that a mode must fill.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from konv.checks import Options, problem
from konv.errors import ProblemError
from konv.geometry import Conv
from konv.geometry.bounds import per_axis
from konv.geometry.padding import amounts, check_mode


class Terms(NamedTuple):
    """The arguments of konv's operators after their tensors; lists have one entry an axis."""

    transposed: bool
    stride: list[int]
    up: list[int]
    lo: list[int]
    hi: list[int]
    dilation: list[int]
    groups: int

    @classmethod
    def of(cls, conv: Conv) -> Terms:
        """Return the terms of a Conv whose padding mode is zeros."""
        names = "stride", "up", "lo", "hi", "dilation"
        lists = {name: [getattr(axis, name) for axis in conv.axes] for name in names}
        return cls(transposed=conv.transposed, groups=conv.groups, **lists)

    def adjoint(self, sizes: Sequence[int], taps: Sequence[int], outs: Sequence[int]) -> Terms:
        """Return the terms of the input gradient, as `Axis.adjoint` has them."""
        reach = [(k - 1) * d for k, d in zip(taps, self.dilation, strict=True)]
        lo = [r - a for r, a in zip(reach, self.lo, strict=True)]
        hi = [
            (size - 1) * up + r - (out - 1) * s - a
            for size, up, r, out, s, a in zip(
                sizes, self.up, reach, outs, self.stride, lo, strict=True
            )
        ]
        return Terms(not self.transposed, self.up, self.stride, lo, hi, self.dilation, self.groups)

    def overhang(self) -> list[tuple[int, int]]:
        """Return how many pixels beside the image each axis reads, as `Axis.overhang` has them."""
        ends = zip(self.lo, self.hi, self.up, strict=True)
        return [(max(0, lo // up), max(0, hi // up)) for lo, hi, up in ends]

    def padded(self) -> Terms:
        """Return the terms for an image to which these pixels were added beforehand."""
        over = list(zip(self.overhang(), self.up, strict=True))
        lo = [a - before * up for a, ((before, _), up) in zip(self.lo, over, strict=True)]
        hi = [a - after * up for a, ((_, after), up) in zip(self.hi, over, strict=True)]
        return self._replace(lo=lo, hi=hi)


def taps_of(weight: Any) -> list[int]:
    """The taps of a weight as integers. torch.jit.trace and the ONNX exporter that goes by it make
    tensors of all sizes, and warn of each decision on one; how many taps there are is no such size.
    """
    core: Any = torch._C
    tracing = core._get_tracing_state()
    if tracing is None:
        return list(weight.shape[2:])
    core._set_tracing_state(None)
    try:
        return list(weight.shape[2:])
    finally:
        core._set_tracing_state(tracing)


def terms(kind: Any, x: Any, weight: Any, options: Options) -> Terms:
    """Return the terms of a call; ProblemError or TypeError for arguments without sense."""
    dims, transposed = options.dims, options.transposed
    check_mode(options.padding_mode)
    if weight.dim() != dims + 2 or x.dim() != dims + 2:
        raise ProblemError(
            f"x has {x.dim()} axes and weight {weight.dim()}; {options.name} takes {dims + 2} of "
            f"each: batch, channels and {dims} of space. Add or drop axes."
        )
    if options.output_size is not None:  # integers, and no symbols, say what is left to add
        return Terms.of(problem(kind, x, weight, None, options))
    strides = list(per_axis(options.stride, "stride", dims, least=1))
    dilation = list(per_axis(options.dilation, "dilation", dims, least=1))
    extra = per_axis(options.output_padding or 0, "output_padding", dims, least=0)
    reach = [(k - 1) * d for k, d in zip(taps_of(weight), dilation, strict=True)]
    extents = [r + 1 for r in reach]
    pads = amounts(options.padding, x.shape[2:], extents, strides, transposed)
    lo, hi = [a for a, _ in pads], [b for _, b in pads]
    ones = [1] * dims
    if not transposed:
        return Terms(False, strides, ones, lo, hi, dilation, options.groups)
    lo = [r - a for r, a in zip(reach, lo, strict=True)]
    hi = [r - b + more for r, b, more in zip(reach, hi, extra, strict=True)]
    return Terms(True, ones, strides, lo, hi, dilation, options.groups)
