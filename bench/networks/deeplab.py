"""DeepLab v3 on ResNet-50 at output stride 8 (Chen et al., arXiv:1706.05587), with the auxiliary
head that it is trained with.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everyone writes it

from networks.resnet import Backbone

RATES = (12, 24, 36)


def convolution(ci: int, co: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """Convolution that keeps the size, batch normalisation, ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(ci, co, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(co),
        nn.ReLU(),
    )


class Pyramid(nn.Module):
    """Atrous spatial pyramid pooling: taps at three rates, one pixel, and the whole image."""

    def __init__(self, ci: int, co: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [convolution(ci, co, 1), *(convolution(ci, co, 3, rate) for rate in rates)]
        )
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), convolution(ci, co, 1))
        self.project = nn.Sequential(convolution(co * (len(rates) + 2), co, 1), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        whole = F.interpolate(
            self.pooled(x), size=x.shape[-2:], mode="bilinear", align_corners=False
        )
        return self.project(torch.cat([*(branch(x) for branch in self.branches), whole], 1))


class DeepLab(nn.Module):
    """Scores of each pixel; in training mode those of the auxiliary head too."""

    def __init__(self, backbone: Backbone, classes: int, inner: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Sequential(
            Pyramid(backbone.channels, inner, RATES),
            convolution(inner, inner, 3),
            nn.Conv2d(inner, classes, 1),
        )
        before = backbone.channels // 2
        self.auxiliary = nn.Sequential(
            convolution(before, before // 4, 3), nn.Dropout(0.1), nn.Conv2d(before // 4, classes, 1)
        )

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        size = x.shape[-2:]
        *_, third, last = self.backbone.stages(x)
        scores = _resized(self.head(last), size)
        if not self.training:
            return scores
        return scores, _resized(self.auxiliary(third), size)


def _resized(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def deeplab_v3(
    classes: int = 21,
    blocks: tuple[int, ...] = (3, 4, 6, 3),
    width: int = 64,
    inner: int = 256,
) -> DeepLab:
    """The network of 21 classes, or another."""
    backbone = Backbone(blocks, width, dilate=(False, False, True, True))
    return DeepLab(backbone, classes, inner)
