"""The map of one axis, against brute force and against itself."""

from __future__ import annotations

import re
import time
from contextlib import nullcontext
from dataclasses import replace

import pytest
from geometry.strategies import axes
from hypothesis import given, settings
from hypothesis import strategies as st

from konv.errors import ProblemError
from konv.geometry import MODES, Axis, Mode

Triples = set[tuple[int, int, int]]


def spread(axis: Axis) -> list[int | None]:
    """Lay the axis out: pixels by their index, None for every zero, crops cut off."""
    line: list[int | None] = []
    for i in range(axis.size):
        line += [i] + [None] * (axis.up - 1)
    line = line[: len(line) - (axis.up - 1)]
    line = [None] * axis.lo + line if axis.lo >= 0 else line[-axis.lo :]
    return line + [None] * axis.hi if axis.hi >= 0 else line[: axis.hi]


def triples(axis: Axis) -> Triples:
    """All (output, tap, pixel) that meet."""
    pairs = ((o, k, axis.source(o, k)) for o in range(axis.out) for k in range(axis.kernel))
    return {(o, k, i) for o, k, i in pairs if i is not None}


def within(axis: Axis) -> bool:
    """Whether the crops leave some of the input: what `spread` can lay out."""
    size = (axis.size - 1) * axis.up + 1
    return axis.lo > -size and axis.hi > -size and axis.lo + axis.hi > -size


@given(axes())
def test_source_is_what_a_window_slid_over_the_padded_line_sees(axis: Axis) -> None:
    if not within(axis):
        return
    line = spread(axis)
    assert len(line) == axis.padded
    starts = range(0, len(line) - axis.extent + 1, axis.stride)
    assert axis.out == len(starts)
    for o, start in enumerate(starts):
        window = line[start : start + axis.extent : axis.dilation]
        assert [axis.source(o, k) for k in range(axis.kernel)] == window


@given(axes(), st.sampled_from(MODES))
def test_taps_count_what_brute_force_counts(axis: Axis, mode: Mode) -> None:
    met = 0
    for o in range(axis.out):
        for k in range(axis.kernel):
            at = o * axis.stride + k * axis.dilation - axis.lo
            met += at % axis.up == 0 and (mode != "zeros" or 0 <= at // axis.up < axis.size)
    assert axis.taps(mode) == met


@given(axes())
def test_reads_are_the_first_and_last_source_of_all(axis: Axis) -> None:
    places = (
        o * axis.stride + k * axis.dilation - axis.lo
        for o in range(axis.out)
        for k in range(axis.kernel)
    )
    read = [place // axis.up for place in places if place % axis.up == 0]
    assert axis.reads() == ((min(read), max(read)) if read else None)
    assert axis.overhang() == (
        max(0, -min(read, default=0)),
        max(0, max(read, default=0) - axis.size + 1),
    )


@pytest.mark.parametrize(
    "axis",
    [
        Axis(10**6, 3, lo=1, hi=1),
        Axis(10**12, 3, stride=2, lo=1, hi=1),
        Axis(10**12, 5, dilation=10**11, lo=7, hi=10**11),
        Axis(10**12, 4, lo=2, hi=2, up=2),
        Axis(10**12, 3, stride=2, lo=1, hi=1).adjoint(),
        Axis(10**12, 3, stride=2, lo=1, hi=1).weight_adjoint(),
    ],
    ids=str,
)
def test_huge_axes_are_counted_at_once(axis: Axis) -> None:
    """Never in steps of the size: 10**12 of them would take a day."""
    began = time.perf_counter()
    taps = axis.taps()
    axis.reads()
    assert time.perf_counter() - began < 0.1
    assert taps == axis.adjoint().taps() == axis.weight_adjoint().taps()


def test_huge_axis_agrees_with_the_sum_done_by_hand() -> None:
    assert Axis(10**6, 3, lo=1, hi=1).taps() == 3 * 10**6 - 2
    assert Axis(10**12, 4, lo=2, hi=2, up=2).taps() == 4 * 10**12 - 2


@given(axes())
def test_adjoint_reads_the_same_triples_backwards(axis: Axis) -> None:
    """What <A x, y> = <x, A' y> says: output o meets pixel i at tap k in both, taps reversed."""
    adjoint = axis.adjoint()
    assert (adjoint.size, adjoint.out) == (axis.out, axis.size)
    mirrored = {(o, axis.kernel - 1 - k, i) for i, k, o in triples(adjoint)}
    assert mirrored == triples(axis)


@given(axes())
def test_weight_adjoint_lets_outputs_and_taps_change_places(axis: Axis) -> None:
    adjoint = axis.weight_adjoint()
    assert (adjoint.size, adjoint.kernel, adjoint.out) == (axis.size, axis.out, axis.kernel)
    assert {(o, k, i) for k, o, i in triples(adjoint)} == triples(axis)


@given(axes())
def test_adjoint_twice_is_the_identity_up_to_padding_never_read(axis: Axis) -> None:
    for adjoint in (Axis.adjoint, Axis.weight_adjoint):
        once, twice = adjoint(axis), adjoint(adjoint(axis))
        assert replace(twice, hi=axis.hi) == axis
        assert 0 <= axis.hi - twice.hi < axis.stride
        assert adjoint(twice) == once


@given(axes())
def test_taps_are_equal_in_the_three_directions(axis: Axis) -> None:
    assert axis.taps() == axis.adjoint().taps() == axis.weight_adjoint().taps()


@given(axes())
def test_prepadded_axis_reads_the_same_pixels_without_padding(axis: Axis) -> None:
    padded, (before, after) = axis.prepadded(), axis.overhang()
    assert padded.out == axis.out
    assert padded.size == axis.size + before + after
    for o in range(axis.out):
        for k in range(axis.kernel):
            at = o * axis.stride + k * axis.dilation - axis.lo
            expected = at // axis.up + before if at % axis.up == 0 else None
            assert padded.source(o, k) == expected
    assert padded.overhang() == (0, 0)
    if axis.up == 1 and axis.lo >= 0 and axis.hi >= 0:
        assert padded.lo == padded.hi == 0


@given(axes())
def test_phases_partition_the_outputs_and_are_dense(axis: Axis) -> None:
    outputs: list[int] = []
    seen: Triples = set()
    for phase in axis.phases():
        assert len(phase.taps) == len(phase.sources)
        for j in range(phase.count):
            o = phase.first + phase.step * j
            outputs.append(o)
            for k, source in zip(phase.taps, phase.sources, strict=True):
                i = source + phase.stride * j
                assert i * axis.up == o * axis.stride + k * axis.dilation - axis.lo
                if 0 <= i < axis.size:
                    seen.add((o, k, i))
    assert sorted(outputs) == list(range(axis.out))
    assert seen == triples(axis)


@given(axes())
def test_phases_partition_the_taps(axis: Axis) -> None:
    """No tap is in two phases; with stride 1 and an output for each phase, all are in one."""
    taps = [k for phase in axis.phases() for k in phase.taps]
    assert len(taps) == len(set(taps))
    if axis.stride == 1 and axis.out >= axis.up:
        assert sorted(taps) == list(range(axis.kernel))


def test_phases_of_a_4_tap_stride_2_transposed_layer() -> None:
    """The DCGAN layer: even outputs use taps 0 and 2, odd ones 1 and 3."""
    even, odd = Axis(8, 4, lo=2, hi=2, up=2).phases()
    assert (even.taps, even.sources, even.count, even.stride) == ((0, 2), (-1, 0), 8, 1)
    assert (odd.taps, odd.sources) == ((1, 3), (0, 1))


def test_phases_of_a_dense_axis_are_one_with_all_taps() -> None:
    (phase,) = Axis(9, 3, stride=2, dilation=2, lo=2, hi=2).phases()
    assert (phase.first, phase.step, phase.count, phase.stride) == (0, 1, 5, 2)
    assert (phase.taps, phase.sources) == ((0, 1, 2), (-2, 0, 2))


@settings(max_examples=50)
@given(st.integers(1, 10**18), st.integers(1, 10**6), st.integers(1, 10**6))
def test_large_numbers_either_make_an_axis_or_a_problem_error(size: int, k: int, up: int) -> None:
    try:
        axis = Axis(size, k, up=up)
    except ProblemError:
        return
    assert axis.padded < 2**63
    assert axis.out >= 1


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"size": 0}, "size=0 is too small: size must be >= 1."),
        ({"stride": 0}, "stride=0 is too small: stride must be >= 1."),
        ({"dilation": -1}, "dilation=-1 is too small: dilation must be >= 1."),
        ({"up": 0}, "up=0 is too small: up must be >= 1."),
        ({"size": 2**63}, f"size={2**63} does not fit in 63 bits. Use at most {2**63 - 1}."),
        (
            {"kernel": 4, "dilation": 2},
            "kernel extent 7 (kernel=4, dilation=2) exceeds the padded input of 5 (size=5, "
            "padding 0 + 0). Use size >= 7 or padding lo + hi >= 2.",
        ),
        (
            {"kernel": 14, "up": 2, "lo": 1},
            "kernel extent 14 (kernel=14, dilation=1) exceeds the padded input of 10 (size=5, "
            "padding 1 + 0). Use size >= 7 or padding lo + hi >= 5.",
        ),
    ],
)
def test_impossible_axes_say_why_and_what_works(numbers: dict[str, int], message: str) -> None:
    with pytest.raises(ProblemError) as raised:
        Axis(**({"size": 5, "kernel": 3} | numbers))
    assert str(raised.value) == message


@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(-3, 3), st.integers(1, 3)
)
def test_the_way_out_of_a_kernel_too_large_is_the_least(
    size: int, kernel: int, dilation: int, lo: int, up: int
) -> None:
    """The size and the padding that the message offers work, and one less does not."""
    try:
        Axis(size, kernel, dilation=dilation, lo=lo, up=up)
    except ProblemError as error:
        offered = re.search(r"Use size >= (\d+) or padding lo \+ hi >= (-?\d+)", str(error))
        assert offered is not None
        least_size, least_padding = map(int, offered.groups())
        for less in (0, 1):
            with pytest.raises(ProblemError) if less else nullcontext():
                Axis(least_size - less, kernel, dilation=dilation, lo=lo, up=up)
            with pytest.raises(ProblemError) if less else nullcontext():
                Axis(size, kernel, 1, dilation, lo, least_padding - lo - less, up)


@pytest.mark.parametrize("wrong", [True, 3.0, "3", None, [3]])
def test_wrong_types_are_type_errors_that_name_the_field(wrong: object) -> None:
    with pytest.raises(TypeError, match="kernel must be an integer, got"):
        Axis(5, wrong)  # type: ignore[arg-type]


def test_an_overflowing_extent_is_a_problem_error() -> None:
    with pytest.raises(ProblemError, match=r"kernel extent of .* does not fit in 63 bits"):
        Axis(5, 2**40, dilation=2**40)
    with pytest.raises(ProblemError, match=r"spread input of .* does not fit in 63 bits"):
        Axis(2**40, 1, up=2**40, lo=-(2**50))
