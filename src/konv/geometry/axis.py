"""One spatial axis of a convolution: the affine map that every convolution is.

Output index o and tap k read the input at

    i = (o * stride + k * dilation - lo) / up       only where that divides and 0 <= i < size

`up` > 1 spreads the input by up - 1 zeros between pixels, which is what a transposed convolution
does; `lo` and `hi` pixels are added before and after (taken away where negative). The map is closed
under adjoint, so gradients are axes too. The derivations:

Input gradient. i * up = o * stride + k * dilation - lo, solved for o, with the taps counted from
the other end, k' = kernel - 1 - k, and so k * dilation = extent - 1 - k' * dilation:

    o = (i * up + k' * dilation - (extent - 1 - lo)) / stride

is again such a map: stride and up have changed places, the taps are reversed.

Weight gradient. The same equation is symmetric in (o, stride) and (k, dilation): let the outputs be
the taps and the taps be the outputs, and it is again such a map.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from math import gcd

from konv.errors import ProblemError
from konv.geometry.bounds import LIMIT, integer, plain
from konv.geometry.padding import Mode, check_supply, fold
from konv.geometry.phase import Phase, residues


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis. `size`, `lo`, `hi` are pixels, `kernel` taps, the others steps of the map above.

    ProblemError if a number is out of range, does not fit in 63 bits, or the kernel does not fit
    into the padded input; TypeError if it is no integer.

    >>> axis = Axis(size=56, kernel=3, stride=2, lo=1, hi=1)
    >>> axis.out, axis.source(0, 0), axis.source(0, 1), axis.source(27, 2)
    (28, None, 0, 55)
    """

    size: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    lo: int = 0
    hi: int = 0
    up: int = 1

    def __post_init__(self) -> None:
        steps = self.size, self.kernel, self.stride, self.dilation, self.up
        # Choosing a plan makes hundreds of axes, and almost all are plainly right: 2.5 us, not 6.8.
        if not plain((*steps, self.lo, self.hi)) or min(steps) < 1:
            self._check()
        if self.padded < self.extent:
            raise ProblemError(self._too_small())

    def _check(self) -> None:
        """Raise for what is no integer, too small or too large; make the others plain ints."""
        for field in fields(self):
            least = None if field.name in ("lo", "hi") else 1
            value = integer(getattr(self, field.name), field.name, least)
            object.__setattr__(self, field.name, value)
        for name, quantity in (
            ("kernel extent", self.extent),
            ("spread input", self._spread),
            ("padded input", self.padded),
        ):
            if quantity > LIMIT:
                raise ProblemError(
                    f"{name} of {quantity} pixels does not fit in 63 bits in {self}. "
                    f"Use smaller numbers."
                )

    def _too_small(self) -> str:
        missing = self.extent - self.padded
        return (
            f"kernel extent {self.extent} (kernel={self.kernel}, dilation={self.dilation}) exceeds "
            f"the padded input of {self.padded} (size={self.size}, padding {self.lo} + {self.hi}). "
            f"Use size >= {self.size - (-missing // self.up)} "
            f"or padding lo + hi >= {self.lo + self.hi + missing}."
        )

    @property
    def extent(self) -> int:
        """Pixels from the first to the last tap, both included."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def _spread(self) -> int:
        """Pixels of the input with the zeros of `up` between them."""
        return (self.size - 1) * self.up + 1

    @property
    def padded(self) -> int:
        """Pixels of the spread input with `lo` and `hi` around it."""
        return self._spread + self.lo + self.hi

    @property
    def out(self) -> int:
        """Number of outputs, at least 1."""
        return (self.padded - self.extent) // self.stride + 1

    def source(self, o: int, k: int, mode: Mode = "zeros") -> int | None:
        """Return the pixel that output `o` reads at tap `k`; None: padding or an inserted zero.

        >>> [Axis(4, 3, lo=1, hi=1).source(0, k, "circular") for k in range(3)]
        [3, 0, 1]
        """
        index, rest = divmod(o * self.stride + k * self.dilation - self.lo, self.up)
        return fold(index, self.size, mode) if rest == 0 else None

    def taps(self, mode: Mode = "zeros") -> int:
        """Return the exact number of (output, tap) pairs that read a real pixel.

        Takes time proportional to the smallest of `kernel`, `out` and `size` (for modes other than
        zeros, of the first two), never to a product of them.

        >>> Axis(56, 3, lo=1, hi=1).taps(), Axis(10**12, 3, lo=1, hi=1).taps()
        (166, 2999999999998)
        """
        # Outputs, taps and pixels are symmetric: walk over those that are fewest, as taps.
        if mode == "zeros" and self.size < min(self.kernel, self.out):
            return self.adjoint().taps()
        if self.out < self.kernel:
            return self.weight_adjoint().taps(mode)
        return sum(len(self._outputs(k, mode == "zeros")) for k in range(self.kernel))

    def reads(self) -> tuple[int, int] | None:
        """Return the first and last source index of all outputs, before folding.

        Negative or >= size where padding is read; None where nothing is. Takes time proportional to
        the smaller of `kernel` and `out`, and none without inserted zeros.

        >>> Axis(56, 3, stride=2, lo=1, hi=1).reads()  # the last pixel of padding is never read
        (-1, 55)
        """
        if self.up == 1:
            return -self.lo, (self.out - 1) * self.stride + self.extent - 1 - self.lo
        if self.out < self.kernel:
            return self.weight_adjoint().reads()
        runs = ((k, self._outputs(k, inside=False)) for k in range(self.kernel))
        found = [
            (o * self.stride + k * self.dilation - self.lo) // self.up
            for k, outputs in runs
            if outputs
            for o in (outputs[0], outputs[-1])
        ]
        return (min(found), max(found)) if found else None

    def _outputs(self, k: int, inside: bool) -> range:
        """Return the outputs whose tap k meets no inserted zero, and if `inside` no padding.

        o * stride = lo - k * dilation (mod up) is a linear congruence: the solutions, if any, are
        up / gcd(stride, up) apart.
        """
        shift = self.lo - k * self.dilation
        least, most = 0, self.out - 1
        if inside:
            least = max(least, -(-shift // self.stride))
            most = min(most, (self._spread - 1 + shift) // self.stride)
        common = gcd(self.stride, self.up)
        if shift % common:
            return range(0)
        step = self.up // common
        solution = shift // common * pow(self.stride // common, -1, step)
        return range(least + (solution - least) % step, most + 1, step)

    def overhang(self) -> tuple[int, int]:
        """Return how many pixels before the first and after the last one are really read.

        >>> Axis(56, 3, stride=2, lo=1, hi=1).overhang()
        (1, 0)
        """
        first, last = self.reads() or (0, 0)
        return max(0, -first), max(0, last - (self.size - 1))

    def with_size(self, size: int) -> Axis:
        """Return the same axis of so many pixels."""
        return Axis(size, self.kernel, self.stride, self.dilation, self.lo, self.hi, self.up)

    def check_mode(self, mode: Mode) -> None:
        """Raise ProblemError if the axis reads further out than the padding mode can supply."""
        if mode in ("reflect", "circular"):
            check_supply(max(self.overhang()), self.size, mode)

    def prepadded(self) -> Axis:
        """Return the axis on an input to which the pixels of `overhang()` were added beforehand.

        Same outputs, and it reads no padding; only an inserted zero or a crop is left of lo and hi.

        >>> Axis(56, 3, stride=2, lo=1, hi=1).prepadded()
        Axis(size=57, kernel=3, stride=2, dilation=1, lo=0, hi=0, up=1)
        """
        before, after = self.overhang()
        lo, hi = self.lo - before * self.up, self.hi - after * self.up
        unread = (self.padded - self.extent) % self.stride
        hi -= min(unread, max(0, hi))
        size = self.size + before + after
        return Axis(size, self.kernel, self.stride, self.dilation, lo, hi, self.up)

    def adjoint(self) -> Axis:
        """Return the axis of the input gradient, whose taps run backwards.

        Twice gives this axis again, but for padding at the end that no output reads.

        >>> Axis(56, 3, stride=2, lo=1, hi=1).adjoint()
        Axis(size=28, kernel=3, stride=1, dilation=1, lo=1, hi=2, up=2)
        """
        lo = self.extent - 1 - self.lo
        hi = self._spread + self.extent - 1 - ((self.out - 1) * self.stride + 1) - lo
        return Axis(self.out, self.kernel, self.up, self.dilation, lo, hi, self.stride)

    def weight_adjoint(self) -> Axis:
        """Return the axis of the weight gradient: the outputs are its taps, the taps its outputs.

        >>> Axis(56, 3, stride=2, lo=1, hi=1).weight_adjoint()
        Axis(size=56, kernel=28, stride=1, dilation=2, lo=1, hi=0, up=1)
        """
        hi = self.extent + (self.out - 1) * self.stride - self._spread - self.lo
        return Axis(self.size, self.out, self.dilation, self.stride, self.lo, hi, self.up)

    def phases(self) -> Iterator[Phase]:
        """Split the outputs into interleaved parts that each meet no inserted zero.

        >>> for phase in Axis(8, 4, lo=2, hi=2, up=2).phases(): print(phase)
        Phase(first=0, step=2, count=8, stride=1, taps=(0, 2), sources=(-1, 0))
        Phase(first=1, step=2, count=8, stride=1, taps=(1, 3), sources=(0, 1))
        """
        return iter(_phases(self))


ONE = Axis(1, 1)
"""Of one pixel and one tap: what an image has of the axes that it has not."""


@lru_cache(256)
def _phases(axis: Axis) -> tuple[Phase, ...]:
    """Each algorithm that is considered for a layer asks for them, several times."""
    by_residue = residues(axis.kernel, axis.dilation, axis.lo, axis.up)
    step, found = axis.up // gcd(axis.stride, axis.up), []
    for first in range(min(step, axis.out)):
        at = first * axis.stride
        taps = by_residue.get(-at % axis.up, ())
        found.append(
            Phase(
                first=first,
                step=step,
                count=(axis.out - 1 - first) // step + 1,
                stride=step * axis.stride // axis.up,
                taps=taps,
                sources=tuple((at + k * axis.dilation - axis.lo) // axis.up for k in taps),
            )
        )
    return tuple(found)
