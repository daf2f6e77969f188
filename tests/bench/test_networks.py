"""The networks of bench/networks: as large as the published ones, and of the published output."""

from __future__ import annotations

import pytest
import torch
from networks import NETWORKS
from networks.unet import UNet

every_network = pytest.mark.parametrize("name", NETWORKS)
OUTPUTS = {
    "unet": (2, 388, 388),
    "dcgan_generator": (3, 64, 64),
    "deeplabv3_resnet50": (21, 513, 513),
}


@every_network
def test_parameters_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        model = NETWORKS[name].build()
    assert sum(p.numel() for p in model.parameters()) == NETWORKS[name].params


@pytest.mark.parametrize(("ci", "co", "params"), [(1, 1, 31_030_593), (3, 1, 31_031_745)])
def test_unets_of_other_images(ci: int, co: int, params: int) -> None:
    with torch.device("meta"):
        model = UNet(ci, co)
    assert sum(p.numel() for p in model.parameters()) == params


@every_network
def test_the_output_has_the_published_shape(name: str) -> None:
    with torch.device("meta"):
        model = NETWORKS[name].build().eval()
        y = model(torch.empty(2, *NETWORKS[name].shape))
    assert y.shape == (2, *OUTPUTS.get(name, (1000,)))


@every_network
def test_the_small_ones_are_of_the_same_layers(name: str) -> None:
    network = NETWORKS[name]
    with torch.device("meta"):
        whole, small = network.build(), network.small()
        y = small.eval()(torch.empty(2, *network.small_shape))
    assert {type(m) for m in whole.modules()} == {type(m) for m in small.modules()}
    assert y.shape[0] == 2
    assert sum(p.numel() for p in small.parameters()) < network.params / 20
