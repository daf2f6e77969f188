"""One line of text and a Conv are inverse of each other, over the whole space."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
from geometry.strategies import convs, layers
from hypothesis import given
from hypothesis import strategies as st

from konv.errors import ProblemError
from konv.geometry import Conv, read_problems

LINES = [
    "conv2d 1x64x56x56 o128 k3 s2 p1 d2 g4",
    "tconv2d 1x512x8x8 o256 k4 s2 p1 r1",
    "conv1d 8x16x100 o32 k5 p4:0 f16 reflect",
    "conv2d 1x8x9x9 o8 k3x5 s1x2 p1x2",
    "conv2d 1x8x9x9 o8 k3 p0:1x2:2",
    "conv2d 1x8x9x9 o8 k3 p-1",
    "conv2d 1x8x9x9 o8 k3 p-1:2",
    "conv3d 0x1x5x5x5 o1 k1 bf16 circular",
    "conv1d 1x1x9 o1 k3 u2 f64",
    "tconv1d 1x1x9 o1 k3 s2 u3",
    "tconv3d 1x4x4x4x4 o4 k3x1x1 s2x1x1 p1x0x0 r1x0x0 g4",
]


@pytest.mark.parametrize("line", LINES)
def test_lines_that_are_written_as_they_are_read(line: str) -> None:
    assert str(Conv.parse(line)) == line


@given(convs())
def test_parse_is_the_inverse_of_str(conv: Conv) -> None:
    assert Conv.parse(str(conv)) == conv


@given(convs(modes=("zeros",)))
def test_and_so_it_is_for_gradients_of_gradients(conv: Conv) -> None:
    seen = [conv.adjoint(), conv.adjoint().adjoint()]
    if conv.n:
        gradient = conv.weight_adjoint()
        seen += [gradient, gradient.adjoint(), gradient.weight_adjoint()]
    for other in seen:
        assert Conv.parse(str(other)) == other


@given(layers())
def test_layers_that_users_write_need_no_u(conv: Conv) -> None:
    assert not any(token.startswith("u") for token in str(conv).split())


@given(convs(), st.randoms())
def test_tokens_may_stand_in_any_order(conv: Conv, chance: random.Random) -> None:
    tokens = str(conv).split()
    chance.shuffle(tokens)
    assert Conv.parse("  ".join(["", *tokens, ""])) == conv


def test_defaults_may_be_written_out() -> None:
    short, long = "conv2d 1x8x9x9 o8 k3", "conv2d 1x8x9x9 o8 k3x3 s1 p0:0 r0 d1x1 u1 g1 f32 zeros"
    assert Conv.parse(long) == Conv.parse(short)


@pytest.mark.parametrize(
    ("name", "padding"), [("same", "p1:2"), ("valid", ""), ("causal", "p3:0"), ("p3:0", "p3:0")]
)
def test_padding_by_name_is_read_and_written_as_numbers(name: str, padding: str) -> None:
    line = f"conv1d 1x1x9 o1 k4 {padding}".strip()
    assert str(Conv.parse(f"conv1d 1x1x9 o1 k4 {name}")) == line


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "'' has no token such as 'conv2d'"),
        ("conv2d o8 k3", "'conv2d o8 k3' has no token such as '1x64x56x56'"),
        ("conv1d 1x1x9 k3", "'conv1d 1x1x9 k3' has no token such as 'o128'"),
        ("conv1d 1x1x9 o1", "'conv1d 1x1x9 o1' has no token such as 'k3'"),
        ("conv4d 1x1x9 o1 k3", "'conv4d' is not a token"),
        ("conv1d 1x1x9 o1 k3 s2.5", "'s2.5' is not a token"),
        ("conv1d 1x1x9 o1 k3 s-1", "'s-1' is not a token"),
        ("conv1d 1x1x9 o1 k3 z1", "'z1' is not a token: write a letter of o k s p d r g u and"),
        ("conv1d 1x1x9 o1 k3 k5", "'k5' says again what 'k3' says"),
        ("conv1d 1x1x9 o1 k3 p1 same", "'same' says again what 'p1' says"),
        ("conv1d 1x1x9x9 o1 k3", "'1x1x9x9' must have 3 values for conv1d"),
        ("conv2d 1x1x9x9 o1 k3x3x3", "'k3x3x3' must have 1 or 2 values"),
        ("conv2d 1x1x9x9 o1 k3 p1:2x1:2x1:2", "'p1:2x1:2x1:2' must have 1 or 2 values"),
    ],
)
def test_bad_text_names_the_token_the_rule_and_an_example(line: str, message: str) -> None:
    with pytest.raises(ProblemError) as raised:
        Conv.parse(line)
    assert message in str(raised.value)
    assert str(raised.value).endswith("Example: 'conv2d 1x64x56x56 o128 k3 s2 p1'.")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("conv2d 1x64x8x8 o128 k3 g3", "groups=3 does not divide in_channels=64"),
        ("conv1d 1x1x2 o1 k3", "W axis: kernel extent 3"),
        ("conv1d 1x1x2 o1 k1 r1", "output_padding=1 is for transposed convolutions only"),
        ("tconv1d 1x1x2 o1 k1 s2 same", "padding='same' is undefined for a transposed"),
        (f"conv1d 1x1x{10**30} o1 k1", "does not fit in 63 bits"),
    ],
)
def test_well_written_lines_keep_the_rules_of_convolutions(line: str, message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        Conv.parse(line)


def test_only_text_is_parsed() -> None:
    with pytest.raises(TypeError, match="must be a line of text, got int"):
        Conv.parse(3)  # type: ignore[arg-type]


@given(st.text(alphabet="tconv123dx okspgru:-#f64 ", max_size=30))
def test_any_text_is_a_conv_or_a_problem_error(line: str) -> None:
    with suppress(ProblemError):
        Conv.parse(line)


def test_read_problems_takes_names_from_comments() -> None:
    text = "\n# a list\n\nconv1d 1x1x9 o1 k3  # first\n  conv1d 1x1x9 s1 o1 k5\n"
    assert read_problems(text) == [
        ("first", Conv.parse("conv1d 1x1x9 o1 k3")),
        ("conv1d 1x1x9 o1 k5", Conv.parse("conv1d 1x1x9 o1 k5")),
    ]


def test_read_problems_names_the_line_of_an_error() -> None:
    with pytest.raises(ProblemError, match=r"^line 2: 'nonsense' is not a token"):
        read_problems("conv1d 1x1x9 o1 k3\nnonsense\n")
