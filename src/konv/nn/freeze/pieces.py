"""Freezing a copy of a model: as one graph where it can be traced, else each part that can.

A part keeps its place, class, attributes and hooks; only its `forward` becomes the graph's. So code
that cannot be traced finds its modules as it left them, and may index or iterate over them.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from konv.nn.freeze.fold import is_convolution, numbers
from konv.nn.freeze.fuse import Fuser
from konv.nn.freeze.layer import Layer
from konv.nn.freeze.trace import Untraceable, has_hooks, trace

Took = dict[str, tuple[Layer, list[str]]]  # each layer and what it took along, by its name


def freeze_whole(model: nn.Module, given: int | None, took: Took) -> nn.Module:
    """The network as one graph. Untraceable if it has none."""
    if is_convolution(model):
        return _layer(model, "", took)
    network = trace(model, given)
    took.update(Fuser(network).run())
    for name, module in list(network.named_children()):
        _freeze_hooked(module, name, took)
    return network


def freeze_parts(model: nn.Module, name: str, took: Took, notes: list[str]) -> None:
    """Give each part that can be traced the forward of its frozen graph."""
    for child_name, child in model.named_children():
        path = f"{name}.{child_name}" if name else child_name
        if "forward" in child.__dict__:  # a module with two places, seen before
            continue
        if is_convolution(child):
            child.__dict__["forward"] = _layer(child, path, took)
            continue
        if not _holds_convolutions(child):
            continue
        try:
            own: Took = {}
            network = freeze_whole(child, None, own)
        except Untraceable as error:
            notes.append(f"{path} was frozen part by part: {error}")
            freeze_parts(child, path, took, notes)
        else:
            took.update({f"{path}.{key}": each for key, each in own.items()})
            child.__dict__["forward"] = network


def _freeze_hooked(module: nn.Module, path: str, took: Took) -> None:
    """Below a traced network: modules that stayed whole because they have hooks."""
    if has_hooks(module) and _holds_convolutions(module) and not isinstance(module, Layer):
        if is_convolution(module):
            module.__dict__["forward"] = _layer(module, path, took)
        else:
            try:
                module.__dict__["forward"] = freeze_whole(module, None, took)
            except Untraceable:
                freeze_parts(module, path, took, [])
        return
    for name, child in module.named_children():
        _freeze_hooked(child, f"{path}.{name}", took)


def _layer(module: Any, path: str, took: Took) -> Layer:
    found = numbers(module)
    layer = Layer(found.conv, found.weight, found.bias)
    took[path] = layer, []
    return layer


def _holds_convolutions(module: nn.Module) -> bool:
    return any(map(is_convolution, module.modules()))
