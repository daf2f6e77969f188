"""`Conv`: one convolution, as integers. The problem that every layer of konv shares.

Nobody derives an output size, a padding or a MAC count again: they ask the Conv. It is a value
(frozen, hashable), closed under adjoint: gradients and transposed layers are Convs too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from konv.errors import ProblemError, UnsupportedError
from konv.geometry import count, text
from konv.geometry.arguments import Numbers, Padding, axes_from, split_shape
from konv.geometry.axis import Axis
from konv.geometry.formula import formula
from konv.geometry.padding import Mode
from konv.geometry.rules import check


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution of n images with ci channels into co, in 1, 2 or 3 dimensions.

    `axes` are canonical (the map of axis.py). How the user's weight is stored is one flag:

        transposed=False   (co, ci / groups, *kernel), tap k of the weight is tap k of the axis
        transposed=True    (ci, co / groups, *kernel), the taps run backwards: K - 1 - k

    as in PyTorch. So the adjoint of a Conv uses the very same weight tensor, with the flag turned.

    Usually made by `Conv.of` from a user's arguments or `Conv.parse` from a line of text;
    ``str(conv)`` writes that line. ProblemError if it cannot be, TypeError for wrong types.

    >>> conv = Conv.of((1, 64, 56, 56), 128, kernel=3, stride=2, padding=1)
    >>> print(conv, "->", conv.out_shape)
    conv2d 1x64x56x56 o128 k3 s2 p1 -> (1, 128, 28, 28)
    >>> conv.params, conv.macs, conv.exact_macs, conv.receptive_field
    (73728, 57802752, 56434688, (3, 3))
    """

    n: int
    ci: int
    co: int
    axes: tuple[Axis, ...]
    groups: int = 1
    dtype: str = "float32"
    mode: Mode = "zeros"
    transposed: bool = False

    def __post_init__(self) -> None:
        check(self)

    @classmethod
    def of(
        cls,
        in_shape: Iterable[int],
        co: int,
        kernel: Numbers,
        stride: Numbers = 1,
        padding: Padding = 0,
        dilation: Numbers = 1,
        groups: int = 1,
        *,
        transposed: bool = False,
        output_padding: Numbers = 0,
        padding_mode: Mode = "zeros",
        dtype: str = "float32",
    ) -> Conv:
        """Return the convolution of an input (n, ci, *spatial) that a user's arguments describe.

        kernel, stride, dilation, output_padding: one int, or one an axis. padding: the same, or one
        (lo, hi) pair an axis, or "valid", "same", "causal"; it crops the output if transposed.

        >>> Conv.of((1, 512, 8, 8), 256, 4, stride=2, padding=1, transposed=True).out_shape
        (1, 256, 16, 16)
        """
        n, ci, sizes = split_shape(in_shape)
        axes = axes_from(sizes, kernel, stride, padding, dilation, output_padding, transposed)
        return cls(n, ci, co, axes, groups, dtype, padding_mode, transposed)

    @classmethod
    def parse(cls, line: str) -> Conv:
        """Return the convolution that a line of text describes (see text.py).

        >>> Conv.parse("conv2d 1x64x56x56 o128 k3 s2 same").out_shape
        (1, 128, 28, 28)
        """
        return cls(**text.read(line))

    def __str__(self) -> str:
        return text.write(self)

    @property
    def dims(self) -> int:
        """Number of spatial axes: 1, 2 or 3."""
        return len(self.axes)

    @property
    def in_shape(self) -> tuple[int, ...]:
        """(n, ci, *spatial)"""
        return (self.n, self.ci, *(a.size for a in self.axes))

    @property
    def out_shape(self) -> tuple[int, ...]:
        """(n, co, *spatial)"""
        return (self.n, self.co, *(a.out for a in self.axes))

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(co, ci / groups, *kernel), if transposed (ci, co / groups, *kernel)"""
        a, b = (self.ci, self.co) if self.transposed else (self.co, self.ci)
        return (a, b // self.groups, *(a.kernel for a in self.axes))

    @property
    def params(self) -> int:
        """Number of weights, without bias."""
        return count.params(self)

    @property
    def macs(self) -> int:
        """Multiply-adds by the textbook, padding included (count.py states the convention)."""
        return count.macs(self)

    @property
    def exact_macs(self) -> int:
        """Multiply-adds that meet a real pixel: no padding, no inserted zeros."""
        return count.exact_macs(self)

    @property
    def bytes(self) -> int:
        """Bytes of input, weight and output."""
        return count.bytes_moved(self)

    @property
    def intensity(self) -> float:
        """FLOPs (2 x nominal MACs) for each byte of input, weight and output."""
        return count.intensity(self)

    @property
    def receptive_field(self) -> tuple[int, ...]:
        """Pixels that one output spans, per axis."""
        return tuple(count.receptive_field(a) for a in self.axes)

    @property
    def kind(self) -> frozenset[str]:
        """The words for it, such as {"dilated", "grouped"} or {"ordinary"}.

        >>> sorted(Conv.parse("tconv2d 1x8x9x9 o8 k3 s2 g8").kind)
        ['depthwise', 'transposed']
        """
        return count.kind(self)

    def formula(self) -> str:
        """Return the textbook formula of the output size with the numbers put in, a line an axis.

        >>> print(Conv.parse("conv1d 1x1x56 o1 k3 s2 p1").formula())
        W2 = floor((56 + 2*1 - 3) / 2) + 1 = 28
        """
        return formula(self)

    def adjoint(self) -> Conv:
        """Return the convolution that takes dy to dx, the input gradient, with the same weight.

        UnsupportedError for padding modes other than zeros, where a pixel is read from several
        places: there, take the adjoint of `padded()` and fold the pixels beside the image back in.

        >>> print(Conv.parse("conv2d 1x64x56x56 o128 k3 s2 p1").adjoint())
        tconv2d 1x128x28x28 o64 k3 s2 p1 r1
        """
        if self.mode != "zeros":
            raise UnsupportedError(
                f"padding_mode={self.mode!r} has no adjoint convolution: its backward pass folds "
                f"the gradient of the padded input. Use conv.padded().adjoint() and fold."
            )
        axes = tuple(a.adjoint() for a in self.axes)
        return replace(self, ci=self.co, co=self.ci, axes=axes, transposed=not self.transposed)

    def weight_adjoint(self) -> Conv:
        """Return the convolution that computes the weight gradient of *one* group.

        Batch and channels change places, as does the output with the kernel. For group j:

            its input    x[:, channels of j] swapped to    (ci / g, n, *size)
            its weight   dy[:, channels of j] swapped to   (co / g, n, *out)
            its output   dw[of j] swapped, that is         (ci / g, co / g, *kernel)

        For a transposed layer it is ``adjoint().weight_adjoint()``, in which x and dy trade roles:
        input dy swapped to (co / g, n, *out), weight x swapped to (ci / g, n, *size), output
        (co / g, ci / g, *kernel). Either way the output, swapped, is the gradient as the weight is
        stored. ProblemError for an empty batch, whose gradient is zero and needs no convolution.

        >>> print(Conv.parse("conv2d 2x64x56x56 o128 k3 s2 p1 g4").weight_adjoint())
        conv2d 16x2x56x56 o32 k28 p1:0 d2
        """
        if self.transposed:
            return self.adjoint().weight_adjoint()
        if self.n == 0:
            raise ProblemError(
                "batch=0 has a weight gradient of zeros, which no convolution computes. "
                "Fill it with zeros."
            )
        axes = tuple(a.weight_adjoint() for a in self.axes)
        n, co = self.ci // self.groups, self.co // self.groups
        return replace(self, n=n, ci=self.n, co=co, axes=axes, groups=1)

    def padded(self) -> Conv:
        """Return the same convolution of an input padded beforehand; its mode is zeros.

        The pixels to add before and after are ``axis.overhang()`` for each axis. An ordinary layer
        is left with lo = hi = 0, a transposed one with the zeros inserted at its ends.

        >>> print(Conv.parse("conv2d 1x8x9x9 o8 k3 p1 reflect").padded())
        conv2d 1x8x11x11 o8 k3
        """
        return replace(self, axes=tuple(a.prepadded() for a in self.axes), mode="zeros")

    def with_batch(self, n: int) -> Conv:
        """Return the same layer for another batch size."""
        return Conv(
            n, self.ci, self.co, self.axes, self.groups, self.dtype, self.mode, self.transposed
        )

    def with_size(self, *spatial: int) -> Conv:
        """Return the same layer for another image size; padding keeps its numbers, not its name.

        >>> print(Conv.parse("tconv2d 1x8x9x9 o8 k4 s2 p1").with_size(5, 7))
        tconv2d 1x8x5x7 o8 k4 s2 p1
        """
        if len(spatial) != self.dims:
            raise ProblemError(f"with_size{spatial} needs {self.dims} sizes, one for each axis.")
        axes = zip(self.axes, spatial, strict=True)
        return replace(self, axes=tuple(a.with_size(size) for a, size in axes))
