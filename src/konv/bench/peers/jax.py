"""JAX on the CPU (XLA): lax.conv_general_dilated, compiled by jit, in both layouts.

XLA takes a convolution as this project's geometry writes it: input dilation is `up`, padding may be
unequal or negative, a transposed layer is one with its taps reversed. Weight and bias are constants
of what is compiled, which XLA may then arrange once and for all: 512->256@8 transposed, contiguous,
takes 2.0 ms so and 3.9 with weights that are arguments.
"""

from __future__ import annotations

import os
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from konv.bench.peers.peer import CONTIGUOUS, LAST, LAYOUTS, Array, ChannelsLast, Run
from konv.geometry import Conv
from konv.rounding import MODES
from konv.runtime.threads import get_num_threads

THREADS = "PJRT_NPROC"  # read by XLA when it starts, and never again
SPATIAL = {1: "W", 2: "HW", 3: "DHW"}

_started: list[int] = []  # with how many threads, once it has


class Jax:
    """jax.jit of lax.conv_general_dilated, waited for."""

    library, compiles = "jax", True

    def __init__(self, layout: str) -> None:
        self.layout = layout

    def why_not(self, conv: Conv) -> str | None:
        if conv.dtype != "float32":
            return f"is measured in float32 only, not in {conv.dtype}"
        if _started and _started[0] != get_num_threads():
            return f"JAX has started with {_started[0]} threads, which it keeps"
        return None

    def prepare(self, conv: Conv, x: Array, weight: Array, bias: Array) -> Run:
        jax = _start()
        weight = _canonical(conv, weight)
        shape = [1, -1, *(1,) * conv.dims]
        if self.layout == LAST:
            x, shape = np.moveaxis(x, 1, -1), [-1]
            weight = np.moveaxis(weight, (0, 1), (-1, -2))
        constants = {"weight": weight, "bias": bias.reshape(shape)}
        layer = jax.jit(partial(_layer, conv, self.layout, **constants))
        image = jax.device_put(x)

        def run() -> Any:
            y = layer(image).block_until_ready()
            return y if self.layout == CONTIGUOUS else ChannelsLast(y)

        return run


def _start() -> Any:
    """Return jax, started with our number of threads; RuntimeError if it has another already."""
    if not _started:
        os.environ[THREADS] = str(get_num_threads())
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        _started.append(get_num_threads())
    import jax

    return jax


def _layer(conv: Conv, layout: str, x: Any, weight: Any, bias: Any) -> Any:
    """Return the convolution of arrays that lie so."""
    from jax import lax, numpy

    spatial = SPATIAL[conv.dims]
    names = f"NC{spatial}", f"OI{spatial}", f"NC{spatial}"
    if layout == LAST:
        names = f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"
    padding = [(axis.lo, axis.hi) for axis in conv.axes]
    if conv.mode != "zeros":
        sides = [(0, 0), *padding, (0, 0)] if layout == LAST else [(0, 0), (0, 0), *padding]
        x, padding = numpy.pad(x, sides, MODES[conv.mode]), [(0, 0)] * conv.dims
    return bias + lax.conv_general_dilated(
        x,
        weight,
        [axis.stride for axis in conv.axes],
        padding,
        [axis.up for axis in conv.axes],
        [axis.dilation for axis in conv.axes],
        names,
        conv.groups,
    )


def _canonical(conv: Conv, weight: Array) -> Array:
    """Return the weight (co, ci / groups, *kernel) of a layer, whose taps are not reversed."""
    if not conv.transposed:
        return weight
    groups, (ci, co, *kernel) = conv.groups, weight.shape
    split = weight.reshape(groups, ci // groups, co, *kernel).swapaxes(1, 2)
    ordinary = split.reshape(groups * co, ci // groups, *kernel)
    return np.flip(ordinary, tuple(range(2, 2 + conv.dims)))


def peers() -> tuple[Jax, ...]:
    """Return both layouts, none where it is not installed."""
    return tuple(Jax(layout) for layout in LAYOUTS) if find_spec("jax") else ()
