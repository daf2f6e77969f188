"""PyTorch's layers of batch normalisation, computed by konv in training mode.

Each is a subclass of PyTorch's own and differs in how it computes a step of training on the CPU, in
float32 and float64; all else, evaluation mode too, is PyTorch's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from konv.nn.norm import batch_norm
from konv.nn.unscripted import Unscripted


class Normalisation(Unscripted):
    """What BatchNorm1d, BatchNorm2d and BatchNorm3d share."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - PyTorch's name
        y = self.activated(input, "")
        return super().forward(input) if y is None else y  # type: ignore[misc]

    def activated(self, x: Any, activation: str) -> Tensor | None:
        """activation(layer(x)); None if PyTorch is to do it, and then nothing was done."""
        layer: Any = self
        if not layer.training or torch.compiler.is_compiling():
            return None
        layer._check_input_dim(x)
        return batch_norm(x, layer, activation)


class BatchNorm1d(Normalisation, nn.BatchNorm1d):
    """Batch normalisation of (n, c) or (n, c, w): torch.nn.BatchNorm1d. See BatchNorm2d.

    >>> import torch
    >>> BatchNorm1d(3)(torch.ones(2, 3, 4)).sum().item()
    0.0
    """


class BatchNorm2d(Normalisation, nn.BatchNorm2d):
    """Batch normalisation of images (n, c, h, w): torch.nn.BatchNorm2d, by konv while it trains.

    Mean and variance are taken in float64, in one pass, in an order that does not depend on the
    number of threads. Gradients of every order, torch.func, torch.compile and torch.export as
    PyTorch's.

    >>> import torch
    >>> layer = BatchNorm2d(3)
    >>> isinstance(layer, nn.BatchNorm2d)
    True
    >>> y = layer(torch.arange(2.0 * 3 * 64 * 100).view(2, 3, 64, 100))
    >>> y.mean().abs().item() < 1e-5
    True
    """


class BatchNorm3d(Normalisation, nn.BatchNorm3d):
    """Batch normalisation of volumes (n, c, d, h, w): torch.nn.BatchNorm3d. See BatchNorm2d.

    >>> import torch
    >>> BatchNorm3d(1)(torch.ones(2, 1, 4, 4, 4)).sum().item()
    0.0
    """
