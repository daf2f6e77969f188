"""Freezing a copy of a model: as one graph where it can be traced, else each part that can.

A part keeps its place, class, attributes and hooks; only its `forward` becomes the graph's. So code
that cannot be traced finds its modules as it left them, and may index or iterate over them. A part
with a forward of its own making is left alone.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from konv.nn.freeze.calls import Part
from konv.nn.freeze.fold import is_convolution, numbers
from konv.nn.freeze.fuse import Fuser
from konv.nn.freeze.layer import Layer
from konv.nn.freeze.trace import Untraceable, has_hooks, is_replaced, trace

Took = dict[str, tuple[Layer, list[str]]]  # each layer and what it took along, by its name


def freeze_whole(model: Any, given: int | None, took: Took, notes: list[str]) -> nn.Module:
    """The network as one graph, or the layer that it is. Untraceable if it has none."""
    if is_convolution(model):
        found = numbers(model)
        layer = Layer(found.conv, found.weight, found.bias)
        took[""] = layer, []
        return layer
    network = trace(model, given)
    took.update(Fuser(network).run())
    for name, module in list(network.named_children()):
        _freeze_kept(module, name, took, notes)
    return network


def freeze_parts(model: nn.Module, name: str, took: Took, notes: list[str]) -> None:
    """Give each part that can be traced the forward of its frozen graph."""
    for child_name, child in model.named_children():
        # A forward of its own: somebody's, or a module with two places has been here before.
        if not is_replaced(child) and _holds_convolutions(child):
            _freeze_part(child, _path(name, child_name), took, notes)


def _freeze_part(module: nn.Module, path: str, took: Took, notes: list[str]) -> None:
    own: Took = {}
    below: list[str] = []
    try:
        network = freeze_whole(module, None, own, below)
    except Untraceable as error:
        notes.append(f"{path} was frozen part by part: {error}")
        freeze_parts(module, path, took, notes)
    else:
        took.update({_path(path, key): each for key, each in own.items()})
        notes.extend(_path(path, note) for note in below)
        module.__dict__["forward"] = Part(module, network)


def _freeze_kept(module: nn.Module, path: str, took: Took, notes: list[str]) -> None:
    """Below a traced network: modules that stayed whole because they have hooks."""
    if is_replaced(module) or isinstance(module, Layer):
        return
    if has_hooks(module) and _holds_convolutions(module):
        _freeze_part(module, path, took, notes)
        return
    for name, child in module.named_children():
        _freeze_kept(child, _path(path, name), took, notes)


def _path(above: str, name: str) -> str:
    return f"{above}.{name}" if above and name else above or name


def _holds_convolutions(module: nn.Module) -> bool:
    return any(map(is_convolution, module.modules()))
