"""torch.nn.ReLU and ReLU6 in place, behind a batch normalisation of konv.nn: one gradient of both.

In place, the result of the batch normalisation is no more; what became of it is a function of what
went into the batch normalisation. So the node of autograd that stands for it has those inputs, and
its gradient is one step, where two would write an image and read it again. Whoever else has used
that result before still finds its own node. PyTorch's own ReLU6 would keep a copy of it besides.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from konv.nn.norm import rectified
from konv.nn.unscripted import Unscripted


class ReLU(Unscripted, nn.ReLU):
    """torch.nn.ReLU; in place its gradient is taken with that of the layer of batch normalisation
    before it, if that is konv's.

    >>> ReLU(inplace=True)
    ReLU(inplace=True)
    """

    def forward(self, input: Any) -> Any:  # noqa: A002 - PyTorch's name
        if self.inplace and not torch.compiler.is_compiling() and rectified(input, "relu"):
            return input
        return super().forward(input)


class ReLU6(Unscripted, nn.ReLU6):
    """torch.nn.ReLU6, see ReLU.

    >>> ReLU6(inplace=True)
    ReLU6(inplace=True)
    """

    def forward(self, input: Any) -> Any:  # noqa: A002 - PyTorch's name
        plain = self.inplace and self.min_val == 0 and self.max_val == 6
        if plain and not torch.compiler.is_compiling() and rectified(input, "relu6"):
            return input
        return super().forward(input)


KINDS: dict[type[nn.Module], str] = {
    nn.ReLU: "relu", nn.ReLU6: "relu6", ReLU: "relu", ReLU6: "relu6",
}  # fmt: skip
