"""konv explain: the numbers of the problem, the plans, the limits, the code."""

from __future__ import annotations

import json

import pytest

from konv.geometry import Conv
from konv.runtime.roofline import measure

LINE = "conv2d 1x64x56x56 o128 k3 s2 p1"


def test_json(konv) -> None:
    """What Conv says, and what follows from the roofline."""
    found = json.loads(konv("explain", *LINE.split(), "--json").stdout)
    conv = Conv.parse(LINE)
    assert found["conv"] == LINE
    assert found["out_shape"] == list(conv.out_shape)
    assert (found["params"], found["macs"], found["exact_macs"]) == (73728, 57802752, 56434688)
    assert sum(found["bytes"].values()) == conv.bytes
    assert found["formula"] == conv.formula().splitlines()
    assert set(found["plans"]) == {"contiguous", "channels_last"}
    for road in found["plans"].values():
        assert found["algorithms"][road["plan"]["algorithm"]] is None
        assert road["threads"] >= 1
        assert road["packed_weight_bytes"] >= 4 * conv.params
    times = {
        "compute": 2 * conv.exact_macs / found["roofline"]["peak_flops"],
        "memory": conv.bytes / found["roofline"]["bandwidth"],
    }
    assert found["best_seconds"] == pytest.approx(max(times.values()))
    assert times[found["bound"]] == max(times.values())
    assert found["seconds"] is None


def test_quoted_and_unquoted_are_the_same(konv) -> None:
    plain = [konv("explain", *words, "--json").stdout for words in (LINE.split(), [LINE])]
    assert plain[0] == plain[1]


@pytest.mark.parametrize(
    "line",
    [
        LINE,
        "tconv2d 1x16x8x8 o8 k4 s2 p1",
        "conv1d 2x8x100 o16 k5 p4:0 f64 reflect",
        "conv3d 1x4x5x6x7 o8 k3 p1 g4",
        "conv2d 1x4x9x9 o4 k3 u2 p-1:2",
    ],
)
def test_time(konv, line: str) -> None:
    """Of every kind, in both layouts; the notation's odder corners too."""
    result = konv("explain", line, "--time")
    assert result.exit_code == 0, result.output
    assert "of the roofline" in result.stdout
    assert "GFLOP/s" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_every_algorithm_has_its_say(konv) -> None:
    from konv.kernels import ALGORITHMS

    text = konv("explain", LINE).stdout
    for algorithm in ALGORITHMS:
        assert f"\n  {algorithm.name}  " in text
    assert "can do it" in text


def test_memory_bound_and_compute_bound(konv) -> None:
    """A sum of two arrays' worth of work, and one of a thousand times as much."""
    for line, limit in (
        ("conv2d 1x1024x64x64 o1024 k1 g1024", "memory"),
        ("conv2d 1x512x28x28 o512 k3 p1", "compute"),
    ):
        assert json.loads(konv("explain", line, "--json").stdout)["bound"] == limit


@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
def test_code(konv, layout: str) -> None:
    """IR and assembly alone on standard output, for other programs to read."""
    line = "conv2d 1x16x9x9 o16 k3"
    ir = konv("explain", line, "--ir", "--layout", layout).stdout
    assert ir.startswith("; ModuleID")
    assert "define void @run(" in ir
    assembly = konv("explain", line, "--asm", "--layout", layout).stdout
    assert ".globl\trun" in assembly


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("conv2d 1x64x56x56 k3", "has no token such as 'o128'"),
        ("conv2d 1x64x56x56 o128 k3 g3", "Use 1, 2, 4, 8, 16, 32 or 64."),
        ("conv2d 1x64x56x56 o128 k3 z9", "'z9' is not a token"),
        ("conv2d 1x64x56x56 o128 k3 --asm --layout NHCW", "layout='NHCW' is unknown"),
        ("conv1d 1x1x1000000000000 o1 k3 --time", "Use smaller images"),
    ],
)
def test_errors(konv, words: str, message: str) -> None:
    result = konv("explain", *words.split())
    assert result.exit_code == 2
    assert message in result.stderr
    assert not result.stdout


def test_an_image_larger_than_the_memory_is_explained(konv) -> None:
    """Geometry has no limit; only measuring needs the arrays."""
    result = konv("explain", "conv1d 1x1x1000000000000 o1 k3")
    assert result.exit_code == 0
    assert "999999999998" in result.stdout


def test_float64_has_its_own_roofline() -> None:
    single, double = measure(1), measure(1, "float64")
    assert 0.2 < double.peak_flops / single.peak_flops < 1.1
