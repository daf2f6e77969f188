"""A call without its numbers: memory layouts, plan and job for arrays of given shapes, strides and
dtypes.

Made once for every combination and remembered; running one takes a few microseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from konv.arrays import Kind, Shape, channels_last, dense_strides, no_memory
from konv.checks import Options, canonical, check_residual, epilogue, layout_last
from konv.errors import ProblemError
from konv.geometry import Conv
from konv.plan import Strides
from konv.runtime import hugepages, lent, memory
from konv.runtime.execute import Call
from konv.runtime.rows import Head
from konv.runtime.threads import Team
from konv.runtime.weights import Packed
from konv.target import BYTES


class Request:
    """`conv` on arrays like x and out, with a weight of such strides in elements, which may ask for
    a channels-last result.

    `readable` is False if kernels cannot read x as it lies (byte order, steps backwards): it must
    be copied first. `given`: as of konv.runtime.execute.
    """

    def __init__(
        self,
        kind: Kind,
        x: Any,
        conv: Conv,
        options: Options,
        out: Any,
        team: Team,
        weight: Strides,
        residual: Any = None,
        given: bool = False,
    ) -> None:
        self.kind, self.conv, self._address = kind, conv, kind.address
        after = epilogue(options, residual is not None)
        self.last = last = layout_last(options)
        self.batched, shape, strides = canonical(kind, x, options, last)
        self.itemsize, self.dtype = BYTES[conv.dtype], conv.dtype
        self.result_name = f"the result of {conv}"
        self.bytes = prod(conv.out_shape) * self.itemsize
        memory.require(self.bytes, self.result_name)
        self.readable = kind.native(x) and min(strides) >= 0
        x_format = channels_last(shape, strides)
        weight_last = channels_last(conv.weight_shape, weight)
        y_last = last or ((x_format or weight_last) and has_format(kind, options))
        self.direct = True
        if out is not None:
            y_last = self._check_out(out, options, y_last)
        self.y_shape, self.y_order = self._result(y_last)
        form = self.y_shape, self.dtype, self.y_order
        self.large = self.bytes >= hugepages.LARGE
        self._make = self._lend = kind.maker(*form)
        if self.bytes >= lent.LEAST:
            self._lend = kind.lender(*form)
        self.added = residual is None or self._check_residual(residual, options, y_last)
        self.extent = _extent(shape, strides) * self.itemsize
        if self.readable:
            x_last = strides[1] == 1 and (strides[-1] != 1 or last or x_format)
            self.call = Call(
                conv,
                strides,
                dense_strides(conv.out_shape, y_last),
                weight,
                team,
                x_last,
                y_last,
                after,
                options.plan,
                given,
            )

    def _result(self, y_last: bool) -> tuple[Shape, Shape | None]:
        """Shape to allocate, contiguous, and the order of axes that the user sees it in (None: as
        it is).
        """
        n, co, *spatial = self.conv.out_shape
        batch, dims = ((n,) if self.batched else ()), len(spatial)
        first, numbers = range(len(batch)), range(len(batch), len(batch) + dims + 1)
        if y_last:
            to_first = (*first, numbers[-1], *numbers[:-1])
            return (*batch, *spatial, co), None if self.last else to_first
        return (*batch, co, *spatial), (*first, *numbers[1:], numbers[0]) if self.last else None

    def _seen(self, y_last: bool) -> Shape:
        """The shape of the result as the user sees it."""
        shape, order = self._result(y_last)
        return tuple(shape[i] for i in order) if order else shape

    def _check_residual(self, residual: Any, options: Options, y_last: bool) -> bool:
        """Refuse a residual that is not like the result; whether it lies in memory as that does."""
        kind = self.kind
        check_residual(kind, residual, self._seen(y_last), self.dtype, options)
        kind.refuse(residual, "residual")
        _, shape, strides = canonical(kind, residual, options, self.last, self.batched)
        first = not self.batched
        wanted = same_strides(shape, strides, y_last)
        return kind.native(residual) and strides[first:] == wanted[first:]

    def _check_out(self, out: Any, options: Options, y_last: bool) -> bool:
        """Refuse an `out` that cannot hold the result; find the layout in which kernels may write
        into it.
        """
        kind = self.kind
        if not kind.owns(out):
            raise TypeError(
                f"out is a {type(out).__name__}, x a {kind.name}. Use the same library for both."
            )
        shape = self._seen(y_last)
        if tuple(out.shape) != shape or kind.dtype(out) != self.dtype or not kind.writable(out):
            raise ProblemError(
                f"out is {kind.dtype(out)} {tuple(out.shape)}"
                f"{'' if kind.writable(out) else ', read-only'}; the result of {options.name} is "
                f"{self.dtype} {shape}. Use a writable array of that shape and dtype."
            )
        if prod(shape) and _folded(tuple(out.shape), kind.strides(out)):
            raise ProblemError(
                f"out has strides {kind.strides(out)}: several of its numbers share one place in "
                f"memory. Use an array of its own."
            )
        _, shape, strides = canonical(kind, out, options, self.last, self.batched)
        first = not self.batched  # a batch axis that is not there has no stride
        for choice in (y_last, not y_last):
            wanted = same_strides(shape, strides, choice)
            if kind.native(out) and strides[first:] == wanted[first:]:
                return choice
        self.direct = False
        return y_last

    def fresh(
        self, run: Callable[[int, Any, int], None], px: int, weights: Any, trains: bool = False
    ) -> Any:
        """A new array, computed by run(x, weights, y) from an x at an address; arrays are as those
        it was made for. `trains`: a step of training made it, and soon makes the next.
        """
        y = self._new(trains)
        py = self._address(y)
        if not (px and py) and 0 not in self.conv.in_shape:
            raise no_memory("out" if px else "x")
        run(px, weights, py)
        return y

    def run(
        self,
        px: int,
        packed: Packed | Head,
        out: Any,
        reads: tuple[tuple[int, int], ...],
        residual: Any = None,
    ) -> Any:
        """Compute with packed weights, into `out` if there is one. `reads`: (address, bytes) of
        what else is read.
        """
        if out is residual is None:
            return self.fresh(self.call.run, px, packed)
        kind = self.kind
        po, pr = 0 if out is None else kind.address(out), None
        if residual is not None:
            residual = self._readable_residual(residual)
            pr = kind.address(residual)
            # Where it is the very memory of out, each number is read before its place is written,
            # by algorithms that write each once.
            if out is not None and not (self.call.once and pr == po):
                reads = (*reads, (pr, self.bytes))
        straight = out is not None and self._free(po, ((px, self.extent), *reads))
        y = out if straight else self._new()
        py = po if straight else kind.address(y)
        there = px and py and (po or out is None)
        if not there and 0 not in self.conv.in_shape:
            raise no_memory("out" if px else "x")
        self.call.run(px, packed, py, pr)
        if out is None:
            return y
        if straight:
            kind.wrote(out)
        else:
            kind.copy(out, y)
        return out

    def _readable_residual(self, residual: Any) -> Any:
        """The residual, as a copy that lies as the result does if it does not."""
        kind = self.kind
        address = kind.address(residual)
        if not address and 0 not in self.conv.out_shape:
            raise no_memory("residual")
        if self.added and address % self.itemsize == 0:
            return residual
        size = prod(self.y_shape) * self.itemsize
        copied = memory.allocate(
            lambda: kind.empty(self.y_shape, self.dtype, self.y_order), size, "a copy of residual"
        )
        kind.copy(copied, residual)
        return copied

    def _new(self, trains: bool = False) -> Any:
        """An array for the result; the system's refusal as an OutOfMemoryError."""
        if not self.large:
            try:
                return self._make()
            except (MemoryError, RuntimeError) as error:
                raise memory.said(error, self.bytes, self.result_name) from error
        make = self._lend if trains else self._make
        new = memory.allocate(make, self.bytes, self.result_name)
        hugepages.prefer(self.kind.address(new), self.bytes)
        return new

    def making(self) -> tuple[Any, tuple[Any, ...]]:
        """What makes a result, and of what arguments, where the library repeats."""
        make: Any = self._make
        return make.func, make.args

    def _free(self, begin: int, reads: tuple[tuple[int, int], ...]) -> bool:
        """Whether kernels may write into the `out` that begins there: laid out as they write,
        aligned, and apart from what they read.
        """
        if not self.direct or begin % self.itemsize:
            return False
        end = begin + self.bytes
        return all(end <= start or start + size <= begin for start, size in reads)


def _folded(shape: Shape, strides: Shape) -> bool:
    """Whether different indices mean the same number, as in a broadcast array."""
    return any(size > 1 and stride == 0 for size, stride in zip(shape, strides, strict=True))


def packable(kind: Kind, weight: Any) -> bool:
    """Whether a weight is one block of memory with its taps in equal steps."""
    shape, strides = tuple(weight.shape), kind.strides(weight)
    return kind.native(weight) and any(
        strides == same_strides(shape, strides, last) for last in (False, True)
    )


def plain(kind: Kind, bias: Any) -> bool:
    """Whether a bias is one run of numbers."""
    return bias is None or (
        kind.native(bias) and (bias.shape[0] == 1 or kind.strides(bias) == (1,))
    )


def same_strides(shape: Shape, strides: Shape, last: bool) -> Shape:
    """Dense strides, but those of axes of size 1 as they are: nothing depends on them."""
    dense = dense_strides(shape, last)
    return tuple(s if size == 1 else d for size, s, d in zip(shape, strides, dense, strict=True))


def has_format(kind: Kind, options: Options) -> bool:
    """PyTorch knows channels-last for two and three dimensions; for arrays the rule is the same for
    one.
    """
    return options.dims > 1 or kind.name.startswith("numpy")


def _extent(shape: Shape, strides: Shape) -> int:
    """Elements from the first to the last, both included."""
    if not all(shape):
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
