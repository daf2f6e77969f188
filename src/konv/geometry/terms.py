"""The user's numbers of one axis (kernel, stride, padding ...) and the axis they mean.

This table is the only place that knows it; a = dilation, K = kernel, r = output_padding:

    kind         stride  dilation  up      lo              hi
    ordinary     S       a         1       P_lo            P_hi
    transposed   1       a         S       a(K-1) - P_lo   a(K-1) - P_hi + r

A transposed convolution is the adjoint of the ordinary one with the same numbers. `up` makes the
table closed: an ordinary layer may itself have inserted zeros (its axis has up = u), and then the
axis of its adjoint has stride = u. No user writes that; gradients of gradients need it.
"""

from __future__ import annotations

from dataclasses import dataclass

from konv.errors import ProblemError
from konv.geometry.axis import Axis


@dataclass(frozen=True, slots=True)
class Terms:
    """One axis of a layer as users write it; `lo` and `hi` are the padding, in pixels.

    >>> Terms(kernel=4, stride=2, lo=1, hi=1).axis(size=8, transposed=True)
    Axis(size=8, kernel=4, stride=1, dilation=1, lo=2, hi=2, up=2)
    """

    kernel: int
    stride: int = 1
    dilation: int = 1
    lo: int = 0
    hi: int = 0
    output_padding: int = 0
    up: int = 1

    def axis(self, size: int, transposed: bool) -> Axis:
        """Return the axis these numbers mean on an input of `size` pixels.

        ProblemError where there is none: no output is left, or output_padding breaks its rule.
        """
        self._check_output_padding(transposed)
        if not transposed:
            return Axis(size, self.kernel, self.stride, self.dilation, self.lo, self.hi, self.up)
        reach = (self.kernel - 1) * self.dilation
        full = (size - 1) * self.stride + reach + 1 + self.output_padding
        if 0 < full <= self.lo + self.hi:
            raise ProblemError(
                f"padding {self.lo} + {self.hi} crops the {full} pixels of the transposed "
                f"convolution (size={size}, kernel={self.kernel}, stride={self.stride}, "
                f"dilation={self.dilation}) to nothing. Use padding lo + hi <= {full - 1} or "
                f"size >= {size - (full - 1 - self.lo - self.hi) // self.stride}."
            )
        lo, hi = reach - self.lo, reach - self.hi + self.output_padding
        return Axis(size, self.kernel, self.up, self.dilation, lo, hi, self.stride)

    def _check_output_padding(self, transposed: bool) -> None:
        """Zero for ordinary layers; else less than stride or dilation: past that nothing lies."""
        r, most = self.output_padding, max(self.stride, self.dilation) - 1
        if not transposed and r != 0:
            raise ProblemError(
                f"output_padding={r} is for transposed convolutions only. Use output_padding=0, "
                f"or a (lo, hi) padding pair to lengthen the output."
            )
        if not 0 <= r <= most and transposed:
            raise ProblemError(
                f"output_padding={r} must be >= 0 and smaller than stride={self.stride} or "
                f"dilation={self.dilation}. Use at most {most}."
            )

    @classmethod
    def of(cls, axis: Axis, transposed: bool) -> Terms:
        """Return the numbers a user would write for `axis`; the inverse of `axis()`.

        Transposed, hi determines only padding - output_padding: of the two, equal padding on both
        sides is preferred where the rule of output_padding allows it.

        >>> Terms.of(Axis(8, 4, lo=2, hi=3, up=2), transposed=True)
        Terms(kernel=4, stride=2, dilation=1, lo=1, hi=1, output_padding=1, up=1)
        """
        if not transposed:
            return cls(axis.kernel, axis.stride, axis.dilation, axis.lo, axis.hi, up=axis.up)
        reach = axis.extent - 1
        more = axis.hi - axis.lo
        r = more if 0 <= more < max(axis.up, axis.dilation) else 0
        lo, hi = reach - axis.lo, reach - axis.hi + r
        return cls(axis.kernel, axis.up, axis.dilation, lo, hi, r, up=axis.stride)


def axes_of(sizes: tuple[int, ...], terms: list[Terms], transposed: bool) -> tuple[Axis, ...]:
    """Return one axis for each size and its terms; an error says which axis it is about."""
    axes = []
    for name, size, term in zip("DHW"[-len(sizes) :], sizes, terms, strict=True):
        try:
            axes.append(term.axis(size, transposed))
        except ProblemError as error:
            raise ProblemError(f"{name} axis: {error}") from None
    return tuple(axes)
