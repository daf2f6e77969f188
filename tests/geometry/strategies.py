"""Random problems, small enough for brute force, over the whole space of axes and convolutions."""

from __future__ import annotations

from hypothesis import assume
from hypothesis import strategies as st

from konv.errors import ProblemError
from konv.geometry import MODES, Axis, Conv, Mode


@st.composite
def axes(draw: st.DrawFn, most: int = 12, ups: int = 4) -> Axis:
    """Draw an axis; padding at either end may be negative or beyond the kernel."""
    size, kernel = draw(st.integers(1, most)), draw(st.integers(1, 5))
    stride, dilation, up = (draw(st.integers(1, m)) for m in (4, 3, ups))
    lo = draw(st.integers(-3, 7))
    least = (kernel - 1) * dilation + 1 - ((size - 1) * up + 1) - lo
    hi = draw(st.integers(max(least, -3), max(least, -3) + 8))
    return Axis(size, kernel, stride, dilation, lo, hi, up)


@st.composite
def convs(
    draw: st.DrawFn,
    dims: tuple[int, int] = (1, 3),
    modes: tuple[Mode, ...] = MODES,
    most: int = 6,
) -> Conv:
    """Draw a convolution of any kind, adjoints of every order included."""
    mode = draw(st.sampled_from(modes))
    count = draw(st.integers(*dims))
    groups = draw(st.integers(1, 3))
    parts = tuple(draw(axes(most=most, ups=3)) for _ in range(count))
    try:
        return Conv(
            n=draw(st.integers(0, 2)),
            ci=groups * draw(st.integers(1, 3)),
            co=groups * draw(st.integers(1, 3)),
            axes=parts,
            groups=groups,
            dtype=draw(st.sampled_from(("float32", "float64", "float16", "bfloat16"))),
            mode=mode,
            transposed=draw(st.booleans()),
        )
    except ProblemError:  # the padding mode cannot supply what the axis reads
        assume(False)
        raise


@st.composite
def layers(draw: st.DrawFn, dims: tuple[int, int] = (1, 3), most: int = 7) -> Conv:
    """Draw a layer that a user can write, ordinary or transposed, zeros beside the image."""
    count = draw(st.integers(*dims))
    groups, transposed = draw(st.integers(1, 3)), draw(st.booleans())

    def numbers(least: int, greatest: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(least, greatest)) for _ in range(count))

    strides, dilations = numbers(1, 3), numbers(1, 2)
    extra = tuple(
        draw(st.integers(0, max(s, d) - 1)) if transposed else 0
        for s, d in zip(strides, dilations, strict=True)
    )
    shape = (draw(st.integers(1, 2)), groups * draw(st.integers(1, 2)), *numbers(1, most))
    try:
        return Conv.of(
            shape,
            groups * draw(st.integers(1, 2)),
            numbers(1, 4),
            strides,
            numbers(0, 3),
            dilations,
            groups,
            transposed=transposed,
            output_padding=extra,
        )
    except ProblemError:  # the kernel does not fit, or the padding crops all of the output
        assume(False)
        raise
