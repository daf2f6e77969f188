"""A module as a graph of its steps, if it can be had.

torch.fx runs `forward` once with stand-ins for tensors and writes down what is done to them.
PyTorch's own layers stay single steps, and so do modules with hooks or another forward than their
class has, which keep them. An argument
with a default that is None, a bool, an integer or a string is taken for that default, unless an
example gives it; the graph refuses another value when it is called.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor, fx, nn

from konv.nn.freeze.calls import constants
from konv.nn.separable import DepthwiseSeparableConv2d


class Untraceable(Exception):  # noqa: N818 - says what the module is
    """There is no graph; the message says why, in a line."""


class _Stand(fx.Proxy):
    """A stand-in that knows `x += y` from `x = x + y`: others may look at the memory of x."""


def _in_place(operation: Any) -> Any:
    def written(self: fx.Proxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operation, (self, other), {})

    return written


for _name in (
    "iadd",
    "isub",
    "imul",
    "itruediv",
    "ifloordiv",
    "imod",
    "ipow",
    "iand",
    "ior",
    "ixor",
):
    setattr(_Stand, f"__{_name}__", _in_place(getattr(operator, _name)))


class _Tracer(fx.Tracer):
    def __init__(self, root: nn.Module | None = None) -> None:
        super().__init__()
        self.top = root

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Stand(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        opened = type(m) is DepthwiseSeparableConv2d or isinstance(m, nn.Sequential)
        own = type(m).__module__.startswith("konv.nn") and not opened
        kept = m is not self.top and is_changed(m)
        return own or kept or super().is_leaf_module(m, module_qualified_name)


def has_hooks(module: nn.Module) -> bool:
    """Whether something is to be called before or after the module."""
    return bool(
        module._forward_hooks  # PyTorch has no public way to ask
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def is_replaced(module: nn.Module) -> bool:
    """Whether the module computes by another function than its class does."""
    return "forward" in module.__dict__ or "_conv_forward" in module.__dict__


def is_changed(module: nn.Module) -> bool:
    """Whether a call of the module does more, or something else, than its class does."""
    return has_hooks(module) or is_replaced(module)


def trace(module: nn.Module, given: int | None = None) -> fx.GraphModule:
    """The graph of a module; `given`: so many arguments an example has. Untraceable if none."""
    if type(module).forward is nn.Module.forward:
        raise Untraceable("it has no forward")
    if is_replaced(module):
        raise Untraceable("its forward was replaced")
    try:
        graph = _Tracer(module).trace(module, constants(module, given))
        made = fx.GraphModule(module, graph, type(module).__name__)
    except Exception as error:  # whatever the module's own code raises when given stand-ins
        lines = str(error).strip().splitlines()
        raise Untraceable(lines[0] if lines else type(error).__name__) from error
    if any(node.op == "get_attr" and _changes(node) for node in made.graph.nodes):
        raise Untraceable("it changes a tensor of its own")
    if module._forward_pre_hooks and any(_computed(node, module) for node in made.graph.nodes):
        raise Untraceable("a hook computes a tensor of it")
    return made


def _computed(node: fx.Node, module: nn.Module) -> bool:
    """Whether a step reads a tensor that is neither parameter nor buffer of the module: a hook may
    make it anew at every call, as that of the older weight_norm does.
    """
    name = str(node.target)
    return node.op == "get_attr" and "." not in name and not _registered(module, name)


def _registered(module: nn.Module, name: str) -> bool:
    return name in module._parameters or name in module._buffers


def _changes(node: fx.Node) -> bool:
    """Whether some step writes into a parameter or buffer, such as a counter of calls."""
    return any(mutates(user, {}) and user.args and user.args[0] is node for user in node.users)


def mutates(node: fx.Node, modules: Any) -> bool:
    """Whether a step may write into a tensor that it is given."""
    if node.op == "call_module":
        module = modules.get(str(node.target))
        known = type(module).__module__.startswith(("torch.nn", "konv.nn"))
        return (
            module is None or not known or is_changed(module) or getattr(module, "inplace", False)
        )
    if node.op not in ("call_method", "call_function"):
        return False
    if "out" in node.kwargs or node.kwargs.get("inplace"):
        return True
    target = node.target
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    if node.op == "call_function" and getattr(target, "__module__", "") == "_operator":
        return name == "setitem" or (name[:1] == "i" and name not in ("index", "invert", "inv"))
    flags = any(arg is True for arg in node.args)  # F.relu(x, True)
    return flags or (name.endswith("_") and not name.endswith("__"))


def tensors(example: Any) -> tuple[Any, ...]:
    """The arguments that an example stands for: it is one of them, or a tuple of all."""
    if isinstance(example, Tensor):
        return (example,)
    if isinstance(example, tuple) and any(isinstance(each, Tensor) for each in example):
        return example
    raise TypeError(
        f"example is a {type(example).__name__}. Use a tensor such as the model is called with, or "
        f"a tuple of all its arguments."
    )
