"""The code of a frozen network with its layers in reach.

What torch.fx generates finds each layer by a chain of attributes and calls it as a module, with
hooks to be looked for: 6 us a layer, of 20 that a small one takes. Here the layers' own functions
are names in the code. It is made anew wherever the network was copied to.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

from torch import fx

from konv.nn.freeze.layer import Layer


def straight(network: fx.GraphModule) -> Callable[..., Any]:
    """A function of the network's arguments that returns what the network does."""
    graph = deepcopy(network.graph)
    for node in graph.nodes:
        layer = network.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(layer, Layer):
            node.op, node.target = "call_function", layer.forward
    code = graph.python_code("self")
    names: dict[str, Any] = dict(code.globals)
    exec(compile(code.src, "<frozen network>", "exec"), names)
    return partial(names["forward"], network)
