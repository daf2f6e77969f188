"""Forks, threads and long runs."""

from __future__ import annotations

import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from architecture.source import PACKAGE
from torch.utils.data import DataLoader, Dataset

import konv.nn


class Filtered(Dataset[torch.Tensor]):
    """Images that the workers convolve themselves, with a gradient."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.layer = konv.nn.Conv2d(3, 8, 3, padding=1)

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> torch.Tensor:
        x = torch.full((3, 12, 12), float(index)).requires_grad_()
        y = self.layer(x)
        return torch.autograd.grad(y.square().sum(), x)[0]


def test_workers_of_a_dataloader() -> None:
    """Forked after konv has computed here, with its threads: they give the same gradients."""
    data = Filtered()
    expected = torch.stack([data[i] for i in range(len(data))])
    with warnings.catch_warnings(action="ignore"):  # Python 3.12 warns of forks beside threads
        loader = DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context="fork")
        found = torch.cat(list(loader))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_many_threads() -> None:
    """Each with gradients of its own, of one layer."""
    layer = konv.nn.Conv2d(4, 8, 3, padding=1, groups=2)

    def work(seed: int) -> Any:
        x = torch.randn(1, 4, 8 + seed % 3, 9, generator=torch.Generator().manual_seed(seed))
        y = layer(x)
        return torch.autograd.grad(y.square().sum(), layer.weight)[0]

    expected = [work(seed) for seed in range(24)]
    with ThreadPoolExecutor(8) as pool:
        for a, b in zip(pool.map(work, range(24)), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


LONG = """
import sys
sys.path.insert(0, {src!r})
import torch, konv.nn
torch.set_num_threads(1)
layer = konv.nn.Conv2d(2, 3, 3, padding=1)

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def calls(count, first):
    for i in range(count):
        n = (first + i) % 5000
        x = torch.zeros(1 + n % 2, 2, 3 + n // 2 % 50, 3 + n // 100)
        if i % 4:
            with torch.no_grad():
                layer(x)
        else:
            layer(x).sum().backward()

calls(2500, 0)
before = resident()
calls(10000, 2500)
print(resident() - before)
"""


@pytest.mark.slow
def test_memory_stays_flat() -> None:
    """10,000 calls with changing shapes, every fourth with its gradient: under 8 MiB more."""
    code = LONG.format(src=str(PACKAGE.parent))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 8 * 2**20
