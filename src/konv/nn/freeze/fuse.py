"""Rewrites the graph of a network: each convolution takes along what follows it.

Behind a convolution, as far as each result has no other use:

    batch normalisation      goes into its weights
    an activation            is done on its way out, unless a sum comes first
    + a tensor, activation   the tensor becomes its residual; of two convolutions that are added the
                             later one takes the sum

What evaluation leaves as it is, dropout and identities, vanishes. A step moves to the place of the
last one it takes along, so nothing may write into any tensor between.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F  # noqa: N812 - as everyone writes it

from konv.nn.freeze.activations import activation_of
from konv.nn.freeze.fold import NORMS, is_convolution, numbers
from konv.nn.freeze.layer import Activation, Layer
from konv.nn.freeze.trace import is_changed, mutates

VANISHING = (
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout,
    nn.FeatureAlphaDropout, nn.Identity,
)  # fmt: skip
DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout)
SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")


@dataclass
class Chain:
    """A convolution and what it takes along; `end` is the last step of it."""

    start: fx.Node
    end: fx.Node
    module: Any
    norm: Any = None
    activation: Activation = None
    sum: fx.Node | None = None
    other: int = 0  # which of the sum's two arguments is the residual
    steps: list[fx.Node] = field(default_factory=list)
    took: list[str] = field(default_factory=list)


class Fuser:
    """One graph and its modules; `run` returns the layers by the names that they replace."""

    def __init__(self, network: fx.GraphModule) -> None:
        self.network, self.graph = network, network.graph
        self.modules = dict(network.named_modules())
        self.order: dict[fx.Node, int] = {}

    def run(self) -> dict[str, tuple[Layer, list[str]]]:
        """Rewrite the graph."""
        self._drop_what_does_nothing()
        self.order = {node: i for i, node in enumerate(self.graph.nodes)}
        chains = [self._chain(node) for node in self.graph.nodes if self._takes(node)]
        ends = {chain.end: chain for chain in chains if chain.activation is None}
        for node in list(self.graph.nodes):
            if node.op in ("call_function", "call_method") and node.target in SUMS:
                self._add(node, ends)
        layers = {name: made for chain in chains for name, made in [self._replace(chain)]}
        self.network.delete_all_unused_submodules()
        self.graph.lint()
        self.network.recompile()
        return layers

    def _module(self, node: fx.Node) -> Any:
        """The module of a step that is one and does what its class does, else None."""
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        return None if module is None or is_changed(module) else module

    def _takes(self, node: fx.Node) -> bool:
        module = self._module(node)
        return module is not None and is_convolution(module) and _single(node)

    def _drop_what_does_nothing(self) -> None:
        for node in list(self.graph.nodes):
            module = self._module(node)
            gone = type(module) in VANISHING
            if node.op == "call_function" and node.target in DROPOUTS:
                training = node.kwargs.get("training", node.args[2] if len(node.args) > 2 else True)
                gone = training is False
            if gone:
                node.replace_all_uses_with(_input(node))
                self.graph.erase_node(node)

    def _chain(self, node: fx.Node) -> Chain:
        """A convolution with its normalisation and activation."""
        chain = Chain(node, node, self._module(node), steps=[node])
        after = self._next(chain)
        norm = None if after is None else self._module(after)
        if after is not None and self._folds(norm, chain.module) and _single(after):
            chain.norm = norm
            self._extend(chain, after, "batch norm")
        self._activate(chain)
        return chain

    def _folds(self, norm: Any, module: Any) -> bool:
        return (
            type(norm) in NORMS
            and norm.running_mean is not None
            and NORMS[type(norm)] == len(module.kernel_size)
            and norm.num_features == module.out_channels
        )

    def _activate(self, chain: Chain) -> None:
        after = self._next(chain)
        if after is None or (after.op == "call_module" and self._module(after) is None):
            return
        found = activation_of(after, self.modules)
        if found is not None and _input(after) is chain.end:
            chain.activation = found
            self._extend(chain, after, found if isinstance(found, str) else found[0])

    def _extend(self, chain: Chain, node: fx.Node, what: str) -> None:
        chain.end = node
        chain.steps.append(node)
        chain.took.append(what)

    def _next(self, chain: Chain) -> fx.Node | None:
        """The only step that uses a chain's result, if the chain may move there."""
        users = list(chain.end.users)
        if len(users) != 1 or users[0].op == "output":
            return None
        return users[0] if self._still(chain, users[0]) else None

    def _still(self, chain: Chain, to: fx.Node) -> bool:
        """Whether no step between a chain's beginning and a later step writes into tensors."""
        node = chain.start.next
        while node is not to:
            if node not in chain.steps and mutates(node, self.modules):
                return False
            node = node.next
        return True

    def _add(self, node: fx.Node, ends: dict[fx.Node, Chain]) -> None:
        """Let the later of the convolutions that a sum adds take it along."""
        if len(node.args) != 2 or node.kwargs or not all(isinstance(a, fx.Node) for a in node.args):
            return
        first, second = (arg for arg in node.args if isinstance(arg, fx.Node))
        fresh = [ends[arg] for arg in (first, second) if arg in ends and len(arg.users) == 1]
        if mutates(node, self.modules) and (first not in ends or len(first.users) != 1):
            return  # who else looks at the first would miss the sum
        able = [chain for chain in fresh if first is not second and self._still(chain, node)]
        if mutates(node, self.modules):  # the result has the first's dtype and shape
            able = [chain for chain in able if chain.end is first]
        if not able:
            return
        chain = max(able, key=lambda each: self.order[each.start])
        del ends[chain.end]
        chain.sum, chain.other = node, int(chain.end is first)
        self._extend(chain, node, "residual")
        self._activate(chain)

    def _replace(self, chain: Chain) -> tuple[str, tuple[Layer, list[str]]]:
        """Put a layer where the chain ended."""
        found = numbers(chain.module, chain.norm)
        in_place = chain.sum is not None and mutates(chain.sum, self.modules)
        layer = Layer(found.conv, found.weight, found.bias, chain.activation, in_place)
        name, start = str(chain.start.target), chain.start
        while name in self.modules and any(  # a module that is called elsewhere too
            node.target == name for node in self.graph.nodes if node is not start
        ):
            name += "_again"
        self.modules[name] = layer
        self.network.add_submodule(name, layer)
        more = () if chain.sum is None else (chain.sum.args[chain.other],)
        with self.graph.inserting_before(chain.end):
            new = self.graph.call_module(name, (_input(start), *more))
        chain.end.replace_all_uses_with(new)
        for step in reversed(chain.steps):
            self.graph.erase_node(step)
        return name, (layer, chain.took)


def _input(node: fx.Node) -> Any:
    return node.args[0] if node.args else node.kwargs["input"]


def _single(node: fx.Node) -> bool:
    """Whether a step has its input and no other argument, such as output_size."""
    return len(node.args) + len(node.kwargs) == 1
