"""Training in several processes: each has a part of the batch, all have the same gradients.

    torchrun --nproc-per-node 2 examples/ddp.py

Prints, in the first process, the loss of each step, and how far the gradients of the last are from
those of one process that sees the whole batch.
"""

from __future__ import annotations

import gc

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import konv.nn


def network() -> nn.Module:
    """A small classifier; the same numbers in every process."""
    torch.manual_seed(0)
    return nn.Sequential(
        konv.nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        konv.nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=4),
        nn.ReLU(),
        konv.nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )


def main() -> None:
    """Train in this process, as one of several."""
    dist.init_process_group("gloo")
    train()
    # The model has to go first: if it holds the group last, PyTorch 2.13 joins the group's threads
    # with Python locked, for which they may wait themselves.
    gc.collect()
    dist.destroy_process_group()


def train() -> None:
    """Train on this process' part of the batch, and on the whole."""
    rank, count = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(1)
    images, classes = torch.randn(8, 3, 16, 16), torch.randint(10, (8,))
    loss_of = nn.CrossEntropyLoss()

    whole, together = network(), DistributedDataParallel(network())
    for step in range(3):
        both = []
        for model, mine in ((together, slice(rank, None, count)), (whole, slice(None))):
            model.zero_grad()
            loss = loss_of(model(images[mine]), classes[mine])
            loss.backward()
            both.append(loss)
        far = max(
            float((a.grad - b.grad).abs().max() / b.grad.abs().max())
            for a, b in zip(together.parameters(), whole.parameters(), strict=True)
        )
        if rank == 0:
            print(f"step {step}: loss {both[1]:.4f}, gradients {far:.1e} apart")
        with torch.no_grad():
            for model in (together, whole):
                for p in model.parameters():
                    p -= 0.1 * p.grad


if __name__ == "__main__":
    main()
