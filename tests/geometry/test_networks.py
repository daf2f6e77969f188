"""The lists of networks in problems/ hold every convolution of the network, as often as it occurs:
their parameters and multiply-adds, with those of the layers that are none, are the published ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from konv.geometry import Conv, read_problems

FOLDER = Path(__file__).resolve().parents[2] / "problems"
Layer = tuple[str, int, Conv]  # name, how many of them, one of them


def network(name: str, wanted: Callable[[str], bool] = lambda _: True) -> list[Layer]:
    """The layers of a list whose names are wanted; "x3" at the end of a name: three of them."""
    layers = []
    for label, conv in read_problems((FOLDER / f"{name}.txt").read_text("utf-8")):
        many = re.search(r" x(\d+)$", label)
        layers.append((label, int(many[1]) if many else 1, conv))
    return [layer for layer in layers if wanted(layer[0])]


def params(layers: list[Layer], more: int = 0) -> int:
    """With `more` numbers for each output channel: 1 for a bias, 2 for batch normalisation."""
    return sum(many * (conv.params + more * conv.co) for _, many, conv in layers)


def macs(layers: list[Layer]) -> int:
    return sum(many * conv.macs for _, many, conv in layers)


def dense(*widths: int) -> int:
    """Parameters of fully connected layers, with bias."""
    return sum(a * b + b for a, b in pairwise(widths))


def dense_macs(*widths: int) -> int:
    return sum(a * b for a, b in pairwise(widths))


def test_alexnet() -> None:
    layers, classes = network("alexnet"), (9216, 4096, 4096, 1000)
    assert params(layers, 1) + dense(*classes) == 60_965_224
    assert macs(layers) + dense_macs(*classes) == 724_406_816


def test_vgg16() -> None:
    layers, classes = network("vgg16"), (25_088, 4096, 4096, 1000)
    assert params(layers, 1) + dense(*classes) == 138_357_544
    assert macs(layers) + dense_macs(*classes) == 15_470_264_320


@pytest.mark.parametrize(
    ("name", "features", "numbers", "multiplied"),
    [
        ("resnet50", 2048, 25_557_032, 4_089_184_256),
        ("resnext50", 2048, 25_028_904, pytest.approx(4.230e9, abs=0.5e6)),
        ("mobilenet_v2", 1280, 3_504_872, pytest.approx(0.301e9, abs=0.5e6)),
    ],
)
def test_networks_with_batch_normalisation(
    name: str, features: int, numbers: int, multiplied: int
) -> None:
    layers = network(name)
    assert params(layers, 2) + dense(features, 1000) == numbers
    assert macs(layers) + dense_macs(features, 1000) == multiplied


def test_efficientnet_b0() -> None:
    """Squeeze and excitation have a bias, the rest is normalised."""
    excited = network("efficientnet_b0", lambda name: " se " in name)
    others = network("efficientnet_b0", lambda name: " se " not in name)
    assert params(excited, 1) + params(others, 2) + dense(1280, 1000) == 5_288_548


def test_unet() -> None:
    layers = network("unet")
    assert params(layers, 1) == 31_030_658
    assert layers[-1][2].out_shape[2:] == (388, 388)


def test_dcgan() -> None:
    """The generator's last layer, the discriminator's first and last are not normalised."""
    for side, plain, numbers, multiplied in (
        ("G", ("G5",), 3_576_704, 104_628_224),
        ("D", ("D1", "D5"), 2_765_568, 103_817_216),
    ):
        layers = network("dcgan", lambda name, side=side: name.startswith(side))
        bare = [layer for layer in layers if layer[0] in plain]
        normalised = [layer for layer in layers if layer[0] not in plain]
        assert params(bare) + params(normalised, 2) == numbers
        assert macs(layers) == multiplied


def test_deeplab() -> None:
    classes = network("deeplab", lambda name: "classes" in name)
    others = network("deeplab", lambda name: "classes" not in name)
    assert params(classes, 1) + params(others, 2) == 42_004_074


def test_fcn() -> None:
    """134 million in table 1 of the paper: what is learned before images are enlarged."""
    layers = network("fcn", lambda name: not name.startswith(("32s", "16s", "8s")))
    assert round(params(layers, 1) / 1e6) == 134


def test_espnet() -> None:
    """0.364 million in the paper, normalisation and a slope for each activation included."""
    assert round(params(network("espnet"), 3) / 1e6, 2) == pytest.approx(0.36, abs=0.005)


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.txt")), ids=lambda file: str(file.stem))
def test_no_line_and_no_name_stands_twice_in_a_list(file: Path) -> None:
    """A name is how the shell chooses a line; an equal line belongs into the xN of the other."""
    found = read_problems(file.read_text("utf-8"))
    assert len({name for name, _ in found}) == len({conv for _, conv in found}) == len(found)
