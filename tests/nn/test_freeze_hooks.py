"""Freezing what others have changed or watch: hooks, replaced forwards, devices, parts of models.

Those that would crash the process run in a child.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

import torch
from torch import nn

from konv.nn.freeze import freeze

X = torch.randn(2, 4, 6, 7, generator=torch.Generator().manual_seed(0))
START = """
    import torch
    from torch import nn
    from konv.nn.freeze import freeze
    x = torch.ones(2, 4, 6, 7).to(memory_format=torch.channels_last)
"""


def child(code: str) -> None:
    """Run it in a process of its own, which must not die."""
    program = textwrap.dedent(START) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- Devices ------------------------------------------------------------------------------------


def test_the_default_device_does_not_matter() -> None:
    child("""
        frozen = freeze(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1)).eval())
        right = frozen(x)
        with torch.device("meta"):
            assert torch.equal(frozen(x), right)
            assert frozen.to("cpu") is frozen
        layer = frozen.layers["0"]
        apart = layer(x, x[:1])
        with torch.device("meta"):
            assert torch.equal(layer(x, x[:1]), apart)
    """)


def test_a_residual_of_another_kind_is_not_read_as_numbers() -> None:
    child("""
        class Sum(nn.Module):
            def __init__(self):
                super().__init__()
                self.c = nn.Conv2d(4, 4, 1)

            def forward(self, x, r):
                return self.c(x) + r

        model = Sum().eval()
        frozen = freeze(model)
        frozen(x, x)
        try:
            frozen(x, x.to("meta"))
        except RuntimeError as error:
            assert "device" in str(error)
        else:
            raise AssertionError("nothing was said")
        with torch.no_grad():
            negative = torch._neg_view(x)
            layer = frozen.layers["c"]
            assert torch.allclose(layer(x, negative), model(x, -x), atol=1e-5)
            right = layer(x, x)
            parameter = nn.Parameter(x, requires_grad=False)
            assert torch.equal(layer(x, parameter), right)
    """)


def test_arrays_without_memory() -> None:
    child("""
        frozen = freeze(nn.Sequential(nn.Conv2d(4, 4, 3)).eval())
        frozen(x)
        assert frozen(x[:0]).shape == (0, 4, 4, 5)
        x.untyped_storage().resize_(0)
        try:
            frozen(x)
        except RuntimeError as error:
            assert "x has no memory" in str(error)
        else:
            raise AssertionError("nothing was said")
    """)
