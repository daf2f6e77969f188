"""The words of a job and a unit of konv.kernels.strips, and the functions that are told them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from konv.geometry import ONE, Axis
from konv.kernels.words import AXES, Words
from konv.llvm import I8, I64, Function, Module, Pointer, Value, pointer_to
from konv.plan import Strides

JOB = (
    "units", "chunks", "chunk", "lines",  # pieces of work; of the lines; lines in one; all of them
    "channels", "multiplier",  # of the output; output channels that read one input channel
    "mode",  # padding: 0 zeros, 1 reflect, 2 replicate, 3 circular
    "zeros",  # 1 if padding is zeros, which may be left out where all weights are finite
    "dense",  # 1 if lanes lie side by side in the input
    "walk",  # 1 if lines are swept as konv.kernels.strips.form.walks says, where no strip is needed
    "tall",  # rows of tiles whose outputs take turns: of TALL, those that make the fewest
    "slide",  # 1 if vectors slide where tiles may be taken, too: as the width of all results says,
    # for the two add up in orders of their own
    "far",  # 1 if images come from memory: what the next row needs is asked for in advance
    "ahead",  # 1 if what the next lines of a tile need is, too
    "near", "part",  # lines and columns in which pairs of rows are completed before the next
    "stack",  # 1 if stacks of rows are, in one column of outputs after the other
    "x_batch", "x_channel", "y_batch", "y_channel",  # strides, in elements
    "thread_bytes", "at_strip", "at_dump",  # scratch of one thread; its parts, in bytes
    "at_zeros",  # a row of zeros, for rows beside the image
    "at_there",  # of pencils that read the image where it lies: which columns there are
    # konv.kernels.spectra, spectrum: ranges of a group's vectors of outputs; those in one; channels
    # of a group
    "ranges", "vectors", "ci", "co",
    # parts of konv.kernels.fourier, spectra, spectrum, upright, the middle ones of weight gradients
    "at_between", "at_tiles", "at_others", "at_sums", "at_block",
    *(f"{name}{axis}" for name in (
        "size", "lo",  # of the input, and pixels of padding before it
        "x_stride", "y_stride",  # in elements
        "out", "box", "boxes",  # outputs: all, in a unit, and units along the axis
    ) for axis in AXES),
    # konv.kernels.spread: bytes of a line's strip; outputs that there are, where `out` counts cells
    "line_bytes", *(f"outputs{axis}" for axis in AXES),
)  # fmt: skip

UNIT = (
    "x", "y", "weights", "scratch",  # addresses: image, result, packed weights, thread's scratch
    "skip",  # 1 if taps that lie in the padding are left out
    "direct",  # 1 if the input is read as it lies; 0: from the strip
    "residual",  # bytes from a result to what is added to it
    "line0", "line1",
    *(f"{name}{axis}" for name in (
        "j", "length",  # first output of the unit, and how many
        "raw", "slots",  # first source, and how many
        "before", "most",  # a slot s holds a number if 0 <= s + before < most
        "step",  # elements from one slot to the next
    ) for axis in AXES),
)  # fmt: skip


def words_of_axes(
    axes: Sequence[Axis], boxes: Sequence[int], x: Strides, y: Strides
) -> dict[str, int]:
    """The words of a job for each axis, whose units have so many outputs along it."""
    none, words = (0,) * (5 - len(x)), dict[str, int]()
    strides = (*none, *x[2:]), (*none, *y[2:])
    axes = (*[ONE] * (3 - len(axes)), *axes)
    for a, (axis, box, x_stride, y_stride) in enumerate(zip(axes, boxes, *strides, strict=True)):
        words |= {
            f"size{a}": axis.size, f"lo{a}": axis.lo, f"out{a}": axis.out,
            f"x_stride{a}": x_stride, f"y_stride{a}": y_stride,
            f"box{a}": box, f"boxes{a}": -(-axis.out // box),
        }  # fmt: skip
    return words


@contextmanager
def strip_function(
    module: Module, name: str, extra: Sequence[str] = (), inline: bool = False
) -> Iterator[tuple[Function, Words, Words, list[Value]]]:
    """A function `name(job, unit, *extra)`, compiled apart unless it is to be inlined."""
    params = [("job", pointer_to(I64)), ("unit", pointer_to(I64)), *((n, I64) for n in extra)]
    with module.function(name, params, inline=inline) as (f, args):
        job, unit = Words(args[0], JOB, frozen=True), Words(args[1], UNIT, frozen=True)
        yield f, job, unit, args[2:]


def strip_of(job: Words, unit: Words, element: Any) -> Pointer:
    """The strip of this thread."""
    return part(job, unit, "at_strip", element)


def part(job: Words, unit: Words, name: str, element: Any) -> Pointer:
    """A part of this thread's scratch."""
    return (unit.pointer("scratch", I8) + job[name]).cast(element)
