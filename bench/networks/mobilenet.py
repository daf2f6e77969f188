"""MobileNet-V2 (Sandler et al., arXiv:1801.04381)."""

from __future__ import annotations

from torch import Tensor, nn

# Table 2 of the paper: expansion, channels, stride of the first; how often is `repeats`.
STAGES = ((1, 16, 1), (6, 24, 2), (6, 32, 2), (6, 64, 2), (6, 96, 1), (6, 160, 2), (6, 320, 1))
REPEATS = (1, 2, 3, 4, 3, 3, 1)
CHANNELS = 8  # counts of channels are multiples of that


def convolution(ci: int, co: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU6."""
    return nn.Sequential(
        nn.Conv2d(ci, co, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(co),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """1x1 up, depthwise 3x3, 1x1 down without activation; the input added where shapes agree."""

    def __init__(self, ci: int, co: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = ci * expansion
        self.adds = stride == 1 and ci == co
        up = [convolution(ci, inner, 1)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *up,
            convolution(inner, inner, 3, stride, groups=inner),
            nn.Conv2d(inner, co, 1, bias=False),
            nn.BatchNorm2d(co),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Module):
    """The classifier; `scale` is the paper's width multiplier."""

    def __init__(
        self,
        classes: int = 1000,
        scale: float = 1.0,
        repeats: tuple[int, ...] = REPEATS,
        last: int = 1280,
    ) -> None:
        super().__init__()
        ci = _rounded(32 * scale)
        layers: list[nn.Module] = [convolution(3, ci, 3, 2)]
        for (expansion, channels, stride), count in zip(STAGES, repeats, strict=True):
            co = _rounded(channels * scale)
            for i in range(count):
                layers.append(InvertedResidual(ci, co, stride if i == 0 else 1, expansion))
                ci = co
        self.features = nn.Sequential(*layers, convolution(ci, last, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(x.flatten(1))


def _rounded(channels: float) -> int:
    """To a multiple of CHANNELS, not more than a tenth below."""
    near = max(CHANNELS, int(channels + CHANNELS / 2) // CHANNELS * CHANNELS)
    return near if near >= 0.9 * channels else near + CHANNELS
