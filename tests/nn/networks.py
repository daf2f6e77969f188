"""Small networks of the four families, written once, of PyTorch's layers or of konv's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """A residual block of ResNet."""

    def __init__(self, layers: Any, ci: int, co: int, stride: int) -> None:
        super().__init__()
        self.first = layers.Conv2d(ci, co, 3, stride, 1, bias=False)
        self.second = layers.Conv2d(co, co, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(co), nn.BatchNorm2d(co)])
        self.short = layers.Conv2d(ci, co, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[0](self.first(x)).relu()
        return (self.norms[1](self.second(y)) + self.short(x)).relu()


def resnet(layers: Any) -> nn.Module:
    return nn.Sequential(
        layers.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.MaxPool2d(3, 2, 1), Block(layers, 16, 16, 1), Block(layers, 16, 24, 2), _head(24),
    )  # fmt: skip


def mobilenet(layers: Any) -> nn.Module:
    """Inverted bottlenecks: pointwise, depthwise, pointwise."""
    parts: list[nn.Module] = [layers.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)]
    for stride in (1, 2):
        parts += [
            layers.Conv2d(16, 48, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU6(),
            layers.Conv2d(48, 48, 3, stride, 1, groups=48, bias=False), nn.BatchNorm2d(48),
            nn.ReLU6(), layers.Conv2d(48, 16, 1, bias=False), nn.BatchNorm2d(16),
        ]  # fmt: skip
    return nn.Sequential(*parts, _head(16))


class UNet(nn.Module):
    """Down, up by a transposed convolution, and the shortcut across; a number per image."""

    def __init__(self, layers: Any) -> None:
        super().__init__()
        self.into = layers.Conv2d(3, 16, 3, padding=1, padding_mode="reflect")
        self.down = layers.Conv2d(16, 32, 3, stride=2, padding=1)
        self.low = layers.Conv2d(32, 32, 3, padding=2, dilation=2)
        self.up = layers.ConvTranspose2d(32, 16, 2, stride=2)
        self.out = layers.Conv2d(32, 10, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        high = self.into(x).relu()
        up = self.up(self.low(self.down(high).relu()).relu())
        return self.out(torch.cat([high, up], 1).relu()).mean((2, 3))


def dcgan(layers: Any) -> nn.Module:
    """A generator and a discriminator, as one."""
    return nn.Sequential(
        layers.Conv2d(3, 16, 8, 8), layers.ConvTranspose2d(16, 32, 4), nn.BatchNorm2d(32),
        nn.ReLU(), layers.ConvTranspose2d(32, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
        layers.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh(),
        layers.Conv2d(3, 16, 4, 2, 1), nn.LeakyReLU(0.2), _head(16),
    )  # fmt: skip


def _head(channels: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


NETWORKS = {"resnet": resnet, "mobilenet": mobilenet, "unet": UNet, "dcgan": dcgan}


def losses(layers: Any, name: str, steps: int, compiled: str | None = None) -> list[float]:
    """The loss of each of so many steps of SGD, from the same weights and images in every call."""
    torch.manual_seed(3)
    model = NETWORKS[name](layers)
    images, classes = torch.randn(4, 3, 32, 32), torch.randint(10, (4,))
    run: Any = torch.compile(model, backend=compiled, fullgraph=True) if compiled else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(run(images), classes)
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    return found
