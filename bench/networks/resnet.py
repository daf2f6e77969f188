"""ResNet-50 (He et al., arXiv:1512.03385) and ResNeXt-50 32x4d (Xie et al., arXiv:1611.05431).

As they are usually trained: the stride of a block stands in its 3x3 convolution, and no convolution
has a bias. `dilate` keeps the size of the last stages and widens their taps instead (Chen et al.,
arXiv:1706.05587).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

EXPANSION = 4  # channels of a block's result over those of its 3x3


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up, and the input added: projected where its shape differs."""

    def __init__(
        self, ci: int, width: int, inner: int, stride: int, dilation: int, groups: int
    ) -> None:
        super().__init__()
        co = width * EXPANSION
        self.conv1 = nn.Conv2d(ci, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(
            inner, inner, 3, stride, dilation, dilation=dilation, groups=groups, bias=False
        )
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, co, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(co)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or ci != co:
            self.downsample = nn.Sequential(
                nn.Conv2d(ci, co, 1, stride, bias=False), nn.BatchNorm2d(co)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class Backbone(nn.Module):
    """All of a ResNet up to its last stage; `channels` of that are given as an attribute."""

    def __init__(
        self,
        blocks: tuple[int, ...] = (3, 4, 6, 3),
        width: int = 64,
        groups: int = 1,
        group_width: int | None = None,
        dilate: tuple[bool, ...] = (False, False, False, False),
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        ratio = 1.0 if group_width is None else group_width * groups / width
        self.channels, dilation = width, 1
        for stage, count in enumerate(blocks):
            wide, stride, before = width * 2**stage, 1 if stage == 0 else 2, dilation
            if dilate[stage]:
                dilation, stride = dilation * stride, 1
            layers = []
            for block in range(count):
                first = block == 0
                layers.append(
                    Bottleneck(
                        self.channels,
                        wide,
                        int(wide * ratio),
                        stride if first else 1,
                        before if first else dilation,
                        groups,
                    )
                )
                self.channels = wide * EXPANSION
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))

    def stages(self, x: Tensor) -> Iterator[Tensor]:
        """The result of each of the four stages."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            yield x

    def forward(self, x: Tensor) -> Tensor:
        *_, last = self.stages(x)
        return last


class ResNet(Backbone):
    """The classifier."""

    def __init__(self, classes: int = 1000, **backbone: object) -> None:
        super().__init__(**backbone)  # type: ignore[arg-type]
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(self.channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.avgpool(super().forward(x)), 1))


def resnet50(**changes: object) -> ResNet:
    """ResNet-50, or with `changes` of it."""
    return ResNet(**changes)  # type: ignore[arg-type]


def resnext50(**changes: object) -> ResNet:
    """ResNeXt-50 with 32 groups of 4 channels, or with `changes` of it."""
    return ResNet(**({"groups": 32, "group_width": 4} | changes))  # type: ignore[arg-type]
