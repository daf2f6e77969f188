"""torch.nn.Sequential, with activations done by the batch normalisation before them.

While a network trains, a ReLU behind a batch normalisation reads and writes an image once more, and
its gradient reads two and writes one. In a Sequential nobody but the ReLU sees what the batch
normalisation made; if neither has hooks, both are one step.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from konv.nn.freeze.trace import is_changed
from konv.nn.norms import BatchNorm1d, BatchNorm2d, BatchNorm3d
from konv.nn.rectified import KINDS
from konv.nn.unscripted import Unscripted

NORMS = (BatchNorm1d, BatchNorm2d, BatchNorm3d)


class Sequential(Unscripted, nn.Sequential):
    """torch.nn.Sequential, whose ReLU and ReLU6 behind a batch normalisation of konv.nn cost
    nothing of their own in training.

    >>> import torch
    >>> layers = Sequential(BatchNorm2d(3), nn.ReLU())
    >>> layers(torch.randn(2, 3, 64, 100)).min().item()
    0.0
    """

    def forward(self, input: Any) -> Any:  # noqa: A002 - PyTorch's name
        hooked: Any = _has_any_global_hook
        if torch.compiler.is_compiling() or not self.training or hooked():
            plain: Any = super().forward
            return plain(input)
        parts = [*self._modules.values(), None]
        at = 0
        while at < len(parts) - 1:
            module: Any = parts[at]
            done, activation = None, activation_behind(module, parts[at + 1], NORMS)
            if activation and type(input) is Tensor:
                done = module.activated(input, activation)
            input, at = (module(input), at + 1) if done is None else (done, at + 2)  # noqa: A001
        return input


def activation_behind(module: Any, after: Any, norms: tuple[type, ...]) -> str:
    """The name of the activation that a layer of batch normalisation may do with its own, "" if
    there is none.
    """
    if type(module) not in norms:
        return ""
    found = KINDS.get(type(after), "")
    if not found or (found == "relu6" and (after.min_val, after.max_val) != (0, 6)):
        return ""
    return "" if _altered(module) or _altered(after) else found


def _altered(module: nn.Module) -> bool:
    return is_changed(module) or module._compiled_call_impl is not None


def pays(module: nn.Sequential) -> bool:
    """Whether there are such pairs in it, of PyTorch's layers or konv's."""
    parts = list(module._modules.values())
    norms = (*NORMS, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return any(activation_behind(*pair, norms) for pair in pairwise(parts))
