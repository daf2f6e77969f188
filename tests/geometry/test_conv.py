"""The problem object: shapes, rules, adjoints, and the errors at the edge."""

from __future__ import annotations

import pickle
from dataclasses import replace
from math import prod

import pytest
from geometry.strategies import convs, layers
from hypothesis import given
from hypothesis import strategies as st

from konv.errors import ProblemError, UnsupportedError
from konv.geometry import Axis, Conv


@pytest.mark.parametrize(
    ("arguments", "out"),
    [
        # The four examples of the article that konv was founded on; input 1x1x5x5 (or 1x4x5x5).
        ({"co": 1, "kernel": 2, "stride": 2, "padding": 1}, (1, 1, 3, 3)),
        ({"co": 1, "kernel": 2, "transposed": True}, (1, 1, 6, 6)),
        ({"co": 1, "kernel": 2, "stride": 2, "padding": 2, "dilation": 2}, (1, 1, 4, 4)),
        (
            {
                "in_shape": (1, 4, 5, 5),
                "co": 2,
                "kernel": 2,
                "stride": 2,
                "padding": 2,
                "groups": 2,
            },
            (1, 2, 4, 4),
        ),
        # Layers of papers.
        ({"in_shape": (1, 3, 227, 227), "co": 96, "kernel": 11, "stride": 4}, (1, 96, 55, 55)),
        (
            {"in_shape": (1, 3, 224, 224), "co": 64, "kernel": 7, "stride": 2, "padding": 3},
            (1, 64, 112, 112),
        ),
        (
            {"in_shape": (1, 21, 7, 7), "co": 21, "kernel": 64, "stride": 32, "transposed": True},
            (1, 21, 256, 256),
        ),
        (
            {
                "in_shape": (1, 4, 4, 4),
                "co": 4,
                "kernel": 3,
                "stride": 2,
                "padding": 1,
                "output_padding": 1,
                "transposed": True,
            },
            (1, 4, 8, 8),
        ),
    ],
)
def test_output_shapes(arguments: dict[str, object], out: tuple[int, ...]) -> None:
    conv = Conv.of(**({"in_shape": (1, 1, 5, 5)} | arguments))  # type: ignore[arg-type]
    assert conv.out_shape == out


def test_weight_is_stored_as_in_pytorch() -> None:
    ordinary = Conv.of((2, 6, 9, 9), 4, (3, 5), groups=2)
    assert ordinary.weight_shape == (4, 3, 3, 5)
    transposed = Conv.of((2, 6, 9, 9), 4, (3, 5), groups=2, transposed=True)
    assert transposed.weight_shape == (6, 2, 3, 5)


@given(convs(modes=("zeros",)))
def test_adjoint_takes_the_output_to_the_input_with_the_same_weight(conv: Conv) -> None:
    adjoint = conv.adjoint()
    assert (adjoint.in_shape, adjoint.out_shape) == (conv.out_shape, conv.in_shape)
    assert adjoint.weight_shape == conv.weight_shape
    assert adjoint.transposed != conv.transposed
    assert adjoint.adjoint().adjoint() == adjoint
    unread = [replace(a, hi=b.hi) for a, b in zip(conv.axes, adjoint.adjoint().axes, strict=True)]
    assert adjoint.adjoint() == replace(conv, axes=tuple(unread))


@given(convs(modes=("zeros",)))
def test_weight_adjoint_has_the_shapes_it_promises(conv: Conv) -> None:
    if conv.n == 0:
        with pytest.raises(ProblemError, match="batch=0 has a weight gradient of zeros"):
            conv.weight_adjoint()
        return
    gradient, g = conv.weight_adjoint(), conv.groups
    x = (conv.ci // g, conv.n, *conv.in_shape[2:])
    dy = (conv.co // g, conv.n, *conv.out_shape[2:])
    data, weight = (dy, x) if conv.transposed else (x, dy)
    assert (gradient.in_shape, gradient.weight_shape) == (data, weight)
    stored_as = (conv.weight_shape[0] // g, *conv.weight_shape[1:])
    assert gradient.out_shape == (stored_as[1], stored_as[0], *stored_as[2:])
    assert gradient.groups == 1
    assert not gradient.transposed


@given(convs(modes=("zeros",)))
def test_multiply_adds_are_equal_in_the_three_directions(conv: Conv) -> None:
    assert conv.macs == conv.adjoint().macs
    assert conv.exact_macs == conv.adjoint().exact_macs
    if conv.n:
        assert conv.macs == conv.groups * conv.weight_adjoint().macs
        assert conv.exact_macs == conv.groups * conv.weight_adjoint().exact_macs


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_other_padding_modes_have_no_adjoint_but_a_padded_form(mode: str) -> None:
    conv = Conv.parse(f"conv2d 1x8x9x9 o4 k3 s2 p1 {mode}")
    with pytest.raises(UnsupportedError, match="folds the gradient of the padded input"):
        conv.adjoint()
    assert str(conv.padded()) == "conv2d 1x8x11x11 o4 k3 s2"
    assert conv.padded().out_shape == conv.out_shape
    assert conv.weight_adjoint().mode == mode  # it reads x as the layer does


@given(convs())
def test_padded_reads_no_padding(conv: Conv) -> None:
    padded = conv.padded()
    assert (padded.out_shape, padded.mode) == (conv.out_shape, "zeros")
    assert all(axis.overhang() == (0, 0) for axis in padded.axes)


@given(layers(), st.integers(0, 5))
def test_with_batch_and_with_size_keep_the_layer(conv: Conv, n: int) -> None:
    sizes = tuple(a.size + 3 for a in conv.axes)
    other = conv.with_batch(n).with_size(*sizes)
    assert other.in_shape == (n, conv.ci, *sizes)
    assert other.weight_shape == conv.weight_shape
    # The same numbers written for the larger image: only batch and size differ in the text.
    words = str(conv).split()
    words[1] = "x".join(map(str, other.in_shape))
    assert Conv.parse(" ".join(words)) == other


def test_with_size_needs_a_size_for_each_axis() -> None:
    with pytest.raises(ProblemError, match=r"with_size\(5,\) needs 2 sizes"):
        Conv.of((1, 1, 5, 5), 1, 3).with_size(5)


@given(convs())
def test_a_conv_is_a_value(conv: Conv) -> None:
    assert pickle.loads(pickle.dumps(conv)) == conv
    assert hash(replace(conv)) == hash(conv)
    assert conv.params == prod(conv.weight_shape)


def test_an_empty_batch_is_valid() -> None:
    conv = Conv.of((0, 3, 8, 8), 4, 3)
    assert (conv.out_shape, conv.macs, conv.exact_macs) == ((0, 4, 6, 6), 0, 0)


def test_integers_of_other_libraries_are_integers() -> None:
    class Index:
        def __index__(self) -> int:
            return 3

    conv = Conv.of((1, Index(), 8, 8), Index(), Index(), (Index(), 1))  # type: ignore[arg-type]
    assert conv == Conv.of((1, 3, 8, 8), 3, 3, (3, 1))
    assert all(type(value) is int for value in (conv.ci, conv.co, conv.axes[0].stride))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"in_shape": (1, 64, 8, 8), "co": 128, "groups": 3},
            "groups=3 does not divide in_channels=64 (Conv2d 64->128). "
            "Use 1, 2, 4, 8, 16, 32 or 64.",
        ),
        (
            {"in_shape": (1, 4, 8), "co": 6, "groups": 4, "transposed": True},
            "groups=4 does not divide out_channels=6 (ConvTranspose1d 4->6). Use 1 or 2.",
        ),
        (
            {"kernel": 7},
            "H axis: kernel extent 7 (kernel=7, dilation=1) exceeds the padded input of 5 "
            "(size=5, padding 0 + 0). Use size >= 7 or padding lo + hi >= 2.",
        ),
        (
            {"kernel": (1, 2), "transposed": True, "padding": (0, 3)},
            "W axis: padding 3 + 3 crops the 6 pixels of the transposed convolution (size=5, "
            "kernel=2, stride=1, dilation=1) to nothing. Use padding lo + hi <= 5 or size >= 6.",
        ),
        (
            {"output_padding": 1},
            "H axis: output_padding=1 is for transposed convolutions only. Use output_padding=0, "
            "or a (lo, hi) padding pair to lengthen the output.",
        ),
        (
            {"transposed": True, "stride": 2, "output_padding": 2},
            "H axis: output_padding=2 must be >= 0 and smaller than stride=2 or dilation=1. "
            "Use at most 1.",
        ),
        (
            {"stride": (1, 2, 3)},
            "stride=(1, 2, 3) has 3 values for 2 spatial axes. Use one integer, or 2 in a tuple.",
        ),
        ({"stride": 0}, "stride=0 is too small: stride must be >= 1."),
        ({"co": 0}, "out_channels=0 is too small: out_channels must be >= 1."),
        ({"groups": 0}, "groups=0 is too small: groups must be >= 1."),
        ({"in_shape": (-1, 1, 5)}, "batch=-1 is too small: batch must be >= 0."),
        ({"in_shape": (1, 1, 0)}, "spatial size=0 is too small: spatial size must be >= 1."),
        (
            {"in_shape": (1, 5)},
            "in_shape=(1, 5) has 2 dimensions. Use (batch, channels) and 1, 2 or 3 spatial sizes.",
        ),
        (
            {"dtype": "int8"},
            "dtype='int8' is unknown. Use 'float32', 'float64', 'float16', 'bfloat16'.",
        ),
        (
            {"padding_mode": "mirror"},
            "padding_mode='mirror' is unknown. Use 'zeros', 'reflect', 'replicate', 'circular'.",
        ),
        (
            {"in_shape": (2**31, 2**31, 5, 5)},
            f"input of shape ({2**31}, {2**31}, 5, 5) has more bytes than fit in 63 bits. "
            "Use a smaller batch, fewer channels or a smaller image.",
        ),
    ],
)
def test_what_cannot_be_says_field_value_rule_and_way_out(
    arguments: dict[str, object], message: str
) -> None:
    usual: dict[str, object] = {"in_shape": (1, 1, 5, 5), "co": 1, "kernel": 1}
    with pytest.raises(ProblemError) as raised:
        Conv.of(**(usual | arguments))  # type: ignore[arg-type]
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("name", "shape", "co"),
    [
        ("input", (2**30, 2**30, 1), 1),
        ("weight", (1, 2**30, 1), 2**30),
        ("output", (2**30, 1, 1), 2**30),
    ],
)
def test_arrays_may_have_63_bits_of_bytes_and_no_more(
    name: str, shape: tuple[int, ...], co: int
) -> None:
    """2**60 numbers of 4 bytes fit, the same of 8 are one byte too many."""
    Conv.of(shape, co, 1)
    with pytest.raises(ProblemError, match=f"^{name} of shape"):
        Conv.of(shape, co, 1, dtype="float64")


@pytest.mark.parametrize("wrong", [True, 1.0, "1", None, {1: 1}.items])
@pytest.mark.parametrize(
    "field", ["co", "kernel", "stride", "dilation", "groups", "output_padding"]
)
def test_wrong_types_are_type_errors_that_name_the_field(field: str, wrong: object) -> None:
    usual: dict[str, object] = {"in_shape": (1, 1, 5, 5), "co": 1, "kernel": 1, "transposed": True}
    name = {"co": "out_channels"}.get(field, field)
    with pytest.raises(TypeError, match=f"^{name} must be an integer, got "):
        Conv.of(**(usual | {field: wrong}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axes": (Axis(5, 3), 5)}, "axes must be a tuple of Axis"),
        ({"axes": Axis(5, 3)}, "axes must be a tuple of Axis"),
        ({"transposed": 1}, "transposed must be True or False, got 1"),
        ({"dtype": 4}, "dtype must be a name such as 'float32', got 4"),
        ({"mode": None}, "padding_mode must be a string, got None"),
        ({"ci": 1.0}, "in_channels must be an integer, got 1.0"),
    ],
)
def test_wrong_types_of_the_fields_themselves(change: dict[str, object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        replace(Conv(1, 1, 1, (Axis(5, 3),)), **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 4])
def test_one_to_three_axes(count: int) -> None:
    with pytest.raises(ProblemError, match=f"axes has {count} entries"):
        Conv(1, 1, 1, (Axis(5, 3),) * count)


def test_a_shape_must_be_one() -> None:
    for wrong in (5, "1x1x5"):
        with pytest.raises(TypeError, match="in_shape must be a tuple of integers"):
            Conv.of(wrong, 1, 3)  # type: ignore[arg-type]
