"""ONNX Runtime on the CPU (MLAS): a session of one layer, input and output bound to it.

Contiguous only: ONNX has no other layout. Measured on two cores, in ms:

                             64@56 3x3    1x1 1024->256@14    dw 32@112
    bound arrays               0.749            0.372           0.240
    session.run                0.798            0.383           0.229
    no spinning                1.472            0.711           0.411
    spinning until it ends     0.864            0.687           0.397

Its threads wait for work by spinning, and go on for 35 ms after a call. Both ways to stop that cost
it up to half of its speed, so it stays, and others wait until it ends (timing.settle).
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np

from konv.bench.peers.model import INPUT, OUTPUT, model_of, readable, why_no_model
from konv.bench.peers.peer import CONTIGUOUS, Array, Run
from konv.geometry import Conv
from konv.runtime.threads import get_num_threads


class OnnxRuntime:
    """InferenceSession.run_with_iobinding."""

    library, layout, compiles = "onnxruntime", CONTIGUOUS, True

    def why_not(self, conv: Conv) -> str | None:
        return why_no_model(conv)

    def prepare(self, conv: Conv, x: Array, weight: Array, bias: Array) -> Run:
        try:
            return _bound(conv, x, weight, bias)
        except _errors() as error:
            raise RuntimeError(str(error)) from error


def _bound(conv: Conv, x: Array, weight: Array, bias: Array) -> Run:
    """Return a call that reads x and writes the array it returns; it has run once."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = get_num_threads()  # the calling thread is one of them
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(
        model_of(conv, weight, bias), options, providers=["CPUExecutionProvider"]
    )
    y = np.empty(conv.out_shape, conv.dtype)
    binding = session.io_binding()
    for bind, name, a in ((binding.bind_input, INPUT, x), (binding.bind_output, OUTPUT, y)):
        bind(name, "cpu", 0, a.dtype, a.shape, a.ctypes.data)
    session.run_with_iobinding(binding)
    return partial(_run, session, binding, y, x)


def _run(session: Any, binding: Any, y: Array, _kept: Array) -> Array:
    """Compute; the binding knows no more of its arrays than their addresses."""
    session.run_with_iobinding(binding)
    return y


@cache
def _errors() -> tuple[type[Exception], ...]:
    """Return what ONNX Runtime raises: exceptions of its own that descend from no other."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found: list[Any] = [each for each in vars(state).values() if isinstance(each, type)]
    return tuple(each for each in found if issubclass(each, Exception))


def peers() -> tuple[OnnxRuntime, ...]:
    """Return the one layout it has, nothing where it or onnx is not installed."""
    return (OnnxRuntime(),) if readable("onnxruntime") else ()
