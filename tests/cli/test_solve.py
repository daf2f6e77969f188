"""konv solve: one unknown, whichever it is."""

from __future__ import annotations

import json

import pytest

from konv.geometry import Conv


@pytest.mark.parametrize(
    ("words", "unknown", "values"),
    [
        ("--out 28 --size 56 --kernel 3 --stride 2", "padding", [1]),
        ("--out 28 --kernel 3 --stride 2 --padding 1", "size", [55, 56]),
        ("--out 56 --size 56 --padding 1", "kernel", [3]),
        ("--size 56 --kernel 3 --stride 2 --padding 1", "out", [28]),
        ("--out ? --size 56 --kernel 3", "out", [54]),
        ("--out 28 --size 56 --kernel 3 --padding 1 --stride ?", "stride", [2]),
        ("--out 56 --size 56 --kernel 3 --dilation 4 --padding ?", "padding", [4]),
        ("--out 52 --size 56 --kernel 3 --dilation ?", "dilation", [2]),
        ("--transposed --out 64 --size 32 --kernel 4 --stride 2", "padding", [1]),
        (
            "--transposed --out 16 --size 8 --kernel 3 --stride 2 --padding 1 --output-padding ?",
            "output_padding",
            [1],
        ),
    ],
)
def test_solved(konv, words: str, unknown: str, values: list[int]) -> None:
    """The values, and a formula in which they give the size that was asked for."""
    found = json.loads(konv("solve", *words.split(), "--json").stdout)
    assert (found["unknown"], found["values"]) == (unknown, values)
    assert (found["least"], found["greatest"]) == (values[0], values[-1])
    numbers = found["known"] | {unknown: values[0]}
    out, size = numbers.pop("out"), numbers.pop("size")
    conv = Conv.of((1, 1, size), 1, **numbers, transposed=found["transposed"])
    assert conv.out_shape[2] == out
    text = konv("solve", *words.split()).stdout
    assert text.startswith(f"{unknown.replace('_', '-')} = {' or '.join(map(str, values))}  ")
    assert conv.formula() in text


def test_many_values_are_not_all_listed(konv) -> None:
    """Any stride that leaves one output."""
    result = konv("solve", *["--out", "1", "--size", "5", "--kernel", "3", "--stride", "?"])
    assert result.stdout.startswith("stride = 3 to 1,099,511,627,776")
    found = json.loads(
        konv(
            "solve", *["--out", "1", "--size", "5", "--kernel", "3", "--stride", "?", "--json"]
        ).stdout
    )
    assert len(found["values"]) == 1000
    assert found["greatest"] == 2**40


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--out 30 --size 56 --kernel 3 --padding 1 --stride ?", "Nearest: stride=2 gives 28"),
        ("--out ? --size ?", "out and size are all ?"),
        ("--out 28 --stride two", "size is asked for, and kernel is not given"),
        ("--size 56", "out is asked for, and kernel is not given"),
        ("--out 28 --size 56 --kernel three", "kernel='three' is no whole number"),
        ("--out 28 --size 56 --kernel 3 --padding 1", "no number is unknown"),
        ("--out 0 --size 56 --kernel 3", "out=0 is too small"),
        ("--out ? --size 2 --kernel 3", "kernel extent 3"),
        ("--out 9 --size 4 --kernel 3 --output-padding 1", "transposed convolutions only"),
    ],
)
def test_errors(konv, words: str, message: str) -> None:
    result = konv("solve", *words.split())
    assert result.exit_code == 2
    assert message in result.stderr
    assert not result.stdout
