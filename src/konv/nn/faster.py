"""With an example: which layers of an accelerated model konv computes faster, and which go back.

A layer is timed when the example reaches it, on the very arrays that it is given, once by konv and
once by PyTorch, in turns. One that konv does not take is PyTorch's however long it takes; its one
call is timed, for the report.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import nn

from konv.nn.account import Row
from konv.nn.exchange import TAKEN, TRIED, give_back
from konv.nn.freeze.fold import class_of
from konv.nn.freeze.measure import CLEARLY, Stopwatch, alternate, clone

OURS_TRIED = tuple(TRIED.values())
Times = dict[Any, dict[str, float]]


def kind_of(module: nn.Module) -> str:
    """The layer as PyTorch writes it, in a line."""
    return repr(module).splitlines()[0].rstrip("(")


def keep_the_faster(
    model: nn.Module, rows: dict[str, Row], taken: dict[str, Any], args: tuple[Any, ...]
) -> dict[str, Row]:
    """Give back those of the taken layers that PyTorch computes faster; return rows with times."""
    left = {name: model.get_submodule(name) for name, row in rows.items() if row.by != "konv"}
    times, watch = _times(model, taken, left, args)
    found = {
        name: replace(rows[name], before=watch.seconds.get(module)) for name, module in left.items()
    }
    for name, module in taken.items():
        row = _row(name, module, times.get(module))
        if row is not None:
            found[name] = row
    return found


def _times(
    model: nn.Module, taken: dict[str, Any], left: dict[str, Any], args: tuple[Any, ...]
) -> tuple[Times, Stopwatch]:
    """Seconds of each layer that the example reaches; the model runs it in evaluation mode."""
    times: Times = {}

    def time(module: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        given = signature(module.forward).bind(*args, **named).args
        if module not in times and (type(module) not in OURS_TRIED or given[0].dim() > 2):
            times[module] = alternate(
                {
                    "konv": partial(module.forward, *given),
                    "PyTorch": _by_torch(module, given),
                }
            )

    hooks = [module.register_forward_pre_hook(time, with_kwargs=True) for module in taken.values()]
    modes = {module: module.training for module in model.modules()}
    with Stopwatch(left.values()) as watch:
        try:
            model.eval()
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                model(*clone(args))
        finally:
            for hook in hooks:
                hook.remove()
            for module, mode in modes.items():
                module.training = mode
    return times, watch


def _row(name: str, module: Any, times: dict[str, float] | None) -> Row | None:
    """Who computes a layer from here on; None for a linear layer that PyTorch does, as ever."""
    convolves = type(module) not in OURS_TRIED
    if times is None:
        if convolves:
            return Row(name, kind_of(module), "konv", "not called for the example")
        give_back(module)
        return None
    before, after = times["PyTorch"], times["konv"]
    by = "PyTorch" if before < CLEARLY * after else "konv"
    if by == "PyTorch":
        give_back(module)
        if not convolves:
            return None
    what = "" if convolves else "a pointwise convolution"
    return Row(name, kind_of(module), by, what, before, after)


def _by_torch(module: Any, given: tuple[Any, ...]) -> Callable[[], Any]:
    """The layer's call as PyTorch computes it."""
    theirs: Any = {ours: theirs for theirs, ours in (TAKEN | TRIED).items()}[class_of(module)]
    if getattr(module, "transposed", None) is False:
        return lambda: theirs._conv_forward(module, *given, module.weight, module.bias)
    return lambda: theirs.forward(module, *given)
