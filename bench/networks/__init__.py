"""Whole networks in plain torch.nn, written from their papers: what figures of networks are about.

Each has a small version of the same build, with a few channels, for tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from networks.dcgan import Generator
from networks.deeplab import deeplab_v3
from networks.mobilenet import MobileNetV2
from networks.resnet import resnet50, resnext50
from networks.unet import UNet


@dataclass(frozen=True, slots=True)
class Network:
    """A network at its published size and small; the shapes are those of one image.

    params    of the published one, as others count them
    training  the image of a training step, where the paper's own would take minutes
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    params: int
    small: Callable[[], nn.Module]
    small_shape: tuple[int, ...]
    training: tuple[int, ...]


NETWORKS = {
    "resnet50": Network(
        resnet50,
        (3, 224, 224),
        25_557_032,
        lambda: resnet50(blocks=(1, 2, 1, 1), width=8, classes=10),
        (3, 65, 65),
        (3, 224, 224),
    ),
    "resnext50_32x4d": Network(
        resnext50,
        (3, 224, 224),
        25_028_904,
        lambda: resnext50(blocks=(1, 1, 1, 1), width=16, groups=4, classes=10),
        (3, 65, 65),
        (3, 224, 224),
    ),
    "mobilenet_v2": Network(
        MobileNetV2,
        (3, 224, 224),
        3_504_872,
        lambda: MobileNetV2(scale=0.25, repeats=(1, 2, 1, 1, 1, 2, 1), last=40, classes=10),
        (3, 65, 65),
        (3, 224, 224),
    ),
    "unet": Network(
        lambda: UNet(1, 2),
        (1, 572, 572),
        31_030_658,
        lambda: UNet(1, 2, width=4),
        (1, 188, 188),
        (1, 188, 188),
    ),
    "dcgan_generator": Network(
        Generator,
        (100, 1, 1),
        3_576_704,
        lambda: Generator(noise=12, width=4),
        (12, 1, 1),
        (100, 1, 1),
    ),
    "deeplabv3_resnet50": Network(
        deeplab_v3,
        (3, 513, 513),
        42_004_074,
        lambda: deeplab_v3(classes=5, blocks=(1, 1, 2, 1), width=8, inner=16),
        (3, 65, 65),
        (3, 129, 129),
    ),
}
