"""The generator of DCGAN (Radford et al., arXiv:1511.06434), 64x64 pixels."""

from __future__ import annotations

from torch import Tensor, nn


class Generator(nn.Module):
    """From `noise` numbers to an image: five transposed 4x4 convolutions."""

    def __init__(self, noise: int = 100, width: int = 64, colours: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        ci = noise
        for co in (8 * width, 4 * width, 2 * width, width):
            first = ci == noise
            stride, padding = (1, 0) if first else (2, 1)
            layers += [
                nn.ConvTranspose2d(ci, co, 4, stride, padding, bias=False),
                nn.BatchNorm2d(co),
                nn.ReLU(inplace=True),
            ]
            ci = co
        layers += [nn.ConvTranspose2d(width, colours, 4, 2, 1, bias=False), nn.Tanh()]
        self.main = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        return self.main(z)
