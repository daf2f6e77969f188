"""The four kinds of convolution, each in one line: with konv.nn in place of torch.nn.

Prints for each what goes in, what comes out, and the numbers of its kernel.
"""

from __future__ import annotations

import torch

import konv.nn as nn

torch.manual_seed(0)

x = torch.randn(1, 1, 5, 5)
x4 = torch.randn(1, 4, 5, 5)

ordinary = nn.Conv2d(1, 1, kernel_size=2, stride=2, padding=1)
transposed = nn.ConvTranspose2d(1, 1, kernel_size=2, bias=False)
dilated = nn.Conv2d(1, 1, 2, stride=2, padding=2, dilation=2)
grouped = nn.Conv2d(4, 2, kernel_size=2, stride=2, padding=2, groups=2)

for name, layer, image in (
    ("ordinary", ordinary, x),
    ("transposed", transposed, x),
    ("dilated", dilated, x),
    ("grouped", grouped, x4),
):
    print(f"{name}: {layer}")
    print(f"input shape       {tuple(image.shape)}")
    print(f"output shape      {tuple(layer(image).shape)}")
    print(f"kernel parameters {tuple(layer.weight.shape)}")
    print(layer.weight.detach())
    print()
