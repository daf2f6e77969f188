"""ONNX files of konv's layers hold ONNX's own operators, and run where there is no konv."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import konv
import konv.nn

SIZES = {1: (9,), 2: (9, 8), 3: (6, 5, 7)}
MODES = "zeros", "reflect", "replicate", "circular"
# Both exporters warn of what they are to become.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def image(dims: int) -> Any:
    return torch.randn(2, 4, *SIZES[dims], generator=torch.Generator().manual_seed(0))


def layer(name: str, **options: Any) -> Any:
    torch.manual_seed(1)
    return getattr(konv.nn, name)(4, 6, 3, stride=2, **options)


def convolutions(model: nn.Module) -> int:
    return sum(hasattr(part, "padding_mode") for part in model.modules())


def exported(model: nn.Module, x: Any, path: Path, dynamo: bool = True, **more: Any) -> Path:
    """The model as a file of ONNX's own operators."""
    torch.onnx.export(model.eval(), (x,), str(path), dynamo=dynamo, **more)
    graph = onnx.load(str(path)).graph
    assert {node.domain for node in graph.node} <= {"", "ai.onnx"}
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("Conv") + kinds.count("ConvTranspose") >= convolutions(model)
    return path


def run(path: Path, x: Any) -> list[Any]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return [torch.from_numpy(each) for each in found]


class Several(nn.Module):
    """The results of layers side by side: an export takes 1.2 s, one of four layers 2.1."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Any) -> Any:
        return tuple(layer(x) for layer in self.layers)


def check(layers: Iterable[nn.Module], x: Any, path: Path, dynamo: bool = True) -> None:
    model = Several(layers)
    with torch.no_grad():
        right = model(x)
    found = run(exported(model, x, path, dynamo), x)
    for which, ours, want in zip(model.layers, found, right, strict=True):
        torch.testing.assert_close(
            ours, want, rtol=1e-4, atol=1e-4, msg=partial("{}\n{}".format, which)
        )


LAYERS = [
    pytest.param(name, marks=[pytest.mark.slow] * ("2d" not in name))
    for name in (f"Conv{kind}{dims}d" for kind in ("", "Transpose") for dims in SIZES)
]


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_and_padding_mode(name: str, tmp_path: Path) -> None:
    """The exporter that goes by torch.export."""
    options = {"output_padding": 1} if "Transpose" in name else {}
    made = [layer(name, padding=1, groups=2, padding_mode=mode, **options) for mode in MODES]
    check(made, image(int(name[-2])), tmp_path / "m.onnx")


PADDINGS = [
    ("Conv2d", "same"), ("Conv2d", "causal"), ("Conv2d", ((0, 2), (1, 0))),
    ("ConvTranspose2d", ((0, 2), (1, 0))),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_paddings_beyond_pytorchs(mode: str, tmp_path: Path) -> None:
    made = [layer(name, padding=padding, padding_mode=mode) for name, padding in PADDINGS]
    check(made, image(2), tmp_path / "m.onnx")


@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_the_older_exporter(name: str, tmp_path: Path) -> None:
    """The one that goes by torch.jit.trace."""
    check([layer(name, padding=1)], image(2), tmp_path / "m.onnx", dynamo=False)


@pytest.mark.slow
def test_a_network_of_any_size_runs_without_konv(tmp_path: Path) -> None:
    """An accelerated model, with symbols for its sizes; a process that can import neither konv nor
    PyTorch gives its results.
    """
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8), nn.ConvTranspose2d(8, 3, 4, 2, 1),
    ).eval()  # fmt: skip
    konv.accelerate(model)
    sizes = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    path = exported(model, image(2), tmp_path / "m.onnx", dynamic_shapes=(sizes,))
    x = torch.randn(3, 4, 12, 15)
    np.save(tmp_path / "x.npy", x.numpy())
    code = f"""
import sys, numpy, onnxruntime
sys.modules["konv"] = sys.modules["torch"] = None
session = onnxruntime.InferenceSession({str(path)!r}, providers=["CPUExecutionProvider"])
x = numpy.load({str(tmp_path / "x.npy")!r})
numpy.save({str(tmp_path / "y.npy")!r}, session.run(None, {{session.get_inputs()[0].name: x}})[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        right = model(x)
    found = torch.from_numpy(np.load(tmp_path / "y.npy"))
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)
