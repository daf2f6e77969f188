"""The competitors of inference: each a call that returns the network's output for one image."""

from __future__ import annotations

import os
from collections.abc import Callable
from copy import deepcopy
from importlib.util import find_spec
from shutil import which
from typing import Any

import torch
from torch import Tensor, nn

from konv.runtime.threads import get_num_threads

Run = Callable[[], Any]
PEERS = ("compiled", "onnxruntime", "openvino")
WRONG = 1e-3  # of the largest output: float32 sums in other orders, Winograd's among them


def runs(network: Any, wanted: tuple[str, ...]) -> tuple[dict[str, Run], dict[str, str], Any]:
    """The calls by name, why others are left out, and konv's frozen network."""
    import konv

    torch.manual_seed(0)
    model = lively(network.build()).eval()
    x = torch.randn(1, *network.shape)
    last = deepcopy(model).to(memory_format=torch.channels_last)
    x_last = x.to(memory_format=torch.channels_last)
    frozen = konv.accelerate(model, x, freeze=True)
    found: dict[str, Run] = {
        "torch contiguous": _quietly(model, x),
        "torch channels-last": _quietly(last, x_last),
        "konv": _quietly(frozen, x),
    }
    makers = {"compiled": _compiled, "onnxruntime": _onnxruntime, "openvino": _openvino}
    wrong: dict[str, str] = {}
    for name in wanted:
        if name not in makers:
            continue
        try:
            found |= {name: makers[name](last, x_last)}
        except (ImportError, RuntimeError, OSError) as error:
            wrong[name] = str(error).splitlines()[0]
    right = found["torch contiguous"]()
    for name, run in list(found.items()):
        off = float((torch.as_tensor(run()) - right).abs().max() / right.abs().max())
        if not off <= WRONG:
            wrong[name] = f"off by {off:.1e} of the largest output"
            del found[name]
    return found, wrong, frozen


def lively(model: nn.Module) -> nn.Module:
    """The model with batch-norm statistics as after training, so that folding them shows."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return model


def _quietly(model: Any, x: Tensor) -> Run:
    def run() -> Any:
        with torch.no_grad():
            return model(x)

    return run


def _compiled(model: nn.Module, x: Tensor) -> Run:
    if not any(map(which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise OSError("no C++ compiler, which torch.compile needs")
    import torch._inductor.config as settings

    run = _quietly(torch.compile(model, dynamic=False), x)
    with settings.patch(freezing=True):
        run()
    return run


def _openvino(model: nn.Module, x: Tensor) -> Run:
    import openvino

    x = x.contiguous()
    made = openvino.convert_model(
        deepcopy(model).to(memory_format=torch.contiguous_format),
        example_input=x,
        input=[tuple(x.shape)],
    )
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = openvino.Core().compile_model(made, "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(x.numpy(), shared_memory=True))

    def run() -> Any:
        request.infer()
        return request.get_output_tensor(0).data

    return run


def _onnxruntime(model: nn.Module, x: Tensor) -> Run:
    import io

    import onnxruntime

    if not find_spec("onnx"):
        raise ImportError("onnx is not installed")
    x, file = x.contiguous(), io.BytesIO()
    plain = deepcopy(model).to(memory_format=torch.contiguous_format)
    torch.onnx.export(plain, (x,), file, dynamo=False, input_names=["x"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = get_num_threads()
    session = onnxruntime.InferenceSession(
        file.getvalue(), options, providers=["CPUExecutionProvider"]
    )
    feed = {"x": x.numpy()}
    return lambda: session.run(None, feed)[0]
