"""With an example: is the network faster channels-last inside, and is each layer faster by konv?

Candidates take turns on the very arrays that the layer meets, so that a slow moment of the machine
meets both, and medians count. A layer is left to PyTorch only where that is clearly faster: two
measurements of the same thing differ by some percent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from konv.nn.freeze.frozen import Frozen
from konv.nn.freeze.layer import FORMATS, Layer

SECONDS = 0.03  # for all candidates of a layer together
ROUNDS, WARM = 3, 1
CLEARLY = 0.97  # of konv's time

Run = Callable[[], Any]


def alternate(runs: dict[Any, Run], seconds: float = SECONDS) -> dict[Any, float]:
    """Median seconds of calls that take turns, after some that are not counted."""
    for run in runs.values():
        for _ in range(WARM):
            run()
    times: dict[Any, list[float]] = {name: [] for name in runs}
    begin = perf_counter()
    while len(next(iter(times.values()))) < ROUNDS or perf_counter() - begin < seconds:
        for name, run in runs.items():
            start = perf_counter()
            run()
            times[name].append(perf_counter() - start)
    return {name: median(each) for name, each in times.items()}


class Stopwatch:
    """Seconds of the first call of each module inside `with`, where calls may have consequences and
    so cannot be repeated.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.modules = tuple(modules)
        self.seconds: dict[nn.Module, float] = {}
        self._begun: dict[nn.Module, float] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> Stopwatch:
        for module in self.modules:
            self._hooks.append(module.register_forward_pre_hook(self._begin))
            self._hooks.append(module.register_forward_hook(self._end))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _begin(self, module: nn.Module, _: Any) -> None:
        self._begun[module] = perf_counter()

    def _end(self, module: nn.Module, *_: Any) -> None:
        self.seconds.setdefault(module, perf_counter() - self._begun[module])


def choose_format(frozen: Frozen, call: Run) -> None:
    """Let the network lie as it runs faster."""

    def one_way(last: bool) -> Any:
        frozen.lie_last(last)
        return call()

    times = alternate({last: partial(one_way, last) for last in (False, True)}, 0.2)
    frozen.lie_last(times[True] < times[False])


def choose_layers(frozen: Frozen, call: Run) -> None:
    """Leave to PyTorch the layers that it computes faster, as the example meets them."""
    names = {layer: name for name, layer in frozen.layers.items()}
    measured: dict[Layer, tuple[str, float, float]] = {}

    def measure(layer: Any, args: tuple[Any, ...]) -> None:
        if layer in measured or not layer.torch_can:
            return
        own = layer.weight
        if layer.last and own.dim() in FORMATS:
            own = own.contiguous(memory_format=FORMATS[own.dim()])
        times = alternate(
            {
                "konv": partial(layer.forward, *args),
                "PyTorch": partial(layer.by_torch, *args, weight=own),
            }
        )
        measured[layer] = layer.met, times["PyTorch"], times["konv"]

    rest = _left(frozen)
    hooks = [layer.register_forward_pre_hook(measure) for layer in names]
    try:
        with Stopwatch(rest) as watch:
            call()
    finally:
        for hook in hooks:
            hook.remove()
    for module, seconds in watch.seconds.items():
        frozen.rows[rest[module]] = replace(frozen.rows[rest[module]], before=seconds)
    for layer, (met, before, after) in measured.items():
        name = names[layer]
        row = replace(frozen.rows[name], kind=met, before=before, after=after)
        if before < CLEARLY * after:
            row = replace(row, by="PyTorch")
            layer.leave()
        frozen.rows[name] = row


def _left(frozen: Frozen) -> dict[nn.Module, str]:
    """The convolutions in the network that are PyTorch's own steps, with their names."""
    return {
        module: name
        for name, module in frozen.network.named_modules()
        if name in frozen.rows and name not in frozen.layers
    }


def clone(example: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments again: a model may write into them."""
    return tuple(
        each.detach().clone(memory_format=torch.preserve_format)
        if isinstance(each, Tensor)
        else each
        for each in example
    )
