"""Calls of a module that became a graph: by place, and with the arguments it was made for."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from konv.nn.freeze.layer import Layer

CONSTANTS = (type(None), bool, int, str)


def constants(module: nn.Module, given: int | None) -> dict[str, Any]:
    """The arguments that a graph takes for their defaults; `given`: an example has so many."""
    parameters = list(inspect.signature(module.forward).parameters.values())
    later = parameters if given is None else parameters[given:]
    return {p.name: p.default for p in later if isinstance(p.default, CONSTANTS)}


class Places:
    """The arguments of a module in their order. A graph has other names for some of them."""

    def __init__(self, module: nn.Module) -> None:
        found = inspect.signature(module.forward)
        bare = [p.replace(annotation=inspect.Parameter.empty) for p in found.parameters.values()]
        self.signature = inspect.Signature(bare)  # without annotations it can be pickled
        self.names = [p.name for p in bare]
        self.open = any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in bare)

    def __call__(self, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """A call with what has a place in its place. TypeError for arguments that do not fit."""
        if not kwargs or self.open:
            return args, kwargs
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return tuple(bound.arguments.values()), {}


class Part:
    """The frozen forward of a module, in the place of its own.

    A call with other values of the arguments that were taken for constants takes the module's own.
    """

    def __init__(self, module: nn.Module, network: nn.Module, given: int | None = None) -> None:
        self.module, self.network = module, network
        self.places = Places(module)
        self.constants = constants(module, given)
        self.takes = 1 if isinstance(network, Layer) else None  # arguments; None: all

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        placed, named = self.places(args, kwargs)
        if self._fits(placed, named):
            return self.network(*placed[: self.takes], **named)
        return type(self.module).forward(self.module, *args, **kwargs)

    def _fits(self, placed: Any, named: dict[str, Any]) -> bool:
        fixed = self.constants
        return not any(name in fixed for name in named) and all(
            name not in fixed or (type(value) is type(fixed[name]) and value == fixed[name])
            for name, value in zip(self.places.names, placed, strict=False)
        )
