"""The competitors of training: each a call that is one step, forward, backward and update."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

Run = Callable[[], Any]
WRONG = 2e-3  # of the loss: after a step with float32 sums in other orders


def runs(network: Any, batch: int, compiled: bool) -> tuple[dict[str, Run], dict[str, str], Any]:
    """The steps by name, why others are left out, and the model that konv computes."""
    import konv

    torch.manual_seed(0)
    model = network.build().train()
    x = torch.randn(batch, *network.training)
    x_last = x.to(memory_format=torch.channels_last)
    last = deepcopy(model).to(memory_format=torch.channels_last)
    ours = konv.accelerate(deepcopy(last), x_last)
    found = {
        "torch contiguous": step(deepcopy(model), x),
        "torch channels-last": step(deepcopy(last), x_last),
        "konv": step(ours, x_last),
    }
    if compiled:
        found["compiled"] = step(torch.compile(deepcopy(last)), x_last)
    wrong = {}
    losses = {name: [run(), run()][1] for name, run in found.items()}
    for name, loss in losses.items():
        off = abs(loss / losses["torch contiguous"] - 1)
        if not off <= WRONG:
            wrong[name] = f"its loss is off by {off:.1e} after a step"
            del found[name]
    return found, wrong, ours


def step(model: Any, x: Tensor) -> Run:
    """A step of SGD on the mean square of all outputs; returns the loss before it.

    The weights change in every step, so nothing that was packed before is still right.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def run() -> float:
        torch.manual_seed(1)  # dropout drops the same for all
        optimizer.zero_grad()
        y = model(x)
        parts = y if isinstance(y, tuple) else (y,)
        loss = sum(nn.functional.mse_loss(part, torch.ones_like(part)) for part in parts)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return run
