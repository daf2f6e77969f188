"""ncnn on the CPU: a Net of one layer, in float32, packed layouts and Winograd allowed.

ncnn keeps channels in blocks of 4, 8 or 16 between its layers. Its user has a contiguous image and
gets one back, so both conversions are in the call, as in the calls of all others.
"""

from __future__ import annotations

from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from konv.bench.peers.peer import CONTIGUOUS, Array, Run, call_of, why_no_layer
from konv.geometry import Conv
from konv.geometry.terms import Terms
from konv.runtime.threads import get_num_threads

MAGIC = 7767517  # the first line of a file of ncnn's parameters
# Numbers of ncnn's parameters, for the width, the height, the depth.
KERNEL, DILATION, STRIDE = (1, 11, 21), (2, 12, 22), (3, 13, 23)
BEFORE, BEHIND = (4, 14, 24), (15, 16, 17)
OUTPUT_PADDING = (18, 19, 20)


class Ncnn:
    """Extractor.extract."""

    library, layout, compiles = "ncnn", CONTIGUOUS, True

    def why_not(self, conv: Conv) -> str | None:
        if conv.dtype != "float32":
            return f"is measured in float32 only, not in {conv.dtype}"
        if conv.n != 1:
            return "ncnn takes one image a call"
        if conv.mode != "zeros":
            return f"no layer of ncnn pads in mode {conv.mode} by itself"
        if any(side < 0 for pair in call_of(conv).padding for side in pair):
            return "ncnn pads by no negative amounts"
        return why_no_layer(conv)

    def prepare(self, conv: Conv, x: Array, weight: Array, bias: Array) -> Run:
        import ncnn

        net = ncnn.Net()
        _set(net.opt)
        with TemporaryDirectory() as folder:
            parameters, numbers = (Path(folder) / name for name in ("a.param", "a.bin"))
            parameters.write_text(_text(conv, weight.size), "utf-8")
            tag = np.zeros(1, np.uint32).tobytes()  # float32 follows
            data = _weight(conv, weight).tobytes()
            numbers.write_bytes(tag + data + bias.tobytes())
            if net.load_param(str(parameters)) or net.load_model(str(numbers)):
                raise RuntimeError("ncnn does not load this layer")
        return partial(_run, net, ncnn.Mat(x[0]), conv.out_shape, x)


def _run(net: Any, image: Any, shape: tuple[int, ...], _kept: Array) -> Array:
    """Compute; the image knows no more of its array than its address."""
    extractor = net.create_extractor()
    extractor.input("x", image)
    failed, y = extractor.extract("y")
    if failed:
        raise RuntimeError(f"ncnn fails with {failed}")
    return np.asarray(y).reshape(shape)


def _set(options: Any) -> None:
    """Choose float32 and as many threads as konv; what is fast is on by default, and said here.

    The pools of memory are not: without them 32@112 depthwise takes 0.46 ms, with them 0.36.
    """
    options.num_threads = get_num_threads()
    options.blob_allocator, options.workspace_allocator = _pools()
    for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
        setattr(options, f"use_{name}", False)
    options.use_packing_layout = True
    options.use_winograd_convolution = True
    options.use_sgemm_convolution = True


@cache
def _pools() -> tuple[Any, Any]:
    """Return the pools of all nets: answers return their memory to them, and may outlive a net."""
    import ncnn

    return ncnn.PoolAllocator(), ncnn.PoolAllocator()


def _text(conv: Conv, weights: int) -> str:
    """Return the net in ncnn's own words: an input, the layer."""
    kind = "Deconvolution" if conv.transposed else "Convolution"
    name = kind + "DepthWise" * (conv.groups > 1) + {1: "1D", 2: "", 3: "3D"}[conv.dims]
    terms = [Terms.of(axis, conv.transposed) for axis in conv.axes][::-1]  # the width first
    found = {0: conv.co, 5: 1, 6: weights}
    if conv.groups > 1:
        found[7] = conv.groups
    for at, term in enumerate(terms):
        found[KERNEL[at]], found[DILATION[at]] = term.kernel, term.dilation
        found[STRIDE[at]] = term.stride
        found[BEFORE[at]], found[BEHIND[at]] = term.lo, term.hi
        if conv.transposed:
            found[OUTPUT_PADDING[at]] = term.output_padding
    said = " ".join(f"{number}={value}" for number, value in sorted(found.items()))
    return f"{MAGIC}\n2 2\nInput x 0 1 x\n{name} y 1 1 x y {said}\n"


def _weight(conv: Conv, weight: Array) -> Array:
    """Return the weight as ncnn stores it: of each group the outputs first."""
    if not conv.transposed:
        return weight
    groups, (ci, co, *kernel) = conv.groups, weight.shape
    return weight.reshape(groups, ci // groups, co, *kernel).swapaxes(1, 2)


def peers() -> tuple[Ncnn, ...]:
    """Return the one layout it has, nothing where it is not installed."""
    return (Ncnn(),) if find_spec("ncnn") else ()
