"""Receptive fields: the figures others published, and the exact pixels behind them."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations_with_replacement

import pytest
from geometry.strategies import axes
from hypothesis import given
from hypothesis import strategies as st

from konv.errors import ProblemError
from konv.geometry import Axis, Conv, Field, chain, period, reach, sources, why_gridding

Layer = tuple[int, int, int]  # kernel, stride, padding: of a convolution or a pooling


def along(*layers: Layer) -> list[Axis]:
    """Make a chain; sizes do not matter to receptive fields."""
    return [Axis(10_000, k, s, lo=p, hi=p) for k, s, p in layers]


CONV3, POOL2 = (3, 1, 1), (2, 2, 0)
VGG_16 = [CONV3, CONV3, POOL2] * 2 + [CONV3, CONV3, CONV3, POOL2] * 3
VGG_A = [CONV3, POOL2] * 2 + [CONV3, CONV3, POOL2] * 3
ALEXNET_V2 = [(11, 4, 0), (3, 2, 0), (5, 1, 2), (3, 2, 0), CONV3, CONV3, CONV3, (3, 2, 0)]
MOBILENET_V1 = [
    layer for stride in (2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1) for layer in [(3, stride, 1)]
]


@pytest.mark.parametrize(
    ("net", "layers", "expected"),
    [
        # TF-Slim's nets: receptive field, effective stride, effective padding.
        (ALEXNET_V2, 1, (11, 4, 0)),
        (ALEXNET_V2, 2, (19, 8, 0)),
        (ALEXNET_V2, 3, (51, 8, 16)),
        (ALEXNET_V2, 5, (99, 16, 32)),
        (ALEXNET_V2, 6, (131, 16, 48)),
        (ALEXNET_V2, 7, (163, 16, 64)),
        (ALEXNET_V2, 8, (195, 32, 64)),
        (VGG_16, 3, (6, 2, 2)),
        (VGG_16, 6, (16, 4, 6)),
        (VGG_16, 10, (44, 8, 18)),
        (VGG_16, 14, (100, 16, 42)),
        (VGG_16, 16, (164, 16, 74)),
        (VGG_16, 18, (212, 32, 90)),
        (VGG_A, 13, (150, 32, 59)),
    ],
)
def test_published_fields(net: list[Layer], layers: int, expected: tuple[int, int, int]) -> None:
    field = Field.of(along(*net[:layers]))
    assert (field.size, field.stride, field.padding) == expected


@pytest.mark.parametrize(
    ("net", "size", "stride"),
    [
        ([*ALEXNET_V2, (6, 1, 0)], 355, 32),  # FCN's fc6
        ([*VGG_16, (7, 1, 0)], 404, 32),
        ([(4, 2, 1)] * 4 + [(4, 1, 0)], 94, 16),  # DCGAN's discriminator of 64 x 64
        (MOBILENET_V1, 315, 32),
    ],
)
def test_published_sizes(net: list[Layer], size: int, stride: int) -> None:
    field = Field.of(along(*net))
    assert (field.size, field.stride) == (size, stride)


@pytest.mark.parametrize(
    ("blocks", "kernels", "size"),
    [
        ((2, 2, 2, 2), 2, 435),
        ((3, 4, 6, 3), 2, 899),
        ((3, 4, 6, 3), 1, 427),
        ((3, 4, 23, 3), 1, 971),
        ((3, 8, 36, 3), 1, 1451),
    ],
    ids=["ResNet-18", "ResNet-34", "ResNet-50", "ResNet-101", "ResNet-152"],
)
def test_longest_path_of_residual_nets(blocks: tuple[int, ...], kernels: int, size: int) -> None:
    """torchvision's: 3-taps in each block (two, or one between 1-taps), the first one strided."""
    net = [(7, 2, 3), (3, 2, 1)]
    for stage, count in enumerate(blocks):
        for block in range(count):
            stride = 2 if stage and not block else 1
            net += [(3, stride, 1), CONV3][:kernels]
    assert (Field.of(along(*net)).size, Field.of(along(*net)).stride) == (size, 32)


def test_context_module_grows_as_its_paper_says() -> None:
    rates = (1, 1, 2, 4, 8, 16, 1)
    layers = [Axis(999, 3, dilation=d, lo=d, hi=d) for d in rates]
    sizes = [Field.of(layers[: n + 1]).size for n in range(len(rates))]
    assert sizes == [3, 5, 9, 17, 33, 65, 67]


@pytest.mark.parametrize(
    ("rates", "seen", "span"),
    [((2, 2, 2), 7, 13), ((1, 2, 3), 13, 13), ((1, 2, 5), 17, 17), ((1, 2, 9), 21, 25)],
)
def test_holes_of_dilated_chains(rates: tuple[int, ...], seen: int, span: int) -> None:
    (exact,) = reach([Axis(999, 3, dilation=d, lo=d, hi=d) for d in rates])
    assert (len(exact.pixels), exact.span, len(exact.holes)) == (seen, span, span - seen)
    assert exact.density == Fraction(seen, span)
    assert (why_gridding(rates) is None) == (seen == span)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_hdc_rule_is_the_truth_for_three_taps_and_cautious_for_more(count: int) -> None:
    for rates in combinations_with_replacement(range(1, 8), count):
        for kernel in (3, 4, 5):
            (exact,) = reach([Axis(999, kernel, dilation=d) for d in rates])
            if why_gridding(rates, kernel) is None:
                assert not exact.holes
            elif kernel == 3:
                assert exact.holes


def test_hdc_rule_needs_three_taps() -> None:
    with pytest.raises(ProblemError, match="kernel=2 is too small"):
        why_gridding([1, 2], kernel=2)


def test_phases_of_a_unet() -> None:
    """Depth 4 with 3-taps, along its deepest path: the published figures, by output phase."""
    conv, pool = Axis(999, 3, lo=1, hi=1), Axis(999, 2, stride=2)
    enlarge = Axis(999, 2, lo=1, hi=1, up=2)
    unet = [conv, conv, pool] * 4 + [conv, conv] + [enlarge, conv, conv] * 4
    phases = reach(unet)
    assert len(phases) == 16
    assert {exact.span for exact in phases} == {188, 204}
    assert min(exact.pixels[0] - exact.phase for exact in phases) == -107
    assert max(exact.pixels[-1] - exact.phase for exact in phases) == 107
    assert (phases[0].pixels[0], phases[15].pixels[-1] - 15) == (-94, 94)
    assert not any(exact.holes for exact in phases)
    assert Field.of(unet) == Field(204, Fraction(1), Fraction(107), Fraction(0))


def test_a_transposed_layer_puts_its_outputs_between_the_pixels() -> None:
    """Two outputs a pixel, a quarter of a pixel to its either side."""
    field = Field.of([Axis(8, 4, lo=2, hi=2, up=2)])
    assert (field.size, field.stride) == (2, Fraction(1, 2))
    assert [field.centre(o) for o in (0, 1, 2)] == [Fraction(-1, 4), Fraction(1, 4), Fraction(3, 4)]


def test_a_phase_without_taps_sees_nothing() -> None:
    first, second = reach([Axis(8, 1, up=2)])
    assert (first.pixels, second.pixels) == ((0,), ())
    assert (second.span, second.density, second.holes) == (0, 1, ())


def test_an_empty_chain_is_the_pixel_itself() -> None:
    assert Field.of([]) == Field(1, Fraction(1), Fraction(0), Fraction(0))
    assert reach([])[0].pixels == (0,)


def test_chain_takes_one_axis_of_each_layer_and_poolings_for_all() -> None:
    conv, pool = Conv.parse("conv2d 1x1x9x9 o1 k3x5"), Axis(9, 2, stride=2)
    assert chain([conv, pool], dim=0) == [Axis(9, 3), pool]
    assert chain([conv, pool], dim=1) == [Axis(9, 5), pool]


@given(st.lists(axes(ups=1), max_size=4))
def test_without_inserted_zeros_the_summary_is_exact(layers: list[Axis]) -> None:
    (exact,), field = reach(layers), Field.of(layers)
    assert exact.span == field.size
    assert exact.pixels[0] == -field.padding
    assert exact.pixels[-1] + exact.pixels[0] == 2 * field.middle


@given(st.lists(axes(ups=3), max_size=3), st.integers(0, 9))
def test_phases_repeat_after_a_period(layers: list[Axis], times: int) -> None:
    moved = Field.of(layers).stride * period(layers) * times
    for exact in reach(layers):
        seen = {exact.phase + period(layers) * times}
        for axis in reversed(layers):
            seen = sources(axis, seen)
        assert tuple(sorted(seen)) == tuple(pixel + moved for pixel in exact.pixels)


@given(st.lists(axes(ups=3), max_size=3))
def test_the_period_is_the_shortest(layers: list[Axis]) -> None:
    """No smaller number of outputs moves every layer of the chain by whole pixels."""

    def whole(outputs: int) -> bool:
        step = Fraction(outputs)
        for axis in reversed(layers):
            step *= Fraction(axis.stride, axis.up)
            if step.denominator != 1:
                return False
        return True

    assert whole(period(layers))
    assert not any(whole(fewer) for fewer in range(1, period(layers)))


@given(axes())
def test_sources_of_one_axis_are_what_its_outputs_read(axis: Axis) -> None:
    inside = {i for i in sources(axis, range(axis.out)) if 0 <= i < axis.size}
    read = {axis.source(o, k) for o in range(axis.out) for k in range(axis.kernel)}
    assert inside == read - {None}
