"""A tile reads what the whole reads, and no pixel more than it must."""

from __future__ import annotations

import pytest
from geometry.strategies import axes, convs
from hypothesis import assume, given
from hypothesis import strategies as st

from konv.errors import ProblemError
from konv.geometry import MODES, Axis, Conv, Mode, Tile, halo, origin_steps
from konv.geometry.tile import tile_axis


@given(axes(), st.sampled_from(MODES), st.data())
def test_a_tile_reads_the_pixels_that_the_whole_reads(
    axis: Axis, mode: Mode, data: st.DataObject
) -> None:
    try:
        axis.check_mode(mode)
    except ProblemError:
        assume(False)
    start = data.draw(st.integers(0, axis.out - 1))
    stop = data.draw(st.integers(start + 1, axis.out))
    (first, end), crop = tile_axis(axis, start, stop, mode)
    assert 0 <= first < end <= axis.size
    assert (crop.size, crop.out) == (end - first, stop - start)
    crop.check_mode(mode)
    for o in range(start, stop):
        for k in range(axis.kernel):
            source = crop.source(o - start, k, mode)
            assert axis.source(o, k, mode) == (None if source is None else first + source)


@given(axes(), st.data())
def test_the_crop_is_the_range_read_and_no_more(axis: Axis, data: st.DataObject) -> None:
    """From the first to the last place read, cut off at the borders; a pixel where that is none."""
    start = data.draw(st.integers(0, axis.out - 1))
    stop = data.draw(st.integers(start + 1, axis.out))
    (first, end), _ = tile_axis(axis, start, stop)
    places = [
        o * axis.stride + k * axis.dilation - axis.lo
        for o in range(start, stop)
        for k in range(axis.kernel)
    ]
    read = [place // axis.up for place in places if place % axis.up == 0]
    clipped = range(max(0, min(read, default=0)), min(axis.size, max(read, default=0) + 1))
    assert range(first, end) == clipped or (not clipped and end - first == 1)


@given(axes(), st.data())
def test_padding_remains_only_at_the_borders_of_the_image(axis: Axis, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, axis.out - 1))
    stop = data.draw(st.integers(start + 1, axis.out))
    (first, end), crop = tile_axis(axis, start, stop)
    before, after = crop.overhang()
    assert before == 0 or first == 0
    assert after == 0 or end == axis.size


def test_a_circular_border_needs_the_whole_axis() -> None:
    axis = Axis(100, 3, lo=1, hi=1)
    assert tile_axis(axis, 0, 10, "circular")[0] == (0, 100)
    assert tile_axis(axis, 1, 10, "circular")[0] == (0, 11)


@given(axes(most=30), st.integers(0, 5), st.integers(1, 5))
def test_halo_is_what_a_tile_reads_beyond_its_own_pixels(axis: Axis, at: int, length: int) -> None:
    """For every tile at legal origins, and attained by those that have all phases."""
    pixels, outputs = origin_steps(axis)
    start, stop = at * outputs, (at + length) * outputs
    assume(stop <= axis.out)
    before, after = halo(axis)
    places = [
        o * axis.stride + k * axis.dilation - axis.lo
        for o in range(start, stop)
        for k in range(axis.kernel)
    ]
    read = [place // axis.up for place in places if place % axis.up == 0]
    if read:
        assert before == max(0, at * pixels - min(read))
        assert after == max(0, max(read) - ((at + length) * pixels - 1))


@given(axes(most=30), st.integers(0, 9))
def test_a_crop_at_a_legal_origin_goes_through_the_layer_as_it_is(axis: Axis, times: int) -> None:
    """The same numbers on the crop read the same pixels, but for what the cut took away."""
    pixels, outputs = origin_steps(axis)
    origin, moved = times * pixels, times * outputs
    try:
        crop = Axis(
            axis.size - origin, axis.kernel, axis.stride, axis.dilation, axis.lo, axis.hi, axis.up
        )
    except ProblemError:
        return
    assert crop.out == axis.out - moved
    for o in range(crop.out):
        for k in range(axis.kernel):
            whole, part = axis.source(o + moved, k), crop.source(o, k)
            if whole is not None and whole >= origin:
                assert part == whole - origin
            else:
                assert part is None


def test_origins_are_as_dense_as_can_be() -> None:
    assert origin_steps(Axis(100, 3, stride=2, up=4)) == (1, 2)
    assert origin_steps(Axis(100, 3, stride=6, up=4)) == (3, 2)


def test_origins_between_the_steps_are_not_legal() -> None:
    whole, crop = Axis(100, 3, stride=2), Axis(99, 3, stride=2)
    assert all(crop.source(0, 0) != (whole.source(o, 0) or 0) - 1 for o in range(whole.out))


@given(convs(dims=(1, 2)), st.data())
def test_the_tile_of_a_conv_is_the_tile_of_its_axes(conv: Conv, data: st.DataObject) -> None:
    box = []
    for axis in conv.axes:
        start = data.draw(st.integers(0, axis.out - 1))
        box.append((start, data.draw(st.integers(start + 1, axis.out))))
    part = Tile.of(conv, box)
    assert part.outputs == tuple(box)
    assert part.conv.out_shape[2:] == tuple(stop - start for start, stop in box)
    assert part.conv.in_shape[2:] == tuple(stop - start for start, stop in part.inputs)
    assert part.conv.weight_shape == conv.weight_shape


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([(0, 5)], "outputs has 1 ranges for 2 spatial axes. Use one (start, stop) for each."),
        ([(0, 5), (3, 3)], "outputs 3:3 are no part of the axis. Use 0 <= start < stop <= 8."),
        ([(-1, 5), (0, 3)], "outputs -1:5 are no part of the axis. Use 0 <= start < stop <= 8."),
        ([(0, 9), (0, 3)], "outputs 0:9 are no part of the axis. Use 0 <= start < stop <= 8."),
    ],
)
def test_boxes_that_are_no_part_of_the_output(box: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(ProblemError) as raised:
        Tile.of(Conv.parse("conv2d 1x1x8x8 o1 k3 p1"), box)
    assert str(raised.value) == message
