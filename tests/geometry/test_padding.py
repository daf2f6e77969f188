"""What stands beside the image: the modes against lines written out, the amounts by name."""

from __future__ import annotations

import pytest
from geometry.strategies import axes
from hypothesis import given
from hypothesis import strategies as st

from konv.errors import ProblemError
from konv.geometry import MODES, Axis, Conv, Mode
from konv.geometry.padding import amounts, fold


@pytest.mark.parametrize(
    ("mode", "line"),
    [
        ("zeros", [None, None, None, 0, 1, 2, 3, None, None, None]),
        ("reflect", [3, 2, 1, 0, 1, 2, 3, 2, 1, 0]),
        ("replicate", [0, 0, 0, 0, 1, 2, 3, 3, 3, 3]),
        ("circular", [1, 2, 3, 0, 1, 2, 3, 0, 1, 2]),
    ],
)
def test_modes_lay_out_the_line_as_written(mode: Mode, line: list[int | None]) -> None:
    assert [fold(i, 4, mode) for i in range(-3, 7)] == line


@given(st.integers(1, 20), st.sampled_from(MODES), st.data())
def test_fold_leaves_pixels_alone_and_stays_in_the_image(
    size: int, mode: Mode, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, size - 1))
    assert fold(index, size, mode) == index
    if mode == "circular":
        assert fold(index - size, size, mode) == fold(index + size, size, mode) == index
    if mode == "reflect" and index:
        assert fold(-index, size, mode) == index
        assert fold(size - 1 + index, size, mode) == size - 1 - index


@given(axes(), st.sampled_from(MODES))
def test_source_divides_by_up_before_it_folds(axis: Axis, mode: Mode) -> None:
    for o in range(axis.out):
        for k in range(axis.kernel):
            at = o * axis.stride + k * axis.dilation - axis.lo
            try:
                source = axis.source(o, k, mode)
            except ProblemError:
                with pytest.raises(ProblemError):
                    axis.check_mode(mode)
                return
            assert source == (fold(at // axis.up, axis.size, mode) if at % axis.up == 0 else None)
    axis.check_mode(mode)  # no read failed, so the check must pass


@pytest.mark.parametrize(("mode", "most"), [("reflect", 4), ("circular", 5), ("replicate", 99)])
def test_padding_as_wide_as_the_mode_can_supply_is_allowed(mode: Mode, most: int) -> None:
    assert Conv.of((1, 1, 5), 1, 3, padding=most, padding_mode=mode).out_shape == (
        1,
        1,
        3 + 2 * most,
    )


@pytest.mark.parametrize(("mode", "most"), [("reflect", 4), ("circular", 5)])
def test_padding_wider_than_that_says_how_much_there_is(mode: Mode, most: int) -> None:
    for padding in (((most + 1, 0),), ((0, most + 1),)):
        with pytest.raises(ProblemError) as raised:
            Conv.of((1, 1, 5), 1, 3, padding=padding, padding_mode=mode)
        assert str(raised.value) == (
            f"padding_mode={mode!r} can supply {most} pixels beside an axis of size 5, but "
            f"{most + 1} are read. Use padding <= {most}, a larger image, or 'replicate'."
        )


def test_padding_that_is_never_read_needs_no_supply() -> None:
    """4 + 5 + 5 places, one tap every 3: it stands at 12, 4 pixels past the end, never at 13."""
    conv = Conv.of((1, 1, 5), 1, 1, stride=3, padding=((4, 5),), padding_mode="reflect")
    assert conv.axes[0].overhang() == (4, 4)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_output_sizes_do_not_depend_on_the_mode(mode: Mode) -> None:
    assert Conv.of((1, 2, 9, 8), 4, 3, 2, 2, padding_mode=mode).out_shape == (1, 4, 6, 5)


@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 5), st.integers(1, 4))
def test_same_gives_size_over_stride_with_the_least_padding(
    size: int, kernel: int, stride: int, dilation: int
) -> None:
    conv = Conv.of((1, 1, size), 1, kernel, stride, "same", dilation)
    (axis,) = conv.axes
    assert axis.out == -(-size // stride)
    assert 0 <= axis.hi - axis.lo <= 1
    if axis.hi > 0:  # one pixel less would lose an output
        assert axis.padded - axis.extent == (axis.out - 1) * stride


@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 4))
def test_causal_outputs_see_no_later_pixel(size: int, kernel: int, dilation: int) -> None:
    (axis,) = Conv.of((1, 1, size), 1, kernel, padding="causal", dilation=dilation).axes
    assert axis.out == size
    assert axis.hi == 0
    for o in range(size):
        assert axis.source(o, kernel - 1) == o


def test_valid_is_no_padding_and_crops_nothing() -> None:
    assert Conv.of((1, 1, 9), 1, 3, padding="valid").out_shape == (1, 1, 7)
    assert Conv.of((1, 1, 9), 1, 3, padding="valid", transposed=True).out_shape == (1, 1, 11)


@pytest.mark.parametrize("name", ["same", "causal"])
def test_names_that_mean_nothing_for_transposed_layers_say_what_to_write(name: str) -> None:
    with pytest.raises(
        ProblemError, match=r"undefined for a transposed .* Use numbers: \(lo, hi\)"
    ):
        Conv.of((1, 1, 9), 1, 3, padding=name, transposed=True)


def test_pairs_are_one_an_axis() -> None:
    sizes, extents, strides = [5, 5], [3, 3], [1, 1]
    assert amounts(2, sizes, extents, strides, False) == ((2, 2), (2, 2))
    assert amounts([1, 2], sizes, extents, strides, False) == ((1, 1), (2, 2))
    assert amounts([(1, 2), (3, 4)], sizes, extents, strides, False) == ((1, 2), (3, 4))


@pytest.mark.parametrize(
    ("padding", "error", "message"),
    [
        (-1, ProblemError, "padding=-1 is negative: padding must be >= 0"),
        (((0, -2), (0, 0)), ProblemError, "padding=-2 is negative: padding must be >= 0"),
        ((1, 2, 3), ProblemError, r"padding=\(1, 2, 3\) has 3 entries for 2 spatial axes"),
        (((1, 2, 3), (1, 2, 3)), ProblemError, "has 3 values for the two ends of an axis"),
        ("full", ProblemError, "padding='full' is unknown. Use 'valid', 'same', 'causal'"),
        (1.0, TypeError, r"padding must be an integer, got 1.0 \(float\)"),
        ((1, True), TypeError, r"padding must be an integer, got True \(bool\)"),
        (None, TypeError, r"padding must be an integer, got None \(NoneType\)"),
    ],
)
def test_bad_padding(padding: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Conv.of((1, 1, 9, 9), 1, 3, padding=padding)  # type: ignore[arg-type]
