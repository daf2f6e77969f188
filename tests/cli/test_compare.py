"""konv compare: what it prints is right, what it draws is there, what it refuses is said."""

from __future__ import annotations

import json
import re
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import Result

QUICK = ("--no-time", "--no-figure")
KINDS = ["ordinary", "transposed", "dilated", "grouped", "separable"]


def found(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    parsed: dict[str, Any] = json.loads(result.stdout)
    return parsed


def by_kind(result: Result) -> dict[str, dict[str, Any]]:
    return {layer["kind"]: layer for layer in found(result)["layers"]}


def test_the_article_s_table(konv) -> None:
    """DK^2 M N and its kin, worked out here from the letters alone."""
    m, n, dk, df, a, g = 12, 20, 5, 32, 3, 4
    words = f"--in-channels {m} --out-channels {n} --kernel {dk} --dilation {a} --groups {g}"
    layers = by_kind(konv("compare", *QUICK, "--json", "--size", df, *words.split()))
    assert list(layers) == KINDS
    params = {
        "ordinary": dk * dk * m * n, "transposed": dk * dk * m * n, "dilated": dk * dk * m * n,
        "grouped": dk * dk * m * n // g, "separable": dk * dk * m + m * n,
    }  # fmt: skip
    for kind, layer in layers.items():
        assert layer["params"] == params[kind]
        assert layer["macs"] == params[kind] * df * df
        assert layer["exact_macs"] < layer["macs"]
        assert layer["out_shape"] == [1, n, *[2 * df if kind == "transposed" else df] * 2]
    fields = {kind: layer["receptive_field"] for kind, layer in layers.items()}
    assert fields["dilated"] == [a * (dk - 1) + 1] * 2
    assert fields["transposed"] == [3, 3]
    assert fields["ordinary"] == fields["grouped"] == fields["separable"] == [dk, dk]


@pytest.mark.parametrize(
    "words", ["", "--kernel 4 --stride 3", "--kernel 2 --padding 1 --groups 1"]
)
def test_the_printed_code_makes_this_very_layer(konv, words: str) -> None:
    """In PyTorch and in konv: same shape, same number of weights, same arguments."""
    import torch
    from torch import nn

    import konv as package

    for layer in by_kind(konv("compare", *QUICK, "--json", "--size", 20, *words.split())).values():
        module = eval(layer["code"]["torch"], {"nn": nn})
        x = torch.rand(layer["in_shape"])
        assert list(module(x).shape) == layer["out_shape"]
        weights = [parameter.detach() for parameter in module.parameters()]
        assert sum(weight.numel() for weight in weights) == layer["params"]
        names = ["weight"] if len(weights) == 1 else [f"weight{i + 1}" for i in range(len(weights))]
        space = {"konv": package, "x": x, **dict(zip(names, weights, strict=True))}
        exec(layer["code"]["konv"], space)
        torch.testing.assert_close(space["y"], module(x).detach(), rtol=1e-4, atol=1e-5)


def test_measured(konv) -> None:
    """Answers are checked before, and time, speed and ratio follow from each other."""
    result = found(konv("compare", "--no-figure", "--json", "--size", 24))
    peak = result["roofline"]["peak_flops"]
    for layer in result["layers"]:
        assert layer["checked"] == 1
        for layout in ("contiguous", "channels_last"):
            seconds, speed = layer["seconds"][layout], layer["flops_a_second"][layout]
            assert seconds > 0
            assert speed == pytest.approx(2 * layer["macs"] / seconds)
            assert layer["share_of_peak"][layout] == pytest.approx(speed / peak)
            assert layer["times_torch"][layout] == pytest.approx(
                layer["torch_seconds"][layout] / seconds
            )


def test_a_wrong_answer_is_not_timed(konv, monkeypatch: pytest.MonkeyPatch) -> None:
    from konv import functional

    right = functional.conv2d
    monkeypatch.setattr(functional, "conv2d", lambda *a, **k: right(*a, **k) + np.float32(0.01))
    result = konv("compare", "--no-figure", "--size", 24)
    assert result.exit_code == 2
    assert "is wrong by up to" in result.stderr


def test_text(konv) -> None:
    """Every part is there, plain, at most 80 columns wide."""
    result = konv("compare", *QUICK, "--size", 48)
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert result.stdout.isascii()
    for words in (
        "W2 = (W1 - 1) S - 2P + a(K - 1) + r + 1",
        "W2 = (48 - 1)*2 - 2*1 + (3 - 1) + 1 + 1 = 96",
        "DK^2 M N = 3^2 * 3 * 24 = 648",
        "a(DK - 1) + 1 = 2 * (3 - 1) + 1 = 5",
        "y = konv.conv2d(x, weight, padding=2, dilation=2)",
        "nn.Conv2d(3, 24, 3, padding=1, groups=3, bias=False)",
        "Nominal MACs count",
    ):
        assert words in result.stdout
    for network in (
        "AlexNet", "DCGAN", "FCN", "U-Net", "deconvnet", "DeepLab", "DUC/HDC", "SSD", "RFBNet",
        "ESPNet", "IGCV1", "MobileNet", "Xception",
    ):  # fmt: skip
        assert f"{network}: " in result.stdout


def test_text_of_times(konv) -> None:
    text = konv("compare", "--no-figure", "--size", 24).stdout
    assert re.search(r"of the peak +\d", text)
    assert re.search(r"speed-up +\d", text)
    assert "the MACs of ordinary" in text
    assert max(map(len, text.splitlines())) <= 80


def test_figure(konv, tmp_path: Path) -> None:
    """Large, and not blank: every row of it shows colours."""
    from PIL import Image

    result = konv("compare", "--no-time", "--size", 64, "--out", "figure.png")
    assert result.exit_code == 0, result.output
    assert "figure.png" in result.stdout
    with Image.open(tmp_path / "figure.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert min(pixels.shape[:2]) > 1000
    for band in np.array_split(pixels, 8):
        assert len(np.unique(band.reshape(-1, 3), axis=0)) > 20


@pytest.mark.parametrize(
    "words",
    [
        "--in-channels 64 --out-channels 128 --groups 32 --size 20",
        "--in-channels 1 --out-channels 2 --kernel 2 --stride 3 --image coffee --size 40",
    ],
)
def test_figure_of_unusual_layers(konv, tmp_path: Path, words: str) -> None:
    result = konv("compare", "--no-time", *words.split())
    assert result.exit_code == 0, result.output
    assert (tmp_path / "konv-compare.png").stat().st_size > 20_000


def test_no_figure_writes_nothing(konv, tmp_path: Path) -> None:
    konv("compare", *QUICK)
    assert not list(tmp_path.iterdir())


def test_an_image_of_one_s_own(konv, tmp_path: Path) -> None:
    """Grey, odd in size and turned by its camera: shown upright, its longer side resized."""
    from PIL import Image

    image = Image.new("L", (50, 30))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(tmp_path / "own.jpg", exif=exif)
    result = found(konv("compare", *QUICK, "--json", "--image", "own.jpg", "--size", 25))
    assert result["photograph"]["original_size"] == [50, 30]
    assert result["photograph"]["size"] == [25, 15]


def test_the_photograph_is_not_downloaded(konv, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("astronaut", "chelsea", "coffee"):
        assert konv("compare", *QUICK, "--image", name, "--size", 16).exit_code == 0


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 40])
def test_any_number_of_channels(konv, channels: int) -> None:
    result = konv("compare", *QUICK, "--json", "--in-channels", channels, "--size", 16)
    assert found(result)["layers"][0]["in_shape"][1] == channels
    assert found(result)["photograph"]["channels"]


def test_padding_that_changes_the_size_is_said(konv) -> None:
    """The article's warning: padding is not what keeps the size unless it follows the dilation."""
    layers = by_kind(konv("compare", *QUICK, "--json", "--padding", 1, "--dilation", 4))
    assert layers["dilated"]["out_shape"][2:] == [250, 250]
    assert layers["dilated"]["notes"] == [
        "padding 1 changes the size: before the stride it shrinks by 6; padding 4 keeps it"
    ]
    assert layers["ordinary"]["notes"] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--groups 5", "groups=5 does not divide in_channels=3"),
        ("--kernel 0", "kernel=0 is too small"),
        ("--image nowhere.jpg", "image='nowhere.jpg' cannot be read"),
        ("--kernel 40 --padding 0 --size 16", "kernel extent 40"),
        ("--out-channels 10000000000", "Use smaller images"),
        ("--size 1000000", "Use smaller images"),
        ("--out nowhere/figure.png", "there is no folder nowhere"),
        ("--out figure.word", "has no ending of an image"),
    ],
)
def test_errors(konv, tmp_path: Path, words: str, message: str) -> None:
    """One message on standard error, exit code 2, nothing printed and nothing left behind."""
    result = konv("compare", "--no-time", *words.split())
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("konv: ")
    assert result.stderr.count("\n") == 1
    assert not result.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("package", "words"), [("PIL", QUICK), ("matplotlib", ("--no-time",))])
def test_without_the_extra(
    konv, monkeypatch: pytest.MonkeyPatch, package: str, words: tuple[str, ...]
) -> None:
    """The message names the extra that brings what is missing."""
    for name in [*sys.modules]:
        if name.split(".")[0] == package:
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    result = konv("compare", *words)
    assert result.exit_code == 2
    assert 'pip install "konv[viz]"' in result.stderr


def test_without_the_photographs(konv, monkeypatch: pytest.MonkeyPatch) -> None:
    from konv.analyze import photograph

    monkeypatch.setattr(photograph, "find_spec", lambda _: None)
    result = konv("compare", *QUICK)
    assert result.exit_code == 2
    assert "--image" in result.stderr
