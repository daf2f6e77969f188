"""Counting: figures that papers and PyTorch agree on, and some that other tools get wrong."""

from __future__ import annotations

import pytest
from geometry.strategies import convs
from hypothesis import given

from konv.geometry import Conv


@pytest.mark.parametrize(
    ("line", "macs"),
    [
        ("tconv2d 1x3x2x2 o1 k2 s2", 48),  # thop says 192, ptflops once said 208
        ("tconv2d 1x32x1x1 o1 k3", 288),
        ("tconv2d 2x4x8x8 o6 k4 s2 p1", 49_152),
        ("tconv2d 2x4x8x8 o4 k3 s2 p1 r1 g4", 4_608),
        ("tconv2d 2x6x8x8 o6 k2 s2 g3", 6_144),
        ("conv2d 1x64x224x224 o64 k3 p1", 1_849_688_064),  # VGG-16 conv1_2
        ("conv2d 1x3x227x227 o96 k11 s4", 105_415_200),  # AlexNet conv1
    ],
)
def test_nominal_macs(line: str, macs: int) -> None:
    assert Conv.parse(line).macs == macs


M, N, DF, DK, G = 32, 64, 28, 3, 4


@pytest.mark.parametrize(
    ("lines", "params"),
    [
        ([f"conv2d 1x{M}x{DF}x{DF} o{N} k{DK} same"], DK**2 * M * N),
        ([f"conv2d 1x{M}x{DF}x{DF} o{N} k{DK} same g{G}"], DK**2 * M * N // G),
        ([f"conv2d 1x{M}x{DF}x{DF} o{N} k{DK} same d2"], DK**2 * M * N),
        (
            [
                f"conv2d 1x{M}x{DF}x{DF} o{M} k{DK} same g{M}",
                f"conv2d 1x{M}x{DF}x{DF} o{N} k1",
            ],
            DK**2 * M + M * N,
        ),
    ],
    ids=["ordinary", "grouped", "dilated", "depthwise separable"],
)
def test_the_table_of_the_four_convolutions(lines: list[str], params: int) -> None:
    """Stride 1, same size: each parameter is used once at each of the DF x DF positions."""
    convs = [Conv.parse(line) for line in lines]
    assert sum(conv.params for conv in convs) == params
    assert sum(conv.macs for conv in convs) == params * DF**2


def test_bytes_and_intensity_of_a_layer_done_by_hand() -> None:
    conv = Conv.parse("conv1d 2x3x10 o5 k3")
    assert conv.bytes == 4 * (2 * 3 * 10 + 5 * 3 * 3 + 2 * 5 * 8)
    assert conv.intensity == 2 * (2 * 5 * 3 * 3 * 8) / conv.bytes
    assert Conv.parse("conv1d 2x3x10 o5 k3 f16").bytes * 2 == conv.bytes
    assert Conv.parse("conv1d 2x3x10 o5 k3 f64").bytes == conv.bytes * 2


def test_exact_macs_leave_out_padding_and_only_that() -> None:
    assert Conv.parse("conv2d 1x1x3x3 o1 k3 p1").exact_macs == 7 * 7
    assert Conv.parse("conv2d 1x1x3x3 o1 k3 p1 replicate").exact_macs == 9 * 9
    assert Conv.parse("conv2d 1x1x5x5 o1 k3").exact_macs == 9 * 9
    # Rate as large as the image: only the middle tap ever meets it.
    assert Conv.parse("conv2d 1x1x9x9 o1 k3 p9 d9").exact_macs == 81


@given(convs())
def test_exact_macs_are_at_most_one_for_each_tap_and_output(conv: Conv) -> None:
    taps = [range(a.kernel) for a in conv.axes]
    most = conv.n * conv.co * conv.ci // conv.groups
    for axis, along in zip(conv.axes, taps, strict=True):
        most *= sum(
            axis.source(o, k, conv.mode) is not None for o in range(axis.out) for k in along
        )
    assert conv.exact_macs == most


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("conv2d 1x1x9x9 o1 k3x1", (3, 1)),
        ("conv2d 1x1x99x99 o1 k3 d2x12", (5, 25)),
        ("tconv1d 1x1x9 o1 k2 s2", (1,)),
        ("tconv1d 1x1x9 o1 k4 s2 p1", (2,)),
        ("tconv1d 1x1x9 o1 k3 s2", (2,)),
        ("tconv1d 1x1x9 o1 k1 s2", (1,)),
        ("tconv1d 1x1x9 o1 k5", (5,)),
    ],
)
def test_receptive_field(line: str, field: tuple[int, ...]) -> None:
    assert Conv.parse(line).receptive_field == field


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("conv2d 1x8x9x9 o8 k3", {"ordinary"}),
        ("conv2d 1x8x9x9 o8 k1", {"ordinary", "pointwise"}),
        ("conv2d 1x8x9x9 o8 k1 d2", {"ordinary", "pointwise"}),
        ("conv2d 1x8x9x9 o8 k3x1 d1x2", {"ordinary"}),
        ("conv2d 1x8x9x9 o8 k3 d2 g2", {"dilated", "grouped"}),
        ("conv2d 1x8x9x9 o16 k3 g8", {"depthwise"}),
        ("conv2d 1x1x9x9 o16 k3", {"ordinary"}),
        ("tconv2d 1x8x9x9 o8 k3 g8", {"transposed", "depthwise"}),
        ("tconv2d 1x8x9x9 o8 k1 s2", {"transposed", "pointwise"}),
        ("conv2d 1x8x9x9 o8 k3 u2", {"upsampled"}),
    ],
)
def test_kind(line: str, kind: set[str]) -> None:
    assert Conv.parse(line).kind == kind


@given(convs(modes=("zeros",)))
def test_kind_of_the_adjoint_differs_in_one_word(conv: Conv) -> None:
    """Grouped stays grouped (unless channel counts make it depthwise), dilated dilated."""
    words = {"dilated", "upsampled", "pointwise"}
    assert conv.kind & words == conv.adjoint().kind & words
    assert ("transposed" in conv.kind) != ("transposed" in conv.adjoint().kind)
