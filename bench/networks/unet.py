"""U-Net (Ronneberger et al., arXiv:1505.04597): without padding and without batch normalisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

DEPTH = 4


def double(ci: int, co: int) -> nn.Sequential:
    """Two 3x3 convolutions, each with its ReLU."""
    return nn.Sequential(
        nn.Conv2d(ci, co, 3), nn.ReLU(inplace=True), nn.Conv2d(co, co, 3), nn.ReLU(inplace=True)
    )


class UNet(nn.Module):
    """From `width` to 16 times as many channels and back, with 2x2 up-convolutions."""

    def __init__(self, ci: int = 1, co: int = 2, width: int = 64) -> None:
        super().__init__()
        wide = [width * 2**i for i in range(DEPTH + 1)]
        self.down = nn.ModuleList(double(a, b) for a, b in zip([ci, *wide[:-1]], wide, strict=True))
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * c, c, 2, stride=2) for c in reversed(wide[:-1])
        )
        self.merge = nn.ModuleList(double(2 * c, c) for c in reversed(wide[:-1]))
        self.head = nn.Conv2d(width, co, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for i, down in enumerate(self.down):
            x = down(self.pool(x) if i else x)
            kept.append(x)
        kept.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = up(x)
            x = merge(torch.cat([_crop(kept.pop(), x), x], 1))
        return self.head(x)


def _crop(x: Tensor, like: Tensor) -> Tensor:
    """The middle of x, of the size of another."""
    high, wide = (x.shape[i] - like.shape[i] for i in (2, 3))
    top, left = high // 2, wide // 2
    return x[:, :, top : top + like.shape[2], left : left + like.shape[3]]
